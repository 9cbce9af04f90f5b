"""Packs a bundle as `<name>-<version>.tar.gz` with a `.sha256` beside it, the same bytes on every machine."""

import gzip
import tarfile
from pathlib import Path

from whisper_runtime.bundle import Bundle

from whisper_toolchain.download import sha256_file
from whisper_toolchain.errors import StageError


def package(folder: Path, output: Path) -> Path:
    """Pack a verified bundle and return the archive's path.

    Args:
        folder: the bundle, or a link to it.
        output: folder for the two files.

    Raises:
        BundleError: the bundle does not verify.
        StageError: the archive cannot be written.
    """
    bundle = Bundle.open(folder)
    name = f"{bundle.manifest.name}-{bundle.manifest.version}"
    output.mkdir(parents=True, exist_ok=True)
    archive = output / f"{name}.tar.gz"
    partial = archive.with_name(archive.name + ".partial")
    try:
        # Names sorted, no owner, time or mode of this machine, and none in the gzip header either.
        with (
            partial.open("wb") as raw,
            gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for path in sorted(bundle.folder.iterdir()):
                member = tarfile.TarInfo(f"{name}/{path.name}")
                member.size = path.stat().st_size
                member.mode = 0o644
                with path.open("rb") as content:
                    tar.addfile(member, content)
        digest = sha256_file(partial)
        partial.replace(archive)
    except OSError as error:
        raise StageError(f"package: cannot write {archive}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    archive.with_name(archive.name + ".sha256").write_text(f"{digest}  {archive.name}\n", encoding="ascii")
    return archive
