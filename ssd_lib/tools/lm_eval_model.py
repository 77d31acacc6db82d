"""lm-eval's model `ssd`: its generation tasks through SSD.

    ssd-lm-eval --model ssd --model_args pair=toy,hardened=true --apply_chat_template --include_path FOLDER --tasks NAME

`ssd-lm-eval` is `lm_eval`, with all its options, once the model is registered: lm-eval 0.4.13 knows the models of its own table
alone, reads no entry points, and calls a model by name before it imports anything of a task. With `--apply_chat_template` a
question reaches both models in their own templates, as in `ssd run`; without, both read the task's text as it stands, as with
lm-eval's model `hf`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]
from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]
from lm_eval.models.utils import Collator, handle_stop_sequences, normalize_gen_kwargs  # pyright: ignore[reportMissingImports]
from tqdm.auto import tqdm

from ssd_lib.models.chat import FORMATS
from ssd_lib.tools.answerer import Answerer, Prompt, sampled, summary

CHAT = '{"ssd_chat": '
"""How a conversation begins on its way through lm-eval, which carries prompts as text."""
OF_ONE_MODEL = ("pretrained", "tokenizer", "peft", "delta", "parallelize", "gguf_file", "autogptq", "gptqmodel")
"""Arguments of lm-eval's own model that would be about another model than the pair's."""
SAMPLING = ("temperature", "top_p", "top_k", "seed")
NO_LIKELIHOOD = (
    "the model ssd has no log-likelihoods: SSD is a way to decode, and its distribution after a prefix depends on how it "
    "came there (the match ratio of what it wrote). Give it tasks whose output_type is generate_until; for log-likelihoods of "
    "the target alone take --model hf"
)


OfHF: Any = HFLM  # lm-eval's decorator hides its type


@register_model("ssd")
class SSDLM(OfHF):
    """`--model ssd`: a pair by name, hardened or not, options of `load_pair` and settings of SSD by name."""

    def __init__(
        self,
        pair: str | None = None,
        *,
        hardened: bool = False,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        **options: Any,
    ):
        wrong = sorted(set(options) & set(OF_ONE_MODEL))
        if wrong:
            raise ValueError(f"the model ssd takes no {wrong[0]}=: give pair=NAME, or target=… and draft=… of your own")
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(f"batch_size={batch_size!r}: the model ssd takes a number, 1 or more")
        self.ssd = Answerer.load(pair, hardened=hardened, device=_device(device), **options)
        target: Any = self.ssd.pair.target
        super().__init__(pretrained=target, tokenizer=self.ssd.pair.tokenizer, batch_size=int(batch_size))
        self.hardened = hardened
        self.counted = {"answers": 0, "tokens": 0, "matched": 0, "tokens_taken_back": 0}

    # -------------------------------------------------------------------------------------------- what is asked

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as JSON: each model gets it in its own template. A last turn of the assistant's begins the answer."""
        return f"{CHAT}{json.dumps(chat_history, ensure_ascii=False)}}}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The target's template, for lm-eval's log."""
        spec, own = self.ssd.pair.spec, self.ssd.pair.tokenizer.chat_template
        if not chat_template:
            return None
        return str(own or FORMATS[str(spec.target_format)].template)

    @property
    def tokenizer_name(self) -> str:
        """Keeps prompts that lm-eval caches apart from those of its own model."""
        return f"ssd__{super().tokenizer_name}"

    def prompt(self, context: str) -> Prompt:
        """Both models' ids of what a task asks."""
        if not context.startswith(CHAT):
            ids = self.tok_encode(context)
            return Prompt(ids, ids, [])
        *turns, last = json.loads(context)["ssd_chat"]
        if last["role"] == "assistant":
            return self.ssd.chat(turns, last["content"])
        return self.ssd.chat([*turns, last])

    # -------------------------------------------------------------------------------------------- what is answered

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers in the order of the requests. Raises ValueError, before the first, for one that cannot be answered."""
        prompts: dict[str, Prompt] = {}
        for number, (context, asked) in enumerate(each.args for each in requests):
            tokens, *_ = read_options(asked, self.max_gen_toks)
            try:
                prompts[context] = self.prompt(context)
                self.ssd.check(prompts[context], tokens)
            except ValueError as error:
                raise ValueError(f"question {number} of {len(requests)}: {error}") from error
        order = Collator(
            [each.args for each in requests],
            sort_fn=lambda request: (-len(prompts[request[0]].target), request[0]),
            group_by="gen_kwargs",
            group_fn=lambda request: request[1],
        )
        texts: list[str] = []
        with tqdm(total=len(requests), desc="SSD answers", disable=disable_tqdm) as bar:
            for batch in order.get_batched(n=int(self.batch_size)):
                contexts, asked = [context for context, _ in batch], batch[0][1]
                for context, text in zip(contexts, self._answers([prompts[c] for c in contexts], asked), strict=True):
                    texts.append(text)
                    self.cache_hook.add_partial("generate_until", (context, asked), text)
                bar.update(len(contexts))
        return order.get_original(texts)

    def _answers(self, prompts: list[Prompt], asked: Mapping[str, Any]) -> list[str]:
        tokens, until, sampling = read_options(asked, self.max_gen_toks)
        stop = handle_stop_sequences(until, eos=self.tok_decode(self.eot_token_id, skip_special_tokens=False))
        replies = self.ssd.ask(prompts, max_new_tokens=tokens, stop=stop, sampling=sampling)
        for reply in replies:
            numbers = summary(reply, self.ssd.config)
            self.counted["answers"] += 1
            self.counted["matched"] += reply.matched
            for name in ("tokens", "tokens_taken_back"):
                self.counted[name] += numbers[name]
        return [reply.text for reply in replies]

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> NoReturn:
        """Raises ValueError: see `NO_LIKELIHOOD`."""
        raise ValueError(NO_LIKELIHOOD)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> NoReturn:
        """Raises ValueError: see `NO_LIKELIHOOD`."""
        raise ValueError(NO_LIKELIHOOD)

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval's results say of the model; asked for after the last answer."""
        pair, kept = self.ssd.pair, max(self.counted["tokens"], 1)
        return {
            "model_num_parameters": pair.target.num_parameters(),
            "model_dtype": str(pair.target.dtype),
            "ssd_pair": {"name": pair.spec.name, "target": pair.spec.target, "draft": pair.spec.draft},
            "ssd_hardened": self.hardened,
            "ssd_answers": self.counted["answers"],
            "ssd_match_ratio": self.counted["matched"] / kept,
            "ssd_decoded_per_kept": 1 + self.counted["tokens_taken_back"] / kept,
        }


def _device(name: str | None) -> str | None:
    """lm-eval names cuda:0 where the user names nothing, on machines without a GPU too; "auto" spreads a pair over the GPUs."""
    if name in (None, "auto"):
        return None
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise ValueError(f"device={name!r} is none: give cpu, cuda, cuda:1, … or auto") from error
    return None if kind == "cuda" and not torch.cuda.is_available() else name


def read_options(asked: Mapping[str, Any], max_gen_toks: int) -> tuple[int, list[str], dict[str, Any]]:
    """A task's generation_kwargs as max_new_tokens, stop strings and settings of SSD. ValueError for one without a meaning here."""
    try:
        options: dict[str, Any] = dict(normalize_gen_kwargs(dict(asked), max_gen_toks))
    except (ValueError, TypeError) as error:
        raise ValueError(f"generation_kwargs {dict(asked)} cannot be read: {error}") from error
    tokens, until = options.pop("max_gen_toks"), options.pop("until")
    greedy = not options.pop("do_sample")
    sampling = {name: options.pop(name, None) for name in SAMPLING}
    if options:
        name, value = next(iter(options.items()))
        raise ValueError(
            f"generation_kwargs has {name}={value!r}, which SSD does not know: it takes max_gen_toks, until, do_sample, "
            f"{', '.join(SAMPLING)}"
        )
    return tokens, until, sampled() if greedy else sampled(**sampling)
