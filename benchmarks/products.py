"""Milliseconds of a short product, as nn.Linear computes it and in the other ways of `ssd_lib.decoding.short_products`.

    python -m benchmarks.products     about a minute; prints the table and writes benchmarks/results/products.csv

The shapes are those of the linear layers of the 120 M synthetic pair and of the embedded pair. Weights are read from memory
as in decoding: each product of a pass has a weight of its own, as many as a large model has layers. To imitate a processor
without fast short products: MKL_ENABLE_INSTRUCTIONS=AVX2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from benchmarks.cpu import environment, write
from benchmarks.synthetic import PAIRS, Shape
from ssd_lib.decoding.short_products import AS_IS, TIE, WAYS
from ssd_lib.models.pairs import load_pair

TOKENS = (1, 2, 3, 4, 6, 8, 16)
REPEATS = 4
BYTES = 64_000_000  # of the weights that one pass reads: more than a processor's cache holds
MOST = 16  # weights of one shape


def shapes_of(shape: Shape) -> set[tuple[int, int]]:
    """[out, in] of a Llama's linear layers."""
    head = shape.hidden // shape.heads
    sizes = {(shape.hidden, shape.hidden), (shape.kv_heads * head, shape.hidden), (shape.vocabulary, shape.hidden)}
    return sizes | {(shape.intermediate, shape.hidden), (shape.hidden, shape.intermediate)}


def all_shapes(pair: str = "120m") -> list[tuple[str, int, int]]:
    """Pair, out and in of every shape that occurs."""
    synthetic = set().union(*map(shapes_of, PAIRS[pair]))
    toy = load_pair("toy")
    linear = (layer for model in (toy.target, toy.draft) for layer in model.modules() if type(layer) is torch.nn.Linear)
    embedded = {(layer.out_features, layer.in_features) for layer in linear}
    return [(name, *each) for name, shapes in ((pair, synthetic), ("embedded", embedded)) for each in sorted(shapes)]


@torch.inference_mode()
def milliseconds(weights: list[torch.Tensor], tokens: int, repeats: int) -> dict[str, float]:
    """For every way the least time of each weight's product, and of these the median. Ways take turns."""
    x = torch.randn(1, tokens, weights[0].shape[1])
    least = {name: [float("inf")] * len(weights) for name in WAYS}
    for _ in range(1 + repeats):
        for name, way in WAYS.items():
            for i, weight in enumerate(weights):
                begun = time.thread_time()
                way(x, weight, None)
                least[name][i] = min(least[name][i], time.thread_time() - begun)
    return {name: 1000 * statistics.median(values) for name, values in least.items()}


def lines_of(pair: str, out: int, width: int, repeats: int) -> list[dict[str, Any]]:
    """For every number of tokens: the time of every way, and the one that is worth taking."""
    count = max(1, min(MOST, BYTES // (4 * out * width)))
    weights, lines = [torch.randn(out, width) for _ in range(count)], []
    for tokens in TOKENS:
        spent = milliseconds(weights, tokens, repeats)
        quickest = min(spent, key=lambda name: spent[name])
        best = quickest if spent[quickest] < TIE * spent[AS_IS] else AS_IS
        times = {f"{name.replace(' ', '_')}_ms": value for name, value in spent.items()}
        shape = {"clock": "thread", "pair": pair, "out": out, "in": width, "tokens": tokens}
        lines.append(shape | times | {"best": best, "times_as_fast": spent[AS_IS] / spent[best]})
    return lines


def products(pair: str = "120m", repeats: int = REPEATS) -> pd.DataFrame:
    """The table, written to products.csv."""
    lines = [lines_of(*shape, repeats) for shape in tqdm(all_shapes(pair), desc="products", unit="shape")]
    return write("products", [line for of_shape in lines for line in of_shape])


def table(frame: pd.DataFrame) -> str:
    """What is printed: how many times as fast the best way is, and which it is."""
    frame = frame.assign(best=frame["times_as_fast"].map("{:.2f} ".format) + frame["best"])
    return frame.pivot(index=["pair", "out", "in"], columns="tokens", values="best").to_string()


if __name__ == "__main__":
    print(", ".join(f"{name} {value}" for name, value in environment().items()), table(products()), sep="\n\n")
