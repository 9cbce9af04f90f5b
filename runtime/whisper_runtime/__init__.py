"""Runs Whisper bundles on Hailo accelerators, or emulated on any CPU."""

__version__ = "0.1.0"
