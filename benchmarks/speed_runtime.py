"""This project's runtime and the reference flow, as engines of speed.py.

    float/host, bundle/host   encoder of the export or of the bundle, and the decoder for the host's CPU
    float/slots               the accelerator's fixed slots: nothing to draft from
    float/slots+beams         the same, following five texts at once where one is in doubt
    float/slots+draft         the same, checking what the host decoder has drafted
    float/stream              the same slots while the sound comes in, a second a time: each partial text is the draft
                              of the next
    reference                 the reference flow's decoder, on the same graphs
    reference/stream          the reference flow's decoder on the windows of float/stream

Decoding is timed around whole windows, second looks and the making of the draft included.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from reference_flow import open_reference, reference_text
from speed_engine import ROOT, THREADS, Engine
from whisper_runtime.audio import SAMPLE_RATE, load_audio
from whisper_runtime.backends import Features
from whisper_runtime.backends.onnxruntime import OnnxRuntimeBackend
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.host_decoder import HostDecoder
from whisper_runtime.slot_decoder import SlotDecoder
from whisper_runtime.stitching import for_host_decoder
from whisper_runtime.streaming import StreamTranscriber
from whisper_runtime.transcriber import Transcriber
from whisper_runtime.window_reader import Reading, WindowReader
from whisper_toolchain.checkpoints import load
from whisper_toolchain.evaluation.drafted_reader import DraftedReader
from whisper_toolchain.float_model import host_arrays, load_tokenizer
from whisper_toolchain.graph_contract import DECODER, ENCODER
from whisper_toolchain.shape_plan import ShapePlan
from whisper_toolchain.stages.fetch import CHECKPOINT
from whisper_toolchain.workspace import Workspace


class Stopwatch:
    """Times the decoding of a reader's windows, and counts how often it encodes."""

    def __init__(self, reader: WindowReader) -> None:
        self.seconds = 0.0
        self.encodings = 0
        self._decodes = False
        self._read, self._glance, self._encode = reader.read, reader.glance, reader.encode
        reader.read = self.read  # type: ignore[method-assign, assignment]
        reader.glance = self.glance  # type: ignore[method-assign, assignment]
        reader.encode = self.encode  # type: ignore[method-assign, assignment]

    def encode(self, *window: Any) -> Features:
        """Encode once; see `WindowReader`. In the midst of decoding, for another look, it is not decoding's time."""
        self.encodings += 1
        started = time.perf_counter()
        features = self._encode(*window)
        if self._decodes:
            self.seconds -= time.perf_counter() - started
        return features

    def read(self, *window: Any) -> list[Reading]:
        """Decode with all looks; see `WindowReader`."""
        return self._timed(self._read, *window)

    def glance(self, *window: Any) -> list[Reading]:
        """Decode once; see `WindowReader`."""
        return self._timed(self._glance, *window)

    def _timed(self, decode: Callable[..., list[Reading]], *window: Any) -> list[Reading]:
        if self._decodes:
            return decode(*window)
        self._decodes = True
        started = time.perf_counter()
        readings = decode(*window)
        self.seconds += time.perf_counter() - started
        self._decodes = False
        return readings


class Files:
    """The runtime on whole recordings."""

    def __init__(self, transcriber: Transcriber) -> None:
        self._transcriber = transcriber
        self._stopwatch = Stopwatch(transcriber.reader)

    @property
    def decoding(self) -> float:
        """Seconds of decoding so far."""
        return self._stopwatch.seconds

    @property
    def calls(self) -> int:
        """Calls of the decoder so far; those that make a draft are not counted."""
        return self._transcriber.text_decoder.calls

    @property
    def encodings(self) -> int:
        """Calls of the encoder so far."""
        return self._stopwatch.encodings

    def load(self, clip: str) -> np.ndarray:
        """Samples of a clip."""
        return load_audio(clip)

    def text(self, samples: np.ndarray) -> str:
        """Transcribe."""
        return self._transcriber.text(samples, language="en")


class Stream(Files):
    """The runtime while the sound comes in, as fast as it can: a hop a time."""

    def text(self, samples: np.ndarray) -> str:
        """Transcribe; partial texts are made and thrown away."""
        stream = StreamTranscriber(self._transcriber, language="en")
        updates = [u for at in range(0, len(samples), SAMPLE_RATE) for u in stream.push(samples[at : at + SAMPLE_RATE])]
        updates += stream.finish()
        return " ".join(segment.text for update in updates for segment in update.committed)


class ReferenceFiles(Files):
    """The reference flow on whole recordings."""

    def text(self, samples: np.ndarray) -> str:
        """Transcribe."""
        return reference_text(self._transcriber, samples, self._transcriber.prompt("en"))


def open_runtime(name: str, variant: str, arch: str) -> Engine:
    """Load one of the engines above."""
    workspace = Workspace(ROOT)
    plan = ShapePlan.make(variant, arch)
    if name == "bundle/host":
        return Files(Transcriber(workspace.bundle(plan), decoder="host", threads=THREADS))
    folder = workspace.export(plan)
    tokenizer = load_tokenizer(workspace.whisper, plan.dims)
    arrays = host_arrays(load(workspace.checkpoint(variant) / CHECKPOINT))
    if name.startswith("reference"):
        kind = Stream if name == "reference/stream" else ReferenceFiles
        return kind(open_reference(plan, folder, arrays, tokenizer, THREADS))
    embedding = TokenEmbedding(*arrays)
    backend = OnnxRuntimeBackend(folder / ENCODER, None if name == "float/host" else folder / DECODER, THREADS)
    if name == "float/host":
        encoder, seconds = for_host_decoder(backend, folder, plan.seconds)
        host = HostDecoder(encoder, embedding, folder, THREADS)
        return Files(Transcriber.from_parts(encoder, host, tokenizer, seconds))
    slots = SlotDecoder(backend, embedding, plan.sequence, beam_size=5 if name == "float/slots+beams" else None)
    transcriber = Transcriber.from_parts(backend, slots, tokenizer, plan.seconds)
    if name == "float/slots+draft":
        host = HostDecoder(backend, embedding, folder, THREADS)
        transcriber.reader = DraftedReader(backend, slots, host, tokenizer, plan.seconds)
    return (Stream if name == "float/stream" else Files)(transcriber)
