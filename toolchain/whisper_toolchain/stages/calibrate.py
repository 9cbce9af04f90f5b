"""Calibrate: the calibration set and the holdout, recorded from the float graphs on real speech."""

from pathlib import Path
from typing import Any

from whisper_toolchain import datasets
from whisper_toolchain.calibration import CALIBRATION, HOLDOUT
from whisper_toolchain.calibration.selection import HOLDOUT_WINDOWS, mix, split_holdout
from whisper_toolchain.checkpoints import load
from whisper_toolchain.download import Report
from whisper_toolchain.errors import DatasetError
from whisper_toolchain.graph_contract import DECODER, ENCODER
from whisper_toolchain.shape_plan import ShapePlan
from whisper_toolchain.stage import Stage, code_digest, installed_versions, run_stage
from whisper_toolchain.stages.export import graph_digests
from whisper_toolchain.stages.fetch import CHECKPOINT
from whisper_toolchain.workspace import Workspace

REPORT = "report.html"

_CODE = (
    *(
        f"whisper_toolchain.calibration.{name}"
        for name in ("array_file", "batched_decoder", "journal", "record", "report", "selection", "statistics")
    ),
    "whisper_toolchain.html_page",
    *(
        f"whisper_runtime.{name}"
        for name in (
            "audio",
            "backends.onnxruntime",
            "decoding",
            "embedding",
            "loops",
            "mel",
            "slot_decoder",
            "token_rules",
            "tokenizer",
            "windows",
        )
    ),
)


def calibrate(
    workspace: Workspace,
    plan: ShapePlan,
    dataset: Path | None,
    samples: int | None,
    seed: int,
    *,
    language: str = "en",
    report: Report,
) -> Stage:
    """Record windows for both graphs, and a holdout from recordings that are in none of them.

    Args:
        workspace: holds the export stage's output.
        plan: the shapes.
        dataset: the speech; None for what was fetched.
        samples: how many windows at most for each graph; None for as many as the reference flow takes.
        seed: decides which recordings are taken.
        language: code of what is spoken: the decoder's prompt names it.
        report: takes one line of progress.

    Raises:
        StageError: an earlier stage has not run.
        TokenizerError: the model does not know the language.
        DatasetError: there is too little speech, or it cannot be read.
    """
    if samples is not None and samples < 1:
        raise DatasetError(f"{samples} samples: calibration needs at least one")
    encoder_rows, decoder_rows = (samples, samples) if samples else plan.calibration_rows
    exported = Stage.read(workspace.export(plan), f"export {plan.options}")
    fetched = Stage.read(workspace.checkpoint(plan.variant), f"fetch {plan.options}")
    speech = workspace.dataset(dataset)
    utterances = speech.utterances()
    dataset_digest = datasets.digest(utterances)
    inputs = {
        "export": graph_digests(exported),
        "dataset": dataset_digest,
        "rows": [encoder_rows, decoder_rows],
        "seed": seed,
        "language": language,
        "code": code_digest(*_CODE),
        "versions": installed_versions("numpy", "onnxruntime", "soundfile", "soxr", "torch"),
    }

    def make(folder: Path) -> dict[str, Any]:
        from whisper_runtime.backends.onnxruntime import OnnxRuntimeBackend

        from whisper_toolchain.calibration.record import FloatModel, record
        from whisper_toolchain.calibration.report import render_report
        from whisper_toolchain.calibration.statistics import measure_set
        from whisper_toolchain.float_model import load_tokenizer

        calibration, holdout = split_holdout(utterances, seed)
        checkpoint = load(fetched.folder / CHECKPOINT)
        with OnnxRuntimeBackend(exported.folder / ENCODER, exported.folder / DECODER, threads=1) as backend:
            tokenizer = load_tokenizer(workspace.whisper, plan.dims)
            model = FloatModel.of(plan, backend, checkpoint, tokenizer, language)
            del checkpoint
            measured = record(holdout, HOLDOUT_WINDOWS, HOLDOUT_WINDOWS, HOLDOUT, folder, model).windows
            recorded = record(mix(calibration), encoder_rows, decoder_rows, CALIBRATION, folder, model)
        windows = recorded.windows
        if not windows or not measured:
            raise DatasetError(f"{speech.name}: too little of it is louder than silence to calibrate on")
        report(
            f"calibrate: {len(windows)} windows of {speech.name} for the encoder, {len(recorded.texts)} of them for "
            f"the decoder, {len(measured)} windows of {len(holdout)} other recordings to measure on"
        )
        statistics = measure_set(folder, CALIBRATION, recorded, plan.sequence)
        title = f"Calibration set of {plan.shape_name}: {speech.name}"
        (folder / REPORT).write_bytes(render_report(title, statistics))
        for warning in statistics.warnings:
            report(f"calibrate: warning: {warning}")
        report(f"calibrate: ranges and coverage are in {workspace.calibration(plan) / REPORT}")
        return {
            "warnings": list(statistics.warnings),
            "shape": plan.shape_name,
            "count": len(windows),
            "decoder_count": len(recorded.texts),
            "holdout": [utterance.id for utterance in holdout],
            "source": speech.name,
            "dataset_digest": dataset_digest,
        }

    return run_stage("calibrate", workspace.calibration(plan), inputs, make, report, resumable=True)


def array_digests(calibrated: Stage) -> dict[str, str]:
    """File name -> sha256 of what the compilers read of a calibration; the report beside it changes nothing."""
    digests = calibrated.digests()
    return {name: digests[name] for name in (*CALIBRATION.arrays, *HOLDOUT.arrays)}
