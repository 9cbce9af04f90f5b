"""The rules forbid what openai-whisper's own filters forbid, and what differs is meant to."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper_runtime import token_rules
from whisper_runtime.token_rules import SECONDS_PER_TIMESTAMP, TokenRules
from whisper_runtime.tokenizer import Tokenizer

RANKS = {51864: "gpt2.tiktoken", 51865: "multilingual.tiktoken"}


@pytest.fixture(scope="module", params=RANKS)
def tokenizer(request, whisper_assets):
    return Tokenizer.from_file(whisper_assets / RANKS[request.param], request.param)


@pytest.fixture(scope="module")
def stock(stock_whisper, tokenizer):
    """Applies openai-whisper's filters with its default options to float32 logits, out of place."""
    import torch

    decoding, names = stock_whisper.decoding, stock_whisper.tokenizer
    theirs = names.get_tokenizer(tokenizer.multilingual, num_languages=99, language="en", task="transcribe")
    suppressed = (*theirs.non_speech_tokens, theirs.transcribe, theirs.translate, theirs.sot, theirs.sot_prev)
    suppressed += (theirs.sot_lm, theirs.no_speech)  # as DecodingTask._get_suppress_tokens

    def apply(logits, text, timestamps):
        prompt = list(theirs.sot_sequence if timestamps else theirs.sot_sequence_including_notimestamps)
        assert prompt == list(tokenizer.sot_sequence(timestamps=timestamps))
        filters = [
            decoding.SuppressBlank(theirs, len(prompt)),
            decoding.SuppressTokens(suppressed),
        ]
        if timestamps:
            latest_first = round(decoding.DecodingOptions().max_initial_timestamp / SECONDS_PER_TIMESTAMP)
            filters.append(decoding.ApplyTimestampRules(theirs, len(prompt), latest_first))
        batch = torch.from_numpy(logits.copy()[None])
        for rule in filters:
            rule.apply(batch, torch.tensor([[*prompt, *text]]))
        return batch[0].numpy()

    return apply


def draw_logits(random, tokenizer, bias):
    """Random logits, with the timestamps as a whole more or less likely than a word."""
    logits = random.normal(0, 2, tokenizer.n_vocab).astype(np.float32)
    logits[tokenizer.timestamp_begin :] += np.float32(bias)
    # What stock lets pass, though it is no text: see the next test.
    logits[tokenizer.eot + 1 : tokenizer.timestamp_begin] = -np.inf
    return logits


def applied(rules, logits, text):
    logits = logits.copy()
    assert rules.apply(logits, text) is None
    return logits


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), steps=st.integers(1, 12))
def test_with_timestamps_the_rules_are_those_of_openai_whisper(tokenizer, stock, seed, steps):
    random = np.random.default_rng(seed)
    rules, text = TokenRules(tokenizer, timestamps=True), []
    for _ in range(steps):
        logits = draw_logits(random, tokenizer, random.uniform(-8, 6))
        ours, theirs = applied(rules, logits, text), stock(logits, text, timestamps=True)
        assert np.array_equal(ours, theirs)  # the same are forbidden, and nothing else is changed
        allowed = np.flatnonzero(ours > -np.inf)
        assert len(allowed)
        # The likeliest, or anything that may follow, so that the text is a legal one.
        token = int(ours.argmax()) if random.random() < 0.5 else int(random.choice(allowed))
        if token == tokenizer.eot:
            break
        text.append(token)


@settings(max_examples=15, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_also_after_a_text_that_breaks_the_rules(tokenizer, stock, data, seed):
    """A draft may hold any tokens."""
    begin = tokenizer.timestamp_begin
    tokens = st.integers(0, tokenizer.eot - 1) | st.integers(begin, tokenizer.n_vocab - 1)
    text = data.draw(st.lists(tokens, min_size=1, max_size=6))
    random = np.random.default_rng(seed)
    logits = draw_logits(random, tokenizer, random.uniform(-8, 6))
    ours = applied(TokenRules(tokenizer, timestamps=True), logits, text)
    assert np.array_equal(ours, stock(logits, text, timestamps=True))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), length=st.integers(0, 5))
def test_without_timestamps_only_the_timestamps_are_forbidden_besides(tokenizer, stock, seed, length):
    random = np.random.default_rng(seed)
    text = random.integers(0, tokenizer.eot, length).tolist()
    logits = draw_logits(random, tokenizer, random.uniform(-8, 6))
    ours, theirs = applied(TokenRules(tokenizer), logits, text), stock(logits, text, timestamps=False)
    begin = tokenizer.timestamp_begin
    assert np.array_equal(ours[:begin], theirs[:begin])
    # A deliberate difference: stock relies on the prompt to keep the model from timestamps.
    assert (ours[begin:] == -np.inf).all()
    assert (theirs[begin:] > -np.inf).all()


@pytest.mark.parametrize("timestamps", [False, True])
@pytest.mark.parametrize("said", [(), (5900,), (5900, 5901, 5902)])
def test_tokens_of_the_prompt_are_never_text(tokenizer, timestamps, said):
    """A deliberate difference: stock forbids neither the languages nor, without timestamps, "no timestamps"."""
    text = [tokenizer.timestamp_begin, *said] if timestamps and said else list(said)
    logits = np.zeros(tokenizer.n_vocab, np.float32)
    logits[tokenizer.timestamp_begin :] = -50.0  # or a timestamp would be due, and everything else forbidden
    specials = applied(TokenRules(tokenizer, timestamps), logits, text)[tokenizer.eot + 1 : tokenizer.timestamp_begin]
    assert (specials == -np.inf).all()


def test_the_first_timestamp_is_an_early_one(tokenizer):
    logits = applied(TokenRules(tokenizer, timestamps=True), np.zeros(tokenizer.n_vocab, np.float32), [])
    allowed = np.flatnonzero(logits > -np.inf)
    assert allowed.tolist() == [tokenizer.timestamp_begin + step for step in range(51)]
    assert allowed[-1] - tokenizer.timestamp_begin == round(1.0 / SECONDS_PER_TIMESTAMP)


def test_a_timestamp_is_due_when_all_together_are_likelier_than_any_word(tokenizer):
    rules, begin = TokenRules(tokenizer, timestamps=True), tokenizer.timestamp_begin
    logits = np.full(tokenizer.n_vocab, -20.0, np.float32)
    logits[5900] = 5.0
    logits[begin + 100 : begin + 200] = 5.0 - np.log(100) - 0.01
    text = [begin, 5900, 5901]
    assert applied(rules, logits, text).argmax() == 5900
    logits[begin + 100 : begin + 200] += 0.02
    assert begin + 100 <= applied(rules, logits, text).argmax() < begin + 200


def test_logits_as_large_as_a_device_may_give_do_not_overflow(tokenizer):
    logits = np.full(tokenizer.n_vocab, 3e4, np.float32)
    with np.errstate(over="raise", invalid="raise"):
        out = applied(TokenRules(tokenizer, timestamps=True), logits, [tokenizer.timestamp_begin, 5900])
    assert out.argmax() > tokenizer.timestamp_begin


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), seconds=st.floats(0.1, 30), before_the_end=st.floats(-1, 5))
def test_a_phrase_that_ends_where_the_sound_does_is_the_last(tokenizer, seed, seconds, before_the_end):
    """A deliberate difference, which other texts than those that end in such a phrase do not notice."""
    random, begin = np.random.default_rng(seed), tokenizer.timestamp_begin
    end = begin + int(np.clip((seconds - before_the_end) / SECONDS_PER_TIMESTAMP, 1, 1500))
    logits = draw_logits(random, tokenizer, random.uniform(-8, 6))
    rules = TokenRules(tokenizer, timestamps=True)

    def allowed(text, seconds):
        changed = logits.copy()
        rules.apply(changed, text, seconds)
        return np.flatnonzero(changed > -np.inf).tolist()

    ended = [begin, 5900, end]
    is_last = (end - begin) * SECONDS_PER_TIMESTAMP >= seconds - token_rules._LAST_PHRASE_SECONDS
    assert allowed(ended, seconds) == ([tokenizer.eot] if is_last else allowed(ended, np.inf))
    for text in ([], [begin], [begin, 5900], [*ended, end], [*ended, end, 5900]):
        assert allowed(text, seconds) == allowed(text, np.inf)
