"""Finds where a text goes round in circles."""

from collections.abc import Sequence
from difflib import SequenceMatcher

# A phrase that follows itself is a loop. Short ones occur in speech ("no, no, no"), so they need more rounds.
MAX_LOOP = 40
LONG_PHRASE = 6
SHORT_PHRASE_ROUNDS = 4

# How alike a phrase and the next one are that is its echo: "with his heavy features" and "was his heavy features".
_ALIKE = 0.75
_OPENING = {'"', "'", "\u201c", "\u2018", "\u201e", "\u00ab", "(", "["}


def loop_length(tokens: Sequence[int]) -> int:
    """Return how many tokens at the end are the repetition of what stands before them; 0 if it is no loop.

    A phrase of `LONG_PHRASE` tokens or more is a loop at its second round, a shorter one at round
    `SHORT_PHRASE_ROUNDS`. All that follows the first round counts as repetition.
    """
    for length in range(1, min(MAX_LOOP, len(tokens) // 2) + 1):
        rounds = 2 if length >= LONG_PHRASE else SHORT_PHRASE_ROUNDS
        repeated = 0
        while repeated < len(tokens) - length and tokens[-1 - repeated] == tokens[-1 - repeated - length]:
            repeated += 1
        if repeated >= (rounds - 1) * length:
            return repeated
    return 0


def echo_length(pieces: Sequence[str]) -> int:
    """Return how many tokens at the end say in nearly the same words what stands before them; 0 if they do not.

    Args:
        pieces: the text of each token. Case, blanks and punctuation do not matter.
    """
    said = [(index, word) for index, piece in enumerate(pieces) if (word := letters(piece))]
    words = [word for _, word in said]
    likeness, echo = _ALIKE, 0
    for length in range(LONG_PHRASE, min(MAX_LOOP, len(words) // 2) + 1):
        both = SequenceMatcher(None, words[-2 * length : -length], words[-length:], autojunk=False)
        # The upper bound first: hardly any text gets further.
        if both.quick_ratio() >= likeness and (ratio := both.ratio()) >= likeness:
            likeness, echo = ratio, len(pieces) - said[-length][0]
    # What opens the echo goes with it: a quotation mark, or the bytes of a character that are a token each.
    while echo and _opens(pieces[-echo - 1]):
        echo += 1
    return echo


def _opens(piece: str) -> bool:
    return "\ufffd" in piece or piece.strip() in _OPENING


def letters(text: str) -> str:
    """The letters and digits of a text, all of one case."""
    return "".join(filter(str.isalnum, text)).casefold()
