"""CTranslate2's model.bin, binary version 6, float16, bfloat16 or float32.

Format, as CTranslate2's `ModelSpec.save` writes it: u32 version, the spec's name (u16 length that counts the
closing NUL), u32 revision, u32 count of variables, each: name, u8 rank, u32 sizes, u8 dtype, u32 bytes,
values; then u32 count of aliases, each: alias, name of the variable. Equal variables are stored once, so an
alias can stand for any tensor.
"""

import re
from pathlib import Path

import numpy as np

from whisper_toolchain.checkpoints.bounded_reader import MAX_RANK, BoundedReader, open_bounded
from whisper_toolchain.checkpoints.precision import from_bfloat16
from whisper_toolchain.checkpoints.state import Array, State
from whisper_toolchain.checkpoints.validation import require_dimensions
from whisper_toolchain.errors import CheckpointError
from whisper_toolchain.shape_plan import Dimensions

WEIGHTS = "model.bin"
MAGIC = b"\x06\0\0\0\x0c\0WhisperSpec\0"  # version, length of the name, the name

_REVISION = 3
_DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2", 5: "<u2"}
_BFLOAT16 = 5

_TOP_LEVEL = {
    "encoder/position_encodings/encodings": "encoder.positional_embedding",
    "decoder/position_encodings/encodings": "decoder.positional_embedding",
    "decoder/embeddings/weight": "decoder.token_embedding.weight",
    "decoder/projection/weight": "decoder.token_embedding.weight",  # tied
}
_NORMS = {"gamma": "weight", "beta": "bias"}
_LAYER = re.compile(r"(encoder|decoder)/layer_(\d{1,3})/(self_attention|attention|ffn)/(\w+)/(\w+)")
# (block, sub-layer) -> the projections that are stacked in it
_LINEAR: dict[tuple[str, str], tuple[str, ...]] = {
    ("self_attention", "linear_0"): ("attn.query", "attn.key", "attn.value"),
    ("self_attention", "linear_1"): ("attn.out",),
    ("attention", "linear_0"): ("cross_attn.query",),
    ("attention", "linear_1"): ("cross_attn.key", "cross_attn.value"),
    ("attention", "linear_2"): ("cross_attn.out",),
    ("ffn", "linear_0"): ("mlp.0",),
    ("ffn", "linear_1"): ("mlp.2",),
}
_LAYER_NORM = {"self_attention": "attn_ln", "attention": "cross_attn_ln", "ffn": "mlp_ln"}


def read(path: Path, dims: Dimensions) -> State:
    """Read a CTranslate2 folder (or its model.bin) into openai-whisper's names, precision as stored.

    Raises:
        CheckpointError: not a Whisper model of binary version 6, truncated or damaged, quantised, of other
            dimensions, or with a key bias, which openai-whisper has no place for.
    """
    path = path / WEIGHTS if path.is_dir() else path
    variables = _read_variables(path)
    heads = {
        field: int(variables[name])
        for field, name in (("n_audio_head", "encoder/num_heads"), ("n_text_head", "decoder/num_heads"))
        if name in variables and variables[name].shape == ()
    }
    state: State = {}
    for name, variable in variables.items():
        for ours, tensor in _renamed(name, variable, path):
            if ours in state and not np.array_equal(state[ours], tensor):
                raise CheckpointError(f"{path}: two different tensors stand for {ours} (untied projection)")
            state[ours] = tensor
    if len(heads) == 2 and state:
        # The shapes tell more about which variant it is, so the heads speak only where the width agrees.
        width = state.get("encoder.positional_embedding")
        if width is not None and width.shape[-1:] == (dims.n_audio_state,):
            require_dimensions(heads, dims, path)
    return state


def _read_variables(path: Path) -> State:
    with open_bounded(path) as reader:
        version = reader.integer("I", "the version")
        if version != 6:
            raise CheckpointError(
                f"{path}: not a CTranslate2 model of binary version 6 (it says {version}): convert the "
                "checkpoint again with a current ct2-transformers-converter"
            )
        spec, revision = _string(reader), reader.integer("I", "the revision")
        if spec != "WhisperSpec" or revision != _REVISION:
            raise CheckpointError(
                f"{path}: a CTranslate2 model of {spec} revision {revision}, needs WhisperSpec {_REVISION}"
            )
        variables: State = {}
        for _ in range(_count(reader, "variables")):
            name, variable = _read_variable(reader)
            if name in variables:
                raise reader.error(f"variable {name} is there twice: the file is damaged, get it again")
            variables[name] = variable
        stored = dict(variables)
        for _ in range(_count(reader, "aliases")):
            alias, name = _string(reader), _string(reader)
            if alias in variables or name not in stored:
                raise reader.error(f"alias {alias} of {name}: the file is damaged, get it again")
            variables[alias] = stored[name]
        if reader.remaining:
            raise reader.error(f"{reader.remaining} bytes follow the model: the file is damaged, get it again")
    return variables


def _count(reader: BoundedReader, what: str) -> int:
    count = reader.integer("I", f"the number of {what}")
    if count > reader.remaining:  # each takes several bytes
        raise reader.error(f"{count} {what}: the file is truncated or damaged, get it again")
    return count


def _string(reader: BoundedReader) -> str:
    length = reader.integer("H", "a name's length")
    name = reader.name(max(length - 1, 0), "a name")
    if reader.bytes(1, "a name's end") != b"\0":
        raise reader.error("a name without its end: the file is damaged, get it again")
    return name


def _read_variable(reader: BoundedReader) -> tuple[str, Array]:
    name = _string(reader)
    rank = reader.integer("B", f"the rank of {name}")
    if rank > MAX_RANK:
        raise reader.error(f"{name} has rank {rank}: the file is damaged, get it again")
    shape = reader.integers(f"{rank}I", f"the shape of {name}")
    dtype, size = reader.integers("BI", f"the type of {name}")
    if dtype not in _DTYPES:
        raise reader.error(f"{name} has the unknown type {dtype}")
    start = reader.offset
    variable = reader.array(shape, _DTYPES[dtype], name)
    if reader.offset - start != size:
        raise reader.error(f"{name} says {size} bytes for shape {list(shape)}: the file is damaged")
    return name, from_bfloat16(variable) if dtype == _BFLOAT16 else variable


def _renamed(name: str, variable: Array, path: Path) -> list[tuple[str, Array]]:
    """The tensors of openai-whisper's that a variable holds."""
    if variable.ndim == 0 or name.endswith("/alignment_heads"):
        return []  # settings such as num_heads and activation
    if variable.dtype.kind != "f" or name.endswith("/weight_scale"):
        raise CheckpointError(
            f"{path}: quantised ({name} is {variable.dtype}), needs float16/float32 weights: convert the "
            "checkpoint again without --quantization"
        )
    top = _TOP_LEVEL.get(name)
    if top:
        return [(top, variable)]
    if match := re.fullmatch(r"encoder/(conv[12])/(weight|bias)", name):
        return [(f"encoder.{match[1]}.{match[2]}", variable)]
    if match := re.fullmatch(r"(encoder|decoder)/layer_norm/(gamma|beta)", name):
        return [(f"{'encoder.ln_post' if match[1] == 'encoder' else 'decoder.ln'}.{_NORMS[match[2]]}", variable)]
    if not (match := _LAYER.fullmatch(name)):
        return [(name, variable)]  # reported as unexpected by the validation
    side, index, block, part, parameter = match.groups()
    prefix = f"{side}.blocks.{int(index)}"
    if part == "layer_norm" and parameter in _NORMS:
        return [(f"{prefix}.{_LAYER_NORM[block]}.{_NORMS[parameter]}", variable)]
    stacked = _LINEAR.get((block, part))
    if stacked is None or parameter not in ("weight", "bias") or variable.shape[0] % len(stacked):
        return [(name, variable)]
    pieces = zip(stacked, np.split(variable, len(stacked)), strict=True)
    return [
        (f"{prefix}.{projection}.{parameter}", piece)
        for projection, piece in pieces
        if not _is_key_bias(projection, parameter, piece, f"{path}: {name}")
    ]


def _is_key_bias(projection: str, parameter: str, piece: Array, where: str) -> bool:
    """True for the part of a stacked bias that belongs to the keys: it must be zero, and is dropped."""
    if parameter != "bias" or not projection.endswith(".key"):
        return False
    if np.any(piece):
        raise CheckpointError(f"{where} has a key bias that is not zero, which openai-whisper does not know")
    return True
