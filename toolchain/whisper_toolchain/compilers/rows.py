"""Recorded rows as what the exported graphs are fed."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from whisper_toolchain.calibration import CalibrationFiles
from whisper_toolchain.compilers.ranges import Feeds


class Rows:
    """Feeds for the exported graphs from recorded arrays (device layout in, graph layout out)."""

    def __init__(self, folder: Path, files: CalibrationFiles) -> None:
        def load(name: str) -> np.ndarray:
            array: np.ndarray = np.load(folder / name, mmap_mode="r", allow_pickle=False)
            return array

        self._mel = load(files.mel)
        self._features = load(files.features)
        self._embeddings = load(files.token_embeddings)
        self.lengths = load(files.lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def encoder(self, limit: int | None = None) -> Iterable[Feeds]:
        """Yield `mel` (1, 80, 1, frames) of each row."""
        for mel in self._mel[:limit]:
            yield {"mel": np.ascontiguousarray(mel.transpose(2, 0, 1))[None]}

    def decoder(self, limit: int | None = None) -> Iterable[Feeds]:
        """Yield `features` (1, frames, d) and `token_embeddings` (1, d, seq, 1) of each row."""
        for features, embeddings in zip(self._features[:limit], self._embeddings[:limit], strict=True):
            yield {
                "features": np.array(features),
                "token_embeddings": np.ascontiguousarray(embeddings.transpose(2, 0, 1))[None],
            }
