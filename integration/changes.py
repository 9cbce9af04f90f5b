"""Changes the app in one step: everything is recorded, and a change that was cut off is undone or finished later.

Below the app's root, `.whisper-bundles/` holds

- `record.json`: each file that was edited, with its digest before and after, each file that was added, and the bundles;
- `backup/`: the edited files as the vendor made them;
- `journal.json`, `previous/` and `incoming`, only while a change is under way.

A file is written to `incoming`, synced, and renamed to its place. Until the journal says that everything is in its
place, `undo_or_finish` puts back what was there before; from then on it removes what is no longer wanted.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from whisper_runtime.verified_files import sha256_file

from integration.errors import AppError
from integration.registration import Registration

STATE = ".whisper-bundles"
_SCHEMA = 1
_SPARE_BYTES = 1 << 20


@dataclass(frozen=True)
class Record:
    """What was done to an app.

    Attributes:
        looks_like: the revision that the app looked like.
        before, after: sha256 of each edited file, as the vendor made it and as it is now.
        added: sha256 of each file that is not the vendor's.
        bundles: what is installed, in the order of variant and architecture.
        latest: folder of the bundle that was installed last.
    """

    looks_like: str
    before: Mapping[str, str]
    after: Mapping[str, str]
    added: Mapping[str, str]
    bundles: Sequence[Registration]
    latest: str

    def to_json(self) -> dict[str, Any]:
        """The record as it is stored."""
        return {"schema": _SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, data: Any) -> "Record":
        """The record as it was stored. Raises KeyError, TypeError or ValueError if it is none."""
        if data["schema"] != _SCHEMA:
            raise ValueError(f"schema {data['schema']}")
        fields = {key: value for key, value in data.items() if key != "schema"}
        record = cls(**{**fields, "bundles": tuple(Registration(**item) for item in fields["bundles"])})
        for path in (*record.before, *record.after, *record.added):
            _check_inside(path)
        return record


@dataclass(frozen=True)
class Change:
    """What to do to an app.

    Attributes:
        edited: new content of the vendor's files, by path within the app.
        added: where the content of a new file comes from, by path within the app.
        removed: paths of files that go.
        record: what is true afterwards; None if nothing of ours is left.
    """

    edited: Mapping[str, bytes]
    added: Mapping[str, Path] = field(default_factory=dict)
    removed: Sequence[str] = ()
    record: Record | None = None


class AppFiles:
    """The files of one app and the record of what was done to them.

    Args:
        root: the app's folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._state = root / STATE
        self._journal = self._state / "journal.json"
        self._previous = self._state / "previous"
        self._backup = self._state / "backup"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other install and uninstall out, and turn failures of the file system into one line.

        Raises:
            AppError: another one is at work, or a file cannot be read or written.
        """
        try:
            handle = os.open(self.root, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield
            finally:
                os.close(handle)
        except BlockingIOError as error:
            raise AppError(f"{self.root}: another install or uninstall is at work there: wait for it") from error
        except OSError as error:
            path = error.filename2 or error.filename or self.root
            raise AppError(
                f"{path}: {error.strerror or error}: make it writable, or free some space, and "
                "run the same command again"
            ) from error

    @property
    def unfinished(self) -> bool:
        """Whether a change was cut off."""
        return self._journal.exists()

    def record(self) -> Record | None:
        """What was done to the app; None if nothing. Raises AppError if the record cannot be read."""
        path = self._state / "record.json"
        try:
            return Record.from_json(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AppError(
                f"{path}: damaged ({type(error).__name__}): put the files in {self._backup} back by hand, then delete "
                f"{self._state}, app/whisper_bundles and app/whisper_bundle.py"
            ) from error

    def originals(self, record: Record) -> dict[str, bytes]:
        """The edited files as the vendor made them. Raises AppError if a backup is missing or changed."""
        files = {}
        for path, sha256 in record.before.items():
            backup = self._backup / path
            data = backup.read_bytes() if backup.is_file() else b""
            if sha256_of(data) != sha256:
                raise AppError(
                    f"{backup}: missing or changed, so {path} cannot be restored from it: get it from the app's "
                    f"repository (git checkout) and delete {self._state}, app/whisper_bundles and app/whisper_bundle.py"
                )
            files[path] = data
        return files

    def check_unchanged(self, record: Record) -> None:
        """Refuse to touch what somebody else has changed since.

        A file that is again as the vendor made it is no loss to anybody. Raises AppError, which names the files.
        """
        changed = [
            path for path, sha256 in record.after.items() if self._digest(path) not in (sha256, record.before[path])
        ]
        changed += [path for path, sha256 in record.added.items() if self._digest(path) not in (sha256, None)]
        if changed:
            raise AppError(
                f"{self.root}: changed since the install by somebody else: {', '.join(sorted(changed))}: nothing was "
                "touched: put back what was there (the vendor's files are in "
                f"{self._backup}), or keep the changes and delete {self._state}"
            )

    def is_in_place(self, record: Record) -> bool:
        """Whether every edited and added file is as the record says."""
        return all(self._digest(path) == sha256 for path, sha256 in {**record.after, **record.added}.items())

    def undo_or_finish(self) -> str | None:
        """Deal with a change that was cut off, and say what was done.

        Raises:
            AppError: somebody else has changed a file of it since.
        """
        if not self.unfinished:
            if self._state.is_dir():
                self._sweep()  # cut off before anything of the app was touched, or after everything was done
            return None
        journal = self._read_journal()
        if journal["complete"]:
            self._finish(journal)
            return "an install or uninstall that had been cut off was finished"
        for path, (before, after) in journal["edited"].items():
            if self._digest(path) not in (before, after):
                raise AppError(
                    f"{self.root / path}: changed by somebody else while an install was cut off: put "
                    f"{self._previous / path} in its place"
                )
        for path, (before, _) in journal["edited"].items():
            if self._digest(path) != before:
                self._put(path, (self._previous / path).read_bytes())
        self._remove(journal["added"])
        self._clean()
        return "an install or uninstall that had been cut off was undone"

    def apply(self, change: Change) -> None:
        """Make a change. Raises OSError; what was done until then is undone by `undo_or_finish`."""
        kept = self.record()
        self._state.mkdir(exist_ok=True)
        shutil.rmtree(self._previous, ignore_errors=True)
        # What an earlier install has added is replaced like the vendor's files, so that it can be put back.
        added = {path: source for path, source in change.added.items() if not (self.root / path).exists()}
        kept_or_new = {path: source.read_bytes() for path, source in change.added.items() if path not in added}
        edited = {path: data for path, data in {**kept_or_new, **change.edited}.items() if self._differs(path, data)}
        current = {path: (self.root / path).read_bytes() for path in {**edited, **change.edited}}
        for path, data in current.items():
            like = (self.root / path).stat()
            self._store(self._previous / path, data, like)
            if kept is None:
                self._store(self._backup / path, data, like)
        journal = {
            "complete": False,
            "edited": {path: [sha256_of(current[path]), sha256_of(data)] for path, data in edited.items()},
            "added": sorted(added),
            "removed": sorted(change.removed),
            "record": change.record and change.record.to_json(),
        }
        self._store(self._journal, _json(journal))
        for path, source in added.items():
            self._copy(source, path)
        for path, data in edited.items():
            self._put(path, data)
        journal["complete"] = True
        self._store(self._journal, _json(journal))
        self._finish(journal)

    def check_room(self, change: Change) -> None:
        """Refuse to begin what will not fit. Raises AppError."""
        free = shutil.disk_usage(self.root).free
        needed = _SPARE_BYTES + sum(source.stat().st_size for source in change.added.values())
        if free < needed:
            raise AppError(f"{self.root}: {free >> 20} MB free, the bundle needs {needed >> 20}: nothing was changed")

    def _finish(self, journal: Mapping[str, Any]) -> None:
        self._remove(journal["removed"])
        record = self._state / "record.json"
        if journal["record"] is None:
            record.unlink(missing_ok=True)
        else:
            self._store(record, _json(journal["record"]))
        self._clean()

    def _clean(self) -> None:
        """The journal goes first: what it led to must be there for as long as it is."""
        self._journal.unlink()
        _sync_folder(self._state)
        self._sweep()

    def _sweep(self) -> None:
        shutil.rmtree(self._previous, ignore_errors=True)
        (self._state / "incoming").unlink(missing_ok=True)
        if not (self._state / "record.json").exists():
            shutil.rmtree(self._state)

    def _read_journal(self) -> dict[str, Any]:
        try:
            journal: dict[str, Any] = json.loads(self._journal.read_bytes())
            for path in (*journal["edited"], *journal["added"], *journal["removed"]):
                _check_inside(path)
        except (ValueError, KeyError, TypeError) as error:
            raise AppError(f"{self._journal}: damaged: put the files in {self._previous} back by hand") from error
        return journal

    def _differs(self, path: str, data: bytes) -> bool:
        return self._digest(path) != sha256_of(data)

    def _digest(self, path: str) -> str | None:
        """The sha256 of a file of the app; None if it is not there."""
        try:
            return sha256_file(self.root / path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _put(self, path: str, data: bytes) -> None:
        """Give one of the vendor's files new content and leave it its mode and owner."""
        target = self.root / path
        self._store(target, data, (target if target.exists() else self._backup / path).stat())

    def _store(self, target: Path, data: bytes, like: os.stat_result | None = None) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        incoming = self._state / "incoming"
        with incoming.open("wb") as file:
            file.write(data)
            self._into_place(file, target, like)

    def _copy(self, source: Path, path: str) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        incoming = self._state / "incoming"
        with source.open("rb") as original, incoming.open("wb") as file:
            shutil.copyfileobj(original, file, 1 << 20)
            self._into_place(file, target, None)

    def _into_place(self, incoming: BinaryIO, target: Path, like: os.stat_result | None) -> None:
        incoming.flush()
        if like is not None and (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
            with contextlib.suppress(PermissionError):  # only root may, and for sudo it matters
                os.fchown(incoming.fileno(), like.st_uid, like.st_gid)
        os.fchmod(incoming.fileno(), 0o644 if like is None else like.st_mode & 0o7777)
        os.fsync(incoming.fileno())
        Path(incoming.name).replace(target)
        _sync_folder(target.parent)

    def _remove(self, paths: Sequence[str]) -> None:
        """Remove files, and the folders of ours that are empty then."""
        for path in paths:
            target = self.root / path
            target.unlink(missing_ok=True)
            for parent in PurePosixPath(path).parents:
                if "whisper_bundles" not in parent.parts:
                    break
                with contextlib.suppress(OSError):  # not empty yet, or gone
                    (self.root / parent).rmdir()


def sha256_of(data: bytes) -> str:
    """The sha256 of bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def _json(data: Any) -> bytes:
    return json.dumps(data, sort_keys=True, indent=1).encode() + b"\n"


def _check_inside(path: str) -> None:
    """Nothing outside of the app is ever written or removed, whatever a damaged record says."""
    parts = PurePosixPath(path).parts
    if not parts or ".." in parts or PurePosixPath(path).is_absolute():
        raise ValueError(f"path {path}")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
