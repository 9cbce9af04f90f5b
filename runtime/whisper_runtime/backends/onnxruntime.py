"""Runs float or emulated graphs with ONNX Runtime on the CPU."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whisper_runtime.bundle import Bundle
from whisper_runtime.closing import Closing
from whisper_runtime.errors import BackendError, one_line

ENCODER = "encoder.emulated.onnx"
DECODER = "decoder.emulated.onnx"

_EMULATED = "an emulated bundle"


class OnnxRuntimeBackend(Closing):
    """The accelerator's two graphs on the CPU: emulated ones from a bundle, or the exported float ones.

    Args:
        encoder: graph `mel` [1,80,1,100*s] -> `features` [1,50*s,d].
        decoder: graph `features`, `token_embeddings` [1,d,n,1] -> `logits_0`, `logits_1`, ... [1,n,v_i]; None for a
            backend that only encodes.
        threads: threads for each call; None for one per core.

    Raises:
        BackendError: onnxruntime is not installed or cannot load a graph.
    """

    lookahead = 0  # both graphs run on the same cores

    def __init__(self, encoder: Path, decoder: Path | None, threads: int | None = None) -> None:
        self._encoder = open_session(encoder, threads, _EMULATED)
        self._mel_shape = _device_shape(self._encoder, "mel", (0, 3, 1))
        self._decoder = None
        if decoder is not None:
            self._decoder = open_session(decoder, threads, _EMULATED)
            self._feature_shape = tuple(self._decoder.get_inputs()[0].shape)
            self._embedding_shape = _device_shape(self._decoder, "token_embeddings", (2, 3, 1))
            self._logits = sorted(
                (output.name for output in self._decoder.get_outputs()),
                key=lambda name: int(name.removeprefix("logits_")),
            )

    @classmethod
    def for_bundle(cls, bundle: Bundle, with_decoder: bool = True, threads: int | None = None) -> "OnnxRuntimeBackend":
        """Open the emulated graphs of a verified bundle, or the encoder's alone. Raises BackendError."""
        return cls(bundle.folder / ENCODER, bundle.folder / DECODER if with_decoder else None, threads)

    def encode(self, mel: np.ndarray) -> np.ndarray:
        """Mel (1, 100*s, 80) float32 -> features (1, 50*s, d) float32. Raises BackendError."""
        _check("mel", mel, self._mel_shape)
        nchw = np.ascontiguousarray(mel.transpose(0, 2, 1)[:, :, None, :])
        features: np.ndarray = run_session(self._encoder, ["features"], {"mel": nchw})[0]
        return features

    def decode(self, features: np.ndarray, token_embeddings: np.ndarray, rows: Sequence[int]) -> np.ndarray:
        """Features and (n, 1, d) float32 embeddings -> logits (len(rows), vocab) float32.

        Raises:
            BackendError: an input of the wrong shape or type, a row that is not a slot, or there is no decoder.
        """
        if self._decoder is None:
            raise BackendError("the backend has no decoder: open the bundle with its decoder")
        _check("features", features, self._feature_shape)
        _check("token_embeddings", token_embeddings, self._embedding_shape)
        wanted = list(rows)
        if not all(0 <= row < self._embedding_shape[0] for row in wanted):
            raise BackendError(f"rows {wanted}: the decoder has {self._embedding_shape[0]} slots")
        nchw = np.ascontiguousarray(token_embeddings.transpose(1, 2, 0)[..., None])
        feeds = {"features": features, "token_embeddings": nchw}
        parts = run_session(self._decoder, self._logits, feeds)
        return np.concatenate([part[0, wanted] for part in parts], axis=-1)

    def read_features(self, features: np.ndarray) -> np.ndarray:
        """The features themselves, (1, 50*s, d) float32: they are numbers already."""
        return features

    def sensors(self) -> None:
        """None: it runs on this CPU."""

    def close(self) -> None:
        """Release the sessions."""
        self._encoder = self._decoder = None


def open_session(graph: Path, threads: int | None, needed_for: str) -> Any:
    """Open a graph on the CPU.

    Args:
        graph: the ONNX file.
        threads: threads for each call; None for one per core.
        needed_for: what cannot be had without onnxruntime; starts the message.

    Raises:
        BackendError: onnxruntime is not installed or cannot load it.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(f"{needed_for} needs onnxruntime: pip install 'onnxruntime>=1.23,<1.24'") from error
    options = onnxruntime.SessionOptions()
    # The encoder's and the decoder's thread pools would otherwise spin against each other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Sums of int8 products can overflow on an x86 without VNNI. It gets a slower way; others do not change.
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # saves 34 MB for tiny, at no cost in speed
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises many types, all without a common base
        raise BackendError(f"{graph}: onnxruntime cannot load it: {one_line(error)}") from error


def run_session(session: Any, outputs: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Run a graph. Raises BackendError."""
    try:
        results: list[np.ndarray] = session.run(outputs, feeds)
    except Exception as error:  # onnxruntime raises many types, all without a common base
        raise BackendError(f"onnxruntime failed: {one_line(error)}") from error
    return results


def _device_shape(session: Any, name: str, axes: tuple[int, ...]) -> tuple[int, ...]:
    """The device's layout of an input: its NCHW shape with the axes picked in NHWC order."""
    for value in session.get_inputs():
        if value.name == name and len(value.shape) == 4:
            return tuple(int(value.shape[axis]) for axis in axes)
    raise BackendError(f"the graph has no 4-D input '{name}': it was not made by this toolchain")


def _check(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.dtype != np.float32 or array.shape != shape:
        raise BackendError(f"{name}: {array.dtype} {array.shape}, the graph takes float32 {shape}")
