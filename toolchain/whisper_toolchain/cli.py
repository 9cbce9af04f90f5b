"""Command line of the toolchain: one command a stage. The Makefile calls these and nothing else."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from whisper_runtime.cli import positive
from whisper_runtime.errors import WhisperError

from whisper_toolchain import __version__
from whisper_toolchain.shape_plan import ARCHITECTURES, VARIANTS, ShapePlan
from whisper_toolchain.workspace import Workspace

_STAGES = """\
stages, in their order:
  fetch      openai-whisper (patched), the checkpoint, and speech
  export     the checkpoint as two ONNX graphs of fixed shape, checked against torch
  calibrate  recorded inputs of both graphs, from real speech
  compile    the graphs for the accelerator, or emulated in integers
  bundle     everything a device needs, in artifacts/<name>/<version>
  demo       the bundle transcribes a recording that it was not calibrated on

A stage whose inputs have not changed does nothing. Each reads what the one before wrote below --root.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, or 1 if something could not be done."""
    options = _parser().parse_args(arguments)
    try:
        status: int | None = options.run(options)
    except WhisperError as error:
        if options.debug:
            raise
        print(f"whisper-toolchain: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if options.debug:
            raise
        print(f"whisper-toolchain: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("whisper-toolchain: interrupted; the next run continues here", file=sys.stderr)
        return 130
    return status or 0


# Each stage reads and writes folders below --root/build; any of them can lie elsewhere.
_FOLDERS = {
    "checkpoint": "folder that fetch makes (default: build/<variant>/checkpoint)",
    "export": "folder that export makes (default: build/<shapes>/export)",
    "calibration": "folder that calibrate makes, reused as it is (default: build/<shapes>/calibration)",
    "compiled": "folder that compile makes (default: build/<bundle>/compiled)",
    "artifacts": "folder of the bundles (default: artifacts)",
}


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _report(line: str) -> None:
    print(line, flush=True)


class _OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, like every other error."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"whisper-toolchain: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _OneLineParser(
        prog="whisper-toolchain",
        description="Turns OpenAI Whisper checkpoints into bundles for Hailo accelerators.",
        epilog=_STAGES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int | None], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=text[0].lower() + text[1:].split(". ")[0].rstrip("."), description=text
        )
        command.add_argument(
            "--root",
            type=_path,
            default=Path(),
            metavar="DIR",
            help="project folder that holds patches/, third_party/, audio/, build/, artifacts/ (default: here)",
        )
        command.add_argument("--debug", action="store_true", help="show where an error came from")
        command.set_defaults(run=run)
        return command

    def with_plan(command: argparse.ArgumentParser, *, required: bool = True) -> argparse.ArgumentParser:
        command.add_argument("--variant", required=required, metavar="|".join(VARIANTS), help="Whisper model")
        command.add_argument("--arch", required=required, metavar="|".join(ARCHITECTURES), help="accelerator")
        command.add_argument("--seconds", type=int, metavar="S", help="window length instead of the default")
        command.add_argument("--sequence", type=int, metavar="N", help="decoder slots instead of the default")
        return command

    def with_dataset(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
        command.add_argument(
            "--dataset",
            type=_path,
            metavar="PATH",
            help="LibriSpeech subset, folder of recordings, or .jsonl manifest (default: what was fetched)",
        )
        return command

    def with_network(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
        command.add_argument("--offline", action="store_true", help="use only what is already here")
        return command

    def with_folders(command: argparse.ArgumentParser, *names: str) -> argparse.ArgumentParser:
        for name in names:
            command.add_argument(f"--{name}-dir", type=_path, metavar="DIR", help=_FOLDERS[name])
        return command

    def with_compiler(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
        command.add_argument(
            "--compiler",
            default="auto",
            metavar="auto|dfc|emulator",
            help="auto takes Hailo's compiler where there is one (default)",
        )
        command.add_argument(
            "--dfc-python", metavar="PYTHON", help="interpreter that has Hailo's compiler (default: this one)"
        )
        return command

    command = with_network(with_dataset(with_plan(add("fetch", _fetch, "Fetch sources, weights and speech."))))
    with_compiler(command)
    with_folders(command, "checkpoint")
    command.add_argument(
        "--checkpoint",
        type=_path,
        metavar="PATH",
        help="your own weights: OpenAI .pt, Hugging Face or CTranslate2 folder, GGML file",
    )
    with_network(add("audio", _audio, "Fetch LibriSpeech dev-clean, or a small sample where it is out of reach."))
    command = with_dataset(with_plan(add("export", _export, "Export to two ONNX graphs and check them against torch.")))
    with_folders(command, "checkpoint", "export")
    command = with_dataset(with_plan(add("calibrate", _calibrate, "Record the inputs of both graphs on real speech.")))
    with_folders(command, "checkpoint", "export", "calibration")
    command.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="windows at most (default: 4000 or, for base, 2048; 1024 for the decoder)",
    )
    command.add_argument("--seed", type=int, default=0, metavar="K", help="choice of recordings (default: 0)")
    command.add_argument("--language", default="en", metavar="CODE", help="what is spoken (default: en)")
    command = with_compiler(with_plan(add("compile", _compile, "Compile the graphs, or emulate that.")))
    with_folders(command, "export", "calibration", "compiled")
    command.add_argument("--recipe", type=_path, metavar="TOML", help="your own recipe (default: the variant's)")
    command = with_plan(add("bundle", _bundle, "Publish the compiled graphs as a bundle."))
    with_folders(command, *_FOLDERS)
    command = with_dataset(with_plan(add("demo", _demo, "Transcribe one recording with the new bundle.")))
    with_folders(command, "calibration", "artifacts")
    command = with_plan(add("package", _package, "Pack the newest bundle as a tar.gz with its sha256."))
    with_folders(command, "artifacts")
    command.add_argument("--output", type=_path, default=Path("dist"), metavar="DIR", help="default: dist")
    command = with_dataset(
        with_plan(
            add("evaluate", _evaluate, "Measure the word error rate from stock Whisper to the device."), required=False
        )
    )
    command.set_defaults(refuse=command.error)
    command.add_argument(
        "--compare",
        nargs=2,
        type=_path,
        metavar=("A.json", "B.json"),
        help="measure nothing; say what changed between two evaluations; --rungs: list recordings of these",
    )
    command.add_argument(
        "--limit", type=positive, metavar="N", help="recordings at most, drawn with --seed (default: all)"
    )
    command.add_argument("--seed", type=int, default=0, metavar="K", help="choice of recordings (default: 0)")
    command.add_argument(
        "--rungs", metavar="A,B+C", help="such as stock,float,emulated+float: encoder+decoder (default: every rung)"
    )
    command.add_argument("--language", default="en", metavar="CODE", help="what is spoken, or auto (default: en)")
    command.add_argument("--bundle", type=_path, metavar="DIR", help="a bundle (default: the newest)")
    command.add_argument("--output", type=_path, metavar="JSON", help="default: build/<bundle>/evaluation.json")
    command.add_argument(
        "--dfc-python",
        metavar="PYTHON",
        help="interpreter that has Hailo's compiler, for rungs dfc-* (default: this)",
    )
    command.add_argument("--no-drafts", action="store_true", help="decode token by token: slower, the runtime's times")
    with_folders(command, "checkpoint", "export", "artifacts")
    command = with_dataset(
        with_plan(add("tune-recipe", _tune_recipe, "Find few 16-bit layers that are good enough, emulated."))
    )
    command.add_argument("--snr", type=float, metavar="DB", help="of features and logits against float, in dB")
    command.add_argument("--wer", type=float, metavar="POINTS", help="above the float graphs (default: 1)")
    command.add_argument(
        "--limit", type=positive, metavar="N", help="recordings at most, drawn with --seed (default: all)"
    )
    command.add_argument("--seed", type=int, default=0, metavar="K", help="choice of recordings (default: 0)")
    command.add_argument("--language", default="en", metavar="CODE", help="what is spoken, or auto (default: en)")
    command.add_argument(
        "--recipe", type=_path, metavar="TOML", help="the recipe to start from (default: the variant's)"
    )
    command.add_argument("--output", type=_path, metavar="TOML", help="default: build/<bundle>/tuned-recipe.toml")
    with_folders(command, "checkpoint", "export", "calibration")
    command = with_compiler(
        with_plan(
            add("layer-noise", _layer_noise, "Show which layers add most noise, emulated or in Hailo's compiler.")
        )
    )
    command.add_argument("--recipe", type=_path, metavar="TOML", help="your own recipe (default: the variant's)")
    with_folders(command, "export", "calibration", "artifacts")
    command = add("report", _report_page, "Make the page of an evaluation again, from its JSON.")
    command.add_argument("evaluation", type=_path, metavar="JSON", help="such as build/<bundle>/evaluation.json")
    command.add_argument("--output", type=_path, metavar="HTML", help="default: beside the JSON, as .html")
    command.add_argument("--audio", type=_path, metavar="PATH", help="what was measured on, for players in the page")
    command = add("doctor", _doctor, "Say what this machine has for making bundles, what fits together, what to do.")
    command.add_argument("--arch", required=True, metavar="|".join(ARCHITECTURES), help="accelerator")
    command.add_argument("--variant", metavar="|".join(VARIANTS), help="also say what was made for this model")
    command.add_argument("--seconds", type=int, metavar="S", help="of this window length instead of the default")
    command.add_argument("--sequence", type=int, metavar="N", help="with this many decoder slots")
    command.add_argument(
        "--dfc-python", metavar="PYTHON", help="interpreter that has Hailo's compiler (default: this one)"
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _plan(options: argparse.Namespace) -> ShapePlan:
    return ShapePlan.make(options.variant, options.arch, options.seconds, options.sequence)


def _workspace(options: argparse.Namespace) -> Workspace:
    given = {name: getattr(options, f"{name}_dir", None) for name in _FOLDERS}
    return Workspace(options.root, {name: folder for name, folder in given.items() if folder is not None})


def _dfc_python(options: argparse.Namespace) -> str | None:
    return options.dfc_python or os.environ.get("DFC_PYTHON") or None


def _fetch(options: argparse.Namespace) -> None:
    from whisper_toolchain.compilers.choose import choose_compiler
    from whisper_toolchain.stages.fetch import fetch

    plan, dfc_python = _plan(options), _dfc_python(options)
    if options.compiler != "auto" or dfc_python:
        choose_compiler(options.compiler, dfc_python)  # a compiler that is not there is said before hours of work
    fetch(
        _workspace(options),
        plan.variant,
        options.checkpoint,
        options.dataset,
        offline=options.offline,
        report=_report,
    )


def _audio(options: argparse.Namespace) -> None:
    from whisper_toolchain.datasets import get_speech

    workspace = _workspace(options)
    path = get_speech(workspace.audio, workspace.downloads, offline=options.offline, report=_report)
    _report(f"audio: {path}")


def _export(options: argparse.Namespace) -> None:
    from whisper_toolchain.stages.export import export

    export(_workspace(options), _plan(options), options.dataset, report=_report)


def _calibrate(options: argparse.Namespace) -> None:
    from whisper_toolchain.stages.calibrate import calibrate

    calibrate(
        _workspace(options),
        _plan(options),
        options.dataset,
        options.samples,
        options.seed,
        language=options.language,
        report=_report,
    )


def _compile(options: argparse.Namespace) -> None:
    from whisper_toolchain.stages.compile import compile_graphs

    compile_graphs(
        _workspace(options),
        _plan(options),
        options.compiler,
        _dfc_python(options),
        options.recipe,
        report=_report,
    )


def _doctor(options: argparse.Namespace) -> int:
    from whisper_runtime.doctor import all_is_well, as_json, as_text

    from whisper_toolchain.doctor import toolchain_checks

    checks = toolchain_checks(
        _workspace(options), options.arch, options.variant, _dfc_python(options), options.seconds, options.sequence
    )
    _report(as_json(checks) if options.json else as_text(checks))
    return 0 if all_is_well(checks) else 1


def _bundle(options: argparse.Namespace) -> None:
    from whisper_toolchain.stages.bundle import bundle

    bundle(_workspace(options), _plan(options), report=_report)


def _demo(options: argparse.Namespace) -> None:
    from whisper_toolchain.stages.demo import demo

    demo(_workspace(options), _plan(options), options.dataset, report=_report)


def _package(options: argparse.Namespace) -> None:
    from whisper_toolchain.package import package

    _report(f"package: {package(_workspace(options).bundle(_plan(options)), options.output)}")


def _evaluate(options: argparse.Namespace) -> None:
    if options.compare:
        from whisper_toolchain.evaluation.comparison import comparison
        from whisper_toolchain.evaluation.result import read_result
        from whisper_toolchain.evaluation.rungs import parse_rungs

        names = None if options.rungs is None else parse_rungs(options.rungs)
        first, second = map(read_result, options.compare)
        _report(comparison(first, second, names))
        return
    if not (options.variant and options.arch):
        options.refuse("--variant and --arch are required, or --compare")
    from whisper_toolchain.stages.evaluate import Wanted, evaluate_rungs

    wanted = Wanted(
        options.dataset,
        options.limit,
        options.seed,
        options.rungs,
        None if options.language == "auto" else options.language,
        options.bundle,
        not options.no_drafts,
        _dfc_python(options),
        options.output,
    )
    evaluate_rungs(_workspace(options), _plan(options), wanted, report=_report)


def _tune_recipe(options: argparse.Namespace) -> None:
    from whisper_toolchain.stages.tune_recipe import Target, tune_recipe
    from whisper_toolchain.tuning.word_errors import Speech

    points = 1.0 if options.snr is None and options.wer is None else options.wer
    speech = Speech(
        options.dataset, options.limit, options.seed, None if options.language == "auto" else options.language
    )
    tune_recipe(
        _workspace(options),
        _plan(options),
        Target(options.snr, points),
        speech,
        options.recipe,
        options.output,
        report=_report,
    )


def _layer_noise(options: argparse.Namespace) -> None:
    from whisper_toolchain.stages.layer_noise import layer_noise

    layer_noise(
        _workspace(options), _plan(options), options.compiler, _dfc_python(options), options.recipe, report=_report
    )


def _report_page(options: argparse.Namespace) -> None:
    from whisper_toolchain.evaluation.page_file import write_page

    write_page(options.evaluation, options.output, options.audio, report=_report)


if __name__ == "__main__":
    sys.exit(main())
