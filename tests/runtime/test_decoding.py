"""Greedy decoding: which tokens are taken, when a text ends, and that a draft saves calls and changes nothing."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from whisper_runtime import decoding
from whisper_runtime.backends.onnxruntime import OnnxRuntimeBackend
from whisper_runtime.beam_search import BeamDecoder
from whisper_runtime.decoding import (
    ECHO_LETTERS_PER_SECOND,
    EOT_MARGIN,
    TOKENS_PER_SECOND,
    GreedyDecoder,
)
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.loops import LONG_PHRASE, loop_length
from whisper_runtime.slot_decoder import SlotDecoder
from whisper_runtime.token_rules import SECONDS_PER_TIMESTAMP, TokenRules
from whisper_toolchain.export import export_graphs
from whisper_toolchain.model import build_model
from whisper_toolchain.shape_plan import Dimensions, ShapePlan

from tests.drafts import edited
from tests.scripted_texts import ENDLESS, VOCABULARY, WORDS, babble

LIMIT = 40


class Scripted:
    """A decoder that says what it is told: `script(text)` gives the logits that are not 0 after a text.

    For rows within the prompt the text is None. Guesses fit until the text fills the slots; then they are empty again.
    """

    name = "scripted"

    def __init__(self, script, slots=1000):
        self.script, self.slots = script, slots
        self.calls = 0
        self.seen = []

    def begin(self, features):
        pass

    def room(self, prompt, text):
        return self.slots - text % self.slots if self.slots else 0

    def logits(self, prompt, text, rows):
        assert list(rows) == sorted(set(rows))
        known = min(row for row in rows if row >= len(prompt) - 1) + 1 - len(prompt)
        assert len(text) - known <= self.room(len(prompt), known)
        self.calls += 1
        self.seen.append((list(text), list(rows)))
        logits = np.zeros((len(rows), VOCABULARY), np.float32)
        for target, row in zip(logits, rows, strict=True):
            said = self.script(list(text[: max(0, row + 1 - len(prompt))]) if row >= len(prompt) - 1 else None)
            for token, value in said.items():
                target[token] = value
        return logits


def saying(text, eot):
    """The script of one text."""
    return lambda said: {} if said is None else {text[len(said)] if len(said) < len(text) else eot: 9.0}


def decode(tokenizer, script, draft=(), *, seconds=ENDLESS, timestamps=False, limit=LIMIT, slots=1000):
    decoder = Scripted(script, slots)
    prompt = tokenizer.sot_sequence(timestamps=timestamps)
    rules = TokenRules(tokenizer, timestamps)
    return GreedyDecoder(decoder, tokenizer, limit).decode(prompt, rules, seconds, draft), decoder


def log_softmax(logits):
    logits = logits.astype(np.float64)
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


# What is taken


def test_the_script_is_followed_to_its_end(tokenizer):
    text = tokenizer.encode(" Hello there, world")
    decoded, decoder = decode(tokenizer, saying(text, tokenizer.eot))
    assert decoded.tokens == tuple(text)
    assert not decoded.looped
    assert decoder.calls == len(text) + 1
    assert [said for said, _ in decoder.seen] == [text[:end] for end in range(len(text) + 1)]
    assert [rows for _, rows in decoder.seen] == [[0, 1], *([2 + index] for index in range(len(text)))]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), timestamps=st.booleans())
def test_each_token_is_the_likeliest_that_may_follow(tokenizer, seed, timestamps):
    random = np.random.default_rng(seed)
    table = random.normal(0, 3, (LIMIT + 1, VOCABULARY)).astype(np.float32)

    def script(said):
        return dict(enumerate(table[len(said or [])].tolist()))

    decoded, _ = decode(tokenizer, script, timestamps=timestamps, limit=8)
    rules = TokenRules(tokenizer, timestamps)
    logprobs = []
    for index in range(len(decoded.tokens) + 1):
        allowed = table[index].copy()
        rules.apply(allowed, decoded.tokens[:index])
        token = int(allowed.argmax())
        logprobs.append(log_softmax(allowed)[token])
        if index == len(decoded.tokens):
            assert token == tokenizer.eot or len(decoded.tokens) == 8
        else:
            assert token == decoded.tokens[index]
    if len(decoded.tokens) == 8:
        logprobs.pop()  # it did not come to that
    assert decoded.avg_logprob == pytest.approx(np.mean(logprobs), abs=1e-4)


def test_suppressed_tokens_and_timestamps_are_never_taken(tokenizer):
    forbidden = [*tokenizer.suppress_tokens, *range(tokenizer.no_timestamps, VOCABULARY)]
    loud = dict.fromkeys(forbidden, 50.0)
    text = list(WORDS[:10])
    decoded, _ = decode(tokenizer, lambda said: {**loud, **saying(text, tokenizer.eot)(said)})
    assert decoded.tokens == tuple(text)
    assert decoded.avg_logprob > -5


def test_blank_and_end_are_forbidden_at_the_first_position_only(tokenizer):
    (space,) = tokenizer.encode(" ")
    steps = [{space: 9.0, tokenizer.eot: 8.0, 5900: 7.0}, {space: 9.0}, {tokenizer.eot: 9.0}]
    decoded, _ = decode(tokenizer, lambda said: steps[len(said or [])])
    assert decoded.tokens == (5900, space)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), timestamps=st.booleans(), in_english=st.booleans())
def test_any_logits_give_text_and_timestamps_only(tokenizer, multilingual, seed, timestamps, in_english):
    tokenizer = tokenizer if in_english else multilingual
    specials = [*range(tokenizer.eot, tokenizer.timestamp_begin)]

    def script(said):
        random = np.random.default_rng([seed, len(said or [])])
        tokens = [*random.integers(0, VOCABULARY, 50), *random.choice(specials, 8)]
        return dict(zip(map(int, tokens), random.normal(10, 3, 58).tolist(), strict=True))

    decoded, _ = decode(tokenizer, script, timestamps=timestamps, limit=16)
    assert len(decoded.tokens) <= 16
    assert not {*decoded.tokens} & {*tokenizer.suppress_tokens, *specials}
    assert timestamps or all(token < tokenizer.timestamp_begin for token in decoded.tokens)
    assert decoded.avg_logprob <= 0
    assert 0 <= decoded.no_speech_prob <= 1


# When it ends


@pytest.mark.parametrize(
    ("short_of", "ends"), [(0.0, True), (EOT_MARGIN - 0.01, True), (EOT_MARGIN + 0.01, False), (20.0, False)]
)
def test_end_of_text_is_preferred_within_its_margin(tokenizer, short_of, ends):
    text = list(WORDS[:5])

    def script(said):
        said = said or []
        if len(said) == 5:
            return {6000: 30.0, tokenizer.eot: 30.0 - short_of}
        return {[*text, 0, tokenizer.eot][len(said)]: 30.0}

    decoded, _ = decode(tokenizer, script, seconds=5 / TOKENS_PER_SECOND)
    assert decoded.tokens == (*text, *(() if ends else (6000,)))


def test_the_margin_counts_only_once_there_is_enough_text_for_the_sound(tokenizer):
    def script(said):
        return {WORDS[len(said or [])]: 30.0, tokenizer.eot: 30.0 - 0.5 * EOT_MARGIN}

    for count in (1, 4, 9):
        decoded, _ = decode(tokenizer, script, seconds=count / TOKENS_PER_SECOND)
        assert decoded.tokens == tuple(WORDS[:count])
    decoded, _ = decode(tokenizer, script, seconds=0.0)
    assert decoded.tokens == tuple(WORDS[:1])  # not at first
    decoded, _ = decode(tokenizer, script, seconds=ENDLESS)
    assert decoded.tokens == tuple(WORDS[:LIMIT])


def test_the_end_that_the_margin_prefers_has_its_own_probability(tokenizer):
    short_of = 0.5 * EOT_MARGIN
    steps = [{5900: 30.0}, {5901: 30.0, tokenizer.eot: 30.0 - short_of}]
    decoded, _ = decode(tokenizer, lambda said: steps[len(said or [])], seconds=0.1)
    assert decoded.tokens == (5900,)
    assert decoded.avg_logprob == pytest.approx(0.5 * (-short_of - np.log1p(np.exp(-short_of))), abs=1e-3)


@pytest.mark.parametrize(("seconds", "phrases"), [(5.0, 2), (4.0, 1), (30.0, 3)])
def test_with_timestamps_the_text_ends_where_the_sound_does(tokenizer, seconds, phrases):
    at = [tokenizer.timestamp_begin + round(time / SECONDS_PER_TIMESTAMP) for time in (0, 4, 4, 5, 5, 6)]
    text = [token for index in range(3) for token in (at[2 * index], 5900 + index, at[2 * index + 1])]
    decoded, _ = decode(tokenizer, saying(text, tokenizer.eot), seconds=seconds, timestamps=True)
    assert decoded.tokens == tuple(text[: 3 * phrases])


def test_a_loop_ends_the_text(tokenizer):
    phrase = list(WORDS[: LONG_PHRASE + 1])
    decoded, decoder = decode(tokenizer, saying([900, *phrase * 50], tokenizer.eot), seconds=1.0)
    assert decoded.tokens == (900, *phrase)
    assert decoded.looped
    assert decoder.calls == 1 + 2 * len(phrase)
    assert np.isfinite(decoded.avg_logprob)


def test_what_is_said_twice_in_its_time_is_kept(tokenizer):
    text = tokenizer.encode(" My number is 020 7946 0958, 020 7946 0958, thanks.")
    decoded, _ = decode(tokenizer, saying(text, tokenizer.eot), seconds=8.0)
    assert decoded.tokens == tuple(text)
    assert not decoded.looped


ECHO = " He came out of the hole in that bank. He came out from the hole in that bank."


@pytest.mark.parametrize(("seconds", "rounds"), [(2.0, 1), (4.0, 2)])
def test_an_echo_is_left_out_of_a_text_that_nobody_speaks_that_fast(tokenizer, seconds, rounds):
    text = tokenizer.encode(ECHO)
    assert sum(map(str.isalnum, ECHO)) / 4.0 < ECHO_LETTERS_PER_SECOND < sum(map(str.isalnum, ECHO)) / 2.0
    decoded, _ = decode(tokenizer, saying(text, tokenizer.eot), seconds=seconds)
    assert decoded.tokens == tuple(text[: rounds * len(text) // 2])
    assert decoded.looped == (rounds == 1)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (" My number is 0-7-7-0-0-9-0-0-1-2-3, that's 0-7-7-0-0-9-0-0-1-2-8.", 7.0),
        (" Turn on the light in the kitchen at 7.30 p.m. Turn on the light in the bathroom at 8.30 p.m.", 5.5),
        (" मेरा नाम राम है और मैं दिल्ली में रहता हूँ। मेरा नाम श्याम है और मैं दिल्ली में रहता हूँ।", 6.0),
        (" Ο Κώστας πήγε στην αγορά το πρωί. Η Μαρία πήγε στην αγορά το πρωί.", 5.0),
    ],
)
def test_what_people_say_twice_with_other_words_is_kept(multilingual, text, seconds):
    """In more tokens a second than English prose has."""
    tokens = multilingual.encode(text)
    assert len(tokens) > 4.0 * seconds
    found, _ = decode(multilingual, saying(tokens, multilingual.eot), seconds=seconds, limit=decoding.TEXT_LIMIT)
    assert found.tokens == tuple(tokens)


@pytest.mark.parametrize("limit", [1, 7, LIMIT])
def test_a_text_is_no_longer_than_the_limit(tokenizer, limit):
    decoded, decoder = decode(tokenizer, saying(WORDS, tokenizer.eot), limit=limit)
    assert decoded.tokens == tuple(WORDS[:limit])
    assert not decoded.looped
    assert decoder.calls == limit


def test_the_limit_is_that_of_whisper(tokenizer):
    decoder = Scripted(saying(range(1000, 2000), tokenizer.eot))
    text = [token for token in range(1000, 2000) if token not in tokenizer.suppress_tokens]
    decoder.script = saying(text, tokenizer.eot)
    decoded = GreedyDecoder(decoder, tokenizer).decode(tokenizer.sot_sequence(), TokenRules(tokenizer), ENDLESS)
    assert decoded.tokens == tuple(text[: 448 // 2])


# How likely


@pytest.mark.parametrize("timestamps", [False, True])  # with them, the sot is the prompt's last token
@pytest.mark.parametrize("in_english", [False, True])
@pytest.mark.parametrize("draft", [(), (5900, 5901)])
def test_no_speech_is_a_probability_of_the_raw_logits_after_sot(tokenizer, multilingual, timestamps, in_english, draft):
    tokenizer = tokenizer if in_english else multilingual
    prompt = tokenizer.sot_sequence(timestamps=timestamps)
    raw = np.random.default_rng(3).normal(0, 2, VOCABULARY).astype(np.float32)
    raw[tokenizer.no_speech] = 11.0
    raw[tokenizer.suppress_tokens[0]] = 11.5  # would be suppressed

    class Recorded(Scripted):
        def logits(self, prompt, text, rows):
            logits = super().logits(prompt, text, rows)
            logits[[row == 0 for row in rows]] = raw
            return logits

    decoder = Recorded(saying([5900, 5901], tokenizer.eot))
    decoded = GreedyDecoder(decoder, tokenizer).decode(prompt, TokenRules(tokenizer, timestamps), 1.0, draft)
    assert decoded.no_speech_prob == pytest.approx(np.exp(log_softmax(raw)[tokenizer.no_speech]), rel=1e-4)
    assert 0 in decoder.seen[0][1]


# Drafts


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    seed=st.integers(0, 999),
    spread=st.sampled_from([0, 1, 2, 2, 50, 50]),  # 0: the same word for ever
    words=st.sampled_from([3, 40, 200]),
    seconds=st.sampled_from([0.0, 3.0, ENDLESS]),
    timestamps=st.booleans(),
    limit=st.sampled_from([1, 2, 10, LIMIT, LIMIT]),
    slots=st.sampled_from([1, 2, 3, 8, 1000]),
)
def test_a_draft_changes_nothing(tokenizer, data, seed, spread, words, seconds, timestamps, limit, slots):
    script = babble(tokenizer, seed, spread, words, timestamps)
    options = {"seconds": seconds, "timestamps": timestamps, "limit": limit, "slots": slots}
    alone, plain = decode(tokenizer, script, **options)
    others = st.sampled_from([*WORDS[:words], tokenizer.eot, tokenizer.sot, 0, VOCABULARY - 1, *alone.tokens])
    draft = edited(data, list(alone.tokens), others)
    kept = tuple(draft)
    drafted, decoder = decode(tokenizer, script, draft, **options)
    assert drafted == alone
    assert decoder.calls <= plain.calls
    assert tuple(draft) == kept


def test_a_perfect_draft_needs_one_call(tokenizer):
    text = list(WORDS[:20])
    for draft in (text, [*text, tokenizer.eot], tuple(text), np.array(text)):
        decoded, decoder = decode(tokenizer, saying(text, tokenizer.eot), draft)
        assert decoded.tokens == tuple(text)
        assert decoder.calls == 1
        assert decoder.seen[0] == (list(draft), [0, *range(1, 2 + len(draft))])


def test_a_perfect_draft_of_a_text_at_the_limit_needs_one_call(tokenizer):
    decoded, decoder = decode(tokenizer, saying(WORDS, tokenizer.eot), WORDS, limit=10)
    assert decoded.tokens == tuple(WORDS[:10])
    assert decoder.calls == 1


@pytest.mark.parametrize(
    ("draft", "most"),
    [
        (lambda text: text[:12], 1 + 8),
        (lambda text: [*text, 6050, 6051, 6052], 1),
        (lambda text: [*text[:7], 6050, *text[8:]], 2),
        (lambda text: [*text[:7], 6050, *text[7:]], 2),
        (lambda text: [*text[:7], *WORDS[150 : 150 + decoding._REALIGN], *text[7:]], 2),
        (lambda text: [*text[:7], *text[8:]], 3),
        (lambda text: [*text[:7], *text[9:]], 4),
        (lambda text: [*text[:3], *text[4:9], 6050, *text[9:15], 6051, *text[16:]], 6),
    ],
    ids=[
        "beginning",
        "more",
        "other token",
        "token too many",
        "several too many",
        "one missing",
        "two missing",
        "three edits",
    ],
)
def test_a_draft_with_a_fault_still_saves_what_is_right(tokenizer, draft, most):
    text = list(WORDS[:20])
    decoded, decoder = decode(tokenizer, saying(text, tokenizer.eot), draft(text))
    assert decoded.tokens == tuple(text)
    assert decoder.calls <= most


def test_a_decoder_without_room_is_not_given_guesses(tokenizer):
    text = list(WORDS[:6])
    decoded, decoder = decode(tokenizer, saying(text, tokenizer.eot), text, slots=0)
    assert decoded.tokens == tuple(text)
    assert [said for said, _ in decoder.seen] == [text[:end] for end in range(7)]


# A toy model with the real vocabulary

DIMS = Dimensions(80, 50, 16, 2, 1, VOCABULARY, 80, 16, 2, 1)
ROOMY, IN_BLOCKS, TIGHT = 48, 18, 9  # a text leaves the second in blocks of several tokens, the last one by one


@pytest.fixture(scope="module")
def toy(patched_whisper, sure_checkpoint, tmp_path_factory):
    """The toy's decoder with a number of slots, and its encoder."""
    checkpoint = sure_checkpoint(DIMS, 8)
    state = checkpoint.state
    # The text follows from the positions, or the toy would only repeat its prompt.
    state["decoder.positional_embedding"] *= 3
    model = build_model(patched_whisper, checkpoint, 50)
    embedding = TokenEmbedding(state["decoder.token_embedding.weight"], state["decoder.positional_embedding"])
    made = {}
    for sequence in (ROOMY, IN_BLOCKS, TIGHT):
        folder = tmp_path_factory.mktemp(f"toy-{sequence}")
        export_graphs(model, ShapePlan("toy", "hailo8", 1, sequence, DIMS), folder)
        backend = OnnxRuntimeBackend(folder / "encoder.onnx", folder / "decoder.onnx", threads=1)
        made[sequence] = backend, SlotDecoder(backend, embedding, sequence)
    return made


def picture(toy, seed):
    backend, _ = toy[ROOMY]
    return backend.encode(np.random.default_rng(seed).uniform(-1, 1.5, (1, 100, 80)).astype(np.float32))


def features(toy, sequence, seed):
    _, slots = toy[sequence]
    slots.begin(picture(toy, seed))
    return slots


def decode_toy(toy, tokenizer, sequence, seed, draft=(), timestamps=False, seconds=ENDLESS, limit=LIMIT):
    slots = features(toy, sequence, seed)
    before = slots.calls
    prompt, rules = tokenizer.sot_sequence(timestamps=timestamps), TokenRules(tokenizer, timestamps)
    decoded = GreedyDecoder(slots, tokenizer, limit).decode(prompt, rules, seconds, draft)
    return decoded, slots.calls - before


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    seed=st.integers(0, 5),
    sequence=st.sampled_from([ROOMY, IN_BLOCKS, TIGHT]),
    timestamps=st.booleans(),
    seconds=st.sampled_from([1.0, ENDLESS]),
)
def test_a_draft_changes_no_bit_of_a_graphs_text(toy, tokenizer, data, seed, sequence, timestamps, seconds):
    options = {"timestamps": timestamps, "seconds": seconds}
    alone, plain = decode_toy(toy, tokenizer, sequence, seed, **options)
    others = st.integers(0, VOCABULARY - 1) | st.sampled_from([0, *alone.tokens])
    drafted, calls = decode_toy(toy, tokenizer, sequence, seed, edited(data, list(alone.tokens), others), **options)
    assert drafted == alone  # probabilities too
    assert calls <= plain
    exact, calls = decode_toy(toy, tokenizer, sequence, seed, alone.tokens, **options)
    assert exact == alone
    if not alone.looped and sequence == ROOMY:
        assert calls == 1


def test_the_toys_texts_slide_and_differ(toy, tokenizer):
    """Or the test above would say nothing."""
    texts = [decode_toy(toy, tokenizer, TIGHT, seed)[0] for seed in range(6)]
    assert sum(len(text.tokens) > 3 * TIGHT for text in texts) >= 3
    assert len({text.tokens for text in texts}) >= 3
    assert min(len({*text.tokens}) for text in texts) > 3


def test_fewer_slots_give_the_same_tokens_as_long_as_they_fit(toy, tokenizer):
    whole, _ = decode_toy(toy, tokenizer, ROOMY, 0)
    cut, _ = decode_toy(toy, tokenizer, TIGHT, 0)
    fitting = TIGHT - len(tokenizer.sot_sequence()) + 1  # the token after the last slot is still seen from all others
    assert len(whole.tokens) > fitting  # or the comparison would say nothing
    assert cut.tokens[:fitting] == whole.tokens[:fitting]
    assert len(cut.tokens) > fitting  # it goes on with sliding slots
    assert cut.no_speech_prob == pytest.approx(whole.no_speech_prob, rel=1e-4)


def test_the_text_is_what_a_single_call_over_all_of_it_prefers(toy, tokenizer):
    decoded, _ = decode_toy(toy, tokenizer, ROOMY, 1)
    slots = features(toy, ROOMY, 1)
    prompt = tokenizer.sot_sequence()
    rows = range(1, 1 + len(decoded.tokens))
    logits = slots.logits(prompt, decoded.tokens, rows)
    rules = TokenRules(tokenizer)
    for index, row in enumerate(logits):
        rules.apply(row, decoded.tokens[:index])
    assert len({*decoded.tokens}) > 10
    assert logits.argmax(-1).tolist() == list(decoded.tokens)


# What else


def test_a_prompt_that_fills_the_slots_is_refused(toy, tokenizer):
    slots = features(toy, TIGHT, 0)
    prompt = [tokenizer.sot] * TIGHT
    with pytest.raises(ValueError, match=f"a prompt of {TIGHT} leaves none of the {TIGHT} slots for text"):
        GreedyDecoder(slots, tokenizer).decode(prompt, TokenRules(tokenizer), 1.0)


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), max_size=30))
def test_no_text_ends_in_a_loop(tokenizer, words):
    assume(words)
    text = [5900 + word for word in words]
    decoded, _ = decode(tokenizer, saying(text, tokenizer.eot), seconds=1.0)
    assert loop_length(decoded.tokens) == 0
    assert decoded.looped == (decoded.tokens != tuple(text))


# A phrase twice


def saying_twice(phrase, eot, lead, end_lead, mark=()):
    """The script of a phrase twice: how far the end of text is behind after the first round, and after the second."""
    text = [*phrase, *phrase, *mark]

    def script(said):
        if said is None:
            return {}
        if len(said) == len(phrase):
            return {phrase[0]: 9.0, eot: 9.0 - lead}
        if said == text:
            return {text[0]: 9.0, eot: 9.0 - end_lead} if end_lead > 0 else {eot: 9.0}
        return {text[len(said)]: 9.0}

    return script


@pytest.mark.parametrize(
    ("lead", "end_lead", "rounds"),
    [
        (0.7, 0.8, 1),  # "Go forward 10 meters." as tiny reads it in a window of 10 s
        (2.3, 1.8, 1),
        (1.5, 0.0, 2),
        (3.7, 1.5, 2),  # the same recording, joined to twice its length
        (4.5, 4.4, 2),  # sure of itself: then it was said
    ],
)
def test_a_phrase_twice_is_kept_if_the_end_of_text_came_nearer(tokenizer, monkeypatch, lead, end_lead, rounds):
    phrase = tokenizer.encode(" Go forward ten meters.")
    monkeypatch.setattr(decoding, "EOT_MARGIN", end_lead)
    for mark in ((), tokenizer.encode("!")):
        script = saying_twice(phrase, tokenizer.eot, lead, end_lead, mark)
        # Two tokens a second from the second round on: before, the text may not end by the margin.
        decoded, _ = decode(tokenizer, script, seconds=len(phrase))
        assert decoded.tokens == (*phrase, *([*phrase, *mark] if rounds == 2 else ()))
        drafted, _ = decode(tokenizer, script, [*phrase, *phrase, *mark], seconds=len(phrase))
        assert drafted == decoded


def test_only_a_whole_text_is_said_twice(tokenizer):
    """Within a text, repetitions are speech until there are so many that they are a loop."""
    text = tokenizer.encode(" Well, go on, go on")
    decoded, _ = decode(tokenizer, saying(text, tokenizer.eot))
    assert decoded.tokens == tuple(text)


def search_toy(toy, tokenizer, sequence, seed, draft=(), pictures=2):
    slots = features(toy, sequence, seed)
    for other in range(1, pictures):
        slots.also(picture(toy, seed + other))
    before = slots.calls
    found = BeamDecoder(slots, tokenizer, 3, LIMIT).decode(
        tokenizer.sot_sequence(), TokenRules(tokenizer), ENDLESS, draft
    )
    return found, slots.calls - before


@settings(max_examples=15, deadline=None)
@given(
    data=st.data(),
    seed=st.integers(0, 5),
    sequence=st.sampled_from([ROOMY, IN_BLOCKS, TIGHT]),
    pictures=st.sampled_from([1, 2, 2]),
)
def test_a_draft_changes_no_bit_of_what_a_search_in_the_slots_finds(toy, tokenizer, data, seed, sequence, pictures):
    alone, plain = search_toy(toy, tokenizer, sequence, seed, pictures=pictures)
    others = st.integers(0, VOCABULARY - 1) | st.sampled_from([0, *alone.tokens])
    draft = tuple(edited(data, list(alone.tokens), others))
    drafted, calls = search_toy(toy, tokenizer, sequence, seed, draft, pictures)
    assert drafted == alone  # probabilities too
    assert calls <= plain
    assert not calls % pictures
    exact, calls = search_toy(toy, tokenizer, sequence, seed, alone.tokens, pictures)
    assert exact == alone
    if sequence == ROOMY:
        assert calls < plain / 2


def test_of_two_pictures_the_slots_give_the_mean_of_the_log_probabilities(toy, tokenizer):
    _, slots = toy[ROOMY]
    prompt, text = tokenizer.sot_sequence(), list(WORDS[:3])
    rows = [len(prompt) - 1, len(prompt) + 2]
    pictures = [picture(toy, seed) for seed in (1, 2)]
    expected = []
    for each in pictures:
        slots.begin(each)
        logits = slots.logits(prompt, text, rows).astype(np.float64)
        expected.append(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))
    slots.begin(pictures[0])
    slots.also(pictures[1])
    calls = slots.calls
    assert np.allclose(slots.logits(prompt, text, rows), np.mean(expected, axis=0), atol=1e-4)
    assert slots.calls - calls == 2
    slots.begin(pictures[0])
    assert np.array_equal(slots.logits(prompt, text, rows).argmax(-1), expected[0].argmax(-1))
