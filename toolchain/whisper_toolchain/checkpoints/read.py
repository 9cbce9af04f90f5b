"""Reads a checkpoint of the user's, whatever it comes in."""

from collections.abc import Callable
from pathlib import Path

from whisper_toolchain.checkpoints import container as containers
from whisper_toolchain.checkpoints import ctranslate2, ggml, huggingface, openai_pt
from whisper_toolchain.checkpoints.checkpoint import METADATA_KEY, Checkpoint, load
from whisper_toolchain.checkpoints.precision import uniform
from whisper_toolchain.checkpoints.safetensors_file import read_metadata
from whisper_toolchain.checkpoints.state import State
from whisper_toolchain.checkpoints.validation import require_dimensions, validate
from whisper_toolchain.download import sha256_file
from whisper_toolchain.errors import CheckpointError
from whisper_toolchain.shape_plan import DIMENSIONS, VARIANTS, Dimensions

READERS: dict[str, Callable[[Path, Dimensions], State]] = {
    containers.OPENAI_PT: openai_pt.read,
    containers.HUGGINGFACE: huggingface.read,
    containers.CTRANSLATE2: ctranslate2.read,
    containers.GGML: ggml.read,
}


def dimensions_of(variant: str) -> Dimensions:
    """The variant's dimensions. Raises CheckpointError for an unknown variant."""
    if variant not in DIMENSIONS:
        raise CheckpointError(f"unknown variant '{variant}': choose one of {', '.join(VARIANTS)}")
    return DIMENSIONS[variant]


def read_checkpoint(path: Path, variant: str) -> Checkpoint:
    """Read, recognise and validate a checkpoint for a variant.

    Args:
        path: an OpenAI .pt, a Hugging Face folder, a CTranslate2 folder, a GGML file, or what `save` wrote.
        variant: which variant it must be; a fine-tuned checkpoint has its base model's dimensions.

    Returns:
        The checkpoint, float16 if the weights lose nothing by it, else float32. `source` names the kind
        "file", the container and the sha256 of the weight file; of what `save` wrote, it is the one in there.

    Raises:
        CheckpointError: unreadable, unsafe, of another variant, or with tensors that are not the variant's.
    """
    dims = dimensions_of(variant)
    container = containers.recognise(path)
    if container == containers.SAFETENSORS:
        return _load_own(path, dims, variant)
    files = containers.weight_files(path, container)
    for file in files:
        containers.refuse_placeholder(file)
    state = read_state(path, container, dims)
    try:
        digests = [sha256_file(file) for file in files]
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    return Checkpoint(variant, dims, state, {"kind": "file", "container": container, "sha256": ",".join(digests)})


def read_state(path: Path, container: str, dims: Dimensions) -> State:
    """Read and validate a container's tensors: openai-whisper's names, one precision.

    Raises:
        CheckpointError: see `read_checkpoint`.
    """
    state = READERS[container](path, dims)
    validate(state, dims, path)
    return uniform(state)


def _load_own(path: Path, dims: Dimensions, variant: str) -> Checkpoint:
    if METADATA_KEY not in read_metadata(path):
        raise CheckpointError(
            f"{path}: safetensors without a configuration: give the folder that also holds config.json"
        )
    checkpoint = load(path)
    require_dimensions(checkpoint.dims.as_dict(), dims, path)
    if checkpoint.variant != variant:
        raise CheckpointError(f"{path}: its metadata is damaged, make it again")
    return checkpoint
