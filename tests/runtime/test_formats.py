"""Transcripts read back by parsers that are not ours, and files that are whole or not there."""

import contextlib
import csv
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import pysubs2
import pytest
import webvtt
from hypothesis import given
from hypothesis import strategies as st
from whisper_runtime.formats import FORMATS, Lines, OutputError, Result, ResultFile, Txt
from whisper_runtime.segment import Segment, TranscriptionInfo, Word

INFO = TranscriptionInfo("en", 1.0, "transcribe", None)

# Everything that has ever broken one of these formats, more often than chance would give it.
AWKWARD = ["-->", "--->", "<", ">", "&", "&amp;", "&#60;", "<b>", "\n", "\r\n", "\n\n", "\t", "\0", "\x1b[2J", "\x85"]
AWKWARD += [
    "\u2028",
    "\ufeff",
    "\ud800",
    '"',
    "\\",
    "{\\an8}",
    "NOTE",
    "WEBVTT",
    "STYLE",
    "12",
    " ",
    "\u3000",
    "ä",
    "漢",
    "🎤",
]

texts = st.one_of(st.text(), st.lists(st.sampled_from(AWKWARD) | st.text(max_size=3), max_size=8).map("".join))
numbers = st.floats(allow_nan=True, allow_infinity=True)
# Subtitle parsers know two digits of hours; from any order and with any overlap.
subtitle_times = st.one_of(st.floats(-5, 359_000), st.floats(0, 10), st.sampled_from([math.nan, math.inf, -math.inf]))


def segments(times):
    return st.lists(
        st.builds(
            Segment,
            start=times,
            end=times,
            text=texts,
            tokens=st.lists(st.integers(0, 51864), max_size=4).map(tuple),
            avg_logprob=numbers,
            no_speech_prob=numbers,
            words=st.none() | st.lists(st.builds(Word, times, times, texts, numbers), max_size=3).map(tuple),
        ),
        max_size=8,
    )


def segment(text, start=0.0, end=1.0):
    return Segment(start, end, text, (1, 2), -0.25, 0.125)


def written(name, items):
    stream = io.StringIO()
    layout = (FORMATS | {"lines": Lines})[name](INFO)
    with Result(stream, layout) as result:
        for item in items:
            result.write(item)
        result.finish()
    stream.getvalue().encode()  # can go into a file
    return stream.getvalue()


def plain(text):
    """The documented replacements that all formats have in common."""
    kept = "".join(sign if sign >= " " and sign not in "\x7f\u2028\u2029\ufeff" else "\0" for sign in text)
    kept = re.sub("[\0\x80-\x9f]+", " ", kept)
    return "".join("\ufffd" if "\ud800" <= sign <= "\udfff" else sign for sign in kept).strip()


def expected(items):
    return [text for text in (plain(item.text) for item in items) if text]


def without_arrows(text):
    while "-->" in text:
        text = text.replace("-->", "->")
    return text


def assert_in_order(times):
    """(start, end) of each piece: none empty, none before the end of the one before."""
    flat = [time for pair in times for time in pair]
    assert flat == sorted(flat)
    assert all(start < end for start, end in times)
    assert all(start >= 0 for start, _ in times)


@given(segments(subtitle_times))
def test_srt_reads_back_with_two_parsers(items):
    text = written("srt", items)
    wanted = [without_arrows(item) for item in expected(items)]
    events = pysubs2.SSAFile.from_string(text, format_="srt", keep_html_tags=True).events
    assert [event.text for event in events] == wanted
    assert_in_order([(event.start, event.end) for event in events])
    if wanted:  # webvtt-py takes a file without a cue for none
        captions = webvtt.from_buffer(io.StringIO(text), format="srt").captions
        times = [(caption.start_time.in_milliseconds(), caption.end_time.in_milliseconds()) for caption in captions]
        assert times == [(event.start, event.end) for event in events]
    assert re.findall(r"(?m)^(\d+)\n\d\d:\d\d:\d\d,\d\d\d --> ", text) == [str(i + 1) for i in range(len(wanted))]


@given(segments(subtitle_times))
def test_vtt_reads_back_with_a_strict_parser(items):
    text = written("vtt", items)
    captions = webvtt.from_buffer(io.StringIO(text), strict=True).captions
    assert [unescaped(caption.raw_text) for caption in captions] == [without_arrows(i) for i in expected(items)]
    assert_in_order([(c.start_time.in_milliseconds(), c.end_time.in_milliseconds()) for c in captions])
    assert not any(re.search(r"<|&(?!amp;|lt;)", caption.raw_text) for caption in captions)


def unescaped(text):
    return text.replace("&lt;", "<").replace("&amp;", "&")


@given(segments(numbers))
def test_tsv_reads_back(items):
    header, *rows = csv.reader(written("tsv", items).split("\n")[:-1], delimiter="\t", quoting=csv.QUOTE_NONE)
    assert header == ["start", "end", "text"]
    assert [row[2:] for row in rows] == [[text] for text in expected(items)]
    assert_in_order([(int(row[0]), int(row[1])) for row in rows])


@given(segments(numbers))
def test_json_reads_back(items):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    result = json.loads(written("json", items), parse_constant=refuse)
    assert set(result) == {"text", "segments", "language"}
    assert result["language"] == "en"
    assert [entry["text"] for entry in result["segments"]] == expected(items)
    assert result["text"] == " ".join(expected(items))
    kept = [item for item in items if plain(item.text)]
    for number, (entry, item) in enumerate(zip(result["segments"], kept, strict=True)):
        keys = ["id", "start", "end", "text", "tokens", "avg_logprob", "no_speech_prob"]
        assert list(entry) == (keys if item.words is None else [*keys, "words"])
        assert [word["word"] for word in entry.get("words", ())] == [word.word for word in item.words or ()]
        for word in entry.get("words", ()):
            assert entry["start"] <= word["start"] <= word["end"] <= entry["end"]
        assert entry["id"] == number
        assert entry["tokens"] == list(item.tokens)
        for name in ("avg_logprob", "no_speech_prob"):
            value = getattr(item, name)
            assert entry[name] == (value if math.isfinite(value) else None)
    times = [time for entry in result["segments"] for time in (entry["start"], entry["end"])]
    assert times == sorted(times)
    assert all(time >= 0 for time in times)


@given(segments(numbers))
def test_txt_and_lines_are_one_line_a_segment_and_steer_no_terminal(items):
    assert written("txt", items).split("\n")[:-1] == expected(items)
    lines = written("lines", items).split("\n")[:-1]
    assert [line.partition("] ")[2] for line in lines] == expected(items)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", "".join(lines))


@given(segments(subtitle_times))
def test_all_formats_agree_on_the_times(items):
    table = [line.split("\t") for line in written("tsv", items).split("\n")[1:-1]]
    times = [(int(row[0]), int(row[1])) for row in table]
    entries = json.loads(written("json", items))["segments"]
    assert [(round(1000 * entry["start"]), round(1000 * entry["end"])) for entry in entries] == times
    events = pysubs2.SSAFile.from_string(written("srt", items), format_="srt").events
    assert [(event.start, event.end) for event in events] == times


ITEMS = [segment("Hello <there>.", 0.0, 2.34), segment("  "), segment("A --> B", 2.34, 3661.0)]
WANTED = {
    "txt": "Hello <there>.\nA --> B\n",
    "srt": "1\n00:00:00,000 --> 00:00:02,340\nHello <there>.\n\n2\n00:00:02,340 --> 01:01:01,000\nA -> B\n\n",
    "vtt": "WEBVTT\n\n00:00.000 --> 00:02.340\nHello &lt;there>.\n\n00:02.340 --> 01:01:01.000\nA -> B\n\n",
    "tsv": "start\tend\ttext\n0\t2340\tHello <there>.\n2340\t3661000\tA --> B\n",
    "lines": "[   0.00 -    2.34] Hello <there>.\n[   2.34 - 3661.00] A --> B\n",
}


@pytest.mark.parametrize("name", WANTED)
def test_the_layout(name):
    assert written(name, ITEMS) == WANTED[name]


@pytest.mark.parametrize("name", ["txt", "srt", "tsv", "vtt"])
def test_the_layout_is_that_of_openai_whisper(name, stock_whisper):
    items = [segment("Hello there, how is it?", 0.0, 2.3401), segment("A --> B", 2.34012, 3661.0)]
    stream = io.StringIO()
    writer = stock_whisper.utils.get_writer(name, "")
    plain = [{key: value for key, value in vars(item).items() if key != "words"} for item in items]
    writer.write_result({"segments": plain}, file=stream)
    assert written(name, items) == stream.getvalue()


def test_json_has_the_keys_of_openai_whisper():
    assert json.loads(written("json", ITEMS)) == {
        "language": "en",
        "text": "Hello <there>. A --> B",
        "segments": [
            {"id": 0, "start": 0.0, "end": 2.34, "text": "Hello <there>."}
            | {"tokens": [1, 2], "avg_logprob": -0.25, "no_speech_prob": 0.125},
            {"id": 1, "start": 2.34, "end": 3661.0, "text": "A --> B"}
            | {"tokens": [1, 2], "avg_logprob": -0.25, "no_speech_prob": 0.125},
        ],
    }


def test_json_has_words_as_openai_whisper_does():
    words = (Word(0.1, 0.4, " Hello", 0.5), Word(0.4, 0.9, " there.", 0.75))
    entry = json.loads(written("json", [replace(segment("Hello there."), words=words)]))["segments"][0]
    assert entry["words"] == [
        {"word": " Hello", "start": 0.1, "end": 0.4, "probability": 0.5},
        {"word": " there.", "start": 0.4, "end": 0.9, "probability": 0.75},
    ]


def test_nothing_said_is_a_valid_document():
    assert json.loads(written("json", [])) == {"language": "en", "segments": [], "text": ""}
    assert written("vtt", []) == "WEBVTT\n\n"
    assert written("srt", []) == written("txt", []) == ""


@pytest.mark.parametrize("name", FORMATS)
def test_each_segment_is_in_the_file_before_the_next_one_comes(name, tmp_path):
    with ResultFile(tmp_path / f"talk.{name}", FORMATS[name](INFO)) as result:
        for word in ("first", "second"):
            result.write(segment(word))
            assert word in (tmp_path / f"talk.{name}.partial").read_text()
            assert [path.name for path in tmp_path.iterdir()] == [f"talk.{name}.partial"]
        result.finish()
        assert result.kept is None
    assert [path.name for path in tmp_path.iterdir()] == [f"talk.{name}"]


def test_an_older_result_is_replaced_only_by_a_whole_one(tmp_path):
    path, partial = tmp_path / "talk.txt", tmp_path / "talk.txt.partial"
    path.write_text("older")
    with ResultFile(path, Txt(INFO)) as result:
        result.write(segment("first"))
    assert (path.read_text(), partial.read_text(), result.kept) == ("older", "first\n", partial)
    with ResultFile(path, Txt(INFO)) as result:
        result.write(segment("first"))
        result.write(segment("second"))
        result.finish()
    assert (path.read_text(), partial.exists()) == ("first\nsecond\n", False)


def test_a_file_without_text_is_not_left_unfinished(tmp_path):
    with ResultFile(tmp_path / "talk.vtt", FORMATS["vtt"](INFO)) as result:
        result.write(segment(" "))
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_its_text_and_no_result(tmp_path):
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from whisper_runtime.formats import ResultFile, Srt\n"
        "from whisper_runtime.segment import Segment, TranscriptionInfo\n"
        "result = ResultFile(Path(sys.argv[1]), Srt(TranscriptionInfo('en', 1.0, 'transcribe', None)))\n"
        "result.write(Segment(0.0, 1.0, 'first', (), 0.0, 0.0))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = subprocess.run([sys.executable, "-c", script, str(tmp_path / "talk.srt")], check=False)
    assert process.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["talk.srt.partial"]
    (event,) = pysubs2.load(str(tmp_path / "talk.srt.partial"), format_="srt").events
    assert event.text == "first"


def test_ctrl_c_right_after_the_writing_does_not_lose_it(tmp_path, monkeypatch):
    with contextlib.suppress(KeyboardInterrupt), ResultFile(tmp_path / "talk.txt", Txt(INFO)) as result:
        put = result._put

        def interrupted(text):
            put(text)
            raise KeyboardInterrupt

        monkeypatch.setattr(result, "_put", interrupted)
        result.write(segment("first"))
    assert (tmp_path / "talk.txt.partial").read_text() == "first\n"


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path):
    (tmp_path / "talk.txt.partial").symlink_to("/dev/full")
    result = ResultFile(tmp_path / "talk.txt", Txt(INFO))
    with pytest.raises(OutputError, match=r"^'.*talk\.txt\.partial': cannot be written: No space left on device$"):
        result.write(segment("first"))
    result.close()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "talk.vtt.partial").symlink_to("/dev/full")  # where it is full before the first segment
    with pytest.raises(OutputError, match="No space left"):
        ResultFile(tmp_path / "talk.vtt", FORMATS["vtt"](INFO))
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_cannot_be_put_in_place_keeps_its_text(tmp_path):
    (tmp_path / "talk.txt").mkdir()
    with ResultFile(tmp_path / "talk.txt", Txt(INFO)) as result:
        result.write(segment("first"))
        with pytest.raises(OutputError, match=r"talk\.txt': cannot be written: Is a directory"):
            result.finish()
    assert result.kept.read_text() == "first\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        ResultFile(tmp_path / "talk.txt", Txt(INFO))
