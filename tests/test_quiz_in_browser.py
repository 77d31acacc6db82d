"""Predictions in a real JupyterLab: a question is readable before a kernel runs, answered with buttons, and what follows is folded."""

import json

import nbformat
from playwright.sync_api import expect

from docs import address
from tests.browser import IN_CHROMIUM, Notebook, chromium, copy_book, jupyterlab
from tests.test_notebooks import REVEAL, execute, strip

pytestmark = IN_CHROMIUM
CELLS = ["from checks import predict, score", 'predict("04.p1")', 'print("revealed")', 'score("04")']


def test_a_prediction_is_read_committed_and_scored(tmp_path):
    book = tmp_path / "book"
    copy_book(book)
    cells = [nbformat.v4.new_code_cell(source) for source in [address.setup_cell(address.address()), *CELLS]]
    cells[3].metadata = REVEAL
    path = book / "notebooks/quiz.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    committed = strip(execute(path))
    assert committed.cells[3].metadata == REVEAL, "the folding is kept"
    path.write_text(json.dumps(committed), encoding="utf-8")

    with jupyterlab(book) as served, chromium() as browser:
        opened = Notebook(browser, served, "notebooks/quiz.ipynb")
        page = opened.page
        question = page.locator(".jp-CodeCell").nth(2)
        expect(question).to_contain_text("b) 1, 1, 0: only the attack makes them disagree.")
        assert question.locator("input").count() == 0 and "right" not in question.inner_text()
        expect(page.get_by_text("revealed", exact=True)).to_be_hidden()
        expect(page.locator(".jp-CodeCell").nth(3).locator(".jp-Placeholder")).to_have_count(2)

        opened.run_all()
        expect(question.locator("input[type=radio]")).to_have_count(4)
        assert question.inner_text().count("only the attack makes") == 1, "buttons in place of the text, not beside it"
        expect(question.locator("button", has_text="commit")).to_be_disabled()
        question.locator("input[type=radio]").nth(1).check()
        question.locator("button", has_text="commit").click()
        expect(question).to_contain_text("✔ b is right.")
        opened.run_all()
        expect(question).to_contain_text("✔ b is right.")
        expect(page.locator(".jp-CodeCell").nth(4)).to_contain_text("predictions right: 1 of 6")
        assert not opened.failures() and not opened.errors
        opened.close()
