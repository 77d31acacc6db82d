"""The tables of a run: as text for the terminal, and as Markdown between the markers of benchmarks/README.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from benchmarks.cpu import AS_IS, ASSISTED, ASSISTED_FIXED, BARE, FIXED, GENERATE, MEMORY, OURS, PUBLISHED
from ssd_lib.experiments.report import markdown, put_measured

PAGE = Path(__file__).parent / "README.md"
PEERS = (OURS, FIXED, AS_IS, GENERATE, ASSISTED, ASSISTED_FIXED, PUBLISHED, BARE, MEMORY)
WORKLOAD = ["pair", "match_ratio", "new_tokens"]
ABOUT = ("device", "threads", "clock", "torch", "transformers", "python", "load_1min", "date")


def tables_of(frames: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Every table by its title, from the frames of a run (`run.PARTS`)."""
    rates, ratios = speed(frames["speed"])
    context, batch = scaling(frames["scaling"])
    return {
        "Tokens a second (medians)": rates,
        "ssd_lib against each peer": ratios,
        "Milliseconds a token over the context": context,
        "Tokens a second of a batch, prompts included": batch,
        "Parts of a round, one row": parts(frames["parts"]),
        "The embedded pair in batches": batches(frames["batches"]),
        "Lookup, tokens a second": lookup(frames["lookup"]),
        "Hardened SSD beside published SSD": hardened(frames["hardened"]),
        "Short products: how many times as fast as nn.Linear": shortest(frames["products"]),
    }


def spoken(column: str) -> str:
    """A column's name in words."""
    return column.replace("_", " ")


def speed(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tokens a second of every peer, and ours against each."""
    wide = frame.pivot_table(index=WORKLOAD, columns="peer", values="tokens_per_second", observed=True)
    wide = wide.loc[:, [name for name in PEERS if name in wide]]
    ratios = {f"× {name}": wide[OURS] / wide[name] for name in wide if name not in (OURS, FIXED, BARE, MEMORY)}
    shares = frame[frame["peer"] == OURS].set_index(WORKLOAD)["share_of_memory_limit"]
    ratios |= {"share of bare forwards": wide[OURS] / wide[BARE], "share of the memory's limit": shares}
    return tidy(wide, 1), tidy(pd.DataFrame(ratios), 2)


def scaling(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Over the context, a column each length; over the batch, a column each size."""
    context = frame.dropna(subset=["ours_ms"]).set_index("context")
    values = pd.DataFrame({"ssd_lib": context.ours_ms, "of these attention products": context.attention_ms})
    values["the rest"] = values.iloc[:, 0] - values.iloc[:, 1]
    values[f"the rest, times {context.index[0]}"] = values["the rest"] / values["the rest"].iloc[0]
    values["target.generate"] = context.generate_ms
    batch = frame.dropna(subset=["tokens_per_second"]).set_index("rows")[["tokens_per_second"]]
    batch["times one row"] = batch.tokens_per_second / batch.tokens_per_second.iloc[0]
    return tidy(values.T.rename_axis(index="milliseconds", columns="context"), 2), tidy(
        batch.T.rename_axis(index="", columns="rows"), 2
    )


def parts(frame: pd.DataFrame) -> pd.DataFrame:
    """Milliseconds and share of each part by vocabulary."""
    wide = frame.pivot_table(index="part", columns="vocabulary", values=["ms_per_round", "share"], sort=False)
    wide.columns = [f"{value.replace('_', ' ')}, {vocabulary:,}" for value, vocabulary in wide.columns]
    ours = ~wide.index.str.endswith("forwards")
    wide.loc["outside the forwards"] = wide[ours].sum()
    return tidy(wide, 3)


def batches(frame: pd.DataFrame) -> pd.DataFrame:
    """Cost a token beside the target's own, and the share of a round outside the forwards."""
    columns = ["tokens", "rounds", "ms_per_token", "spread", "times_generate", "overhead"]
    return tidy(frame.set_index(["group", "rows", "peer"]).loc[:, columns].rename(spoken, axis="columns"), 3)


def lookup(frame: pd.DataFrame) -> pd.DataFrame:
    """With guesses from the text so far, and without."""
    return tidy(frame.pivot_table(index="pair", columns="peer", values="tokens_per_second"), 1)


def hardened(frame: pd.DataFrame) -> pd.DataFrame:
    """Time of an answer and until its first token is seen; tokens decoded and target forwards."""
    columns = [
        "tokens_per_second",
        "times_published",
        "first_ms",
        "first_times_published",
        "decoded",
        "target_forwards",
    ]
    return tidy(frame.set_index(["pair", "match_ratio", "peer"]).loc[:, columns].rename(spoken, axis="columns"), 2)


def shortest(frame: pd.DataFrame) -> pd.DataFrame:
    """The best way for each shape and number of tokens."""
    frame = frame.assign(best=frame["times_as_fast"].map("{:.2f} ".format) + frame["best"])
    return tidy(frame.pivot(index=["pair", "out", "in"], columns="tokens", values="best"), 2)


def tidy(frame: pd.DataFrame, digits: int) -> pd.DataFrame:
    """Index as columns, numbers rounded, nothing where nothing was measured."""
    frame = frame.reset_index().rename_axis(columns=None)
    return frame.map(lambda value: _cell(value, digits))


def _cell(value: object, digits: int) -> str:
    if not isinstance(value, float):
        return str(value)
    return "" if pd.isna(value) else f"{value:.{digits}f}".removesuffix(".000")


def about(frames: Mapping[str, pd.DataFrame]) -> str:
    """On what each table was measured, in one line if on the same."""
    lines: dict[str, list[str]] = {}
    for name, frame in frames.items():
        with_what = ", ".join(f"{key} {frame.iloc[0][key]}" for key in ABOUT if key != "load_1min")
        lines.setdefault(with_what, []).append(f"{name} (load {frame.iloc[0]['load_1min']})")
    return "\n".join(f"{with_what}: {', '.join(names)}." for with_what, names in lines.items())


def text(frames: Mapping[str, pd.DataFrame]) -> str:
    """What `make bench` prints."""
    blocks = (f"{title}\n{table.to_string(index=False)}" for title, table in tables_of(frames).items())
    return "\n\n".join([about(frames), *blocks])


def write_page(frames: Mapping[str, pd.DataFrame], page: Path = PAGE) -> None:
    """The tables, between the markers of the page. Raises ValueError where it has none."""
    blocks = [f"**{title}**\n\n{markdown(table)}" for title, table in tables_of(frames).items()]
    put_measured(page, "make bench", "\n\n".join([about(frames).replace("\n", "\n\n"), *blocks]))
