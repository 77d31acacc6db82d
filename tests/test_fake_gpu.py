"""The pretended accelerator's tests, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).with_name("fake_gpu.py")


@pytest.mark.slow
def test_a_round_on_a_pretended_accelerator():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FILE)]
    result = subprocess.run(command, cwd=FILE.parent.parent, env=environment, capture_output=True, text=True)
    assert result.returncode == 0 and " passed" in result.stdout, result.stdout[-5000:] + result.stderr[-2000:]
