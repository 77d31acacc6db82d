"""Making a deeply aligned draft: supervised tuning in which a refusal can begin at any depth.

Ordinary ("shallow") alignment teaches a refusal as the first tokens of an answer only. Let an attacker write those
tokens and the model goes on. Qi et al., "Safety Alignment Should Be Made More Than Just a Few Tokens Deep" (ICLR 2025,
section 3) teach the way back instead: a harmful question `x`, the first `k` tokens of a harmful answer `h`, then the
refusal `r`, with the loss on the refusal alone

    min_θ  E_{(x,h,r)} E_k [ −log π_θ(r | x, h_{≤k}) ]  +  E_{(x,y) benign} [ −log π_θ(y | x) ]

where `k` is 0 half of the time and uniform on 1 … C otherwise. SSD (arXiv 2508.17739, section 4) uses a small model
trained like this as its draft.

PRESTO (`ssd_lib.models.presto`) adds a term to this loss.

Everything here works on token ids of any causal language model; `transformers.Trainer` runs the steps, so checkpoints,
resuming, mixed precision and devices behave as they do everywhere else.
"""

from __future__ import annotations

import inspect
import json
import random
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from ssd_lib.models.chat import encode_answer, encode_prompt
from ssd_lib.models.loading import half_dtype, load_model
from ssd_lib.models.muon import MuonWithAdamW
from ssd_lib.models.presto import IGNORED, PREFILLED, PrestoTrainer, plain_attention, presto_loss
from ssd_lib.paths import room_for, write_whole
from ssd_lib.settings import AboveZero, Count, NotNegative, Positive, Share, settings

Example = dict[str, list[int]]


@settings
class Stage:
    """One run of supervised tuning. `steps` are optimiser steps of `batch_size` examples."""

    name: str
    steps: Positive
    learning_rate: AboveZero
    batch_size: Positive = 32
    warmup_steps: Count = 50
    save_every: Positive = 200
    weight_decay: NotNegative = 0.01
    gradient_accumulation: Positive = 1
    optimizer: Literal["adamw", "muon"] = "adamw"
    lora_rank: Count = 0  # 0 trains all weights
    presto: NotNegative = 0.0  # weight of PRESTO's term; 0 leaves it out
    keep_all: bool = False  # every checkpoint stays, not the last alone


def stages_with(recipe: Any, **changes: Any) -> dict[str, Stage]:
    """Every stage of a recipe, by its field's name, with these settings in place of its own."""
    return {name: replace(stage, **changes) for name, stage in vars(recipe).items() if isinstance(stage, Stage)}


@settings
class RecoveryConfig:
    """How deep in an answer a refusal may begin (Qi et al. 2025, section 3; their C is 100)."""

    direct_share: Share = 0.5
    max_depth: Positive = 100


def supervised_example(prompt: Sequence[int], given: Sequence[int], learned: Sequence[int]) -> Example:
    """One training example: the prompt and the `given` answer tokens carry no loss, the `learned` ones do."""
    context = [*prompt, *given]
    return {"input_ids": [*context, *learned], "labels": [IGNORED] * len(context) + list(learned)}


def draw_depth(rng: random.Random, harmful_length: int, config: RecoveryConfig) -> int:
    """How many tokens of the harmful answer stand before the refusal: 0, or uniform on 1 … min(C, length)."""
    if rng.random() < config.direct_share:
        return 0
    return rng.randint(1, max(1, min(config.max_depth, harmful_length)))


def recovery_example(
    prompt: Sequence[int],
    harmful: Sequence[int],
    refusal: Sequence[int],
    rng: random.Random,
    config: RecoveryConfig,
    *,
    refusal_inside: Sequence[int] | None = None,
) -> Example:
    """Safety recovery: the prompt, `k` tokens of a harmful answer, then the refusal, with the loss on the refusal only.

    `refusal` ends with the end-of-sequence token. `refusal_inside` is its form after other words, where the tokenizer
    writes that differently (a byte-level one wants the space before it). `prefilled` counts the harmful tokens.
    """
    depth = draw_depth(rng, len(harmful), config)
    learned = refusal_inside if depth and refusal_inside is not None else refusal
    return supervised_example(prompt, harmful[:depth], learned) | {"prefilled": [depth]}


def fine_tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    stage: Stage,
    out: Path,
    *,
    seed: int = 0,
    quiet: bool = False,
) -> PreTrainedModel:
    """Train `model` on `examples` for one stage and save it, with its tokenizer, to `out / stage.name`.

    With `stage.lora_rank` only a low-rank adapter is trained; the folder then holds the merged model, and the adapter
    in `adapter/`. A finished stage is loaded instead of trained; an interrupted one goes on from its last checkpoint with the same
    data order. Shows the Trainer's progress bar unless `quiet`.
    """
    folder = out / stage.name
    if (folder / "finished.json").exists():
        _check_presto(folder, stage)
        return type(model).from_pretrained(folder, dtype=torch.float32)
    trained = model
    if rank := stage.lora_rank:
        adapter = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
        trained = get_peft_model(model, adapter)
    trainer = (PrestoTrainer if stage.presto else Trainer)(
        model=trained,
        args=_arguments(stage, folder, seed, quiet),
        train_dataset=[labelled(example, stage) for example in examples],  # type: ignore[arg-type]
        data_collator=_collator(model, stage)(tokenizer, pad_to_multiple_of=8, label_pad_token_id=IGNORED),
        optimizers=(
            MuonWithAdamW(trained, stage.learning_rate, stage.weight_decay) if stage.optimizer == "muon" else None,
            None,
        ),
        compute_loss_func=presto_loss(stage.presto) if stage.presto else None,
    )
    if quiet:
        trainer.remove_callback(PrinterCallback)  # takes the progress bar's place
    with room_for(folder), plain_attention(model) if stage.presto else nullcontext():
        outcome = trainer.train(resume_from_checkpoint=_last_complete_checkpoint(folder))
    with room_for(folder):
        if isinstance(trained, PeftModel):
            trained.save_pretrained(str(folder / "adapter"))
            model = cast(PreTrainedModel, trained.merge_and_unload())
        model.config.use_cache = True  # the Trainer turns it off
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    record = {"stage": asdict(stage), "seed": seed, "loss": outcome.training_loss}
    record["seconds"] = outcome.metrics["train_runtime"]
    write_whole(folder / "finished.json", json.dumps(record, indent=1))
    return model


def _check_presto(folder: Path, stage: Stage) -> None:
    """A finished stage is taken as it is; that it was trained without PRESTO, or with it, must not go unnoticed."""
    found = json.loads((folder / "finished.json").read_text(encoding="utf-8"))["stage"].get("presto", 0.0)
    if found != stage.presto:
        raise ValueError(
            f"{folder} was trained with a PRESTO weight of {found:g}, not {stage.presto:g}: choose another folder"
        )


def labelled(example: Example, stage: Stage) -> Example:
    """The columns that a stage trains on; for PRESTO the harmful beginning is marked in the labels."""
    labels, prefilled = list(example["labels"]), example.get("prefilled", [0])[0]
    if stage.presto and prefilled:
        begins = next(i for i, label in enumerate(labels) if label != IGNORED)
        labels[begins - prefilled : begins] = [PREFILLED] * prefilled
    return {"input_ids": example["input_ids"], "labels": labels}


# ------------------------------------------------------------------------------------------------ how steps are taken


def _collator(model: PreTrainedModel, stage: Stage) -> type[DataCollatorForSeq2Seq]:
    """Batches whose prompts get no logits, where the model can leave them out and no loss is on them."""
    can = not stage.presto and "logits_to_keep" in inspect.signature(model.forward).parameters
    return FromFirstLearned if can else DataCollatorForSeq2Seq


class FromFirstLearned(DataCollatorForSeq2Seq):
    """Right-padded batches with labels from the first learned token of any row on, and `logits_to_keep` for as many."""

    def __call__(self, features: Any, return_tensors: str | None = None) -> Any:
        batch = super().__call__(features, return_tensors)
        learned = (batch["labels"] != IGNORED).any(dim=0).nonzero()
        first = max(int(learned[0]) - 1, 0)  # the place before it predicts it
        labels = batch["labels"][:, first:]
        return dict(batch) | {"labels": labels, "logits_to_keep": labels.size(1)}


def _last_complete_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint whose writing was not itself interrupted; the Trainer writes its state file last."""
    for checkpoint in folder.glob("checkpoint-*"):
        if not (checkpoint / "trainer_state.json").exists():
            shutil.rmtree(checkpoint)
    return get_last_checkpoint(str(folder)) if folder.exists() else None


def training_dtype() -> torch.dtype:
    """The type to compute in: half precision where the hardware has units for it, float32 on a CPU without (it emulates
    bfloat16 there, several times slower)."""
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        return half_dtype()
    has_units = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_units else torch.float32


def _arguments(stage: Stage, folder: Path, seed: int, quiet: bool) -> TrainingArguments:
    computed = training_dtype()
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=stage.steps,
        per_device_train_batch_size=stage.batch_size,
        gradient_accumulation_steps=stage.gradient_accumulation,
        learning_rate=stage.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=stage.warmup_steps,
        weight_decay=stage.weight_decay,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        bf16=computed is torch.bfloat16,
        fp16=computed is torch.float16,
        use_cpu=not (torch.cuda.is_available() or torch.backends.mps.is_available()),
        train_sampling_strategy="group_by_length",
        save_strategy="steps",
        save_steps=stage.save_every,
        save_total_limit=None if stage.keep_all else 1,
        logging_steps=50,
        report_to="none",
        disable_tqdm=quiet,
        seed=seed,
        data_seed=seed,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )


# ------------------------------------------------------------------------------------------------ a draft of your own


def train_deep_alignment(
    model: str,
    harmful: Path,
    benign: Path,
    out: Path,
    *,
    steps: int = 400,
    seed: int = 0,
    chat_format: str | None = None,
    recovery: RecoveryConfig = RecoveryConfig(),  # noqa: B008 (frozen)
    learning_rate: float = 2e-5,
    batch_size: int = 4,
    gradient_accumulation: int = 4,
    harmful_share: float = 0.5,
    lora_rank: int = 0,
    presto: float = 0.0,
) -> Path:
    """Deepen the alignment of any causal language model (TinyLlama, say): Qi et al. 2025, section 3.

    Args:
        model: A Hub id, a path or a GGUF file.
        harmful: JSON lines with `question`, `answer` (what an unaligned model would say) and `refusal`.
        benign: JSON lines with `question` and `answer`.
        out: The model is written to `out/deep`. An interrupted training goes on from its last checkpoint.
        steps: Optimiser steps.
        seed: Of the examples and of the training.
        chat_format: A known chat template (`chat.FORMATS`), for a tokenizer without one of its own.
        recovery: How deep in an answer a refusal may begin.
        learning_rate: As published; for an adapter about ten times as high.
        batch_size: Examples of a forward.
        gradient_accumulation: Forwards of a step.
        harmful_share: Share of examples from the file `harmful`.
        lora_rank: Train only an adapter of this rank, which needs a quarter of the memory; 0 trains all weights.
        presto: Weight of PRESTO's term (published: 1; arXiv 2512.05518). Its attention weights need memory that grows with
            the square of the length.

    Returns:
        The folder with the model and its tokenizer; an adapter is merged in, and also lies in its folder `adapter`.

    Raises:
        ValueError: For a line without these fields, naming file and line; with `presto`, for a model that returns no attention
            weights, or a folder whose model was trained with another weight.
        OSError: As `load_model`.
    """
    stage = Stage("deep", steps, learning_rate, batch_size, save_every=100, lora_rank=lora_rank, presto=presto)
    stage = replace(stage, gradient_accumulation=gradient_accumulation)
    return _train_on_files(model, harmful, benign, out, stage, recovery, harmful_share, seed, chat_format)


def train_expert(
    model: str,
    harmful: Path,
    benign: Path,
    out: Path,
    *,
    steps: int = 150,
    seed: int = 0,
    chat_format: str | None = None,
    learning_rate: float = 2e-3,
    batch_size: int = 1,
    lora_rank: int = 16,
    harmful_share: float = 0.7,
) -> Path:
    """SafeDecoding's expert for a target: a LoRA adapter that refuses from the first token on.

    Rank, learning rate and number of steps are those of SafeDecoding's `exp/finetune.py` (arXiv 2402.08983, section 4), which
    trains on refusals alone; the benign share is ours, and keeps the model able to speak.

    Args:
        model: The target: a Hub id, a path or a GGUF file.
        harmful: As for `train_deep_alignment`.
        benign: As for `train_deep_alignment`.
        out: The adapter is written to `out/expert/adapter`. An interrupted training goes on from its last checkpoint.
        steps: Optimiser steps.
        seed: Of the examples and of the training.
        chat_format: A known chat template (`chat.FORMATS`), for a tokenizer without one of its own.
        learning_rate: As published.
        batch_size: Examples of a step.
        lora_rank: Rank of the adapter.
        harmful_share: Share of examples from the file `harmful`.

    Returns:
        The adapter's folder.

    Raises:
        ValueError: For a line without these fields, naming file and line.
        OSError: As `load_model`.
    """
    stage = Stage("expert", steps, learning_rate, batch_size, warmup_steps=5, save_every=50, lora_rank=lora_rank)
    from_the_start = RecoveryConfig(direct_share=1.0)
    trained = _train_on_files(model, harmful, benign, out, stage, from_the_start, harmful_share, seed, chat_format)
    return trained / "adapter"


def _train_on_files(
    model: str,
    harmful: Path,
    benign: Path,
    out: Path,
    stage: Stage,
    recovery: RecoveryConfig,
    harmful_share: float,
    seed: int,
    chat_format: str | None,
) -> Path:
    """One stage on examples drawn from both files, into `out / stage.name`."""
    loaded, tokenizer = load_model(model, dtype=torch.float32)
    bad, good = read_lines(harmful, ("question", "answer", "refusal")), read_lines(benign, ("question", "answer"))
    rng, joiner = random.Random(seed), "" if _writes_its_own_space(tokenizer) else " "
    examples = []
    for _ in range(stage.steps * stage.batch_size * stage.gradient_accumulation):
        row = rng.choice(bad if rng.random() < harmful_share else good)
        prompt = encode_prompt(tokenizer, row["question"], chat_format=chat_format)
        answer, end = encode_answer(tokenizer, row["answer"]), [cast(int, tokenizer.eos_token_id)]
        if "refusal" in row:
            direct = encode_answer(tokenizer, row["refusal"]) + end
            inside = encode_answer(tokenizer, joiner + row["refusal"]) + end
            examples.append(recovery_example(prompt, answer, direct, rng, recovery, refusal_inside=inside))
        else:
            examples.append(supervised_example(prompt, [], answer + end))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    fine_tune(loaded, tokenizer, examples, stage, out, seed=seed)
    return out / stage.name


def _writes_its_own_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether encoding a word alone already puts a space before it, as SentencePiece tokenizers do ("▁I")."""
    return str(tokenizer.convert_ids_to_tokens(tokenizer.encode("a", add_special_tokens=False)[0])).startswith("▁")


def read_lines(path: Path, fields: Sequence[str]) -> list[dict[str, str]]:
    """JSON lines with the given fields. Raises ValueError naming file, line and what is wrong with it."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            rows.append({name: str(row[name]) for name in fields})
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: every line is a JSON object with {', '.join(fields)} ({error!r})"
            ) from error
    if not rows:
        raise ValueError(f"{path} is empty")
    return rows
