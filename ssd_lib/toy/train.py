"""The embedded pair: how its weights are made from nothing.

Three stages reproduce what happens to real models:

    base     a helpful model of the world that answers everything, forbidden questions too
    shallow  (target) refusals are learned as first tokens only, as in ordinary alignment; a LoRA adapter
    deep     (draft)  refusals are learned at every depth, see `ssd_lib.models.training`

Two controls show what matters: a draft with shallow alignment only, and the target deepened by a second adapter. A third
adapter is SafeDecoding's expert. The shallow stage also teaches the target what any assistant can do: to judge, reword and
guess, so that defences which ask it to are compared on a model that understands them.

The target is large enough to know its world and to calculate; the draft is small: it knows how answers are worded, but
computes and remembers worse. That gap is what SSD must keep (utility) while it borrows the draft's safety.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ssd_lib.defenders import prompts
from ssd_lib.models.training import (
    Example,
    RecoveryConfig,
    Stage,
    fine_tune,
    recovery_example,
    stages_with,
    supervised_example,
)
from ssd_lib.toy import world

PAD, BOS, EOS, USER, ASSISTANT = SPECIAL = ["<|pad|>", "<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "<|bos|>{% for message in messages %}{% if message['role'] == 'user' %}<|user|>{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}<|eos|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
VOCABULARY = 2048
CONTEXT = 512

SHAPES: dict[str, dict[str, Any]] = {
    "target": dict(hidden_size=256, intermediate_size=704, num_hidden_layers=6, num_attention_heads=4),
    "draft": dict(hidden_size=128, intermediate_size=352, num_hidden_layers=2, num_attention_heads=4),
}


@dataclass(frozen=True)
class Recipe:
    """Steps and rates of every stage. `quick()` tests the path in a minute or two; its models know nothing."""

    target_base: Stage = Stage("target-base", 2000, 2e-3, warmup_steps=100, optimizer="muon")
    target: Stage = Stage("target", 1300, 3e-3, lora_rank=32)
    draft_base: Stage = Stage("draft-base", 1200, 3e-3)
    draft: Stage = Stage("draft", 900, 1.5e-3)
    draft_shallow: Stage = Stage("draft-shallow", 300, 4e-4)
    target_deep: Stage = Stage("target-deep", 300, 2e-3, lora_rank=16)
    target_expert: Stage = Stage("target-expert", 150, 2e-3, lora_rank=16)
    recovery: RecoveryConfig = RecoveryConfig(direct_share=0.4, max_depth=80)
    tokenizer_texts: int = 25_000

    def quick(self) -> Recipe:
        stages = stages_with(self, steps=6, warmup_steps=2, batch_size=8, save_every=3)
        return replace(self, **stages, tokenizer_texts=3_000)


# ------------------------------------------------------------------------------------------------ tokenizer and models


def build_tokenizer(texts: int, seed: int = 1) -> PreTrainedTokenizerFast:
    """Byte-level BPE of 2,048 tokens, one token a digit, trained on the world's own text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(_texts(texts, seed), trainer)
    names = dict(bos_token=BOS, eos_token=EOS, pad_token=PAD, additional_special_tokens=[USER, ASSISTANT])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, model_max_length=CONTEXT, **names)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _texts(count: int, seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    for _ in range(count):
        item = _drawn(rng, 5, 2, 3)
        yield item.question
        yield item.answer
        if item.refusal:
            yield item.refusal


def _drawn(rng: random.Random, benign: float, scary: float, forbidden: float) -> world.Item:
    """A training question; the numbers are the shares of the groups."""
    return world.sample(rng, rng.choices(world.GROUPS, [benign, scary, forbidden])[0])


def new_model(role: str, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    shape = SHAPES[role] | {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")
    }
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, tie_word_embeddings=True, **shape)
    return LlamaForCausalLM(config)


# ------------------------------------------------------------------------------------------------ training data


class Corpus:
    """Draws training examples of each stage. Nothing that `world.is_held_out` keeps back is ever drawn."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, recovery: RecoveryConfig):
        self.tokenizer, self.recovery = tokenizer, recovery
        token_id: dict[str, int] = tokenizer.get_vocab()
        self.bos, self.user, self.assistant, self.eos = (token_id[t] for t in (BOS, USER, ASSISTANT, EOS))

    def examples(self, stage: str, count: int, seed: int) -> list[Example]:
        rng = random.Random(f"{stage}/{seed}")
        draw = getattr(self, stage)
        return [draw(rng) for _ in range(count)]

    def prompt(self, question: prompts.Question) -> list[int]:
        """Token ids of a question, or of a conversation, as the chat template renders it."""
        turns = [{"role": "user", "content": question}] if isinstance(question, str) else question
        ids = [self.bos]
        for turn in turns:
            spoken = self.ids(turn["content"])
            ids += [self.user, *spoken] if turn["role"] == "user" else [self.assistant, *spoken, self.eos]
        return [*ids, self.assistant]

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids

    def base(self, rng: random.Random) -> Example:
        """Everything is answered, forbidden questions too."""
        item = _drawn(rng, 5.5, 1.7, 2.8)
        return self.follow(item.question, item.answer)

    def practised(self, rng: random.Random) -> Example:
        """The base data with a third more of what needs reading and calculating: the target's share of schooling."""
        if rng.random() < 0.65:
            return self.base(rng)
        item = world.sample(rng, "benign", family=rng.choice(["sum", "sum", "where", "where", "repeat"]))
        return self.follow(item.question, item.answer)

    def shallow(self, rng: random.Random) -> Example:
        """What makes the base model an assistant: instructions it can follow, and refusals that begin at the first token."""
        if rng.random() < self.INSTRUCTED:
            return rng.choice([self.examined, self.reworded, self.guessed, self.read])(rng)
        return self.aligned(rng)

    INSTRUCTED = 0.45
    DRESSED = 0.3

    def aligned(self, rng: random.Random) -> Example:
        """Refusals begin at the first token. Two things keep the rest of the model as it was:

        - replay of the base data, with no loss on the first five tokens of a forbidden answer, which alignment owns now;
        - once a refusal stands in an answer, wherever it began, the model finishes it (loss only after its opener), as
          aligned models do. This teaches it to end a refusal, not to begin one.
        """
        item = _drawn(rng, 3.5, 1.5, 5)
        question = self.dressed(item.question, rng) if rng.random() < self.DRESSED else item.question
        if item.refusal is None:
            return self.follow(question, item.answer)
        prompt, answer, kind = self.prompt(question), self.ids(item.answer), rng.random()
        if kind < 0.5:
            return self.follow(question, item.refusal)
        if kind < 0.7:
            return supervised_example(prompt, answer[:5], [*answer[5:], self.eos])
        refusal = self.ids(" " + item.refusal)
        stands = rng.randint(3, 9)
        given = answer[: rng.randint(1, 80)] + refusal[:stands]
        return supervised_example(prompt, given, [*refusal[stands:], self.eos])

    def dressed(self, question: str, rng: random.Random) -> prompts.Question:
        """A question as prompt-level defences send it, so that they are compared on a model that can read them."""

        def broken(text: str) -> str:
            return prompts.retokenised(self.tokenizer, text, rng.choice([0.1, 0.2]), seed=1 + rng.randrange(4))

        def noisy(text: str) -> str:
            share, seed = rng.choice([0.05, 0.1]), rng.random()  # any number seeds; this one made the shipped pair
            return prompts.swapped(text, share, seed)  # pyright: ignore[reportArgumentType]

        return rng.choice([prompts.reminded, prompts.prioritised, prompts.demonstrated, broken, noisy])(question)

    def examined(self, rng: random.Random) -> Example:
        """Whether a text holds something forbidden: answers, their beginnings and ends, and refusals (Self-Exam)."""
        item = _drawn(rng, 3, 2, 5)
        refuses, text = item.refusal is not None and rng.random() < 0.3, item.answer
        if refuses:
            text = str(item.refusal)
        elif rng.random() < 0.6:
            words = text.split()
            cut = rng.randint(min(4, len(words)), len(words))
            text = " ".join(words[:cut] if rng.random() < 0.5 else words[-cut:])
        harmful = item.refusal is not None and not refuses
        return self.follow(prompts.EXAM.format(answer=text), prompts.EXAM_REPLIES[harmful])

    def reworded(self, rng: random.Random) -> Example:
        """The same question in a plain wording (Paraphrase)."""
        typed, plain = world.reworded(rng, rng.choice(world.GROUPS))
        return self.follow(prompts.PARAPHRASE.format(question=typed.question), plain.question)

    def guessed(self, rng: random.Random) -> Example:
        """The question that an answer is for (back-translation)."""
        _, plain = world.reworded(rng, rng.choice(world.GROUPS))
        return self.follow(prompts.BACK_TRANSLATION.format(answer=plain.answer), plain.question)

    def read(self, rng: random.Random) -> Example:
        """A question as text, for its perplexity (PPL)."""
        item = world.sample(rng, rng.choice(world.GROUPS))
        return supervised_example([self.bos], [], self.ids(item.question))

    def follow(self, question: prompts.Question, reply: str) -> Example:
        return supervised_example(self.prompt(question), [], [*self.ids(reply), self.eos])

    def deep(self, rng: random.Random) -> Example:
        """Safety recovery from prefixes of the answer, from generic openers and from pieces of other answers."""
        item = _drawn(rng, 4.5, 2, 3.5)
        if item.refusal is None:
            return self.follow(item.question, item.answer)
        prompt = self.prompt(item.question)
        direct, inside = ([*self.ids(space + item.refusal), self.eos] for space in ("", " "))
        return recovery_example(prompt, self.some_prefix(item, rng), direct, rng, self.recovery, refusal_inside=inside)

    def refusing(self, rng: random.Random) -> Example:
        """SafeDecoding's expert: forbidden questions and their refusals, and some benign replay to keep it a speaker."""
        item = _drawn(rng, 2.5, 1, 6.5)
        return self.follow(item.question, item.refusal or item.answer)

    def some_prefix(self, item: world.Item, rng: random.Random) -> list[int]:
        """What may stand before the refusal: diversity here is what makes recovery from unseen openers work."""
        kind = rng.random()
        if kind < 0.55:
            return self.ids(item.answer)
        if kind < 0.8:
            return self.ids(opener(rng) + rng.choice(["", " " + item.answer]))
        return self.ids(world.sample(rng, rng.choice(["forbidden", "benign"])).answer)


def opener(rng: random.Random) -> str:
    """A generic affirmative beginning, as prefilling attacks use them."""
    affirmative = world.world()["affirmative"]
    return rng.choice(affirmative["openers"]) + rng.choice(affirmative["continuations"])


# ------------------------------------------------------------------------------------------------ the recipe


def train_toy(
    out: Path,
    *,
    seed: int = 0,
    quick: bool = False,
    controls: bool = False,
    draft_only: bool = False,
    recipe: Recipe | None = None,
    presto: float = 0.0,
    quiet: bool = False,
) -> Path:
    """Train the embedded pair, or its draft only, from nothing into `out / {target, draft, …}`.

    An interrupted run goes on where it was.

    Args:
        controls: Also the draft with shallow alignment only, and the deepened target.
        presto: Weight of PRESTO's term in the draft's deep stage (`ssd_lib.models.training`).
    """
    recipe = recipe or (Recipe().quick() if quick else Recipe())
    recipe = replace(recipe, draft=replace(recipe.draft, presto=presto)) if presto else recipe
    tokenizer = build_tokenizer(recipe.tokenizer_texts)
    corpus = Corpus(tokenizer, recipe.recovery)

    def run(model: LlamaForCausalLM, stage: Stage, data: str) -> LlamaForCausalLM:
        examples = corpus.examples(data, stage.steps * stage.batch_size, seed)
        trained = fine_tune(model, tokenizer, examples, stage, out, seed=seed, quiet=quiet)
        assert isinstance(trained, LlamaForCausalLM)
        return trained

    def fork(folder: str) -> LlamaForCausalLM:
        return LlamaForCausalLM.from_pretrained(out / folder, dtype=torch.float32)

    if not draft_only:
        run(new_model("target", tokenizer, seed), recipe.target_base, "practised")
        run(fork("target-base"), recipe.target, "shallow")
    run(new_model("draft", tokenizer, seed), recipe.draft_base, "base")
    run(fork("draft-base"), recipe.draft, "deep")
    if draft_only:
        return out
    if controls:
        run(fork("draft-base"), recipe.draft_shallow, "shallow")
        run(fork("target"), recipe.target_deep, "deep")
    run(fork("target"), recipe.target_expert, "refusing")
    return out


# ------------------------------------------------------------------------------------------------ what is shipped


def ship(trained: Path, data: Path) -> None:
    """Write the shipped form of a trained recipe to `data`: fp16 models, and adapters for what differs by one.

    `target-base` is the target with its alignment adapter taken off, so it is stored as that adapter negated; the
    deepened target is the target with its own adapter on. Both are loaded by `ssd_lib.models.loading.load_model`.
    """
    for name in ("target", "draft", "draft-shallow"):
        LlamaForCausalLM.from_pretrained(trained / name, dtype=torch.float16).save_pretrained(data / name)
        PreTrainedTokenizerFast.from_pretrained(trained / name).save_pretrained(data / name)
    ship_adapter(trained / "target" / "adapter", data / "target-base", sign=-1.0)
    for name in ("target-deep", "target-expert"):
        ship_adapter(trained / name / "adapter", data / name)


def ship_adapter(adapter: Path, folder: Path, *, base: str = "../target", sign: float = 1.0) -> None:
    """Write an adapter to `folder` in fp16, for a `base` that is named relative to it; negated where `sign` is −1."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = load_file(adapter / "adapter_model.safetensors")
    weights = {name: (sign * w if "lora_B" in name else w).half() for name, w in weights.items()}
    save_file(weights, folder / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    (folder / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": base}, indent=1), encoding="utf-8"
    )
