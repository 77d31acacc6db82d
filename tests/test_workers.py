"""Many workers in a real Ray: the store equals that of one process, whoever joins, leaves, or is killed.

tests/test_crew.py tries hundreds of accidents on the same code without Ray.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from ssd_lib.experiments import config_from, load_sessions, run_experiment, workers
from ssd_lib.experiments.workers import Worker

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray")
TABLE = {
    "attacks": ["prefill-10", "benign:prefill=4:from=target"],
    "defenders": ["none", "ssd:lookahead=3"],  # "auto" goes by the clock: other rounds, the same tokens
    "limit": 5,
    "batch": 1,
    "max_new_tokens": 16,
    "judges": ["exact", "refusal"],
}
DEADLINE = 240  # seconds until something hangs


def contents(out):
    """Every row of every table, with its id, but for sessions and times."""
    with sqlite3.connect(out / "run.sqlite") as connection:
        tables = {name: connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2, 3") for name in ("items", "sizes")}
        tables["answers"] = connection.execute(
            "SELECT id, attack, item, defender, settings, text, prefill, token_ids, batch_rows, match_ratio, notes, error, "
            "json_remove(cost, '$.seconds') FROM answers ORDER BY id"
        )
        tables["verdicts"] = connection.execute(
            "SELECT answer, judge, version, label, score, reason, unjudged FROM verdicts ORDER BY 1, 2"
        )
        return {name: rows.fetchall() for name, rows in tables.items()}


def rows_of(out):
    try:
        with sqlite3.connect(f"file:{out}/run.sqlite?mode=ro", uri=True) as connection:
            return connection.execute("SELECT count(*) FROM answers").fetchone()[0]
    except sqlite3.DatabaseError:  # not there yet, or its writer is just opening it
        return 0


def wait_until(what, alive=lambda: True):
    end = time.monotonic() + DEADLINE
    while not (found := what()):
        assert time.monotonic() < end and alive(), "it takes too long, or has ended"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    found = contents(run_experiment(config_from(TABLE | {"out": out}), progress=False))
    assert len(found["answers"]) == 20 and len(found["verdicts"]) == 40
    return found


def node_of(cluster, **options):
    """A new node with one CPU. Ray gives it 15 s until its agents answer, which is too short where a machine is very busy."""
    for left in (4, 3, 2, 1, 0):
        try:
            return cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20, **options)
        except Exception as error:
            assert left and "timed out" in str(error), error


@pytest.fixture(scope="module")
def machines():
    """A Ray cluster on this machine, of one node with one CPU, that another may join."""
    from ray.cluster_utils import Cluster  # pyright: ignore[reportMissingImports]

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    cluster = Cluster()
    node_of(cluster, include_dashboard=False)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


# ------------------------------------------------------------------------------------------------ accidents


class Gated(Worker):
    """Writes down who begins a batch, and waits for a gate from the second batch of the run on."""

    folder = Path()

    def answers(self, records, defender, size):
        import ray  # pyright: ignore[reportMissingImports]

        with (self.folder / "log").open("a") as log:
            log.write(f"{os.getpid()} {ray.get_runtime_context().get_node_id()}\n")
        while not (self.folder / "gate").exists() and records[0].id != self.first:
            time.sleep(0.05)
        return super().answers(records, defender, size)

    first = "forbidden-0-0000"


def begun(folder):
    """Process and machine of every batch that was begun."""
    return [tuple(line.split()) for line in (folder / "log").read_text().splitlines()]


def test_a_machine_joins_a_worker_is_killed_and_the_machine_leaves(whole, machines, tmp_path, monkeypatch):
    (tmp_path / "log").touch()
    monkeypatch.setattr(Gated, "folder", tmp_path)
    monkeypatch.setattr(workers, "Worker", Gated)
    ended = []
    config = config_from(TABLE | {"out": tmp_path / "run"})

    def run():
        try:
            ended.append(run_experiment(config, progress=False, workers="ray"))
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def going():
        return not ended

    wait_until(lambda: rows_of(config.out) == 1 and len(begun(tmp_path)) == 2, going)
    ((first, here),) = set(begun(tmp_path))
    second = node_of(machines)
    wait_until(lambda: {node for _, node in begun(tmp_path)} - {here}, going)
    os.kill(int(first), signal.SIGKILL)
    wait_until(lambda: [who for who, node in begun(tmp_path) if node == here and who != first], going)
    machines.remove_node(second)  # with a worker in the middle of a batch
    (tmp_path / "gate").touch()
    thread.join(DEADLINE)
    assert ended == [config.out], ended
    assert contents(config.out) == whole
    assert rows_of(config.out) == 20 and len(begun(tmp_path)) >= 22, "two batches were lost, and asked again"
    session = load_sessions(config.out).iloc[0]
    assert session.ended == "finished" and session.workers["gpus"] == 0
    again = run_experiment(config_from(TABLE | {"out": config.out, "limit": 6}), progress=False, workers="ray")
    assert rows_of(again) == 24, "the same command with more items goes on"


def test_what_is_wrong_on_a_worker_is_one_line(machines, tmp_path):
    config = config_from(TABLE | {"out": tmp_path / "run", "pair": {"name": "toy", "draft": str(tmp_path)}})
    with pytest.raises(OSError, match=r"^no model at .* \(a worker at [0-9.]+\)$"):
        run_experiment(config, progress=False, workers="ray")


# ------------------------------------------------------------------------------------------------ the driver


def command(out, number):
    """`ssd run` on so many workers, in a process group of its own."""
    words = [f"--{name}={value}" for name in ("attacks", "defenders", "judges") for value in TABLE[name]]
    words += ["--limit=5", "--batch=1", "--max-new-tokens=16", f"--out={out}", f"--workers={number}"]
    code = [sys.executable, "-c", "from ssd_lib.cli import app; app()", "run", *words]
    where = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(code, env=where, start_new_session=True, stderr=subprocess.PIPE, text=True)


def interrupted(out, number, rows, how):
    """Start the command, and signal it when it has stored so many rows. Its exit code and stderr; nothing of it is left."""
    with command(out, number) as process:
        wait_until(lambda: rows_of(out) >= rows, lambda: process.poll() is None)
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) > number, "Ray and its workers run"
        how(process.pid)
        _, said = process.communicate(timeout=DEADLINE)
    assert psutil.wait_procs(family, timeout=90)[1] == [], "no process is left"
    return process.returncode, said


def test_stopped_and_killed_the_same_command_goes_on_at_any_number_of_workers(whole, tmp_path):
    code, said = interrupted(tmp_path, 2, 2, lambda pid: os.killpg(pid, signal.SIGINT))  # as a terminal does
    assert code not in (0, -signal.SIGKILL) and "Traceback" not in said
    stopped = rows_of(tmp_path)
    assert 2 <= stopped < 20 and load_sessions(tmp_path).ended.tolist() == ["KeyboardInterrupt"]
    code, said = interrupted(tmp_path, 2, stopped + 1, lambda pid: os.kill(pid, signal.SIGTERM))  # as a queue does
    assert code > 0 and "SIGTERM" not in said and load_sessions(tmp_path).ended.iloc[-1] == "SystemExit"
    stopped = rows_of(tmp_path)
    code, _ = interrupted(tmp_path, 3, stopped + 3, lambda pid: os.kill(pid, signal.SIGKILL))
    assert code == -signal.SIGKILL and stopped + 3 <= rows_of(tmp_path) < 20
    run_experiment(config_from(TABLE | {"out": tmp_path}), progress=False)
    assert contents(tmp_path) == whole
