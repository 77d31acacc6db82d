"""From a question to token ids: chat templates, prefilled answers, and both models' prompts from one question.

A tokenizer's own chat template is used where it has one; otherwise one of the known templates below, which render as
FastChat 0.2.36 does. A *prefilled* answer (what an attacker writes in the model's name) is encoded on its own and its
ids are appended, so target and draft, which share a vocabulary, see the same answer after different prompts.

Questions are untrusted: a special token's string inside one ("<|eos|>") is broken by a space and stays text.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from jinja2 import TemplateError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

Message = dict[str, Any]
Question = str | Sequence[Message]
"""What the user says, or a conversation that ends with the user's turn."""

TEMPLATE_DATE = "26 Jul 2024"
"""The templates of Llama 3.1 and 3.2 give the model a date, 3.2 today's. It is fixed to the one that both fall back on, so that
a prompt is the same every day and for both models."""


@dataclass(frozen=True)
class ChatFormat:
    """A known chat template (Jinja), its default system prompt, and whether a prompt begins with BOS."""

    template: str
    system: str | None = None
    bos: bool = True
    drops_system: bool = False
    """System turns are left out on purpose: the embedded pair was never taught any, and chapter 07 shows what that costs."""


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
        "{% if message.role == 'assistant' %}<|eos|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
        drops_system=True,
    ),
}


def render_prompt(
    tokenizer: PreTrainedTokenizerBase,
    question: Question,
    *,
    chat_format: str | None = None,
    system: str | None = None,
) -> str:
    """The prompt as text, without a leading BOS.

    Args:
        tokenizer: Whose chat template is used, where it has one.
        question: Text, or a conversation that ends with the user's turn.
        chat_format: One of `FORMATS`, for a tokenizer without a chat template of its own.
        system: A system prompt in place of the format's ("" for none).

    Raises:
        ValueError: For an unknown format, an empty question, a conversation that does not end with the user's turn, or a
            tokenizer without a template where no format is named.
    """
    return _rendered(tokenizer, question, chat_format, system).removeprefix(str(tokenizer.bos_token or ""))


def _rendered(tokenizer: PreTrainedTokenizerBase, question: Any, chat_format: str | None, system: str | None) -> str:
    """The prompt exactly as the template writes it, with the BOS that the template itself has."""
    fallback = None if chat_format is None else _known(chat_format)
    if tokenizer.chat_template is None and fallback is None:
        raise ValueError(f"the tokenizer has no chat template of its own: name one of {', '.join(FORMATS)}")
    template = None if tokenizer.chat_template is not None or fallback is None else fallback.template
    messages = messages_of(question)
    chosen = default_system(tokenizer, chat_format) if system is None else _text(system, "system")
    if chosen and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": chosen}, *messages]
    control = control_tokens(tokenizer, template)
    messages = [turn | {"content": _broken(control, turn["content"])} for turn in messages]
    passed_over = fallback is not None and fallback.drops_system
    if messages[0]["role"] == "system" and not passed_over and not _takes_system(tokenizer, template):
        messages = _system_in_first_turn(messages)
    try:
        return _apply(tokenizer, template, messages)
    except TemplateError as error:
        raise ValueError(f"the chat template refuses this conversation: {error}") from error


def _apply(tokenizer: PreTrainedTokenizerBase, template: str | None, messages: list[Message]) -> str:
    return str(
        tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=True, date_string=TEMPLATE_DATE
        )
    )


def _takes_system(tokenizer: PreTrainedTokenizerBase, template: str | None) -> bool:
    """Whether a system text arrives in the prompt, found by rendering one."""
    turns = [{"role": "system", "content": "systemprobe"}, {"role": "user", "content": "question"}]
    try:
        return "systemprobe" in _apply(tokenizer, template, turns)
    except TemplateError:  # Gemma's raises
        return False


def _system_in_first_turn(messages: list[Message]) -> list[Message]:
    system, first, *rest = messages
    return [first | {"content": f"{system['content']}\n\n{first['content']}".strip()}, *rest]


def default_system(tokenizer: PreTrainedTokenizerBase, chat_format: str | None) -> str:
    """The system prompt a question gets when none is named: the format's, unless the tokenizer's own template decides."""
    if tokenizer.chat_template is not None or chat_format is None:
        return ""
    return _known(chat_format).system or ""


def _known(chat_format: str) -> ChatFormat:
    if not isinstance(chat_format, str) or chat_format not in FORMATS:
        raise ValueError(f"unknown chat format {chat_format!r}: choose one of {', '.join(FORMATS)}")
    return FORMATS[chat_format]


def messages_of(question: Any) -> list[Message]:
    """A question as checked messages, each content one text. Raises TypeError or ValueError naming the message."""
    if isinstance(question, str):
        question = [{"role": "user", "content": question}]
    if not isinstance(question, Sequence) or isinstance(question, bytes):
        raise TypeError(f"a question is text or a list of messages, not {type(question).__name__}")
    messages = [_message(index, message) for index, message in enumerate(question)]
    if not messages or not messages[-1]["content"].strip():
        raise ValueError("the question is empty")
    if messages[-1]["role"] != "user":
        raise ValueError("a conversation ends with the user's turn: pass the beginning of the answer as prefill=")
    return messages


def _message(index: int, message: Any) -> Message:
    if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
        raise ValueError(f"message {index} is {message!r:.80}: give a dict with 'role' and 'content'")
    role, content = message["role"], message["content"]
    if role not in ("system", "user", "assistant") or (role == "system" and index):
        raise ValueError(f"message {index} has the role {role!r}: allowed are user, assistant, and system as the first")
    parts = content if isinstance(content, (list, tuple)) else [{"type": "text", "text": content}]
    for part in parts:
        text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
        if not isinstance(text, str):
            raise ValueError(
                f"message {index} has content that is no text: give text or parts {{'type': 'text', 'text': …}}"
            )
    joined = "".join(part["text"] for part in parts)
    return {**message, "role": role, "content": _text(joined, f"message {index}")}


def _text(text: Any, name: str) -> str:
    """`text` where it is one that can be encoded; TypeError or ValueError naming the argument else."""
    if not isinstance(text, str):
        raise TypeError(f"{name} is text, not {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} has a lone surrogate at character {error.start}: pass valid Unicode text") from None
    return text


def control_tokens(tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> list[str]:
    """Tokens that steer: special ones, and added ones that the chat template writes (no blanks, no plain words)."""
    added = {str(token): token.special for token in tokenizer.added_tokens_decoder.values()}
    templates = template or tokenizer.chat_template or ""
    written = "".join(templates.values()) if isinstance(templates, dict) else templates
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
    with contextlib.suppress(TemplateError):
        written += _apply(tokenizer, template, turns) if written else ""
    marks = {token for token in added if token in written and not token.replace(" ", "").isalnum()}
    flagged = {token for token, special in added.items() if special} | set(tokenizer.all_special_tokens)
    return sorted((t for t in flagged | marks if len(t) > 1 and t.strip()), key=len, reverse=True)


def disarm(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Break control tokens' strings, so that a question cannot end the turn it stands in."""
    return _broken(control_tokens(tokenizer), text)


def _broken(control: Sequence[str], text: str) -> str:
    """A space after each control token's first character, until none is left: one broken may have formed another."""
    for _ in range(8):
        if not any(token in text for token in control):
            return text
        for token in control:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    while any(token in text for token in control):  # tokens made of blanks and marks: take them out
        for token in control:
            text = text.replace(token, "")
    return text


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    question: Question,
    *,
    chat_format: str | None = None,
    system: str | None = None,
    prefill: str | Sequence[int] = "",
) -> list[int]:
    """Token ids of the prompt, BOS once at the front where the format has one, and of the prefilled answer."""
    ids = tokenizer.encode(_rendered(tokenizer, question, chat_format, system), add_special_tokens=False)
    known = tokenizer.chat_template is None and chat_format is not None and _known(chat_format).bos
    if known and tokenizer.bos_token_id is not None and ids[0] != tokenizer.bos_token_id:
        ids = [tokenizer.bos_token_id, *ids]
    return ids + encode_answer(tokenizer, prefill)


def encode_answer(tokenizer: PreTrainedTokenizerBase, prefill: str | Sequence[int]) -> list[int]:
    """Ids of a (prefilled) answer: encoded on its own, so that they are the same after every prompt.

    Raises:
        TypeError: For what is neither text nor whole numbers.
        ValueError: For ids that the tokenizer does not have.
    """
    if isinstance(prefill, str):
        return tokenizer.encode(_text(prefill, "prefill"), add_special_tokens=False) if prefill else []
    if isinstance(prefill, (bytes, Mapping)) or not hasattr(prefill, "__len__"):
        raise TypeError(f"prefill is text or a list of token ids, not {type(prefill).__name__}")
    ids = prefill.tolist() if isinstance(prefill, Tensor) else list(prefill)
    size = vocabulary_size(tokenizer) if ids else 0
    for token_id in ids:
        if isinstance(token_id, bool) or not hasattr(token_id, "__index__"):
            raise TypeError(f"prefill has {token_id!r}, which is no token id: give text or whole numbers")
        if not 0 <= token_id < size:
            raise ValueError(f"prefill has the id {token_id}: give ids from 0 to {size - 1}")
    return [int(token_id) for token_id in ids]


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the largest id that has a token."""
    return max(tokenizer.get_vocab().values()) + 1


def decode_answer(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], before: Sequence[int] = ()) -> str:
    """Text of `ids` as it stands after `before`, special tokens left out.

    SentencePiece decoders drop the space that begins a text, so a continuation decoded on its own would be glued to
    what it continues.
    """
    head = str(tokenizer.decode(list(before), skip_special_tokens=True))
    whole = str(tokenizer.decode([*before, *ids], skip_special_tokens=True))
    if whole.startswith(head):
        return whole[len(head) :]
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))  # `before` ends inside a character


def pad_left(
    prompts: Sequence[Sequence[int]], pad_id: Any
) -> tuple[Int[Tensor, "rows length"], Int[Tensor, "rows length"]]:
    """Prompts of different length as one tensor, padded on the left (with 0 for `pad_id` None), and its attention mask."""
    if not prompts:
        raise ValueError("prompts is empty: give at least one")
    length = max(map(len, prompts))
    pad = 0 if pad_id is None else pad_id
    ids = torch.tensor([[pad] * (length - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask
