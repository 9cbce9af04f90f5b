"""Greedy decoding: slots, loops, and a scripted or a toy model in place of Whisper."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from whisper_runtime.backends.onnxruntime import OnnxRuntimeBackend
from whisper_runtime.decoding import (
    EOT_MARGIN,
    LONG_PHRASE,
    MAX_LOOP,
    SHORT_PHRASE_ROUNDS,
    GreedyDecoder,
    fill_slots,
    loop_length,
)
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.tokenizer import Tokenizer
from whisper_toolchain.checkpoints import Checkpoint
from whisper_toolchain.checkpoints.validation import expected_shapes
from whisper_toolchain.export import export_graphs
from whisper_toolchain.model import build_model
from whisper_toolchain.shape_plan import Dimensions, ShapePlan

VOCABULARY = 51864
TOKENS = st.lists(st.integers(0, 51863), max_size=60)

# Slots


@given(st.lists(st.integers(0, 99), min_size=1, max_size=4), TOKENS, st.integers(5, 40))
def test_slots_hold_the_prompt_and_the_latest_tokens_at_their_true_positions(prompt, tokens, sequence):
    ids, positions = fill_slots(prompt, tokens, sequence)
    everything = [*prompt, *tokens]
    assert len(ids) == len(positions) == min(len(everything), sequence)
    assert ids[: len(prompt)] == prompt
    assert positions[: len(prompt)] == list(range(len(prompt)))
    assert positions == sorted(set(positions))
    assert ids == [everything[position] for position in positions]
    assert positions[-1] == len(everything) - 1
    text = positions[len(prompt) :]
    assert text == list(range(len(everything) - len(text), len(everything)))


def test_slots_one_too_many():
    assert fill_slots([7], [1, 2, 3], 4) == ([7, 1, 2, 3], [0, 1, 2, 3])
    assert fill_slots([7], [1, 2, 3, 4], 4) == ([7, 2, 3, 4], [0, 2, 3, 4])
    assert fill_slots([7, 8], [], 4) == ([7, 8], [0, 1])


# Loops


@pytest.fixture(scope="module")
def tokenizer(whisper_assets):
    return Tokenizer.from_file(whisper_assets / "gpt2.tiktoken", VOCABULARY)


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


@given(st.lists(st.integers(0, 3), max_size=50))
def test_what_is_called_a_loop_is_one(tokens):
    repeated = loop_length(tokens)
    assert 0 <= repeated < max(1, len(tokens))
    if repeated:
        phrases = [
            length
            for length in range(1, MAX_LOOP + 1)
            if repeated == (1 if length >= LONG_PHRASE else SHORT_PHRASE_ROUNDS - 1) * length
        ]
        assert any(tokens[-length - repeated :] == tokens[-length:] * (repeated // length + 1) for length in phrases)


@given(st.lists(st.integers(0, 9), max_size=10), st.lists(st.integers(10, 99), min_size=1, max_size=40))
def test_any_phrase_often_enough_is_a_loop(before, phrase):
    rounds = 2 if len(phrase) >= LONG_PHRASE else SHORT_PHRASE_ROUNDS
    assert loop_length([*before, *phrase * rounds]) > 0


@given(st.lists(st.integers(0, 50_000), unique=True, max_size=100))
def test_different_tokens_are_no_loop(tokens):
    assert loop_length(tokens) == 0


def test_a_phrase_longer_than_the_longest_loop_is_none():
    assert loop_length([*range(MAX_LOOP)] * 2) == MAX_LOOP
    assert loop_length([*range(MAX_LOOP + 1)] * 2) == 0


# A scripted model


class Scripted:
    """A backend that says what it is told: `script(call, embedded, row)` gives the raised logits."""

    def __init__(self, script):
        self.script = script
        self.seen = []

    def decode(self, features, token_embeddings, rows):
        (row,) = rows
        logits = np.zeros((1, VOCABULARY), np.float32)
        for token, value in self.script(len(self.seen)).items():
            logits[0, token] = value
        self.seen.append((token_embeddings.copy(), row))
        return logits


def decode(script, tokenizer, sequence=32, positions=448):
    """Each embedding is (token, position), so that what the decoder was fed can be read off."""
    weight = np.stack([np.arange(VOCABULARY), np.zeros(VOCABULARY)], 1).astype(np.float32)
    positional = np.stack([np.zeros(positions), np.arange(positions)], 1).astype(np.float32)
    backend = Scripted(script)
    decoder = GreedyDecoder(backend, TokenEmbedding(weight, positional), tokenizer, sequence)
    return decoder.decode(np.zeros(1, np.float32), tokenizer.sot_sequence()), backend


def test_the_script_is_followed_to_its_end(tokenizer):
    text = tokenizer.encode(" Hello there, world")
    decoded, backend = decode(lambda n: {text[n]: 9.0} if n < len(text) else {tokenizer.eot: 9.0}, tokenizer)
    assert list(decoded.tokens) == text
    assert decoded.calls == len(text) + 1
    assert [row for _, row in backend.seen] == list(range(1, len(text) + 2))
    last, _ = backend.seen[-1]
    prompt = [*tokenizer.sot_sequence(), *text]
    assert last[: len(prompt), 0].tolist() == [[token, position] for position, token in enumerate(prompt)]
    assert not last[len(prompt) :].any()
    assert decoded.avg_logprob == pytest.approx(
        float(np.mean([9 - np.log(np.exp(9) + live) for live in counts(tokenizer, len(text) + 1)])), abs=1e-4
    )


def counts(tokenizer, calls):
    """How many other tokens each call could choose from, all with a logit of 0."""
    forbidden = {*tokenizer.suppress_tokens, *range(tokenizer.timestamp_begin, VOCABULARY)}
    first = VOCABULARY - 1 - len(forbidden | set(tokenizer.blank_tokens))
    return [first, *[VOCABULARY - 1 - len(forbidden)] * (calls - 1)]


def test_suppressed_tokens_and_timestamps_are_never_chosen(tokenizer):
    forbidden = [*tokenizer.suppress_tokens, *range(tokenizer.timestamp_begin, VOCABULARY)]
    loud = dict.fromkeys(forbidden, 50.0)
    decoded, _ = decode(lambda n: {**loud, 1000 + n: 5.0} if n < 10 else {**loud, tokenizer.eot: 5.0}, tokenizer)
    assert decoded.tokens == tuple(range(1000, 1010))
    assert np.isfinite(decoded.avg_logprob)


def test_blank_is_forbidden_at_the_first_position_only(tokenizer):
    (space,) = tokenizer.encode(" ")
    steps = [{space: 9.0, tokenizer.eot: 8.0, 1000: 7.0}, {space: 9.0}, {tokenizer.eot: 9.0}]
    decoded, _ = decode(steps.__getitem__, tokenizer)
    assert decoded.tokens == (1000, space)


@pytest.mark.parametrize(
    ("short_of", "ends"), [(0.0, True), (EOT_MARGIN - 0.01, True), (EOT_MARGIN + 0.01, False), (20.0, False)]
)
def test_end_of_text_is_preferred_within_its_margin(tokenizer, short_of, ends):
    steps = [{1000: 30.0}, {1001: 30.0, tokenizer.eot: 30.0 - short_of}, {tokenizer.eot: 30.0}]
    decoded, _ = decode(steps.__getitem__, tokenizer)
    assert decoded.tokens == ((1000,) if ends else (1000, 1001))


@pytest.mark.parametrize("positions", [20, 448])
def test_the_text_is_at_most_half_the_context(tokenizer, positions):
    text = [token for token in range(1000, 2000) if token not in tokenizer.suppress_tokens][:400]
    decoded, backend = decode(lambda n: {text[n]: 9.0}, tokenizer, sequence=16, positions=positions)
    assert decoded.tokens == tuple(text[: positions // 2])
    assert len(backend.seen) == positions // 2


def test_full_slots_slide(tokenizer):
    decoded, backend = decode(lambda n: {1000 + n: 9.0} if n < 20 else {tokenizer.eot: 9.0}, tokenizer, sequence=8)
    assert decoded.tokens == tuple(range(1000, 1020))
    embedded, row = backend.seen[-1]
    assert row == 7
    assert embedded[:, 0].tolist() == [
        [50257, 0],
        [50362, 1],
        *([1014 + n, 16 + n] for n in range(6)),
    ]


def test_a_loop_ends_the_text(tokenizer):
    phrase = [1000, 1001, 1002, 1003, 1004, 1005]
    decoded, backend = decode(lambda n: {([900] + phrase * 50)[n]: 9.0}, tokenizer)
    assert decoded.tokens == (900, *phrase)
    assert len(backend.seen) == 13


def test_a_prompt_that_fills_the_slots_is_refused(tokenizer):
    with pytest.raises(ValueError, match="a prompt of 2 leaves none of the 2 slots for text"):
        decode(lambda n: {}, tokenizer, sequence=2)


@given(st.integers(0, 2**32 - 1))
def test_any_logits_give_text_tokens_only(tokenizer, seed):
    random = np.random.default_rng(seed)

    def script(_):
        return dict(zip(random.integers(0, VOCABULARY, 50).tolist(), random.normal(10, 3, 50).tolist(), strict=True))

    decoded, _ = decode(script, tokenizer, sequence=8, positions=32)
    assert len(decoded.tokens) <= 16
    assert not {*decoded.tokens} & {*tokenizer.suppress_tokens, tokenizer.eot}
    assert all(token < tokenizer.timestamp_begin for token in decoded.tokens)
    assert decoded.avg_logprob <= 0
    assert decoded.calls <= 16


# A toy model with the real vocabulary

DIMS = Dimensions(80, 50, 16, 2, 1, VOCABULARY, 40, 16, 2, 1)


@pytest.fixture(scope="module")
def toy(patched_whisper, tmp_path_factory):
    """Opens the toy's graphs with a number of slots."""
    random = np.random.default_rng(8)
    state = {}
    for name, shape in expected_shapes(DIMS).items():
        values = random.standard_normal(shape)
        if name.endswith("weight") and ("_ln." in name or ".ln" in name):
            values = 1 + 0.1 * values
        elif name.endswith("weight") and "embedding" not in name:
            values *= 2 / np.sqrt(np.prod(shape[1:]))
        state[name] = values.astype(np.float32)
    # The text follows from the positions, or the toy would only repeat its prompt, and it is sure of it.
    state["decoder.token_embedding.weight"] *= 0.3
    state["decoder.positional_embedding"] *= 3
    state["decoder.ln.weight"] *= 20
    model = build_model(patched_whisper, Checkpoint("toy", DIMS, state, {}), 50)
    embedding = TokenEmbedding(state["decoder.token_embedding.weight"], state["decoder.positional_embedding"])

    def build(sequence):
        folder = tmp_path_factory.mktemp(f"toy-{sequence}")
        export_graphs(model, ShapePlan("toy", "hailo8", 1, sequence, DIMS), folder)
        return OnnxRuntimeBackend(folder / "encoder.onnx", folder / "decoder.onnx"), embedding

    return build


def test_fewer_slots_give_the_same_tokens_as_long_as_they_fit(toy, tokenizer):
    mel = np.random.default_rng(0).uniform(-1, 1.5, (1, 100, 80)).astype(np.float32)
    (long, embedding), (short, _) = toy(24), toy(12)
    features = long.encode(mel)
    assert np.abs(features - short.encode(mel)).max() < 1e-5
    whole = GreedyDecoder(long, embedding, tokenizer, 24).decode(features, tokenizer.sot_sequence())
    cut = GreedyDecoder(short, embedding, tokenizer, 12).decode(features, tokenizer.sot_sequence())
    fitting = 12 - len(tokenizer.sot_sequence()) + 1  # the token after the last slot is still seen from all others
    assert len(whole.tokens) > fitting  # or the comparison would say nothing
    assert cut.tokens[:fitting] == whole.tokens[:fitting]
    assert len(cut.tokens) > fitting  # it goes on with sliding slots


def test_the_text_is_what_a_single_call_over_all_of_it_prefers(toy, tokenizer):
    mel = np.random.default_rng(1).uniform(-1, 1.5, (1, 100, 80)).astype(np.float32)
    backend, embedding = toy(24)
    features = backend.encode(mel)
    decoded = GreedyDecoder(backend, embedding, tokenizer, 24).decode(features, tokenizer.sot_sequence())
    ids = [*tokenizer.sot_sequence(), *decoded.tokens]
    assert len(set(decoded.tokens)) > 10
    logits = backend.decode(features, embedding.embed(ids, range(len(ids)), 24), range(24))
    forbidden = [*tokenizer.suppress_tokens, *range(tokenizer.timestamp_begin, VOCABULARY)]
    logits[:, forbidden] = -np.inf
    logits[1, list(tokenizer.blank_tokens)] = -np.inf
    assert logits[1 : len(ids) - 1].argmax(-1).tolist() == list(decoded.tokens)
