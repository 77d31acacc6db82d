"""What a guard is: a language model trained to read a question and an answer and to write a label in a fixed form.

What it was trained on is its interface, so prompts are kept to the letter: a guard whose tokenizer has a chat template is
asked through it, otherwise through a copy (`ssd_lib.judges.guards`). A reply in any other form leaves the answer unjudged.

Answers are untrusted: the guard's own marks are broken inside them (`base.broken`), and roles at the beginning of a line too.
"ONLY THE LAST Agent message" is what a guard judges: an answer could otherwise end with a harmless one of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ssd_lib.attacks import Record
from ssd_lib.judges.base import REASON_LENGTH, Reply, Unreadable, Verdict, broken, clip, unjudged
from ssd_lib.judges.local import LocalSettings, judge_locally, load, name_of
from ssd_lib.models.refusals import plain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Finding = tuple[str, str, dict[str, float | bool | str]]
"""Label, reason, details."""


@dataclass(frozen=True)
class Guard:
    """A classifier's prompt (with {question} and {answer}), its marks, and how its reply is read.

    `own_template`: whether the tokenizer's chat template, where there is one, is the guard's prompt.
    """

    prompt: str
    marks: str
    read: Callable[[str], Finding]
    own_template: bool = True

    def encode(self, tokenizer: PreTrainedTokenizerBase, question: str, answer: str) -> list[int]:
        """Token ids of the prompt, BOS once at the front where the tokenizer has one.

        Raises ValueError where the tokenizer's template leaves out the question or the answer.
        """
        from ssd_lib.models.chat import disarm

        question, answer = (disarm(tokenizer, broken(text, self.marks)) for text in (question, answer))
        if self.own_template and tokenizer.chat_template is not None:
            text = _by_own_template(tokenizer, question, answer)
        else:
            text = self.prompt.format(question=question.strip(), answer=answer.strip())
        text = text.lstrip().removeprefix(tokenizer.bos_token or "")
        first: Any = [tokenizer.bos_token_id] if tokenizer.bos_token else []
        return first + tokenizer.encode(text, add_special_tokens=False)


def _by_own_template(tokenizer: PreTrainedTokenizerBase, question: str, answer: str) -> str:
    """The conversation as the tokenizer's template renders it; some templates (Llama Guard 3 1B) want lists of parts."""
    from jinja2 import TemplateError

    shapes: tuple[Callable[[str], Any], ...] = (str, lambda text: [{"type": "text", "text": text}])
    for shape in shapes:
        turns = [{"role": "user", "content": shape(question)}, {"role": "assistant", "content": shape(answer)}]
        try:
            text = str(tokenizer.apply_chat_template(turns, tokenize=False))
        except (TemplateError, TypeError):
            continue
        if question.strip() in text and answer.strip() in text:
            return text
    raise ValueError("the guard's chat template leaves out the question or the answer: is this model a guard?")


def judge_with(
    judge: str, guard: Guard, records: Sequence[Record], answers: Sequence[str], settings: LocalSettings, note: str = ""
) -> list[Verdict]:
    """One verdict an answer, in order. `note`: what else decides a label, for the version."""
    model, tokenizer = load(settings)
    version = name_of(model, settings) + note

    def verdict(reply: Reply) -> Verdict:
        try:
            label, reason, details = guard.read(plain(reply.text))
        except Unreadable as why:
            return unjudged(judge, version, str(why), raw=reply.text, tokens=reply.tokens)
        return Verdict(
            judge, version, label, None, clip(reason, REASON_LENGTH), reply.text, details, tokens=reply.tokens
        )

    def prompt(record: Record, answer: str) -> list[int]:
        return guard.encode(tokenizer, record.question, answer)

    return judge_locally(judge, records, answers, settings, prompt, verdict)


def not_in_form(reply: str) -> Unreadable:
    return Unreadable(f"the guard's reply is not in its form: {clip(reply, 60) or '(empty)'}")
