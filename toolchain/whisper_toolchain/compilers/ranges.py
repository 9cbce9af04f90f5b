"""Ranges of a graph's inner tensors on calibration rows, in memory that does not depend on their number.

Two passes over the rows: the first finds each tensor's smallest and largest value, the second fills a histogram
of fixed size between them. A range is then chosen from the histogram.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx

from whisper_toolchain.ort_session import open_session

BINS = 2048
MAX_VALUES_PER_ROW = 1 << 18  # of a larger tensor, evenly spaced values are taken for the histogram

Feeds = dict[str, np.ndarray]


def collect_ranges(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    rows: Callable[[], Iterable[Feeds]],
    clip: str | float,
    scratch: Path,
) -> dict[str, tuple[float, float]]:
    """Return (smallest, largest) value to represent, for each tensor.

    Args:
        model: the float graph.
        tensors: names of inputs, inner tensors or outputs.
        rows: gives the inputs for each run; called twice.
        clip: "mse" for the range that an 8-bit grid represents with the least squared error, or a percentile
            (of the values' distribution, cut at both ends alike).
        scratch: folder for a temporary copy of the graph that has the tensors as outputs.
    """
    inputs = {value.name for value in model.graph.input}
    watched = [name for name in tensors if name not in inputs]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    present = {value.name for value in probe.graph.output}
    probe.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(name) for name in watched if name not in present
    )
    path = scratch / "probe.onnx"
    path.write_bytes(probe.SerializeToString())
    session = open_session(path)
    path.unlink()

    def runs() -> Iterable[dict[str, np.ndarray]]:
        for feeds in rows():
            yield {
                **{name: feeds[name] for name in tensors if name in inputs},
                **dict(zip(watched, session.run(watched, feeds), strict=True)),
            }

    limits = {name: (0.0, 0.0) for name in tensors}  # zero is always representable: padding must stay exact
    for values in runs():
        for name, value in values.items():
            low, high = limits[name]
            limits[name] = (min(low, float(value.min())), max(high, float(value.max())))
    histograms = {name: np.zeros(BINS, np.int64) for name in tensors}
    for values in runs():
        for name, value in values.items():
            low, high = limits[name]
            flat = value.reshape(-1)
            flat = flat[:: max(1, flat.size // MAX_VALUES_PER_ROW)]
            if high > low:
                bins = ((flat - low) * (BINS / (high - low))).astype(np.int64)
                histograms[name] += np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)
    return {name: choose_range(histograms[name], *limits[name], clip) for name in tensors}


def choose_range(
    histogram: np.ndarray, low: float, high: float, clip: str | float
) -> tuple[float, float]:
    """Choose the range to represent from a histogram of values between `low` and `high`.

    Args:
        histogram: (bins,) counts, equally wide bins.
        low, high: the smallest and the largest value, with low <= 0 <= high.
        clip: as in `collect_ranges`.
    """
    total = int(histogram.sum())
    if total == 0 or high <= low:
        return low, high
    edges = np.linspace(low, high, len(histogram) + 1)
    if clip != "mse":
        tail = (1.0 - float(clip) / 100.0) * total
        cumulative = np.cumsum(histogram)
        first = int(np.searchsorted(cumulative, tail, side="right"))
        last = int(np.searchsorted(cumulative, total - tail, side="left"))
        return min(0.0, float(edges[first])), max(0.0, float(edges[last + 1]))
    centres = (edges[:-1] + edges[1:]) / 2
    best, best_error = (low, high), np.inf
    for shrink in np.linspace(1.0, 0.1, 46):
        clipped = np.clip(centres, low * shrink, high * shrink)
        step = (high - low) * shrink / 255
        # Values inside are off by the rounding of a uniform grid, values outside by the clipping.
        error = float((histogram * ((centres - clipped) ** 2)).sum()) / total + step**2 / 12
        if error < best_error:
            best, best_error = (low * float(shrink), high * float(shrink)), error
    return best
