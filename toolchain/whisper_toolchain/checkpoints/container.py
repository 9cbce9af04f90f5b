"""Which container is it? Told from the content, never from the name alone."""

import zipfile
from pathlib import Path

from whisper_toolchain.checkpoints import ctranslate2, ggml, huggingface, openai_pt
from whisper_toolchain.errors import CheckpointError
from whisper_toolchain.shape_plan import VARIANTS

OPENAI_PT = "openai-pt"
HUGGINGFACE = "huggingface"
CTRANSLATE2 = "ctranslate2"
GGML = "ggml"
SAFETENSORS = "safetensors"  # the toolchain's own

KNOWN = (
    "an OpenAI .pt, a Hugging Face folder (config.json + model.safetensors), a CTranslate2 folder "
    "(model.bin) or a GGML file"
)
_HEAD_BYTES = 512
_MAX_BYTES = 2 << 30  # base in float32 takes 290 MB; what is larger would only exhaust the memory


def recognise(path: Path) -> str:
    """The container of a file or folder.

    Raises:
        CheckpointError: there is nothing, it is empty, a placeholder (Git LFS pointer, web page), or of no
            known format.
    """
    if path.is_dir():
        return _recognise_folder(path)
    head = refuse_placeholder(path)
    if head.startswith(ggml.MAGIC):
        return GGML
    if head.startswith(openai_pt.MAGIC):
        return OPENAI_PT
    if head.startswith(openai_pt.PICKLE_MAGIC) and not _is_safetensors(head, path):
        return OPENAI_PT
    if head.startswith(ctranslate2.MAGIC):
        return CTRANSLATE2
    if _is_safetensors(head, path):
        return SAFETENSORS
    if head.startswith(b"GGUF"):
        raise CheckpointError(f"{path}: a GGUF file, which is not whisper.cpp's format; use its .bin (f16)")
    raise CheckpointError(f"{path}: unknown format; give {KNOWN}")


def weight_files(path: Path, container: str) -> list[Path]:
    """The files that hold the weights, sorted. Raises CheckpointError."""
    if container == HUGGINGFACE:
        return huggingface.weight_files(path)
    if container == CTRANSLATE2 and path.is_dir():
        return [path / ctranslate2.WEIGHTS]
    return [path]


def refuse_placeholder(path: Path) -> bytes:
    """The file's first bytes, once it is sure that they are not a placeholder for the real file.

    Raises:
        CheckpointError: missing, unreadable, empty, a Git LFS pointer or a web page.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder; give {KNOWN}")
    if not path.is_file():
        raise CheckpointError(f"{path}: not a regular file")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    if not head:
        raise CheckpointError(f"{path}: the file is empty, get it again")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path}: only a Git LFS pointer, not the weights; run `git lfs pull` there")
    if path.stat().st_size > _MAX_BYTES:
        raise CheckpointError(f"{path}: larger than 2 GiB, so not a checkpoint of {', '.join(VARIANTS)}")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<head")):
        raise CheckpointError(f"{path}: a web page, not weights: the download gave an error or login page")
    return head


def _recognise_folder(folder: Path) -> str:
    has_safetensors = any((folder / name).exists() for name in (huggingface.WEIGHTS, huggingface.INDEX))
    if not has_safetensors and (folder / ctranslate2.WEIGHTS).exists():
        return CTRANSLATE2
    if has_safetensors and not (folder / huggingface.CONFIG).is_file():
        raise CheckpointError(f"{folder}: holds safetensors weights, but no {huggingface.CONFIG}")
    if has_safetensors or any(folder.glob("pytorch_model*.bin")):
        return HUGGINGFACE
    raise CheckpointError(f"{folder}: no checkpoint in this folder; give {KNOWN}")


def _is_safetensors(head: bytes, path: Path) -> bool:
    """A u64 that is the length of a JSON header, then the header."""
    length = int.from_bytes(head[:8], "little")
    is_header = len(head) > 8 and head[8:9] == b"{" and length <= path.stat().st_size - 8
    return is_header and not zipfile.is_zipfile(path)
