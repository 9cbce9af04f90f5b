"""Single files out of wheels and source archives; archives are never trusted with a path of their own."""

import contextlib
import lzma
import os
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, cast

from whisper_runtime.atomic_file import sync_folder

from whisper_toolchain.download import CHUNK_BYTES, one_line, writing
from whisper_toolchain.errors import DownloadError

Entry = tuple[str, int, Callable[[], IO[bytes]] | None]  # name, bytes, how to open it if it is a regular file


def extract_members(archive: Path, members: dict[str, Path], *, sync: bool = True) -> None:
    """Write each named member of a zip or tar archive (compressed or not) to its own path.

    Only regular files are extracted, only under exactly the names asked for, never more bytes than the
    archive's header says, and each destination is written beside and renamed. `sync` False leaves out the
    fsync, for many small files that are renamed as a folder. Raises DownloadError: the archive is missing,
    truncated or damaged, or a member is missing, unsafe or there twice.
    """
    for name in members:
        check_member_name(archive, name)
    missing = set(members)
    with _reading(archive):
        entries = _zip_entries(archive) if _is_zip(archive) else _tar_entries(archive)
        for name, size, open_content in entries:
            if name not in members:
                continue
            if name not in missing:
                raise DownloadError(f"{archive} holds {name} twice: refused")
            if open_content is None:
                raise DownloadError(f"{name} in {archive} is not a regular file: refused")
            missing.discard(name)
            with open_content() as content:
                write_atomically(content, size, members[name], f"{name} in {archive}", sync)
    if missing:
        raise DownloadError(f"{archive} does not hold {', '.join(sorted(missing))}")


def check_member_name(archive: Path, name: str) -> None:
    """Refuse absolute names and names that climb. Raises DownloadError."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise DownloadError(f"{archive} names a member {name!r}, which leaves the folder: refused")


def _is_zip(archive: Path) -> bool:
    # By its first bytes: a truncated zip has lost the end that zipfile.is_zipfile looks for.
    with archive.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _zip_entries(archive: Path) -> Iterator[Entry]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive was not made on Unix
            regular = not info.is_dir() and kind in (0, stat.S_IFREG)
            yield info.filename, info.file_size, partial(file.open, info) if regular else None


def _tar_entries(archive: Path) -> Iterator[Entry]:
    with tarfile.open(archive) as file:
        for info in file:
            yield info.name, info.size, partial(_open_tar_member, file, info) if info.isreg() else None


def _open_tar_member(file: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    return cast(IO[bytes], file.extractfile(info))  # None only for what is not a file


def write_atomically(content: IO[bytes], size: int, destination: Path, shown: str, sync: bool = True) -> None:
    """Write exactly `size` bytes of `content` beside `destination` and rename. Raises DownloadError."""
    with writing(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            left = size
            while left:
                chunk = content.read(min(CHUNK_BYTES, left))
                if not chunk:
                    raise DownloadError(f"{shown} ends {left} bytes too early: the archive is truncated")
                with writing(destination):
                    file.write(chunk)
                left -= len(chunk)
            if content.read(1):  # also makes zipfile compare the CRC
                raise DownloadError(f"{shown} is longer than the archive says: refused")
            with writing(destination):
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                if sync:
                    os.fsync(file.fileno())
        with writing(destination):
            Path(temporary).replace(destination)
            if sync:
                sync_folder(destination.parent)
    finally:
        Path(temporary).unlink(missing_ok=True)


@contextlib.contextmanager
def _reading(archive: Path) -> Iterator[None]:
    """Turn what zipfile, tarfile and the decompressors raise into one line."""
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError) as error:
        raise DownloadError(
            f"{archive} is truncated or damaged ({one_line(str(error))}); remove it and run again"
        ) from error
    except (OSError, RuntimeError, NotImplementedError) as error:
        raise DownloadError(f"cannot read {archive}: {error}") from error


def extract_tree(archive: Path, prefix: str, destination: Path) -> None:
    """Unpack every regular file below `prefix` of a tar archive into the new folder `destination`.

    The folder is written beside and renamed as a whole. An archive that holds absolute names, `..`, links or
    devices is refused altogether. Raises DownloadError.
    """
    with writing(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}.")
    with temporary as scratch, _reading(archive):
        unpacked = Path(scratch) / "tree"
        start = PurePosixPath(prefix)
        with tarfile.open(archive) as file:
            for info in file:
                check_member_name(archive, info.name)
                if info.isdir():
                    continue
                if not info.isreg():
                    raise DownloadError(f"{info.name} in {archive} is a link or a device: refused")
                name = PurePosixPath(info.name)
                if start not in name.parents:
                    continue
                target = unpacked.joinpath(*name.relative_to(start).parts)
                with _open_tar_member(file, info) as content:
                    write_atomically(content, info.size, target, f"{info.name} in {archive}", sync=False)
        if not unpacked.is_dir():
            raise DownloadError(f"{archive} holds nothing below {prefix}")
        with writing(destination):
            os.sync()  # one for all: thousands of small files are slow to flush one by one
            unpacked.rename(destination)
            sync_folder(destination.parent)
