"""A pair as one model folder, read: the target that transformers loads, and what lies beside it.

    config.json                  model_type "ssd"; the target's own configuration under "target", with the settings under "ssd"
    model.safetensors, …         the target's weights, its tokenizer, the pair's chat template
    draft/                       the draft, a model folder of its own
    custom_generate/generate.py  the method: what `generate` of the loaded target becomes
    configuration_ssd.py         names `TargetConfig`

transformers knows no model_type "ssd", so that without `trust_remote_code=True` it refuses the folder. With the target's own
type it would load the target and answer without SSD, and nobody would notice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from ssd_lib.config import SSDConfig
from ssd_lib.models.inference import device_of

MODEL_TYPE, TARGET, SETTINGS, DRAFT = "ssd", "target", "ssd", "draft"
_DRAFTS: WeakKeyDictionary[PreTrainedModel, PreTrainedModel] = WeakKeyDictionary()


class TargetConfig(PreTrainedConfig):
    """What `configuration_ssd.py` names: loads an exported folder's configuration as the target's own."""

    model_type = MODEL_TYPE

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """The configuration of the target, of the target's own class; `ssd` holds the settings."""
        folder, kwargs = PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **kwargs)
        target = folder[TARGET] | {"_commit_hash": folder.get("_commit_hash")}
        return CONFIG_MAPPING[target["model_type"]].from_dict(target, **kwargs)


@dataclass(frozen=True)
class Exported:
    """What an exported folder says besides the target."""

    config: SSDConfig
    vocab_size: int
    """Token ids that both models share."""
    answer_follows: list[int]
    """The last tokens of every prompt: what comes after them is the answer's."""

    def prefilled(self, prompt: Sequence[int]) -> int:
        """How many of a prompt's last tokens are a given beginning of the answer; 0 where no chat prompt is to be seen."""
        ids, mark = list(prompt), self.answer_follows
        ends = range(len(ids), len(mark) - 1, -1)
        return next((len(ids) - end for end in ends if mark and ids[end - len(mark) : end] == mark), 0)


def exported(model: PreTrainedModel) -> Exported | None:
    """What the folder of a loaded model says; None for a model that is no exported target.

    Raises ValueError for settings that are none.
    """
    said = getattr(model.config, SETTINGS, None)
    if said is None:
        return None
    try:
        return Exported(SSDConfig(**said["config"]), said["vocab_size"], said["answer_follows"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the key {SETTINGS!r} in the config.json of {model.name_or_path} is not as `ssd export` writes it: {error}"
        ) from error


def draft_of(model: PreTrainedModel) -> PreTrainedModel:
    """The draft beside an exported target, loaded at first use, where the target is. Raises OSError where there is none."""
    if model not in _DRAFTS:
        spread: Any = getattr(model, "hf_device_map", {})
        placed: dict[str, Any] = {"device_map": "auto"} if len(spread) > 1 else {}
        options: dict[str, Any] = dict(subfolder=DRAFT, revision=getattr(model.config, "_commit_hash", None))
        try:
            draft = AutoModelForCausalLM.from_pretrained(
                model.name_or_path, dtype=model.dtype, use_safetensors=True, **options, **placed
            )
        except (OSError, ValueError) as error:
            raise OSError(
                f"no draft in the subfolder {DRAFT!r} of {model.name_or_path}: pass draft=, or export the pair again ({error})"
            ) from error
        _DRAFTS[model] = draft.eval() if placed else draft.eval().to(device_of(model))
    return _DRAFTS[model]
