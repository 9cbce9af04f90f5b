"""Does a state dict hold exactly the tensors of a Whisper of these dimensions?"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from whisper_toolchain.checkpoints.state import Array, State
from whisper_toolchain.errors import CheckpointError
from whisper_toolchain.shape_plan import DIMENSIONS, Dimensions

Shape = tuple[int, ...]

NAMES_SHOWN = 3
FIELDS_SHOWN = 4


def expected_shapes(dims: Dimensions) -> dict[str, Shape]:
    """Name -> shape of stock openai-whisper's state dict. The causal mask is a buffer that is not stored."""
    shapes: dict[str, Shape] = {
        "encoder.conv1.weight": (dims.n_audio_state, dims.n_mels, 3),
        "encoder.conv1.bias": (dims.n_audio_state,),
        "encoder.conv2.weight": (dims.n_audio_state, dims.n_audio_state, 3),
        "encoder.conv2.bias": (dims.n_audio_state,),
        "encoder.positional_embedding": (dims.n_audio_ctx, dims.n_audio_state),
        "decoder.token_embedding.weight": (dims.n_vocab, dims.n_text_state),
        "decoder.positional_embedding": (dims.n_text_ctx, dims.n_text_state),
    }
    for i in range(dims.n_audio_layer):
        shapes.update(_block(f"encoder.blocks.{i}", dims.n_audio_state, ("attn",)))
    for i in range(dims.n_text_layer):
        shapes.update(_block(f"decoder.blocks.{i}", dims.n_text_state, ("attn", "cross_attn")))
    shapes.update(_norm("encoder.ln_post", dims.n_audio_state))
    shapes.update(_norm("decoder.ln", dims.n_text_state))
    return shapes


def _norm(name: str, d: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (d,)
    yield f"{name}.bias", (d,)


def _block(name: str, d: int, attentions: Collection[str]) -> Iterator[tuple[str, Shape]]:
    for attention in attentions:
        for projection in ("query", "key", "value", "out"):
            yield f"{name}.{attention}.{projection}.weight", (d, d)
            if projection != "key":  # a bias of the keys would cancel in the softmax
                yield f"{name}.{attention}.{projection}.bias", (d,)
        yield from _norm(f"{name}.{attention}_ln", d)
    yield f"{name}.mlp.0.weight", (4 * d, d)
    yield f"{name}.mlp.0.bias", (4 * d,)
    yield f"{name}.mlp.2.weight", (d, 4 * d)
    yield f"{name}.mlp.2.bias", (d,)
    yield from _norm(f"{name}.mlp_ln", d)


def validate(state: State, dims: Dimensions, path: Path) -> None:
    """Check names, shapes, dtypes (float16 or float32) and that every value is finite.

    Raises:
        CheckpointError: with the variant that the dimensions would fit, or the first tensors at fault.
    """
    found = _dimensions_of(state)
    other = _variant_of(found)
    # Missing layers are reported by name; another width or vocabulary would only give a list of all names.
    if (other and other != _variant_of(dims.as_dict())) or not _agree(found, dims, skip_layers=True):
        require_dimensions(found, dims, path)
    expected = expected_shapes(dims)
    _refuse_any(path, "missing", [name for name in expected if name not in state])
    _refuse_any(path, "unexpected", [name for name in state if name not in expected])
    for name, shape in expected.items():
        tensor = state[name]
        if tensor.shape != shape:
            raise CheckpointError(f"{path}: {name} has shape {list(tensor.shape)} instead of {list(shape)}")
        if tensor.dtype not in (np.float16, np.float32):
            raise CheckpointError(f"{path}: {name} is {tensor.dtype}, needs float16 or float32 weights")
        if not np.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds NaN or infinite values: the checkpoint is damaged")


def require_dimensions(found: Mapping[str, int], dims: Dimensions, path: Path) -> None:
    """Compare the dimensions that a container states, all ten or some of them, with those wanted.

    Raises:
        CheckpointError: they differ; says which variant they would fit, if any.
    """
    wanted = dims.as_dict()
    differing = [field for field in wanted if field in found and found[field] != wanted[field]]
    if not differing:
        return
    variant, asked = _variant_of(found), _variant_of(wanted)
    if variant and asked:
        raise CheckpointError(f"{path}: this is a {variant} checkpoint, VARIANT says {asked}")
    shown = ", ".join(f"{field} {found[field]} instead of {wanted[field]}" for field in differing[:FIELDS_SHOWN])
    raise CheckpointError(f"{path}: its dimensions are not those of {asked or 'the model asked for'} ({shown})")


def _refuse_any(path: Path, what: str, names: list[str]) -> None:
    if names:
        shown = ", ".join(sorted(names)[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
        count = "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"
        raise CheckpointError(f"{path}: {count} {what}: {shown}")


def _variant_of(found: Mapping[str, int]) -> str | None:
    """The one variant that the dimensions fit, as far as they are known."""
    fitting = [
        variant
        for variant, dims in DIMENSIONS.items()
        if all(dims.as_dict().get(field) == value for field, value in found.items())
    ]
    return fitting[0] if len(fitting) == 1 else None


def _agree(found: Mapping[str, int], dims: Dimensions, *, skip_layers: bool) -> bool:
    wanted = dims.as_dict()
    return all(
        wanted[field] == value
        for field, value in found.items()
        if not (skip_layers and field in ("n_audio_layer", "n_text_layer"))
    )


def _dimensions_of(state: State) -> dict[str, int]:
    """What can be told of the dimensions from the shapes; the numbers of heads cannot."""
    found: dict[str, int] = {}

    def tell(name: str, *fields: str | None) -> None:
        tensor: Array | None = state.get(name)
        if tensor is not None and tensor.ndim == len(fields):
            found.update({field: size for field, size in zip(fields, tensor.shape, strict=True) if field})

    tell("encoder.conv1.weight", None, "n_mels", None)
    tell("encoder.positional_embedding", "n_audio_ctx", "n_audio_state")
    tell("decoder.positional_embedding", "n_text_ctx", None)
    tell("decoder.token_embedding.weight", "n_vocab", "n_text_state")
    for side, field in (("encoder", "n_audio_layer"), ("decoder", "n_text_layer")):
        parts = [name.split(".") for name in state if name.startswith(f"{side}.blocks.")]
        found[field] = len({part[2] for part in parts})
    return found
