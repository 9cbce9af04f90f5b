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


class OnnxRuntimeBackend(Closing):
    """The accelerator's two graphs on the CPU: emulated ones from a bundle, or the exported float ones.

    Args:
        encoder: graph `mel` [1,80,1,100*s] -> `features` [1,50*s,d].
        decoder: graph `features`, `token_embeddings` [1,d,n,1] -> `logits_0`, `logits_1`, ... [1,n,v_i].
        threads: threads for each call; None for one per core.

    Raises:
        BackendError: onnxruntime is not installed or cannot load a graph.
    """

    lookahead = 0  # both graphs run on the same cores

    def __init__(self, encoder: Path, decoder: Path, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise BackendError("emulated bundles need onnxruntime: pip install 'onnxruntime>=1.23,<1.24'") from error
        options = onnxruntime.SessionOptions()
        # The encoder's and the decoder's thread pools would otherwise spin against each other.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads

        def load(path: Path) -> Any:
            try:
                return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            except Exception as error:  # onnxruntime raises many types, all without a common base
                raise BackendError(f"{path}: onnxruntime cannot load it: {one_line(error)}") from error

        self._encoder = load(encoder)
        self._decoder = load(decoder)
        self._mel_shape = _device_shape(self._encoder, "mel", (0, 3, 1))
        self._feature_shape = tuple(self._decoder.get_inputs()[0].shape)
        self._embedding_shape = _device_shape(self._decoder, "token_embeddings", (2, 3, 1))
        self._logits = sorted(
            (output.name for output in self._decoder.get_outputs()),
            key=lambda name: int(name.removeprefix("logits_")),
        )

    @classmethod
    def for_bundle(cls, bundle: Bundle) -> "OnnxRuntimeBackend":
        """Open the emulated graphs of a verified bundle. Raises BackendError."""
        return cls(bundle.folder / ENCODER, bundle.folder / DECODER)

    def encode(self, mel: np.ndarray) -> np.ndarray:
        """Mel (1, 100*s, 80) float32 -> features (1, 50*s, d) float32. Raises BackendError."""
        _check("mel", mel, self._mel_shape)
        nchw = np.ascontiguousarray(mel.transpose(0, 2, 1)[:, :, None, :])
        features: np.ndarray = self._run(self._encoder, ["features"], {"mel": nchw})[0]
        return features

    def decode(self, features: np.ndarray, token_embeddings: np.ndarray, rows: Sequence[int]) -> np.ndarray:
        """Features and (n, 1, d) float32 embeddings -> logits (len(rows), vocab) float32.

        Raises:
            BackendError: an input of the wrong shape or type, or a row that is not a slot.
        """
        _check("features", features, self._feature_shape)
        _check("token_embeddings", token_embeddings, self._embedding_shape)
        wanted = list(rows)
        if not all(0 <= row < self._embedding_shape[0] for row in wanted):
            raise BackendError(f"rows {wanted}: the decoder has {self._embedding_shape[0]} slots")
        nchw = np.ascontiguousarray(token_embeddings.transpose(1, 2, 0)[..., None])
        feeds = {"features": features, "token_embeddings": nchw}
        parts = self._run(self._decoder, self._logits, feeds)
        return np.concatenate([part[0, wanted] for part in parts], axis=-1)

    def _run(self, session: Any, outputs: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        try:
            results: list[np.ndarray] = session.run(outputs, feeds)
        except Exception as error:  # onnxruntime raises many types, all without a common base
            raise BackendError(f"onnxruntime failed: {one_line(error)}") from error
        return results

    def close(self) -> None:
        """Release the sessions."""
        self._encoder = self._decoder = None


def _device_shape(session: Any, name: str, axes: tuple[int, ...]) -> tuple[int, ...]:
    """The device's layout of an input: its NCHW shape with the axes picked in NHWC order."""
    for value in session.get_inputs():
        if value.name == name and len(value.shape) == 4:
            return tuple(int(value.shape[axis]) for axis in axes)
    raise BackendError(f"the graph has no 4-D input '{name}': it was not made by this toolchain")


def _check(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.dtype != np.float32 or array.shape != shape:
        raise BackendError(f"{name}: {array.dtype} {array.shape}, the graph takes float32 {shape}")
