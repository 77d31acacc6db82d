"""The repository's address on GitHub: it stands once, in pyproject.toml ([project.urls] Repository), and is written from there.

`make address REPO=owner/name` moves the repository: the badges of README (Binder, Codespaces) and chapters (Colab), the line with which a notebook alone
clones the book, CITATION.cff, the site's link, and every link to the old home. `REPO=none` removes the address again: then there
are no badges, and a notebook alone says what to do. Without REPO, everything is written again from pyproject.toml.

.github/workflows/address.yml does this at the first push to a new home.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

from docs import twins

ROOT = Path(__file__).resolve().parent.parent
HOME = "https://github.com/"
COLAB = "https://colab.research.google.com"
BADGE = rf"\[!\[Open in Colab\]\({COLAB}/assets/colab-badge\.svg\)\]\([^)]*\)"
BINDER, CODESPACES = "https://mybinder.org", "https://codespaces.new"
ELSEWHERE = rf"\[!\[Binder\]\({BINDER}/badge_logo\.svg\)\].*"
ROW = r"\| \[\d\d [^]]*\]\(notebooks/(\d\d_\w+\.ipynb)\) \|"
LINKED = ["*.md", "docs/**/*.md", "data/**/*.md", "benchmarks/**/*.md", "notebooks/*.md", ".github/**/*"]
"""Pages in which links to the old home become links to the new one."""


def address(root: Path = ROOT) -> str | None:
    """`owner/name`, or None while the repository has no home."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    home = project.get("urls", {}).get("Repository")
    return home.removeprefix(HOME) if home else None


def setup_cell(repo: str | None) -> str:
    """The first code cell of every notebook: five lines that find the repository, or clone it where it has a home."""
    clones = "; where there is none (Colab), clones it" if repo else ""
    if repo:
        fetch = f"""ROOT or os.system(f"git clone --depth 1 {{os.getenv('SSD_REPOSITORY', '{HOME}{repo}')}} ssd")"""
        fetch += "  # fmt: skip" if len(fetch) > 120 else ""
    else:
        fetch = 'assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."'
    return f"""import os  # Setup, the same in every notebook: uses the repository around it{clones}.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{{up}}/ssd_lib")), None)
{fetch}
%run {{ROOT or "ssd"}}/notebooks/prepare.py"""


def badge(repo: str, chapter: str) -> str:
    """A link that opens a chapter in Colab."""
    return f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({COLAB}/github/{repo}/blob/main/notebooks/{chapter})"


def elsewhere(repo: str) -> str:
    """README's line of badges: the whole book in Binder and in a codespace."""
    lab = f"{BINDER}/v2/gh/{repo}/main?urlpath=lab/tree/notebooks/00_start_here.ipynb"
    codespace = f"[![Open in Codespaces]({HOME}codespaces/badge.svg)]({CODESPACES}/{repo})"
    return f"[![Binder]({BINDER}/badge_logo.svg)]({lab}) {codespace}"


def with_line(text: str, line: str | None, old: str, after: str) -> str:
    """A text without the line that matches `old`, and with a new one, if any, after the first line that matches `after`."""
    text = re.sub(rf"^{old}\n", "", text, flags=re.MULTILINE)
    return (
        re.sub(rf"^{after}\n", lambda found: f"{found[0]}{line}\n", text, count=1, flags=re.MULTILINE) if line else text
    )


def project(text: str, repo: str | None) -> str:
    if repo and "[project.urls]" not in text:
        text = text.replace("[project.scripts]", "[project.urls]\n\n[project.scripts]", 1)
    line = f'Repository = "{HOME}{repo}"' if repo else None
    text = with_line(text, line, r"Repository = .*", r"\[project\.urls\]")
    return text.replace("[project.urls]\n\n", "", 1)


def citation(text: str, repo: str | None) -> str:
    line = f'repository-code: "{HOME}{repo}"' if repo else None
    return with_line(text, line, r"repository-code: .*", r"license: .*")


def site(text: str, repo: str | None) -> str:
    """A plain link below every page; `repo_url` would ask api.github.com for stars."""
    line = f'extra: {{social: [{{icon: fontawesome/brands/github, link: "{HOME}{repo}"}}]}}' if repo else None
    return with_line(text, line, r"extra: \{social: .*", r"site_description: .*")


def readme(text: str, repo: str | None) -> str:
    """The badges of other places below the title, and the table of chapters, whose last column are those of Colab, if any."""
    text = with_line(text, elsewhere(repo) if repo else None, ELSEWHERE, r"# .*")
    lines = text.split("\n")
    chapters = {i: found[1] for i, line in enumerate(lines) if (found := re.match(ROW, line))}
    if not chapters:
        return text
    first = min(chapters)
    had = re.search(rf"{BADGE} \|$", lines[first])
    badges = {first - 2: "", first - 1: "---"} | {i: badge(repo, name) for i, name in chapters.items() if repo}
    for place in (first - 2, first - 1, *chapters):
        columns = lines[place].split("|")[: -2 if had else -1]
        column = [f" {badges[place]} ".replace("  ", " ")] if repo else []
        lines[place] = "|".join([*columns, *column, ""])
    return "\n".join(lines)


def chapter(notebook: dict, name: str, repo: str | None) -> None:
    """Write the badge before the first line's links, and the setup cell, into a notebook's JSON."""
    cells = notebook["cells"]
    next(cell for cell in cells if cell["cell_type"] == "code")["source"] = setup_cell(repo)
    plain = re.sub(rf"^{BADGE} &nbsp; ", "", cells[0]["source"])
    if repo and plain.startswith("["):  # solutions open with their title, and have none
        plain = f"{badge(repo, name)} &nbsp; {plain}"
    cells[0]["source"] = plain


def write(repo: str | None, root: Path = ROOT) -> list[Path]:
    """Write the address to every place that shows it; returns the files that changed."""
    old, changed = address(root), []
    for name, change in {
        "pyproject.toml": project,
        "CITATION.cff": citation,
        "mkdocs.yml": site,
        "README.md": readme,
    }.items():
        path = root / name
        if twins.write(path, change(path.read_text(encoding="utf-8"), repo)):
            changed.append(path)
    for path in twins.notebooks(root):
        twins.sync(path)  # first, an edit of the text that has not reached its notebook
        notebook = json.loads(path.read_text(encoding="utf-8"))
        chapter(notebook, path.name, repo)
        if twins.write(path, twins.as_json(notebook)):
            twins.sync(path, master="notebook")
            changed += [path, twins.twin(path)]
    if old and repo:
        for path in sorted({path for pattern in LINKED for path in root.glob(pattern) if path.is_file()}):
            text = path.read_text(encoding="utf-8")
            if twins.write(path, re.sub(rf"{HOME}{re.escape(old)}(?![\w-]|\.(?!git\b)\w)", HOME + repo, text)):
                changed.append(path)
    return changed


def main(repo: str | None = None) -> None:
    """Write the address given as `owner/name` or `none`; without one, that of pyproject.toml again."""
    repo = repo or address() or "none"
    if repo != "none" and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*/[\w.-]+", repo):
        sys.exit(f"{repo!r} is no address: make address REPO=owner/name (or REPO=none)")
    for path in write(None if repo == "none" else repo):
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main(*sys.argv[1:2])
