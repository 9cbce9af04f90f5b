"""Calibrate: the calibration set and the holdout, recorded from the float graphs on real speech."""

from pathlib import Path
from typing import Any

from whisper_toolchain import datasets
from whisper_toolchain.calibration import (
    CALIBRATION,
    HOLDOUT,
    HOLDOUT_WINDOWS,
    plan_windows,
    record,
    split_holdout,
)
from whisper_toolchain.checkpoints import load
from whisper_toolchain.download import Report
from whisper_toolchain.errors import DatasetError
from whisper_toolchain.graph_contract import DECODER, ENCODER
from whisper_toolchain.shape_plan import ShapePlan
from whisper_toolchain.stage import Stage, code_digest, installed_versions, run_stage
from whisper_toolchain.stages.fetch import CHECKPOINT
from whisper_toolchain.workspace import Workspace

_CODE = (
    "whisper_toolchain.calibration",
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
    samples: int,
    seed: int,
    *,
    report: Report,
) -> Stage:
    """Record up to `samples` windows, and a holdout from recordings that are in none of them.

    Args:
        workspace: holds the export stage's output.
        plan: the shapes.
        dataset: the speech; None for what was fetched.
        samples: how many windows at most.
        seed: decides which recordings are taken.
        report: takes one line of progress.

    Raises:
        StageError: an earlier stage has not run.
        DatasetError: there is too little speech, or it cannot be read.
    """
    if samples < 1:
        raise DatasetError(f"{samples} samples: calibration needs at least one")
    exported = Stage.read(workspace.export(plan), f"export {plan.options}")
    fetched = Stage.read(workspace.checkpoint(plan.variant), f"fetch {plan.options}")
    speech = workspace.dataset(dataset)
    utterances = speech.utterances()
    dataset_digest = datasets.digest(utterances)
    inputs = {
        "export": {name: exported.digests()[name] for name in (ENCODER, DECODER)},  # the host decoder plays no part
        "dataset": dataset_digest,
        "samples": samples,
        "seed": seed,
        "code": code_digest(*_CODE),
        "versions": installed_versions("numpy", "onnxruntime", "soundfile", "soxr"),
    }

    def make(folder: Path) -> dict[str, Any]:
        from whisper_runtime.embedding import TokenEmbedding

        from whisper_toolchain.float_model import host_arrays, load_tokenizer, open_float_backend

        calibration, holdout = split_holdout(utterances, seed)
        windows = plan_windows(calibration, plan.seconds, samples)
        measured = plan_windows(holdout, plan.seconds, HOLDOUT_WINDOWS)
        if not windows or not measured:
            raise DatasetError(f"{speech.name}: too little of it is louder than silence to calibrate on")
        report(
            f"calibrate: {len(windows)} windows of {speech.name} to calibrate on, {len(measured)} windows of "
            f"{len(holdout)} other recordings to measure on"
        )
        embedding = TokenEmbedding(*host_arrays(load(fetched.folder / CHECKPOINT)))
        tokenizer = load_tokenizer(workspace.whisper, plan.dims)
        with open_float_backend(exported.folder) as backend:
            record(windows, CALIBRATION, folder, plan, backend, embedding, tokenizer)
            record(measured, HOLDOUT, folder, plan, backend, embedding, tokenizer)
        return {
            "shape": plan.shape_name,
            "count": len(windows),
            "holdout": [utterance.id for utterance in holdout],
            "source": speech.name,
            "dataset_digest": dataset_digest,
        }

    return run_stage("calibrate", workspace.calibration(plan), inputs, make, report)
