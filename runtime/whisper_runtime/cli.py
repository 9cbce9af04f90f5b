"""Command line of the runtime: `whisper-runtime transcribe`, `stream`, `evaluate`, `info` and `doctor`."""

import argparse
import contextlib
import glob
import io
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from whisper_runtime import __version__
from whisper_runtime.errors import AudioError, TokenizerError, WhisperError
from whisper_runtime.formats import FORMATS, Lines, Result, ResultFile
from whisper_runtime.manifest import Manifest
from whisper_runtime.progress import Progress, clock
from whisper_runtime.segment import TranscriptionInfo

if TYPE_CHECKING:
    from whisper_runtime.hef import Hef
    from whisper_runtime.transcriber import Transcriber

EMULATED_NOTICE = "EMULATED bundle: runs on this CPU with ONNX Runtime, not on a Hailo device"

_STDIN = "-"
_MOST_BEAMS = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, or 1 if something could not be done.

    Raises:
        SystemExit: status 2 and one line on stderr if the arguments are wrong.
    """
    # Python has None for what was closed before it started.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        print(end="", flush=True)  # a full disk or a closed pipe shows here at the latest, and not when Python exits
        return status
    except WhisperError as error:
        if options.debug:
            raise
        _complain(str(error))
        return 1
    except BrokenPipeError:  # whoever read the output has seen enough
        _discard_stdout()
        return 1
    except OSError as error:
        if options.debug:
            raise
        if error.filename is None:
            _discard_stdout()
        _complain(f"{error.filename or 'output'}: {error.strerror or error}")
        return 1
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130


def _complain(message: str) -> None:
    print(f"whisper-runtime: {printable(message)}", file=sys.stderr)


def _discard_stdout() -> None:
    """Lead what stdout still holds to nowhere; Python would try to write it at exit and complain again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def printable(text: str) -> str:
    """Return text with escapes for what could steer a terminal: control characters, other directions of writing."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


class _OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, like every other error."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"whisper-runtime: {printable(message)}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _OneLineParser(prog="whisper-runtime", description="Runs Whisper bundles made by hailo-whisper-toolchain.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    transcribe = commands.add_parser(
        "transcribe",
        help="print or write what is said in recordings",
        description="Transcribes wav, flac, ogg and mp3 files of any sample rate and channel count. Exit status 0 if "
        "every file could be transcribed.",
        epilog="Example: whisper-runtime transcribe talk.wav --bundle bundle --format srt --output-dir subtitles",
    )
    transcribe.add_argument(
        "files", nargs="+", metavar="FILE", help="a recording, a pattern such as 'talks/*.mp3', or - for stdin"
    )
    _add_model_options(transcribe)
    transcribe.add_argument(
        "--format",
        choices=(*FORMATS, "all"),
        help="default: all with --output-dir, otherwise lines with times in seconds",
    )
    transcribe.add_argument(
        "--output-dir", type=Path, metavar="DIR", help="write <name of the recording>.<format> there (default: print)"
    )
    transcribe.add_argument(
        "--word-timestamps",
        action="store_true",
        help="say in json when each word is said; segments begin and end with their words",
    )
    transcribe.set_defaults(run=_transcribe, refuse=transcribe.error)

    stream = commands.add_parser(
        "stream",
        help="print what is said while it is said",
        description="Transcribes a microphone, or raw PCM from a pipe, as it comes in. Lines are final. On a terminal "
        "the text that may still change stands behind '...'. Ends with the sound, or with Ctrl-C.",
        epilog="Example: arecord -t raw -f S16_LE -r 16000 -c 1 | whisper-runtime stream - --bundle DIR",
    )
    stream.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="a microphone's name or number, or - for raw PCM on stdin: 16 bits, little-endian, mono, 16 kHz "
        "(default: the system's microphone)",
    )
    _add_model_options(stream)
    stream.add_argument(
        "--hop", type=_hop, default=1.0, metavar="SECONDS", help="how often text is shown at most (default: 1)"
    )
    stream.add_argument("--json", action="store_true", help="print JSON lines, with partial text, latency and calls")
    stream.set_defaults(run=_stream, refuse=stream.error)

    evaluate = commands.add_parser(
        "evaluate",
        help="measure the word error rate on recordings with transcripts",
        description="Transcribes recordings whose words are known, with the bundle's decoder and with the one for this "
        "CPU, and says how many words are wrong, how fast it is, and what power the device takes where it can tell. "
        "Interrupted, it goes on where it was. Needs jiwer and whisper-normalizer (the extra [evaluate]).",
        epilog="Example: whisper-runtime evaluate LibriSpeech/test-clean --bundle bundle --limit 100",
    )
    evaluate.add_argument(
        "speech",
        type=Path,
        metavar="SPEECH",
        help="a LibriSpeech subset, a folder of recordings with .txt beside them, or a .jsonl file with audio and text",
    )
    evaluate.add_argument("--bundle", required=True, type=Path, metavar="DIR", help="folder of the bundle")
    evaluate.add_argument(
        "--decoder", default="both", metavar="device|host|both", help="where text is decoded (default: both)"
    )
    evaluate.add_argument(
        "--limit", type=positive, metavar="N", help="recordings at most, drawn with --seed (default: all)"
    )
    evaluate.add_argument("--seed", type=int, default=0, metavar="K", help="choice of recordings (default: 0)")
    evaluate.add_argument("--language", default="en", metavar="CODE", help="what is spoken, or auto (default: en)")
    evaluate.add_argument(
        "--output", type=Path, default=Path("evaluation.json"), metavar="JSON", help="default: evaluation.json"
    )
    evaluate.add_argument("--json", action="store_true", help="print the JSON as well, instead of a table")
    evaluate.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: one per core)")
    evaluate.add_argument(
        "--share-device", action="store_true", help="let other programs use the Hailo device at the same time"
    )
    evaluate.add_argument("--debug", action="store_true", help="show where an error came from")
    evaluate.set_defaults(run=_evaluate)

    info = commands.add_parser(
        "info",
        help="print what a bundle or a HEF is",
        description="Verifies a bundle, or a HEF of whatever origin, and prints what it is.",
    )
    info.add_argument("path", type=Path, metavar="PATH", help="folder of the bundle, or a file: the HEF")
    info.add_argument("--debug", action="store_true", help="show where an error came from")
    info.set_defaults(run=_info)

    doctor = commands.add_parser(
        "doctor",
        help="say what is installed, what fits together, and what to do",
        description="Checks Python, its packages, HailoRT, driver, device and a bundle. Exit status 1 if there is a "
        "problem; a note is about something that is not needed for what works here.",
    )
    doctor.add_argument("--bundle", type=Path, metavar="DIR", help="folder of a bundle that is to run here")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.add_argument("--debug", action="store_true", help="show what HailoRT printed, and where an error came from")
    doctor.set_defaults(run=_doctor)
    return parser


def _add_model_options(command: argparse.ArgumentParser) -> None:
    """What all commands share that make text of sound."""
    command.add_argument("--bundle", required=True, type=Path, metavar="DIR", help="folder of the bundle")
    command.add_argument(
        "--language", metavar="CODE", help="spoken language, such as de (default: detect it; English for .en models)"
    )
    command.add_argument(
        "--task",
        choices=("transcribe", "translate"),
        default="transcribe",
        help="translate: to English, whatever is spoken (default: transcribe)",
    )
    command.add_argument(
        "--initial-prompt",
        metavar="TEXT",
        help="names and terms that may come up, such as 'Esszimmer, Loggia.': the model is told so before each window",
    )
    command.add_argument(
        "--timestamps", action="store_true", help="let the model say when each sentence begins and ends: finer segments"
    )
    command.add_argument("--backend", metavar="hailort|onnxruntime", help="default: the one that the bundle is for")
    command.add_argument(
        "--decoder",
        choices=("device", "host", "auto"),
        default="device",
        help="where text is decoded: on the accelerator, on this CPU, or where a quick measurement finds it faster "
        "(default: device)",
    )
    command.add_argument(
        "--beam-size",
        type=_beam_size,
        metavar="N",
        help="texts that are followed at once: more make fewer errors and take longer (default: 3 for tiny and 5 for "
        "base with the decoder on this CPU; 1 on the accelerator, where more are followed in doubt only)",
    )
    command.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: one per core)")
    command.add_argument(
        "--share-device",
        action="store_true",
        help="let other programs use the Hailo device at the same time; they must share it too",
    )
    command.add_argument("--verbose", action="store_true", help="say on stderr how it is done and how fast")
    command.add_argument("--debug", action="store_true", help="show where an error came from")


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    """What is asked of the text, of recordings and streams alike."""
    return {name: getattr(options, name) for name in ("language", "task", "timestamps", "initial_prompt")}


def _hop(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 60.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.1 to 60")
    return seconds


def positive(text: str) -> int:
    """An argument that must be 1 or more. Raises argparse.ArgumentTypeError."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return number


def _beam_size(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if not 1 <= number <= _MOST_BEAMS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {_MOST_BEAMS}")
    return number


# The commands import what they need themselves, so that `doctor` works where a package is missing or broken.


def _doctor(options: argparse.Namespace) -> int:
    from whisper_runtime import doctor

    probe = doctor.probe_hailort()
    checks = doctor.runtime_checks(probe, options.bundle)
    if options.debug and probe.log:
        print(probe.log.rstrip(), file=sys.stderr)
    print(doctor.as_json(checks) if options.json else doctor.as_text(checks))
    return 0 if doctor.all_is_well(checks) else 1


@dataclass(frozen=True)
class _Recording:
    """A recording as the user names it: a file, or `-`."""

    argument: str

    @property
    def shown(self) -> str:
        return "standard input" if self.argument == _STDIN else printable(self.argument)

    @property
    def name(self) -> str:
        """Of its results, without the ending."""
        return "stdin" if self.argument == _STDIN else Path(self.argument).stem


def _transcribe(options: argparse.Namespace) -> int:
    from whisper_runtime import watchdog

    recordings = _recordings(options.files)
    _check_outputs(options, recordings)
    if options.output_dir is not None:
        options.output_dir.mkdir(parents=True, exist_ok=True)
    _accept_any_text()

    progress = Progress(sys.stderr)
    status = 0
    # Leaving the block gives the device back, at the end as after Ctrl-C.
    with (
        _log_to_stderr(progress, options.verbose),
        watchdog.watching(),
        _open(options) as transcriber,
    ):
        for recording in recordings:
            if len(recordings) > 1 and options.output_dir is None and options.format is None:
                print(f"{recording.shown}:")
            try:
                _transcribe_one(transcriber, recording, options, progress)
            except TokenizerError:
                raise  # a wrong language is one error, not one for each file
            except WhisperError as error:
                if options.debug:
                    raise
                _complain(str(error))
                status = 1
    return status


def _stream(options: argparse.Namespace) -> int:
    from whisper_runtime import stream_command, watchdog
    from whisper_runtime.streaming import StreamTranscriber

    _accept_any_text()
    show = stream_command.JsonLines(sys.stdout) if options.json else stream_command.Lines(sys.stdout)
    with (
        _log_to_stderr(Progress(sys.stderr), options.verbose),
        watchdog.watching(),
        _open(options, drafted=True) as transcriber,
    ):
        streamed = StreamTranscriber(
            transcriber,
            hop=options.hop,
            **_asked(options),
        )
        stream_command.stream(stream_command.open_sound(options.source), streamed, show)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from whisper_runtime import evaluate_command, watchdog

    _accept_any_text()
    wanted = evaluate_command.Wanted(
        options.speech,
        options.bundle,
        options.decoder,
        options.limit,
        options.seed,
        None if options.language == "auto" else options.language,
        options.output,
        options.share_device,
        options.threads,
    )
    with _log_to_stderr(Progress(sys.stderr), False), watchdog.watching():
        result = evaluate_command.evaluate(wanted, lambda line: print(printable(line), file=sys.stderr, flush=True))
    if result["bundle"]["emulated"]:
        print(EMULATED_NOTICE, file=sys.stderr)
    print(evaluate_command.show(result, options.json))
    return 0


def _accept_any_text() -> None:
    """Let stdout write `?` for what a terminal that is not UTF-8 has no sign for."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _open(options: argparse.Namespace, drafted: bool = False) -> "Transcriber":
    """Open the bundle, for a stream (drafted) or for recordings, and say so if it is an emulated one."""
    from whisper_runtime.bundle import Bundle
    from whisper_runtime.transcriber import Transcriber

    transcriber = Transcriber(
        options.bundle,
        backend=options.backend,
        decoder=options.decoder,
        share_device=options.share_device,
        threads=options.threads,
        drafted=drafted,
        beam_size=options.beam_size,
    )
    if Bundle.open_unverified(options.bundle).manifest.emulated:
        print(EMULATED_NOTICE, file=sys.stderr)
    return transcriber


def _recordings(arguments: Sequence[str]) -> list[_Recording]:
    """The files, with what patterns stand for in order; a pattern that fits none is left to fail as a file."""
    files: list[str] = []
    for argument in arguments:
        # A file may be called `talk[1].wav`, which is no pattern for itself.
        is_file = argument == _STDIN or os.path.lexists(argument)
        matches = [] if is_file else sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 - the shell's way
        files += matches or [argument]
    return [_Recording(file) for file in files]


def _check_outputs(options: argparse.Namespace, recordings: Sequence[_Recording]) -> None:
    """Refuse, before anything is transcribed, what could not be told apart in the end or has no place to go."""
    if options.output_dir is None:
        if options.format == "all":
            options.refuse("--format all needs --output-dir")
        if len(recordings) > 1 and options.format not in (None, "txt"):
            options.refuse(f"several recordings make several {options.format} documents: they need --output-dir")
        if [recording.argument for recording in recordings].count(_STDIN) > 1:
            options.refuse("- stands for the one recording on stdin: name it once")
        return
    if options.output_dir.is_file():
        options.refuse(f"--output-dir {options.output_dir} is a file, not a folder")
    seen: dict[str, _Recording] = {}
    for recording in recordings:
        other = seen.setdefault(recording.name, recording)
        if other is not recording:
            options.refuse(f"{other.shown} and {recording.shown} would both be written to {recording.name}.*")


def _transcribe_one(
    transcriber: "Transcriber", recording: _Recording, options: argparse.Namespace, progress: Progress
) -> None:
    with contextlib.ExitStack() as stack:
        stack.callback(progress.clear)
        file = stack.enter_context(_on_disk(recording))
        began, calls = time.monotonic(), transcriber.text_decoder.calls
        segments, info = transcriber.transcribe(file, word_timestamps=options.word_timestamps, **_asked(options))
        results = [stack.enter_context(result) for result in _results(recording, options, info)]
        progress.start(info.duration)
        end = 0.0
        try:
            for segment in segments:
                progress.clear()
                for result in results:
                    result.write(segment)
                end = segment.end
                progress.show(end)
            for result in results:
                result.finish()
        except WhisperError as error:
            kept = [result.kept for result in results if isinstance(result, ResultFile) and result.kept]
            if not kept:
                raise
            raise type(error)(f"{error}; the text before that is in {str(kept[0])!r}") from error
        took = time.monotonic() - began
        counted = f"{transcriber.text_decoder.calls - calls} decoder calls ({transcriber.text_decoder.name})"
        logging.getLogger(__name__).info("%s: %s, %s", recording.shown, _summary(info, end, took), counted)


def _summary(info: TranscriptionInfo, end: float, took: float) -> str:
    """How it went: `language en, 4:05 in 12.3 s, real-time factor 0.050`."""
    language = f"language {info.language}"
    if info.language_probability < 1:
        language += f" (probability {info.language_probability:.2f})"
    seconds = info.duration or end
    factor = f", real-time factor {took / seconds:.3f}" if seconds else ""
    return f"{language}, {clock(seconds)} in {took:.1f} s{factor}"


def _results(recording: _Recording, options: argparse.Namespace, info: TranscriptionInfo) -> Iterator[Result]:
    """Open what the text of a recording goes to."""
    if options.output_dir is None:
        yield Result(sys.stdout, (FORMATS[options.format] if options.format else Lines)(info))
        return
    for name in FORMATS if options.format in (None, "all") else (options.format,):
        yield ResultFile(options.output_dir / f"{recording.name}.{name}", FORMATS[name](info))


@contextlib.contextmanager
def _on_disk(recording: _Recording) -> Iterator[str]:
    """The recording's file; for stdin a temporary one."""
    if recording.argument != _STDIN:
        yield recording.argument
        return
    if sys.stdin is None or sys.stdin.isatty():
        raise AudioError(f"{recording.shown}: is closed or a terminal: pipe a recording into it")
    # Where nobody asks for another place: /tmp is memory on many systems, /var/tmp is made for large files.
    where = "/var/tmp" if "TMPDIR" not in os.environ and os.access("/var/tmp", os.W_OK) else None  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="whisper-runtime-", dir=where) as folder:
        path = Path(folder, "stdin")
        try:
            with path.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
        except OSError as error:
            raise AudioError(f"{recording.shown}: cannot be kept in {folder!r}: {error.strerror or error}") from error
        try:
            yield str(path)
        except AudioError as error:
            raise AudioError(str(error).replace(repr(str(path)), recording.shown)) from error


@contextlib.contextmanager
def _log_to_stderr(progress: Progress, verbose: bool) -> Iterator[None]:
    """Print what the library reports inside: warnings, and with `verbose` how it works."""

    class Handler(logging.StreamHandler):
        def emit(self, record: logging.LogRecord) -> None:
            progress.clear()
            super().emit(record)

    logger = logging.getLogger("whisper_runtime")
    handler, level = Handler(sys.stderr), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _info(options: argparse.Namespace) -> int:
    from whisper_runtime.bundle import Bundle
    from whisper_runtime.hef import check_outputs, read_hef

    is_hef = options.path.is_file() or (options.path.suffix == ".hef" and not options.path.is_dir())
    if not is_hef:
        print(describe(Bundle.open(options.path).manifest))
        return 0
    hef = read_hef(options.path)
    print(describe_hef(hef), flush=True)
    check_outputs(hef)
    return 0


def describe(manifest: Manifest) -> str:
    """Return what a bundle is, in a few lines for a person."""
    data, build = manifest.data, manifest.data["build"]
    lines = [f"{manifest.name} {manifest.version}"]
    if manifest.emulated:
        lines.append(f"  {EMULATED_NOTICE}")
    host_seconds = data["io"].get("host_decoder", {}).get("window_seconds", manifest.seconds)
    window = f"window {manifest.seconds} s"
    if host_seconds != manifest.seconds:
        window += f" ({host_seconds} s with the host's decoder)"
    rows = {
        "model": f"Whisper {manifest.variant}, {window}, {manifest.sequence} decoder slots",
        "for": manifest.arch,
        "compiler": f"{data['compiler']['name']} {data['compiler']['version']}",
        "checkpoint": f"{_source(build['checkpoint_source'])}, tensors {data['checkpoint']['tensor_digest'][:12]}",
        "calibration": f"{data['calibration']['count']} windows of {build['calibration_source']}",
        "recipe": data["recipe"]["name"],
        "prompt": " ".join(map(str, manifest.sot_sequence)) + f", ends at {manifest.eot}",
        "content": manifest.content_digest,
    }
    lines += [f"  {key:<12} {value}" for key, value in rows.items()]
    for key, value in sorted(build["snr_db"].items()):
        lines.append(f"  {'SNR':<12} {key}: {value:.1f} dB against float")
    for record in data["evaluations"]:
        rates = ", ".join(
            f"{rung} {rate:.1f} ({low:.1f}-{high:.1f})" for rung, (rate, low, high) in sorted(record["wer"].items())
        )
        lines.append(
            f"  {'evaluated':<12} {record['date']}, {record['dataset']['clips']} clips of {record['dataset']['name']}, "
            f"WER % (95 % interval): {rates}{_left_out(record)}; {record['verdict']}"
        )
    for name, entry in sorted(manifest.files.items()):
        lines.append(f"  {'file':<12} {name} ({entry.size / 1e6:.2f} MB)")
    return "\n".join(lines)


def _left_out(record: dict) -> str:
    """What an evaluation could not measure; records of before do not say."""
    parts = [f"{count} failed on {rung}" for rung, count in sorted(record.get("failed", {}).items())]
    if record.get("unreadable"):
        parts.append(f"{record['unreadable']} could not be read")
    return f"; left out: {', '.join(parts)}" if parts else ""


def describe_hef(hef: "Hef") -> str:
    """Return what a HEF is, in a few lines for a person."""
    rows = [
        ("for", hef.architecture),
        ("compiler", f"DFC {hef.sdk_version}" if hef.sdk_version else "unknown"),
        ("created", f"{hef.created:%Y-%m-%d %H:%M:%S} UTC" if hef.created else "unknown"),
        ("header", f"version {hef.header_version}, digest verified"),
    ]
    rows += [("network", group) for group in hef.network_groups]
    for kind, streams in (("input", hef.inputs), ("output", hef.outputs)):
        for stream in streams:
            shape = " x ".join(map(str, stream.shape))
            values = f"{8 * stream.bytes_per_value} bits, scale {stream.scale:.6g}, zero point {stream.zero_point:g}"
            names = f", from {', '.join(stream.original_names)}" if stream.original_names else ""
            rows.append((kind, f"{stream.name}: {shape}, {values}{names}"))
    # Names are whatever the file says: nothing in them shall steer the terminal.
    lines = [f"  {key:<12} {text if text.isprintable() else ascii(text)}" for key, text in rows]
    return "\n".join([f"{hef.path}: HEF", *lines])


def _source(source: dict[str, str]) -> str:
    return " ".join(str(source[key]) for key in ("kind", "package", "file", "container") if key in source)


if __name__ == "__main__":
    sys.exit(main())
