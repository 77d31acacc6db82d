"""`transformers serve` on an exported folder, as a child process on a free port of 127.0.0.1."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from ssd_lib.paths import REPOSITORY


class Server:
    """A served folder; what it says goes to `log`."""

    def __init__(self, folder: str | Path, log: Path, *options: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.folder, self.log, self.address = str(folder), log, f"http://127.0.0.1:{port}"
        main = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", self.folder]
        said = os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        said["HF_MODULES_CACHE"] = str(log.with_name(f"modules-{log.stem}"))  # the code that it trusts is copied there
        with log.open("w") as written:
            self.process = subprocess.Popen(
                [*main, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", *options],
                env=said,
                stdout=written,
                stderr=subprocess.STDOUT,
            )

    def healthy(self, patience: float = 5) -> bool:
        """Whether it answers, within so many seconds."""
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=patience) as reply:
                return reply.status == 200
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False

    def wait(self, seconds: float = 120) -> None:
        """Until it is up."""
        end = time.monotonic() + seconds
        while not self.healthy():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.2)

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
