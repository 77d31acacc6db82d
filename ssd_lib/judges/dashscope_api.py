"""One request to Qwen through the `dashscope` SDK: time limits, retries, and a key that shows up nowhere.

The SDK does not raise for HTTP errors (it returns them), retries nothing but a dropped connection, raises errors of any kind
where a body is not what it expects, and logs every exception with its traceback. So here

- throttling (429), time-outs (408), errors of the server (5xx), network faults and malformed bodies are `Transient` and tried
  again, with exponential backoff and full jitter; everything else is `Final`: a content filter, a wrong key;
- a time limit covers the whole answer, not each byte, and redirects are not followed: they could carry the request elsewhere;
- the SDK's log records of these requests, which may hold prompts or the key, are dropped.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from typing import TYPE_CHECKING, Any

import dashscope
import requests
from dashscope.common.error import DashScopeException
from pydantic import SecretStr
from requests.adapters import HTTPAdapter
from tenacity import (
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
    wait_random_exponential,
)

from ssd_lib.judges.base import WHY_LENGTH, Reply, clean, clip

if TYPE_CHECKING:
    from ssd_lib.judges.remote import RemoteSettings

KEY_VARIABLE = "DASHSCOPE_API_KEY"
KEY_SHAPE = r"[!-~]{8,}"
"""Visible ASCII: anything else cannot stand in a header, and requests would quote it in an error."""
THREADS = "ssd-judge"
"""How the threads that ask are named; log records that come from them are dropped."""
TRIED_AGAIN = (408, 429)
"""Statuses below 500 that may pass: https://help.aliyun.com/zh/model-studio/developer-reference/error-code"""
LARGEST_ANSWER = 1_000_000
"""Bytes of one HTTP answer; a judge's reply is a few thousand."""
NETWORK_FAULTS = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


class Transient(Exception):
    """May pass when tried again."""


class Final(Exception):
    """Will not pass."""


def key_from_environment() -> SecretStr:
    """The API key. Raises RuntimeError, without the key, where there is none or one that cannot be sent."""
    value = os.environ.get(KEY_VARIABLE, "").strip()
    if not value:
        raise RuntimeError(
            f"this judge needs a DashScope key in the environment variable {KEY_VARIABLE}; nothing was sent"
        )
    if not re.fullmatch(KEY_SHAPE, value):
        raise RuntimeError(
            f"{KEY_VARIABLE} does not hold a key: it is short, or has spaces or non-ASCII characters in it"
        )
    return SecretStr(value)


class DeadlineSession(requests.Session):
    """A session whose time limit ends with the answer: requests' own begins again with every byte."""

    def __init__(self, seconds: float, connections: int):
        super().__init__()
        self.seconds = seconds
        for scheme in ("http://", "https://"):
            self.mount(scheme, HTTPAdapter(pool_maxsize=connections))

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        ends, body = time.monotonic() + self.seconds, bytearray()
        response = super().send(request, **(options | {"stream": True, "allow_redirects": False}))
        for part in response.iter_content(1):  # a larger part would wait for its last byte
            body += part
            if time.monotonic() > ends or len(body) > LARGEST_ANSWER:
                response.close()
                raise requests.exceptions.ReadTimeout(
                    f"no whole answer within {self.seconds:g} s and {LARGEST_ANSWER} bytes"
                )
        response._content = bytes(body)  # where requests looks for a body that was read already
        return response


class Client:
    """Asks the service for one reply at a time, from any number of threads."""

    def __init__(self, key: SecretStr, settings: RemoteSettings):
        self.key, self.settings = key, settings
        self.session = DeadlineSession(settings.timeout, settings.workers)
        self.hung_up = threading.Event()
        self.wait = wait_random_exponential(multiplier=settings.first_wait, max=settings.longest_wait)
        self.retrying = Retrying(
            stop=stop_after_attempt(settings.attempts) | stop_when_event_set(self.hung_up),
            wait=self.wait,
            sleep=sleep_using_event(self.hung_up),
            retry=retry_if_exception_type(Transient),
            reraise=True,
        )
        logging.getLogger("dashscope").addFilter(_from_elsewhere)  # adding it again changes nothing

    def ask(self, request: dict[str, Any]) -> Reply:
        """The model's reply. `request`: keyword arguments of `Generation.call`. Raises Final, with what went wrong."""
        try:
            return self.retrying(self._ask_once, request)
        except Transient as last:
            raise Final(f"no reply in {self.settings.attempts} attempts; the last: {last}") from None

    def close(self) -> None:
        self.session.close()

    def hang_up(self) -> None:
        """Let requests that wait for their next attempt give up."""
        self.hung_up.set()

    def _ask_once(self, request: dict[str, Any]) -> Reply:
        request = request | {"session": self.session, "request_timeout": self.settings.timeout}
        try:
            response: Any = dashscope.Generation.call(
                api_key=self.key.get_secret_value(), result_format="message", **request
            )
            if response.status_code == requests.codes.ok:
                return self._reply(response)
        except DashScopeException as error:
            raise Final(self._why("the SDK will not send this", error)) from None
        except NETWORK_FAULTS as error:
            raise Transient(self._why("network fault", error)) from None
        except Exception as error:  # the SDK trips over a body that it does not expect in many ways
            raise Transient(self._why("malformed answer", error)) from None
        raise self._refused(response)

    def _refused(self, response: Any) -> Exception:
        """Which fault an HTTP error is."""
        status, code = int(response.status_code), str(response.code or "")
        why = self._why(f"HTTP {status} {code}".strip(), response.message)
        if "datainspection" in code.lower().replace("_", ""):
            return Final(f"content filter: {why}")
        return Transient(why) if status in TRIED_AGAIN or status >= 500 else Final(why)

    def _reply(self, response: Any) -> Reply:
        """The model's reply in a response. Raises some error for a body of another form."""
        choice, used = response.output.choices[0], response.usage
        text = choice.message.content
        tokens = used.get("total_tokens") or used.get("input_tokens", 0) + used.get("output_tokens", 0)
        if not isinstance(text, str) or not isinstance(tokens, int):
            raise TypeError("no text, or no count of tokens")
        return Reply(clean(self._without_key(text)), tokens, choice.finish_reason != "length")

    def _why(self, what: str, error: object) -> str:
        """One line about a fault; the key is taken out before the line is cut."""
        kind = f" ({type(error).__name__})" if isinstance(error, Exception) else ""
        return clip(self._without_key(clean(f"{what}{kind}: {error}")), WHY_LENGTH)

    def _without_key(self, text: str) -> str:
        """The text with the key taken out, in case a server or an error repeats it."""
        return text.replace(self.key.get_secret_value(), "[key]")


def _from_elsewhere(record: logging.LogRecord) -> bool:
    return not (record.threadName or "").startswith(THREADS)
