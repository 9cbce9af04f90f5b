"""Several texts from a decoder that is asked for one at a time: drafts save calls and change nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper_runtime.beam_search import BeamDecoder
from whisper_runtime.drafted_branches import DraftedBranches
from whisper_runtime.token_rules import TokenRules

from tests.drafts import edited
from tests.scripted_texts import ENDLESS, VOCABULARY, WORDS, babble

LIMIT = 30
PROMPT = [1, 2]


class OneText:
    """Answers with the logits that a script makes of a text; checks so many guesses in a call."""

    name = "scripted"
    prompt_limit = 100
    beam_size = 5
    doubtful_logprob = -0.25

    def __init__(self, script, room=1000):
        self.script = script
        self.asked = []
        self.calls = 0
        self._room = room

    def room(self, prompt, text):
        return self._room

    def logits(self, prompt, text, rows):
        self.calls += 1
        assert len(rows) <= 2 + self._room  # in the first call there is one of the prompt, too
        self.asked.append(tuple(text))
        logits = np.zeros((len(rows), VOCABULARY), np.float32)
        for target, row in zip(logits, rows, strict=True):
            for token, value in self.script(list(text[: max(0, row + 1 - len(prompt))])).items():
                target[token] = value
        return logits


def search(tokenizer, script, draft, *, size, room=1000, seconds=ENDLESS, timestamps=False):
    decoder = OneText(script, room)
    prompt, rules = tokenizer.sot_sequence(timestamps=timestamps), TokenRules(tokenizer, timestamps)
    return BeamDecoder(decoder, tokenizer, size, LIMIT).decode(prompt, rules, seconds, draft), decoder


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    seed=st.integers(0, 999),
    spread=st.sampled_from([0, 1, 2, 50]),  # 0: the same word for ever
    words=st.sampled_from([3, 40, 200]),
    seconds=st.sampled_from([0.0, 3.0, ENDLESS]),
    timestamps=st.booleans(),
    size=st.integers(1, 5),
    room=st.sampled_from([0, 3, 1000]),
)
def test_a_search_finds_the_same_whatever_the_draft(
    tokenizer, data, seed, spread, words, seconds, timestamps, size, room
):
    script = babble(tokenizer, seed, spread, words, timestamps, 10.0)
    options = {"size": size, "seconds": seconds, "timestamps": timestamps}
    alone, plain = search(tokenizer, script, (), **options)
    draft = tuple(edited(data, list(alone.tokens), st.sampled_from([*WORDS, *alone.tokens])))
    drafted, decoder = search(tokenizer, script, draft, room=room, **options)
    assert drafted == alone  # probabilities too
    assert decoder.calls <= plain.calls


def with_another_word(tokenizer, text, at):
    """A script of one text in which one word has a likely alternative, after which it goes on the same."""
    other = WORDS[150]

    def script(said):
        if [token if token != other else text[at] for token in said] != text[: len(said)]:
            return {tokenizer.eot: 20.0}
        following = [*text, tokenizer.eot][len(said)]
        return {following: 20.0, other: 19.0} if len(said) == at else {following: 30.0}

    return script


def test_a_text_that_leaves_the_draft_and_comes_back_costs_one_call(tokenizer):
    text = list(WORDS[:20])
    script = with_another_word(tokenizer, text, 7)
    found, decoder = search(tokenizer, script, text, size=2)
    assert found.tokens == tuple(text)
    assert decoder.calls == 3  # the first logits, the draft, and the text with the other word
    _, plain = search(tokenizer, script, (), size=2)
    assert plain.calls > 30


@pytest.mark.parametrize("change", ["left out", "put in"])
def test_the_draft_is_found_again_behind_what_it_has_more_or_less(change):
    draft = (10, 11, 12, 13, 14, 15)
    text = (10, 11, 13) if change == "left out" else (10, 11, 99, 12)
    decoder = OneText(lambda said: {len(said): 1.0})
    branches = DraftedBranches(decoder, PROMPT, draft)
    for length in range(1, len(text) + 1):
        branches.logits([text[:length]])
    assert decoder.asked[-1] == (*text, *draft[draft.index(text[-1]) + 1 :])


def test_each_row_is_the_callers_own():
    """Rules change the logits that a search is given."""
    branches = DraftedBranches(OneText(lambda said: {5: 1.0 + len(said)}), PROMPT, (7, 8, 9))
    first = branches.logits([(7,)])
    first[:] = np.nan
    assert branches.logits([(7,)])[0, 5] == 2.0
    assert branches.logits([(7, 8)])[0, 5] == 3.0


def test_only_rows_that_may_still_be_asked_for_are_kept():
    """Each is as long as the vocabulary."""
    draft = tuple(range(100, 120))
    decoder = OneText(lambda said: {})
    branches = DraftedBranches(decoder, PROMPT, draft)
    branches.logits([(100,), (7,)])
    branches.logits([(100, 101), (100, 8)])
    assert all(text[:2] in {(100, 101), (100, 8)} for text in branches._rows)
    assert all(row.base is None for row in branches._rows.values())  # none is part of an array that is kept as a whole
    assert decoder.asked == [draft, (7, *draft[1:]), (100, 8, *draft[2:])]


def test_a_text_without_a_beginning_is_refused():
    branches = DraftedBranches(OneText(lambda said: {}), PROMPT, ())
    branches.logits([(5,)])
    with pytest.raises(ValueError, match="more than a token longer than any before"):
        branches.logits([(6, 7)])
