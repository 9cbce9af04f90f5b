"""Speech for calibration and evaluation: the corpus where it can be reached, else the registry sample."""

from pathlib import Path

from whisper_toolchain.datasets import openslr, registry_sample
from whisper_toolchain.download import Report
from whisper_toolchain.errors import DownloadError


def get_speech(audio_root: Path, downloads: Path, *, offline: bool, report: Report) -> Path:
    """Path of LibriSpeech dev-clean below `audio_root`, or of the small registry sample, said loudly.

    A download of dev-clean that broke half way is an error, not a reason to calibrate on less: the next run
    resumes it. Raises DownloadError.
    """
    try:
        return openslr.fetch_dev_clean(audio_root, downloads, offline=offline, report=report)
    except DownloadError as error:
        part = downloads / (openslr.NAME + ".part")
        if not offline and part.is_file() and part.stat().st_size:
            raise DownloadError(f"{error}; or remove {part} to use the small registry sample") from error
        report(f"LibriSpeech dev-clean cannot be had ({error}); using the registry sample instead")
    root = audio_root / "registry-sample"
    return registry_sample.fetch_registry_sample(root, downloads, offline=offline, report=report)
