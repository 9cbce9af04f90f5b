"""Fits what makes features of one place of a window those of another, for `whisper_runtime.stitching`.

The encoder adds a place to what it hears, so the features of the same sound at two places differ. Most of that is a
function of the place alone, and of the rest most is linear: of base's features at 3 s, computed from those at the
beginning, 6 % of the variance are wrong on other speech, where without it 80 % are. The fit is least squares, held to
the identity by a ridge, on blocks of real speech that the checkpoint's own encoder is given at both places.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from whisper_runtime.audio import SAMPLE_RATE
from whisper_runtime.mel import window_mel
from whisper_runtime.stitching import MARGIN_SECONDS, RELOCATION_BIAS, RELOCATION_WEIGHT, hop_seconds

from whisper_toolchain.checkpoints import Checkpoint
from whisper_toolchain.shape_plan import FEATURE_FRAMES_PER_SECOND, MEL_FRAMES_PER_SECOND, ShapePlan
from whisper_toolchain.signal_to_noise import SignalToNoise

# Beside the sum of squares of some 50 000 frames. From 10 to 10 000 it makes no difference to other speech.
_RIDGE = 1000.0

SPEECH_SECONDS = 180
"""Of speech that is enough: 20 minutes leave 5.6 % instead of 6.0 %."""

# Each so-manieth block is left out of the fit, to measure it on.
_HELD_OUT = 10


@dataclass(frozen=True)
class RelocationCheck:
    """How near relocated features are to those that the encoder makes at their place.

    Attributes:
        places: seconds of each block's place.
        snr_db: signal-to-noise ratio on blocks that were not fitted, for each place.
        unmoved_snr_db: the same without relocation.
    """

    places: tuple[int, ...]
    snr_db: tuple[float, ...]
    unmoved_snr_db: tuple[float, ...]


def write_relocations(
    model: torch.nn.Module, checkpoint: Checkpoint, plan: ShapePlan, folder: Path, speech: Sequence[np.ndarray]
) -> RelocationCheck:
    """Fit and write the relocations of all blocks of a plan's longest window, in float16.

    Args:
        model: the patched model of `model.build_model`, with the plan's window.
        checkpoint: its weights, with the places of Whisper's whole 30 s.
        plan: has more than one block.
        folder: where to write.
        speech: recordings, (n,) float32 at 16 kHz, together longer than the longest window.
    """
    mels = list(_blocks(plan, np.concatenate(speech)))
    here = _features(model, mels)
    places = checkpoint.state["encoder.positional_embedding"].astype(np.float32)
    every = min(_HELD_OUT, len(mels))
    fitted = np.arange(len(mels)) % every != every - 1
    mean = here[fitted].mean(axis=0)
    centred = (here[fitted] - mean).reshape(-1, plan.state)
    squares = centred.T @ centred
    encoder: Any = model.encoder
    own = encoder.positional_embedding
    weights, biases, ratios, unmoved = [], [], [], []
    seconds = [number * hop_seconds(plan.seconds) for number in range(1, plan.host_blocks)]
    for second in seconds:
        first = second * FEATURE_FRAMES_PER_SECOND
        try:
            encoder.positional_embedding = torch.from_numpy(places[first : first + plan.feature_frames])
            there = _features(model, mels)
        finally:
            encoder.positional_embedding = own
        mean_there = there[fitted].mean(axis=0)
        moved = (there[fitted] - mean_there).reshape(-1, plan.state)
        ridge = _RIDGE * np.eye(plan.state)
        weight = np.eye(plan.state) + np.linalg.solve(squares + ridge, centred.T @ moved - squares)
        weight = weight.astype(np.float16)
        bias = (mean_there - mean @ weight.astype(np.float32)).astype(np.float16)
        kept = slice(MARGIN_SECONDS * FEATURE_FRAMES_PER_SECOND, None)
        ratio, without = SignalToNoise(), SignalToNoise()
        for one, other in zip(here[~fitted], there[~fitted], strict=True):
            ratio.add(other[kept], (one @ weight.astype(np.float32) + bias)[kept])
            without.add(other[kept], one[kept])
        weights.append(weight)
        biases.append(bias)
        ratios.append(ratio.decibels)
        unmoved.append(without.decibels)
    np.save(folder / RELOCATION_WEIGHT, np.stack(weights), allow_pickle=False)
    np.save(folder / RELOCATION_BIAS, np.stack(biases), allow_pickle=False)
    return RelocationCheck(tuple(seconds), tuple(ratios), tuple(unmoved))


def _blocks(plan: ShapePlan, samples: np.ndarray) -> Iterator[np.ndarray]:
    """Blocks (80, 100 * s) at every half second of windows of the longest kind, cut from joined recordings."""
    size = plan.host_seconds * SAMPLE_RATE
    for start in range(0, max(1, len(samples) - size), size):
        mel = window_mel(samples[start : start + size], plan.host_seconds)
        for first in range(0, mel.shape[1] - plan.mel_frames + 1, MEL_FRAMES_PER_SECOND // 2):
            yield mel[:, first : first + plan.mel_frames]


def _features(model: torch.nn.Module, mels: Sequence[np.ndarray]) -> np.ndarray:
    """What the encoder makes of blocks, (n, 50 * s, d) float32."""
    encoder: Any = model.encoder
    return np.concatenate([encoder(torch.from_numpy(mel[None, :, None, :].copy())).numpy() for mel in mels])
