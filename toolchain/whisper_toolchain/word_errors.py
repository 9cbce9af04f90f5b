"""Word error rate, the way it is quoted for Whisper: corpus level, after Whisper's own normaliser."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jiwer

from whisper_toolchain import third_party


@dataclass(frozen=True)
class WordErrors:
    """Errors summed over a corpus.

    Attributes:
        substitutions, deletions, insertions: counts of words.
        words: words in the references.
    """

    substitutions: int
    deletions: int
    insertions: int
    words: int

    @property
    def percent(self) -> float:
        """100 * errors / reference words; NaN without reference words."""
        errors = self.substitutions + self.deletions + self.insertions
        return 100.0 * errors / self.words if self.words else float("nan")


def count_word_errors(references: Sequence[str], hypotheses: Sequence[str], whisper: Path) -> WordErrors:
    """Compare texts pairwise after Whisper's English normaliser and sum the errors.

    Args:
        references: what was said.
        hypotheses: what was transcribed, equally many.
        whisper: the unpacked openai-whisper, for its normaliser.
    """
    normalise = third_party.import_normalizers(whisper).EnglishTextNormalizer()
    pairs = [(normalise(r), normalise(h)) for r, h in zip(references, hypotheses, strict=True)]
    pairs = [pair for pair in pairs if pair[0]]  # jiwer refuses empty references
    if not pairs:
        return WordErrors(0, 0, 0, 0)
    output = jiwer.process_words([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    return WordErrors(
        output.substitutions,
        output.deletions,
        output.insertions,
        output.substitutions + output.deletions + output.hits,
    )
