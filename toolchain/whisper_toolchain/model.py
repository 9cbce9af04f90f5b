"""The patched Whisper model in torch, with a window cut to the shape plan."""

import base64
import gzip
from typing import Any

import numpy as np
import torch

from whisper_toolchain.checkpoints import Checkpoint
from whisper_toolchain.errors import CheckpointError

Module = Any  # openai-whisper's package, imported from third_party under a name of our choice


def build_model(whisper: Module, checkpoint: Checkpoint, feature_frames: int) -> torch.nn.Module:
    """Build openai-whisper's `Whisper` for a window and load a checkpoint into it strictly.

    Args:
        whisper: the imported package (`third_party.import_whisper`), patched or stock. Stock sources load
            only the full 1500 feature frames.
        checkpoint: weights in openai-whisper's names, float16 or float32.
        feature_frames: `n_audio_ctx`, 50 per second of window.

    Returns:
        The model in float32 on the CPU, in eval mode and without gradients.

    Raises:
        CheckpointError: a tensor is missing, unexpected, or of another shape.
    """
    dims = whisper.model.ModelDimensions(**{**checkpoint.dims.as_dict(), "n_audio_ctx": feature_frames})
    model: torch.nn.Module = whisper.model.Whisper(dims)
    state = {name: torch.from_numpy(array).float() for name, array in checkpoint.state.items()}
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"weights do not fit {checkpoint.variant}: {' '.join(str(error).split())}") from error
    return model.requires_grad_(False).eval()


def alignment_heads(whisper: Module, checkpoint: Checkpoint) -> list[tuple[int, int]]:
    """The heads of cross-attention that follow the sound, as (block, head), ascending: openai-whisper's own table."""
    packed = whisper._ALIGNMENT_HEADS[checkpoint.variant]
    mask = np.frombuffer(gzip.decompress(base64.b85decode(packed)), bool)
    blocks = mask.reshape(checkpoint.dims.n_text_layer, checkpoint.dims.n_text_head)
    return [(int(block), int(head)) for block, head in np.argwhere(blocks)]
