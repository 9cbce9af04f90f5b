"""Command line of the runtime: `whisper-runtime transcribe`, `whisper-runtime info` and `whisper-runtime doctor`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from whisper_runtime import __version__
from whisper_runtime.errors import WhisperError
from whisper_runtime.manifest import Manifest

if TYPE_CHECKING:
    from whisper_runtime.hef import Hef

EMULATED_NOTICE = "EMULATED bundle: runs on this CPU with ONNX Runtime, not on a Hailo device"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, or 1 if something could not be done."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        return status
    except WhisperError as error:
        if options.debug:
            raise
        print(f"whisper-runtime: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read the output has seen enough; without this Python complains again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if options.debug:
            raise
        print(f"whisper-runtime: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("whisper-runtime: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="whisper-runtime", description="Runs Whisper bundles made by hailo-whisper-toolchain."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    transcribe = commands.add_parser(
        "transcribe",
        help="print what is said in recordings",
        description="Transcribes wav, flac, ogg and mp3 files of any sample rate and channel count.",
        epilog="Example: whisper-runtime transcribe talk.wav --bundle artifacts/whisper-tiny-10s-seq32-hailo8/latest",
    )
    transcribe.add_argument("files", nargs="+", metavar="FILE", help="a recording")
    transcribe.add_argument("--bundle", required=True, type=Path, metavar="DIR", help="folder of the bundle")
    transcribe.add_argument("--language", metavar="CODE", help="spoken language, such as de (default: en)")
    transcribe.add_argument("--backend", metavar="hailort|onnxruntime", help="default: the one that the bundle is for")
    transcribe.add_argument(
        "--share-device",
        action="store_true",
        help="let other programs use the Hailo device at the same time; they must share it too",
    )
    transcribe.add_argument("--debug", action="store_true", help="show where an error came from")
    transcribe.set_defaults(run=_transcribe)

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


# The commands import what they need themselves, so that `doctor` works where a package is missing or broken.


def _doctor(options: argparse.Namespace) -> int:
    from whisper_runtime import doctor

    probe = doctor.probe_hailort()
    checks = doctor.runtime_checks(probe, options.bundle)
    if options.debug and probe.log:
        print(probe.log.rstrip(), file=sys.stderr)
    print(doctor.as_json(checks) if options.json else doctor.as_text(checks))
    return 0 if doctor.all_is_well(checks) else 1


def _transcribe(options: argparse.Namespace) -> int:
    from whisper_runtime import watchdog
    from whisper_runtime.bundle import Bundle
    from whisper_runtime.transcriber import Transcriber

    # Leaving the block gives the device back, at the end as after Ctrl-C.
    with (
        watchdog.watching(),
        Transcriber.from_bundle(options.bundle, options.backend, options.share_device) as transcriber,
    ):
        if Bundle.open_unverified(options.bundle).manifest.emulated:
            print(EMULATED_NOTICE, file=sys.stderr)
        transcriber.prompt(options.language)  # a wrong language is one error, not one for each file
        status = 0
        for file in options.files:
            if len(options.files) > 1:
                print(f"{file}:")
            try:
                for segment in transcriber.transcribe(file, options.language):
                    print(f"[{segment.start:7.2f} - {segment.end:7.2f}] {segment.text}", flush=True)
            except WhisperError as error:
                if options.debug:
                    raise
                print(f"whisper-runtime: {error}", file=sys.stderr)
                status = 1
        return status


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
    rows = {
        "model": f"Whisper {manifest.variant}, window {manifest.seconds} s, {manifest.sequence} decoder slots",
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
    for name, entry in sorted(manifest.files.items()):
        lines.append(f"  {'file':<12} {name} ({entry.size / 1e6:.2f} MB)")
    return "\n".join(lines)


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
