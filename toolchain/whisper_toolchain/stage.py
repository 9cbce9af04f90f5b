"""Stages: each makes one folder of files from inputs that are known by their digests.

A stage whose inputs have not changed does nothing. One that is interrupted leaves nothing but a scratch folder, which
the next run of the same stage removes or, if it can, goes on with: files are written there, flushed to disk, and the
folder is renamed into place as a whole.
"""

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whisper_runtime.canonical_json import canonical_digest

from whisper_toolchain.download import sha256_file
from whisper_toolchain.errors import StageError

RECORD = "stage.json"
_UNFINISHED = "unfinished"  # holds the key of what is being made


def code_digest(*modules: str) -> str:
    """Return the sha256 over the source of modules: a stage is stale when the code that makes it changed.

    The modules are found without being imported, because an unchanged stage should not wait for torch.
    """
    digest = hashlib.sha256()
    for name in modules:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise StageError(f"{name}: no such module to take the digest of")
        digest.update(Path(spec.origin).read_bytes())
    return digest.hexdigest()


def installed_versions(*packages: str) -> dict[str, str]:
    """Return the versions of packages whose results a stage depends on."""
    return {package: importlib.metadata.version(package) for package in packages}


def sync_tree(folder: Path) -> None:
    """Flush every file of a folder and the folder itself to disk."""
    for path in [*sorted(folder.rglob("*")), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@dataclass(frozen=True)
class Stage:
    """What a finished stage left behind.

    Attributes:
        folder: where its files are.
        key: digest of everything the stage was made from.
        files: file name -> {"size", "sha256", "mtime_ns"}.
        results: what the stage measured, as plain JSON values.
    """

    folder: Path
    key: str
    files: Mapping[str, Mapping[str, Any]]
    results: Mapping[str, Any]

    def digests(self) -> dict[str, str]:
        """File name -> sha256, sorted by name: what a later stage names as its input."""
        return {name: str(entry["sha256"]) for name, entry in sorted(self.files.items())}

    @classmethod
    def read(cls, folder: Path, needs: str) -> "Stage":
        """Read a finished stage and check its files.

        Args:
            folder: the stage's folder.
            needs: the command that makes it, for the message.

        Raises:
            StageError: there is no finished stage in the folder, or its files changed since.
        """
        stage = cls._read_or_none(folder)
        if stage is None:
            raise StageError(f"{folder} is missing or was changed: run `whisper-toolchain {needs}` first")
        return stage

    @classmethod
    def _read_or_none(cls, folder: Path) -> "Stage | None":
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            stage = cls(folder, record["key"], record["files"], record["results"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # no record, or a damaged one: the stage is simply made again
        return stage if all(_unchanged(folder / name, entry) for name, entry in stage.files.items()) else None


def _unchanged(path: Path, entry: Mapping[str, Any]) -> bool:
    """True if a file is as recorded; hashed again only when its size agrees but its time does not."""
    try:
        status = path.stat()
    except OSError:
        return False
    if status.st_size != entry["size"]:
        return False
    return bool(status.st_mtime_ns == entry["mtime_ns"] or sha256_file(path) == entry["sha256"])


def run_stage(
    name: str,
    folder: Path,
    inputs: Mapping[str, Any],
    make: Callable[[Path], Mapping[str, Any]],
    report: Callable[[str], None],
    *,
    resumable: bool = False,
) -> Stage:
    """Make a stage's folder, unless it is there already and made from the same inputs.

    Args:
        name: the stage's name, for messages.
        folder: where its files end up.
        inputs: everything that the files depend on, as plain JSON values.
        make: writes the files into the scratch folder it is given and returns what it measured.
        report: takes one line of progress.
        resumable: whether `make` can go on with what it finds in the scratch folder. It then finds what an interrupted
            run with the same inputs left.

    Raises:
        StageError: the disk is full, the folder cannot be written, or it holds what is not this stage's.
    """
    key = canonical_digest({"stage": name, **inputs})
    shown, folder = folder, folder.resolve()
    scratch = folder.with_name(folder.name + ".partial")
    _refuse_foreign(name, folder)

    def finished() -> Stage | None:
        done = Stage._read_or_none(folder)
        if done is None or done.key != key:
            return None
        report(f"{name}: up to date ({shown})")
        return done

    if (done := finished()) is not None:
        return done
    try:
        with _alone(name, scratch, report):
            if (done := finished()) is not None:  # by another run, in the meantime
                remove_tree(scratch)
                return done
            try:
                unfinished = scratch / _UNFINISHED
                if not (resumable and unfinished.is_file() and unfinished.read_text(encoding="utf-8") == key):
                    _empty(scratch)
                if resumable:
                    unfinished.write_text(key, encoding="utf-8")
                results = make(scratch)
                unfinished.unlink(missing_ok=True)
                files = {path.name: _describe(path) for path in sorted(scratch.iterdir())}
                record = {"stage": name, "key": key, "inputs": inputs, "files": files, "results": results}
                (scratch / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
                sync_tree(scratch)
                remove_tree(folder)
                scratch.replace(folder)
            except BaseException:
                if not resumable:
                    remove_tree(scratch)
                raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StageError(f"{name}: the disk that holds {folder.parent} is full") from error
        where = error.filename or folder
        raise StageError(f"{name}: cannot write {where}: {error.strerror or error}") from error
    report(f"{name}: wrote {', '.join([str(shown), *_sizes(files)])}")
    return Stage(folder, key, files, results)


@contextlib.contextmanager
def _alone(name: str, scratch: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Hold a scratch folder, made if need be, while inside; wait for another run of the same stage to end.

    The lock is on the folder itself, so it goes with it into its final place and nothing is left to clean up.
    """
    said = False
    while True:
        scratch.mkdir(parents=True, exist_ok=True)
        handle = os.open(scratch, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not said:
                    report(f"{name}: another run is making the same, waiting for its end ({scratch.parent})")
                    said = True
                fcntl.flock(handle, fcntl.LOCK_EX)
            # Whoever had it may have moved or removed the folder that we waited for.
            if scratch.exists() and os.path.samestat(scratch.stat(), os.fstat(handle)):
                yield
                return
        finally:
            os.close(handle)


def _empty(folder: Path) -> None:
    """Remove what a killed run left in a folder."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _refuse_foreign(name: str, folder: Path) -> None:
    """Raise StageError unless a folder may be replaced: it is missing, empty, or an earlier result of the stage."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise StageError(f"{name}: {folder} is a file; give a folder that is new, empty, or this stage's own")
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        own = not isinstance(record, dict) or record.get("stage", name) == name
    except FileNotFoundError:
        own = not any(folder.iterdir())
    except (OSError, ValueError):
        own = True  # a stage's record that was damaged
    if not own:
        raise StageError(
            f"{name}: {folder} holds something else; give a folder that is new, empty, or this stage's own"
        )


def remove_tree(folder: Path) -> None:
    """Remove a folder and all it holds, if it is there."""
    if folder.exists():
        shutil.rmtree(folder)


def _describe(path: Path) -> dict[str, Any]:
    status = path.stat()
    return {"size": status.st_size, "sha256": sha256_file(path), "mtime_ns": status.st_mtime_ns}


def _sizes(files: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    for name, entry in files.items():
        size = int(entry["size"])
        yield f"{name} {size / 1e6:.1f} MB" if size >= 100_000 else f"{name} {size} B"
