"""Settings refuse what is of the wrong type or out of range, naming class and field."""

from dataclasses import asdict, fields, replace
from typing import Any

import pytest

from ssd_lib.attacks.gcg import GCGConfig
from ssd_lib.defenders.checking import BackTranslationSettings, ExamSettings, PerplexitySettings, SmoothSettings
from ssd_lib.defenders.prompts import (
    DemonstrationSettings,
    ParaphraseSettings,
    ReminderSettings,
    RetokenizationSettings,
)
from ssd_lib.defenders.safedecoding import SafeDecodingSettings
from ssd_lib.experiments import PairSettings
from ssd_lib.judges.guards import HarmBenchSettings, LlamaGuardSettings, Qwen3GuardSettings
from ssd_lib.judges.local import RubricSettings, StrongRejectSettings
from ssd_lib.judges.remote import QwenSettings, RemoteSettings
from ssd_lib.judges.rules import RefusalSettings
from ssd_lib.models.training import RecoveryConfig, Stage

ALL = [
    BackTranslationSettings,
    DemonstrationSettings,
    ExamSettings,
    GCGConfig,
    HarmBenchSettings,
    LlamaGuardSettings,
    PairSettings,
    ParaphraseSettings,
    PerplexitySettings,
    Qwen3GuardSettings,
    QwenSettings,
    RecoveryConfig,
    RefusalSettings,
    ReminderSettings,
    RemoteSettings,
    RetokenizationSettings,
    RubricSettings,
    SafeDecodingSettings,
    SmoothSettings,
    StrongRejectSettings,
]
WRONG = {bool: ["no", 2], int: [2.5, "2", True], float: ["0.8", True, float("nan")], str: [3, b"x"], tuple: ["ab", 3]}


@pytest.mark.parametrize("kind", ALL)
def test_no_field_takes_a_value_of_another_type(kind):
    made, tried = kind(), 0
    for each in fields(made):
        value = getattr(made, each.name)
        for wrong in WRONG.get(type(value), [b"x", 2.5]):
            if kind in (RemoteSettings, QwenSettings) and each.name == "cache" and isinstance(wrong, str):
                continue  # True, False or a file's name
            with pytest.raises(ValueError, match=rf"{kind.__name__}\.{each.name}"):
                replace(made, **{each.name: wrong})
            tried += 1
    assert tried and kind(**{each.name: getattr(made, each.name) for each in fields(made)}) == made == replace(made)
    assert set(asdict(made)) == {each.name for each in fields(kind)}


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (SmoothSettings, "copies", 0),
        (SmoothSettings, "swapped", 1.5),
        (PerplexitySettings, "threshold", -1.0),
        (ExamSettings, "reply_tokens", 0),
        (SafeDecodingSettings, "first_m", 0),
        (SafeDecodingSettings, "alpha", float("inf")),
        (RetokenizationSettings, "dropout", -0.1),
        (GCGConfig, "candidates", 0),
        (RecoveryConfig, "direct_share", 2.0),
        (PairSettings, "dtype", "float8"),
        (RubricSettings, "threshold", 6),
        (RemoteSettings, "timeout", 0.0),
        (HarmBenchSettings, "max_answer_tokens", 0),
    ],
)
def test_values_out_of_range_are_refused(kind, name, value):
    with pytest.raises(ValueError, match=rf"^{kind.__name__}\.{name} must be .*, not {value!r}"):
        kind(**{name: value})


def test_a_whole_number_may_stand_for_a_real_one_and_unknown_fields_may_not():
    assert SmoothSettings(swapped=1).swapped == 1.0
    unknown: dict[str, Any] = {"copy": 3}
    with pytest.raises(ValueError, match="SmoothSettings.copy"):
        SmoothSettings(**unknown)
    with pytest.raises(ValueError, match="Stage.steps must be at least 1, not 0"):
        Stage("deep", 0, 1e-3)
