"""A checkpoint, and the toolchain's uniform container for it: one safetensors file."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as to_safetensors
from whisper_runtime.canonical_json import canonical_json

from whisper_toolchain.checkpoints.atomic_file import write_atomically
from whisper_toolchain.checkpoints.json_file import parse_object
from whisper_toolchain.checkpoints.safetensors_file import read_metadata, read_safetensors
from whisper_toolchain.checkpoints.state import Array, stored_digest, tensor_digest
from whisper_toolchain.checkpoints.validation import validate
from whisper_toolchain.errors import CheckpointError
from whisper_toolchain.shape_plan import Dimensions

__all__ = ["Checkpoint", "load", "save", "tensor_digest"]

METADATA_KEY = "checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """Weights of one variant.

    Attributes:
        variant: the variant's name.
        dims: its hyper-parameters.
        state: openai-whisper's names -> arrays, all float16 or all float32.
        source: where the weights came from; no paths and no times, so equal inputs give equal bytes.
    """

    variant: str
    dims: Dimensions
    state: dict[str, Array]
    source: dict[str, str]


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint as one safetensors file, atomically; the same checkpoint gives the same bytes.

    Raises:
        CheckpointError: the file cannot be written.
    """
    record = {
        "variant": checkpoint.variant,
        "dims": checkpoint.dims.as_dict(),
        "source": checkpoint.source,
        "tensor_digest": tensor_digest(checkpoint.state),
        "stored_digest": stored_digest(checkpoint.state),
    }
    state = {name: np.ascontiguousarray(checkpoint.state[name]) for name in sorted(checkpoint.state)}
    # One key only: safetensors writes its metadata in the random order of a hash map.
    write_atomically(path, [to_safetensors(state, {METADATA_KEY: canonical_json(record)})])


def load(path: Path) -> Checkpoint:
    """Read what `save` wrote, checking its digests, names, shapes and values.

    Raises:
        CheckpointError: truncated, damaged, changed, or not written by `save`.
    """
    text = read_metadata(path).get(METADATA_KEY)
    if text is None:
        raise CheckpointError(f"{path}: a safetensors file, but not one that this toolchain wrote")
    record = parse_object(text, f"{path}: its metadata")
    dims = _dimensions(record.get("dims"), path)
    source, variant = record.get("source"), record.get("variant")
    if not (isinstance(variant, str) and isinstance(source, dict) and _all_texts(source.values())):
        raise CheckpointError(f"{path}: its metadata is damaged, make it again")
    state = read_safetensors(path)
    validate(state, dims, path)
    digests = (tensor_digest(state), stored_digest(state))
    if (record.get("tensor_digest"), record.get("stored_digest")) != digests:
        raise CheckpointError(f"{path}: its tensors changed since it was written, make it again")
    return Checkpoint(variant, dims, {name: state[name] for name in sorted(state)}, dict(source))


def _dimensions(value: Any, path: Path) -> Dimensions:
    names = [field.name for field in fields(Dimensions)]
    if not isinstance(value, Mapping) or sorted(value) != sorted(names):
        raise CheckpointError(f"{path}: its metadata has no dimensions, make it again")
    # The number of layers is what loops run over: no Whisper has more than 32.
    if any(type(size) is not int or not 0 < size < 1 << 20 for size in value.values()) or any(
        value[name] > 64 for name in ("n_audio_layer", "n_text_layer")
    ):
        raise CheckpointError(f"{path}: its metadata has impossible dimensions, make it again")
    return Dimensions(**value)


def _all_texts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)
