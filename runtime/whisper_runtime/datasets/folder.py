"""A folder of recordings, with or without a transcript of the same name beside each."""

from pathlib import Path

from whisper_runtime.datasets.base import Dataset, Utterance
from whisper_runtime.errors import DatasetError

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


class AudioFolder(Dataset):
    """Reads every recording below a folder; `clip.txt` beside `clip.wav` is its transcript."""

    notice = "Recordings of your own folder, under whatever licence you have them."

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.name = f"folder-{path.resolve().name}"

    @classmethod
    def fits(cls, path: Path) -> bool:
        """True for every folder; which is why this reader comes last."""
        return path.is_dir()

    def utterances(self) -> list[Utterance]:
        """Every wav, flac, ogg and mp3 file, sorted by its path inside the folder, which is its id.

        Raises DatasetError for an empty folder or a transcript that is not UTF-8.
        """
        found = []
        for path in self.path.rglob("*"):
            inside = path.relative_to(self.path)
            hidden = any(part.startswith(".") for part in inside.parts)  # editors' and systems' own files
            if path.suffix.lower() in AUDIO_SUFFIXES and not hidden and path.is_file():
                found.append(Utterance(inside.as_posix(), path, _transcript(path), None))
        if not found:
            raise DatasetError(f"{self.path} holds no recordings ({', '.join(AUDIO_SUFFIXES)})")
        return sorted(found, key=lambda utterance: utterance.id)


def _transcript(recording: Path) -> str | None:
    path = recording.with_suffix(".txt")
    try:
        return " ".join(path.read_text(encoding="utf-8-sig").split()) if path.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read the transcript {path}: {error}") from error
