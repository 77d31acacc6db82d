"""Bad inputs at every door: public functions, the command line, the served endpoint. See `bad_calls`, `bad_commands` and
`bad_requests` for what is asked of each; what is refused must be refused in words, and nothing half-written may stay.

Values come from hypothesis, derived from the seed; a failure's line holds the call itself, so that it can be repeated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from tqdm import tqdm

from tests.reliability import bad_calls, bad_commands, bad_requests
from tests.reliability.missing import Missing
from tests.reliability.outcome import Outcome

TITLE = "Bad inputs to public functions, commands and the served endpoint"
FULL, SHORT = 1_200, 150
CHECKS: Any = [*HealthCheck]  # of hypothesis, about data that is slow to draw


def run(count: int, seed: int = 0, progress: bool = False) -> Outcome:
    """Try about `count` bad inputs: four of ten are calls, as many command lines, the others requests.

    The fixed command lines are part of it where at least that many are asked for; without the extra `serve` there are no
    requests, and the figures say so.
    """
    failures = [f"no good call is known of {name}" for name in bad_calls.uncovered()]
    failures += [f"no good command line is known of {name}" for name in bad_commands.uncovered()]
    tried: Counter[str] = Counter()
    with TemporaryDirectory() as folder, tqdm(total=count, unit="input", disable=not progress) as bar:

        def note(kind: str, failure: str | None) -> None:
            tried[kind] += 1
            bar.update()
            if failure is not None:
                failures.append(f"seed {seed}: {failure}")

        with bad_commands.workspace(Path(folder)):
            Path("good.toml").write_text('attacks = ["direct"]\ndefenders = ["none"]\nout = "new"\n', encoding="utf-8")
            try_fixed(note, count)
            each(bad_calls.calls(), 2 * count // 5, seed, lambda case: note("calls", bad_calls.try_call(*case)))
            lines = 2 * count // 5 - tried["command lines"]
            each(bad_commands.lines(), lines, seed, lambda line: note("command lines", bad_commands.try_line(line)))
        served = try_requests(note, count // 5, seed)
    facts: dict[str, float | int | str] = {**tried, "public functions and classes": len(bad_calls.public())}
    return Outcome(
        sum(tried.values()), failures, facts | {"command-line options": len(bad_commands.options())} | served
    )


def try_fixed(note: Callable[[str, str | None], None], count: int) -> None:
    """Command lines that must be refused, every one where there is time, and a conversation of bad lines."""
    fixed = bad_commands.fixed()
    for line in fixed[:: max(1, 5 * len(fixed) // (2 * count))]:
        note("command lines", bad_commands.try_line(line, refused=True))
    typed = "\n".join(bad_commands.TALK).encode("utf-8", "replace").decode()
    note("command lines", bad_commands.try_line(["chat", "--max-new-tokens", "2"], typed=typed))


def try_requests(note: Callable[[str, str | None], None], count: int, seed: int) -> dict[str, str]:
    """Requests to a server of their own."""
    with TemporaryDirectory() as folder:
        try:
            with bad_requests.serving(Path(folder)) as server:
                asked = bad_requests.requests(server.folder)
                each(asked, count, seed, lambda request: note("requests", bad_requests.try_request(server, *request)))
                note("requests", None if server.healthy() else "the server does not live on")
        except Missing as reason:
            return {"requests": f"none: {reason}"}
    return {}


def each(strategy: st.SearchStrategy[Any], count: int, seed: int, look: Callable[[Any], None]) -> None:
    """Look at `count` values of a strategy, the same for the same seed."""
    if count < 1:
        return
    looked: list[None] = []

    @seeded(seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        suppress_health_check=CHECKS,
        phases=[Phase.generate],
    )
    @given(strategy)
    def one(value: Any) -> None:
        if len(looked) < count:
            looked.append(None)
            look(value)

    one()
