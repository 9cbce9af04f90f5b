"""`whisper-runtime evaluate`: the word error rate of a bundle on this machine."""

import contextlib
import importlib.metadata
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whisper_runtime.atomic_file import write_atomically
from whisper_runtime.bundle import Bundle
from whisper_runtime.datasets import open_dataset
from whisper_runtime.errors import EvaluationError, WhisperError
from whisper_runtime.evaluation.bundle_rungs import open_rung, parse_decoders, rung_names
from whisper_runtime.evaluation.code_digest import code_digest
from whisper_runtime.evaluation.normaliser import load_normaliser
from whisper_runtime.evaluation.record import add_evaluation, record
from whisper_runtime.evaluation.rung import RungRun, measure_rung, open_journal
from whisper_runtime.evaluation.speech import choose_clips
from whisper_runtime.evaluation.table import table
from whisper_runtime.progress import Progress
from whisper_runtime.verified_files import cache_folder

# Whatever of these is installed. `hailort` is HailoRT's Python package.
_PACKAGES = ("numpy", "onnxruntime", "soundfile", "soxr", "tiktoken", "jiwer", "whisper-normalizer", "hailort")


@dataclass(frozen=True)
class Wanted:
    """What to evaluate.

    Attributes:
        speech: LibriSpeech subset, folder of recordings with `.txt` beside them, or JSON-lines file.
        bundle: the bundle's folder.
        decoders: "device", "host", or "both".
        limit: recordings at most, drawn with `seed`; None for all.
        seed: of the draw.
        language: code such as "en"; None to detect it in each recording.
        output: the JSON file.
        share_device: let other programs use the device meanwhile.
        threads: threads of the CPU for each graph on it; None for one per core.
    """

    speech: Path
    bundle: Path
    decoders: str = "both"
    limit: int | None = None
    seed: int = 0
    language: str | None = "en"
    output: Path = Path("evaluation.json")
    share_device: bool = False
    threads: int | None = None


def evaluate(wanted: Wanted, report: Callable[[str], None]) -> dict[str, Any]:
    """Measure, write the JSON, record it in the bundle's manifest, and return it.

    Each recording's result is kept in the user's cache folder as it comes: an interrupted evaluation goes on there.

    Args:
        wanted: what to evaluate.
        report: takes one line of progress or warning.

    Raises:
        DatasetError: the speech cannot be listed.
        EvaluationError: something to measure with is not installed, no recording with a transcript can be read, no
            rung ran, or the output cannot be written.
        BundleError, TokenizerError: the bundle is damaged, or does not know the language.
        OSError: the disk is full.
    """
    normaliser, normalise = load_normaliser(wanted.language)
    from whisper_runtime.evaluation.summary import (  # needs what was just looked for
        describe_bundle,
        layer_noise,
        summarise,
    )

    decoders = parse_decoders(wanted.decoders)
    _check_output(wanted.output)
    bundle = Bundle.open(wanted.bundle, remember=True)
    if wanted.language is not None:
        bundle.tokenizer().language_token(wanted.language)  # one error, not one for each recording
    clips, dataset = choose_clips(open_dataset(wanted.speech, keep_missing=True), wanted.limit, wanted.seed)
    folder = cache_folder()
    if folder is None:
        raise EvaluationError("there is no home folder to keep results in: set XDG_CACHE_HOME to a folder")
    versions = _versions(bundle)
    runs: dict[str, RungRun] = {}
    for name, decoder in rung_names(bundle, decoders).items():
        made_from = {
            "rung": name,
            "bundle": bundle.manifest.content_digest,
            "language": wanted.language,
            "code": code_digest(),
            "versions": versions,
        }
        progress = Progress(sys.stderr)
        progress.start(None)
        with contextlib.ExitStack() as stack:
            stack.callback(progress.clear)
            runs[name] = measure_rung(
                name,
                lambda decoder=decoder: open_rung(  # type: ignore[misc]
                    bundle, decoder, wanted.language, share_device=wanted.share_device, threads=wanted.threads
                ),
                clips,
                open_journal(folder / "evaluation", made_from),
                report=report,
                progress=progress.show,
            )
    result = summarise(
        runs,
        clips,
        normalise,
        dataset=dataset,
        command=_command(wanted),
        bundle=describe_bundle(bundle),
        language=wanted.language,
        normaliser=normaliser,
        toolchain=bundle.manifest.version.split("+")[0],
        git_revision=None,
        versions=versions,
        layer_noise=layer_noise(bundle),
    )
    try:
        write_atomically(wanted.output, [json.dumps(result, indent=1, sort_keys=True).encode() + b"\n"])
    except OSError as error:
        raise EvaluationError(f"{wanted.output}: cannot be written: {error.strerror or error}") from error
    report(f"evaluate: wrote {wanted.output}")
    try:
        add_evaluation(bundle, record(result, "runtime"))
    except WhisperError as error:  # a bundle may well lie where nobody can write
        report(f"evaluate: warning: {error}")
    else:
        report(f"evaluate: recorded in {bundle.folder}/manifest.json")
    return result


def show(result: dict[str, Any], as_json: bool) -> str:
    """The result for a person, or as JSON."""
    return json.dumps(result, indent=1, sort_keys=True) if as_json else table(result)


def _check_output(output: Path) -> None:
    """Raise EvaluationError if the result could not be written there in the end."""
    if output.is_dir():
        raise EvaluationError(f"{output}: is a folder; name a file, such as {output / 'evaluation.json'}")
    nearest = next(parent for parent in output.absolute().parents if parent.exists())
    if not os.access(nearest, os.W_OK):
        raise EvaluationError(f"{output}: {nearest} cannot be written to; name another --output")


def _versions(bundle: Bundle) -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _command(wanted: Wanted) -> str:
    """What to type for the same again. Of absolute paths only the name: who reads the result need not know the rest."""
    speech, bundle = (path.name if path.is_absolute() else str(path) for path in (wanted.speech, wanted.bundle))
    parts = ["whisper-runtime", "evaluate", speech, "--bundle", bundle, "--decoder", wanted.decoders]
    parts += ["--language", wanted.language or "auto", "--seed", str(wanted.seed)]
    for option, value in (("--limit", wanted.limit), ("--threads", wanted.threads)):
        parts += [option, str(value)] if value is not None else []
    return shlex.join([*parts, *(["--share-device"] if wanted.share_device else [])])
