"""Long windows from an encoder with a short one, for the decoder on the host's CPU.

An encoder of five seconds, all of base that fits on a Hailo-8, leaves the decoder little to go by. So a longer window
is encoded in blocks that overlap, and of each the middle is kept. To the decoder every block looks as if it were at the
beginning: features hold their place in the window, which the encoder adds to them. What another place would have made
of the same sound is a linear function of them, near enough: the toolchain fits it (`whisper_toolchain.relocation`) and
puts it into the bundle. Measured, see benchmarks/README.md.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from whisper_runtime.backends import Backend, Features
from whisper_runtime.closing import Closing
from whisper_runtime.errors import BackendError
from whisper_runtime.sensors import Sensors

RELOCATION_WEIGHT = "relocation_weight.npy"
RELOCATION_BIAS = "relocation_bias.npy"
RELOCATIONS = (RELOCATION_WEIGHT, RELOCATION_BIAS)

# Of a block, what is not kept on a side where another one goes on: words that are cut off there are whole in that one.
MARGIN_SECONDS = 1

_MEL_FRAMES, _FEATURE_FRAMES = 100, 50  # a second


class StitchingBackend(Closing):
    """A backend for the host's decoder whose windows are longer than its encoder's. Closes the backend it uses.

    Args:
        backend: encodes blocks.
        seconds: length of a block, more than both margins.
        weight: (n, d, d), for each block but the first: features @ weight + bias are those of its place.
        bias: (n, 50 * seconds, d).

    Attributes:
        seconds: length of the longest window.
    """

    lookahead = 0  # the backend has no room for the blocks of two windows

    def __init__(self, backend: Backend, seconds: int, weight: np.ndarray, bias: np.ndarray) -> None:
        self._backend = backend
        self._block = seconds
        self._weight = weight.astype(np.float32)
        self._bias = bias.astype(np.float32)
        self.seconds = seconds + len(weight) * hop_seconds(seconds)

    def encode(self, mel: np.ndarray) -> np.ndarray:
        """Mel (1, 100*s, 80) of at most the longest window -> features (1, 50*t, d) of as many blocks as have sound.

        Raises:
            ValueError: the mel is too long.
            BackendError: the device or the graph fails.
        """
        if mel.shape[1] > self.seconds * _MEL_FRAMES:
            raise ValueError(f"a mel of {mel.shape[1]} frames: the longest window has {self.seconds * _MEL_FRAMES}")
        # Padding is the lowest that there is in a mel, so what is not above its last frame is silent.
        above = np.flatnonzero((mel[0] != mel[0, -1]).any(axis=1))
        sounding = int(above[-1]) + 1 if len(above) else 0
        size, hop = self._block * _MEL_FRAMES, hop_seconds(self._block)
        blocks = 1 + max(0, -(-(sounding - size) // (hop * _MEL_FRAMES)))
        missing = self._block + (blocks - 1) * hop - mel.shape[1] / _MEL_FRAMES
        if missing > 0:
            mel = np.concatenate((mel, np.repeat(mel[:, -1:], round(missing * _MEL_FRAMES), axis=1)), axis=1)
        kept = []
        for number in range(blocks):
            first = number * hop * _MEL_FRAMES
            block = np.ascontiguousarray(mel[:, first : first + size])
            features = self._backend.read_features(self._backend.encode(block))
            if number:
                features = features @ self._weight[number - 1] + self._bias[number - 1]
            begin = MARGIN_SECONDS * _FEATURE_FRAMES if number else 0
            end = (self._block - MARGIN_SECONDS) * _FEATURE_FRAMES if number < blocks - 1 else None
            kept.append(features[:, begin:end])
        return np.concatenate(kept, axis=1)

    def decode(self, features: Features, token_embeddings: np.ndarray, rows: Sequence[int]) -> NoReturn:
        """Raises BackendError: the device's decoder takes the features of one block."""
        raise BackendError("the device's decoder cannot decode a window of several blocks: use --decoder host")

    def read_features(self, features: np.ndarray) -> np.ndarray:
        """The features themselves, (1, 50*t, d) float32: they are numbers already."""
        return features

    def sensors(self) -> Sensors | None:
        """Those of the backend that it uses."""
        return self._backend.sensors()

    def close(self) -> None:
        """Give the device back."""
        self._backend.close()


def hop_seconds(seconds: int) -> int:
    """From one block of so many seconds to the next."""
    return seconds - 2 * MARGIN_SECONDS


def for_host_decoder(backend: Backend, folder: Path, seconds: int) -> tuple[Backend, int]:
    """The backend to encode with for the host's decoder, and the seconds of its window.

    They are the given ones where a folder, a bundle's or an export's, has no relocations.

    Args:
        backend: runs the encoder.
        folder: where the host's decoder is.
        seconds: the encoder's window.

    Raises:
        BackendError: the relocations cannot be read or do not fit the window.
    """
    paths = [folder / name for name in RELOCATIONS]
    if not all(path.exists() for path in paths):
        return backend, seconds
    try:
        weight, bias = (np.load(path, allow_pickle=False) for path in paths)
    except (OSError, ValueError) as error:
        raise BackendError(f"{folder}: relocations cannot be read: {error}") from error
    fits = weight.ndim == 3 and weight.shape[1] == weight.shape[2]
    if not fits or bias.shape != (len(weight), seconds * _FEATURE_FRAMES, weight.shape[2]):
        raise BackendError(f"{folder}: relocations {weight.shape} and {bias.shape} do not fit a window of {seconds} s")
    stitching = StitchingBackend(backend, seconds, weight, bias)
    return stitching, stitching.seconds
