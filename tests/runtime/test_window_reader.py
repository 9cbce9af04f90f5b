"""One window: where the text is doubtful there is another look, and the best text is taken."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper_runtime import window_reader
from whisper_runtime.audio import SAMPLE_RATE as RATE
from whisper_runtime.backends import open_backend
from whisper_runtime.bundle import Bundle
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.loops import loop_length
from whisper_runtime.manifest import Manifest
from whisper_runtime.mel import window_mel
from whisper_runtime.slot_decoder import SlotDecoder
from whisper_runtime.token_rules import TokenRules
from whisper_runtime.window_reader import DOUBTFUL_LOGPROB, LOOKS, Look, Prompt, Reading, WindowReader
from whisper_runtime.windows import Window
from whisper_toolchain.export import export_graphs
from whisper_toolchain.model import build_model
from whisper_toolchain.shape_plan import Dimensions, ShapePlan

from tests.scripted_texts import VOCABULARY

SECONDS = 2
SURE, WORSE, WORST = 0, 15, 40  # how many other tokens there are, none of them nearly as likely
LEAD = 3.0  # of the token that is said, in logits

ONE, OTHER = " What is this about?", " What was that about?"
LOOP = " I did not know that." * 2
# No phrase follows itself, but all is the same.
NUMBERS = ["one", "two", "six", "ten", "four", "five", "nine", "three", "seven", "eight", "eleven", "twelve"]
ROUND = "".join(f" then we all went out to buy {number} of the apples, and" for number in NUMBERS)


class Ear:
    """A backend that keeps the mels it is given; features are their numbers."""

    lookahead = 1

    def __init__(self):
        self.mels = []

    def encode(self, mel):
        self.mels.append(mel)
        return len(self.mels) - 1


class Script:
    """A decoder that reads a text in each of the features (the last in all later ones), more or less sure of it."""

    name = "scripted"
    prompt_limit = 100

    def __init__(self, tokenizer, *readings):
        self.tokenizer = tokenizer
        self.readings = [(tokenizer.encode(text), doubt) for text, doubt in readings]
        self.calls = 0
        self.guesses, self.asked = [], []

    def begin(self, features):
        self.text, self.doubt = self.readings[min(features, len(self.readings) - 1)]
        self.fresh = True

    def room(self, prompt, text):
        return 1000

    def logits(self, prompt, text, rows):
        self.calls += 1
        self.asked.append(list(text))
        if self.fresh:
            self.guesses.append(list(text))
            self.fresh = False
        logits = np.full((len(rows), self.tokenizer.n_vocab), -50.0, np.float32)
        for target, row in zip(logits, rows, strict=True):
            said = max(0, row + 1 - len(prompt))
            token = self.text[said] if said < len(self.text) else self.tokenizer.eot
            target[20_000 : 20_000 + self.doubt] = 0.0
            target[token] = LEAD
        return logits


SHIFTS = [look.shift for look in LOOKS]


@pytest.fixture
def read(tokenizer):
    """Reads a window whose first and second picture say what is given."""

    def call(*readings, draft=(), length=SECONDS / 2):
        ear, script = Ear(), Script(tokenizer, *readings)
        reader = WindowReader(ear, script, tokenizer, SECONDS)
        window = Window(8000, np.random.default_rng(1).normal(0, 0.1, round(length * RATE)).astype(np.float32))
        prompt = Prompt(tokenizer.sot_sequence(), TokenRules(tokenizer))
        (reading,) = reader.read(window, reader.encode(window), prompt, draft)
        assert reading.window is window
        return tokenizer.decode(reading.decoded.tokens), reading, ear, script

    return call


def test_the_scripts_are_what_they_should_be(tokenizer):
    """Or the tests below would say nothing."""
    assert -np.log1p(WORSE * np.exp(-LEAD)) < DOUBTFUL_LOGPROB
    for text, compresses in ((ONE, False), (OTHER, False), (ROUND, True)):
        assert all(loop_length(tokenizer.encode(text)[:end]) == 0 for end in range(100))
        assert (len(text) > window_reader._MOST_COMPRESSION * len(zlib.compress(text.encode()))) == compresses


# One look or more


def test_a_sure_window_is_read_once(read):
    text, reading, ear, _ = read((ONE, SURE), (OTHER, SURE))
    assert text == ONE
    assert reading.shift == SHIFTS[0] == 0.0
    assert reading.decoded.avg_logprob >= DOUBTFUL_LOGPROB
    assert len(ear.mels) == 1


def test_a_doubtful_window_is_read_until_the_text_is_sure(read):
    text, reading, ear, _ = read((ONE, WORST), (OTHER, SURE), (ONE, SURE))
    assert text == OTHER
    assert reading.shift == SHIFTS[1]
    assert len(ear.mels) == 2


@pytest.mark.parametrize("likeliest", range(len(SHIFTS)))
def test_of_doubtful_texts_the_likeliest_is_taken(read, likeliest):
    looks = [(OTHER, WORST)] * len(SHIFTS)
    looks[likeliest] = (ONE, WORSE)
    text, reading, ear, _ = read(*looks)
    assert text == ONE
    assert reading.shift == SHIFTS[likeliest]
    assert len(ear.mels) == len(SHIFTS)


def test_of_equal_texts_the_first_is_taken(read):
    _, reading, ear, _ = read((ONE, WORSE))
    assert reading.shift == 0.0
    assert len(ear.mels) == len(SHIFTS)


@pytest.mark.parametrize("texts", [(ONE, ONE * 2), (ONE * 3, ONE), (ONE, ONE.upper() + ONE)])
def test_of_a_text_and_the_same_again_and_again_it_is_taken_once(read, texts):
    """A model is ever surer of what it repeats."""
    doubts = [WORST if text == ONE else WORSE for text in texts]
    text, _, _, _ = read(*zip(texts, doubts, strict=True))
    assert text == ONE


def test_a_window_without_room_is_not_shown_the_same_picture_again(read):
    text, reading, ear, _ = read((ONE, WORST), (OTHER, SURE), length=SECONDS)
    assert text == OTHER
    assert reading.shift == 0.0
    assert len(ear.mels) == 2
    assert not np.array_equal(*ear.mels)


@pytest.mark.parametrize("repetition", [LOOP, ROUND], ids=["loop", "compresses"])
def test_repetition_is_doubtful_however_sure_and_loses(read, repetition):
    text, reading, ear, _ = read((repetition, SURE), (ONE, WORST))
    assert text == ONE
    assert len(ear.mels) == len(SHIFTS)
    assert not reading.decoded.looped


@pytest.mark.parametrize("repetition", [LOOP, ROUND], ids=["loop", "compresses"])
def test_a_second_text_that_repeats_itself_loses_too(read, repetition):
    assert read((ONE, WORST), (repetition, SURE))[0] == ONE


def test_of_repetitions_the_likeliest_is_taken(read):
    loop = LOOP[: len(LOOP) // 2]
    assert read((ROUND, WORST), (LOOP, WORSE))[0] == loop
    assert read((ROUND, WORSE), (LOOP, WORST))[0] != loop
    assert read((LOOP, WORST), (ROUND, SURE))[0] != loop


def test_noise_is_not_looked_at_again(read):
    """Or the likeliest of three inventions would be taken for speech."""
    _, reading, ear, _ = read((ONE, 2000), (OTHER, SURE))
    assert window_reader.hears_nothing(reading.decoded)
    assert len(ear.mels) == 1


# A text that is too short for its sound

LONG, REST = " And so my fellow Americans went home.", " Ask not what that was about, I said."
SHORT, TAIL = " And so", " on."
TWICE = " It was not from any real cause of grief that she wept. It was not from any real cause of grief that she wept"
PARTS = [(LONG, SURE), (REST, SURE)]


def turns(*seconds):
    """A window with sound, a pause, sound and so on, each of so many seconds."""
    samples = np.random.default_rng(2).normal(0, 0.1, round(sum(seconds) * RATE)).astype(np.float32)
    edges = np.round(np.cumsum(seconds) * RATE).astype(int)
    for start, end in zip(edges[::2], edges[1::2], strict=False):
        samples[start:end] = 0
    return Window(8000, samples)


@pytest.fixture
def hear(tokenizer):
    """Reads a window which says something as a whole and something in each part that is encoded after it."""

    def call(window, *readings, glance=False, script=Script, draft=()):
        ear, script = Ear(), script(tokenizer, *readings)
        reader = WindowReader(ear, script, tokenizer, 10)
        prompt = Prompt(tokenizer.sot_sequence(), TokenRules(tokenizer))
        found = (reader.glance if glance else reader.read)(window, reader.encode(window), prompt, draft)
        return [tokenizer.decode(reading.decoded.tokens) for reading in found], found, ear, script

    return call


@pytest.mark.parametrize("glance", [False, True])
def test_a_text_too_short_for_its_sound_is_read_in_parts(hear, tokenizer, glance):
    window = turns(1.5, 0.3, 1.5)
    texts, found, ear, script = hear(window, (SHORT, SURE), *PARTS, glance=glance)
    assert texts == [LONG, REST]
    first, second = (reading.window for reading in found)
    assert (first.start, second.start) == (8000, 8000 + len(first.samples))
    assert first.seconds == pytest.approx(1.65, abs=0.02)
    assert np.array_equal(np.concatenate((first.samples, second.samples)), window.samples)
    assert len(ear.mels) == 3
    assert script.guesses == [[], tokenizer.encode(SHORT), []]


def test_parts_of_what_was_read_in_parts_before_take_a_call_each(hear, tokenizer):
    """As a stream reads it: the draft is the text of both parts."""
    one, other = tokenizer.encode(LONG), tokenizer.encode(REST)
    texts, _, _, script = hear(turns(1.5, 0.3, 1.5), (SHORT, SURE), *PARTS, draft=[*one, *other])
    assert texts == [LONG, REST]
    assert script.guesses == [[*one, *other], tokenizer.encode(SHORT), other]


def test_several_texts_are_followed_in_each_part(hear):
    assert hear(turns(1.5, 0.3, 1.5), (SHORT, SURE), *PARTS, script=Branching)[0] == [LONG, REST]


def test_what_is_said_twice_counts_once(hear):
    """It is what the model says instead of what comes after a pause."""
    assert hear(turns(2.5, 0.3, 2.5), (TWICE, SURE), *PARTS)[0] == [LONG, REST]


def test_sound_without_a_pause_is_read_in_parts_too(hear):
    """Where one speaker's pauses are louder than another's words, none is found."""
    texts, found, _, _ = hear(turns(3.2), (SHORT, SURE), *PARTS)
    assert texts == [LONG, REST]
    assert all(0.5 <= reading.window.seconds <= 2.7 for reading in found)


def test_a_part_whose_text_is_too_short_has_parts_of_its_own(hear):
    window = turns(1.6, 0.2, 1.6, 0.6, 1.5)
    texts, found, _, _ = hear(window, (SHORT, SURE), (TAIL, SURE), (LONG, SURE), (ONE, SURE), (OTHER, SURE))
    assert texts == [ONE, OTHER, LONG]
    starts = [reading.window.start for reading in found]
    assert [(start - 8000) / RATE for start in starts] == pytest.approx([0, 1.7, 3.7], abs=0.03)


def test_parts_that_say_no_more_have_no_parts_of_their_own(hear):
    """Or the cost of a slow speaker, or of noise, would have no bound."""
    texts, _, ear, _ = hear(turns(3.5, 0.3, 3.5), (ONE, SURE), (SHORT, SURE), (TAIL, SURE), *PARTS)
    assert texts == [ONE]
    assert len(ear.mels) == 3


def test_digits_count_as_words(hear):
    number = " 555 1299 57"
    assert hear(turns(1.5, 0.3, 1.5), (number, SURE), *PARTS)[0] == [number]


@pytest.mark.parametrize(
    ("window", "readings", "looks"),
    [
        (turns(1.5, 0.3, 1.5), [(LONG + REST, SURE), (ONE, SURE), (OTHER, SURE)], 1),
        (turns(1.3, 0.3, 1.3), [(SHORT, SURE), *PARTS], 1),
        (turns(1.5, 0.3, 1.5), [(SHORT, 2000), *PARTS], 1),
        (turns(1.5, 0.3, 1.5), [(ONE, SURE), (SHORT, SURE), (TAIL, SURE)], 3),
        (turns(1.5, 0.3, 1.5), [(SHORT, SURE), (SHORT, SURE), (LONG, 5000)], 3),
        (turns(1.5, 0.3, 1.5), [(SHORT, SURE), (SHORT, SURE), (LONG, WORST)], 4),
        (turns(1.5, 0.3, 1.5), [(ONE, WORST), (ONE, WORST), (SHORT, SURE), (TAIL, SURE)], 4),
    ],
    ids=[
        "enough text",
        "little sound",
        "noise",
        "no more in parts",
        "noise in a part",
        "a part in doubt",
        "all in doubt",
    ],
)
def test_a_window_is_left_whole(hear, window, readings, looks):
    texts, found, ear, _ = hear(window, *readings)
    assert texts == [readings[0][0]]
    assert found[0].window is window
    assert len(ear.mels) == looks


# A decoder that follows several texts


class Searchable(Script):
    """With both pictures it reads a text of its own, the last one. Several texts cost it a call each."""

    beam_size = 3
    doubtful_logprob = -0.25

    def also(self, features):
        assert features == 1
        self.text, self.doubt = self.readings[-1]


class Branching(Searchable):
    """Several texts cost it one call."""

    def branches(self, prompt, texts):
        return np.concatenate([self.logits(prompt, text, [len(prompt) + len(text) - 1]) for text in texts])


@pytest.fixture
def search(tokenizer):
    """Reads a window of which the first picture says one thing and both together another."""

    def call(*readings, timestamps=False, kind=Branching):
        ear, script = Ear(), kind(tokenizer, *readings)
        reader = WindowReader(ear, script, tokenizer, SECONDS)
        window = Window(8000, np.random.default_rng(1).normal(0, 0.1, RATE).astype(np.float32))
        prompt = Prompt(tokenizer.sot_sequence(timestamps=timestamps), TokenRules(tokenizer, timestamps))
        (reading,) = reader.read(window, reader.encode(window), prompt, tokenizer.encode(OTHER))
        assert (reading.window, reading.shift) == (window, 0.0)
        return tokenizer.decode(reading.decoded.tokens), reading, ear, script

    return call


def test_what_several_texts_leave_no_doubt_about_is_decoded_once(search):
    text, _, ear, _ = search((ONE, SURE), (OTHER, SURE))
    assert text == ONE
    assert len(ear.mels) == 1


@pytest.mark.parametrize("second", [SURE, WORSE, WORST])
def test_where_in_doubt_both_pictures_decide(search, second):
    text, _, ear, _ = search((ONE, WORSE), (OTHER, second))
    assert text == OTHER
    assert len(ear.mels) == 2


def test_what_is_doubtful_is_for_the_decoder_to_say(search):
    others = 6
    assert DOUBTFUL_LOGPROB < -np.log1p(others * np.exp(-LEAD)) < Branching.doubtful_logprob
    assert len(search((ONE, others), (OTHER, SURE))[2].mels) == 2


@pytest.mark.parametrize("repetition", [LOOP, ROUND, ONE * 2], ids=["loop", "compresses", "again"])
def test_both_pictures_are_not_believed_if_they_repeat(search, repetition):
    assert search((ONE, WORST), (repetition, SURE))[0] == ONE


def test_what_both_pictures_make_of_noise_does_not_replace_speech(search):
    text, reading, _, _ = search((ONE, 30), (OTHER, 5000))
    assert text == ONE
    assert not window_reader.hears_nothing(reading.decoded)


def test_several_inventions_in_noise_are_not_looked_at_again(search):
    _, reading, ear, _ = search((ONE, 2000), (OTHER, SURE))
    assert window_reader.hears_nothing(reading.decoded)
    assert len(ear.mels) == 1


@pytest.mark.parametrize("timestamps", [False, True])
def test_with_timestamps_both_pictures_have_the_same_times(search, timestamps):
    _, reading, ear, _ = search((ONE, WORST), (OTHER, SURE), timestamps=timestamps)
    silence = np.zeros(0 if timestamps else round(LOOKS[1].shift * RATE), np.float32)
    louder = reading.window.samples * np.float32(LOOKS[1].gain)
    assert np.array_equal(ear.mels[1][0].T, window_mel(np.concatenate([silence, louder]), SECONDS))


def test_where_each_text_costs_a_call_a_sure_one_is_decoded_greedily(search, tokenizer):
    text, _, ear, script = search((ONE, SURE), (OTHER, SURE), kind=Searchable)
    assert text == ONE
    assert len(ear.mels) == 1
    assert script.guesses == [tokenizer.encode(OTHER)]  # what the reader was given


@pytest.mark.parametrize("second", [SURE, WORSE, WORST])
def test_where_each_text_costs_a_call_the_doubtful_one_is_the_draft(search, tokenizer, second):
    text, _, ear, script = search((ONE, WORSE), (OTHER, second), kind=Searchable)
    assert text == OTHER
    assert len(ear.mels) == 2
    begun = script.asked.index([])
    assert script.asked[begun + 1] == tokenizer.encode(ONE)  # not the draft that the reader was given


def test_a_beam_of_one_is_greedy(tokenizer):
    """And takes the likelier of two texts, not what both pictures say."""
    script = Branching(tokenizer, (ONE, WORSE), (OTHER, WORST))
    script.beam_size = 1
    reader = WindowReader(Ear(), script, tokenizer, SECONDS)
    window = Window(0, np.ones(RATE, np.float32))
    (reading,) = reader.read(window, reader.encode(window), Prompt(tokenizer.sot_sequence(), TokenRules(tokenizer)))
    assert tokenizer.decode(reading.decoded.tokens) == ONE


# Drafts


def test_a_draft_is_checked_first_and_changes_nothing(read, tokenizer):
    draft = tuple(tokenizer.encode(ONE))
    _, plain, _, alone = read((ONE, SURE))
    _, drafted, _, script = read((ONE, SURE), draft=draft)
    assert drafted.decoded == plain.decoded
    assert script.guesses == [list(draft)]
    assert (script.calls, alone.calls) == (1, len(draft) + 1)


def test_the_text_so_far_is_the_draft_of_the_next_look(read, tokenizer):
    tokens = tokenizer.encode(ONE)
    looks = len(SHIFTS)
    script = read((ONE, WORSE))[3]
    assert script.guesses == [[], *[tokens] * (looks - 1)]
    assert script.calls == len(tokens) + looks


def test_a_glance_is_one_look_however_doubtful(tokenizer):
    ear, script = Ear(), Script(tokenizer, (ONE, WORST))
    reader = WindowReader(ear, script, tokenizer, SECONDS)
    window = Window(0, np.ones(RATE, np.float32))
    prompt = Prompt(tokenizer.sot_sequence(), TokenRules(tokenizer))
    (reading,) = reader.glance(window, reader.encode(window), prompt, tokenizer.encode(ONE))
    assert reading == Reading(window, reading.decoded, 0.0)
    assert tokenizer.decode(reading.decoded.tokens) == ONE
    assert reading.decoded.avg_logprob < DOUBTFUL_LOGPROB
    assert (len(ear.mels), script.calls) == (1, 1)


# What the model is told before


TOLD = " Esszimmer, Loggia."


class Parrot(Script):
    """Told something, it says one thing, otherwise what it hears."""

    says, its_doubt = TOLD, SURE

    def logits(self, prompt, text, rows):
        heard = self.text, self.doubt
        if prompt[0] == self.tokenizer.sot_prev:
            self.text, self.doubt = self.tokenizer.encode(self.says), self.its_doubt
        logits = super().logits(prompt, text, rows)
        self.text, self.doubt = heard
        return logits


@pytest.fixture
def tell(tokenizer):
    """Reads a window with and without an initial prompt, in one look or as many as it takes."""

    def call(window, *readings, says=TOLD, doubt=SURE, told=True, glance=False):
        script = Parrot(tokenizer, *readings)
        script.says, script.its_doubt = says, doubt
        reader = WindowReader(Ear(), script, tokenizer, 10)
        before = (tokenizer.sot_prev, *tokenizer.encode(TOLD)) if told else ()
        prompt = Prompt((*before, *tokenizer.sot_sequence()), TokenRules(tokenizer), len(before))
        found = (reader.glance if glance else reader.read)(window, reader.encode(window), prompt)
        return [tokenizer.decode(reading.decoded.tokens) for reading in found], script

    return call


@pytest.mark.parametrize("glance", [False, True])
def test_what_the_model_is_told_helps_it_to_read(tell, tokenizer, glance):
    texts, script = tell(turns(1.5), (ONE, SURE), says=OTHER, glance=glance)
    assert texts == [OTHER]
    assert script.guesses == [[], tokenizer.encode(ONE)]  # what was read without is the draft
    assert tell(turns(1.5), (ONE, SURE), told=False, glance=glance)[0] == [ONE]


@pytest.mark.parametrize(
    ("says", "doubt"),
    [(OTHER, WORST), (LOOP, SURE), (ONE * 2, SURE), (" ...", SURE)],
    ids=["less likely", "repeats itself", "says it again", "no word"],
)
def test_a_text_is_only_taken_if_it_is_no_worse_than_what_it_reads_by_itself(tell, says, doubt):
    assert tell(turns(1.5), (ONE, WORSE), (ONE, WORSE), says=says, doubt=doubt)[0] == [ONE]


def test_a_text_that_counts_as_noise_is_not_taken(tell, monkeypatch):
    """However likely: the model hears no speech before it."""
    monkeypatch.setattr(window_reader, "hears_nothing", lambda decoded: decoded.avg_logprob > -0.3)
    assert tell(turns(1.5), (ONE, WORSE), (ONE, WORSE), says=OTHER, doubt=SURE)[0] == [ONE]


def test_of_two_doubtful_texts_the_likelier_is_taken(tell):
    assert tell(turns(1.5), (ONE, WORST), (ONE, WORST), says=OTHER, doubt=WORSE)[0] == [OTHER]


@pytest.mark.parametrize("glance", [False, True])
@pytest.mark.parametrize("noise", [(ONE, 2000), (" ...", SURE)], ids=["not believed", "no word"])
def test_what_it_is_told_is_not_heard_in_noise(tell, noise, glance):
    assert tell(turns(1.5), noise, glance=glance)[0] == tell(turns(1.5), noise, told=False, glance=glance)[0]


def test_what_it_is_told_is_not_heard_in_a_part_that_is_noise(tell):
    window = turns(1.5, 0.3, 1.5)
    # What it is told is doubtful, so each is encoded twice.
    readings = [*[(SHORT, SURE)] * 2, *[(LONG, SURE)] * 2, (REST, 5000)]
    texts, _ = tell(window, *readings, says=SHORT, doubt=WORSE)
    assert texts == [LONG, REST]  # the second is noise, and says what noise says


# What the encoder is shown


def test_the_encoder_gets_the_mel_of_the_window_in_the_devices_layout(tokenizer):
    ear = Ear()
    reader = WindowReader(ear, Script(tokenizer), tokenizer, SECONDS)
    assert reader.lookahead == 1
    samples = np.random.default_rng(0).normal(0, 0.1, 9000).astype(np.float32)
    assert reader.encode(Window(0, samples)) == 0
    (mel,) = ear.mels
    assert mel.shape == (1, 100 * SECONDS, 80)
    assert mel.dtype == np.float32
    assert mel.flags.c_contiguous
    assert np.array_equal(mel[0].T, window_mel(samples, SECONDS))


@settings(max_examples=50, deadline=None)
@given(
    missing=st.integers(0, SECONDS * RATE - 1) | st.integers(0, 10) | st.integers(0, round(1.1 * SHIFTS[-1] * RATE)),
    look=st.sampled_from(LOOKS) | st.builds(Look, st.floats(0, SECONDS), st.floats(0.1, 10)),
)
def test_a_look_delays_the_sound_and_never_pushes_it_out_of_the_window(tokenizer, missing, look):
    ear = Ear()
    reader = WindowReader(ear, Script(tokenizer), tokenizer, SECONDS)
    samples = np.random.default_rng(0).normal(0, 0.1, SECONDS * RATE - missing).astype(np.float32)
    reader.encode(Window(0, samples), look)
    delay = min(missing, round(look.shift * RATE))
    shown = np.concatenate([np.zeros(delay, np.float32), samples * np.float32(look.gain)])
    assert np.array_equal(ear.mels[0][0].T, window_mel(shown, SECONDS))


@pytest.mark.parametrize("missing", [1, 7, 160, round(SHIFTS[1] * RATE), RATE])
def test_a_reading_says_by_how_much_its_sound_was_shifted(read, missing):
    length = SECONDS - missing / RATE
    _, reading, ear, _ = read((ONE, WORST), (OTHER, SURE), length=length)
    assert reading.shift == pytest.approx(min(missing / RATE, SHIFTS[1]), abs=1e-9)
    louder = reading.window.samples * np.float32(LOOKS[1].gain)
    delayed = np.concatenate([np.zeros(round(reading.shift * RATE), np.float32), louder])
    assert np.array_equal(ear.mels[1][0].T, window_mel(delayed, SECONDS))


# Languages


class Polyglot(Script):
    """Holds some tokens more likely than others."""

    def __init__(self, tokenizer, heights):
        super().__init__(tokenizer, ("", SURE))
        self.heights, self.asked = heights, []

    def logits(self, prompt, text, rows):
        self.asked.append((list(prompt), list(text), list(rows)))
        logits = np.zeros((len(rows), self.tokenizer.n_vocab), np.float32)
        for token, height in self.heights.items():
            logits[:, token] = height
        return logits


@pytest.mark.parametrize("code", ["en", "de", "su", "zh"])
def test_the_likeliest_language_is_found_with_its_probability_among_languages(multilingual, code):
    second = multilingual.language_token("fr")
    heights = {multilingual.language_token(code): 6.0, second: 4.0, 5900: 20.0, multilingual.timestamp_begin: 30.0}
    script = Polyglot(multilingual, heights)
    reader = WindowReader(Ear(), script, multilingual, SECONDS)
    found = reader.detect_language(reader.encode(Window(0, np.ones(RATE, np.float32))))
    assert found.code == code
    others = len(multilingual.languages) - 2
    assert found.probability == pytest.approx(np.exp(6) / (np.exp(6) + np.exp(4) + others), rel=1e-4)
    assert script.asked == [([multilingual.sot], [], [0])]


def test_an_english_model_hears_english(tokenizer):
    reader = WindowReader(Ear(), Polyglot(tokenizer, {5900: 20.0}), tokenizer, SECONDS)
    found = reader.detect_language(reader.encode(Window(0, np.ones(RATE, np.float32))))
    assert (found.code, found.probability) == ("en", 1.0)


@pytest.mark.parametrize(("height", "sure"), [(0.0, True), (40.0, False)])
def test_where_nobody_speaks_the_language_is_not_sure(multilingual, height, sure):
    heights = {multilingual.language_token("de"): 30.0, multilingual.no_speech: height}
    reader = WindowReader(Ear(), Polyglot(multilingual, heights), multilingual, SECONDS)
    found = reader.detect_language(reader.encode(Window(0, np.ones(RATE, np.float32))))
    assert (found.code, found.is_sure) == ("de", sure)
    assert found.no_speech_prob == pytest.approx(0.0 if sure else 1.0, abs=1e-4)


# On the device, whose buffers are few

DIMS = Dimensions(80, 50, 16, 2, 1, VOCABULARY, 40, 16, 2, 1)
PLAN = ShapePlan("toy", "hailo8", 1, 12, DIMS)


@pytest.fixture
def device(patched_whisper, toy_checkpoint, fake_vendor_path, tmp_path):
    """The toy's graphs on the fake device, and the decoder."""
    import hef_file

    checkpoint = toy_checkpoint(DIMS, 3)
    export_graphs(build_model(patched_whisper, checkpoint, 50), PLAN, tmp_path)
    width, parts = DIMS.n_text_state, PLAN.vocabulary_parts

    def write(net, inputs, outputs):
        def streams(items):
            return [
                hef_file.FakeStream(f"{net}/{name}", shape, 2, 32768.0, 2e-3, (name,), name) for name, shape in items
            ]

        inputs, outputs = streams(inputs), streams(outputs)
        names = {stream.name: stream.onnx_name for stream in (*inputs, *outputs)}
        payload = hef_file.graph_payload((tmp_path / f"{net}.onnx").read_bytes(), names)
        hef = hef_file.build_hef(hw_arch=1, network_group=net, inputs=inputs, outputs=outputs, payload=payload)
        (tmp_path / f"{net}.hef").write_bytes(hef)

    features = ("features", (1, 50, width))
    write("encoder", [("mel", (1, 100, 80))], [features])
    logits = [(f"logits_{index}", (1, PLAN.sequence, size)) for index, size in enumerate(parts)]
    write("decoder", [features, ("token_embeddings", (PLAN.sequence, 1, width))], logits)
    manifest = Manifest(
        name=PLAN.bundle_name,
        version="0.1.0+0",
        content_digest="0",
        emulated=False,
        variant="toy",
        arch="hailo8",
        seconds=1,
        sequence=PLAN.sequence,
        dims=DIMS.as_dict(),
        vocabulary_parts=parts,
        sot_sequence=(),
        eot=0,
        tokenizer_file="",
        files={},
        data={},
    )
    state = checkpoint.state
    embedding = TokenEmbedding(state["decoder.token_embedding.weight"], state["decoder.positional_embedding"])
    with open_backend(Bundle(tmp_path, manifest)) as backend:
        yield backend, embedding


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_second_look_does_not_take_the_features_of_windows_encoded_ahead(device, tokenizer, beam_size):
    backend, embedding = device
    slots = SlotDecoder(backend, embedding, PLAN.sequence, beam_size)
    reader = WindowReader(backend, slots, tokenizer, 1)
    prompt = Prompt(tokenizer.sot_sequence(), TokenRules(tokenizer))
    random = np.random.default_rng(0)
    windows = [Window(0, random.normal(0, 0.1, RATE // 2).astype(np.float32)) for _ in range(6)]
    alone = [reader.read(window, reader.encode(window), prompt) for window in windows]
    assert all(reading.decoded.avg_logprob < DOUBTFUL_LOGPROB for (reading,) in alone)  # each is looked at again
    together, ahead = [], []
    for window in windows:
        ahead.append((window, reader.encode(window)))
        if len(ahead) > reader.lookahead:
            together.append(reader.read(*ahead.pop(0), prompt))
    together += [reader.read(*item, prompt) for item in ahead]
    assert together == alone
