"""whisper.cpp's own container, float16 or float32.

Format, as its `models/convert-pt-to-ggml.py` writes it: magic, 11 int32 (n_vocab; audio ctx, state, head,
layer; text ctx, state, head, layer; n_mels; ftype), mel filters (2 int32, float32 values), vocabulary
(count, then length-prefixed bytes), then to the end of the file tensors: rank, name length, type (0 float32,
1 float16), sizes in reversed order, name, values. The names are openai-whisper's.
"""

from pathlib import Path

from whisper_toolchain.checkpoints.bounded_reader import MAX_RANK, BoundedReader, open_bounded
from whisper_toolchain.checkpoints.state import Array, State
from whisper_toolchain.checkpoints.validation import require_dimensions
from whisper_toolchain.errors import CheckpointError
from whisper_toolchain.shape_plan import Dimensions

MAGIC = b"lmgg"  # 0x67676d6c, little-endian

_HEADER = (
    "n_vocab",
    "n_audio_ctx",
    "n_audio_state",
    "n_audio_head",
    "n_audio_layer",
    "n_text_ctx",
    "n_text_state",
    "n_text_head",
    "n_text_layer",
    "n_mels",
)
_DTYPES = {0: "<f4", 1: "<f2"}
_MAX_NAME = 256


def read(path: Path, dims: Dimensions) -> State:
    """Read a GGML file into openai-whisper's names, float16 and float32 as stored.

    Raises:
        CheckpointError: not a GGML file, truncated or damaged, quantised, or of other dimensions.
    """
    with open_bounded(path) as reader:
        if reader.bytes(len(MAGIC), "the magic") != MAGIC:
            raise CheckpointError(f"{path}: not a GGML file of whisper.cpp (the magic is missing)")
        *sizes, ftype = reader.integers("11i", "the header")
        if ftype not in _DTYPES:
            raise CheckpointError(f"{path}: quantised (GGML ftype {ftype}), needs float16 or float32 weights")
        require_dimensions(dict(zip(_HEADER, sizes, strict=True)), dims, path)
        _skip_mel_filters(reader)
        _skip_vocabulary(reader)
        state: State = {}
        while reader.remaining:
            name, tensor = _read_tensor(reader)
            if name in state:
                raise reader.error(f"tensor {name} is there twice: the file is damaged, get it again")
            state[name] = tensor
    return state


def _skip_mel_filters(reader: BoundedReader) -> None:
    mels, frequencies = reader.integers("2i", "the size of the mel filters")
    reader.array((mels, frequencies), "<f4", "the mel filters")


def _skip_vocabulary(reader: BoundedReader) -> None:
    count = reader.integer("i", "the size of the vocabulary")
    if not 0 <= count <= reader.remaining:
        raise reader.error(f"a vocabulary of {count} tokens: the file is truncated or damaged, get it again")
    for _ in range(count):
        reader.skip(reader.integer("I", "a token's length"), "a token")


def _read_tensor(reader: BoundedReader) -> tuple[str, Array]:
    rank, name_length, kind = reader.integers("3i", "a tensor's header")
    if not 1 <= rank <= MAX_RANK or not 1 <= name_length <= _MAX_NAME:
        raise reader.error(
            f"a tensor of rank {rank} with a name of {name_length} bytes: the file is damaged, get it again"
        )
    shape = reader.integers(f"{rank}i", "a tensor's shape")[::-1]
    name = reader.name(name_length, "a tensor's name")
    if kind not in _DTYPES:
        raise reader.error(f"{name} is quantised (GGML type {kind}), needs float16 or float32 weights")
    tensor = reader.array(shape, _DTYPES[kind], name)
    if name.endswith(".bias") and tensor.ndim == 2 and tensor.shape[1] == 1:
        tensor = tensor[:, 0]  # whisper.cpp adds the convolutions' biases by broadcasting, so they are [n, 1]
    return name, tensor
