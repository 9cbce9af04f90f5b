"""Recordings inside a page: compressed, as data URIs, within a budget."""

import base64
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile
from whisper_runtime.audio import SAMPLE_RATE, load_audio
from whisper_runtime.errors import AudioError
from whisper_runtime.evaluation.speech import without_folder

from whisper_toolchain.download import sha256_file

LONGEST = 120.0  # seconds of one recording
MOST_BYTES = 4_000_000  # of all data URIs in a page
# MP3 is what every browser plays, iPhones included; at 16 kHz this quality takes 3 kB a second.
_QUALITY = 0.8


@dataclass(frozen=True)
class EmbeddedClip:
    """A recording for a page.

    Attributes:
        uri: of its sound; "" if it is left out.
        reason: why it is left out.
    """

    uri: str = ""
    reason: str = ""


def embed(
    clips: Iterable[Mapping[str, Any]], paths: Mapping[str, Path], most_bytes: int = MOST_BYTES
) -> dict[str, EmbeddedClip]:
    """Compress recordings for a page. What cannot be had is left out, with the reason.

    Args:
        clips: entries of an evaluation's JSON, the most important ones first.
        paths: where recordings lie, by id.
        most_bytes: of all data URIs.

    Returns:
        By id.
    """
    embedded, room = {}, most_bytes
    for clip in clips:
        embedded[clip["id"]] = found = _embed(clip, paths.get(clip["id"]), room)
        room -= len(found.uri)
    return embedded


def _embed(clip: Mapping[str, Any], path: Path | None, room: int) -> EmbeddedClip:
    if path is None:
        return EmbeddedClip(reason="no recording was given for this page")
    if clip["duration"] > LONGEST:
        return EmbeddedClip(reason=f"longer than the {LONGEST:.0f} s that this page takes of one recording")
    try:
        if sha256_file(path) != clip["audio"]:
            return EmbeddedClip(reason="the file is not the one that was measured")
        samples = load_audio(path)
        file = io.BytesIO()
        soundfile.write(file, samples, SAMPLE_RATE, format="MP3", compression_level=_QUALITY)
    except (AudioError, soundfile.LibsndfileError) as error:
        return EmbeddedClip(reason=f"it can no longer be read ({without_folder(str(error), path)})")
    except OSError as error:
        return EmbeddedClip(reason=f"it can no longer be read ({error.strerror or 'the disk failed'})")
    uri = "data:audio/mpeg;base64," + base64.b64encode(file.getvalue()).decode()
    if len(uri) > room:
        return EmbeddedClip(reason="this page holds as much sound as it takes already")
    return EmbeddedClip(uri)
