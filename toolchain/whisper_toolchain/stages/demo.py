"""Demo: the new bundle transcribes one real recording that it was not calibrated on."""

from pathlib import Path
from typing import Any

from whisper_toolchain.download import Report, sha256_file
from whisper_toolchain.errors import DatasetError
from whisper_toolchain.shape_plan import ShapePlan
from whisper_toolchain.stage import Stage, code_digest, run_stage
from whisper_toolchain.workspace import Workspace

_CODE = (
    *(
        f"whisper_runtime.{name}"
        for name in (
            "decoding",
            "loops",
            "segmenting",
            "slot_decoder",
            "token_rules",
            "transcriber",
            "window_reader",
            "windows",
        )
    ),
    "whisper_toolchain.word_errors",
)


def demo(workspace: Workspace, plan: ShapePlan, dataset: Path | None, *, report: Report) -> Stage | None:
    """Transcribe the first held-out recording with a transcript and show both texts and the error rate.

    A compiled bundle runs on its device only. On a machine without that device there is nothing to show; what to do
    with the bundle is said instead, and None returned.

    Args:
        workspace: holds a bundle of the plan.
        plan: the shapes and the architecture.
        dataset: the speech that the bundle was calibrated with; None for what was fetched.
        report: takes one line of progress.

    Raises:
        BundleError: the bundle is missing or damaged.
        DatasetError: the recording is gone.
        BackendError: the device is there and fails.
    """
    from whisper_runtime.bundle import Bundle
    from whisper_runtime.cli import EMULATED_NOTICE
    from whisper_runtime.errors import DriverError, NoDeviceError, NotInstalledError, WrongArchitectureError

    calibrated = Stage.read(workspace.calibration(plan), f"calibrate {plan.options}")
    held_out = set(calibrated.results["holdout"])
    recordings = [u for u in workspace.dataset(dataset).utterances() if u.id in held_out]
    if not recordings:
        raise DatasetError("none of the held-out recordings is in the dataset: give the one that calibrated")
    recording = next((u for u in recordings if u.text), recordings[0])
    opened = Bundle.open_unverified(workspace.bundle(plan))
    inputs = {
        "bundle": opened.manifest.content_digest,
        "recording": sha256_file(recording.path),
        "text": recording.text,
        "code": code_digest(*_CODE),
    }

    def make(folder: Path) -> dict[str, Any]:
        from whisper_runtime.transcriber import Transcriber

        from whisper_toolchain.word_errors import count_word_errors

        with Transcriber(workspace.bundle(plan)) as transcriber:
            text = transcriber.text(recording.path)
        results: dict[str, Any] = {"recording": recording.id, "text": text, "reference": recording.text}
        if recording.text is not None:
            errors = count_word_errors([recording.text], [text], workspace.whisper)
            results["wer_percent"] = errors.percent
        (folder / "transcript.txt").write_text(text + "\n", encoding="utf-8")
        return results

    try:
        stage = run_stage("demo", workspace.demo(plan), inputs, make, report)
    except (DriverError, NoDeviceError, NotInstalledError, WrongArchitectureError) as error:
        report(f"demo: skipped, the bundle runs on a {plan.arch} and not here: {error}")
        report(f"demo: copy {opened.folder} to the device and run: whisper-runtime transcribe FILE --bundle FOLDER")
        return None
    if opened.manifest.emulated:
        report(f"demo: {EMULATED_NOTICE}")
    report(f"demo: recording  {stage.results['recording']} (not used for calibration)")
    if stage.results["reference"] is not None:
        report(f"demo: reference  {stage.results['reference']}")
    report(f"demo: transcript {stage.results['text']}")
    if "wer_percent" in stage.results:
        report(f"demo: word error rate of this one recording: {stage.results['wer_percent']:.1f} %")
    return stage
