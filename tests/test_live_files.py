"""The live page's files: whole in one folder, nothing from elsewhere, and no way for a text to become markup."""

import base64
import json
import re

import pytest

from docs import live

ROOT = live.ROOT
SCRIPTS = sorted(live.PAGE.glob("*.js"))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return live.build(tmp_path_factory.mktemp("live") / "page")


def test_questions_and_settings_are_those_of_the_library():
    written = (live.PAGE / "world.js").read_text(encoding="utf-8")
    assert written == live.world_script(), "run `python -m docs.live --world`"


def test_the_folder_is_whole_by_itself(built):
    html = built.read_text(encoding="utf-8")
    named = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert {"page.js", "live.css", "world.js"} <= set(named)
    assert all((built.parent / name).is_file() for name in named if name != "data:,")
    assert {"pair.js", "LICENSE"} <= {path.name for path in built.parent.iterdir()}


def test_the_weights_are_the_pairs_own(built):
    script = (built.parent / "pair.js").read_text(encoding="utf-8")
    pair = json.loads(script.removeprefix("const SSD_PAIR = ").removesuffix(";\n"))
    for role in ("target", "draft"):
        folder = ROOT / "data" / "toy" / role
        assert base64.b64decode(pair[role]["weights"]) == (folder / "model.safetensors").read_bytes()
        assert pair[role]["config"] == json.loads((folder / "config.json").read_text(encoding="utf-8"))


@pytest.mark.docs
def test_the_site_has_the_page_and_leads_back_to_the_book():
    site = ROOT / "build" / "site"
    assert (site / "live" / "pair.js").read_text(encoding="utf-8") == live.pair_script(), "run `make docs`"
    assert '<a href="../index.html">The book</a>' in (site / "live" / "index.html").read_text(encoding="utf-8")
    assert 'href="../live/index.html"' in (site / "notebooks" / "00_start_here.html").read_text(encoding="utf-8")


def test_both_models_share_a_tokenizer_and_a_template():
    """The page encodes a question once, for both."""
    for name in ("tokenizer.json", "chat_template.jinja"):
        target, draft = ((ROOT / "data" / "toy" / role / name).read_bytes() for role in ("target", "draft"))
        assert target == draft, name


def test_the_page_loads_nothing_from_elsewhere_and_holds_no_script_of_its_own():
    html = (live.PAGE / "index.html").read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy"\s+content="([^"]+)"', html)
    assert policy and "default-src 'none'" in policy[1] and "unsafe" not in policy[1] and "http" not in policy[1]
    assert all(" src=" in tag for tag in re.findall(r"<script[^>]*>", html))
    assert not re.search(r"\son\w+=|\sstyle=|<style", html)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_write_texts_and_never_markup(path):
    code = path.read_text(encoding="utf-8")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(|new Function", code
    )
    assert not re.search(r"https?://", code)
    assert len(code.splitlines()) <= 400
