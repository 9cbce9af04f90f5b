"""Turns OpenAI Whisper checkpoints into bundles for Hailo accelerators."""

__version__ = "0.1.0"
