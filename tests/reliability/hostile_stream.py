"""Hostile tokens through the server: a tokenizer whose words are markup, ends of events, and control characters.

The embedded pair is exported, some words that its refusals use are replaced in the folder's tokenizer by hostile texts, which
keep their ids, and `transformers serve` answers from there: whole, and as a stream.
"""

# pyright: reportMissingImports=false
# (an extra that `make` does not install)

from __future__ import annotations

import json
import urllib.request
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ssd_lib.attacks import load_set
from ssd_lib.defenders import answer
from ssd_lib.models.export import export_pair
from ssd_lib.models.pairs import load_pair
from tests.reliability.missing import Missing
from tests.served import Server

WORDS = {
    " sorry": "<script>alert(1)</script>",
    " but": "\n\ndata: [DONE]\n\n",
    " cannot": '"}]}\r\n\r\nevent: error\r\ndata: {"a": "\\',
    " allowed": "\u2028\u2029\x85",
    " Lamphouse": "\x1b[31mred\x9b2J\x07",
    " because": "\\u0000\\n\\",
    " wrong": "\x00\u202eabc",
    " instead": ": a comment\n\nid: 1\nretry: 0\n\n",
    " tell": "\U0001f469\u200d\U0001f4bb\U000e0041",
}
"""Words of refusals, and what stands in their place."""
QUESTIONS, TOKENS, PATIENCE = 4, 60, 120


def cases() -> list[tuple[str, str | None]]:
    """Every case by name, with what is wrong with it, if anything. Raises Missing without the extra `serve`."""
    if lacking := [name for name in ("openai", "fastapi", "uvicorn") if find_spec(name) is None]:
        raise Missing(f"needs ssd_lib[serve]: {', '.join(lacking)}")
    with TemporaryDirectory(prefix="ssd-hostile-") as place:
        pair = load_pair("toy")
        folder = export_pair(pair, Path(place) / "served")
        rename(folder / "tokenizer.json", WORDS)
        tokenizer = type(pair.tokenizer).from_pretrained(folder)
        says = replace(pair, tokenizer=tokenizer, draft_tokenizer=tokenizer)
        questions = [record.question for record in load_set("direct", limit=QUESTIONS)]
        expected = [said.text for said in answer(says, questions, max_new_tokens=TOKENS)]
        unused = [text for text in WORDS.values() if text not in "".join(expected)]
        server = Server(folder, folder.with_suffix(".log"), "--trust-remote-code")
        try:
            server.wait(180)
            found = [("words", f"no answer says {unused[0]!r}" if unused else None)]
            for question, text in zip(questions, expected, strict=True):
                found += [(f"{way} of {question!r}", look(server, question, text)) for way, look in WAYS.items()]
            return found
        finally:
            server.stop()


def rename(file: Path, words: dict[str, str]) -> None:
    """Give entries of a byte-level BPE vocabulary other texts; the merges that made them go, so nothing is read as them."""
    table = json.loads(file.read_text(encoding="utf-8"))
    letters, model = alphabet(), table["model"]
    new = {written(word, letters): written(text, letters) for word, text in words.items()}
    if absent := new.keys() - model["vocab"].keys():
        raise ValueError(f"no entries of this vocabulary: {sorted(absent)}")
    model["vocab"] = {new.get(entry, entry): number for entry, number in model["vocab"].items()}
    model["merges"] = [pair for pair in model["merges"] if not new.keys() & {*pair, "".join(pair)}]
    file.write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")


def alphabet() -> list[str]:
    """The character that stands for each byte in byte-level BPE: itself where it can be seen, else one from U+0100 on."""
    seen = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in seen else next(others)) for byte in range(256)]


def written(text: str, letters: list[str]) -> str:
    """A text as byte-level BPE writes it."""
    return "".join(letters[byte] for byte in text.encode())


# ------------------------------------------------------------------------------------------------ ways to ask


def asked(server: Server, question: str, stream: bool) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return {
        "model": server.folder,
        "messages": messages,
        "max_tokens": TOKENS,
        "temperature": 0,
        "stream": stream,
    }


def client_of(server: Server) -> Any:
    import openai

    return openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", timeout=PATIENCE, max_retries=0)


def whole(server: Server, question: str, text: str) -> str | None:
    """The openai client's whole answer."""
    reply = client_of(server).chat.completions.create(**asked(server, question, stream=False))
    return differ(reply.choices[0].message.content, text)


def streamed(server: Server, question: str, text: str) -> str | None:
    """The openai client's stream, joined."""
    chunks = client_of(server).chat.completions.create(**asked(server, question, stream=True))
    return differ("".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices), text)


def events(server: Server, question: str, text: str) -> str | None:
    """The stream's bytes: each event one line of JSON, and the end said once, at the end.

    transformers 5 ends a stream by a last event with a finish_reason and sends no [DONE]; one at the end is as good.
    """
    body = json.dumps(asked(server, question, stream=True)).encode()
    request = urllib.request.Request(
        f"{server.address}/v1/chat/completions", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
        lines = [line.decode() for line in reply.read().replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")]
    said = [line.removeprefix("data:").strip(" ") for line in lines if line and not line.startswith(":")]
    if stray := [line for line in lines if line and not line.startswith(("data:", ":"))]:
        return f"a line that is no event: {stray[0]!r}"
    try:
        chunks = [json.loads(each) for each in (said[:-1] if said[-1:] == ["[DONE]"] else said)]
    except ValueError as error:
        return f"an event that is no JSON: {error}"
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    ends = [place for place, choice in enumerate(choices, 1) if choice.get("finish_reason")]
    if ends != [len(choices)]:
        return f"an end at {ends} of {len(choices)} events"
    return differ("".join(choice["delta"].get("content") or "" for choice in choices), text)


def differ(found: str | None, text: str) -> str | None:
    """Nothing where the server said just what the library does."""
    return None if found == text else f"the text is {found!r}, not {text!r}"


WAYS = {"the whole answer": whole, "the stream": streamed, "the stream's events": events}
