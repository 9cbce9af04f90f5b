"""The decoder on the host's CPU: with a key-value cache, so that a step costs one token and not all slots.

Runs the two graphs that the toolchain's module of the same name writes, with ONNX Runtime.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from whisper_runtime.backends import Backend, Features
from whisper_runtime.backends.onnxruntime import open_session, run_session
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.errors import BackendError

CROSS_ATTENTION = "cross_attention.onnx"
HOST_DECODER = "host_decoder.onnx"

_HIDDEN = np.float32(-1e9)  # added to the scores of what a token must not see


class HostDecoder:
    """Decodes on the CPU what a backend has encoded; see `TextDecoder`.

    Tokens are computed one by one. So the same tokens give the same logits, bit for bit, whatever was asked before.

    Args:
        backend: gives the features as floats.
        embedding: the host's embeddings.
        folder: holds the two graphs.
        threads: threads for each call; None for one per core.

    Raises:
        BackendError: the folder has no such graphs, onnxruntime is not installed or cannot load them.
    """

    name = "host"

    def __init__(self, backend: Backend, embedding: TokenEmbedding, folder: Path, threads: int | None = None) -> None:
        self.calls = 0
        self._backend = backend
        self._embedding = embedding
        for name in (CROSS_ATTENTION, HOST_DECODER):
            if not (folder / name).is_file():
                raise BackendError(
                    f"{folder}: has no {name}, so it was built before there was a decoder for the CPU: build the "
                    "bundle again, or use --decoder device"
                )
        self._cross_attention, self._decoder = (
            open_session(folder / name, threads, "the decoder on the CPU (--decoder host)")
            for name in (CROSS_ATTENTION, HOST_DECODER)
        )
        self._cross_names = [value.name for value in self._cross_attention.get_outputs()]
        # The cache of no tokens: keys and values of each block.
        self._empty = {
            value.name: np.zeros([size if isinstance(size, int) else 0 for size in value.shape], np.float32)
            for value in self._decoder.get_inputs()
            if value.name.startswith("self_")
        }
        self._outputs = ["logits", *(f"new_{name}" for name in self._empty)]
        self._cross: dict[str, np.ndarray] = {}
        self._cache = self._empty
        self._cached: list[int] = []

    def begin(self, features: Features) -> None:
        """Start a window: waits for its features and computes its cross-attention's keys and values.

        Raises:
            BackendError: the device or the graph fails; there is no window then.
        """
        self._cross, self._cache, self._cached = {}, self._empty, []
        feeds = {"features": self._backend.read_features(features)}
        results = run_session(self._cross_attention, self._cross_names, feeds)
        self._cross = dict(zip(self._cross_names, results, strict=True))

    def room(self, prompt: int, text: int) -> int:
        """A guess costs as much as the token itself, so none is checked."""
        return 0

    def logits(self, prompt: Sequence[int], text: Sequence[int], rows: Sequence[int]) -> np.ndarray:
        """Logits after the tokens at `rows`; see `TextDecoder`. Only what the cache does not hold is computed."""
        if not self._cross:
            raise BackendError("the host decoder has no window: call begin first")
        tokens, wanted = [*prompt, *text], set(rows)
        if not 0 <= rows[0] <= rows[-1] < len(tokens):
            raise ValueError(f"rows {list(rows)}: there are {len(tokens)} tokens")
        if rows[-1] >= self._embedding.positions:
            raise ValueError(f"row {rows[-1]}: the model knows {self._embedding.positions} positions")
        known = 0
        while known < min(len(self._cached), rows[0]) and self._cached[known] == tokens[known]:
            known += 1
        self._cache = {name: np.ascontiguousarray(cache[:, :known]) for name, cache in self._cache.items()}
        self._cached = tokens[:known]
        return np.concatenate([self._step(tokens[row], row in wanted) for row in range(known, rows[-1] + 1)])

    def _step(self, token: int, wanted: bool) -> np.ndarray:
        """Add a token to the cache. Returns the logits after it (1, vocab), or (0, vocab) if they are not wanted."""
        feeds = {
            "token_embeddings": self._embedding.embed([token], [len(self._cached)], 1)[0],
            "rows": np.zeros(int(wanted), np.int64),
            **self._cross,
            **self._cache,
        }
        logits, *caches = run_session(self._decoder, self._outputs, feeds)
        self._cache = dict(zip(self._cache, caches, strict=True))
        self._cached.append(token)
        self.calls += 1
        return logits
