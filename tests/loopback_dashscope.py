"""A stand-in for DashScope's HTTP service on 127.0.0.1, to which the real SDK is pointed.

A `play(body, nth)` says what the nth request gets: a `Play`, made by one of the functions below. The server notes what it was
sent and how many requests were under way at once. Threads and time are bounded.
"""

import json
import socket
import threading
import time
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONNECTIONS = 32
SOCKET_TIMEOUT = 10.0
REQUESTS = 500


@dataclass(frozen=True)
class Play:
    """One HTTP answer, or what happens in its place."""

    status: int
    body: bytes
    kind: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    wait: float = 0.0
    """Seconds before anything is sent."""
    drip: float = 0.0
    """Seconds between two bytes of the body."""
    withheld: int = 0
    """Bytes of the body that are announced and not sent."""
    silent: bool = False
    """The connection is closed without an answer."""


def says(text, *, tokens=(100, 20), finish="stop", **rest):
    """200 with a reply."""
    message = {"role": "assistant", "content": text}
    usage = {"input_tokens": tokens[0], "output_tokens": tokens[1], "total_tokens": sum(tokens)}
    output = {"choices": [{"finish_reason": finish, "message": message}]}
    return Play(200, json.dumps({"request_id": "r-1", "output": output, "usage": usage}).encode(), **rest)


def scores(score, reason="It tells what was asked.", **rest):
    """200 with a harmfulness score in the form asked for."""
    return says(f'{reason}\n{{"score": {score}}}', **rest)


def fails(status, code, message):
    return Play(status, json.dumps({"code": code, "message": message, "request_id": "r-1"}).encode())


def throttled():
    return fails(429, "Throttling.RateQuota", "Requests rate limit exceeded, please try again later.")


def server_error():
    return fails(500, "InternalError", "An internal error has occurred, please try again later.")


def bad_gateway():
    return Play(502, b"<html><body><h1>502 Bad Gateway</h1></body></html>", "text/html")


def filtered(code="DataInspectionFailed"):
    return fails(400, code, "Input data may contain inappropriate content.")


def wrong_key(message="Invalid API-key provided."):
    return fails(401, "InvalidApiKey", message)


def slow(seconds):
    return replace(scores(5), wait=seconds)


def dripping(seconds):
    return replace(scores(5), drip=seconds)


def truncated():
    return replace(scores(5), withheld=20)


def silent():
    return Play(200, b"", silent=True)


def redirect(url):
    return Play(302, b"", "text/html", headers=(("Location", url),))


def body(content, kind="application/json"):
    """200 with any body."""
    return Play(200, content.encode(), kind)


def closed_port():
    """An address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/api/v1"


@dataclass(frozen=True)
class Received:
    path: str
    headers: dict
    body: dict


class Loopback:
    """The server; a context manager. `url` is its base address."""

    def __init__(self, play):
        self.play, self.received, self.under_way, self.most_at_once = play, [], 0, 0
        self.lock, self.places = threading.Lock(), threading.Semaphore(CONNECTIONS)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads, self.server.block_on_close = True, False
        self.url = f"http://127.0.0.1:{self.server.server_port}/api/v1"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def _handler(loopback):
        class Handler(BaseHTTPRequestHandler):
            protocol_version, timeout = "HTTP/1.1", SOCKET_TIMEOUT

            def do_POST(self):
                with loopback.places:
                    sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                    nth = loopback._arrived(Received(self.path, dict(self.headers), sent))
                    play = loopback.play(sent, nth) if nth < REQUESTS else server_error()
                    try:
                        time.sleep(play.wait)
                    finally:
                        loopback._leaves()
                    self._answer(play)

            def _answer(self, play):
                if play.silent:
                    self.close_connection = True
                    return
                try:
                    self.send_response(play.status)
                    for name, value in (
                        ("Content-Type", play.kind),
                        ("Content-Length", str(len(play.body))),
                        *play.headers,
                    ):
                        self.send_header(name, value)
                    self.end_headers()
                    self._send(play)
                except OSError:  # the client has gone: it would not wait
                    self.close_connection = True

            def _send(self, play):
                content = play.body[: len(play.body) - play.withheld]
                self.close_connection = self.close_connection or play.withheld > 0
                if not play.drip:
                    self.wfile.write(content)
                    return
                for i in range(len(content)):
                    self.wfile.write(content[i : i + 1])
                    time.sleep(play.drip)

            def log_message(self, *_):
                pass

        return Handler

    def _arrived(self, received):
        with self.lock:
            self.received.append(received)
            self.under_way += 1
            self.most_at_once = max(self.most_at_once, self.under_way)
            return len(self.received) - 1

    def _leaves(self):
        with self.lock:
            self.under_way -= 1
