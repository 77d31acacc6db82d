"""Named pairs of target and draft, and loading them: your own models in one line.

    pair = load_pair("toy")                                        # ships with the repository
    pair = load_pair("smollm2")                                    # a real language model, from an installed package
    pair = load_pair("llama3.1_8b")                                # from the Hub
    pair = load_pair("llama2", draft="runs/my-deep-tinyllama")     # a draft of your own
    pair = load_pair(target="models/big.Q4_K_M.gguf", draft="models/small")    # a pair of your own

The table of names is pairs.toml.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ssd_lib.config import SSDConfig
from ssd_lib.models.chat import FORMATS, Question, encode_answer, pad_left, vocabulary_size
from ssd_lib.models.inference import Speaker
from ssd_lib.models.loading import Quantization, load_model
from ssd_lib.settings import of_kind


@dataclass(frozen=True)
class PairSpec:
    """A pair by name: where its models come from, their templates, and the paper's settings for it.

    `draft` is None where the model was never published; `load_pair(name, draft=…)` then needs your own. A format is None
    where the tokenizer has a template of its own.
    """

    name: str
    target: str
    draft: str | None = None
    target_format: str | None = None
    draft_format: str | None = None
    config: SSDConfig = SSDConfig()
    note: str = ""
    expert: str | None = None
    """SafeDecoding's LoRA adapter for the target, where one is shipped."""
    perplexity_model: str | None = None
    """The model that measures a question's perplexity (the PPL defence); None: the target itself."""
    draft_base: str | None = None
    """What the draft was before its safety tuning (SecDecoding); for the embedded pair its shallowly aligned control."""
    world: Literal["embedded", "kitchen"] = "embedded"
    """The world whose questions the book asks and whose grader grades the answers (`ssd_lib.toy.worlds`)."""


GPT2 = "openai-community/gpt2"  # whose perplexity SafeDecoding's threshold is for
TRAIN_IT = (
    "The deeply aligned TinyLlama is not published. Train it from {base} with "
    "`ssd train --model {base} --harmful … --benign … --out PATH`, then pass draft=PATH."
)
_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
ALIASES: dict[str, str] = {alias: name for name, row in _TABLE.items() for alias in row.pop("aliases", ())}


def _spec(name: str, row: dict[str, Any]) -> PairSpec:
    note = row.pop("note", TRAIN_IT.format(base=row["draft_base"]))
    return PairSpec(name, note=note, config=SSDConfig(**row.pop("config", {})), **row)


PAIRS: dict[str, PairSpec] = {name: _spec(name, row) for name, row in _TABLE.items()}


@dataclass(frozen=True)
class Pair:
    """Two loaded models that share a vocabulary, with their tokenizers, templates and settings."""

    target: PreTrainedModel
    draft: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    draft_tokenizer: PreTrainedTokenizerBase
    spec: PairSpec

    @property
    def config(self) -> SSDConfig:
        return self.spec.config

    @property
    def vocab_size(self) -> int:
        """Token ids that both models can emit: up to the shared tokenizer's last.

        Raises:
            ValueError: Where a model has fewer output rows.
        """
        size = vocabulary_size(self.tokenizer)
        for name, model in (("target", self.target), ("draft", self.draft)):
            head = model.get_output_embeddings()
            rows = model.config.get_text_config().vocab_size if head is None else head.weight.shape[0]
            if size > rows:
                raise ValueError(f"the {name} has {rows} output rows for {size} token ids: resize its embeddings")
        return size

    def with_config(self, config: SSDConfig) -> Pair:
        """The same models under other settings."""
        return replace(self, spec=replace(self.spec, config=config))

    @property
    def speakers(self) -> tuple[Speaker, Speaker]:
        """Target and draft, each with the tokenizer and chat template it is spoken to with."""
        return (
            Speaker(self.target, self.tokenizer, self.spec.target_format, "target"),
            Speaker(self.draft, self.draft_tokenizer, self.spec.draft_format, "draft"),
        )

    def prompts(
        self,
        questions: Sequence[Question],
        prefills: Sequence[str | Sequence[int]] | None = None,
        system: str | None = None,
    ) -> tuple[list[list[int]], list[list[int]]]:
        """The target's and the draft's token ids of every question, with the beginning of its answer.

        Args:
            questions: Texts, or conversations that end with the user's turn.
            prefills: What the answers begin with, text or token ids, one each. Default: nothing.
            system: A system prompt in place of the formats' ("" for none).

        Raises:
            ValueError: For an empty question or one that a chat template refuses, and for ids that the tokenizer does not have.
        """
        answers = [encode_answer(self.tokenizer, prefill) for prefill in prefills or [""] * len(questions)]
        target, draft = (speaker.encode(questions, answers, system) for speaker in self.speakers)
        return target, draft

    def encode(
        self,
        questions: Sequence[Question],
        prefills: Sequence[str | Sequence[int]] | None = None,
        system: str | None = None,
    ) -> dict[str, Tensor]:
        """Both models' prompts as keyword arguments of `ssd_generate`; arguments and errors as for `prompts`.

        Returns:
            input_ids, attention_mask, draft_input_ids and draft_attention_mask, [rows, length], left-padded, on the target's
            device.
        """
        target, draft = self.prompts(questions, prefills, system)
        names = ("input_ids", "attention_mask", "draft_input_ids", "draft_attention_mask")
        padded = (*pad_left(target, self.tokenizer.pad_token_id), *pad_left(draft, self.draft_tokenizer.pad_token_id))
        return {name: tensor.to(self.target.device) for name, tensor in zip(names, padded, strict=True)}


def find_pair(name: str) -> PairSpec:
    """The spec of a pair, by name or alias in any case. Raises ValueError that lists the names."""
    key = ALIASES.get(name.lower(), name.lower())
    if key not in PAIRS:
        raise ValueError(
            f"unknown pair {name!r}: choose one of {', '.join(PAIRS)}, or pass target= and draft= of your own"
        )
    return PAIRS[key]


def choose_pair(
    name: str | None = None,
    *,
    target: str | None = None,
    draft: str | None = None,
    target_format: str | None = None,
    draft_format: str | None = None,
) -> PairSpec:
    """The spec of a registered pair, with what is given in place of its own. Without a name it is that of your own pair, named
    after its models, under the default settings; without any argument, that of the embedded pair.

    Raises:
        ValueError: For an unknown name or format, or a draft alone.
    """
    own = dict(target=target, draft=draft, target_format=target_format, draft_format=draft_format)
    for what, value in {"the pair's name": name, **own}.items():
        of_kind(what, value, str, NoneType)
    given: dict[str, Any] = {key: value for key, value in own.items() if value is not None}
    for key in ("target_format", "draft_format"):
        if given.get(key, "toy") not in FORMATS:
            raise ValueError(f"{key}={given[key]!r}: choose one of {', '.join(FORMATS)}")
    if name is not None or not given:
        return replace(find_pair(name or "toy"), **given)
    if target is None:
        raise ValueError(f"a pair of your own needs target=; or name one of {', '.join(PAIRS)}")
    label = "+".join(_short(model) for model in (target, draft) if model)
    return PairSpec(label, note="name your small, deeply aligned model", perplexity_model=GPT2, **given)


def _short(model: str) -> str:
    """A model's name without the folders before it and without .gguf."""
    return Path(model.rpartition(":")[2]).name.removesuffix(".gguf") or model


def load_pair(
    name: str | None = None,
    *,
    target: str | None = None,
    draft: str | None = None,
    target_format: str | None = None,
    draft_format: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    quantization: Quantization | None = None,
    trust_remote_code: bool = False,
) -> Pair:
    """Load a registered pair, some of its models replaced, or a pair of your own.

    Args:
        name: A pair of pairs.toml, by name or alias in any case. Without it, `target` and `draft` are a pair of your
            own; without these, the embedded pair.
        target: Hub id, path or GGUF file, in place of the registered target.
        draft: The same for the draft.
        target_format: A known chat template (`chat.FORMATS`), for a tokenizer that has none of its own.
        draft_format: The same for the draft.
        device: Default: the GPU(s) if there are any, spread by `device_map="auto"`, else the CPU.
        dtype: Default: `half_dtype` on a GPU, float32 on a CPU.
        quantization: "4bit" or "8bit" for the target (needs bitsandbytes).
        trust_remote_code: Run the code of the models' repositories.

    Returns:
        Both models in evaluation mode, with tokenizers, templates, and the paper's settings for the pair (section 5.1).

    Raises:
        ValueError: For an unknown pair, an unpublished draft, a chat template that is missing, or vocabularies that differ.
        OSError: As transformers does, where a model cannot be loaded.
    """
    spec = choose_pair(name, target=target, draft=draft, target_format=target_format, draft_format=draft_format)
    if spec.draft is None:
        raise ValueError(f"the pair {spec.name!r} needs draft=…: {spec.note}")
    options: dict[str, Any] = dict(device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    target_model, tokenizer = load_model(spec.target, quantization=quantization, **options)
    check_template(tokenizer, spec, "target")
    draft_model, draft_tokenizer = load_model(spec.draft, **options)
    check_template(draft_tokenizer, spec, "draft")
    check_vocabularies(tokenizer, draft_tokenizer)
    return Pair(target_model, draft_model, tokenizer, draft_tokenizer, spec)


def check_template(tokenizer: PreTrainedTokenizerBase, spec: PairSpec, role: str) -> None:
    """Raise ValueError where the role's tokenizer has no chat template and the spec names none."""
    if tokenizer.chat_template is None and getattr(spec, f"{role}_format") is None:
        raise ValueError(
            f"the {role}'s tokenizer ({getattr(spec, role)}) has no chat template: pass {role}_format=, "
            f"one of {', '.join(FORMATS)}"
        )


def check_vocabularies(target: PreTrainedTokenizerBase, draft: PreTrainedTokenizerBase) -> None:
    """Raise ValueError, naming the first tokens that differ, unless both tokenizers give every token the same id."""
    first, second = ({i: token for token, i in tokenizer.get_vocab().items()} for tokenizer in (target, draft))
    different = [i for i in sorted(first.keys() | second.keys()) if first.get(i) != second.get(i)]
    if different:
        examples = "; ".join(f"id {i}: target {first.get(i)!r}, draft {second.get(i)!r}" for i in different[:3])
        raise ValueError(
            f"target and draft must share one vocabulary, but {len(different)} of {len(first.keys() | second.keys())} tokens differ ({examples}). "
            "Choose a draft of the target's family."
        )
