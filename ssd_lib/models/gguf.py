"""GGUF files as models: dequantised once into the user's cache, as safetensors that load like any other model.

    load_model("models/SmolLM2-135M-Instruct.Q4_1.gguf")               # a file
    load_model("HuggingFaceTB/SmolLM2-135M-Instruct-GGUF:x-q4.gguf")   # a file of a repository on the Hub

transformers reads the format (`from_pretrained(folder, gguf_file=…)`) but does not save what it read while the config names
a quantization; so the model is built again from the config without it. Weights that were quantised are kept in 16 bits (the
rounding is far below theirs), all others exactly. The file's SHA-256 names the copy and stands in its source.json.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from filelock import FileLock
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from tokenizers import Tokenizer
from tqdm.auto import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from ssd_lib.paths import cache_dir

EXACT = ("F16", "F32", "F64", "BF16")
"""Types of a GGUF file's tensors that are not quantised."""
RECORD = "source.json"


def is_gguf(name: str) -> bool:
    """Whether a model's name is that of a GGUF file, here or on the Hub."""
    return name.lower().endswith(".gguf")


def gguf_file(name: str, *, local_only: bool = False) -> Path | None:
    """Where a GGUF file is: a path, or `repository:file.gguf`, which is downloaded once; None where `local_only` and it is
    not here. Raises OSError where there is none, or where it is one part of several."""
    path = Path(name).expanduser()
    repository, _, file = name.rpartition(":")
    on_hub = not path.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", repository) and not Path(repository).is_dir()
    if re.search(r"-\d{5}-of-\d{5}\.gguf$", name, re.IGNORECASE):
        raise OSError(
            f"{name} is one part of a split GGUF: join them first (`llama-gguf-split --merge FIRST OUT.gguf`)"
        )
    if on_hub and local_only:
        found = try_to_load_from_cache(repository, file)
        return Path(found) if isinstance(found, str) else None
    if on_hub:
        return Path(hf_hub_download(repository, file))
    if not path.is_file():
        raise OSError(f"no GGUF file at {name}: give a file, or REPOSITORY:FILE.gguf for one on the Hub")
    return path


def dequantised(name: str) -> Path:
    """The folder in the user's cache that holds a GGUF file's model and tokenizer; made where there is none yet.

    Raises:
        OSError: Where there is no such file, or transformers cannot read it.
        ImportError: Without the package gguf.
    """
    source = gguf_file(name)
    assert source is not None
    digest = _sha256(source)
    folder = cache_dir() / "gguf" / f"{source.stem}-{digest[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / RECORD).exists():
            _convert(source, folder, name, digest)
    return folder


def _sha256(path: Path) -> str:
    """Of a file's bytes, with a progress bar where it is large."""
    digest, size = hashlib.sha256(), path.stat().st_size
    bar = tqdm(total=size, unit="B", unit_scale=True, desc=f"checking {path.name}", disable=size < 2**30, leave=False)
    with path.open("rb") as file, bar:
        while part := file.read(2**24):
            digest.update(part)
            bar.update(len(part))
    return digest.hexdigest()


def _convert(source: Path, folder: Path, name: str, digest: str) -> None:
    """Write the model into a temporary folder first, so that `folder` is whole or absent."""
    quantised = _quantised(source, name)
    with (
        TemporaryDirectory(dir=folder.parent, prefix="making-") as made,
        TemporaryDirectory(dir=folder.parent, prefix="reading-") as alone,
    ):
        (Path(alone) / source.name).symlink_to(source.resolve())  # transformers mixes in what lies beside the file
        try:
            model = _read(alone, source.name)
            rows = cast(torch.Tensor, model.get_input_embeddings().weight).shape[0]
            tokenizer = _tokenizer(alone, source.name, rows)
        except ImportError:
            raise
        except Exception as error:  # noqa: BLE001 (a reader of foreign files fails in many ways)
            raise _unreadable(name, error) from error
        if quantised and all(weight.abs().max() < torch.finfo(torch.float16).max for weight in model.parameters()):
            model = model.half()
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        about = {"source": name, "sha256": digest, "bytes": source.stat().st_size, "dtype": str(model.dtype)}
        (Path(made) / RECORD).write_text(json.dumps(about, indent=1), encoding="utf-8")
        os.rename(made, folder)
        Path(made).mkdir()  # for TemporaryDirectory to remove


def _quantised(source: Path, name: str) -> bool:
    """Whether any tensor of the file is quantised. Raises OSError for a file that is no GGUF."""
    try:
        import gguf
    except ImportError as error:
        raise ImportError("GGUF files are read with the package gguf: pip install 'ssd_lib[gguf]'") from error
    try:
        return any(tensor.tensor_type.name not in EXACT for tensor in gguf.GGUFReader(source).tensors)
    except Exception as error:  # noqa: BLE001 (cut short, it fails in NumPy)
        raise _unreadable(name, error) from error


def _read(folder: str, file: str) -> PreTrainedModel:
    """The file's model in 32 bits, without the quantization in its config that keeps it from being saved."""
    options: dict[str, Any] = dict(gguf_file=file, dtype=torch.float32, output_loading_info=True)
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, **options)
    read, info = loaded
    if info["missing_keys"]:
        raise ValueError(f"it has no weights for {', '.join(sorted(info['missing_keys'])[:3])}")
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    return model


def _tokenizer(folder: str, file: str, rows: int) -> PreTrainedTokenizerBase:
    """The file's tokenizer, without tokens that the model has no row for: transformers gives every byte-level one GPT-2's
    end of text."""
    read = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    state = json.loads(read.backend_tokenizer.to_str())
    kept = [token for token in state["added_tokens"] if token["id"] < rows]
    if kept == state["added_tokens"]:
        return read
    backend = Tokenizer.from_str(json.dumps(state | {"added_tokens": kept}))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, chat_template=read.chat_template, **read.special_tokens_map
    )


def _unreadable(name: str, error: Exception) -> OSError:
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    return OSError(
        f"transformers cannot read the GGUF file {name} ({reason[:200]}): use the model's safetensors, "
        "or another quantization of it"
    )
