"""Ranges of a graph's inner tensors on calibration rows, in memory that does not depend on their number.

Two passes over the rows: the first finds each tensor's smallest and largest value, the second fills a histogram
of fixed size between them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from whisper_toolchain.compilers.inner_tensors import with_outputs
from whisper_toolchain.ort_session import open_session

BINS = 16384  # some 64 to a step of an 8-bit grid, so that rounding can be told from a histogram
MAX_VALUES_PER_ROW = 1 << 18  # of a larger tensor, evenly spaced values are taken for the histogram

Feeds = dict[str, np.ndarray]


@dataclass
class Histogram:
    """The values of one tensor, counted in equally wide bins.

    Attributes:
        low, high: the smallest and the largest value, zero included: padding must stay exact.
        counts: (BINS,) values between them.
        total: sum of the values counted.
    """

    low: float = 0.0
    high: float = 0.0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    total: float = 0.0

    def widen(self, values: np.ndarray) -> None:
        """Take values into `low` and `high`. All of that comes before the first `count`."""
        # NumPy's minimum keeps a NaN, which Python's would lose: `quantise` refuses what is not finite.
        self.low = float(np.minimum(self.low, values.min()))
        self.high = float(np.maximum(self.high, values.max()))

    def count(self, values: np.ndarray) -> None:
        """Count values, or evenly spaced ones of many."""
        flat: np.ndarray = values.reshape(-1)
        flat = flat[:: max(1, flat.size // MAX_VALUES_PER_ROW)]
        if self.high > self.low and np.isfinite(self.high - self.low):
            # In float64: float32 has no number for the inverse of a tiny range.
            bins = ((flat.astype(np.float64) - self.low) * (BINS / (self.high - self.low))).astype(np.int64)
            self.counts += np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)
            self.total += float(flat.sum(dtype=np.float64))

    def range(self, percentile: float) -> tuple[float, float]:
        """The range that leaves (100 - percentile) % of the values outside at each end; it holds zero."""
        values = int(self.counts.sum())
        if values == 0:
            return self.low, self.high
        edges = np.linspace(self.low, self.high, BINS + 1)
        tail = (1.0 - percentile / 100.0) * values
        cumulative = np.cumsum(self.counts)
        first = int(np.searchsorted(cumulative, tail, side="right"))
        last = int(np.searchsorted(cumulative, values - tail, side="left"))
        return min(0.0, float(edges[first])), max(0.0, float(edges[last + 1]))

    def mean_rounding_error(self, step: float, lowest: int, highest: int) -> float:
        """Mean of value - step * clip(round(value / step), lowest, highest) over the values counted.

        Exact enough where a step is many bins wide, as on an 8-bit grid.
        """
        values = int(self.counts.sum())
        if values == 0:
            return 0.0
        width = (self.high - self.low) / BINS
        centres = self.low + (np.arange(BINS) + 0.5) * width
        rounded = step * np.clip(np.rint(centres / step), lowest, highest)
        return (self.total - float((self.counts * rounded).sum())) / values


def collect_histograms(
    model: onnx.ModelProto, tensors: Sequence[str], rows: Callable[[], Iterable[Feeds]]
) -> dict[str, Histogram]:
    """Run a float graph over rows and count the values of inner tensors.

    Args:
        model: the float graph.
        tensors: names of inputs, inner tensors or outputs.
        rows: gives the inputs of each run; called twice.
    """
    inputs = {value.name for value in model.graph.input}
    watched = [name for name in tensors if name not in inputs]
    session = open_session(with_outputs(model, watched).SerializeToString())
    histograms = {name: Histogram() for name in tensors}
    for take in (Histogram.widen, Histogram.count):
        for feeds in rows():
            for name, values in zip(watched, session.run(watched, feeds), strict=True):
                take(histograms[name], values)
            for name in inputs & histograms.keys():
                take(histograms[name], feeds[name])
    return histograms
