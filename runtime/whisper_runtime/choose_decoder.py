"""Chooses between the decoder on the device and the one on this machine's CPU, by measuring both."""

import logging
import statistics
import time
from collections.abc import Sequence

import numpy as np

from whisper_runtime.audio import SAMPLE_RATE
from whisper_runtime.backends import Backend, Features
from whisper_runtime.bundle import Bundle
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.errors import BackendError
from whisper_runtime.host_decoder import HostDecoder
from whisper_runtime.mel import window_mel
from whisper_runtime.slot_decoder import SlotDecoder
from whisper_runtime.stitching import StitchingBackend, for_host_decoder
from whisper_runtime.text_decoder import BranchingDecoder, TextDecoder

TOKENS = 25  # of a typical window

# What of the device's calls a stream is left with, whose partial texts are each the draft of the next. Measured at a
# hop of 1 s: 0.24 to 0.30 (benchmarks/stream_calls.py). The host's decoder gains nothing from a draft.
DRAFTED_SHARE = 0.3

# The device's calls where it follows several texts in doubtful windows, of those where it does not, however many texts.
# Measured: base with five on clear speech; on difficult speech it is 3.5 (benchmarks/README.md). Partial texts, most of
# what is decoded in a stream, are greedy.
BEAMS_SHARE = 1.5

_STEPS = 5

_log = logging.getLogger(__name__)


def choose_decoder(
    backend: Backend,
    embedding: TokenEmbedding,
    bundle: Bundle,
    threads: int | None = None,
    drafted: bool = False,
    beam_size: int | None = None,
) -> tuple[Backend, TextDecoder, int]:
    """Return the decoder that is faster here, with the backend to encode with and the seconds of its longest window.

    It is ready for its first window; why it was taken is logged.

    Encodes a window of noise for each and decodes a few tokens with both: a second or so in all.

    Args:
        backend: opened with its decoder. If the host's decoder is returned, that one is not needed any more.
        embedding: the host's embeddings.
        bundle: what the backend runs.
        threads: threads of the CPU for each call of the host's decoder; None for one per core.
        drafted: it is for a stream, whose drafts save most of the device's calls.
        beam_size: texts that are followed at once; None for what is best for the decoder.

    Raises:
        BackendError: the device fails. That the host's decoder cannot be had is a reason to take the device's.
    """
    manifest = bundle.manifest
    device = SlotDecoder(backend, embedding, manifest.sequence, beam_size)
    try:
        encoder, seconds = for_host_decoder(backend, bundle.folder, manifest.seconds)
        host = HostDecoder(encoder, embedding, bundle.folder, threads, beam_size)
    except BackendError as error:
        _log.info("decoder: device, because the host's cannot be had: %s", error)
        return backend, device, manifest.seconds
    features, reading = _noise(backend, manifest.seconds), 0.0
    calls = DRAFTED_SHARE if drafted else BEAMS_SHARE if device.beam_size > 1 else 1.0
    costs: dict[TextDecoder, float] = {device: _cost(device, features, manifest.sot_sequence, calls)}
    if isinstance(encoder, StitchingBackend):
        # What the host reads block by block while a window is encoded; its features are numbers by then.
        start = time.perf_counter()
        backend.read_features(features)
        reading = encoder.blocks * (time.perf_counter() - start)
        features = _noise(encoder, seconds)
    # Most of a stream's decoding is partial text, which is decoded greedily.
    costs[host] = _cost(host, features, manifest.sot_sequence, beams=1 if drafted else host.beam_size)
    costs[host] += reading / TOKENS
    chosen, other = sorted(costs, key=costs.__getitem__)
    _log.info(
        "decoder: %s (%.1f ms a token, %s %.1f ms)", chosen.name, 1e3 * costs[chosen], other.name, 1e3 * costs[other]
    )
    return (encoder, host, seconds) if chosen is host else (backend, device, manifest.seconds)


def _noise(backend: Backend, seconds: int) -> Features:
    """A window full of noise, encoded."""
    noise = np.random.default_rng(0).normal(0, 0.1, seconds * SAMPLE_RATE).astype(np.float32)
    return backend.encode(np.ascontiguousarray(window_mel(noise, seconds).T[None]))


def _cost(decoder: TextDecoder, features: Features, prompt: Sequence[int], calls: float = 1.0, beams: int = 1) -> float:
    """Seconds for a token that takes so many calls, with its share of what is done once in a typical window."""
    decoder.begin(features)
    decoder.logits(prompt, [], [len(prompt) - 1])  # the first run of a graph takes longer
    start = time.perf_counter()
    decoder.begin(features)
    once = time.perf_counter() - start
    steps = []
    for count in range(_STEPS):
        start = time.perf_counter()
        if isinstance(decoder, BranchingDecoder) and beams > 1:
            decoder.branches(prompt, [(token,) * (count + 1) for token in range(beams)])
        else:
            decoder.logits(prompt, [prompt[-1]] * count, [len(prompt) + count - 1])
        steps.append(time.perf_counter() - start)
    decoder.calls = 0  # none of these was for a text
    return calls * statistics.median(steps) + once / TOKENS
