"""Loops are found at the earliest round, and what people repeat is none."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper_runtime.loops import LONG_PHRASE, MAX_LOOP, SHORT_PHRASE_ROUNDS, echo_length, loop_length


def rounds_of_a_loop(phrase):
    return 2 if len(phrase) >= LONG_PHRASE else SHORT_PHRASE_ROUNDS


@pytest.mark.parametrize(
    "text",
    [
        " no, no, no",
        " No, no, no, I said.",
        " It was very, very, very good.",
        " ha ha ha",
        " He went on and on and on.",
        " to be or not to be",
        " far, far away, far, far away",
        " Bye-bye, bye-bye.",
        " one two three, one two three",
        " 555 5555",
    ],
)
def test_repetitions_of_speech_survive(tokenizer, text):
    tokens = tokenizer.encode(text)
    for end in range(len(tokens) + 1):
        assert loop_length(tokens[:end]) == 0


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (" and so on" * 4, " and so on"),
        (" you" * 4, " you"),
        (" I don't know what to do about it." * 2, " I don't know what to do about it."),
        (" Well, then." + " the quick brown fox jumps over" * 2, " Well, then. the quick brown fox jumps over"),
    ],
)
def test_loops_are_cut_to_one_round(tokenizer, text, kept):
    tokens = tokenizer.encode(text)
    repeated = loop_length(tokens)
    assert repeated > 0
    assert tokenizer.decode(tokens[:-repeated]) == kept


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), max_size=50))
def test_what_is_called_a_loop_is_one(tokens):
    repeated = loop_length(tokens)
    assert 0 <= repeated < max(1, len(tokens))
    if repeated:
        # All of the repetition is what stood one phrase before it, and it is long enough for the rounds of a loop.
        assert any(
            tokens[-repeated:] == tokens[-repeated - length : -length]
            and repeated >= length * (rounds_of_a_loop(tokens[-length:]) - 1)
            for length in range(1, min(MAX_LOOP, len(tokens) - repeated) + 1)
        )


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), max_size=40))
def test_no_loop_is_missed(tokens):
    phrases = [tokens[-length:] for length in range(1, min(MAX_LOOP, len(tokens)) + 1)]
    loops = [
        phrase
        for phrase in phrases
        if tokens[-len(phrase) * rounds_of_a_loop(phrase) :] == phrase * rounds_of_a_loop(phrase)
    ]
    assert bool(loop_length(tokens)) == bool(loops)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 9), max_size=10), st.lists(st.integers(10, 99), min_size=1, max_size=MAX_LOOP, unique=True)
)
def test_a_loop_is_found_with_its_last_token_and_cut_to_one_round(before, phrase):
    text = [*before, *phrase * rounds_of_a_loop(phrase)]
    assert loop_length(text[:-1]) == 0 or loop_length(before)
    assert text[: len(text) - loop_length(text)] == [*before, *phrase]


@settings(deadline=None)
@given(st.lists(st.integers(0, 50_000), unique=True, max_size=100))
def test_different_tokens_are_no_loop(tokens):
    assert loop_length(tokens) == 0


def test_a_loop_that_is_found_late_is_cut_to_one_round_all_the_same():
    phrase = list(range(LONG_PHRASE))
    text = [100, *phrase * 3, *phrase[:2]]
    assert text[: len(text) - loop_length(text)] == [100, *phrase]


def test_a_phrase_longer_than_the_longest_loop_is_none():
    assert loop_length([*range(MAX_LOOP)] * 2) == MAX_LOOP
    assert loop_length([*range(MAX_LOOP + 1)] * 2) == 0


def test_any_sequence_will_do():
    assert loop_length(()) == 0
    assert loop_length((5,) * SHORT_PHRASE_ROUNDS) == SHORT_PHRASE_ROUNDS - 1


# Echoes


def echo(tokenizer, text):
    """What an echo leaves of a text."""
    tokens = tokenizer.encode(text)
    length = echo_length([tokenizer.decode([token]) for token in tokens])
    return tokenizer.decode(tokens[: len(tokens) - length])


JAKE = " Jake with his heavy features so rudely moulded that his face seemed somehow unfinished."
JAKE_AGAIN = " Jake was his heavy features so rudely moulded that his face seemed somehow unfinished."


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (JAKE + JAKE_AGAIN, JAKE),
        (" I see them now." + JAKE + JAKE_AGAIN, " I see them now." + JAKE),
        (" At that moment, he came out of the hole." + " AT that moment he came out of the hole", None),
        (JAKE + ' "' + JAKE_AGAIN.strip(), JAKE),
        (" He came out of the old hole in the bank." + " He came out of the hole in the bank.", None),
    ],
)
def test_an_echo_in_other_words_is_found_where_it_begins(tokenizer, text, kept):
    kept = kept if kept is not None else text[: text.index(".") + 1]
    assert echo(tokenizer, text) == kept


@pytest.mark.parametrize(
    "text",
    [
        JAKE,
        "",
        " no, no, no",
        " one two three four, one two three four",  # too short to be sure
        " It was the best of times, it was the worst of times, it was the age of wisdom.",
        " government of the people, by the people, for the people, shall not perish",
        " Ask not what your country can do for you, ask what you can do for your country.",
        " ..........................",
    ],
)
def test_speech_has_no_echo(tokenizer, text):
    assert echo(tokenizer, text) == text


@settings(deadline=None)
@given(st.lists(st.sampled_from([" a", " b", "c", ".", ""]), max_size=40))
def test_an_echo_is_at_most_half(pieces):
    length = echo_length(pieces)
    assert 0 <= length < max(1, len(pieces))
    assert sum(bool(piece.strip(" .")) for piece in pieces[len(pieces) - length :]) <= len(pieces) // 2
