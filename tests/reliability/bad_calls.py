"""Bad arguments for every public function of the library's rooms, as their `__all__` names them."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pandas as pd
import torch
from hypothesis import strategies as st

from ssd_lib.attacks import load_set
from ssd_lib.config import SSDConfig
from ssd_lib.experiments import config_from
from ssd_lib.judges import judge
from ssd_lib.models.pairs import load_pair
from tests.conftest import micro_llama, perturbed
from tests.reliability.bad_commands import SHARDS, Accepted
from tests.reliability.bad_values import objects

ROOMS = ("ssd_lib", "ssd_lib.decoding", "ssd_lib.defenders", "ssd_lib.attacks", "ssd_lib.judges", "ssd_lib.experiments")
ANSWERER = "ssd_lib.tools.answerer"
RECORDS = {
    *(
        "SSDOutput",
        "SSDStats",
        "Pair",
        "Trace",
        "Answer",
        "Cost",
        "Defender",
        "Request",
        "AttackSet",
        "HubData",
        "Record",
    ),
    *("Agreement", "Judge", "Merged", "Plan"),
}
"""What holds what the library itself puts there, unchecked."""
ALLOWED = (ValueError, TypeError, OSError, ImportError, FloatingPointError)
INTERNAL = re.compile(
    r"object is not|has no attribute|unsupported operand|not supported between|unhashable|indices must be|"
    r"object cannot be interpreted|argument must be|is not iterable|not a container|takes \d+ positional|"
    r"got an unexpected keyword|bad operand|can only concatenate|must be str, not"
)
"""What Python or torch says of itself when nobody looked at an argument."""


@cache
def models() -> tuple[Any, Any]:
    """A micro-pair."""
    target = micro_llama(3)
    return target, perturbed(target, 3, 0.3)


def fine(result: Any) -> None:
    """Nothing more is asked of a result."""


def ids_fit(result: Any) -> None:
    """At most two tokens an answer, all of them ids of the micro-pair."""
    assert all(len(row) <= 2 and all(0 <= token < 24 for token in row.tolist()) for row in result.sequences)


def answers_fit(result: Any) -> None:
    """Text, and at most two tokens an answer."""
    assert all(isinstance(each.text, str) and len(each.token_ids) <= 2 for each in result)


def as_many(result: Any) -> None:
    """One verdict for the one answer."""
    assert len(result) <= 1


Case = tuple[Callable[[], dict[str, Any]], Callable[[Any], None]]


def good() -> dict[str, Case]:
    """Of every public function: the arguments of a call that works, and what is asked of any result.

    Only what is named here is replaced by bad values, so that an argument that a function has and that is missing here is found:
    `uncovered`.
    """
    target, draft = models()
    toy, run = cache(lambda: load_pair("toy")), "done"
    records = cache(lambda: load_set("direct", limit=1))
    table = {"attacks": ["direct"], "defenders": ["none"], "limit": 1, "max_new_tokens": 2, "out": "new"}
    frame = pd.DataFrame({"item": ["a", "a"], "judge": ["x", "y"], "label": ["harmful", "harmless"]})
    decoding = dict(target=target, draft=draft, input_ids=[[3, 4]], attention_mask=None, draft_input_ids=None, draft_attention_mask=None, config=SSDConfig(), max_new_tokens=2, rows=None, prefilled=0, vocab_size=None, eos_token_id=[], stopping_criteria=None, trace=False)  # fmt: skip
    asked = dict(
        pair="toy", questions="Hello", defender="none", prefill="", config=None, settings=None, max_new_tokens=2
    )
    loading = dict(device=None, dtype=None, quantization=None)
    pair = dict(name="toy", target=None, draft=None, target_format=None, draft_format=None)
    a_set = dict(name="direct", limit=1, path=None, target_model=None, seed=0, prefill=None, question=None, target=None, wording=None)  # fmt: skip
    return {
        "ssd_generate": (lambda: dict(decoding), ids_fit),
        "Conversation": (
            lambda: dict(target=target, draft=draft, config=SSDConfig(), context=32, vocab_size=None),
            fine,
        ),
        "SSDConfig": (lambda: dict(vars(SSDConfig())), fine),
        "answer": (lambda: asked | {"pair": toy()}, answers_fit),
        "find_defender": (lambda: dict(name="ssd"), fine),
        "settings_for": (lambda: dict(pair=toy(), defender="ssd", changed=None), fine),
        "load_pair": (lambda: pair | loading, fine),
        "load_model": (lambda: dict(name="toy/draft") | loading, fine),
        "find_set": (lambda: dict(name="direct"), fine),
        "load_set": (lambda: dict(a_set), fine),
        "describe": (dict, fine),
        "world_item": (lambda: dict(record=records()[0]), fine),
        "judge": (lambda: dict(name="refusal", records=records(), answers=["I cannot."]), as_many),
        "says_harmful": (lambda: dict(label="harmful"), fine),
        "to_frame": (lambda: dict(records=records(), verdicts=judge("refusal", records(), [""])), fine),
        "agreement": (lambda: dict(frame=frame), fine),
        "Verdict": (lambda: dict(judge="x", version="1", label="harmful", score=None), fine),
        "unload": (dict, fine),
        "Choice": (lambda: dict(name="ssd", settings=()), fine),
        "PairSettings": (lambda: dict(pair), fine),
        "ExperimentConfig": (lambda: dict(vars(config_from(table))), fine),
        "config_from": (lambda: dict(table=table), fine),
        "read_config": (lambda: dict(path="good.toml"), fine),
        "experiment": (lambda: dict(preset="card", config=None, ssd=None, expert=None, data=None, limit=1), fine),
        "plan": (lambda: dict(config=config_from(table)), fine),
        "judge_run": (
            lambda: dict(path=run, judges=["refusal"], again=False, again_unjudged=False, progress=False),
            fine,
        ),
        "load_run": (lambda: dict(path=run), fine),
        "load_verdicts": (lambda: dict(path=run), fine),
        "load_sessions": (lambda: dict(path=run), fine),
        "run_experiment": (
            lambda: dict(
                config=config_from(table),
                progress=False,
                retry_errors=False,
                workers=1,
                gpus_per_worker=None,
                shard=None,
            ),
            fine,
        ),
        "Shard": (lambda: dict(number=1, of=2), fine),
        "merge_runs": (lambda: dict(out="merged", shards=[SHARDS[0]], partial=False), fine),
        "published_commands": (dict, fine),
        "published_matrix": (dict, fine),
        "sampled": (lambda: dict(temperature=0.5, top_p=0.5, top_k=3, seed=0), fine),
    }


ELSEWHERE = {"ssd_custom_generate": "reliability.oracle: inside `generate`, which prepares its arguments"}


def public() -> dict[str, Any]:
    """Every public function and class by name."""
    found = {}
    for room in ROOMS:
        module = importlib.import_module(room)
        found |= {name: getattr(module, name) for name in module.__all__}
    module = importlib.import_module(ANSWERER)
    found["sampled"] = module.sampled
    found = {name: inspect.unwrap(each) if callable(each) else each for name, each in found.items()}
    return {name: each for name, each in found.items() if inspect.isfunction(each) or inspect.isclass(each)}


def uncovered() -> list[str]:
    """Public functions that no call is known of."""
    return sorted(set(public()) - set(good()) - RECORDS - set(ELSEWHERE))


def calls() -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    """A public function and one or two bad arguments."""
    arguments = {name: sorted(make()) for name, (make, _) in good().items()}

    def changed(name: str) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
        bad = st.dictionaries(st.sampled_from(arguments[name]), objects(), min_size=1, max_size=2)
        return bad.map(lambda given: (name, given))

    return st.sampled_from([name for name, given in arguments.items() if given]).flatmap(changed)


def try_call(name: str, bad: dict[str, Any]) -> str | None:
    """What is wrong with how a call ended, or None."""
    make, check = good()[name]
    shown = f"{name}({', '.join(f'{key}={str(type(value)) if isinstance(value, torch.Tensor) else repr(value)[:60]}' for key, value in bad.items())})"
    try:
        check(public()[name](**(make() | bad)))
    except Accepted:
        return None
    except ALLOWED as error:
        said = str(error)
        if type(error) is TypeError and INTERNAL.search(said):
            return f"{shown}: TypeError of Python's own: {said[:150]}"
        return None if len(said) > 9 else f"{shown}: {type(error).__name__} says only {said!r}"
    except Exception as error:
        return f"{shown}: {type(error).__name__}: {str(error)[:150]}"
    return None
