"""Tokens are numbered and spelled as in openai-whisper, and a wrong vocabulary is refused."""

import base64
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper_runtime.errors import TokenizerError
from whisper_runtime.tokenizer import LANGUAGES, Tokenizer

ENGLISH, MULTILINGUAL, LARGE_V3 = 51864, 51865, 51866
FILES = {ENGLISH: "gpt2.tiktoken", MULTILINGUAL: "multilingual.tiktoken", LARGE_V3: "multilingual.tiktoken"}

TEXTS = [
    "",
    " Hello, world.",
    " I'm sure you'd've said it's 1,234.56 — isn't it?",
    "  two  spaces\tand\n\nlines  ",
    " Grüße aus München, naïve café",
    "你好，世界。こんにちは",
    "Привет мир, שלום עולם, مرحبا",
    "🎵 emoji 👩‍👩‍👧 ♪♪",
    "<|endoftext|><|startoftranscript|><|0.00|>",
    "\x00\x7f\u200b",
]


@pytest.fixture(scope="session")
def tokenizers(whisper_assets):
    return {n_vocab: Tokenizer.from_file(whisper_assets / name, n_vocab) for n_vocab, name in FILES.items()}


@pytest.fixture(scope="session")
def stock_tokenizers(stock_whisper):
    get = stock_whisper.tokenizer.get_tokenizer
    return {
        ENGLISH: get(multilingual=False, num_languages=99),
        MULTILINGUAL: get(multilingual=True, num_languages=99),
        LARGE_V3: get(multilingual=True, num_languages=100),
    }


@pytest.fixture(params=FILES)
def both(request, tokenizers, stock_tokenizers):
    return tokenizers[request.param], stock_tokenizers[request.param]


def test_known_numbers(tokenizers):
    multilingual, english = tokenizers[MULTILINGUAL], tokenizers[ENGLISH]
    assert (multilingual.eot, multilingual.sot, multilingual.language_token("en")) == (50257, 50258, 50259)
    assert (multilingual.translate, multilingual.transcribe) == (50358, 50359)
    assert (multilingual.no_speech, multilingual.no_timestamps) == (50362, 50363)
    assert multilingual.timestamp_begin == 50364
    assert multilingual.sot_sequence() == (50258, 50259, 50359, 50363)
    assert multilingual.blank_tokens == (220, 50257)
    assert (english.eot, english.sot, english.no_timestamps, english.timestamp_begin) == (
        50256,
        50257,
        50362,
        50363,
    )
    assert english.sot_sequence() == (50257, 50362)
    assert english.sot_sequence(timestamps=True) == (50257,)
    assert [tokenizer.multilingual for tokenizer in (english, multilingual)] == [False, True]


@pytest.mark.parametrize(
    "name",
    [
        "eot",
        "sot",
        "translate",
        "transcribe",
        "sot_lm",
        "sot_prev",
        "no_speech",
        "no_timestamps",
        "timestamp_begin",
        "non_speech_tokens",
    ],
)
def test_special_tokens_equal_stock(both, name):
    ours, stock = both
    assert getattr(ours, name) == getattr(stock, name)


def test_the_last_timestamp_is_the_last_token(both):
    ours, stock = both
    assert ours.timestamp_begin + 1500 == ours.n_vocab - 1 == stock.encoding.n_vocab - 1


def test_suppressed_tokens_equal_stock_decoding(both, stock_whisper):
    ours, stock = both
    decoding = stock_whisper.decoding
    task = object.__new__(decoding.DecodingTask)
    task.options = decoding.DecodingOptions()
    task.tokenizer = stock
    assert ours.suppress_tokens == task._get_suppress_tokens()
    assert list(ours.blank_tokens) == [*stock.encode(" "), stock.eot]


def test_languages_equal_stock(both, stock_whisper):
    ours, stock = both
    assert {code: name.lower() for code, name in LANGUAGES.items()} == stock_whisper.tokenizer.LANGUAGES
    assert list(LANGUAGES) == list(stock_whisper.tokenizer.LANGUAGES)
    if ours.multilingual:
        assert ours.languages == tuple(LANGUAGES)[: stock.num_languages]
        for code in ours.languages:
            assert ours.language_token(code) == stock.to_language_token(code)
    else:
        assert ours.languages == ("en",)


def test_number_of_languages(tokenizers):
    assert len(tokenizers[MULTILINGUAL].languages) == 99
    assert len(tokenizers[LARGE_V3].languages) == 100
    assert tokenizers[LARGE_V3].languages[-1] == "yue"


@pytest.mark.parametrize("task", ["transcribe", "translate"])
@pytest.mark.parametrize("language", ["en", "de", "haw"])
def test_prompts_equal_stock(tokenizers, stock_whisper, language, task):
    ours = tokenizers[MULTILINGUAL]
    stock = stock_whisper.tokenizer.get_tokenizer(multilingual=True, language=language, task=task)
    assert ours.sot_sequence(language, task) == stock.sot_sequence_including_notimestamps
    assert ours.sot_sequence(language, task, timestamps=True) == stock.sot_sequence


def test_prompts_that_the_model_does_not_know(tokenizers):
    with pytest.raises(TokenizerError, match="'yue'"):
        tokenizers[MULTILINGUAL].sot_sequence("yue")
    with pytest.raises(TokenizerError, match="'german'"):
        tokenizers[MULTILINGUAL].language_token("german")
    with pytest.raises(TokenizerError, match="'summarise'"):
        tokenizers[MULTILINGUAL].sot_sequence(task="summarise")
    with pytest.raises(TokenizerError, match="English-only"):
        tokenizers[ENGLISH].sot_sequence("de")
    with pytest.raises(TokenizerError, match="English-only"):
        tokenizers[ENGLISH].sot_sequence(task="translate")


@pytest.mark.parametrize("text", TEXTS)
def test_encoding_equals_stock(both, text):
    ours, stock = both
    tokens = ours.encode(text)
    assert tokens == stock.encode(text, disallowed_special=())
    assert all(0 <= token < ours.eot for token in tokens)
    assert ours.decode(tokens) == text


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60), n_vocab=st.sampled_from(sorted(FILES)))
def test_any_text_survives_the_round_trip(tokenizers, text, n_vocab):
    assert tokenizers[n_vocab].decode(tokenizers[n_vocab].encode(text)) == text


@settings(max_examples=100, deadline=None)
@given(data=st.data(), n_vocab=st.sampled_from(sorted(FILES)))
def test_any_tokens_can_be_decoded(tokenizers, data, n_vocab):
    tokenizer = tokenizers[n_vocab]
    tokens = data.draw(st.lists(st.integers(0, n_vocab - 1), max_size=30))
    assert tokenizer.decode(tokens) == tokenizer.decode([token for token in tokens if token < tokenizer.eot])


def test_decoding_skips_special_tokens_and_timestamps(both):
    ours, _ = both
    text = ours.encode(" Hello")
    tokens = [*ours.sot_sequence(), ours.timestamp_begin + 50, *text, ours.n_vocab - 1, ours.eot]
    assert ours.decode(tokens) == " Hello"


def test_decoding_replaces_half_a_character(both):
    ours, _ = both
    assert ours.decode(ours.encode("𒀀")[:1]) == "\ufffd"


# Vocabulary files


def lines_of(whisper_assets, n_vocab=MULTILINGUAL):
    return (whisper_assets / FILES[n_vocab]).read_bytes().splitlines()


def assert_refused(path, n_vocab, words):
    with pytest.raises(TokenizerError, match=words) as caught:
        Tokenizer.from_file(path, n_vocab)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


@pytest.mark.parametrize(("used", "wanted"), [(MULTILINGUAL, ENGLISH), (ENGLISH, MULTILINGUAL), (ENGLISH, LARGE_V3)])
def test_vocabulary_of_another_kind_of_model(whisper_assets, used, wanted):
    assert_refused(whisper_assets / FILES[used], wanted, "text tokens")


def test_vocabulary_size_of_no_model(whisper_assets):
    assert_refused(whisper_assets / FILES[ENGLISH], 32000, "32000")


def test_missing_vocabulary(tmp_path):
    assert_refused(tmp_path / "missing.tiktoken", MULTILINGUAL, "No such file")


def test_directory_as_vocabulary(tmp_path):
    assert_refused(tmp_path, MULTILINGUAL, "directory")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda lines: [], "0 text tokens"),
        (lambda lines: lines[:1000], "1000 text tokens"),
        (lambda lines: [*lines, b"AAAAAAAA 50257"], "text tokens"),
        (lambda lines: [*lines[:-2], lines[-3], lines[-1]], "line 50256 repeats"),
        (lambda lines: [*lines[:9], lines[9].split()[0] + b" 70000", *lines[10:]], "numbers"),
        (lambda lines: [*lines[:9], b"not base64! 9", *lines[10:]], "line 10"),
        (lambda lines: [*lines[:9], b"K-g== 9", *lines[10:]], "line 10"),
        (lambda lines: [*lines[:9], b"Kg= 9", *lines[10:]], "line 10"),
        (lambda lines: [*lines[:9], b"Kh== 9", *lines[10:]], "line 10"),
        (lambda lines: [*lines[:9], lines[9].split()[0], *lines[10:]], "line 10"),
        (lambda lines: [*lines[:9], lines[9].split()[0] + b" nine", *lines[10:]], "line 10"),
        (lambda lines: [base64.b64encode(b"somethingelse") + b" 0", *lines[1:]], "single bytes"),
        (lambda lines: [b"\x89PNG\r\n\x1a\n" + bytes(range(256))], "line 1"),
    ],
    ids=[
        "empty",
        "cut",
        "longer",
        "repeated",
        "number",
        "base64",
        "base64-sign",
        "base64-cut",
        "base64-bits",
        "no-number",
        "no-integer",
        "bytes",
        "binary",
    ],
)
def test_damaged_vocabulary(whisper_assets, tmp_path, damage, words):
    path = tmp_path / "damaged.tiktoken"
    path.write_bytes(b"\n".join(damage(lines_of(whisper_assets))))
    assert_refused(path, MULTILINGUAL, words)


def test_line_ends_and_blank_lines_do_not_matter(whisper_assets, tmp_path):
    path = tmp_path / "windows.tiktoken"
    path.write_bytes(b"\r\n".join(lines_of(whisper_assets)) + b"\r\n\r\n")
    assert Tokenizer.from_file(path, MULTILINGUAL).encode(" Hello world") == [2425, 1002]


@pytest.mark.parametrize("n_vocab", FILES)
def test_transcribing_does_not_wait_for_tiktoken(whisper_assets, n_vocab):
    program = (
        "import sys\n"
        "from whisper_runtime.tokenizer import Tokenizer\n"
        f"tokenizer = Tokenizer.from_file({str(whisper_assets / FILES[n_vocab])!r}, {n_vocab})\n"
        "tokenizer.sot_sequence(), tokenizer.suppress_tokens, tokenizer.blank_tokens\n"
        "assert 'tiktoken' not in sys.modules, 'imported'\n"
        "print(tokenizer.decode([0, 50000, tokenizer.eot]))\n"
        "assert tokenizer.encode(' Hello') and 'tiktoken' in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout
