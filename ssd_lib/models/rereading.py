"""The draft's prompt from the target's, where the two are spoken to with different chat templates.

Inside transformers' `generate` there is the target's prompt alone, as token ids. It was written by the target's chat template, so
that the conversation can be read back from it: the template, rendered with marks in the place of what is said, is a pattern.
What was read is believed only where the template, given it, writes the very same ids again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import product

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ssd_lib.models.chat import Message, encode_prompt

MARK = "qzturn{}zq"
MOST_TURNS = 64


class Rereader:
    """Reads conversations back from the target's prompts, and writes them as the draft's.

    Both tokenizers have chat templates of their own and share a vocabulary.
    """

    def __init__(self, target: PreTrainedTokenizerBase, draft: PreTrainedTokenizerBase):
        self.target, self.draft = target, draft
        self.patterns: dict[tuple[int, bool, bool], re.Pattern[str] | None] = {}

    def __call__(self, prompt: Sequence[int]) -> list[int]:
        """The draft's prompt: the same conversation in its own template, and the same beginning of an answer.

        Raises ValueError for a prompt that the target's template does not write.
        """
        ids = list(prompt)
        text = str(self.target.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        for messages in self._readings(text):
            written = self._written(messages)
            if written is not None and ids[: len(written)] == written:
                return encode_prompt(self.draft, messages) + ids[len(written) :]
        raise ValueError(
            "the draft has another chat template than the target, and this prompt is none that the target's writes, so that it "
            "cannot be put to the draft: send messages, or pass draft_input_ids="
        )

    @cached_property
    def most_common(self) -> str:
        """What stands before every answer, without blanks, by which turns are counted."""
        return _without_blanks((self._rendered(_turns(1, False)) or "").partition(MARK.format(1))[2])

    def _readings(self, text: str) -> Iterator[list[Message]]:
        """Conversations that the text may be. The longest first: what follows the last prompt is the answer's beginning. Of
        as long ones first where the template explains most of the text: a system turn is no part of a question, and a
        template's default is no system turn."""
        most = min(_without_blanks(text).count(self.most_common), MOST_TURNS) if self.most_common else 1
        for turns in range(most, 0, -1):
            found: list[list[Message]] = []
            for system, loose in product((True, False), (False, True)):
                pattern = self._pattern(turns, system, loose)
                match = pattern.match(text) if pattern else None
                if match:
                    said = zip(_turns(turns, system), match.groups(), strict=True)
                    found.append([turn | {"content": part} for turn, part in said])
            yield from sorted(found, key=lambda messages: sum(len(turn["content"]) for turn in messages))

    def _pattern(self, turns: int, system: bool, loose: bool) -> re.Pattern[str] | None:
        """A conversation of so many questions as a pattern; None where the template does not show a system turn.

        loose: with any blanks around special tokens, where some tokenizers decode such as were not there.
        """
        key = (turns, system, loose)
        if key not in self.patterns:
            rendered = self._rendered(_turns(turns, system)) or ""
            marks = [MARK.format(place) for place in range(0 if system else 1, 2 * turns)]
            whole = all(rendered.count(mark) == 1 for mark in marks)
            parts = [self._literal(part, loose) for part in re.split("|".join(marks), rendered)]
            # atomic: each text ends at the first place where it can, so that no prompt makes the search long
            said = "".join(f"(?>(.*?){part})" for part in parts[1:])
            self.patterns[key] = re.compile(parts[0] + said, re.DOTALL) if whole else None
        return self.patterns[key]

    def _literal(self, text: str, loose: bool) -> str:
        special = [token for token in self.target.all_special_tokens if token]
        if not (special and loose):
            return re.escape(text)
        pieces = re.split(f"({'|'.join(map(re.escape, special))})", text)
        return "".join(rf"\s*{re.escape(piece)}\s*" if piece in special else re.escape(piece) for piece in pieces)

    def _rendered(self, messages: list[Message]) -> str | None:
        try:
            return str(self.target.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except TemplateError:  # takes no system turn
            return None

    def _written(self, messages: list[Message]) -> list[int] | None:
        text = self._rendered(messages)
        return None if text is None else self.target.encode(text, add_special_tokens=False)


def _turns(questions: int, system: bool) -> list[Message]:
    """A conversation of marks: 0 is the system turn, then question and answer in turn, a question last."""
    first: list[Message] = [{"role": "system", "content": MARK.format(0)}] if system else []
    roles = ("user", "assistant")
    return first + [{"role": roles[i % 2], "content": MARK.format(i + 1)} for i in range(2 * questions - 1)]


def _without_blanks(text: str) -> str:
    return "".join(text.split())
