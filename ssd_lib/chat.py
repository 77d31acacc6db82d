"""From a question to token ids: chat templates, prefilled answers, and both models' prompts from one question.

A tokenizer's own chat template is used where it has one; otherwise one of the known templates below, which render as
FastChat 0.2.36 does. A *prefilled* answer (what an attacker writes in the model's name) is encoded on its own and its
ids are appended, so target and draft, which share a vocabulary, see the same answer behind different prompts.

Questions are untrusted: a special token's string inside one ("<|eos|>") is broken by a space and stays text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

Message = dict[str, str]

TEMPLATE_DATE = "26 Jul 2024"
"""Llama 3.1 and 3.2 templates tell the model a date, 3.2 today's: fixed to the one both fall back on, so that a prompt is
the same every day and for both models."""


@dataclass(frozen=True)
class ChatFormat:
    """A known chat template (Jinja), its default system prompt, and whether a prompt begins with BOS."""

    template: str
    system: str | None = None
    bos: bool = True


FORMATS: dict[str, ChatFormat] = {
    "llama2": ChatFormat(
        "{% set system = messages[0].content if messages[0].role == 'system' else none %}"
        "{% for message in messages if message.role != 'system' %}"
        "{% if message.role == 'user' %}{% if not loop.first %}{{ bos_token }}{% endif %}[INST] "
        "{% if loop.first and system %}<<SYS>>\n{{ system }}\n<</SYS>>\n\n{% endif %}{{ message.content }} [/INST]"
        "{% else %} {{ message.content }} {{ eos_token }}{% endif %}{% endfor %}"
    ),
    "vicuna": ChatFormat(
        "{% if messages[0].role == 'system' %}{{ messages[0].content }} {% endif %}"
        "{% for message in messages if message.role != 'system' %}"
        "{% if message.role == 'user' %}USER: {{ message.content }} ASSISTANT:"
        "{% else %} {{ message.content }}{{ eos_token }}{% endif %}{% endfor %}",
        system="A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    ),
    "llama3": ChatFormat(
        "{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n{{ message.content }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "tinyllama": ChatFormat(
        "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    "toy": ChatFormat(
        "{% for message in messages if message.role != 'system' %}<|{{ message.role }}|>{{ message.content }}"
        "{% if message.role == 'assistant' %}<|eos|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    ),
}


def render_prompt(
    tokenizer: PreTrainedTokenizerBase,
    question: str | Sequence[Message],
    *,
    chat_format: str | None = None,
    system: str | None = None,
) -> str:
    """The prompt as text, without a leading BOS. `question` may be a whole conversation ending with the user's turn.

    `system` overrides the format's system prompt ("" for none). Raises ValueError for an unknown format, an empty
    question, a conversation that does not end with the user's turn, or a tokenizer without a template where no format is
    named.
    """
    fallback = _known(chat_format) if chat_format else None
    if tokenizer.chat_template is None and fallback is None:
        raise ValueError(f"the tokenizer has no chat template of its own: name one of {', '.join(FORMATS)}")
    messages = _messages(tokenizer, question)
    chosen = default_system(tokenizer, chat_format) if system is None else system
    if chosen and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": chosen}, *messages]
    template = None if tokenizer.chat_template is not None or fallback is None else fallback.template
    text = tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=True, date_string=TEMPLATE_DATE
    )
    assert isinstance(text, str)
    return text.removeprefix(tokenizer.bos_token or "")


def default_system(tokenizer: PreTrainedTokenizerBase, chat_format: str | None) -> str:
    """The system prompt a question gets when none is named: the format's, unless the tokenizer's own template decides."""
    if tokenizer.chat_template is not None or chat_format is None:
        return ""
    return _known(chat_format).system or ""


def _known(chat_format: str) -> ChatFormat:
    if chat_format not in FORMATS:
        raise ValueError(f"unknown chat format {chat_format!r}: choose one of {', '.join(FORMATS)}")
    return FORMATS[chat_format]


def _messages(tokenizer: PreTrainedTokenizerBase, question: str | Sequence[Message]) -> list[Message]:
    messages = [{"role": "user", "content": question}] if isinstance(question, str) else [dict(m) for m in question]
    if not messages or not messages[-1]["content"].strip():
        raise ValueError("the question is empty")
    if messages[-1]["role"] != "user":
        raise ValueError("a conversation ends with the user's turn: pass the beginning of the answer as prefill=")
    return [message | {"content": disarm(tokenizer, message["content"])} for message in messages]


def disarm(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Break special tokens' strings, so that a question cannot end the turn it stands in."""
    for special in sorted(set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab()), key=len, reverse=True):  # pyright: ignore[reportOptionalCall]
        if len(special) > 1:
            text = text.replace(special, f"{special[0]} {special[1:]}")
    return text


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    question: str | Sequence[Message],
    *,
    chat_format: str | None = None,
    system: str | None = None,
    prefill: str | Sequence[int] = "",
) -> list[int]:
    """Token ids of the prompt, BOS once at the front where the format has one, and of the prefilled answer behind it."""
    text = render_prompt(tokenizer, question, chat_format=chat_format, system=system)
    ids = tokenizer.encode(text, add_special_tokens=False)
    own = tokenizer.chat_template is not None
    starts_with_bos = own or chat_format is None or FORMATS[chat_format].bos
    if starts_with_bos and tokenizer.bos_token_id is not None and ids[0] != tokenizer.bos_token_id:
        ids = [tokenizer.bos_token_id, *ids]
    return ids + encode_answer(tokenizer, prefill)


def encode_answer(tokenizer: PreTrainedTokenizerBase, prefill: str | Sequence[int]) -> list[int]:
    """Ids of a (prefilled) answer: encoded on its own, so that they are the same behind every prompt."""
    if not isinstance(prefill, str):
        return list(prefill)
    return tokenizer.encode(prefill, add_special_tokens=False) if prefill else []


def decode_answer(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], before: Sequence[int] = ()) -> str:
    """Text of `ids` as it stands behind `before`, special tokens left out.

    SentencePiece decoders drop the space that begins a text, so a continuation decoded on its own would be glued to
    what it continues.
    """
    head = str(tokenizer.decode(list(before), skip_special_tokens=True))
    whole = str(tokenizer.decode([*before, *ids], skip_special_tokens=True))
    if whole.startswith(head):
        return whole[len(head) :]
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))  # `before` ends inside a character


def pad_left(
    prompts: Sequence[Sequence[int]], pad_id: int | None
) -> tuple[Int[Tensor, "rows length"], Int[Tensor, "rows length"]]:
    """Prompts of different length as one tensor, padded on the left, and its attention mask."""
    length = max(map(len, prompts))
    pad = 0 if pad_id is None else pad_id
    ids = torch.tensor([[pad] * (length - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask
