"""The app on disk: where it is, which of its known layouts it has, and what it looks like."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from integration.edits import CLI, DOWNLOADER, GUI, PIPELINE, REGISTRY
from integration.errors import UnknownLayoutError

EDITED = (CLI, DOWNLOADER, PIPELINE, REGISTRY, GUI)
OLD_DOWNLOADER = "app/download_resources.sh"  # until August 2025; it has no choices

# Where the app is in each of the vendor's repositories.
EXAMPLES = "runtime/python/speech_recognition"
OLD_EXAMPLES = "runtime/hailo-8/python/speech_recognition"
HAILO_APPS = "hailo_apps/python/standalone_apps/speech_recognition"

# sha256 over the five files, each as its path, a NUL and its own sha256: revisions that were tried.
_REVISIONS = {
    "e9a2d1dc74af1597": "Hailo-Application-Code-Examples 41cab09 (July 2025)",
    "4275732fbfe1b2fe": "Hailo-Application-Code-Examples 55c64bf (August 2025)",
    "e8989f0a0e1a7b7e": "Hailo-Application-Code-Examples 0d987d8 to 5eab622 (December 2025, January 2026)",
    "66f3d53ff5b97fc0": "hailo-apps 80f0b60 (December 2025)",
}


@dataclass(frozen=True)
class App:
    """The vendor's app.

    Attributes:
        root: the folder with `app/`, `common/` and `gui/`.
        edited: the files that an install changes, relative to it, sorted.
    """

    root: Path
    edited: tuple[str, ...]

    @classmethod
    def find(cls, folder: Path) -> "App":
        """Find the app in its own folder or in a checkout of the repository that holds it.

        Raises:
            UnknownLayoutError: there is none, or a file is missing.
        """
        places = [folder, *(folder / place for place in (EXAMPLES, OLD_EXAMPLES, HAILO_APPS))]
        root = next((place for place in places if (place / CLI).is_file()), None)
        if root is None:
            raise UnknownLayoutError(
                f"{folder}: no Speech Recognition app in it: expected {CLI} there, or a checkout with {EXAMPLES}, "
                f"{OLD_EXAMPLES} or {HAILO_APPS}"
            )
        edited = [path for path in EDITED if path != DOWNLOADER or not (root / OLD_DOWNLOADER).is_file()]
        for path in edited:
            if not (root / path).is_file():
                since = "the app has it since July 2025: update" if path in (REGISTRY, GUI) else "update"
                raise UnknownLayoutError(f"{root / path}: missing: {since} or restore the app; nothing was changed")
            if (root / path).is_symlink():
                raise UnknownLayoutError(f"{root / path}: is a link: install into the app that it points to")
        return cls(root.resolve(), tuple(sorted(edited)))


def describe(files: dict[str, bytes]) -> str:
    """Which revision the vendor's files look like.

    Args:
        files: the files that an install changes, by their paths within the app, as the vendor made them.
    """
    known = _REVISIONS.get(fingerprint(files))
    if known:
        return known
    if b"get_standalone_parser" in files[CLI]:
        layout = "hailo-apps, December 2025 or later"
    elif b"get_model_input_audio_length" in files[PIPELINE]:
        layout = "Hailo-Application-Code-Examples, December 2025 or later"
    else:
        layout = "Hailo-Application-Code-Examples, July to November 2025"
    return f"{layout}; a revision that was not tried, but every symbol is where it is expected"


def fingerprint(files: dict[str, bytes]) -> str:
    """A digest of the vendor's files."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path}\0{hashlib.sha256(files[path]).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]
