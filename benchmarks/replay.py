"""A CUDA graph imitated on the CPU, operation by operation, so that the public call's recorded rounds run there, too.

A CUDA graph repeats the kernels that ran while it was recorded, on the same memory, and runs no Python. `Recording` does the
same with ATen operations: replay calls each of them again with the very tensors of the recording and copies the results into
the very tensors that it gave then. A Python number, a new tensor or a branch that should have changed between rounds stays
as it was recorded, as it would on a GPU, and the tokens come out wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ssd_lib.decoding import cuda_graph, decoder, loop


class Recording(TorchDispatchMode):
    """The operations that run while it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        assert function is not torch.ops.aten._local_scalar_dense.default, "a wait for the host"
        self.operations.append((function, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        """All of them again."""
        for function, args, kwargs, result in self.operations:
            again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def record(run: Callable[[], object]) -> Recording:
    """Record the operations of `run`: in place of `cuda_graph.record`."""
    recording = Recording()
    with recording:
        run()
    return recording


@contextmanager
def as_if_on_cuda() -> Iterator[None]:
    """While open, the public call on the CPU records and replays its rounds as on a CUDA device."""
    with (
        patch.object(cuda_graph, "record", record),
        patch.object(cuda_graph, "hindrance", lambda decoder: None),
        patch.object(decoder.Decoder, "sparse", False),
        patch.object(loop, "StepwiseDecoder", decoder.Decoder),  # not on an accelerator
    ):
        yield
