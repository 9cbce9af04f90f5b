"""Fits what makes features of one place of a window those of another, for `whisper_runtime.stitching`.

The encoder adds a place to what it hears, so the features of the same sound at two places differ. Most of that is a
function of the place alone, and of the rest most is linear: of base's features at 3 s, computed from those at the
beginning, 6 % of the variance are wrong on other speech, where without it 80 % are. The fit is least squares, held to
the identity by a ridge, on blocks of real speech that the checkpoint's own encoder is given at both places.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from whisper_runtime.audio import SAMPLE_RATE, load_audio
from whisper_runtime.blocks import MARGIN_SECONDS, hop_seconds
from whisper_runtime.mel import window_mel
from whisper_runtime.stitching import RELOCATION_BIAS, RELOCATION_WEIGHT

from whisper_toolchain.calibration.selection import mix
from whisper_toolchain.checkpoints import Checkpoint
from whisper_toolchain.datasets import Utterance
from whisper_toolchain.errors import ExportError
from whisper_toolchain.shape_plan import FEATURE_FRAMES_PER_SECOND, MEL_FRAMES_PER_SECOND, ShapePlan
from whisper_toolchain.signal_to_noise import signal_to_noise

# Beside the sum of squares of some 50 000 frames. From 10 to 10 000 it makes no difference to other speech.
_RIDGE = 1000.0

# Of speech that is enough: 20 minutes leave 5.6 % instead of 6.0 %. Half a minute of a recording, or more if there are
# few.
_SPEECH_SECONDS, _RECORDING_SECONDS = 180, 30

# Of the windows, for measuring.
_HELD_OUT = 0.1


@dataclass(frozen=True)
class RelocationCheck:
    """How near relocated features are to those that the encoder makes at their place.

    Attributes:
        places: seconds of each block's place.
        snr_db: signal-to-noise ratio on windows that were not fitted, for each place.
        unmoved_snr_db: the same without relocation.
    """

    places: tuple[int, ...]
    snr_db: tuple[float, ...]
    unmoved_snr_db: tuple[float, ...]


def some_speech(utterances: Sequence[Utterance]) -> list[np.ndarray]:
    """Three minutes of speech, of many speakers and lengths, or all if there is less.

    Returns:
        Beginnings of recordings, each (n,) float32 at 16 kHz.

    Raises:
        AudioError: a recording cannot be read.
    """
    most = max(_RECORDING_SECONDS, _SPEECH_SECONDS / max(1, len(utterances)))
    found: list[np.ndarray] = []
    missing = _SPEECH_SECONDS * SAMPLE_RATE
    for utterance in mix(utterances):
        found.append(load_audio(utterance.path)[: min(round(most * SAMPLE_RATE), missing)])
        missing -= len(found[-1])
        if not missing:
            break
    return found


def write_relocations(
    model: torch.nn.Module, checkpoint: Checkpoint, plan: ShapePlan, folder: Path, speech: Sequence[np.ndarray]
) -> RelocationCheck:
    """Fit and write the relocations of all blocks of a plan's longest window, in float16.

    Args:
        model: the patched model of `model.build_model`, with the plan's window.
        checkpoint: its weights, with the places of Whisper's whole 30 s.
        plan: has more than one block.
        folder: where to write.
        speech: recordings, (n,) float32 at 16 kHz. If together they are shorter than two of the longest windows, what
            is fitted is measured as well.

    Returns:
        How well they fit.

    Raises:
        ExportError: features are no nearer to those of their place with a relocation than without.
    """
    windows = list(_windows(plan, np.concatenate(speech)))
    fitted = windows[: max(1, len(windows) - math.ceil(_HELD_OUT * len(windows)))]
    measured = windows[len(fitted) :] or fitted
    places = checkpoint.state["encoder.positional_embedding"].astype(np.float32)
    here = _features(model, fitted)
    mean = here.mean(axis=0)
    centred = (here - mean).reshape(-1, plan.state)
    squares = (centred.T @ centred).astype(np.float64)
    measured_here = _features(model, measured)
    encoder: Any = model.encoder
    own = encoder.positional_embedding
    weights, biases, ratios, unmoved = [], [], [], []
    seconds = [number * hop_seconds(plan.seconds) for number in range(1, plan.host_blocks)]
    for second in seconds:
        first = second * FEATURE_FRAMES_PER_SECOND
        try:
            encoder.positional_embedding = torch.from_numpy(places[first : first + plan.feature_frames])
            there, measured_there = _features(model, fitted), _features(model, measured)
        finally:
            encoder.positional_embedding = own
        mean_there = there.mean(axis=0)
        moved = (there - mean_there).reshape(-1, plan.state)
        ridge = _RIDGE * np.eye(plan.state)
        weight = np.eye(plan.state) + np.linalg.solve(squares + ridge, centred.T @ moved - squares)
        weight = weight.astype(np.float16)
        bias = (mean_there - mean @ weight.astype(np.float32)).astype(np.float16)
        kept = slice(MARGIN_SECONDS * FEATURE_FRAMES_PER_SECOND, None)
        wanted = measured_there[:, kept]
        relocated = (measured_here @ weight.astype(np.float32) + bias)[:, kept]
        ratios.append(signal_to_noise(wanted, relocated))
        unmoved.append(signal_to_noise(wanted, measured_here[:, kept]))
        weights.append(weight)
        biases.append(bias)
    # Written so that a NaN fails too.
    if not all(ratio > without for ratio, without in zip(ratios, unmoved, strict=True)):
        raise ExportError(
            f"features that are moved to {', '.join(map(str, seconds))} s have {', '.join(f'{r:.1f}' for r in ratios)} "
            f"dB, unmoved {', '.join(f'{r:.1f}' for r in unmoved)} dB: give more speech, or other"
        )
    np.save(folder / RELOCATION_WEIGHT, np.stack(weights), allow_pickle=False)
    np.save(folder / RELOCATION_BIAS, np.stack(biases), allow_pickle=False)
    return RelocationCheck(tuple(seconds), tuple(ratios), tuple(unmoved))


def _windows(plan: ShapePlan, samples: np.ndarray) -> Iterator[np.ndarray]:
    """Mels (80, 100 * longest window) of all full windows in joined recordings, or of all if there is none."""
    size = plan.host_seconds * SAMPLE_RATE
    for start in range(0, max(1, len(samples) - size + 1), size):
        yield window_mel(samples[start : start + size], plan.host_seconds)


def _features(model: torch.nn.Module, windows: Sequence[np.ndarray]) -> np.ndarray:
    """What the encoder makes of blocks at every half second of windows, (n, 50 * s, d) float32."""
    encoder: Any = model.encoder
    size = encoder.positional_embedding.shape[0] * MEL_FRAMES_PER_SECOND // FEATURE_FRAMES_PER_SECOND
    return np.concatenate(
        [
            encoder(torch.from_numpy(mel[None, :, None, first : first + size].copy())).numpy()
            for mel in windows
            for first in range(0, mel.shape[1] - size + 1, MEL_FRAMES_PER_SECOND // 2)
        ]
    )
