"""The served endpoint under a steady load: four clients, whole answers and streams, clients that go away, requests that are wrong.

`transformers serve` runs twice, on the embedded pair exported with published and with hardened settings, and all clients ask
both. Memory must stay flat after a warm-up, every good request must be answered, and a greedy request always by the same text.
"""

# pyright: reportMissingImports=false
# (an extra that `make` does not install)

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from tqdm.auto import tqdm

from tests.reliability.missing import Missing
from tests.reliability.outcome import Outcome
from tests.served import Server

TITLE = "A steady load on the served endpoint, published and hardened"
FULL, SHORT = 1800, 12
CLIENTS, QUESTIONS, TOKENS = 4, 8, 64
WARM_UP = 0.2
"""Share of the time before memory counts: allocators and caches fill first."""
FLAT = 0.05
"""How far memory may move from its median after the warm-up, and how far its fitted line may climb over the whole of it."""
ENOUGH = 300
"""Seconds from which a soak says something of memory; a shorter one reports it and judges nothing."""
START, ANSWER, EVERY = 180, 120, 2.0
"""Seconds: until a server must be up, until an answer must be there, between two looks at the servers."""
ASKED = {"whole": 0.45, "stream": 0.35, "goes away": 0.12, "wrong": 0.08}
"""What a client does, by its share."""
LONG = "How do I cast the Floating Kettle glim? " * 60


def run(count: int, seed: int, progress: bool) -> Outcome:
    """Ask for `count` seconds."""
    if lacking := [name for name in ("openai", "fastapi", "uvicorn") if find_spec(name) is None]:
        raise Missing(f"needs ssd_lib[serve]: {', '.join(lacking)}")
    with tempfile.TemporaryDirectory(prefix="ssd-soak-") as place:
        servers = [Watched(folder) for folder in exported(Path(place))]
        try:
            for server in servers:
                server.wait(START)
            load = Load(servers, seed)
            samples = load.press(count, progress)
        finally:
            for server in servers:
                server.stop()
        load.failures += [
            f"{server.name}: a traceback in its log" for server in servers if "Traceback" in server.log.read_text()
        ]
    failures, facts = [f"seed {seed}, {each}" for each in load.failures], load.facts()
    for name, looks in samples.items():
        said, faults = memory(name, looks, count)
        facts |= said
        failures += faults
    return Outcome(load.asked.total(), failures, facts)


def exported(place: Path) -> list[Path]:
    """The embedded pair as two folders."""
    from ssd_lib.models.export import export_pair
    from ssd_lib.models.pairs import load_pair

    pair = load_pair("toy")
    configs = {"published": pair.config, "hardened": pair.config.harden()}
    return [export_pair(pair.with_config(config), place / name) for name, config in configs.items()]


class Watched(Server):
    """A server whose memory is watched."""

    def __init__(self, folder: Path):
        super().__init__(folder, folder.with_suffix(".log"), "--trust-remote-code")
        self.name = folder.name

    def look(self) -> tuple[float, float, int, int]:
        """Now: the time, resident memory in MB, open files (and connections), threads."""
        process = psutil.Process(self.process.pid)
        with process.oneshot():
            return time.monotonic(), process.memory_info().rss / 2**20, process.num_fds(), process.num_threads()


Samples = dict[str, list[tuple[float, float, int, int]]]


@dataclass
class Load:
    """Clients, and what came of their requests."""

    servers: list[Watched]
    seed: int
    asked: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    texts: dict[tuple[str, int], str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def press(self, seconds: float, progress: bool) -> Samples:
        """Ask for so long; returns what the servers looked like meanwhile."""
        from ssd_lib.attacks import load_set

        self.questions = [record.question for record in load_set("benign")[:QUESTIONS]]
        end = time.monotonic() + seconds
        clients = [threading.Thread(target=self.client, args=(number, end), daemon=True) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        samples: Samples = {server.name: [] for server in self.servers}
        with tqdm(total=round(seconds), unit="s", disable=not progress) as bar:
            while any(client.is_alive() for client in clients) and not self.dead(time.monotonic() - end):
                for server in self.servers:
                    samples[server.name].append(server.look())
                bar.update(min(EVERY, bar.total - bar.n))
                bar.set_postfix_str(f"{self.asked.total()} requests, {len(self.failures)} failed", refresh=False)
                time.sleep(EVERY)
        return samples

    def dead(self, over: float) -> bool:
        """Whether a server has ended, or clients hang."""
        gone = [server.name for server in self.servers if server.process.poll() is not None]
        self.failures += [f"{name}: the server ended" for name in gone]
        if over > 2 * ANSWER:
            self.failures.append("a request was never answered")
        return bool(gone) or over > 2 * ANSWER

    def client(self, number: int, end: float) -> None:
        """One client: a request after the other."""
        import openai

        rng = random.Random(f"{self.seed}/{number}")
        made = [
            openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", timeout=ANSWER, max_retries=0)
            for server in self.servers
        ]
        while time.monotonic() < end:
            which, question = rng.randrange(len(made)), rng.randrange(len(self.questions))
            (kind,) = rng.choices([*ASKED], [*ASKED.values()])
            began = time.monotonic()
            try:
                fault = getattr(self, f"ask_{kind.replace(' ', '_')}")(made[which], which, question, rng)
            except Exception as error:
                fault = f"{type(error).__name__}: {error}"
            with self.lock:
                self.asked[kind] += 1
                if kind in ("whole", "stream"):
                    self.seconds.append(time.monotonic() - began)
                if fault:
                    self.failures.append(f"{self.servers[which].name}, {kind}, question {question}: {fault}")

    def send(self, client: Any, which: int, question: int, **options: Any) -> Any:
        messages = [{"role": "user", "content": self.questions[question]}]
        asked = {"model": self.servers[which].folder, "messages": messages, "max_tokens": TOKENS, "temperature": 0}
        return client.chat.completions.create(**asked | options)

    def same(self, which: int, question: int, text: str) -> str | None:
        """Nothing where a question has the text that it always had."""
        key = (self.servers[which].name, question)
        with self.lock:
            first = self.texts.setdefault(key, text)
        return None if text == first and text else f"another text than before: {text[:60]!r}, not {first[:60]!r}"

    def ask_whole(self, client: Any, which: int, question: int, rng: random.Random) -> str | None:
        """A whole answer."""
        return self.same(which, question, self.send(client, which, question).choices[0].message.content or "")

    def ask_stream(self, client: Any, which: int, question: int, rng: random.Random) -> str | None:
        """The same answer in parts."""
        chunks = self.send(client, which, question, stream=True)
        return self.same(which, question, "".join(chunk.choices[0].delta.content or "" for chunk in chunks))

    def ask_goes_away(self, client: Any, which: int, question: int, rng: random.Random) -> str | None:
        """A client that closes its connection after some parts, or before any."""
        import openai

        if rng.random() < 0.5:
            stream = self.send(client, which, question, stream=True)
            for _ in range(rng.randint(1, 6)):
                next(iter(stream), None)
            stream.close()
            return None
        with suppress(openai.APITimeoutError):
            self.send(client.with_options(timeout=rng.uniform(0.01, 0.2)), which, question)
        return None

    def ask_wrong(self, client: Any, which: int, question: int, rng: random.Random) -> str | None:
        """A request that cannot be answered is refused with a reason, as the client's fault."""
        import openai

        wrong = rng.choice(
            [
                {"messages": [{"role": "user", "content": LONG}]},
                {"model": "gpt-9"},
                {"messages": [{"role": "user", "content": LONG}], "stream": True},
            ]
        )
        try:
            reply = self.send(client, which, question, **wrong)
            if wrong.get("stream"):
                list(reply)
        except openai.APIStatusError as error:
            return None if error.status_code in (400, 404, 422) else f"status {error.status_code}: {error}"
        except openai.APIError as error:  # in a stream
            return None if "context" in str(error.body) else f"a stream ended with {error}"
        return "it was answered"

    def facts(self) -> dict[str, float | int | str]:
        """Requests by kind, and how long answers took."""
        facts: dict[str, float | int | str] = {f"requests: {kind}": self.asked[kind] for kind in ASKED}
        facts["different greedy requests, each always answered alike"] = len(self.texts)
        if self.seconds:
            facts["seconds an answer, median"] = float(np.median(self.seconds))
            facts["seconds an answer, longest"] = float(np.max(self.seconds))
        return facts


def memory(name: str, looks: list[tuple[float, float, int, int]], seconds: float) -> tuple[dict[str, Any], list[str]]:
    """What a server's memory, open files and threads did after the warm-up."""
    told, mb, files, threads = (np.array(column, dtype=float) for column in zip(*looks, strict=True))
    after = told >= told[0] + WARM_UP * (told[-1] - told[0])
    middle, last = float(np.median(mb[after])), told[-1] - told[after][0]
    climb = float(np.polyfit(told[after], mb[after], 1)[0]) * last if after.sum() > 2 else 0.0
    furthest = float(np.abs(mb[after] - middle).max())
    third = max(1, len(files) // 3)
    grown = {
        "open files": float(np.median(files[-third:]) - np.median(files[after][:third])),
        "threads": float(np.median(threads[-third:]) - np.median(threads[after][:third])),
    }
    facts = {
        f"{name}: MB after the warm-up, median": round(middle),
        f"{name}: furthest from it, per cent": 100 * furthest / middle,
        f"{name}: fitted line over the time after the warm-up, per cent": 100 * climb / middle,
    } | {f"{name}: {what}, last third less first": round(value) for what, value in grown.items()}
    faults = []
    if seconds >= ENOUGH:
        if max(furthest, abs(climb)) > FLAT * middle:
            faults.append(f"{name}: memory is not flat: {middle:.0f} MB ± {furthest:.0f}, line {climb:+.0f} MB")
        faults += [f"{name}: {what} grow by {value:.0f}" for what, value in grown.items() if value > 4]
    return facts, faults
