"""Which language a recording is in, where nobody has said so."""

from collections.abc import Callable
from dataclasses import dataclass

from whisper_runtime.backends import Features

# A window settles the language if somebody speaks in it and one language is likelier than all others together. Measured
# with tiny: in noise it hears Norwegian or English with 0.30 to 0.54, and no speech with 0.93 to 0.97; of 51 clips of
# test-other it finds the language of all and is sure of 48.
LEAST_PROBABILITY = 0.5
MOST_NO_SPEECH = 0.4  # as in window_reader


@dataclass(frozen=True)
class LanguageGuess:
    """The language of one window.

    Attributes:
        code: such as "en".
        probability: among all languages, 0 to 1.
        no_speech_prob: how likely the model holds it that nobody speaks, 0 to 1.
    """

    code: str
    probability: float
    no_speech_prob: float = 0.0

    @property
    def is_sure(self) -> bool:
        """Whether it holds for the whole recording."""
        return self.probability >= LEAST_PROBABILITY and self.no_speech_prob <= MOST_NO_SPEECH


class SpokenLanguage:
    """The language of a recording: that of the first window that leaves little doubt. Windows before have their own.

    Args:
        detect: finds the language of an encoded window.
        settled: the language, if it is known.
    """

    def __init__(self, detect: Callable[[Features], LanguageGuess], settled: str | None = None) -> None:
        self._detect = detect
        self._settled = None if settled is None else LanguageGuess(settled, 1.0)

    @property
    def is_settled(self) -> bool:
        """Whether it will not change any more."""
        return self._settled is not None

    def guess(self, features: Features) -> LanguageGuess:
        """The language to read a window in, which may still be incomplete. Raises BackendError."""
        return self._settled or self._detect(features)

    def settle(self, features: Features) -> LanguageGuess:
        """The language to read a complete window in, and all later ones if it is sure. Raises BackendError."""
        guess = self.guess(features)
        if guess.is_sure:
            self._settled = guess
        return guess
