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
from whisper_runtime.blocks import hop_seconds
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

# Of speech that is enough. The more the better: with 20 minutes 5.6 % are wrong instead of 6.0 % with three. Half a
# minute of a recording, or more if there are few.
_SPEECH_SECONDS, _RECORDING_SECONDS = 1200, 30

# Blocks that are taken of it, no closer than half a second to each other.
_BLOCKS = 200

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
    """Twenty minutes of speech, of many speakers and lengths, or all if there is less.

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
    places = checkpoint.state["encoder.positional_embedding"].astype(np.float32)
    here = _features(model, windows)
    # Whole windows are held out, since blocks of the same one have most of their sound in common.
    held_out = len(here) // len(windows) * math.ceil(_HELD_OUT * len(windows)) if len(windows) > 1 else 0
    fitted, measured = slice(len(here) - held_out), slice(-held_out, None)
    encoder: Any = model.encoder
    own = encoder.positional_embedding
    weights, biases, ratios, unmoved = [], [], [], []
    seconds = [number * hop_seconds(plan.seconds) for number in range(1, plan.host_blocks)]
    for second in seconds:
        first = second * FEATURE_FRAMES_PER_SECOND
        try:
            encoder.positional_embedding = torch.from_numpy(places[first : first + plan.feature_frames])
            there = _features(model, windows)
        finally:
            encoder.positional_embedding = own
        weight, bias = _fit(here[fitted], there[fitted])
        relocated = here[measured] @ weight.astype(np.float32) + bias
        ratios.append(signal_to_noise(there[measured], relocated))
        unmoved.append(signal_to_noise(there[measured], here[measured]))
        if held_out:
            weight, bias = _fit(here, there)
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


def _fit(here: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What makes features (n, frames, d) those of another place: weight (d, d) and bias (frames, d), float16."""
    mean_here, mean_there = here.mean(axis=0), there.mean(axis=0)
    state = here.shape[-1]
    x, y = (here - mean_here).reshape(-1, state), (there - mean_there).reshape(-1, state)
    squares = (x.T @ x).astype(np.float64)
    moved = np.linalg.solve(squares + _RIDGE * np.eye(state), x.T @ y - squares)
    weight = (np.eye(state) + moved).astype(np.float16)
    return weight, (mean_there - mean_here @ weight.astype(np.float32)).astype(np.float16)


def _windows(plan: ShapePlan, samples: np.ndarray) -> Iterator[np.ndarray]:
    """Mels (80, 100 * longest window) of all full windows in joined recordings, or of all if there is none."""
    size = plan.host_seconds * SAMPLE_RATE
    for start in range(0, max(1, len(samples) - size + 1), size):
        yield window_mel(samples[start : start + size], plan.host_seconds)


def _features(model: torch.nn.Module, windows: Sequence[np.ndarray]) -> np.ndarray:
    """What the encoder makes of blocks from all over windows, as many of each, (n, 50 * s, d) float32."""
    encoder: Any = model.encoder
    size = encoder.positional_embedding.shape[0] * MEL_FRAMES_PER_SECOND // FEATURE_FRAMES_PER_SECOND
    room = windows[0].shape[1] - size
    count = min(1 + 2 * room // MEL_FRAMES_PER_SECOND, max(1, round(_BLOCKS / len(windows))))
    firsts = np.linspace(0, room, count).astype(int)
    blocks = [mel[None, :, None, first : first + size] for mel in windows for first in firsts]
    return np.concatenate([encoder(torch.from_numpy(block.copy())).numpy() for block in blocks])
