"""Grading a student's notebook: run it in a fresh kernel, and let the grader's own checks say what it earned.

The student's cells run one after the other in a copy of this repository that is thrown away afterwards. After the cell that
holds a check of the chapter, the grader asks its own: with the arguments that the *chapter* writes, through checks that
were loaded from the grader's repository before the student's first cell (`regrading`), over the kernel's protocol. What the
notebook itself prints, writes to a score file, or defines under the name `check` earns nothing.

It is no sandbox. The student's code runs as the user who grades, in the process that also holds the checks: a container is
what keeps files and network from it, and somebody who reads this file can still get at the checks' memory.
"""

from __future__ import annotations

import ast
import filecmp
import json
import math
import os
import re
import secrets
import shutil
import site
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssd_lib.method.trace import visible
from ssd_lib.paths import REPOSITORY
from ssd_lib.show.scores import KINDS, Call, Row, Sheet, calls_in, chapter_of

KEPT = set(
    """PATH LANG LANGUAGE TZ TMPDIR TEMP TMP SYSTEMROOT SYSTEMDRIVE WINDIR COMSPEC PATHEXT NUMBER_OF_PROCESSORS
    PROCESSOR_ARCHITECTURE VIRTUAL_ENV CONDA_PREFIX LD_LIBRARY_PATH DYLD_LIBRARY_PATH CUDA_VISIBLE_DEVICES
    OMP_NUM_THREADS MKL_NUM_THREADS PYTHONPATH PYTHONUTF8 SSD_SHORT_PRODUCTS""".split()  # noqa: SIM905
)
"""What a student's kernel has of the grader's environment: no key and no token is among it."""
LEFT_OUT = ("__pycache__", ".*", "build", "dist", "runs", "site", "solutions", "node_modules", "*.ipynb")
"""What of the repository is not copied."""
WATCHED = ("ssd_lib", "notebooks/checks", "notebooks/prepare.py", "data")
"""A notebook that changes one of these files in its copy is not graded further."""
PATIENCE = 10
"""Seconds that an interrupted kernel has to answer."""


class Stopped(Exception):
    """The run ends here; what was earned stays."""


@dataclass(frozen=True)
class Limits:
    """In minutes."""

    cell: float = 5
    whole: float = 30


@dataclass
class Run:
    """A kernel that runs a student's notebook in a copy of the repository."""

    client: Any
    copy: Path
    repository: Path
    limits: Limits
    started: float = field(default_factory=time.monotonic)
    place: int = -1
    """Of the cell that runs, or ran last."""

    def seconds(self) -> int:
        """How long the next cell may take."""
        left = self.limits.whole * 60 - (time.monotonic() - self.started)
        if left <= 0:
            raise Stopped(f"stopped after {self.limits.whole:g} minutes")
        return math.ceil(min(left, self.limits.cell * 60))

    def cell(self, cell: Any, place: int) -> str | None:
        """Run one cell; its error in one line, if any."""
        from nbclient.exceptions import DeadKernelError

        limit, started = self.seconds(), time.monotonic()
        self.client.timeout, self.place = limit, place
        try:
            self.client.execute_cell(cell, place)
        except (DeadKernelError, RuntimeError):
            raise Stopped(f"cell {place} ended the kernel") from None
        if time.monotonic() - started >= limit:
            self.evaluate("1", PATIENCE)  # a kernel that does not even answer this ends the run
            return f"cell {place}: stopped after {limit / 60:.2g} minutes"
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return one_line(f"cell {place}: {output.ename}: {(output.evalue.splitlines() or [''])[0]}")
        return None

    def evaluate(self, expression: str, seconds: float) -> Any:
        """The value of a Python expression in the kernel, beside the notebook: it leaves no trace in its history.

        Raises:
            Stopped: Where the kernel does not answer even when it is interrupted.
            ValueError: Where the expression failed, saying how.
        """
        client, manager = self.client.kc, self.client.km
        sent = wait(client.execute)("", silent=True, store_history=False, user_expressions={"value": expression})
        reply = self._reply(sent, seconds)
        if reply is None:
            wait(manager.interrupt_kernel)()
            reply = self._reply(sent, PATIENCE)
        if reply is None:
            raise Stopped("the kernel does not answer")
        value = (
            reply["content"].get("user_expressions", {}).get("value", {"ename": "nothing", "evalue": "was answered"})
        )
        if value.get("status") != "ok":
            raise ValueError(f"{value['ename']}: {value['evalue']}")
        try:
            return ast.literal_eval(value["data"]["text/plain"])
        except (KeyError, SyntaxError, TypeError) as error:
            raise ValueError(f"the kernel answers in another form ({error!r})") from None

    def _reply(self, sent: str, seconds: float) -> Any:
        from queue import Empty

        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                reply = wait(self.client.kc.get_shell_msg)(timeout=min(left, 1))
            except Empty:
                if not wait(self.client.km.is_alive)():
                    raise Stopped(f"the kernel ended after cell {self.place}") from None
                continue
            if reply["parent_header"].get("msg_id") == sent:
                return reply
        return None

    def changed(self) -> str | None:
        """A watched file that the notebook has changed in its copy, or added."""
        for name in WATCHED:
            top = self.repository / name
            ours = {p.relative_to(self.repository) for p in ([top] if top.is_file() else files(top))}
            for path in sorted(ours):
                there = self.copy / path
                if not there.is_file() or not filecmp.cmp(self.repository / path, there, shallow=False):
                    return path.as_posix()
            theirs = set() if name == "data" else {p.relative_to(self.copy) for p in files(self.copy / name)}
            if more := sorted(theirs - ours):
                return more[0].as_posix()
        return None


class Grader:
    """The grader's own checks inside a run's kernel."""

    def __init__(self, run: Run, chapter: str):
        self.run, self.module, self.seal = run, f"_{secrets.token_hex()}", secrets.token_hex()
        source = Path(__file__).with_name("regrading.py").read_text(encoding="utf-8")
        self.at = f"__import__('sys').modules[{self.module!r}]"
        made = f"__import__('types').ModuleType({self.module!r})"
        run.evaluate(f"__import__('sys').modules.update({{{self.module!r}: {made}}})", 60)
        run.evaluate(f"exec({source!r}, {self.at}.__dict__)", 60)
        library = definitions(run.repository / "ssd_lib")
        call = f"load({self.seal!r}, {str(run.copy / 'notebooks')!r}, {chapter!r}, {library!r})"
        self.asked: dict[str, dict[str, Any]] = self._call(call, 300)

    def _call(self, call: str, seconds: float) -> Any:
        """What a function of `regrading` returns. Stops where somebody else answers."""
        told = self.run.evaluate(f"{self.at}.sealed({self.at}.{call})", seconds)
        if not str(told).startswith(f"({self.seal!r}, "):
            raise Stopped("the notebook answers in place of the checks")
        return ast.literal_eval(told)[1]

    def judge(self, call: Call) -> dict[str, Any]:
        """What the grader's check says: the fields of its line, or a `message` why there is none."""
        if path := self.run.changed():
            return {"message": f"not graded: the notebook changes {path}"}
        try:
            if patched := self._call("patched()", 60):
                return {"message": f"not graded: the notebook changes {patched[0]}"}
            word = next(word for word, kind in KINDS.items() if kind == call.kind)
            told = self._call(f"ask({word!r}, {call.name!r}, {call.arguments!r})", self.run.seconds())
        except ValueError as error:
            return {"message": f"the check itself failed: {error}"}
        lines = [line for line in told["lines"] if line["name"] == call.name]
        return lines[-1] if lines else {"message": told["error"] or "no result"}


def grade(
    path: Path,
    student: str | None = None,
    against: str | None = None,
    limits: Limits | None = None,
    repository: Path = REPOSITORY,
) -> Sheet:
    """Run a student's notebook and grade what it made.

    Args:
        path: The notebook.
        student: Their name; default: the file's.
        against: The chapter's number; default: that of most of the notebook's checks, else of its file's name.
        limits: Of time.
        repository: Whose chapters, checks and library count.

    Raises:
        ValueError: Where the notebook cannot be read, or no chapter is found that asks anything.
    """
    import nbformat

    try:
        notebook = nbformat.read(path, as_version=4)
        theirs = calls_in(notebook.cells)
    except Exception as error:  # nbformat raises whatever the broken JSON leads to
        raise ValueError(f"{path} is no notebook: {str(error).splitlines()[0] if str(error) else error!r}") from error
    chapter = against or chapter_of(theirs, path.name)
    if chapter is None:
        raise ValueError(f"{path}: which chapter is this? Say --against NN")
    file, asked = chapter_calls(repository, chapter)
    chapter, started = file.name[:2], time.monotonic()
    sheet = Sheet(student or path.stem, path.name, chapter)
    with kernel(notebook, file.name, repository, limits or Limits()) as run:
        try:
            grader = Grader(run, chapter)
            sheet.rows = [Row(name, call.kind, **grader.asked.get(name, {})) for name, call in asked.items()]
            sheet.rows.sort(key=lambda row: row.kind)  # exercises first
            run_graded(run, grader, notebook.cells, places(asked, theirs, len(notebook.cells)), sheet)
        except Stopped as stopped:
            sheet.errors.append(str(stopped))
        tries = own_tries(run.copy / "score.jsonl")
    for row in sheet.rows:
        row.message = row.message or "did not run"
        row.tries = max(row.tries, tries.get(row.name, 0))
    sheet.minutes = (time.monotonic() - started) / 60
    return sheet


def run_graded(run: Run, grader: Grader, cells: list[Any], asked: dict[int, list[Call]], sheet: Sheet) -> None:
    """Run the cells in order; after each, grade what the chapter asks there. Errors do not stop it."""
    rows = {row.name: row for row in sheet.rows}
    for place, cell in enumerate(cells):
        if error := run.cell(cell, place) if cell.cell_type == "code" else None:
            sheet.errors.append(error)
        for call in asked.get(place, []):
            told = unanswered(call) or grader.judge(call)
            if row := rows.get(call.name):  # what it is worth was said before the student's first cell
                row.answered, row.passed = "passed" in told, told.get("passed") is True
                row.points, row.tries = min(max(told.get("points", 0), 0), row.of), told.get("tries", 0)
                row.message = one_line(str(told.get("message", "")))


def unanswered(call: Call) -> dict[str, Any] | None:
    """A prediction or question counts by its letter in the cell: a click is not stored in a notebook."""
    if call.kind == "exercise" or call.arguments:
        return None
    word = next(word for word, kind in KINDS.items() if kind == call.kind)
    return {"message": f'no answer in the cell: write {word}("{call.name}", "a")'}


def places(asked: dict[str, Call], theirs: list[Call], cells: int) -> dict[int, list[Call]]:
    """After which cell what is graded: after the student's own check of that name, at the end where there is none.

    An exercise is asked as the chapter writes it; of a prediction and a question the student's answer counts, if it is a plain text.
    """
    found: dict[int, list[Call]] = {}
    for name, call in asked.items():
        own = [each for each in theirs if each.name == name]
        place = own[-1].cell if own else cells - 1
        if call.kind != "exercise":
            answer = own[0].arguments if own else ""
            call = Call(call.kind, name, answer if re.fullmatch(r"'\w*'", answer) else "", place)
        found.setdefault(place, []).append(call)
    return found


def chapter_calls(repository: Path, chapter: str) -> tuple[Path, dict[str, Call]]:
    """A chapter's notebook, and what it asks, by name.

    Raises:
        ValueError: Where there is no such chapter, or it asks nothing.
    """
    import nbformat

    number = chapter if re.fullmatch(r"\d\d", chapter) else (re.match(r"\d\d", Path(chapter).name) or [chapter])[0]
    files = sorted((repository / "notebooks").glob(f"{number}_*.ipynb"))
    if not files:
        raise ValueError(f"no chapter {chapter!r} in {repository / 'notebooks'}: grading needs the repository")
    asked: dict[str, Call] = {}
    for call in calls_in(nbformat.read(files[0], as_version=4).cells):
        if call.name.startswith(f"{number}."):
            asked.setdefault(call.name, call)
    if not asked:
        raise ValueError(f"{files[0].name} asks nothing that can be graded (check, predict, question)")
    return files[0], asked


def one_line(text: str) -> str:
    """A student's text as one line that is not too long, and in which nothing reaches a terminal."""
    return visible(" ".join(text.split()))[:300]


def own_tries(path: Path) -> dict[str, int]:
    """How often the notebook itself asked its checks: of use to a teacher, and worth no point."""
    tries: dict[str, int] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            told = json.loads(line)
            tries[str(told["name"])] = int(told["tries"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return tries


# ------------------------------------------------------------------------------------------------ the kernel


@contextmanager
def kernel(notebook: Any, name: str, repository: Path, limits: Limits) -> Iterator[Run]:
    """A fresh kernel in a copy of the repository; both are gone afterwards."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    with tempfile.TemporaryDirectory(prefix="ssd-grade-", ignore_cleanup_errors=True) as folder:
        copy, home = Path(folder).resolve() / "ssd", Path(folder).resolve() / "home"
        home.mkdir()
        shutil.copytree(repository, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
        (copy / "notebooks" / name).write_text(json.dumps(notebook), encoding="utf-8")
        manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
        client = NotebookClient(
            notebook,
            km=manager,
            allow_errors=True,
            interrupt_on_timeout=True,
            error_on_timeout={"ename": "Timeout", "evalue": "", "traceback": []},
            shutdown_kernel="immediate",  # a stuck one would wait for its cell
            resources={"metadata": {"path": str(copy / "notebooks")}},
        )
        client.log.setLevel("CRITICAL")
        keep_errors_alone(client)
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}  # what it writes there itself
        with client.setup_kernel(env=environment(copy, home), cleanup_kc=True, **silent):
            yield Run(client, copy, repository, limits)


def keep_errors_alone(client: Any) -> None:
    """Outputs are not kept: a cell that prints without an end must not fill the grader's memory."""
    process = client.process_message
    heard = ("status", "error")
    client.process_message = lambda msg, *rest: process(msg, *rest) if msg["msg_type"] in heard else None


def environment(copy: Path, home: Path) -> dict[str, str]:
    """What a student's kernel sees of this machine's variables: those that are `KEPT`, and a home of its own."""
    kept = {name: value for name, value in os.environ.items() if name.upper() in KEPT or name.startswith("LC_")}
    more = {
        "HOME": str(home),
        "USERPROFILE": str(home),
        "APPDATA": str(home),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(copy), kept.get("PYTHONPATH")])),
        "PYTHONUSERBASE": site.getuserbase(),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "TQDM_DISABLE": "1",
        "SSD_SCORE_FILE": str(copy / "score.jsonl"),
    }
    return kept | more


def files(folder: Path) -> list[Path]:
    """All files in a folder but compiled ones of the grader's own runs."""
    found = folder.rglob("*") if folder.is_dir() else []
    return [path for path in found if path.is_file() and "__pycache__" not in path.relative_to(folder).parts]


def definitions(folder: Path) -> dict[str, list[str]]:
    """Functions and classes that the library's files define, by module; those of classes as `Class.method`."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        module = ".".join(path.relative_to(folder.parent).with_suffix("").parts).removesuffix(".__init__")
        names = []
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.append(node.name)
            if isinstance(node, ast.ClassDef):
                names += [f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)]
        found[module] = names
    return found


def wait(function: Any) -> Any:
    """A function of Jupyter's client, asynchronous or not, as one that returns when it is done."""
    from jupyter_client.utils import run_sync
    from nbclient.util import ensure_async

    async def done(*args: Any, **options: Any) -> Any:
        return await ensure_async(function(*args, **options))

    return run_sync(done)
