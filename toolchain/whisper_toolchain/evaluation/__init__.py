"""Evaluation: the same recordings on a ladder of rungs from stock Whisper to the bundle, and where accuracy is lost."""
