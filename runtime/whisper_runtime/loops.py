"""Finds where a text goes round in circles."""

from collections.abc import Sequence

# A phrase that follows itself is a loop. Short ones occur in speech ("no, no, no"), so they need more rounds.
MAX_LOOP = 40
LONG_PHRASE = 6
SHORT_PHRASE_ROUNDS = 4


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
