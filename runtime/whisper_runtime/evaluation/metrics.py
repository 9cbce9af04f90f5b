"""What transcripts are worth: corpus-level error rates, their uncertainty, and differences between two rungs."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import jiwer
import numpy as np

SEED = 0
RESAMPLES = 5000
_CHUNK = 500

# A hallucination is a clip with at least this many inserted words, and at least this share of the reference's words.
INVENTED_WORDS = 3
INVENTED_SHARE = 0.5


@dataclass(frozen=True)
class ClipErrors:
    """Errors of one transcript after normalisation.

    Attributes:
        substitutions, deletions, insertions: counts of words.
        words: words of the reference.
        character_errors, characters: the same in characters, errors summed.
        said: words of the transcript.
        reference, text: what was compared.
    """

    substitutions: int
    deletions: int
    insertions: int
    words: int
    character_errors: int
    characters: int
    said: int
    reference: str = ""
    text: str = ""

    @property
    def errors(self) -> int:
        """Word errors."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def hallucinated(self) -> bool:
        """Whether at least 3 words, and half as many as the reference has, were inserted: loops and inventions."""
        return self.insertions >= max(INVENTED_WORDS, INVENTED_SHARE * self.words)

    @property
    def empty(self) -> bool:
        """Whether nothing was transcribed though something was said."""
        return self.words > 0 and self.said == 0


def compare(reference: str, hypothesis: str, normalise: Callable[[str], str]) -> ClipErrors:
    """Count the errors of one transcript. Without words in the reference, all that was transcribed is inserted."""
    reference, hypothesis = normalise(reference).strip(), normalise(hypothesis).strip()
    said = len(hypothesis.split())
    if not reference:
        return ClipErrors(0, 0, said, 0, len(hypothesis), 0, said, reference, hypothesis)
    words, characters = jiwer.process_words(reference, hypothesis), jiwer.process_characters(reference, hypothesis)
    return ClipErrors(
        words.substitutions,
        words.deletions,
        words.insertions,
        words.hits + words.substitutions + words.deletions,
        characters.substitutions + characters.deletions + characters.insertions,
        characters.hits + characters.substitutions + characters.deletions,
        said,
        reference,
        hypothesis,
    )


@dataclass(frozen=True)
class Score:
    """A corpus's figures. Rates in percent, intervals of 95 % by the bootstrap over clips."""

    clips: int
    wer: float
    wer_low: float
    wer_high: float
    cer: float
    substitutions: int
    deletions: int
    insertions: int
    words: int
    hallucinations: int
    empty: int

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def score(clips: Sequence[ClipErrors]) -> Score:
    """Sum up a corpus.

    Raises:
        ValueError: no reference has a word.
    """
    errors, words = (np.array(values) for values in zip(*((clip.errors, clip.words) for clip in clips), strict=True))
    if not words.sum():
        raise ValueError("no reference has a word")
    low, high = _interval(_resampled(errors, words))
    characters = sum(clip.characters for clip in clips)
    return Score(
        len(clips),
        100.0 * int(errors.sum()) / int(words.sum()),
        low,
        high,
        100.0 * sum(clip.character_errors for clip in clips) / max(1, characters),
        sum(clip.substitutions for clip in clips),
        sum(clip.deletions for clip in clips),
        sum(clip.insertions for clip in clips),
        int(words.sum()),
        sum(clip.hallucinated for clip in clips),
        sum(clip.empty for clip in clips),
    )


@dataclass(frozen=True)
class Difference:
    """How much higher one rung's word error rate is than another's on the same clips, in points.

    Attributes:
        points: the difference.
        low, high: its 95 % interval by the paired bootstrap over clips.
        p: how likely so large a difference, to either side, would be by chance.
    """

    points: float
    low: float
    high: float
    p: float


class Counted(Protocol):
    """What has a number of errors in a number of words."""

    @property
    def errors(self) -> int:
        """Word errors."""
        ...

    @property
    def words(self) -> int:
        """Words of the reference."""
        ...


def difference(clips: Sequence[Counted], others: Sequence[Counted]) -> Difference:
    """Compare two rungs clip by clip.

    The interval is of the paired bootstrap (M. Bisani and H. Ney, "Bootstrap estimates for confidence intervals in ASR
    performance evaluation", ICASSP 2004). The probability is of the paired randomisation test (E. W. Noreen,
    "Computer-intensive methods for testing hypotheses", 1989): were the two rungs alike, each clip's two transcripts
    could as well be swapped. Of few clips, a bootstrap would promise more than it can know.

    Args:
        clips, others: of the same recordings, in the same order.
    """
    words = np.array([clip.words for clip in clips])
    extra = np.array([clip.errors - other.errors for clip, other in zip(clips, others, strict=True)])
    low, high = _interval(_resampled(extra, words))
    return Difference(100.0 * int(extra.sum()) / int(words.sum()), low, high, _by_chance(extra))


def _by_chance(extra: np.ndarray) -> float:
    """The share of random swaps, of the clips' two transcripts, that give as large a sum of extra errors."""
    random = np.random.default_rng(SEED)
    as_large = 0
    for _ in range(0, RESAMPLES, _CHUNK):
        sums = (extra * random.choice((-1, 1), (_CHUNK, len(extra)))).sum(1)
        as_large += int((np.abs(sums) >= abs(int(extra.sum()))).sum())
    return (as_large + 1) / (RESAMPLES + 1)  # what was found is one of the swaps


def _resampled(errors: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Rates in percent of corpora drawn from the clips with replacement, (RESAMPLES,), the same draws every time."""
    random = np.random.default_rng(SEED)
    rates = []
    for _ in range(0, RESAMPLES, _CHUNK):
        drawn = random.integers(0, len(words), (_CHUNK, len(words)))
        rates.append(100.0 * errors[drawn].sum(1) / np.maximum(1, words[drawn].sum(1)))
    return np.concatenate(rates)


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)
