"""Every link and image of the written parts: relative ones exist, with their anchors; external ones are well-formed https."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from markdown_it import MarkdownIt

from docs.address import address

ROOT = Path(__file__).resolve().parent.parent
PATTERNS = ["*.md", "docs/**/*.md", "data/**/*.md", "benchmarks/**/*.md", "notebooks/**/*.md", "notebooks/**/*.ipynb"]
PAGES = sorted(p for pattern in PATTERNS for p in ROOT.glob(pattern) if ".ipynb_checkpoints" not in p.parts)
PARSER = MarkdownIt("commonmark").enable("table")


def prose(path):
    """The markdown of a page: the whole file, or the markdown cells of a notebook."""
    if path.suffix != ".ipynb":
        return [path.read_text(encoding="utf-8")]
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]


def links(text):
    """Where the links and images of one text lead, those of HTML in it as well; code is not looked into."""
    for token in PARSER.parse(text):
        for piece in [token, *(token.children or [])]:
            if piece.type in ("link_open", "image"):
                yield str(piece.attrs.get("href") or piece.attrs.get("src") or "")
            elif piece.type in ("html_block", "html_inline"):
                yield from re.findall(r'\b(?:href|src)="([^"]*)"', piece.content)


def anchors(path):
    """What `#…` may name on a page: its headings as GitHub spells them, and ids in its HTML."""
    names = set()
    for text in prose(path):
        tokens = PARSER.parse(text)
        headings = [
            after.content for token, after in zip(tokens, tokens[1:], strict=False) if token.type == "heading_open"
        ]
        names |= {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        names |= set(re.findall(r'\b(?:id|name)="([^"]*)"', text))
    return names


def fault(path, link):
    """What is wrong with a link on a page, or nothing."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        well_formed = parts.scheme == "https" and re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", parts.netloc)
        return None if well_formed and not re.search(r"\s", link) else "not a well-formed https address"
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_relative_to(ROOT):
        return "leaves the repository"
    if not target.exists():
        return "does not exist"
    if parts.fragment and target.suffix in (".md", ".ipynb") and unquote(parts.fragment) not in anchors(target):
        return "has no such heading"
    return None


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    found = [link for text in prose(path) for link in links(text)]
    assert not {link: why for link in found if (why := fault(path, link))}


@pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_the_colab_badge_opens_its_own_chapter(path):
    opened = [link for link in links(prose(path)[0]) if "colab.research.google.com/github" in link]
    home = f"https://colab.research.google.com/github/{address()}/blob/main/notebooks/{path.name}"
    assert opened == ([home] if address() else []), "run `make address` and commit"


def test_a_broken_link_is_found(tmp_path):
    """The check itself can fail: every kind of fault, and nothing in code."""
    text = '[a](b.md) ![c](d.png) <img src="e.png"> `[f](g.md)`\n\n```\n[h](i.md)\n```\n\n| [j](k.md) |\n| --- |\n'
    assert list(links(text)) == ["b.md", "d.png", "e.png", "k.md"]
    page = ROOT / "README.md"
    assert fault(page, "LICENSE") is None and fault(page, "https://arxiv.org/abs/2508.17739") is None
    for link in (
        "no/such.md",
        "../elsewhere.md",
        "http://arxiv.org",
        "https:///x",
        "https://a b.org",
        "README.md#nowhere",
    ):
        assert fault(page, link), link
