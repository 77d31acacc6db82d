"""How often this library was made to fail on purpose, and what came of it: `make reliability` writes docs/reliability.md.

A part is a module here with `TITLE`, `FULL` and `SHORT` (how many cases, or seconds) and `run(count, seed, progress) -> Outcome`.
"""
