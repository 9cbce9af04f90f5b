"""Command line: install, uninstall, validate. The Makefile calls these."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from whisper_runtime.errors import WhisperError

from integration.app_source import CLONE, cloned_app, newest_bundle
from integration.clip import Clip
from integration.errors import AppError
from integration.install import install, uninstall
from integration.validate import Project, validate


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, or 1 if something could not be done."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (WhisperError, OSError) as error:
        if options.debug:
            raise
        shown = f"{error.filename or ''}: {error.strerror or error}" if isinstance(error, OSError) else error
        print(f"{options.command}-app: {shown}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{options.command}-app: interrupted; the next run puts things right", file=sys.stderr)
        return 130
    return 0


def _install(options: argparse.Namespace) -> None:
    app = options.app or cloned_app(options.root / "third_party", offline=options.offline, report=_report)
    bundle = options.bundle or newest_bundle(options.root / "artifacts")
    install(app, bundle, emulated=options.emulated, report=_report)


def _uninstall(options: argparse.Namespace) -> None:
    uninstall(_app(options), report=_report)


def _validate(options: argparse.Namespace) -> None:
    root = options.root
    validate(
        _app(options),
        Project(root / "audio", (root / "build" / "app-venv").absolute(), root / "requirements.lock"),
        bundle=options.bundle,
        clip=Clip.read(options.audio, options.text) if options.audio else None,
        given_python=options.app_python,
        offline=options.offline,
        report=_report,
    )


def _app(options: argparse.Namespace) -> Path:
    """The app that was given, or the clone that an install has made."""
    app: Path = options.app or options.root / "third_party" / CLONE
    if not app.is_dir():
        raise AppError(f"{app}: no such folder: give the app's folder as APP_DIR")
    return app


def _report(line: str) -> None:
    print(line, flush=True)


def _path(text: str) -> Path:
    return Path(text).expanduser()


class _OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, like every other error."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"integration: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _OneLineParser(
        prog="python -m integration",
        description="Puts a bundle into Hailo's Speech Recognition example app, proves that it transcribes, and takes "
        "it out again.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    texts = {
        "install": "Make a bundle one of the app's variants.",
        "uninstall": "Restore the app byte for byte.",
        "validate": "Run the app with an installed bundle on a real recording and compare it with the runtime.",
    }
    runs = {"install": _install, "uninstall": _uninstall, "validate": _validate}
    for name, text in texts.items():
        command = commands.add_parser(name, help=text.rstrip(".").lower(), description=text)
        command.set_defaults(run=runs[name])
        command.add_argument("--app", type=_path, metavar="DIR", help="the app, or a checkout of its repository")
        command.add_argument("--root", type=_path, default=Path(), metavar="DIR", help="this project (default: here)")
        command.add_argument("--debug", action="store_true", help="show where an error came from")
        if name == "uninstall":
            continue
        command.add_argument("--bundle", type=_path, metavar="DIR", help="the bundle (default: the newest)")
        command.add_argument("--offline", action="store_true", help="use only what is already here")
        if name == "install":
            command.add_argument("--emulated", action="store_true", help="a bundle of the emulator is welcome")
        else:
            command.add_argument("--audio", type=_path, metavar="FILE", help="a recording, instead of a fetched one")
            command.add_argument("--text", metavar="TEXT", help="what is said in it")
            command.add_argument("--app-python", type=_path, metavar="FILE", help="the interpreter that runs the app")
    return parser
