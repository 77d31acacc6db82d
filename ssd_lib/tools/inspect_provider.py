"""inspect_ai's model provider `ssd/PAIR`.

    inspect eval task.py --model ssd/toy -M hardened=true

`ssd/own -M target=… -M draft=…` is a pair of your own. An answer's `output.metadata["ssd"]` holds its trace in a few numbers. A
last turn of the assistant's is the beginning of the answer, as an attacker writes it.

Questions that wait while a batch is answered become the next one, so the tool's own concurrency (`--max-connections`) fills the
batches. Sampled answers depend on who else is in theirs, greedy ones do not.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from anyio import Lock
from anyio.lowlevel import checkpoint
from anyio.to_thread import run_sync
from inspect_ai._util.error import PrerequisiteError  # pyright: ignore[reportMissingImports]  (what it shows without a traceback)
from inspect_ai.model import (  # pyright: ignore[reportMissingImports]
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.tool import ToolChoice, ToolInfo  # pyright: ignore[reportMissingImports]
from rich.markup import escape

from ssd_lib.tools.answerer import Answerer, Prompt, Reply, sampled, summary

MAX_TOKENS = 160
"""As in `ssd run`."""
REFUSED = (
    *("best_of", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs", "prompt_logprobs"),
    *("response_schema", "effort", "reasoning_effort", "reasoning_tokens", "modalities", "extra_body"),
)
"""What would change the answer and is not SSD's to give."""


DECODING = threading.Lock()
"""Providers of one process share the models."""


@lru_cache(maxsize=1)
def _loaded(name: str | None, options: str) -> Answerer:
    """inspect makes a provider for each of its own settings; the pair is loaded once."""
    return Answerer.load(name, **json.loads(options))


@dataclass(eq=False)
class _Waiting:
    """One question on its way into a batch."""

    prompt: Prompt
    options: tuple[int, tuple[str, ...], tuple[tuple[str, Any], ...]]
    """max_new_tokens, stop strings, sampling: a batch shares them."""
    reply: Reply | None = None


class SSDAPI(ModelAPI):
    """The provider. `-M` takes hardened, batch, options of `load_pair` and settings of SSD by name."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (inspect's own signature)
        batch: int = 8,
        **options: Any,
    ):
        settings = json.dumps(options, sort_keys=True, default=str)
        # inspect's cache tells models apart by name and address alone: settings are part of ours
        super().__init__(model_name, f"ssd:{settings}" if options else base_url, api_key, [], config)
        try:
            if type(batch) is not int or batch < 1:
                raise ValueError(f"batch={batch!r}: give the number of questions answered together, 1 or more")
            self.ssd = _loaded(None if model_name == "own" else model_name, settings)
        except (ValueError, OSError, ImportError) as error:
            raise PrerequisiteError(escape(str(error))) from error
        self.batch = batch
        self.lock, self.waiting = Lock(), list[_Waiting]()

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Answer a conversation. Raises ValueError for what cannot be asked of SSD."""
        if tools:
            raise ValueError(f"the provider ssd calls no tools, the task gives it {tools[0].name!r}")
        asked = _Waiting(self.prompt(input), read_config(config))
        self.ssd.check(asked.prompt, asked.options[0])
        self.waiting.append(asked)
        began = time.perf_counter()
        try:
            await checkpoint()  # the questions that come with this one get into its batch
            async with self.lock:
                if asked.reply is None:
                    await self._answer_batch(asked)
        finally:
            if asked in self.waiting:  # given up
                self.waiting.remove(asked)
        assert asked.reply is not None
        return self._output(asked, asked.reply, time.perf_counter() - began)

    async def _answer_batch(self, first: _Waiting) -> None:
        """Answer this question together with others that wait and are asked in the same way."""
        alike = [each for each in self.waiting if each.options == first.options and each is not first]
        batch = [first, *alike[: self.batch - 1]]
        self.waiting = [each for each in self.waiting if each not in batch]
        tokens, stop, sampling = first.options
        prompts = [each.prompt for each in batch]
        try:
            replies = await run_sync(lambda: self._ask(prompts, tokens, stop, dict(sampling)))
        except BaseException:  # the others of the batch ask for themselves
            self.waiting += batch[1:]
            raise
        for each, reply in zip(batch, replies, strict=True):
            each.reply = reply

    def _ask(
        self, prompts: Sequence[Prompt], tokens: int, stop: Sequence[str], sampling: dict[str, Any]
    ) -> list[Reply]:
        with DECODING:
            return self.ssd.ask(prompts, max_new_tokens=tokens, stop=stop, sampling=sampling, trace=True)

    def prompt(self, messages: Sequence[ChatMessage]) -> Prompt:
        """Both models' ids of a conversation. Raises ValueError for a turn that is no text."""
        turns = [{"role": message.role, "content": _text(message)} for message in messages]
        if turns and turns[-1]["role"] == "assistant":
            return self.ssd.chat(turns[:-1], turns[-1]["content"])
        return self.ssd.chat(turns)

    def _output(self, asked: _Waiting, reply: Reply, seconds: float) -> ModelOutput:
        message = ChatMessageAssistant(content=reply.text, model=self.model_name, source="generate")
        choice = ChatCompletionChoice(message=message, stop_reason="stop" if reply.ended else "max_tokens")
        read, written = len(asked.prompt.target), len(reply.token_ids)
        return ModelOutput(
            model=self.model_name,
            choices=[choice],
            usage=ModelUsage(input_tokens=read, output_tokens=written, total_tokens=read + written),
            time=seconds,
            metadata={"ssd": summary(reply, self.ssd.config)},
        )

    def max_tokens(self) -> int | None:
        """Of an answer, where a task names no number."""
        return MAX_TOKENS

    def max_connections(self) -> int:
        """As many questions at once as fit into a batch."""
        return self.batch


def read_config(config: GenerateConfig) -> tuple[int, tuple[str, ...], tuple[tuple[str, Any], ...]]:
    """max_new_tokens, stop strings and SSD's sampling settings. Raises ValueError for what it cannot honour, naming it."""
    asked = [name for name in REFUSED if getattr(config, name, None) not in (None, False)]
    if (config.num_choices or 1) > 1:
        asked.append("num_choices")
    if asked:
        raise ValueError(f"SSD cannot honour {asked[0]}={getattr(config, asked[0])!r}: leave it out")
    sampling = sampled(config.temperature, config.top_p, config.top_k, config.seed)
    tokens = MAX_TOKENS if config.max_tokens is None else config.max_tokens
    return tokens, tuple(config.stop_seqs or ()), tuple(sorted(sampling.items()))


def _text(message: ChatMessage) -> str:
    """A message's text. Raises ValueError for a tool's turn, an image or a sound."""
    parts = [] if isinstance(message.content, str) else message.content
    other = [part.type for part in parts if part.type != "text"]
    if message.role == "tool" or other:
        raise ValueError(f"the provider ssd reads text, not {'a tool turn' if not other else other[0]}")
    return message.text
