"""Bad requests to `transformers serve` with an exported pair: JSON, types, roles, sizes, headers."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from ssd_lib.models.export import export_pair
from ssd_lib.models.pairs import load_pair
from tests.reliability.bad_values import WORDS, numbers
from tests.reliability.missing import Missing
from tests.served import Server

PATHS = ("/v1/chat/completions", "/v1/completions")
FIELDS = (
    "messages",
    "prompt",
    "max_tokens",
    "temperature",
    "top_p",
    "stop",
    "stream",
    "seed",
    "n",
    "generation_config",
    "logit_bias",
)
TURNS: tuple[Any, ...] = (
    *([], {}, "text", None, [None], [{}], [{"role": "user"}], [{"content": "x"}], [{"role": "judge", "content": "x"}]),
    *(
        [{"role": "user", "content": 3}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": "word " * 2000}],
    ),
    *(
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x"}}]}],
        [{"role": 1, "content": ""}],
    ),
    [{"role": "assistant", "content": "x"}],
)
RAW = (b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"model": ', b'{"messages": NaN}', b"[" * 5000, b"\0", b'"text"', b"3")


@contextmanager
def serving(place: Path) -> Iterator[Server]:
    """The embedded pair behind a server. Raises Missing without the extra `serve`."""
    missing = [name for name in ("openai", "fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        raise Missing(f"needs ssd_lib[serve]: {', '.join(missing)}")
    pair = load_pair("toy")
    server = Server(
        export_pair(pair.with_config(pair.config.harden()), place / "served"), place / "log", "--trust-remote-code"
    )
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def requests(model: str) -> st.SearchStrategy[tuple[str, bytes, dict[str, str]]]:
    """A path, a body and headers: rubbish, or a good request with one to three bad fields."""
    values = st.one_of(st.sampled_from(TURNS), st.sampled_from(WORDS), numbers(), st.none(), st.booleans())
    good = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "prompt": "Hello", "max_tokens": 2}
    bad = st.dictionaries(st.sampled_from((*FIELDS, "model", "unknown")), values, min_size=1, max_size=3)
    bodies = st.one_of(
        bad.map(lambda given: json.dumps(good | given).encode()), st.sampled_from(RAW), st.binary(max_size=20)
    )
    headers = st.sampled_from(
        [
            {},
            {},
            {},
            {"Content-Type": "text/plain"},
            {"Authorization": "Bearer " + "x" * 5000},
            {"X-Request-Id": "\x7f\xff"},
        ]
    )
    return st.tuples(st.sampled_from((*PATHS, *PATHS, "/v1/nothing", "/v1/responses")), bodies, headers)


def raw_text(body: bytes, headers: dict[str, str]) -> bool:
    """Whether a body that is said to be text holds bytes that are none."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return headers.get("Content-Type") == "text/plain"
    return False


def try_request(server: Server, path: str, body: bytes, headers: dict[str, str]) -> str | None:
    """What is wrong with how a request ended, or None: an answer, or a refusal as JSON, and a server that lives."""
    shown = f"POST {path} {body[:120]!r} {str(headers)[:60]}"
    connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=60)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"} | headers)
        reply = connection.getresponse()
        text = reply.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        return f"{shown}: {type(error).__name__}: {error}"
    finally:
        connection.close()
    if reply.status == 500 and text == "Internal Server Error" and raw_text(body, headers):
        return None  # FastAPI itself, which cannot say what it was sent
    if server.process.poll() is not None:
        return f"{shown}: the server died"
    if "Traceback" in text:
        return f"{shown}: a traceback in the reply"
    if reply.getheader("content-type", "").startswith("text/event-stream"):
        return None
    try:
        json.loads(text)
    except ValueError:
        return f"{shown}: {reply.status} without JSON: {text[:80]!r}"
    return None
