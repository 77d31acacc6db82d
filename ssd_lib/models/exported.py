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

from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from ssd_lib.config import SSDConfig
from ssd_lib.models.inference import device_of
from ssd_lib.models.rereading import Rereader

MODEL_TYPE, TARGET, SETTINGS, DRAFT = "ssd", "target", "ssd", "draft"


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
    same_prompts: bool = True
    """Whether the draft reads the target's prompts, or must be asked with its own chat template (`rereading`)."""

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
        return Exported(**said | {"config": SSDConfig(**said["config"])})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the key {SETTINGS!r} in the config.json of {model.name_or_path} is not as `ssd export` writes it: {error}"
        ) from error


@dataclass(frozen=True)
class Beside:
    """What lies beside an exported target: the draft, and where it is asked differently, who reads prompts back."""

    draft: PreTrainedModel
    reread: Rereader | None


_BESIDE: WeakKeyDictionary[PreTrainedModel, Beside] = WeakKeyDictionary()


def beside(model: PreTrainedModel, folder: Exported) -> Beside:
    """What lies beside an exported target, loaded at first use, the draft to where the target is.

    Raises OSError where it cannot be had.
    """
    if model not in _BESIDE:
        where: dict[str, Any] = {"revision": getattr(model.config, "_commit_hash", None)}
        try:
            draft, reread = _draft(model, where), None
            if not folder.same_prompts:
                load = AutoTokenizer.from_pretrained
                reread = Rereader(load(model.name_or_path, **where), load(model.name_or_path, subfolder=DRAFT, **where))
        except (OSError, ValueError) as error:
            raise OSError(
                f"no draft in the subfolder {DRAFT!r} of {model.name_or_path}: pass draft=, or export the pair again ({error})"
            ) from error
        _BESIDE[model] = Beside(draft, reread)
    return _BESIDE[model]


def _draft(model: PreTrainedModel, where: dict[str, Any]) -> PreTrainedModel:
    spread: Any = getattr(model, "hf_device_map", {})
    placed: dict[str, Any] = {"device_map": "auto"} if len(spread) > 1 else {}
    draft: Any = AutoModelForCausalLM.from_pretrained(
        str(model.name_or_path), subfolder=DRAFT, dtype=model.dtype, use_safetensors=True, **where, **placed
    )
    return draft.eval() if placed else draft.eval().to(device_of(model))
