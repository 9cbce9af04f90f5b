"""Evaluate: the float graphs against the bundle, word error rate on the same recordings."""

from pathlib import Path

from whisper_toolchain.download import Report
from whisper_toolchain.errors import DatasetError
from whisper_toolchain.shape_plan import ShapePlan
from whisper_toolchain.stage import Stage
from whisper_toolchain.stages.fetch import CHECKPOINT
from whisper_toolchain.workspace import Workspace


def evaluate_rungs(
    workspace: Workspace, plan: ShapePlan, dataset: Path | None, limit: int | None, *, report: Report
) -> None:
    """Print the word error rate of the float graphs and of the newest bundle.

    Args:
        workspace: holds the stages' output and the bundle.
        plan: the shapes and the architecture.
        dataset: recordings; those without a text are left out. None for what was fetched.
        limit: how many recordings at most.
        report: takes one line of result.

    Raises:
        DatasetError: no recording has a text.
        BundleError: there is no bundle.
    """
    from whisper_runtime.transcriber import Transcriber

    from whisper_toolchain.checkpoints import load
    from whisper_toolchain.evaluate import evaluate
    from whisper_toolchain.float_model import float_transcriber

    fetched = Stage.read(workspace.checkpoint(plan.variant), f"fetch {plan.options}")
    exported = Stage.read(workspace.export(plan), f"export {plan.options}")
    speech = workspace.dataset(dataset)
    recordings = [utterance for utterance in speech.utterances() if utterance.text][:limit]
    if not recordings:
        raise DatasetError(f"{speech.name}: no recording has a transcript to compare with")
    checkpoint = load(fetched.folder / CHECKPOINT)
    with (
        Transcriber(workspace.bundle(plan)) as bundle,
        float_transcriber(plan, exported.folder, checkpoint, workspace.whisper) as float_graphs,
    ):
        report(f"evaluate: {len(recordings)} recordings of {speech.name}, Whisper's English normaliser")
        for name, transcriber in (("float graphs", float_graphs), ("bundle", bundle)):
            result = evaluate(transcriber.text, recordings, workspace.whisper, name)
            errors = result.errors
            report(
                f"evaluate: {name:<12} WER {errors.percent:6.2f} % ({errors.substitutions} substituted, "
                f"{errors.deletions} deleted, {errors.insertions} inserted, of {errors.words} words), "
                f"real-time factor {result.real_time_factor:.3f}"
            )
