"""Beam search: the likeliest of several texts, by the rules of greedy decoding."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper_runtime.beam_search import BeamDecoder
from whisper_runtime.decoding import EOT_MARGIN, GreedyDecoder
from whisper_runtime.loops import LONG_PHRASE
from whisper_runtime.text_decoder import BranchingDecoder
from whisper_runtime.token_rules import TokenRules

from tests.scripted_texts import ENDLESS, VOCABULARY, WORDS, babble

LIMIT = 30
LOWEST = 10.0  # of the logits in a script: the others, which are zero, are not among the likeliest


class Scripted:
    """A decoder whose logits after a text are what a script makes of it; all others are zero."""

    name = "scripted"
    prompt_limit = 100
    beam_size = 5
    doubtful_logprob = -0.25

    def __init__(self, script):
        self.script = script
        self.calls = 0
        self.begun = {()}

    def begin(self, features):
        pass

    def also(self, features):
        pass

    def room(self, prompt, text):
        return 0

    def logits(self, prompt, text, rows):
        self.calls += 1
        return np.stack([self._row(text[: max(0, row + 1 - len(prompt))]) for row in rows])

    def branches(self, prompt, texts):
        self.calls += 1
        assert all(tuple(text[:-1]) in self.begun for text in texts)
        self.begun |= {tuple(text) for text in texts}
        return np.stack([self._row(text) for text in texts])

    def _row(self, text):
        row = np.zeros(VOCABULARY, np.float32)
        for token, value in self.script(list(text)).items():
            row[token] = value
        return row


def search(tokenizer, script, size=5, *, seconds=ENDLESS, timestamps=False, limit=LIMIT):
    decoder = Scripted(script)
    assert isinstance(decoder, BranchingDecoder)
    rules = TokenRules(tokenizer, timestamps)
    prompt = tokenizer.sot_sequence(timestamps=timestamps)
    return BeamDecoder(decoder, tokenizer, size, limit).decode(prompt, rules, seconds), decoder


def greedy(tokenizer, script, *, seconds, timestamps, limit):
    prompt = tokenizer.sot_sequence(timestamps=timestamps)
    return GreedyDecoder(Scripted(script), tokenizer, limit).decode(prompt, TokenRules(tokenizer, timestamps), seconds)


SCRIPTS = {
    "seed": st.integers(0, 999),
    "spread": st.sampled_from([0, 1, 2, 50, 50]),  # 0: the same word for ever
    "words": st.sampled_from([3, 40, 200]),
    "seconds": st.sampled_from([0.0, 3.0, ENDLESS]),
    "timestamps": st.booleans(),
    "limit": st.sampled_from([1, 2, 10, LIMIT]),
}


@settings(max_examples=80, deadline=None)
@given(**SCRIPTS)
def test_one_beam_is_greedy(tokenizer, seed, spread, words, seconds, timestamps, limit):
    script = babble(tokenizer, seed, spread, words, timestamps, LOWEST)
    options = {"seconds": seconds, "timestamps": timestamps, "limit": limit}
    found, _ = search(tokenizer, script, 1, **options)
    expected = greedy(tokenizer, script, **options)
    if expected.looped:
        return  # the search may have found the end beside the loop's last token
    assert (found.tokens, found.looped) == (expected.tokens, expected.looped)
    assert found.avg_logprob == pytest.approx(expected.avg_logprob, abs=1e-4)
    assert found.no_speech_prob == pytest.approx(expected.no_speech_prob)


@settings(max_examples=40, deadline=None)
@given(**SCRIPTS, size=st.integers(1, 6))
def test_any_text_obeys_the_rules(tokenizer, seed, spread, words, seconds, timestamps, limit, size):
    script = babble(tokenizer, seed, spread, words, timestamps, LOWEST)
    found, _ = search(tokenizer, script, size, seconds=seconds, timestamps=timestamps, limit=limit)
    assert len(found.tokens) <= limit
    rules = TokenRules(tokenizer, timestamps)
    for index, token in enumerate(found.tokens):
        logits = np.zeros(VOCABULARY, np.float32)
        for other, value in script(found.tokens[:index]).items():
            logits[other] = value
        rules.apply(logits, found.tokens[:index], seconds)
        assert np.isfinite(logits[token])


def test_a_wrong_first_word_is_not_the_end_of_it(tokenizer):
    """Greedy takes the word that is likelier by a little, and behind it nothing fits."""
    good, bad = WORDS[0], WORDS[1]
    right = [good, *WORDS[2:8]]

    def script(said):
        if not said:
            return {bad: 20.0, good: 19.5}
        if said == right[: len(said)]:
            return {right[len(said)] if len(said) < len(right) else tokenizer.eot: 20.0}
        return {**dict.fromkeys(WORDS[100:110], 20.0), tokenizer.eot: 19.9}

    assert greedy(tokenizer, script, seconds=ENDLESS, timestamps=False, limit=LIMIT).tokens[0] == bad
    found, _ = search(tokenizer, script)
    assert found.tokens == tuple(right)
    sure = -np.log1p(np.exp(0.5))  # of the good word; of the rest there is no doubt
    assert found.avg_logprob == pytest.approx(sure / (len(right) + 1), abs=0.01)


def test_with_room_for_all_it_is_the_likeliest_of_all(tokenizer):
    """Every text of up to three of two words, each step with its own likelihoods."""
    for seed in range(20):
        random = np.random.default_rng(seed)
        texts = [text for length in range(4) for text in itertools.product(WORDS[:2], repeat=length)]
        table = {
            text: dict(zip((*WORDS[:2], tokenizer.eot), random.uniform(20, 22, 3).tolist(), strict=True))
            for text in texts
        }
        for text in texts:
            if len(text) == 3:
                table[text] = {tokenizer.eot: 30.0}
        found, _ = search(tokenizer, lambda said, table=table: table[tuple(said)], 40)
        assert found.tokens == max(texts[1:], key=lambda text: _mean_logprob(table, text, tokenizer.eot))


def _mean_logprob(table, text, eot):
    logprobs = []
    for index, token in enumerate((*text, eot)):
        values = {key: value for key, value in table[text[:index]].items() if index or key != eot}
        logprobs.append(values[token] - np.log(np.exp(list(values.values())).sum()))
    return np.mean(logprobs)


def test_a_loop_is_only_taken_if_there_is_nothing_else(tokenizer):
    phrase = list(WORDS[: LONG_PHRASE + 1])
    way_out = [WORDS[50], WORDS[51]]

    def looping(said):
        place = len(said) % len(phrase)
        return {phrase[place]: 20.0}

    found, _ = search(tokenizer, looping, seconds=1.0)
    assert found.looped
    assert found.tokens == tuple(phrase)

    def with_a_way_out(said):
        if said[-2:] == way_out:
            return {tokenizer.eot: 20.0}
        if said[-1:] == way_out[:1]:
            return {way_out[1]: 20.0}
        return {**looping(said), way_out[0]: 17.5} if len(said) == len(phrase) else looping(said)

    found, _ = search(tokenizer, with_a_way_out, seconds=1.0)
    assert not found.looped
    assert found.tokens == (*phrase, *way_out)


def test_a_text_without_end_does_not_beat_one_that_has_ended(tokenizer):
    """The longer it gets, the better is its mean."""
    right = list(WORDS[:6])

    def script(said):
        if not said:
            return {right[0]: 20.0, WORDS[150]: 19.5}
        if said[0] == right[0]:
            return {[*right, tokenizer.eot][len(said)]: 14.0}
        return {WORDS[(7 * len(said)) % 200]: 20.0}

    found, _ = search(tokenizer, script, 3, limit=200)
    assert found.tokens == tuple(right)


def test_what_has_no_chance_any_more_is_not_followed(tokenizer):
    """One text ends without doubt; the others would go on for ever."""
    right = list(WORDS[:6])

    def script(said):
        if said == right[: len(said)]:
            return {[*right, tokenizer.eot][len(said)]: 20.0, WORDS[150]: 17.5}
        return dict.fromkeys(WORDS[100:140], 20.0)

    found, decoder = search(tokenizer, script, 3, limit=200)
    assert found.tokens == tuple(right)
    assert decoder.calls < 15


def test_what_was_said_once_is_not_said_twice(tokenizer):
    """Behind the first round the end is as near as behind the second."""
    text = tokenizer.encode(" Go forward 10 meters.")

    def script(said):
        place = len(said) % len(text)
        if said and not place:
            return {text[0]: 20.0 - (len(said) > len(text)) * 5, tokenizer.eot: 19.8}
        return {text[place]: 20.0}

    found, _ = search(tokenizer, script, 1, seconds=ENDLESS)
    assert found.tokens == tuple(text)


@pytest.mark.parametrize(("seconds", "rounds"), [(2.0, 1), (4.0, 2)])
def test_an_echo_loses_to_a_text_without_one(tokenizer, seconds, rounds):
    once = tokenizer.encode(" He came out of the hole in that bank.")
    again = tokenizer.encode(" He came out from the hole in that bank.")

    def script(said):
        if len(said) == len(once):
            return {again[0]: 20.0, tokenizer.eot: 17.5}
        return {[*once, *again, tokenizer.eot][len(said)]: 30.0}

    found, _ = search(tokenizer, script, seconds=seconds)
    assert found.tokens == tuple([*once, *again][: rounds * len(once)])
    assert not found.looped


@pytest.mark.parametrize(("short_of", "ends"), [(0.5, True), (1.5, False)])
def test_the_end_is_preferred_within_its_margin(tokenizer, short_of, ends):
    steps = [{5900: 30.0}, {5901: 30.0, tokenizer.eot: 30.0 - short_of * EOT_MARGIN}, {tokenizer.eot: 30.0}]
    found, _ = search(tokenizer, lambda said: steps[len(said)], 1, seconds=0.1)
    assert found.tokens == ((5900,) if ends else (5900, 5901))


@pytest.mark.parametrize("limit", [1, 7, LIMIT])
def test_a_text_is_no_longer_than_the_limit(tokenizer, limit):
    found, decoder = search(tokenizer, lambda said: {WORDS[len(said)]: 20.0}, limit=limit)
    assert found.tokens == tuple(WORDS[:limit])
    assert not found.looped
    assert decoder.calls == limit


def test_logits_that_are_no_numbers_end_too(tokenizer):
    """What a broken graph gives must not become a traceback."""
    found, _ = search(tokenizer, lambda said: dict.fromkeys(range(VOCABULARY), np.nan))
    assert len(found.tokens) <= LIMIT


def test_no_speech_is_the_one_after_sot(tokenizer):
    prompt = tokenizer.sot_sequence()

    class Silent(Scripted):
        def logits(self, asked, text, rows):
            logits = super().logits(asked, text, rows)
            logits[[row == prompt.index(tokenizer.sot) for row in rows], tokenizer.no_speech] = 30.0
            return logits

    silent = Silent(lambda said: {5900 if not said else tokenizer.eot: 20.0})
    found = BeamDecoder(silent, tokenizer, 3).decode(prompt, TokenRules(tokenizer), ENDLESS)
    assert found.no_speech_prob == pytest.approx(1.0, abs=1e-4)
    assert found.tokens == (5900,)
