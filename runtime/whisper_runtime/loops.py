"""Finds where a text goes round in circles."""

from collections.abc import Sequence

# A phrase that follows itself is a loop. Short ones occur in speech ("no, no, no"), so they need more rounds.
MAX_LOOP = 40
LONG_PHRASE = 6
SHORT_PHRASE_ROUNDS = 4


def loop_length(tokens: Sequence[int]) -> int:
    """Return how many tokens at the end are the repetition of what stands before them; 0 if it is no loop.

    A phrase of `LONG_PHRASE` tokens or more is a loop at its second round, a shorter one at round
    `SHORT_PHRASE_ROUNDS`. All rounds but the first count as repetition.
    """
    for length in range(1, min(MAX_LOOP, len(tokens) // 2) + 1):
        rounds = 2 if length >= LONG_PHRASE else SHORT_PHRASE_ROUNDS
        if len(tokens) < rounds * length:
            continue
        phrase = list(tokens[-length:])
        if all(
            list(tokens[len(tokens) - (i + 1) * length : len(tokens) - i * length]) == phrase for i in range(1, rounds)
        ):
            return (rounds - 1) * length
    return 0
