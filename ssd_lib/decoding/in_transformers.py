"""What `custom_generate/generate.py` calls: SSD in the place of a model's `generate`, and in an exported folder.

    target.generate(**inputs, custom_generate="integrations/custom_generate", trust_remote_code=True, draft=draft)
    pipeline("text-generation", model="exported", trust_remote_code=True)          # written by `ssd export`

The decoding is `ssd_custom_generate`. An exported target (`ssd_lib.models.exported`) brings its draft and its settings; what is
asked of it over the network is cut to the context that is left, and refused with a text that a server shows.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import NoneType
from typing import Any

from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteriaList, StopStringCriteria

from ssd_lib.config import SSDConfig
from ssd_lib.decoding.asked import ends_of
from ssd_lib.decoding.generate import ssd_custom_generate
from ssd_lib.decoding.inputs import prompt_lists
from ssd_lib.models.exported import Exported, beside, exported
from ssd_lib.models.inference import check_room, context_of
from ssd_lib.models.rereading import Rereader
from ssd_lib.settings import of_kind

REFUSED = {
    "assistant_model": "pass the draft as draft=",
    "assistant_tokenizer": "target and draft share one vocabulary",
    "negative_prompt_ids": "leave it out",
    "negative_prompt_attention_mask": "leave it out",
    "synced_gpus": "leave it out",
    "custom_generate": "the loaded folder decodes with SSD; load its target alone for another way",
}
"""Arguments of `generate` that would change nothing here, or something else than they say; and what to do."""


def generate(
    *args: Any,
    model: PreTrainedModel,
    draft: PreTrainedModel | None = None,
    ssd_config: SSDConfig | Mapping[str, Any] | None = None,
    streamer: Any = None,
    prefilled: int | Sequence[int] | None = None,
    **options: Any,
) -> Tensor:
    """`model.generate(*args, **options)`, decoded with SSD.

    Args:
        draft: the small, deeply aligned model; an exported target brings its own.
        ssd_config: settings of the method, or a table of those to change; default: the folder's, else the paper's.
        streamer: gets the prompt, then tokens as they are settled (one prompt only).
        prefilled: how many of a prompt's last tokens are a given beginning of the answer, one number or one each; for an
            exported target found in the prompt.

    Raises:
        ValueError, TypeError: for what SSD cannot honour, naming it; as `ssd_custom_generate` and `ssd_generate` do.
    """
    of_kind("generation_config", options.get("generation_config"), GenerationConfig, NoneType)
    folder = exported(model)
    near = beside(model, folder) if folder is not None and draft is None else None
    try:
        _refuse(options)
        _make_stop_strings(model, options)
        config = settings_from(ssd_config, greedy_unless_asked(folder) if folder else SSDConfig())
        decode: Any = ssd_custom_generate
        if folder is not None:
            decode = _in_context(folder, near.reread if near else None, prefilled)
            options.setdefault("vocab_size", folder.vocab_size)
        elif prefilled is not None:
            options["prefilled"] = prefilled
        given = dict(draft=near.draft if near else draft, ssd_config=config, ssd_streamer=streamer)
        plain: Any = type(model)  # its `generate`: the instance's own may be this function
        return plain.generate(model, *args, custom_generate=decode, **given, **options)
    except (ValueError, TypeError) as error:
        if folder is None:
            raise
        raise _shown_by_servers(error) from error


def settings_from(given: SSDConfig | Mapping[str, Any] | None, default: SSDConfig) -> SSDConfig:
    """`given` settings, or the default with what a table changes. Raises TypeError for anything else, ValueError as SSDConfig."""
    if isinstance(given, SSDConfig):
        return given
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f"ssd_config is an SSDConfig or a table of its fields, not {type(given).__name__}")
    return SSDConfig(**(vars(default) | dict(given or {})))


def greedy_unless_asked(folder: Exported) -> SSDConfig:
    """The folder's settings; whether to sample, and how, stands in its generation_config.json, where a request may change it."""
    return replace(folder.config, do_sample=False)


def _refuse(options: dict[str, Any]) -> None:
    """Take arguments that `generate` fills with nothing out of the options; raise ValueError for those that ask for something."""
    for name, advice in REFUSED.items():
        given = options.pop(name, None)
        if given is not None and given is not False:
            raise ValueError(f"SSD cannot honour {name}: {advice}")


def _make_stop_strings(model: PreTrainedModel, options: dict[str, Any]) -> None:
    """Stop strings as a stopping criterion among the options: `generate` loses the tokenizer on its way to a callable.

    Raises ValueError where there is none.
    """
    tokenizer, own = options.pop("tokenizer", None), options.get("generation_config") or model.generation_config
    given = options.pop("stop_strings", None)
    given = getattr(own, "stop_strings", None) if given is None else given
    if given is None:
        return
    options["generation_config"] = copy.deepcopy(own)
    options["generation_config"].stop_strings = None
    asked = [each for each in ([given] if isinstance(given, str) else given) if each != ""]
    if not asked:
        return
    if tokenizer is None:
        raise ValueError(f"stop_strings={asked!r} are found in text: pass tokenizer=, too")
    criterion: Any = StopStringCriteria(tokenizer, asked)
    options["stopping_criteria"] = StoppingCriteriaList([*(options.get("stopping_criteria") or ()), criterion])


def _in_context(folder: Exported, reread: Rereader | None, prefilled: int | Sequence[int] | None) -> Any:
    """`ssd_custom_generate` for an exported target: the draft asked in its own words, given beginnings of answers counted, and as
    many new tokens as both models hold (`transformers serve` asks for 1,024 where a client names no number).
    """

    @functools.wraps(ssd_custom_generate)  # `generate` hands on what it finds in the signature
    def decode(
        model: PreTrainedModel,
        input_ids: Tensor,
        *,
        draft: PreTrainedModel,
        generation_config: GenerationConfig,
        draft_input_ids: Any = None,
        **given: Any,
    ) -> Tensor:
        prompts = prompt_lists("input_ids", input_ids, given.get("attention_mask"), model)
        if draft_input_ids is None and reread is not None:
            draft_input_ids = [reread(prompt) for prompt in prompts]
        mask = given.get("draft_attention_mask")
        theirs = prompts if draft_input_ids is None else prompt_lists("draft_input_ids", draft_input_ids, mask, draft)
        room = min(_room("the target", model, prompts), _room("the draft", draft, theirs))
        ends = ends_of(generation_config, given.pop("stopping_criteria", None))
        generation_config.max_length = min(ends.length, input_ids.shape[1] + room)
        generation_config.eos_token_id = ends.eos_token_id
        return ssd_custom_generate(
            model,
            input_ids,
            draft=draft,
            generation_config=generation_config,
            draft_input_ids=draft_input_ids,
            prefilled=[folder.prefilled(prompt) for prompt in prompts] if prefilled is None else prefilled,
            stopping_criteria=ends.criteria,
            **given,
        )

    return decode


def _room(name: str, model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> int:
    """How many new tokens the model's context leaves the longest prompt. Raises ValueError where that is none."""
    longest = max(map(len, prompts))
    check_room(name, model, longest, 1)
    return (context_of(model) or sys.maxsize) - longest


def _shown_by_servers(error: Exception) -> Exception:
    """The error as one that `transformers serve` answers with its text and status 400; itself where no server is loaded.

    serve answers 500 without a text to whatever else `generate` raises. In a stream it writes the text into JSON unquoted.
    """
    http = sys.modules.get("starlette.exceptions")
    if http is None:
        return error
    text = " ".join(str(error).split()).replace('"', "'").replace("\\", "/")

    class RefusedRequest(ValueError, http.HTTPException):
        def __init__(self) -> None:
            http.HTTPException.__init__(self, status_code=400, detail=text)

        def __str__(self) -> str:
            return text

    return RefusedRequest()
