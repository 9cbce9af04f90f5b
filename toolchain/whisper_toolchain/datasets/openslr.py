"""LibriSpeech dev-clean from OpenSLR, where the open internet can be reached."""

from pathlib import Path

from whisper_toolchain.archive import extract_tree
from whisper_toolchain.download import OpenUrl, Report, UrlOpener, fetch_url
from whisper_toolchain.errors import DownloadError

NAME = "dev-clean.tar.gz"  # 338 MB, 2703 utterances, 5.4 hours
URLS = (
    "https://www.openslr.org/resources/12/dev-clean.tar.gz",
    "https://openslr.trmal.net/resources/12/dev-clean.tar.gz",
)
SHA256 = "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3"
LARGE_BYTES = 50 << 20  # larger archives are not kept once they are unpacked


def fetch_dev_clean(root: Path, downloads: Path, *, offline: bool, report: Report) -> Path:
    """Make sure that `root/LibriSpeech/dev-clean` is there and return it; idempotent and resumable.

    The archive is kept in `downloads` until it is unpacked. Raises DownloadError.
    """
    return fetch_subset(root, downloads, URLS, SHA256, offline=offline, report=report, open_url=UrlOpener())


def fetch_subset(
    root: Path,
    downloads: Path,
    urls: tuple[str, ...],
    sha256: str,
    *,
    offline: bool,
    report: Report,
    open_url: OpenUrl,
) -> Path:
    """`fetch_dev_clean` from other addresses: the first that answers is used, a part goes on at the next."""
    folder = root / "LibriSpeech" / "dev-clean"
    if folder.is_dir():  # it was renamed there as a whole
        return folder
    archive = downloads / NAME
    failures: list[str] = []
    for url in urls:
        try:
            fetch_url(url, archive, sha256, open_url=open_url, offline=offline, report=report)
            break
        except DownloadError as error:
            failures.append(str(error))
            if offline:
                raise
    else:
        raise DownloadError(f"cannot fetch LibriSpeech dev-clean: {'; '.join(failures)}")
    report(f"unpacking {archive} into {folder}")
    extract_tree(archive, "LibriSpeech/dev-clean", folder)
    if archive.stat().st_size > LARGE_BYTES:
        archive.unlink()
    return folder
