"""Guesses from the text so far: what followed the last few tokens when they occurred before (prompt lookup).

Where an answer copies (code, quotes, sums repeated from the question) the context itself guesses well, and a guess costs
nothing: both models then score all of them in one pass each, instead of the draft proposing one by one. Any guess is
allowed, since each emitted token is still chosen from both models' probabilities. Source of the idea: prompt lookup decoding
(Saxena 2023), in transformers as `prompt_lookup_num_tokens`.
"""

from __future__ import annotations

from collections.abc import Iterable

SIZES = (4, 3)  # tokens that must agree, the longest first


class ContextLookup:
    """An index of the text so far: where every run of `SIZES` tokens last ended."""

    def __init__(self, tokens: Iterable[int]):
        self.tokens: list[int] = []
        self.ends: dict[tuple[int, ...], int] = {}
        self.extend(tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Append tokens. A run is indexed once a token follows it, so that a lookup never finds the text's own end."""
        for token in tokens:
            for size in SIZES:
                if len(self.tokens) >= size:
                    self.ends[tuple(self.tokens[-size:])] = len(self.tokens)
            self.tokens.append(token)

    def guess(self, count: int) -> list[int] | None:
        """The next `count` tokens as they followed the last run like this one, None where there is none.

        Where the text ends first it is continued as a repetition: a loop of any length guesses itself.
        """
        for size in SIZES:
            end = self.ends.get(tuple(self.tokens[-size:])) if len(self.tokens) >= size else None
            if end is not None:
                followed = self.tokens[end:]
                return [followed[i % len(followed)] for i in range(count)]
        return None
