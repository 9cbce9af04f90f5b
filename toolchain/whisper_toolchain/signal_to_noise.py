"""Signal-to-noise ratio of a quantised result against the float one."""

import numpy as np


class SignalToNoise:
    """Accumulates 10 * log10(sum of squares of the reference / sum of squares of the error), in dB."""

    def __init__(self) -> None:
        self._signal = 0.0
        self._noise = 0.0

    def add(self, reference: np.ndarray, quantised: np.ndarray) -> None:
        """Add two arrays of one shape."""
        reference = np.asarray(reference, np.float64)
        self._signal += float(np.square(reference).sum())
        self._noise += float(np.square(reference - quantised).sum())

    @property
    def decibels(self) -> float:
        """The ratio of all that was added; infinite where nothing differs, NaN where nothing was added."""
        return decibels(self._signal, self._noise)


def decibels(signal: float, noise: float) -> float:
    """The ratio of two sums of squares in dB; infinite without noise, NaN without a signal."""
    if signal == 0.0:
        return float("nan")
    return float("inf") if noise == 0.0 else 10.0 * float(np.log10(signal / noise))


def signal_to_noise(reference: np.ndarray, other: np.ndarray) -> float:
    """The ratio for one pair of arrays, in dB."""
    ratio = SignalToNoise()
    ratio.add(reference, other)
    return ratio.decibels
