"""The documentation site that `make docs` built: whole, linked, and readable without a network."""

import html
import re
import tomllib
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"][0][
    "layers"
]
ROOMS = [name.removeprefix("ssd_lib.") for layer in LAYERS for name in layer.split(" | ")]
SITE = ROOT / "build" / "site"
CHAPTERS = sorted(ROOT.glob("notebooks/*.ipynb"))
pytestmark = pytest.mark.docs


@cache
def page(path):
    return path.read_text(encoding="utf-8")


def pages():
    return [path for path in sorted(SITE.rglob("*.html")) if path.name != "404.html"]


def test_the_site_is_built():
    assert (SITE / "index.html").exists(), "run `make docs`, which builds the site before it looks at it"


def test_every_link_on_the_site_leads_somewhere():
    broken = set()
    for path in pages():
        for link in {html.unescape(found) for found in re.findall(r'(?:href|src)="([^"]*)"', page(path))}:
            if re.match(r"https://|data:|javascript:", link):
                continue
            file, _, anchor = link.partition("#")
            target = (path.parent / unquote(file)).resolve() if file else path
            known = target.is_file() and (
                not anchor
                or target.suffix != ".html"
                or anchor.startswith("__")
                or f'id="{unquote(anchor)}"' in page(target)
            )
            if not known:
                broken.add(f"{path.relative_to(SITE)}: {link}")
    assert not broken


def test_chapters_stand_in_order_with_their_outputs():
    links = re.findall(r'href="notebooks/([^"/]+)\.html"', page(SITE / "CHANGELOG.html"))
    chapters = [path.stem for path in CHAPTERS]
    assert [name for name in dict.fromkeys(links) if name in chapters] == chapters
    for path in CHAPTERS:
        assert "data:image/png;base64" in page(SITE / "notebooks" / f"{path.stem}.html"), path.stem


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_a_page_with_its_functions(room):
    shown = page(SITE / "api" / f"{room}.html")
    assert f'id="ssd_lib.{room}' in shown and "doc-signature" in shown


def test_formulas_are_read_without_a_script_or_a_network():
    texts = [page(path) for path in pages()]
    assert sum(text.count("<math") for text in texts) > 50
    outside = re.compile(r'<(?:script|link|iframe)\b[^>]*(?:src|href)="?(https?:[^" >]*)|@import url\(["\']?http')
    assert not [found[0] for text in texts for found in outside.finditer(text)]
    prose = re.compile(r"<(pre|code|script|style|svg)\b.*?</\1>|<annotation.*?</annotation>", re.DOTALL)
    assert not [
        found for text in texts for found in re.findall(r"\\(?:frac|mathrm|alpha|text|beta|cap)\b", prose.sub("", text))
    ]


def test_what_follows_a_prediction_is_folded():
    for path in CHAPTERS:
        source, shown = path.read_text(encoding="utf-8"), page(SITE / "notebooks" / f"{path.stem}.html")
        assert ('<details class="reveal">' in shown) == ('"reveal"' in source), path.stem
        for cell in re.finditer("celltag_reveal", shown):
            assert shown.rfind('<details class="reveal">', 0, cell.start()) > shown.rfind("</details>", 0, cell.start())
