"""Long windows from an encoder with a short one, for the decoder on the host's CPU.

An encoder of five seconds, all of base that fits on a Hailo-8, leaves the decoder little to go by. So a longer window
is encoded in blocks that overlap, and each is faded into the next. To the decoder every block looks as if it were at
the beginning: features hold their place in the window, which the encoder adds to them. What another place would have
made of the same sound is a linear function of them, near enough: the toolchain fits it
(`whisper_toolchain.relocation`) and puts it into the bundle. Measured, see benchmarks/README.md.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from whisper_runtime.backends import Backend, Features
from whisper_runtime.blocks import OVERLAP_SECONDS, hop_seconds, window_seconds
from whisper_runtime.closing import Closing
from whisper_runtime.errors import BackendError
from whisper_runtime.sensors import Sensors

RELOCATION_WEIGHT = "relocation_weight.npy"
RELOCATION_BIAS = "relocation_bias.npy"
RELOCATIONS = (RELOCATION_WEIGHT, RELOCATION_BIAS)

_MEL_FRAMES, _FEATURE_FRAMES = 100, 50  # a second


class StitchingBackend(Closing):
    """A backend for the host's decoder whose windows are longer than its encoder's. Closes the backend it uses.

    Args:
        backend: encodes blocks.
        seconds: length of a block, more than the overlap.
        weight: (n, d, d) float, for each block but the first: features @ weight + bias are those of its place.
        bias: (n, 50 * seconds, d) float.

    Attributes:
        seconds: length of its windows.
        blocks: how many a full window has.
    """

    lookahead = 0  # a window's blocks are read one by one, so none is left to be encoded meanwhile

    def __init__(self, backend: Backend, seconds: int, weight: np.ndarray, bias: np.ndarray) -> None:
        self._backend = backend
        self._block = seconds
        self._weight = weight.astype(np.float32)
        self._bias = bias.astype(np.float32)
        self.blocks = 1 + len(weight)
        self.seconds = window_seconds(seconds, self.blocks)

    def encode(self, mel: np.ndarray) -> np.ndarray:
        """Mel (1, 100*s, 80) float32 -> features (1, 50*t, d) float32 of as many blocks as have sound, t <= s.

        Raises:
            BackendError: a mel of another length, or the device or the graph fails.
        """
        if mel.shape[1] != self.seconds * _MEL_FRAMES:
            raise BackendError(f"a mel of {mel.shape[1]} frames: a window has {self.seconds * _MEL_FRAMES}")
        # Padding is the lowest that there is in a mel, so what is not above its last frame is silent.
        above = np.flatnonzero((mel[0] != mel[0, -1]).any(axis=1))
        sounding = int(above[-1]) + 1 if len(above) else 0
        size, hop = self._block * _MEL_FRAMES, hop_seconds(self._block) * _MEL_FRAMES
        blocks = 1 + max(0, -(-(sounding - size) // hop))
        overlap = OVERLAP_SECONDS * _FEATURE_FRAMES
        # Near its edge a block has heard little of what surrounds a sound, the other one more.
        share = ((np.arange(overlap, dtype=np.float32) + 0.5) / overlap)[:, None]
        joined = self._encode_block(mel[:, :size])
        for number in range(1, blocks):
            features = self._encode_block(mel[:, number * hop : number * hop + size])
            features = features @ self._weight[number - 1] + self._bias[number - 1]
            seam = joined.shape[1] - overlap
            faded = joined[:, seam:] + share * (features[:, :overlap] - joined[:, seam:])
            joined = np.concatenate((joined[:, :seam], faded, features[:, overlap:]), axis=1)
        return joined

    def _encode_block(self, mel: np.ndarray) -> np.ndarray:
        return self._backend.read_features(self._backend.encode(np.ascontiguousarray(mel)))

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


def for_host_decoder(backend: Backend, folder: Path, seconds: int) -> tuple[Backend, int]:
    """The backend to encode with for the host's decoder, and the seconds of its window.

    They are the given ones where a folder, a bundle's or an export's, has no relocations. Else closing the returned
    backend closes the given one.

    Args:
        backend: runs the encoder.
        folder: where the host's decoder is.
        seconds: the encoder's window.

    Raises:
        BackendError: the relocations cannot be read or do not fit the window; the backend is left open.
    """
    if not any((folder / name).exists() for name in RELOCATIONS):
        return backend, seconds
    weight, bias = (_read(folder / name) for name in RELOCATIONS)
    square = weight.ndim == 3 and weight.shape[1] == weight.shape[2]
    if (
        not square
        or hop_seconds(seconds) < 1
        or bias.shape != (len(weight), seconds * _FEATURE_FRAMES, weight.shape[2])
    ):
        raise BackendError(f"{folder}: relocations {weight.shape} and {bias.shape} do not fit a window of {seconds} s")
    stitching = StitchingBackend(backend, seconds, weight, bias)
    return stitching, stitching.seconds


def _read(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BackendError(f"{path}: relocations cannot be read: {error}") from error
    if not isinstance(array, np.ndarray) or not np.isfinite(array).all():
        raise BackendError(f"{path}: relocations cannot be read: not an array of numbers")
    return array
