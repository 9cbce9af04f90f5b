"""Whisper checkpoints in whichever container they come, as one uniform state dict."""

from whisper_toolchain.checkpoints.checkpoint import Checkpoint, load, save, tensor_digest
from whisper_toolchain.checkpoints.fetch import fetch_checkpoint
from whisper_toolchain.checkpoints.read import read_checkpoint

__all__ = ["Checkpoint", "fetch_checkpoint", "load", "read_checkpoint", "save", "tensor_digest"]
