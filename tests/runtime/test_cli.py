"""`whisper-runtime transcribe`: arguments, names, exit status, interruption; then the real thing on real speech.

A small stand-in takes the transcriber's place where only what goes in and out matters.
"""

import io
import json
import logging
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pysubs2
import pytest
import soundfile
import webvtt
from whisper_runtime import cli
from whisper_runtime.closing import Closing
from whisper_runtime.errors import AudioError, BackendError, TokenizerError
from whisper_runtime.progress import Progress, clock
from whisper_runtime.segment import Segment, TranscriptionInfo
from whisper_runtime.tokenizer import Tokenizer
from whisper_toolchain.bundle_writer import make_manifest, publish
from whisper_toolchain.shape_plan import Dimensions, ShapePlan

DIMS = Dimensions(80, 50, 2, 1, 1, 51864, 12, 2, 1, 1)
FORMATS = ["txt", "srt", "vtt", "tsv", "json"]


def segment(text, start=0.0, end=1.0):
    return Segment(start, end, text, (1, 2), -0.25, 0.125)


class StandIn(Closing):
    """Says for each file what `speech` holds under its name; an error in there is raised when its turn comes."""

    def __init__(
        self, bundle, *, backend=None, decoder="device", share_device=False, threads=None, drafted=False, beam_size=None
    ):
        assert not drafted, "recordings have no drafts"
        self.beam_size = beam_size
        self.made_with = (bundle, backend, decoder, share_device, threads)
        self.text_decoder, self.name = self, decoder
        self.calls = 100
        self.asked, self.read, self.closed = [], [], 0
        self.speech = {}
        self.info = {}

    def transcribe(self, audio, *, language, task, timestamps, initial_prompt, word_timestamps):
        self.asked.append((str(audio), language, task, timestamps, initial_prompt, word_timestamps))
        name = Path(audio).name
        if language == "xx":
            raise TokenizerError("unknown language 'xx'")
        if name not in self.speech:
            raise AudioError(f"{str(audio)!r}: no such file")
        self.read.append(Path(audio).read_bytes() if Path(audio).exists() else None)
        self.calls += 7
        return self._segments(name), TranscriptionInfo(language or "en", *self.info.get(name, (1.0,)), task, None)

    def _segments(self, name):
        for item in self.speech[name]:
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self):
        self.closed += 1


@pytest.fixture
def bundle(whisper_assets, tmp_path_factory):
    """A bundle of which only the manifest will be read."""
    root = tmp_path_factory.mktemp("bundle")
    scratch = root / "scratch"
    scratch.mkdir()
    tokenizer = Tokenizer.from_file(whisper_assets / "gpt2.tiktoken", DIMS.n_vocab)
    made_from = {"checkpoint": {"tensor_digest": "0" * 64}, "calibration": {"count": 1}, "recipe": {}, "compiler": {}}
    plan = ShapePlan("toy", "hailo8", 1, 8, DIMS)
    manifest = make_manifest(
        scratch, plan, tokenizer, "gpt2.tiktoken", made_from, {"python": "3"}, emulated=False, semver="0.1.0"
    )
    return publish(scratch, manifest, root / "artifacts")


@pytest.fixture
def transcriber(monkeypatch):
    """The one stand-in that the command makes."""
    made = StandIn("none yet")

    def make(*arguments, **options):
        assert made.made_with[0] == "none yet", "one process, one transcriber"
        speech, info = made.speech, made.info
        made.__init__(*arguments, **options)
        made.speech, made.info = speech, info
        return made

    monkeypatch.setattr("whisper_runtime.transcriber.Transcriber", make)
    made.speech = {"a.wav": [segment("First.", 0, 1.5), segment("Second.", 1.5, 3)], "b.wav": [segment("Other.")]}
    return made


@pytest.fixture
def run(bundle, transcriber, capsys):
    """Runs `transcribe` and returns its status, stdout and stderr."""

    def call(*arguments):
        try:
            status = cli.main(["transcribe", *map(str, arguments), "--bundle", str(bundle)])
        except SystemExit as exit_:
            status = exit_.code
        return status, *capsys.readouterr()

    return call


LINES = "[   0.00 -    1.50] First.\n[   1.50 -    3.00] Second.\n"


def test_without_a_format_lines_with_times_are_printed(run):
    assert run("a.wav") == (0, LINES, "")


def test_several_files_are_headed_by_their_names(run):
    assert run("a.wav", "b.wav") == (0, f"a.wav:\n{LINES}b.wav:\n[   0.00 -    1.00] Other.\n", "")


def test_each_format_is_printed(run):
    assert run("a.wav", "--format", "txt") == (0, "First.\nSecond.\n", "")


def test_options_reach_the_transcriber_and_every_file(run, transcriber, bundle):
    arguments = ["--language", "de", "--task", "translate", "--timestamps", "--threads", "3", "--share-device"]
    arguments += ["--backend", "onnxruntime", "--decoder", "auto", "--beam-size", "2"]
    arguments += ["--initial-prompt", "Esszimmer, Loggia.", "--word-timestamps"]
    assert run("a.wav", "b.wav", *arguments)[0] == 0
    assert transcriber.beam_size == 2
    assert transcriber.made_with == (bundle, "onnxruntime", "auto", True, 3)
    asked = ("de", "translate", True, "Esszimmer, Loggia.", True)
    assert transcriber.asked == [(name, *asked) for name in ("a.wav", "b.wav")]
    assert transcriber.closed == 1


def test_by_default_the_language_is_detected_and_the_device_decodes(run, transcriber, bundle):
    run("a.wav")
    assert transcriber.made_with == (bundle, None, "device", False, None)
    assert transcriber.asked == [("a.wav", None, "transcribe", False, None, False)]


def test_with_a_folder_all_formats_are_written_and_nothing_is_printed(run, tmp_path):
    folder = tmp_path / "new" / "folder"
    assert run("talks/a.wav", "b.wav", "--output-dir", folder) == (0, "", "")
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{n}.{f}" for n in "ab" for f in FORMATS)
    assert (folder / "a.txt").read_text() == "First.\nSecond.\n"
    assert json.loads((folder / "b.json").read_text())["text"] == "Other."


def test_one_format_is_one_file(run, tmp_path):
    assert run("a.wav", "--output-dir", tmp_path, "--format", "srt")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.srt"]


def test_patterns_that_the_shell_left_alone_are_files_in_order(run, transcriber, tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.wav", "a.wav", "deep/a.wav", "c.mp3"):
        (tmp_path / name).touch()
    assert run(tmp_path / "*.wav", tmp_path / "**" / "a.*")[0] == 0
    names = [Path(asked[0]).relative_to(tmp_path).as_posix() for asked in transcriber.asked]
    assert names == ["a.wav", "b.wav", "a.wav", "deep/a.wav"]


def test_a_file_named_like_a_pattern_is_that_file(run, transcriber, tmp_path):
    transcriber.speech["[ab].wav"] = [segment("Brackets.")]
    for name in ("a.wav", "b.wav", "[ab].wav"):
        (tmp_path / name).touch()
    assert run(tmp_path / "[ab].wav", "--format", "txt") == (0, "Brackets.\n", "")


def test_a_pattern_that_fits_nothing_is_a_file_that_is_missing(run, tmp_path):
    status, out, err = run(tmp_path / "*.ogg", "b.wav", "--format", "txt")
    assert (status, out) == (1, "Other.\n")
    assert err == f"whisper-runtime: '{tmp_path}/*.ogg': no such file\n"


class Pipe(io.TextIOWrapper):
    """stdin with these bytes in it."""

    def __init__(self, content):
        super().__init__(io.BytesIO(content))


def test_stdin_is_kept_in_a_file_until_it_is_transcribed(run, transcriber, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(sys, "stdin", Pipe(b"RIFF and so on"))
    transcriber.speech["stdin"] = [segment("Piped.")]
    assert run("-", "--output-dir", tmp_path / "out", "--format", "txt") == (0, "", "")
    assert transcriber.read == [b"RIFF and so on"]
    assert (tmp_path / "out" / "stdin.txt").read_text() == "Piped.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_bad_recording_on_stdin_is_called_by_that_name(run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Pipe(b"no recording"))
    assert run("-", "a.wav", "--format", "txt") == (
        1,
        "First.\nSecond.\n",
        "whisper-runtime: standard input: no such file\n",
    )


def test_a_terminal_is_no_recording(run, monkeypatch):
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        status, _, err = run("-")
    os.close(ours)
    assert status == 1
    assert err == "whisper-runtime: standard input: is closed or a terminal: pipe a recording into it\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ["a/talk.wav", "b/talk.mp3", "--output-dir", "out"],
            "a/talk.wav and b/talk.mp3 would both be written to talk",
        ),
        (["-", "stdin.wav", "--output-dir", "out"], "standard input and stdin.wav would both be written to stdin"),
        (["a.wav", "a.wav", "--output-dir", "out"], "a.wav and a.wav would both be written"),
        (["-", "-"], "name it once"),
        (["a.wav", "b.wav", "--format", "srt"], "they need --output-dir"),
        (["a.wav", "--format", "all"], "--format all needs --output-dir"),
        (["a.wav", "--format", "docx"], "invalid choice: 'docx'"),
        (["a.wav", "--decoder", "gpu"], "invalid choice: 'gpu'"),
        (["a.wav", "--task", "sing"], "invalid choice: 'sing'"),
        (["a.wav", "--threads", "0"], "'0' is not a number from 1 on"),
        (["a.wav", "--beam-size", "0", "--decoder", "host"], "'0' is not a number from 1 to 20"),
        (["a.wav", "--beam-size", "21"], "'21' is not a number from 1 to 20"),
        (["a.wav", "--threads", "many"], "'many' is not a number from 1 on"),
        (["a.wav", "--colour\x1b[31m"], "unrecognized arguments: --colour\\x1b[31m"),
        ([], "required: FILE"),
    ],
)
def test_wrong_arguments_are_one_line_before_anything_is_done(
    arguments, reason, run, transcriber, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("whisper-runtime: ")
    assert reason in err
    assert err.count("\n") == 1
    assert transcriber.made_with[0] == "none yet"
    assert list(tmp_path.iterdir()) == []


def test_no_command_is_one_line(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main([])
    assert capsys.readouterr().err.count("\n") == 1


def test_a_file_that_fails_is_one_line_and_the_others_are_transcribed(run, transcriber, tmp_path):
    transcriber.speech["a.wav"] = [segment("First."), AudioError("'a.wav': truncated")]
    status, out, err = run("missing.wav", "a.wav", "b.wav", "--format", "txt")
    assert (status, out) == (1, "First.\nOther.\n")
    assert err == "whisper-runtime: 'missing.wav': no such file\nwhisper-runtime: 'a.wav': truncated\n"


def test_the_text_before_a_failure_is_kept_and_no_result(run, transcriber, tmp_path):
    transcriber.speech["a.wav"] = [segment("First."), BackendError("the device is gone")]
    transcriber.speech["b.wav"] = [BackendError("the device is gone")]
    status, _, err = run("a.wav", "b.wav", "--output-dir", tmp_path, "--format", "txt")
    assert status == 1
    partial = tmp_path / "a.txt.partial"
    assert err.splitlines() == [
        f"whisper-runtime: the device is gone; the text before that is in '{partial}'",
        "whisper-runtime: the device is gone",
    ]
    assert partial.read_text() == "First.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt.partial"]


def test_a_wrong_language_is_said_once(run):
    assert run("a.wav", "b.wav", "--language", "xx", "--format", "txt") == (
        1,
        "",
        "whisper-runtime: unknown language 'xx'\n",
    )


def test_debug_shows_where_an_error_came_from(run):
    with pytest.raises(AudioError):
        run("missing.wav", "--debug")


def test_ctrl_c_closes_the_transcriber_and_leaves_no_result(run, transcriber, tmp_path):
    transcriber.speech["a.wav"] = [segment("First."), KeyboardInterrupt()]
    assert run("a.wav", "b.wav", "--output-dir", tmp_path) == (130, "", "whisper-runtime: interrupted\n")
    assert transcriber.closed == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"a.{name}.partial" for name in FORMATS)


def test_a_full_disk_is_one_line_for_each_file(run, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt.partial").symlink_to("/dev/full")
    status, _, err = run("a.wav", "b.wav", "--output-dir", tmp_path, "--format", "txt")
    assert status == 1
    assert err.splitlines() == [
        f"whisper-runtime: '{tmp_path}/{name}.txt.partial': cannot be written: No space left on device" for name in "ab"
    ]


def test_a_file_is_no_folder_for_results(run, transcriber, tmp_path):
    (tmp_path / "file").write_text("mine")
    status, _, err = run("a.wav", "--output-dir", tmp_path / "file")
    assert (status, transcriber.asked) == (2, [])
    assert err.startswith(f"whisper-runtime: --output-dir {tmp_path}/file is a file, not a folder")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_one_line(run, tmp_path):
    (tmp_path / "file").touch()
    status, _, err = run("a.wav", "--output-dir", tmp_path / "file" / "out")
    assert (status, err) == (1, f"whisper-runtime: {tmp_path}/file/out: Not a directory\n")


def test_names_do_not_steer_the_terminal(run, transcriber, tmp_path):
    name = "evil\x1b[2J\u202e\n.wav"
    transcriber.speech[name] = [segment("Calm.")]
    status, out, err = run(name, f"missing{name}", "--verbose")
    assert status == 1
    assert out == "evil\\x1b[2J\\u202e\\n.wav:\n[   0.00 -    1.00] Calm.\nmissingevil\\x1b[2J\\u202e\\n.wav:\n"
    assert "\x1b" not in err
    assert len(err.splitlines()) == 2  # what --verbose says, and the error
    assert run(f"a{name}", f"b/a{name}", "--output-dir", tmp_path)[2].count("\n") == 1


def test_text_does_not_steer_the_terminal(run, transcriber):
    transcriber.speech["a.wav"] = [segment("\x1b[2Jgone\r\nor not")]
    assert run("a.wav")[1] == "[   0.00 -    1.00] [2Jgone or not\n"


def test_a_stdout_that_is_not_utf8_gets_what_it_can_show(run, transcriber, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    transcriber.speech["a.wav"] = [segment("Übung 漢字")]
    assert run("a.wav", "--format", "txt")[0] == 0
    assert stream.buffer.getvalue() == b"?bung ??\n"


def test_verbose_says_how_each_file_went(run, transcriber):
    transcriber.info["b.wav"] = (0.876,)
    status, out, err = run("a.wav", "b.wav", "--verbose", "--format", "txt")
    assert (status, out) == (0, "First.\nSecond.\nOther.\n")
    first, second = err.splitlines()
    assert first.startswith("a.wav: language en, 0:03 in 0.0 s, real-time factor 0.0")
    assert first.endswith(", 7 decoder calls (device)")
    assert second.startswith("b.wav: language en (probability 0.88), 0:01 in")


def test_verbose_shows_what_the_library_reports_and_a_later_run_does_not(run, transcriber):
    def said():
        logging.getLogger("whisper_runtime.anything").info("decoder: host, because")
        logging.getLogger("whisper_runtime.anything").warning("careful")
        yield segment("Hello.")

    transcriber.speech["a.wav"] = said()
    assert run("a.wav", "--verbose")[2].startswith("decoder: host, because\ncareful\na.wav: language en")
    transcriber.made_with = ("none yet",)
    transcriber.speech["a.wav"] = said()
    assert run("a.wav")[2] == "careful\n"


# Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def screen(text):
    """What a terminal shows in the end, if it is wide enough."""
    lines = [[]]
    column = 0
    for sign in text:
        if sign == "\n":
            lines.append([])
            column = 0
        elif sign == "\r":
            column = 0
        else:
            lines[-1][column : column + 1] = sign
            column += 1
    return ["".join(line).rstrip() for line in lines]


def progress(duration, elapsed, monkeypatch):
    now = iter([100.0, *(100.0 + seconds for seconds in elapsed)])
    monkeypatch.setattr("whisper_runtime.progress.time.monotonic", lambda: next(now))
    terminal = Terminal()
    shown = Progress(terminal)
    shown.start(duration)
    return terminal, shown


def test_progress_is_one_line_on_a_terminal(monkeypatch):
    terminal, shown = progress(2040.0, [10, 53.1], monkeypatch)
    shown.show(3600.0)  # longer than the file said, and a longer line than the next
    assert screen(terminal.getvalue()) == [" 100 %  1:00:00 of 34:00  360.0x"]
    shown.show(754.0)
    assert screen(terminal.getvalue()) == ["  37 %  12:34 of 34:00  14.2x"]
    shown.clear()
    assert screen(terminal.getvalue()) == [""]
    assert "\n" not in terminal.getvalue()


def test_progress_without_a_known_length_has_no_percent(monkeypatch):
    terminal, shown = progress(None, [10], monkeypatch)
    shown.show(25.0)
    assert screen(terminal.getvalue()) == ["  0:25  2.5x"]


def test_progress_is_nothing_where_there_is_no_terminal():
    stream = io.StringIO()
    shown = Progress(stream)
    shown.start(10.0)
    shown.show(5.0)
    shown.clear()
    assert stream.getvalue() == ""


def test_progress_does_not_mix_with_text_and_messages(run, transcriber, monkeypatch, tmp_path):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    transcriber.speech["a.wav"].append(AudioError("'a.wav': truncated"))
    assert run("a.wav", "b.wav")[0] == 1
    heard = ["a.wav:", *LINES.splitlines(), "whisper-runtime: 'a.wav': truncated"]
    assert screen(terminal.getvalue()) == [*heard, "b.wav:", "[   0.00 -    1.00] Other.", ""]
    assert "  0:03  " in terminal.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (65.9, "1:05"), (3599, "59:59"), (36061, "10:01:01")])
def test_clock(seconds, text):
    assert clock(seconds) == text


# The real transcriber, on real speech


@pytest.fixture(scope="module")
def etchings(recording):
    """A clip of 5 s: "as for etchings they are of two kinds british and foreign"."""
    return recording("1272-128104-0008").path


@pytest.fixture(scope="module")
def said(tiny_en_bundle, etchings):
    """What the bundle hears in it. The emulator's rounding decides a word now and then, so it is not written here."""
    from whisper_runtime.transcriber import Transcriber

    with Transcriber(tiny_en_bundle.folder) as transcriber:
        text = transcriber.text(etchings)
    assert "British and foreign." in text
    return text


@pytest.fixture(scope="module")
def long_talk(etchings, tmp_path_factory):
    """The clip five times, with pauses."""
    samples, rate = soundfile.read(etchings, dtype="float32")
    path = tmp_path_factory.mktemp("talk") / "talk.flac"
    soundfile.write(path, np.concatenate([samples, np.zeros(rate, np.float32)] * 5), rate)
    return path


@pytest.fixture
def command(tiny_en_bundle):
    """The command of a process of its own."""

    def make(*arguments):
        called = [sys.executable, "-m", "whisper_runtime", "transcribe", "--bundle", tiny_en_bundle.folder, *arguments]
        return [str(argument) for argument in called]

    return make


def wait_for(condition, process):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_real_recording_in_every_format(tiny_en_bundle, etchings, tmp_path, capsys, said):
    arguments = ["transcribe", str(etchings), "--bundle", str(tiny_en_bundle.folder), "--output-dir", str(tmp_path)]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out == ""
    files = {path.suffix[1:]: path for path in tmp_path.iterdir()}
    assert sorted(files) == sorted(FORMATS)
    assert {path.stem for path in files.values()} == {etchings.stem}
    end = round(soundfile.info(etchings).duration * 1000)
    assert files["txt"].read_text() == f"{said}\n"
    (event,) = pysubs2.load(str(files["srt"]))
    assert (event.text, event.start, event.end) == (said, 0, end)
    (caption,) = webvtt.read(files["vtt"], strict=True)
    assert (caption.text, caption.start_time.in_milliseconds(), caption.end_time.in_milliseconds()) == (
        said,
        0,
        end,
    )
    assert files["tsv"].read_text() == f"start\tend\ttext\n0\t{end}\t{said}\n"
    result = json.loads(files["json"].read_text())
    (entry,) = result["segments"]
    assert (result["language"], result["text"], entry["text"]) == ("en", said, said)
    assert (entry["start"], entry["end"]) == (0, end / 1000)
    assert entry["tokens"]
    assert -1 < entry["avg_logprob"] < 0
    assert 0 <= entry["no_speech_prob"] < 0.5


def test_a_recording_on_stdin_gives_the_same_text(command, etchings, said):
    with etchings.open("rb") as file:
        result = subprocess.run(
            command("-", "--format", "txt"), stdin=file, capture_output=True, text=True, check=False
        )
    assert (result.returncode, result.stdout) == (0, f"{said}\n")


def test_verbose_names_decoder_calls_and_speed(command, etchings):
    result = subprocess.run(command(etchings, "--verbose"), capture_output=True, text=True, check=True)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith(f"{etchings}: ")]
    assert " language en, 0:05 in " in line
    assert "real-time factor" in line
    assert int(line.split(", ")[-1].removesuffix(" decoder calls (device)")) >= 1


def test_a_full_disk_behind_stdout_is_one_line(command, etchings):
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(command(etchings), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.splitlines()[1:] == ["whisper-runtime: output: No space left on device"]


def test_whoever_reads_may_stop(command, long_talk, said):
    process = subprocess.Popen(command(long_talk), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert said in process.stdout.readline()
    process.stdout.close()
    assert process.wait() == 1
    assert process.stderr.read().splitlines() == [cli.EMULATED_NOTICE]
    process.stderr.close()


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_process_leaves_its_text_and_no_result(sent, command, long_talk, tmp_path, said):
    partial = tmp_path / "talk.srt.partial"
    process = subprocess.Popen(
        command(long_talk, "--output-dir", tmp_path, "--format", "srt"), stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: partial.exists() and partial.read_text(), process)
    process.send_signal(sent)
    _, err = process.communicate()
    assert process.returncode == (130 if sent == signal.SIGINT else -sent)
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == [partial.name]
    assert pysubs2.load(str(partial), format_="srt")[0].text == said


def test_a_damaged_file_leaves_the_text_before_the_damage(command, long_talk, etchings, tmp_path, said):
    samples, rate = soundfile.read(long_talk, dtype="float32")
    samples[-rate:] = np.nan
    soundfile.write(tmp_path / "damaged.wav", samples, rate, subtype="FLOAT")
    arguments = [tmp_path / "damaged.wav", etchings, "--output-dir", tmp_path / "out", "--format", "txt"]
    result = subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
    assert result.returncode == 1
    (complaint,) = result.stderr.splitlines()[1:]
    assert "damaged.wav" in complaint
    assert complaint.endswith("/damaged.txt.partial'")
    assert said in (tmp_path / "out" / "damaged.txt.partial").read_text()
    assert (tmp_path / "out" / f"{etchings.stem}.txt").read_text() == f"{said}\n"
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_progress_on_a_real_terminal(command, long_talk, said):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command(long_talk, "--format", "txt"), stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    seen = b""
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        try:
            while piece := terminal.read(4096):
                seen += piece
        except OSError:  # how Linux tells that the other end is closed
            pass
    out, _ = process.communicate()
    assert process.returncode == 0
    assert said in out
    assert " of 0:30  " in seen.decode()
    assert screen(seen.decode().replace("\r\n", "\n")) == [cli.EMULATED_NOTICE, ""]
