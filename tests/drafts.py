"""Drafts for tests: guesses of a text as they may be."""

from hypothesis import strategies as st
from hypothesis.strategies import DataObject, SearchStrategy


def edited(data: DataObject, tokens: list[int], others: SearchStrategy[int]) -> list[int]:
    """What a guess may look like beside the truth.

    Args:
        data: draws it.
        tokens: the truth.
        others: what else may be guessed.
    """
    kind = data.draw(st.sampled_from(["garbage", "exact", "prefix", "longer", "edited", "edited", "edited"]))
    any_tokens = st.lists(others, max_size=60)
    if kind == "garbage":
        return data.draw(any_tokens)
    if kind == "prefix":
        return tokens[: data.draw(st.integers(0, len(tokens)))]
    if kind == "longer":
        return tokens + data.draw(any_tokens)
    draft = list(tokens)
    if kind == "edited":
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(draft)))
            removed = data.draw(st.integers(0, 3))
            draft[at : at + removed] = data.draw(st.lists(others, max_size=3))
    return draft
