"""Files that were found to have the right sha256, remembered so that a large one is hashed only once.

What is remembered costs nothing but time to lose. Where it is missing, damaged, unreadable, unwritable or not this
user's alone, files are hashed as if it were not there.
"""

import hashlib
import json
import logging
import os
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

SETTLED_NS = 2_500_000_000
"""A file that changed more recently is not remembered: written to again within one tick of its file system's clock,
it would keep its times. The coarsest clock is FAT's, two seconds."""

MOST_ENTRIES = 512
"""Some fifty bundles. Beyond that the oldest are dropped."""

_SCHEMA = 1
_LARGEST = 1 << 20  # bytes; what is larger was not written here
_IDENTITY = re.compile(r"\d+:\d+:\d+:-?\d+:-?\d+", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")

_log = logging.getLogger(__name__)


class VerifiedFiles:
    """Compares files with their digests, and hashes none that is unchanged since it was found to have the same one.

    A file is known by its device, inode, size, and the times of its last modification and its last change. The
    latter (ctime) cannot be set, so a file that is written to does not pass for the old one by putting its time
    back. Bits that rot on the disk do.

    Args:
        path: where digests are remembered; None for `default_path()`.
        clock: the time, in nanoseconds since 1970.
    """

    def __init__(self, path: Path | None = None, clock: Callable[[], int] = time.time_ns) -> None:
        self._path = path or default_path()
        self._clock = clock
        self._known = _read(self._path) if self._path else {}
        self._new: dict[str, str] = {}

    def matches(self, path: Path, sha256: str) -> bool:
        """Whether a file has this digest (in hex). Raises OSError if it cannot be read."""
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            identity = _identity(before)
            # Where they differ the file decides: a damaged memory must not condemn a sound file.
            if self._known.get(identity) == sha256:
                return True
            began = self._clock()
            if _hash(file) != sha256:
                return False
            settled = began - max(before.st_mtime_ns, before.st_ctime_ns) > SETTLED_NS
            if settled and _identity(os.fstat(file.fileno())) == identity:
                self._new[identity] = sha256
            return True

    def save(self) -> None:
        """Remember what was hashed, if that is possible here."""
        if not self._new or self._path is None:
            return
        try:
            _make_private(self._path.parent)
            # Read again: another process may have added to it. What it adds from now on is hashed once more.
            _write(self._path, {**_read(self._path), **self._new})
        except OSError as error:
            _log.info("%s: verified files are not remembered: %s", self._path, error.strerror or error)


def has_digest(path: Path, sha256: str) -> bool:
    """Whether a file has this digest (in hex), hashed now. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return _hash(file) == sha256


def sha256_file(path: Path) -> str:
    """The sha256 of a file, in hex. Raises OSError."""
    with path.open("rb") as file:
        return _hash(file)


def default_path() -> Path | None:
    """`verified.json` in our cache folder; None where there is none."""
    if os.name != "posix":  # elsewhere neither owners nor inodes mean the same
        return None
    folder = cache_folder()
    return None if folder is None else folder / "verified.json"


def cache_folder() -> Path | None:
    """`hailo-whisper` in the user's cache folder; None where there is none. Not made."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        # The XDG specification asks for relative paths to be ignored.
        cache = given if given.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return cache / "hailo-whisper"


def _hash(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _identity(info: os.stat_result) -> str:
    return f"{info.st_dev}:{info.st_ino}:{info.st_size}:{info.st_mtime_ns}:{info.st_ctime_ns}"


def _is_private(info: os.stat_result) -> bool:
    """Whether nobody but this user (and root) can write to a file or folder."""
    return info.st_uid == os.geteuid() and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _make_private(folder: Path) -> None:
    """Make a folder unless it is there. Raises OSError if that fails, or if others could write to it."""
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    # Under sudo, HOME may still be the user's, who could not write to what root leaves there.
    if nearest != folder and os.geteuid() == 0 and nearest.stat().st_uid != 0:
        raise PermissionError(f"{nearest} belongs to another user")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or not _is_private(info):
        raise PermissionError(f"others can write to {folder}")


def _read(path: Path) -> dict[str, str]:
    """What was remembered, oldest first; nothing if it cannot be trusted."""
    try:
        folder = path.parent.lstat()
        # Not through links, and not waiting for the other end of a pipe.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            info = os.fstat(file.fileno())
            if not (stat.S_ISDIR(folder.st_mode) and _is_private(folder)):
                return {}
            if not (stat.S_ISREG(info.st_mode) and _is_private(info) and info.st_size <= _LARGEST):
                return {}
            data = json.loads(file.read(_LARGEST))
        if data["schema"] != _SCHEMA:
            return {}
        return {
            identity: digest
            for identity, digest in data["files"].items()
            if _IDENTITY.fullmatch(identity) and _SHA256.fullmatch(digest)
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _write(path: Path, files: dict[str, str]) -> None:
    """Replace what was remembered, in one step."""
    import tempfile  # not when nothing has to be written: most starts

    latest = dict(list(files.items())[-MOST_ENTRIES:])
    text = json.dumps({"schema": _SCHEMA, "files": latest}, indent=0)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    beside = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
