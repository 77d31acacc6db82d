"""Batched greedy answers of one model, for defenders and judges; and the one place that reads a model's generation settings.

A model's generation_config.json may shape greedy decoding (a repetition penalty, suppressed tokens, …). Whoever decodes
greedily here does what `generate(do_sample=False, num_beams=1)` does with it; sampling, beams and other searches are overridden.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ssd_lib.models.chat import Question, encode_prompt, pad_left, vocabulary_size

# ------------------------------------------------------------------------------------------------ generation settings

GREEDY: dict[str, Any] = {
    **{"do_sample": False, "num_beams": 1, "num_return_sequences": 1},
    **dict.fromkeys(("temperature", "top_k", "top_p", "top_h", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")),
    **dict.fromkeys(("penalty_alpha", "dola_layers", "prompt_lookup_num_tokens", "assistant_early_exit")),
    **dict.fromkeys(("max_length", "max_time")),
    **dict.fromkeys(("return_dict_in_generate", "output_scores", "output_logits"), False),
    **dict.fromkeys(("output_attentions", "output_hidden_states"), False),
}
"""What is overridden, whatever a model's file says: sampling, other searches, limits of length, other outputs."""
SHAPING = (
    *("sequence_bias", "encoder_repetition_penalty", "repetition_penalty", "no_repeat_ngram_size"),
    *("encoder_no_repeat_ngram_size", "bad_words_ids", "min_length", "min_new_tokens"),
    *("forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty"),
    *("suppress_tokens", "begin_suppress_tokens", "watermarking_config", "renormalize_logits"),
)
"""What shapes greedy scores: every option that `GenerationMixin._get_logits_processor` reads, sampling apart."""
REFUSED = ("guidance_scale", "stop_strings", "token_healing")
"""What greedy decoding here cannot do: another forward a token, or text where there are ids."""
NEUTRAL: dict[str, Any] = {"guidance_scale": 1}


@dataclass(frozen=True)
class GenerationSettings:
    """What of a model's generation config is in force when it decodes greedily here, and what is overridden, as JSON values."""

    eos_token_id: tuple[int, ...] = ()
    in_force: dict[str, Any] = field(default_factory=dict)
    """Name and value of every option off its default that shapes greedy scores."""
    overridden: dict[str, Any] = field(default_factory=dict)
    """Name and value of every option off its default that is overridden: sampling, beams, limits of length."""


def generation_settings(
    model: PreTrainedModel, config: GenerationConfig | None = None, vocab_size: int | None = None
) -> GenerationSettings:
    """The settings of a model's generation config, or of `config` in its place.

    Args:
        vocab_size: Ids from here on have no token, the embeddings being padded, and are suppressed.

    Raises:
        ValueError: For an option that cannot be honoured, naming it.
    """
    given = config or model.generation_config or GenerationConfig()
    defaults = given._get_default_generation_params()
    values = json.loads(json.dumps(given.to_dict(), default=_plain))
    changed = {name: value for name, value in values.items() if value not in (None, defaults.get(name))}
    for name in REFUSED:
        if changed.get(name) not in (None, False, NEUTRAL.get(name)):
            raise ValueError(
                f"the generation config of {model.config._name_or_path or type(model).__name__} sets "
                f"{name}={changed[name]!r}, which cannot be honoured here: set model.generation_config.{name} = None"
            )
    rows = getattr(model.get_output_embeddings(), "out_features", 0)
    if vocab_size is not None and vocab_size < rows:
        changed["suppress_tokens"] = [*changed.get("suppress_tokens", []), *range(vocab_size, rows)]
    return GenerationSettings(
        eos_ids(given.eos_token_id),
        {name: changed[name] for name in SHAPING if name in changed},
        {name: changed[name] for name in GREEDY if name in changed and changed[name] != GREEDY[name]},
    )


def _plain(value: Any) -> Any:
    """A tensor or another configuration in a generation config, as JSON holds it."""
    return value.tolist() if isinstance(value, Tensor) else value.to_dict()


def eos_ids(given: Any) -> tuple[int, ...]:
    """End-of-sequence ids, given as one, several, a tensor or None, as a tuple."""
    return () if given is None else tuple(torch.as_tensor(given).reshape(-1).tolist())


def logits_processors(
    model: PreTrainedModel,
    settings: GenerationSettings,
    prompt_length: int,
    eos_token_id: Sequence[int] | None = None,
    *,
    max_new_tokens: int | None = None,
    attention_mask: Tensor | None = None,
    prompt_ids: Tensor | None = None,
) -> LogitsProcessorList:
    """What transformers' own `generate` applies to greedy scores [rows, vocab], given the ids so far [rows, so far].

    Args:
        prompt_length: The prompts' width, padding included.
        eos_token_id: End-of-sequence ids. Default: the settings' own.
        max_new_tokens: The longest answer, for forced_eos_token_id.
        attention_mask: [rows, prompt_length] of left-padded prompts: a repetition penalty skips the padding.
        prompt_ids: [rows, prompt_length], for the options that look at the prompt alone (encoder_…).

    Raises:
        ValueError: Where an option in force needs an argument that was not given.
    """
    needs = {"forced_eos_token_id": max_new_tokens} | dict.fromkeys(
        ("encoder_repetition_penalty", "encoder_no_repeat_ngram_size"), prompt_ids
    )
    for name, value in needs.items():
        if name in settings.in_force and value is None:
            raise ValueError(f"the generation config sets {name}, which this way of decoding cannot honour: unset it")
    config = GenerationConfig(do_sample=False, num_beams=1, **copy.deepcopy(settings.in_force))
    config.max_length = None if max_new_tokens is None else prompt_length + max_new_tokens
    config.eos_token_id = list(settings.eos_token_id if eos_token_id is None else eos_token_id) or None
    mixin: Any = model  # GenerationMixin, which the stub of PreTrainedModel lacks
    mixin._prepare_special_tokens(config, device=model.device)
    if config.min_new_tokens is not None:
        config.min_length = prompt_length + config.min_new_tokens
    return mixin._get_logits_processor(
        generation_config=config,
        input_ids_seq_length=prompt_length,
        encoder_input_ids=prompt_ids,
        device=str(model.device),
        model_kwargs={} if attention_mask is None else {"attention_mask": attention_mask},
    )


def device_of(model: PreTrainedModel) -> torch.device:
    """Where a model's input goes, also where its layers are spread over several devices."""
    return cast(Tensor, model.get_input_embeddings().weight).device


def greedy(
    model: PreTrainedModel,
    ids: Int[Tensor, "rows length"],
    mask: Int[Tensor, "rows length"],
    *,
    max_new_tokens: int,
    vocab_size: int | None = None,
    **options: Any,
) -> Int[Tensor, "rows longer"]:
    """The model's own greedy `generate`; `options` go to it.

    Raises:
        ValueError: For a generation config that cannot be honoured (`generation_settings`).
    """
    suppressed = generation_settings(model, vocab_size=vocab_size).in_force.get("suppress_tokens")
    device, call = device_of(model), cast(Any, model.generate)  # the stub calls it a tensor
    with torch.inference_mode():
        return call(
            ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=max_new_tokens,
            **GREEDY | {"suppress_tokens": suppressed} | options,
        )


def stops_of(model: PreTrainedModel) -> set[int]:
    """The tokens that end an answer."""
    return set(eos_ids(getattr(model.generation_config, "eos_token_id", None)))


def until_eos(ids: list[int], model: PreTrainedModel) -> list[int]:
    """Cut the padding that a batch adds after the first end-of-sequence token, which is kept."""
    stops = stops_of(model)
    end = next((place for place, token in enumerate(ids) if token in stops), len(ids))
    return ids[: end + 1]


def padding(tokenizer: PreTrainedTokenizerBase) -> Any:
    """The id that fills a batch's finished rows; 0 where a tokenizer has neither a padding nor an end token."""
    return next(token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if token is not None)


# ------------------------------------------------------------------------------------------------ room

BEYOND = 32  # more positions than a round of SSD looks at beyond the last token of an answer


def positive(name: str, value: Any) -> int:
    """A whole number from 1 on. Raises TypeError or ValueError that names the argument."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
    return value


def context_of(model: PreTrainedModel) -> int | None:
    """How many tokens of prompt and answer a model can hold, if its configuration says so.

    Long rotary embeddings ("longrope", Phi-3) change all positions as soon as one lies beyond the original context. The cache
    would then not fit what follows, so such a model gets its original context only.
    """
    config = model.config.get_text_config(decoder=True)
    context = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    original: int | None = rope.get("original_max_position_embeddings")
    if rope.get("rope_type") == "longrope" and original is not None and original != context:
        return original - BEYOND
    return context


def check_room(what: str, model: PreTrainedModel, prompt: int, max_new_tokens: int) -> None:
    """Check that a prompt of so many tokens and the new ones fit into the model's context.

    Args:
        what: Whose prompt it is, for the message ("the target", "self-exam's question to the examiner").

    Raises:
        ValueError: Where they do not fit, with how many would.
    """
    positive("max_new_tokens", max_new_tokens)
    context = context_of(model)
    if context is not None and prompt + max_new_tokens > context:
        advice = f"at most {context - prompt} new tokens fit" if prompt < context else "shorten the prompt"
        raise ValueError(
            f"{what}: the context holds {context} tokens; {prompt} of prompt and {max_new_tokens} new ones do not fit: {advice}"
        )


# ------------------------------------------------------------------------------------------------ rows and passes of one model


@dataclass(frozen=True)
class Speaker:
    """A model with the tokenizer and chat template it is spoken to with."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    chat_format: str | None
    role: str = "other"
    """Whose forwards are counted: target, draft or other."""

    def encode(
        self,
        questions: Sequence[Question],
        prefills: Sequence[str | Sequence[int]] | None = None,
        system: str | None = None,
    ) -> list[list[int]]:
        """Token ids of every question, with the beginning of its answer after it."""
        return [
            encode_prompt(self.tokenizer, question, chat_format=self.chat_format, system=system, prefill=prefill)
            for question, prefill in zip(questions, prefills or [""] * len(questions), strict=True)
        ]


class Rows:
    """Left-padded rows of one model with their cache: each forward reads only what is new.

    Args:
        in_force: What a generation config asks of the scores in `probs`, in view of these rows. Default: nothing.
        max_new_tokens: The most tokens that are appended, for options that depend on it.
    """

    def __init__(
        self,
        model: Any,
        ids: Int[Tensor, "rows length"],
        mask: Int[Tensor, "rows length"],
        in_force: GenerationSettings = GenerationSettings(),  # noqa: B008 (frozen)
        max_new_tokens: int | None = None,
    ):
        self.model: Any = model
        self.cache = DynamicCache(config=model.config)
        self.ids, self.mask = ids.to(device_of(model)), mask.to(device_of(model))
        prompt: dict[str, Any] = {"attention_mask": self.mask, "prompt_ids": self.ids}
        self.process: Any = logits_processors(model, in_force, ids.shape[1], max_new_tokens=max_new_tokens, **prompt)

    def probs(self, **options: Any) -> Float[Tensor, "rows vocab"]:
        """One forward: the next token's probabilities; softmax in fp32. `options` go to the model."""
        return self.process(self.ids, self.logits(**options)).softmax(dim=-1)

    @torch.inference_mode()
    def logits(self, **options: Any) -> Float[Tensor, "rows vocab"]:
        """One forward: fp32 logits of the token after all that stands in the rows."""
        new = self.ids[:, self.cache.get_seq_length() :]
        places = (self.mask.cumsum(dim=1) - 1).clamp(min=0)[:, -new.shape[1] :]
        options |= dict(attention_mask=self.mask, position_ids=places, logits_to_keep=1)
        return self.model(input_ids=new, past_key_values=self.cache, use_cache=True, **options).logits[:, -1].float()

    def append(self, tokens: Int[Tensor, "rows new"]) -> None:
        """Write the next tokens of every row; they are read by the next forward."""
        self.ids = torch.cat([self.ids, tokens.to(self.ids.device)], dim=1)
        self.mask = torch.nn.functional.pad(self.mask, (0, tokens.shape[1]), value=1)

    def keep(self, places: Sequence[int]) -> None:
        """Let all rows but these go."""
        chosen = torch.tensor(places, dtype=torch.long, device=self.ids.device)
        self.ids, self.mask = self.ids[chosen], self.mask[chosen]
        self.cache.batch_select_indices(chosen)

    def fork(self, places: Sequence[int]) -> Rows:
        """Some of the rows once more, to go on with apart."""
        other = copy.copy(self)
        other.cache = copy.deepcopy(self.cache)
        other.keep(places)
        return other

    def greedy(self, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int) -> list[list[int]]:
        """The model's own greedy tokens after each row, up to and with its end; the rows themselves do not grow."""
        return _continued(self.model, tokenizer, self.ids, self.mask, max_new_tokens, past_key_values=self.cache)


def _continued(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: Tensor,
    mask: Tensor,
    max_new_tokens: int,
    **options: Any,
) -> list[list[int]]:
    options |= dict(pad_token_id=padding(tokenizer), vocab_size=vocabulary_size(tokenizer))
    sequences = greedy(model, ids, mask, max_new_tokens=max_new_tokens, **options)
    return [until_eos(row, model) for row in sequences[:, ids.shape[1] :].tolist()]


def greedy_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    streamer: Any = None,
) -> list[list[int]]:
    """The token ids that answer each prompt, the end-of-sequence token included where one was written."""
    ids, mask = pad_left(prompts, tokenizer.pad_token_id)
    return _continued(model, tokenizer, ids, mask, max_new_tokens, streamer=streamer)


@dataclass(frozen=True)
class Pass:
    """One batched run of one model over some `rows` of the request, and what it took."""

    role: str
    rows: list[int]
    ids: list[list[int]]
    prompt_tokens: list[int]
    forwards: int
    seconds: float


def without_answers(role: str, forwards: int = 0, seconds: float = 0.0) -> Pass:
    """Forwards that write no answer of any row; none at all by default."""
    return Pass(role, [], [], [], forwards, seconds)


def generate(
    speaker: Speaker,
    questions: Sequence[Question],
    prefills: Sequence[Sequence[int]] | None = None,
    *,
    max_new_tokens: int,
    rows: Sequence[int] | None = None,
    streamer: Any = None,
    step: str = "the prompt",
) -> Pass:
    """Greedy answers to a batch of questions, by the model's own `generate`; to none it costs nothing.

    Args:
        rows: Which of a request's rows the questions are. Default: all.
        step: What is asked, for errors.

    Raises:
        ValueError: Before any forward, for a prompt that leaves no room for the answer (`check_room`).
    """
    if not questions:
        return without_answers(speaker.role)
    started = time.perf_counter()
    prompts = speaker.encode(questions, prefills)
    lengths = list(map(len, prompts))
    check_room(step, speaker.model, max(lengths), max_new_tokens)
    answers = greedy_answers(speaker.model, speaker.tokenizer, prompts, max_new_tokens, streamer)
    written, chosen = max(map(len, answers)), list(range(len(prompts)) if rows is None else rows)
    return Pass(speaker.role, chosen, answers, lengths, written, time.perf_counter() - started)


def texts_of(speaker: Speaker, run: Pass) -> list[str]:
    """The replies of a pass as text, ends stripped."""
    return [str(speaker.tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in run.ids]
