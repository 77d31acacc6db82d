"""The site's settings beyond mkdocs.yml: its pages are the repository's own files, where they stand.

A page's address is its source's path, so a relative link works in the repository, on GitHub and on the site. Formulas become
MathML while the site is built: no script and no network is needed to read them.
"""

from __future__ import annotations

import ast
import html
import re
import tomllib
from pathlib import Path
from typing import Any

import grimp
import live  # docs/live.py: mkdocs finds a hook's neighbours
import nbformat
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "data/**/*.md",
    "benchmarks/*.md",
    "notebooks/**/*.md",
    "notebooks/**/*.ipynb",
]
STATIC = [
    "figures/*.png",
    "CITATION.cff",
    "LICENSE",
    "benchmarks/results/*.csv",
    "data/*/*.csv",
    "data/*/*.toml",
    "data/*/*.json",
]

LIVE = "live/index.html"
"""The page on which SSD runs in the browser. Its scripts lie in docs/live and are copied as they are."""


def found(*patterns: str) -> list[str]:
    """Paths of the repository's files, relative to its root, in order."""
    paths = (path for pattern in patterns for path in sorted(ROOT.glob(pattern)))
    return [path.relative_to(ROOT).as_posix() for path in paths if ".ipynb_checkpoints" not in path.parts]


def title(path: str) -> str:
    """A page's first heading."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".ipynb"):
        text = "\n".join(
            cell.source for cell in nbformat.reads(text, as_version=4).cells if cell.cell_type == "markdown"
        )
    heading = re.search(r"^# (.+)$", text, re.MULTILINE)
    return heading[1].replace("`", "") if heading else path


def rooms() -> list[str]:
    """The rooms of ssd_lib from the ground up, in the order that import-linter enforces (pyproject.toml)."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ][0]
    layers = [name.removeprefix("ssd_lib.") for layer in contract["layers"] for name in layer.split(" | ")]
    return layers[::-1]


def staircase() -> str:
    """The rooms as a Mermaid flowchart: an arrow for each import that does not follow from other arrows."""
    named, graph = rooms(), grimp.build_graph("ssd_lib")
    packages = {room: {f"ssd_lib.{room}", *graph.find_descendants(f"ssd_lib.{room}")} for room in named}

    def uses(room: str) -> set[str]:
        found = {name for part in packages[room] for name in graph.find_modules_directly_imported_by(part)}
        return {other for other in named if other != room and found & packages[other]}

    direct = {room: uses(room) for room in named}
    reached: dict[str, set[str]] = {}
    for room in named:  # from the ground up: what a room imports stands before it
        reached[room] = direct[room].union(*(reached[other] for other in direct[room]))
    arrows = [
        f"    {room} --> {other}"
        for room in reversed(named)
        for other in sorted(direct[room])
        if not any(other in reached[between] for between in direct[room])
    ]
    return "\n".join(["```mermaid", "flowchart TD", *arrows, "```"])


def module(room: str) -> ast.Module:
    """A room's own source; of a package, that of its `__init__`."""
    path = ROOT / "ssd_lib" / f"{room}.py"
    source = path if path.exists() else ROOT / "ssd_lib" / room / "__init__.py"
    return ast.parse(source.read_text(encoding="utf-8"))


def idea(room: str) -> str:
    """The first paragraph of a module's docstring."""
    return (ast.get_docstring(module(room)) or "").split("\n\n")[0].replace("\n", " ")


def room_page(room: str) -> str:
    """What a room defines itself, then each of its files: a name that a package only re-exports stands where it is defined."""
    own = [node.name for node in module(room).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    public = [name for name in own if not name.startswith("_")]
    text = f"# ssd_lib.{room}\n\n::: ssd_lib.{room}\n"
    if (ROOT / "ssd_lib" / room).is_dir():
        text += f"    options:\n      members: {public or 'false'}\n"
        for path in found(f"ssd_lib/{room}/[!_]*.py"):
            name = Path(path).stem
            text += f"\n## {room}.{name}\n\n::: ssd_lib.{room}.{name}\n    options:\n      heading_level: 3\n"
    return text


def on_config(config: MkDocsConfig) -> None:
    """The navigation: the book, what was measured, the library."""

    def entries(*patterns: str) -> list[Any]:
        return [{title(path): path} for path in found(*patterns)]

    config.nav = [
        {"Home": "README.md"},
        {"Live": LIVE},
        {
            "The book": [
                *entries("notebooks/*.ipynb", "notebooks/*.md"),
                {"Solutions": entries("notebooks/solutions/*.ipynb")},
            ]
        },
        {
            "Measured": [
                {"Every defence against every attack": "results.md"},
                *entries("benchmarks/*.md", "data/*/*.md", "data/*.md"),
                {"Reliability": "reliability.md"},
                {"Limits": "limits.md"},
            ]
        },
        {
            "Your own": [
                "your_own.md",
                {"In other tools": "ecosystem.md"},
                {"Many GPUs, many machines": "scale.md"},
            ]
        },
        {
            "The library": [
                {"Architecture": "architecture.md"},
                "api.md",
                {"The contract": "contract.md"},
                {"Paper next to code": "paper.md"},
                {"How far to guess": "lookahead.md"},
                *({room: f"api/{room}.md"} for room in reversed(rooms())),
            ]
        },
        {"The project": [{"Contributing": "CONTRIBUTING.md"}, {"Changes": "CHANGELOG.md"}]},
    ]


@event_priority(100)  # before mkdocs-jupyter, which looks for notebooks among the files
def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path in found(*PAGES, *STATIC):
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    for room in rooms():
        files.append(File.generated(config, f"api/{room}.md", content=room_page(room)))
    page = files.get_file_from_path(LIVE)
    assert page is not None
    files.remove(page)  # its place is taken by the one that links to the book
    files.append(File.generated(config, LIVE, content=live.html(book="../index.html")))
    files.append(File.generated(config, "live/pair.js", content=live.pair_script()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A link to a folder goes to its first page, one into or out of docs/ to the site's root; the library's front page lists the rooms."""
    if page.file.src_uri == "api.md":
        lines = [f"| [`{room}`](api/{room}.md) | {idea(room)} |" for room in rooms()]
        markdown += "\n".join(["| module | idea |", "| --- | --- |", *lines])
    markdown = markdown.replace("<!-- the rooms, drawn from the import contract -->", staircase())
    first = found("notebooks/solutions/*.ipynb")[0]
    if (ROOT / "docs" / page.file.src_uri).exists():
        markdown = markdown.replace("](../", "](")
    return (
        markdown.replace("](notebooks/solutions)", f"]({first})")
        .replace("](docs/", "](")
        .replace("](../docs/", "](../")
    )


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """In chapters, what follows a prediction is folded and links to sources become links to pages; everywhere, TeX becomes MathML."""
    if page.file.src_uri.endswith(".ipynb"):
        content = _folded(content)
        content = re.sub(
            r'href="([^":#]+\.(?:ipynb|md|html))(#[^"]*)?"', lambda link: _to_page(link, page, files), content
        )
    return _formulas(content)


def _folded(content: str) -> str:
    """Neighbouring cells that are tagged "reveal", in one box to be opened."""
    cells = re.split(r'(?=<div[^>]* class="jp-Cell )', content)
    folded = ["celltag_reveal" in cell.partition(">")[0] for cell in cells]
    box = '<details class="reveal"><summary>Made your prediction? Then look at the code and its output.</summary>\n'
    for place, (cell, inside) in enumerate(zip(cells, folded, strict=True)):
        begins, ends = inside and not folded[place - 1], inside and not folded[place + 1]  # a chapter ends with text
        cells[place] = f"{box if begins else ''}{cell}{'</details>' if ends else ''}"
    return "".join(cells)


def _to_page(link: re.Match[str], page: Page, files: Files) -> str:
    folder = (ROOT / page.file.src_uri).parent
    path = (folder / link[1]).resolve().relative_to(ROOT).as_posix()
    target = files.get_file_from_path(path.removeprefix("docs/"))
    return f'href="{target.url_relative_to(page.file)}{link[2] or ""}"' if target else link[0]


FORMULA = re.compile(
    r"(<(pre|code|script|style|svg)\b.*?</\2>)|\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|(?<![\\\w$])\$(\S(?:[^$<]*?\S)?)\$(?!\w)",
    re.DOTALL,
)


def _formulas(content: str) -> str:
    def replace(found: re.Match[str]) -> str:
        block, inline = found[3] or found[4], found[5] or found[6]
        if not (block or inline):
            return found[0]  # code, which is left as it is
        return convert(html.unescape(block or inline), display="block" if block else "inline")

    return FORMULA.sub(replace, content)
