"""Any subset in the layout of LibriSpeech: `<subset>/<speaker>/<chapter>/*.flac` and `.trans.txt`."""

from pathlib import Path

from whisper_runtime.datasets.base import Dataset, Utterance
from whisper_runtime.errors import DatasetError


class LibriSpeech(Dataset):
    """Reads a subset folder, or a folder above it that holds exactly one subset."""

    notice = (
        "LibriSpeech: V. Panayotov, G. Chen, D. Povey, S. Khudanpur, "
        '"LibriSpeech: an ASR corpus based on public domain audio books", ICASSP 2015. Licence CC BY 4.0.'
    )

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        subsets = _subsets(path)
        if not subsets:
            raise DatasetError(f"{path} holds no LibriSpeech subset (<speaker>/<chapter>/*.trans.txt)")
        if len(subsets) > 1:
            found = ", ".join(subset.name for subset in subsets)
            raise DatasetError(f"{path} holds several LibriSpeech subsets ({found}); name one of them")
        self.path = subsets[0]
        self.name = f"librispeech-{self.path.resolve().name}"

    @classmethod
    def fits(cls, path: Path) -> bool:
        """True when a subset is in `path` or just below."""
        return path.is_dir() and bool(_subsets(path))

    def utterances(self) -> list[Utterance]:
        """Every flac with its transcript, sorted by id.

        Raises DatasetError: a flac without transcript, a transcript without flac, an id that is there twice.
        """
        found: dict[str, Utterance] = {}
        for chapter in sorted(self.path.glob("*/*")):
            if not chapter.is_dir():
                continue
            texts = _transcripts(chapter)
            for flac in sorted(chapter.glob("*.flac")):
                if flac.stem not in texts and not self.keep_missing:
                    raise DatasetError(f"no transcript for {flac} in {chapter}/*.trans.txt")
                if flac.stem in found:
                    raise DatasetError(f"{flac.stem} is there twice: {found[flac.stem].path} and {flac}")
                speaker = chapter.parent.name
                found[flac.stem] = Utterance(flac.stem, flac, texts.pop(flac.stem, None), speaker)
            if self.keep_missing:
                for name, text in texts.items():
                    found[name] = Utterance(name, chapter / f"{name}.flac", text, chapter.parent.name)
            elif texts:
                raise DatasetError(f"{chapter} has transcripts but no flac for {', '.join(sorted(texts))}")
        if not found:
            raise DatasetError(f"{self.path} holds no recordings")
        return [found[key] for key in sorted(found)]


def _subsets(path: Path) -> list[Path]:
    if _is_subset(path):
        return [path]
    parents = [path, path / "LibriSpeech"]
    return sorted(
        folder
        for parent in parents
        if parent.is_dir()
        for folder in parent.iterdir()
        if folder.is_dir() and _is_subset(folder)
    )


def _is_subset(path: Path) -> bool:
    return next(path.glob("*/*/*.trans.txt"), None) is not None


def _transcripts(chapter: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for file in sorted(chapter.glob("*.trans.txt")):
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"cannot read {file}: {error}") from error
        for number, line in enumerate(lines, start=1):
            name, _, text = line.strip().partition(" ")
            if not name:
                continue
            if not text.strip():
                raise DatasetError(f"{file}, line {number}: no transcript after {name}")
            if name in texts:
                raise DatasetError(f"{file}, line {number}: {name} is there twice")
            texts[name] = text.strip()
    return texts
