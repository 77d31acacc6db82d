"""A reader who has the live page open in Chromium, and the settings that they try, for tests/test_live.py."""

import random
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from playwright.sync_api import Page, expect

from ssd_lib import SSDConfig, ssd_generate
from ssd_lib.toy import world

CASES = 100
HOSTILE = '\u202e<img src=x onerror="window.hurt=1"></textarea><script>window.hurt=1</script><|eos|>\'"`\\ & ½ é'
SLICES = ["a", " the", "  ", "\n", "'s", "'", "1", "٣", "½", "é", "e\u0301", "日", "👩", "\u200d", "\u0085", "\ufeff"]
SLICES += ["\u00a0", "<|eos|>", "<|", "|>", "-", "\u3000", "ß", "\u2028", "\x00", " steal", "Hex", "{{", "<b>", "&amp;"]


class Reader:
    """Somebody who has the page open. `asked` and `errors` gather its requests and complaints."""

    def __init__(self, browser, address, **context):
        self.context = browser.new_context(viewport={"width": 1280, "height": 800}, **context)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.asked, self.errors = [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.goto(address)

    def wait(self):
        """Until an answer stands."""
        expect(self.page.locator("#answering")).not_to_have_attribute("aria-busy", "true", timeout=60_000)
        expect(self.page.locator("#status b")).to_be_visible(timeout=60_000)
        return self

    def set(self, **values):
        """Move controls by name, as the address does, and wait."""
        self.page.evaluate("values => changed(values)", values)
        return self.wait()

    def tokens(self):
        return self.page.evaluate("answer.tokens")

    def words(self):
        return self.page.locator("#strip [role=option]:not(.retracted) .word").all_text_contents()

    def settings(self):
        return self.page.evaluate("settings")


@contextmanager
def served(folder):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def cases():
    """Settings drawn at random: questions of the world and texts of no world, prefills, and every control."""
    rng = random.Random(20)
    items = [
        item for group in ("forbidden", "forbidden", "benign", "scary") for item in world.questions(group, 30, seed=4)
    ]
    drawn = []
    for number in range(CASES):
        if number % 4 == 0:  # four settings each, so that the page reads a question once
            item = rng.choice(items)
            question = item.question if number % 20 else "".join(rng.choice(SLICES) for _ in range(8)) + "?"
        drawn.append(
            {
                "question": question,
                "answer": item.answer,
                "prefill": rng.choice([0, 2, 3, 4, 5, 5, 6, 8, 10, 15, 20, 40]),
                "mode": rng.choice(["published", "hardened"]),
                "alpha_intersection": rng.choice([0, 0.15, 0.3, 0.45, 0.7, 1]),
                "alpha_union": rng.choice([0, 0.3, 0.8, 1.5, 2]),
                "threshold": rng.choice([0, 0.2, 0.5, 0.6, 0.8, 1]),
                "bin_size": rng.randint(1, 12),
                "lookahead": rng.randint(1, 8),
                "longest": rng.choice([8, 16, 24, 32]),
            }
        )
    return drawn


def decoded(pair, case):
    """The answer of `ssd_generate`; of every token the scheduler's state and whether it was taken back; of every token V."""
    names = ("alpha_intersection", "alpha_union", "threshold", "bin_size", "lookahead")
    config = SSDConfig(**{name: case[name] for name in names})
    if case["mode"] == "hardened":
        config = replace(config.harden(), alpha_union=case["alpha_union"])
    prefill = pair.tokenizer.encode(case["answer"], add_special_tokens=False)[: case["prefill"]]
    output = ssd_generate(
        pair.target,
        pair.draft,
        **pair.encode([case["question"]], [prefill]),
        prefilled=len(prefill),
        config=config,
        max_new_tokens=case["longest"],
        trace=True,
    )
    assert output.trace is not None
    frame = output.trace.to_frame(retracted=True)
    columns = ["token", "proposal", "match", "scheme", "threshold", "alpha", "insisted", "retracted"]
    spaces = [sorted(space) for space in frame["space"]]
    return output.sequences[0].tolist(), frame[columns].to_numpy(dtype=object).tolist(), spaces


IN_PAGE = """async cases => {
  const found = [];
  for (const settings of cases) {
    const said = new Answer(session, session.written(settings)), lines = [], spaces = [];
    await session.decode(settings, round => {
      if (!round.lines) return;
      said.add(round);
      lines.push(...round.lines.map(l => [l.token, l.proposal, l.match, l.scheme, l.threshold, l.alpha, l.insisted, false]));
      spaces.push(...round.lines.map(l => l.candidates.filter(c => c.inside).slice(0, 20).map(c => c.token).sort((a, b) => a - b)));
      const standing = lines.filter(line => !line[7]);
      if (round.taken_back) for (const line of standing.slice(-round.taken_back)) line[7] = true;
    });
    found.push([said.tokens, lines, spaces]);
  }
  return found;
}"""
