"""What the chapters ask: judges of the exercises (chapter_NN.py), predictions and questions (chapter_NN.toml).

Do not read on if you want to solve them yourself: all answers are in here.
"""

from pathlib import Path

from ssd_lib.show.exercises import Book

BOOK = Book("checks", Path(__file__).resolve().parent)
check, predict, question, score = BOOK.check, BOOK.predict, BOOK.question, BOOK.score
