"""Recordings for the validation: a real one with its transcript, and what is made of it."""

import json
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from whisper_runtime.audio import SAMPLE_RATE, load_audio

from integration.errors import ValidationError


@dataclass(frozen=True)
class Clip:
    """A recording.

    Attributes:
        name: for the report.
        samples: (n,) float32, 16 kHz mono, -1 to 1.
        reference: what is said in it; None if nobody knows.
    """

    name: str
    samples: np.ndarray
    reference: str | None = None

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.samples) / SAMPLE_RATE

    @classmethod
    def read(cls, path: Path, reference: str | None = None) -> "Clip":
        """Read a recording in any format that the runtime reads. Raises AudioError."""
        return cls(path.name, load_audio(path), reference)

    def write(self, path: Path) -> None:
        """Write it as the app records: 16-bit PCM."""
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE)
            file.writeframes((np.clip(self.samples, -1, 1) * 32767).astype("<i2").tobytes())


def fetched_clip(audio: Path, window: int) -> Clip:
    """A recording with a transcript out of what `make audio` fetched.

    The longest that leaves a third of a window free: the app decodes as many tokens as there are slots and no more.

    Raises:
        ValidationError: there is none.
    """
    longest = window * 2 / 3
    sample = audio / "registry-sample" / "manifest.jsonl"
    found: list[tuple[Path, str]] = []
    if sample.is_file():
        entries = [json.loads(line) for line in sample.read_text(encoding="utf-8").splitlines()]
        found = [(sample.parent / entry["audio"], entry["text"]) for entry in entries if entry.get("text")]
    for transcript in sorted((audio / "LibriSpeech" / "dev-clean").glob("*/*/*.trans.txt"))[:20]:
        for line in transcript.read_text(encoding="utf-8").splitlines():
            name, _, text = line.partition(" ")
            found.append((transcript.parent / f"{name}.flac", text))
    clips = [Clip.read(path, text) for path, text in found if path.is_file()]
    fitting = [clip for clip in clips if clip.seconds <= longest]
    if not fitting:
        raise ValidationError(
            f"{audio}: no recording of at most {longest:.1f} s with a transcript: make audio, or give AUDIO"
        )
    return max(fitting, key=lambda clip: (clip.seconds, clip.name))


def silence(seconds: float) -> Clip:
    """Nothing at all."""
    return Clip(f"silence of {seconds:g} s", np.zeros(int(seconds * SAMPLE_RATE), np.float32))


def shortened(clip: Clip, seconds: float) -> Clip:
    """A piece out of the middle."""
    start = max(0, (len(clip.samples) - int(seconds * SAMPLE_RATE)) // 2)
    return Clip(f"{seconds:g} s of it", clip.samples[start : start + int(seconds * SAMPLE_RATE)])


def repeated(clip: Clip, seconds: float) -> Clip:
    """The same again and again, with half a second between."""
    once = np.concatenate([clip.samples, np.zeros(SAMPLE_RATE // 2, np.float32)])
    length = int(seconds * SAMPLE_RATE)
    return Clip(f"{seconds:g} s of it again and again", np.tile(once, length // len(once) + 1)[:length])
