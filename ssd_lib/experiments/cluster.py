"""The Ray cluster whose workers answer a run: one of N workers on this machine, or one that is there; and how many fit into it.

    --workers 4            4 workers on this machine, in a Ray of their own on loopback
    --workers ray          as many as fit into the Ray that runs here (RAY_ADDRESS counts), else into this machine
    --workers ray:ADDRESS  as many as fit into that cluster, and into machines that join it

A worker takes one CPU, and the GPUs, or the part of one, that `--gpus-per-worker` says. Where it has no GPU, it also reserves as
much memory as its weights, so that a machine with many cores is not filled beyond its memory.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import threading
from importlib import import_module
from types import NoneType
from typing import Any, NoReturn

import torch

from ssd_lib.settings import of_kind

STORE_BYTES = 100 * 2**20
"""Ray's shared memory on this machine; batches and rows are small."""
FEW, MANY = "N (workers on this machine)", "ray or ray:ADDRESS (as many as fit into a Ray cluster)"


def imported() -> Any:
    """The module ray. Raises ImportError, with what to do, where it is missing."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before the import: nothing is sent unless the user says so
    try:
        return import_module("ray")
    except ImportError as error:
        raise ImportError(f"many workers need ray ({error}): pip install 'ssd_lib[cluster]'") from error


def read_workers(workers: int | str) -> int | str:
    """`--workers` as a number, or as "ray" with an address after a colon. Raises ValueError for anything else."""
    text = str(workers).strip()
    if text.isdecimal() and int(text):
        return int(text)
    if text == "ray" or (text.startswith("ray:") and len(text) > 4):
        return text
    raise ValueError(f"workers={workers!r}: give {FEW}, or {MANY}")


def check_gpus(gpus: float | None) -> None:
    """Raise ValueError unless `gpus` is a share of one GPU, or a number of them."""
    of_kind("gpus_per_worker", gpus, int, float, NoneType)
    if gpus is not None and (not 0 <= gpus < math.inf or (gpus > 1 and gpus != int(gpus))):
        raise ValueError(f"gpus_per_worker={gpus}: give a whole number, or a part of one GPU between 0 and 1")


def check_device(device: str | None, gpus: float | None) -> None:
    """Raise ValueError for a device that contradicts what Ray gives to each worker."""
    kind = None if device is None else torch.device(device)
    if kind is not None and kind.index is not None:
        raise ValueError(
            f"device={device!r}: many workers get their GPUs from Ray: give {kind.type!r}, or leave it out"
        )
    if kind is not None and gpus is not None and (kind.type == "cpu") != (gpus == 0):
        raise ValueError(f"device={device!r} and gpus_per_worker={gpus} contradict each other")


class Cluster:
    """A connection to Ray, which ends with `close` unless it was there before; what a worker needs, and how many fit."""

    def __init__(self, workers: int | str, gpus: float | None, device: str | None):
        """Connect, and decide what a worker gets.

        Args:
            workers: As `read_workers` returns it.
            gpus: GPUs of a worker; default: one each, shared where a number of workers on this machine is above that of its
                GPUs; none on machines without.
            device: The experiment's own device, if it names one.

        Raises:
            ImportError: Without ray.
            ValueError: Where a worker does not fit, or there is no cluster at the address.
        """
        self.ray, self.count = imported(), workers if isinstance(workers, int) else None
        check_gpus(gpus)
        check_device(device, gpus)
        self.own = not self.ray.is_initialized()
        self.on_sigterm: Any = None
        if self.own:
            before = signal.getsignal(signal.SIGTERM)
            self._connect(workers)
            self._take_sigterm(before)
        try:
            self.needs = {"CPU": 1.0, "GPU": self._gpus(0 if device == "cpu" else gpus)}
            self._check_room()
        except BaseException:
            self.close()
            raise

    def _connect(self, workers: int | str) -> None:
        here: dict[str, Any] = dict(
            address="local",
            include_dashboard=False,
            num_cpus=self.count,
            object_store_memory=STORE_BYTES,
            _node_ip_address="127.0.0.1",  # nobody else can reach it
        )
        address = None if isinstance(workers, int) else workers.partition(":")[2] or "auto"
        quiet: dict[str, Any] = dict(log_to_driver=False, logging_level=logging.ERROR)
        if address is not None:
            try:
                self.ray.init(address=address, **quiet)
                return
            except (ConnectionError, ValueError, RuntimeError) as error:
                if address != "auto" or "RAY_ADDRESS" in os.environ:
                    where = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
                    raise ValueError(f"no Ray cluster answers at {where}: {_first_line(error)}") from error
        self._start(here | quiet)

    def _take_sigterm(self, before: Any) -> None:
        """End as on Ctrl-C: Ray's own handler aborts with a dump of its stack. Put back by `close`."""
        if threading.current_thread() is threading.main_thread():
            self.on_sigterm = before if before is not None else signal.SIG_DFL
            signal.signal(signal.SIGTERM, _leave if self.on_sigterm == signal.SIG_DFL else self.on_sigterm)

    def _start(self, options: dict[str, Any]) -> None:
        """A Ray on this machine. It allows itself 30 s, which a busy machine may need more than once."""
        for last in (False, False, True):
            try:
                self.ray.init(**options)
                return
            except Exception as error:  # noqa: BLE001 (Ray raises plain exceptions)
                self.ray.shutdown()
                if last or "timed out" not in str(error):
                    raise RuntimeError(f"Ray did not start on this machine: {_first_line(error)}") from error

    def nodes(self) -> list[dict[str, float]]:
        """What each machine that is alive has in all."""
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def _gpus(self, gpus: float | None) -> float:
        if gpus is not None:
            return float(gpus)
        there = sum(int(node.get("GPU", 0)) for node in self.nodes())
        if not there:
            return 0.0
        return 1.0 if self.count is None else 1.0 / math.ceil(self.count / there)

    def _check_room(self) -> None:
        room = sum(map(self._fitting, self.nodes()))
        if room < (self.count or 1):
            have = "; ".join(f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU" for node in self.nodes())
            raise ValueError(
                f"{self.count or 'no'} workers of {self.each()} do not fit: there is {have}. "
                "Give fewer --workers, or a smaller --gpus-per-worker"
                if self.count
                else f"no machine has {self.each()} for a worker: there is {have}. Give a smaller --gpus-per-worker"
            )

    def _fitting(self, node: dict[str, float]) -> int:
        """Workers that fit into an empty machine; a part of a GPU is a part of one and the same."""
        gpus, most = self.needs["GPU"], []
        for name, need in self.needs.items():
            if name == "GPU" and 0 < gpus < 1:
                most.append(int(node.get("GPU", 0)) * int(1 / gpus + 1e-6))
            elif need:
                most.append(int(node.get(name, 0) / need + 1e-6))
        return min(most)

    def slots(self) -> int:
        """Workers that there can be now."""
        room = sum(map(self._fitting, self.nodes()))
        return room if self.count is None else min(self.count, room)

    def reserve(self, weights: int) -> None:
        """From now on a worker without a GPU takes this many bytes of memory, too."""
        if self.count is None and not self.needs["GPU"]:
            self.needs["memory"] = float(weights)

    def share(self) -> float:
        """The share of a device's free memory that one worker may count on."""
        if self.needs["GPU"]:
            return min(1.0, self.needs["GPU"])
        return 1.0 / max(1, self.count or max(map(self._fitting, self.nodes())))

    def threads(self) -> int:
        """Threads of one worker: on this machine its part of those that one process would have."""
        return 1 if self.count is None else max(1, torch.get_num_threads() // self.count)

    def each(self) -> str:
        """What one worker takes, in words."""
        return "1 CPU" + (f" and {self.needs['GPU']:.3g} GPU" if self.needs["GPU"] else "")

    def start(self, kind: type, *args: Any) -> Any:
        """An actor of a class on its own slot. It is not restarted: the run does that."""
        options: dict[str, Any] = {
            "num_cpus": self.needs["CPU"],
            "num_gpus": self.needs["GPU"],
            "memory": self.needs.get("memory") or None,
            "max_restarts": 0,
            "max_task_retries": 0,
            "scheduling_strategy": "SPREAD",
        }
        return self.ray.remote(kind).options(**options).remote(*args)

    def end(self, actor: Any) -> None:
        """End an actor, at once."""
        with contextlib.suppress(Exception):  # it may have ended, or its machine
            self.ray.kill(actor, no_restart=True)

    def close(self) -> None:
        """Let go of the cluster; a Ray of our own ends."""
        if self.own and self.ray.is_initialized():
            self.ray.shutdown()
        if self.on_sigterm is not None:
            signal.signal(signal.SIGTERM, self.on_sigterm)
            self.on_sigterm = None


def _leave(number: int, _frame: Any) -> NoReturn:
    raise SystemExit(128 + number)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
