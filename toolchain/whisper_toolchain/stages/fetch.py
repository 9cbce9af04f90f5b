"""Fetch: openai-whisper, the checkpoint, and speech."""

import hashlib
from pathlib import Path

from whisper_toolchain import checkpoints, third_party
from whisper_toolchain.checkpoints import fetch_checkpoint, read_checkpoint
from whisper_toolchain.datasets import get_speech, open_dataset
from whisper_toolchain.download import Report, sha256_file
from whisper_toolchain.errors import CheckpointError
from whisper_toolchain.shape_plan import DIMENSIONS
from whisper_toolchain.stage import Stage, run_stage
from whisper_toolchain.workspace import Workspace

CHECKPOINT = "checkpoint.safetensors"


def fetch(
    workspace: Workspace,
    variant: str,
    checkpoint: Path | None,
    dataset: Path | None,
    *,
    offline: bool,
    report: Report,
) -> Stage:
    """Bring everything that the other stages need onto this machine.

    Args:
        workspace: where to put it.
        variant: such as "tiny.en".
        checkpoint: the user's own weights; None for the official ones.
        dataset: the user's own speech; None for what can be had.
        offline: use only what is already here.
        report: takes one line of progress.

    Raises:
        DownloadError: something cannot be fetched.
        CheckpointError: the weights are not the variant's.
        DatasetError: the speech given is not usable.
    """
    tree = third_party.prepare_whisper(workspace.third_party, workspace.patches, offline=offline, report=report)
    if dataset is not None:
        open_dataset(dataset)
    elif not any(folder.exists() for folder in workspace.fetched_speech()):
        get_speech(workspace.audio, workspace.downloads, offline=offline, report=report)
    source = "official" if checkpoint is None else _digest_of(checkpoint)

    def make(folder: Path) -> dict[str, object]:
        if checkpoint is None:
            urls = third_party.official_urls(tree)
            weights = fetch_checkpoint(variant, workspace.downloads, urls, offline=offline, report=report)
        else:
            weights = read_checkpoint(checkpoint, variant)
        checkpoints.save(weights, folder / CHECKPOINT)
        digest = checkpoints.tensor_digest(weights.state)
        report(f"fetch: {variant} from {_where(weights.source)}, tensor digest {digest[:12]}...")
        return {"tensor_digest": digest, "source": weights.source}

    inputs = {"variant": variant, "source": source, "dims": DIMENSIONS[variant].as_dict()}
    return run_stage("fetch", workspace.checkpoint(variant), inputs, make, report)


def _where(source: dict[str, str]) -> str:
    parts = [source["kind"], *(source[key] for key in ("package", "file", "container") if key in source)]
    return " ".join(parts)


def _digest_of(path: Path) -> str:
    """Digest of a checkpoint as it lies: of the file, or of all files of a folder."""
    try:
        if not path.is_dir():
            return sha256_file(path)
        digest = hashlib.sha256()
        for file in sorted(path.iterdir()):
            if file.is_file():
                digest.update(f"{file.name} {sha256_file(file)}\n".encode())
        return digest.hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
