"""A loaded pair written as one model folder that transformers loads, samples from and serves (`ssd_lib.models.exported`)."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from transformers import GenerationConfig, PreTrainedTokenizerBase

from ssd_lib.config import SSDConfig
from ssd_lib.models.chat import FORMATS, TEMPLATE_DATE, encode_prompt
from ssd_lib.models.exported import DRAFT, MODEL_TYPE, SETTINGS, TARGET
from ssd_lib.models.pairs import Pair
from ssd_lib.models.rereading import Rereader
from ssd_lib.paths import room_for

GENERATE = '''"""Speculative Safety-Aware Decoding (arXiv 2508.17739) in the place of `generate`: a front of the package ssd_lib."""

from ssd_lib.decoding.in_transformers import generate

__all__ = ["generate"]
'''
CONFIGURATION = '''"""Reads config.json as the target's own configuration: see the package ssd_lib, `ssd_lib.models.exported`."""

from ssd_lib.models.exported import TargetConfig

__all__ = ["TargetConfig"]
'''
REQUIREMENTS = "ssd_lib>=0.1.0\n"
CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [custom_generate]
---

# {name}, decoded with Speculative Safety-Aware Decoding

Target, draft (`draft/`) and method (`custom_generate/`) of arXiv 2508.17739 in one folder, written by `ssd export`. It needs the
package `ssd_lib` and `trust_remote_code=True`; without it transformers refuses to load the folder.

```python
from transformers import pipeline

ask = pipeline("text-generation", model="THIS FOLDER", trust_remote_code=True)
print(ask([{{"role": "user", "content": "…"}}])[0]["generated_text"][-1]["content"])
```

```sh
transformers serve THIS_FOLDER --trust-remote-code    # never with --continuous-batching: that goes round `generate`, and round SSD
```

Settings, in `config.json` under `target.ssd.config` ({kind}):

```json
{settings}
```
"""
PROBES: Sequence[Any] = (
    "What is this?",
    "Tell me, please.",
    [
        {"role": "user", "content": "First"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "and then"},
    ],
)
"""Conversations whose prompts must be the same however they are written; they end differently."""


def export_pair(pair: Pair, out: str | Path) -> Path:
    """Write the pair, under its settings, into a new folder `out`; returns it. Nothing is left of an export that fails.

    Raises:
        FileExistsError: for a folder that holds something.
        ValueError: for a folder with @ in its path, for a pair whose chat templates cannot be handed on, or whose draft's prompts cannot be had from the target's.
    """
    out = Path(out)
    if "@" in str(out):
        raise ValueError(
            f"{out}: `transformers serve` takes what follows an @ for a revision; choose a folder without one"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is there already: choose a new folder, or remove it")
    tokenizers = (
        with_template(pair.tokenizer, pair.spec.target_format),
        with_template(pair.draft_tokenizer, pair.spec.draft_format),
    )
    said = settings(pair, *tokenizers)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with room_for(out):
            _write(pair, tokenizers, said, partial)
        if out.exists():
            out.rmdir()
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _write(
    pair: Pair, tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase], said: dict[str, Any], folder: Path
) -> None:
    both = ((pair.target, folder), (pair.draft, folder / DRAFT))
    for (model, place), tokenizer in zip(both, tokenizers, strict=True):
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
    generation_config(pair).save_pretrained(folder)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(GENERATE, encoding="utf-8")
    (folder / "custom_generate" / "requirements.txt").write_text(REQUIREMENTS, encoding="utf-8")
    (folder / "configuration_ssd.py").write_text(CONFIGURATION, encoding="utf-8")
    (folder / "README.md").write_text(card(pair), encoding="utf-8")
    _nest(folder / "config.json", said)


def settings(
    pair: Pair, tokenizer: PreTrainedTokenizerBase, draft_tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """What `ssd_lib.models.exported` reads besides the target's configuration. Raises ValueError as `export_pair`."""
    prompts, of_draft = pair.prompts(PROBES)
    if prompts != of_draft:
        check_rereading(pair, Rereader(tokenizer, draft_tokenizer))
    return {
        "config": asdict(pair.config),
        "vocab_size": pair.vocab_size,
        "answer_follows": shared_end(prompts),
        "same_prompts": prompts == of_draft,
    }


def check_rereading(pair: Pair, reread: Rereader) -> None:
    """Raise ValueError where the draft's prompts cannot be had from the target's, which are all that `generate` sees."""
    for prefill in ("", "Sure, here is"):
        target, draft = pair.prompts(PROBES, [prefill] * len(PROBES))
        for prompt, expected in zip(target, draft, strict=True):
            try:
                read = reread(prompt)
            except ValueError:
                read = None
            if read != expected:
                raise ValueError(
                    f"the pair {pair.spec.name!r} cannot be exported: target and draft have different chat templates, and "
                    f"the draft's prompt cannot be had from the target's ({pair.tokenizer.decode(prompt)!r}). Pass "
                    "draft_input_ids= yourself (integrations/custom_generate)"
                )


def shared_end(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The longest end that all prompts share."""
    backwards = zip(*(reversed(prompt) for prompt in prompts), strict=False)
    common = []
    for tokens in backwards:
        if len(set(tokens)) > 1:
            break
        common.append(tokens[0])
    return common[::-1]


def _nest(path: Path, said: dict[str, Any]) -> None:
    """Put the target's configuration and the settings under a model_type that transformers does not know."""
    target = json.loads(path.read_text(encoding="utf-8")) | {SETTINGS: said}
    folder = {
        "model_type": MODEL_TYPE,
        "auto_map": {"AutoConfig": "configuration_ssd.TargetConfig"},
        "architectures": target["architectures"],
        TARGET: target,
    }
    path.write_text(json.dumps(folder, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def generation_config(pair: Pair) -> GenerationConfig:
    """The target's own, sampling as the pair's settings do: a pipeline samples where nothing is said."""
    own, config = copy.deepcopy(pair.target.generation_config), pair.config
    own._from_model_config = False
    own.do_sample = config.do_sample
    sampled: dict[str, Any] = dict(temperature=config.temperature, top_k=config.top_k, top_p=config.top_p)
    chosen: dict[str, Any] = sampled if config.do_sample else dict.fromkeys(sampled)
    own.update(**chosen)
    return own


def card(pair: Pair) -> str:
    """The folder's README.md."""
    config = pair.config
    changed = {name: value for name, value in asdict(config).items() if value != getattr(SSDConfig(), name)}
    kind = "hardened SSD" if config.retract else "SSD as published"
    shown = json.dumps(asdict(config), indent=2, ensure_ascii=False)
    kind += f"; other than the paper's for Llama-2: {', '.join(changed)}" if changed else ""
    return CARD.format(name=pair.spec.name, kind=kind, settings=shown)


# ------------------------------------------------------------------------------------------------ prompts


def with_template(tokenizer: PreTrainedTokenizerBase, chat_format: str | None) -> PreTrainedTokenizerBase:
    """A copy of the tokenizer whose own chat template writes what `encode_prompt` does, BOS and default system prompt included.

    Raises ValueError where it does not.
    """
    own = copy.deepcopy(tokenizer)
    if isinstance(own.chat_template, dict):
        own.chat_template = own.chat_template["default"]
    if own.chat_template is None and chat_format is not None:
        own.chat_template = template_of(chat_format)
    if "date_string" in str(own.chat_template):
        own.chat_template = f"{{% if date_string is not defined %}}{{% set date_string = '{TEMPLATE_DATE}' %}}{{% endif %}}{own.chat_template}"
    for probe in PROBES:
        turns = [{"role": "user", "content": probe}] if isinstance(probe, str) else probe
        written = own.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        expected = encode_prompt(tokenizer, probe, chat_format=chat_format)
        if written != expected:
            raise ValueError(
                f"the chat template of {tokenizer.name_or_path} does not write the prompts of this pair by itself: "
                f"{tokenizer.decode(cast(list[int], written))!r}, not {tokenizer.decode(expected)!r}"
            )
    return own


def template_of(chat_format: str) -> str:
    """A known format as a tokenizer's own template."""
    known = FORMATS[chat_format]
    system = json.dumps(known.system, ensure_ascii=False) if known.system else None
    default = (
        f"{{% if messages[0].role != 'system' %}}{{% set messages = [{{'role': 'system', 'content': {system}}}] + messages %}}{{% endif %}}"
        if system
        else ""
    )
    return default + ("{{ bos_token }}" if known.bos else "") + known.template
