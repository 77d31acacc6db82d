"""Bad values for every door: words for command lines, files of the wrong kind, and objects for Python calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

LONG = "a" * 5000
WORDS = (
    *("", " ", "nan", "inf", "-inf", "-1", "0", "1.5", "1e999", "9" * 40, "-" + "9" * 40, "None", "true", "[]", "{}"),
    *(
        "null",
        "..",
        ".",
        "/nonexistent/x",
        "/dev/null",
        "\udcff",
        "ü\u202eабв",
        "\x1b[2J\x07",
        LONG,
        "a\nb",
        "@",
        "~nobody/x",
    ),
    *(
        ":",
        "::",
        "ssd:",
        "ssd:x",
        "ssd:alpha_union=nan",
        "ssd:alpha_union=-1",
        "ssd:lookahead=true",
        "ssd:=",
        "none:seed=1",
    ),
    *(
        "prefill--1",
        "prefill-0",
        "prefill-" + "9" * 30,
        "pieces-0",
        "custom:path=nothing.csv",
        "custom",
        "direct:limit=0",
    ),
    *(
        "direct:prefill=x:from=me",
        "qwen:model=",
        "exact:x=1",
        "refusal:which=no",
        "toy",
        "llama2",
        "a/b",
        "a/b/c",
        "gpt2:x",
    ),
    *("http://127.0.0.1:9/x", "<script>", "$x$", "%s%n", "{0}", "4bit", "float8", "cuda:99", "cpu:1", "meta", "mps"),
)
FILES = (
    *(
        "empty.json",
        "empty.csv",
        "empty.toml",
        "empty.sqlite",
        "binary.json",
        "binary.csv",
        "binary.toml",
        "binary.jsonl",
    ),
    *(
        "binary.sqlite",
        "binary.gguf",
        "binary.parquet",
        "list.json",
        "half.json",
        "half.jsonl",
        "half.csv",
        "table.toml",
    ),
    *("deep.json", "numbers.jsonl", "no_columns.csv", "latin1.csv", "folder", "model", "run.sqlite", "folder.json"),
)


def write_files(folder: Path) -> None:
    """The files of `FILES`."""
    rubbish = bytes(range(256)) * 8
    for name in FILES:
        kind = name.partition(".")[0]
        if kind in ("empty", "binary"):
            (folder / name).write_bytes(rubbish if kind == "binary" else b"")
    for name in ("folder", "model", "folder.json"):
        (folder / name).mkdir()
    texts = {
        "list.json": "[1, null, []]",
        "half.json": '[{"question": "a',
        "half.jsonl": '{"question": "a"}\n{"question": ',
        "half.csv": 'question,target\n"a,b\n',
        "table.toml": '[pair]\nname = 3\n[attacks]\nx = "y"\n',
        "deep.json": "[" * 100_000,
        "numbers.jsonl": json.dumps({"question": 3, "answer": None, "refusal": {}}),
        "no_columns.csv": "a,b\n1,2\n",
        "run.sqlite": "SQLite format 3\0 but it is not",
        "model/config.json": '{"model_type": "nothing"}',
        "model/tokenizer.json": "{}",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "latin1.csv").write_bytes("question\nwie gräßlich\n".encode("latin-1"))


def words() -> st.SearchStrategy[str]:
    """A word of a command line."""
    letters = st.characters(exclude_characters="\0", exclude_categories=())
    return st.one_of(st.sampled_from(WORDS), st.sampled_from(FILES), st.text(letters, max_size=12), numbers().map(str))


def numbers() -> st.SearchStrategy[Any]:
    """Numbers of any size and kind."""
    return st.one_of(st.integers(), st.floats(), st.sampled_from([0, -1, 2**63, 10**30, 1e308]))


class Hostile:
    """An object that is of no use."""

    def __repr__(self) -> str:
        return "Hostile()"


OBJECTS: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 10**30, 1.5, float("nan"), float("inf"), "", " ", "nothing", "\ud800", "a\0b", LONG),
    *(
        b"",
        b"\xff",
        [],
        [[]],
        [None],
        [[None]],
        ["", 3],
        [[3, "x"]],
        [[-1]],
        [[10**9]],
        [[3.5]],
        [[True]],
        [3, 4],
        (),
        {},
    ),
    *({"x": 1}, {1: 2}, {"role": "user"}, [{"role": "user"}], [{"content": 3, "role": "user"}], [[{"role": "judge"}]]),
    *(set(), {1}, range(3), object(), Hostile(), int, len, Path("nothing"), Path("."), 1j, slice(1), iter(())),
    *(
        torch.tensor(3),
        torch.tensor([3]),
        torch.tensor([[3.0]]),
        torch.tensor([[-1]]),
        torch.zeros(0, 0),
        torch.zeros(1, 0).long(),
    ),
    *(torch.ones(2, 3, 4).long(), torch.tensor([[True]]), np.zeros((1, 2), int), np.array(["a"])),
)


def objects() -> st.SearchStrategy[Any]:
    """An argument of a Python call."""
    small = st.recursive(st.one_of(numbers(), st.text(max_size=5), st.none()), st.lists, max_leaves=4)
    return st.one_of(st.sampled_from(OBJECTS), st.sampled_from(OBJECTS), st.sampled_from(WORDS), small)
