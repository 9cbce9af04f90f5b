"""Backends: what runs a bundle's two graphs. Chosen from the manifest; nothing else knows which one it is."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from whisper_runtime.bundle import Bundle
from whisper_runtime.errors import BackendError
from whisper_runtime.sensors import Sensors

BACKENDS = ("hailort", "onnxruntime")

# What an encoder returned, for the decoder of the same backend and for nobody else: an accelerator may still be
# working on it, and may keep it in the device's own number format.
Features = Any


class Backend(Protocol):
    """Runs the encoder and the decoder graph of one bundle.

    Arrays are float32 in the device's NHWC layout, s being the window in seconds, d the model's width and n
    the number of decoder slots.

    Attributes:
        lookahead: how many windows may be encoded ahead of the one that is being decoded; 0 where encoding
            ahead gains nothing.
    """

    lookahead: int

    def encode(self, mel: np.ndarray) -> Features:
        """Mel (1, 100*s, 80) -> features of 50*s frames of width d, to be handed to the other methods as they are.

        May return before the features are there; a failure may then be raised by what is called with them. They stay
        good for as long as they are kept, however many windows are encoded after them.
        """
        ...

    def decode(self, features: Features, token_embeddings: np.ndarray, rows: Sequence[int]) -> np.ndarray:
        """Features and token embeddings (n, 1, d) -> logits (len(rows), vocab) of the slots asked for."""
        ...

    def read_features(self, features: Features) -> np.ndarray:
        """Features as numbers, (1, 50*s, d), for a decoder that is not the backend's."""
        ...

    def sensors(self) -> Sensors | None:
        """Start to read power and temperature of what it runs on; None for a CPU. To be closed before the backend."""
        ...

    def close(self) -> None:
        """Give the device back."""
        ...

    def __enter__(self) -> "Backend": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


def open_backend(
    bundle: Bundle,
    name: str | None = None,
    share_device: bool = False,
    with_decoder: bool = True,
    threads: int | None = None,
) -> Backend:
    """Open the backend that fits a bundle.

    Args:
        bundle: a verified bundle.
        name: one of `BACKENDS`, or None to choose from the manifest.
        share_device: let other programs use the accelerator at the same time; only for compiled bundles.
        with_decoder: False for a backend that only encodes, which leaves the memory of the decoder's graph free.
        threads: threads of the CPU for each graph of an emulated bundle; None for one per core.

    Raises:
        BackendError: the backend cannot run this bundle, is not installed, or the device cannot be used.
        HefError: a compiled graph is damaged or does not fit the bundle or the device.
    """
    if name not in (None, *BACKENDS):
        raise BackendError(f"unknown backend '{name}': choose one of {', '.join(BACKENDS)}")
    if bundle.manifest.emulated:
        if name == "hailort":
            raise BackendError(
                f"{bundle.folder}: an emulated bundle has no HEFs, so hailort cannot run it: use onnxruntime, or "
                "build the bundle with COMPILER=dfc"
            )
        if share_device:
            raise BackendError(
                f"{bundle.folder}: an emulated bundle runs on the CPU, there is no device to share: "
                "leave --share-device out"
            )
        from whisper_runtime.backends.onnxruntime import OnnxRuntimeBackend

        return OnnxRuntimeBackend.for_bundle(bundle, with_decoder, threads)
    if name == "onnxruntime":
        raise BackendError(
            f"{bundle.folder}: compiled for {bundle.manifest.arch}, so onnxruntime cannot run it: use hailort, or "
            "build the bundle with COMPILER=emulator"
        )
    from whisper_runtime.backends.hailort import HailoRTBackend

    return HailoRTBackend.for_bundle(bundle, share_device, with_decoder)
