"""Whisper's text normalisers, from a package without torch.

`whisper-normalizer` 0.1.1 is a copy of those of openai-whisper, which itself needs torch. A test compares the two.
Later versions have replacements of their own ("cause" becomes "because"): their error rates would be other ones.
"""

import importlib.metadata
from collections.abc import Callable

from whisper_runtime.errors import EvaluationError

VERSION = "0.1.1"

_INSTALL = f"pip install jiwer whisper-normalizer=={VERSION} (the extra [evaluate] of hailo-whisper-runtime)"


def load_normaliser(language: str | None) -> tuple[str, Callable[[str], str]]:
    """The normaliser that word error rates of a language are quoted with, and its name.

    Args:
        language: code such as "en"; None if it is not known.

    Raises:
        EvaluationError: it, or jiwer, is not installed, or is of another version.
    """
    try:
        import jiwer  # noqa: F401 - what is missing shall be said at once, not after the recordings
        from whisper_normalizer.basic import BasicTextNormalizer
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError as error:
        raise EvaluationError(f"word error rates need {error.name}: {_INSTALL}") from error
    found = importlib.metadata.version("whisper-normalizer")
    if found != VERSION:
        raise EvaluationError(f"whisper-normalizer {found} does not normalise as Whisper does: {_INSTALL}")
    if language == "en":
        return "Whisper's English", EnglishTextNormalizer()
    return "Whisper's basic", BasicTextNormalizer()
