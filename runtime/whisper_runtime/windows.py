"""Cuts sound into windows that the model takes in one piece, as it comes and in bounded memory.

A cut in the middle of a word costs that word on both sides, so windows end at pauses, and silence is left out. All
is decided by the loudness of frames of 10 ms, at fixed places of the recording: however the samples come in, in
blocks or all at once, from a file or a microphone, the windows are the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whisper_runtime.audio import SAMPLE_RATE
from whisper_runtime.errors import WhisperError

FRAME = SAMPLE_RATE // 100
_FRAMES_PER_SECOND = SAMPLE_RATE // FRAME
STEP = 10 * FRAME
"""Samples between two decisions (0.1 s)."""

# A frame is silent, and is left out between windows, if it is below this level (dB of full scale: the dither of a
# digital recording is at -90 and below) or that much below the loudest sound of late. Speech has a range of 30 to 40.
_SILENCE_DB = -75.0
_RANGE_DB = 45.0
_SPEECH_DB = 30.0
_FORGETTING_DB = 0.5  # of the loudest sound, a second
_SUSTAINED_FRAMES = 5  # that a sound lasts at least, or it is a click
_KEPT_SECONDS = 0.2  # of silence before a window's first sound: the onset of many consonants is quiet
_KEPT_FRAMES = round(_KEPT_SECONDS * _FRAMES_PER_SECOND)

# What is quiet in a window: the lowest quarter of its own range, if it has one. In noise nothing is.
_QUIET_SHARE = 0.25
_LEAST_RANGE_DB = 12.0

# Sound that does not fit in one window is cut where that costs least, and that is decided for several windows together:
# short windows are read worse than long ones, and next to a full one there is often a short one. Each cut has a price,
# less the longer the pause is whose middle it is in (long ones end sentences), and less the quieter it is there; and
# each window has one for what it leaves empty. Measured, see benchmarks/README.md.
_PAUSE_SECONDS = 0.25
_LEAST_PAUSE_SECONDS, _LONG_PAUSE_SECONDS = 0.1, 0.6
_CUT_PRICE, _PAUSE_PRICE, _LOUD_PRICE, _EMPTY_PRICE = 1.0, 6.0, 3.0, 2.0
_QUIET_SECONDS = 0.2
_FULL, _FULL_PRICE = 0.96, 1.0
_PLACES = 20  # a window at least, at which it may be cut whether there are pauses or not
# How much more than a window has to be there before a window is cut off, in windows.
_AHEAD = 1.0

# A pause for this long ends a window that is not full: somebody has finished. Speakers pause for a second in
# mid-sentence, and a sentence is read better in one piece.
_END_SECONDS = 2.0

# A window is split in two if there is so much between the beginning and the end of its sound, and no closer to them.
_SPLIT_SECONDS, _PART_SECONDS = 3.0, 0.5


@dataclass(frozen=True, eq=False)
class Window:
    """A piece of a recording.

    Attributes:
        start: its first sample's index in the recording.
        samples: (n,) float32, 16 kHz.
    """

    start: int
    samples: NDArray[np.float32]

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / SAMPLE_RATE


class WindowCutter:
    """Takes samples as they come and gives windows of at most `seconds`: in order, without overlap, none empty.

    Between windows only silence is left out. What fits in one window and has no long pause is left whole.

    Args:
        seconds: length of the model's window, at least 1.

    Raises:
        ValueError: the window is shorter than a second.
    """

    def __init__(self, seconds: int) -> None:
        if seconds < 1:
            raise ValueError(f"a window needs at least 1 second, got {seconds}")
        self._size = seconds * SAMPLE_RATE
        self._ahead = round(_AHEAD * self._size)
        self._start = 0
        self._buffer: NDArray[np.float32] = np.zeros(0, np.float32)
        self._end = 0  # of what is written in the buffer
        self._samples = self._buffer[:0]  # what is pending: the last that was written
        self._levels: NDArray[np.float64] = np.zeros(0)
        self._silent: NDArray[np.bool_] = np.zeros(0, bool)
        self._loudest = -np.inf
        self._latest = deque([-np.inf] * _SUSTAINED_FRAMES, _SUSTAINED_FRAMES)

    @property
    def pending(self) -> list[Window]:
        """What has come in since the last window, cut as it looks now; one empty window if that is nothing."""
        found, start, samples, levels = [], self._start, self._samples, self._levels
        while len(samples) > self._size:
            cut = best_cut(levels, self._size // FRAME, ended=False)
            found.append(Window(start, samples[: cut * FRAME]))
            start, samples, levels = start + cut * FRAME, samples[cut * FRAME :], levels[cut:]
        return [*found, Window(start, samples)]

    @property
    def has_sound(self) -> bool:
        """Whether anything pending is more than silence."""
        return not self._silent.all()

    def push(self, samples: NDArray[np.float32]) -> Iterator[Window]:
        """Take the next samples, (n,) float32 at 16 kHz, and yield the windows that are complete now."""
        while len(samples):
            # Steps begin at multiples of STEP, whatever the blocks that the samples come in.
            missing = STEP - (self._start + len(self._samples)) % STEP
            self._append(samples[:missing])
            samples = samples[missing:]
            if (self._start + len(self._samples)) % STEP == 0:
                yield from self._decide()

    def finish(self) -> Iterator[Window]:
        """Yield what is left at the end of the recording. Then the cutter is empty."""
        # The last step may be a short one and has not been looked at.
        yield from self._decide()
        if len(self._samples) > self._size and self.has_sound:
            last = int(np.flatnonzero(~self._silent)[-1]) + 1
            if last + _KEPT_FRAMES < len(self._silent):
                yield from self._take_all(last + _KEPT_FRAMES)
            else:
                yield from self._take_full()
        if self.has_sound:
            yield Window(self._start, self._samples)
        self._drop(len(self._samples))

    def _append(self, samples: NDArray[np.float32]) -> None:
        held = len(self._samples)
        if self._end + len(samples) > len(self._buffer):
            # What is known moves to the front of a new buffer: windows that were given out may be views of the old.
            self._buffer = np.empty(held + max(len(samples), SAMPLE_RATE), np.float32)
            self._buffer[:held] = self._samples
            self._end = held
        self._buffer[self._end : self._end + len(samples)] = samples
        self._end += len(samples)
        self._samples = self._buffer[self._end - held - len(samples) : self._end]
        known = len(self._levels)
        whole = len(self._samples) // FRAME
        levels = frame_levels(self._samples[known * FRAME : whole * FRAME])
        silent = np.empty(len(levels), bool)
        for i, level in enumerate(levels):
            self._latest.append(level)
            self._loudest = max(min(self._latest), self._loudest - _FORGETTING_DB / _FRAMES_PER_SECOND)
            silent[i] = level < max(_SILENCE_DB, self._loudest - _RANGE_DB)
        self._levels = np.concatenate((self._levels, levels))
        self._silent = np.concatenate((self._silent, silent))

    def _decide(self) -> Iterator[Window]:
        if not self.has_sound:
            self._drop(max(0, len(self._levels) - _KEPT_FRAMES) * FRAME)
            return
        long_pause = _END_SECONDS * _FRAMES_PER_SECOND
        if len(self._levels) > long_pause and (pause := self._trailing_pause()) >= long_pause:
            yield from self._take_all(len(self._levels) - pause + _KEPT_FRAMES)
        while len(self._samples) > self._size + self._ahead:
            yield self._take(best_cut(self._levels, self._size // FRAME, ended=False))

    def _take_all(self, frames: int) -> Iterator[Window]:
        """The first frames, as windows that end with them."""
        while frames * FRAME > self._size:
            cut = best_cut(self._levels[:frames], self._size // FRAME, ended=True)
            yield self._take(cut)
            frames -= cut
        yield self._take(frames)

    def _take_full(self) -> Iterator[Window]:
        """Windows of all but what fits in the last one, at the end of the recording."""
        while len(self._samples) > self._size:
            yield self._take(best_cut(self._levels, self._size // FRAME, ended=True))

    def _take(self, frames: int) -> Window:
        window = Window(self._start, self._samples[: frames * FRAME].copy())
        self._drop(frames * FRAME)
        return window

    def _drop(self, samples: int) -> None:
        self._start += samples
        self._samples = self._samples[samples:]
        self._levels = self._levels[samples // FRAME :]
        self._silent = self._silent[samples // FRAME :]

    def _trailing_pause(self) -> int:
        """Quiet frames at the end of what is pending."""
        loud = np.flatnonzero(~quiet_frames(self._levels))
        return len(self._levels) - 1 - int(loud[-1]) if len(loud) else 0


def cut_windows(blocks: Iterable[NDArray[np.float32]], seconds: int) -> Iterator[Window]:
    """Cut a recording that comes in blocks; see `WindowCutter`.

    Args:
        blocks: (n,) float32, 16 kHz, of any lengths. If they end in an error, what came before it is still cut.
        seconds: length of the model's window, at least 1.

    Raises:
        ValueError: the window is shorter than a second.
        WhisperError: what the blocks ended in.
    """
    cutter = WindowCutter(seconds)
    failure = None
    try:
        for block in blocks:
            yield from cutter.push(block)
    except WhisperError as error:
        failure = error
    yield from cutter.finish()
    if failure is not None:
        raise failure


def frame_levels(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """How loud each whole frame of some samples (n,) is, (n // FRAME,) in dB of full scale."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    # The variance, so that a constant offset is silent.
    levels: NDArray[np.float64] = 10.0 * np.log10(np.var(frames, axis=1, dtype=np.float64) + 1e-12)
    return levels


def loud_seconds(window: Window) -> float:
    """How much of a window is not quiet beside the rest of it."""
    return float((~quiet_frames(frame_levels(window.samples))).sum()) / _FRAMES_PER_SECOND


def split_in_two(window: Window) -> tuple[Window, Window] | None:
    """A window in two, cut where that costs least; None if its sound is too short for that."""
    levels = frame_levels(window.samples)
    loud = np.flatnonzero(~quiet_frames(levels))
    if not len(loud) or loud[-1] - loud[0] < _SPLIT_SECONDS * _FRAMES_PER_SECOND:
        return None
    # No larger a size, so that there is always a place between the margins.
    places, prices = cut_prices(levels, min(len(levels), 10 * _FRAMES_PER_SECOND))
    margin = _PART_SECONDS * _FRAMES_PER_SECOND
    inside = (places >= loud[0] + margin) & (places <= loud[-1] - margin)
    places, prices = places[inside], prices[inside]
    # Of those that cost about the same, the one nearest to the middle.
    best = np.lexsort((abs(2 * places - len(levels)), prices.round(1)))[0]
    cut = int(places[best]) * FRAME
    return Window(window.start, window.samples[:cut]), Window(window.start + cut, window.samples[cut:])


def quiet_frames(levels: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of some frames, given by their levels in dB, are quiet beside the others; none if all are alike."""
    if not len(levels):
        return np.zeros(0, bool)
    # A single pause, or a twentieth of what is less than five seconds.
    lowest = min(round(_PAUSE_SECONDS * _FRAMES_PER_SECOND) - 1, len(levels) // 20)
    # The 90th percentile; np.percentile takes several times as long, and this is asked for at every step.
    place, part = divmod(0.9 * (len(levels) - 1), 1.0)
    below, above = int(place), min(int(place) + 1, len(levels) - 1)
    ordered = np.partition(levels, (lowest, below, above))
    low, high = ordered[lowest], ordered[below] + part * (ordered[above] - ordered[below])
    if high - low < _LEAST_RANGE_DB:
        return np.zeros(len(levels), bool)
    quiet: NDArray[np.bool_] = levels < max(low + _QUIET_SHARE * (high - low), high - _RANGE_DB)
    return quiet


def pauses(quiet: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Middles and lengths, in frames, of the runs of quiet frames."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], quiet.astype(np.int8), [0]))))
    starts, ends = edges[::2], edges[1::2]
    return (starts + ends) // 2, ends - starts


def best_cut(levels: NDArray[np.float64], size: int, ended: bool) -> int:
    """Where the first of several windows ends best: the first cut of the cheapest way to cut it all.

    Args:
        levels: (n,) in dB, of more frames than fit in one window, or just as many and a part of one.
        size: frames of a full window, at least 100.
        ended: whether the last window ends with these frames, or may still be filled.

    Returns:
        A number of frames, 1 to `size`.
    """
    places, prices = cut_prices(levels, size)
    # Not at the very ends. The last place is the end of the sound, with what there may be of one more frame.
    margin = size // _PLACES
    inside = (places >= margin) & (places <= len(levels) - margin)
    ends = np.concatenate(([0], places[inside], [len(levels) + 1]))
    prices = np.concatenate(([0.0], prices[inside], [0.0]))
    totals, before = np.full(len(ends), np.inf), np.zeros(len(ends), int)
    totals[0] = 0.0
    for index in range(1, len(ends)):
        lengths = ends[index] - ends[:index]
        open_end = index == len(ends) - 1 and not ended
        filled = lengths / size
        fit = np.zeros(index) if open_end else _EMPTY_PRICE * (1.0 - filled) ** 2 + _FULL_PRICE * (filled > _FULL)
        ways = np.where(filled <= 1.0, totals[:index] + fit, np.inf)
        before[index] = int(ways.argmin())
        totals[index] = ways[before[index]] + prices[index]
    index = len(ends) - 1
    while before[index]:
        index = int(before[index])
    return int(ends[index])


def cut_prices(levels: NDArray[np.float64], size: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Places where sound may be cut, in ascending order, and what a cut costs there.

    They are the middles of pauses, and the quietest place in every part of a window.

    Args:
        levels: (n,) in dB.
        size: frames of a full window.
    """
    middles, lengths = pauses(quiet_frames(levels))
    long = lengths >= _LEAST_PAUSE_SECONDS * _FRAMES_PER_SECOND
    width = round(_QUIET_SECONDS * _FRAMES_PER_SECOND)
    around = 10.0 * np.log10(np.convolve(10.0 ** (levels / 10.0), np.ones(width) / width, "same"))
    part = size // _PLACES
    quietest = [start + int(around[start : start + part].argmin()) for start in range(0, len(levels), part)]
    places = np.unique(np.concatenate((middles[long], quietest)))
    seconds = np.zeros(len(places))
    seconds[np.searchsorted(places, middles[long])] = lengths[long] / _FRAMES_PER_SECOND
    high = np.percentile(levels, 90)
    low = max(around.min(), high - _SPEECH_DB)
    loudness = np.clip((around[places] - low) / max(high - low, _LEAST_RANGE_DB), 0.0, 1.0)
    shortness = _LONG_PAUSE_SECONDS - np.minimum(seconds, _LONG_PAUSE_SECONDS)
    return places, _CUT_PRICE + _PAUSE_PRICE * shortness + _LOUD_PRICE * loudness
