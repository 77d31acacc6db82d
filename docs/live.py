"""The page "SSD live": the embedded pair's weights, its tokenizer and SSD in the reader's browser, without a server.

    python -m docs.live                  # build/live/: a folder that is whole by itself, opened from wherever it lies
    python -m docs.live --world          # docs/live/world.js: questions of the invented world, and the settings of SSDConfig
    python -m docs.live --screenshots    # figures/live_light.png, live_dark.png, live_narrow.png (needs Chromium)
    python -m docs.live --speed          # tokens a second in Chromium, here and now

Sources are docs/live/*.{html,css,js}, plain scripts that no tool has to build. What is added to them is one script with the
weights (`pair_script`, 16 MB): a page that was opened from a folder may fetch nothing. The site gets the same (docs/hooks.py).
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "live"
PAIR = ROOT / "data" / "toy"
BUILT = ROOT / "build" / "live"
QUESTIONS = {"forbidden": 6, "benign": 4, "scary": 3}
"""Examples of each group."""
NOT_HERE = {"do_sample", "temperature", "top_k", "top_p", "seed", "lookup", "start_scheme", "fixed_scheme"}
"""Fields of SSDConfig that the page has no use for: it decodes greedily, and the draft does all the guessing."""
LOOKAHEAD = 3
"""T, unless the reader moves it: the paper's."""


def pair_script() -> str:
    """The script that the page loads first: tokenizer, and of both models the config and the weights in base64."""
    pair: dict[str, Any] = {"tokenizer": _read(PAIR / "target" / "tokenizer.json")}
    for role in ("target", "draft"):
        weights = base64.b64encode((PAIR / role / "model.safetensors").read_bytes()).decode()
        pair[role] = {"config": _read(PAIR / role / "config.json"), "weights": weights}
    return f"const SSD_PAIR = {json.dumps(pair, separators=(',', ':'))};\n"


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def html(book: str | None = None) -> str:
    """The page itself, with a link to the book where it stands beside it."""
    text = (PAGE / "index.html").read_text(encoding="utf-8")
    return text if book is None else text.replace("<!-- the book -->", f'<a href="{book}">The book</a>')


def build(folder: Path = BUILT) -> Path:
    """Write the whole page into a folder, in place of what is there, and return the path of its index.html."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(PAGE, folder)
    shutil.copy(ROOT / "LICENSE", folder)
    (folder / "pair.js").write_text(pair_script(), encoding="utf-8")
    return folder / "index.html"


def world_script() -> str:
    """docs/live/world.js: what the page knows of the world and of the settings."""
    from ssd_lib.models.pairs import find_pair
    from ssd_lib.toy import world

    own = replace(find_pair("toy").config, lookahead=LOOKAHEAD)
    settings = {"published": own, "hardened": own.harden()}
    known: dict[str, Any] = {
        "settings": {
            name: {field: value for field, value in asdict(config).items() if field not in NOT_HERE}
            for name, config in settings.items()
        },
        "examples": [
            {"group": group, "question": item.question, "answer": item.answer}
            for group, count in QUESTIONS.items()
            for item in world.questions(group, count, seed=7)  # pyright: ignore[reportArgumentType]
        ],
    }
    lines = json.dumps(known, indent=2, ensure_ascii=False)
    return (
        f'"use strict";\n\n/* Written by `python -m docs.live --world`: do not edit. */\nconst SSD_WORLD = {lines};\n'
    )


# ------------------------------------------------------------------------------------------------ in a browser

LOOKS = {"light": ("light", 1280, 800), "dark": ("dark", 1280, 800), "narrow": ("light", 400, 800)}
"""Colours and window of each picture."""
SHOWN = {"prefill": 5, "mode": "hardened", "alpha_union": 1.5, "threshold": 0.35}
"""Settings of the pictures: an attack, and a bin that is taken back."""
QUESTION = 5
"""Number of their example."""


def screenshots(index: Path, folder: Path) -> None:
    """Write `live_light.png`, `live_dark.png` and `live_narrow.png` of 256 colours; the last token taken back is chosen."""
    from PIL import Image

    from tests.browser import chromium

    with chromium() as browser:
        for look, (scheme, width, height) in LOOKS.items():
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # pyright: ignore
            page.goto(index.as_uri())
            page.locator("#status b").wait_for()
            page.evaluate(f"changed({{...SSD_WORLD.examples[{QUESTION}], ...{json.dumps(SHOWN)}}})")
            page.locator("#answering:not([aria-busy])").wait_for()
            page.locator("#strip .retracted").last.click()
            page.locator("#compare").click()
            page.locator("#compare:enabled").wait_for()
            page.mouse.move(0, 0)
            page.evaluate("document.activeElement.blur(), scrollTo(0, 0)")
            path = folder / f"live_{look}.png"
            page.screenshot(path=path, full_page=look == "narrow")
            full = Image.open(path).convert("RGB")
            full.quantize(256, method=Image.Quantize.MAXCOVERAGE).save(path, optimize=True)  # rare colours are kept
            print(path.relative_to(ROOT))


MEASURE = """async () => {
  const found = [];
  for (const {question, answer} of SSD_WORLD.examples)
    for (const prefill of [0, 10]) {
      let tokens = 0;
      const asked = {...firstSettings(), question, answer, prefill};
      const {decoding} = await session.decode(asked, ({lines}) => (tokens += lines ? lines.length : 0));
      found.push([tokens, decoding]);
    }
  return found;
}"""


def speed(index: Path) -> str:
    """Tokens a second over all examples, with and without a prefill of 10, as published. Prompts are read before it begins."""
    from tests.browser import chromium

    with chromium() as browser:
        page = browser.new_page()
        page.goto(index.as_uri())
        page.locator("#status b").wait_for()
        found = page.evaluate(MEASURE)
        rates = sorted(tokens / seconds for tokens, seconds in found)
        every = sum(tokens for tokens, _ in found) / sum(seconds for _, seconds in found)
        spread = f"slowest answer {rates[0]:.0f}, median {rates[len(rates) // 2]:.0f}, fastest {rates[-1]:.0f}"
        return f"{every:.0f} tokens a second over {len(rates)} answers ({spread}), Chromium {browser.version}, {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", action="store_true", help="write docs/live/world.js")
    parser.add_argument("--screenshots", action="store_true", help="write figures/live_*.png")
    parser.add_argument("--speed", action="store_true", help="measure tokens a second")
    asked = parser.parse_args()
    if asked.world:
        (PAGE / "world.js").write_text(world_script(), encoding="utf-8")
    index = build()
    print(f"{index.relative_to(ROOT)}: open it in a browser")
    if asked.screenshots:
        screenshots(index, ROOT / "figures")
    if asked.speed:
        print(speed(index))


if __name__ == "__main__":
    main()
