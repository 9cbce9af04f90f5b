"""What the slots hold, when tokens leave them, and that guesses change nothing."""

import itertools
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.errors import BackendError
from whisper_runtime.slot_decoder import SlotDecoder, dropped, slots_for_text

VOCABULARY, POSITIONS = 1000, 448

lengths = st.tuples(st.integers(1, 8), st.integers(0, 200), st.integers(1, 64)).map(
    lambda drawn: (drawn[0], drawn[1], drawn[0] + drawn[2])  # prompt, text, slots
)


class Graph:
    """Answers as any causal graph does: a row of logits follows from its own slot and those before it."""

    def __init__(self):
        self.seen = []

    def decode(self, features, token_embeddings, rows):
        if not all(0 <= row < len(token_embeddings) for row in rows):
            raise BackendError(f"rows {rows}")
        self.seen.append((features, token_embeddings[:, 0].copy(), list(rows)))
        sums = [zlib.crc32(token_embeddings[: row + 1].tobytes()) for row in rows]
        return np.array([[total >> shift & 0xFF for shift in (0, 8, 16, 24)] for total in sums], np.float32)


def decoder(sequence):
    """Each embedding is (token, position), so that what the slots hold can be read off."""
    weight = np.stack([np.arange(VOCABULARY), np.zeros(VOCABULARY)], 1).astype(np.float32)
    positional = np.stack([np.zeros(POSITIONS), np.arange(POSITIONS)], 1).astype(np.float32)
    graph = Graph()
    made = SlotDecoder(graph, TokenEmbedding(weight, positional), sequence)
    made.begin("features")
    return made, graph


def tokens(count, start=100):
    return [start + index for index in range(count)]


# What the slots hold


@settings(deadline=None)
@given(lengths)
def test_the_slots_hold_the_prompt_and_the_latest_tokens_at_their_true_positions(drawn):
    prompt, text, sequence = drawn
    slots, graph = decoder(sequence)
    everything = [*tokens(prompt, 1), *tokens(text)]
    slots.logits(everything[:prompt], everything[prompt:], [prompt + text - 1])
    ((features, held, (row,)),) = graph.seen
    assert features == "features"
    gone = dropped(prompt, text, sequence)
    kept = [*range(prompt), *range(prompt + gone, prompt + text)]
    assert held[: len(kept)].tolist() == [[everything[position], position] for position in kept]
    assert not held[len(kept) :].any()
    assert row == len(kept) - 1
    assert slots.calls == 1


def test_text_leaves_the_slots_in_blocks():
    slots, graph = decoder(10)  # 8 for text: blocks of 2
    for count in range(13):
        slots.logits([1, 2], tokens(count), [1 + count])
    held = [embedded[embedded[:, 0] >= 100][:, 0].astype(int).tolist() for _, embedded, _ in graph.seen]
    assert held[:9] == [tokens(count) for count in range(9)]
    assert held[9:] == [tokens(7, 102), tokens(8, 102), tokens(7, 104), tokens(8, 104)]


def test_a_new_window_is_another_one():
    slots, graph = decoder(4)
    slots.logits([1], [], [0])
    slots.begin("others")
    slots.logits([1], [], [0])
    assert [features for features, *_ in graph.seen] == ["features", "others"]
    assert slots.calls == 2


# When tokens leave


@settings(deadline=None)
@given(lengths)
def test_tokens_leave_in_blocks_and_only_when_they_must(drawn):
    prompt, text, sequence = drawn
    slots = sequence - prompt
    gone = [dropped(prompt, count, sequence) for count in range(text + 1)]
    assert all(count - left <= slots for count, left in enumerate(gone))
    assert all(left == 0 for count, left in enumerate(gone) if count <= slots)
    steps = [after - before for before, after in itertools.pairwise(gone)]
    block = dropped(prompt, slots + 1, sequence)
    assert set(steps) <= {0, block}
    assert all(gone[count] == gone[count - 1] for count in range(1, text + 1) if count - gone[count - 1] <= slots)
    # The row after tokens have left still sees most of what it could.
    assert slots - block + 1 >= min(slots, 0.7 * slots)


@settings(deadline=None)
@given(lengths)
def test_a_guess_within_the_room_drops_nothing(drawn):
    prompt, text, sequence = drawn
    room = decoder(sequence)[0].room(prompt, text)
    assert 0 <= room <= slots_for_text(prompt, sequence)
    assert dropped(prompt, text + room, sequence) == dropped(prompt, text, sequence)
    assert dropped(prompt, text + room + 1, sequence) > dropped(prompt, text, sequence)


# Guesses


@settings(deadline=None)
@given(drawn=lengths, share=st.floats(0, 1), seed=st.integers(0, 999))
def test_rows_checked_together_are_those_of_one_call_each(drawn, share, seed):
    prompt, text, sequence = drawn
    everything = np.random.default_rng(seed).integers(0, VOCABULARY, prompt + text + sequence).tolist()
    slots, _ = decoder(sequence)
    guesses = round(share * slots.room(prompt, text))
    rows = [prompt + text - 1 + guess for guess in range(guesses + 1)]
    together = slots.logits(everything[:prompt], everything[prompt : prompt + text + guesses], rows)
    assert slots.calls == 1
    for row, logits in zip(rows, together, strict=True):
        alone = slots.logits(everything[:prompt], everything[prompt : row + 1], [row])
        assert (alone[0] == logits).all()


def test_rows_of_the_prompt_are_there_while_the_text_is_empty():
    slots, _ = decoder(6)
    alone = [slots.logits([1, 2, 3], [], [row])[0].tolist() for row in range(3)]
    assert slots.logits([1, 2, 3], [7, 8], [0, 1, 2]).tolist() == alone


# Refusals


@settings(deadline=None)
@given(lengths)
def test_rows_that_have_left_the_slots_are_refused(drawn):
    prompt, text, sequence = drawn
    slots, graph = decoder(sequence)
    gone = dropped(prompt, text, sequence)
    for row in range(prompt, prompt + gone):
        with pytest.raises(ValueError, match=f"the first {gone} tokens of the text have left the slots"):
            slots.logits(tokens(prompt), tokens(text), [row, prompt + text - 1])
    assert graph.seen == []
    assert slots.calls == 0
    for row in range(prompt + gone, prompt + text):
        slots.logits(tokens(prompt), tokens(text), [row])


@pytest.mark.parametrize("row", [3, 7, 400])
def test_rows_of_no_token_are_refused(row):
    slots, _ = decoder(8)
    with pytest.raises(ValueError, match="row"):
        slots.logits([1], [5, 6], [row])


@pytest.mark.parametrize("prompt", [4, 5])
def test_a_prompt_that_fills_the_slots_is_refused(prompt):
    slots, _ = decoder(4)
    message = f"a prompt of {prompt} leaves none of the 4 slots for text"
    with pytest.raises(ValueError, match=message):
        slots.logits(tokens(prompt), [], [prompt - 1])
    with pytest.raises(ValueError, match=message):
        slots.room(prompt, 0)
    with pytest.raises(ValueError, match=message):
        dropped(prompt, 0, 4)


def test_positions_that_the_model_does_not_know_are_refused():
    slots, _ = decoder(16)
    slots.logits([1], tokens(POSITIONS - 1), [POSITIONS - 1])
    with pytest.raises(ValueError, match="position"):
        slots.logits([1], tokens(POSITIONS), [POSITIONS])
