"""Export: the checkpoint as ONNX graphs, two for the accelerator and two for the host's CPU, checked on real speech."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from whisper_toolchain import datasets, third_party
from whisper_toolchain.checkpoints import load
from whisper_toolchain.download import Report
from whisper_toolchain.errors import DatasetError
from whisper_toolchain.graph_contract import DECODER, ENCODER
from whisper_toolchain.shape_plan import ShapePlan
from whisper_toolchain.stage import Stage, code_digest, installed_versions, run_stage
from whisper_toolchain.stages.fetch import CHECKPOINT
from whisper_toolchain.workspace import Workspace

_CODE = (
    *(f"whisper_toolchain.{name}" for name in ("export", "graph_contract", "graph_names", "graph_simplify")),
    *(f"whisper_toolchain.{name}" for name in ("host_decoder", "model", "relocation", "shape_plan")),
    *("whisper_toolchain.signal_to_noise", "whisper_toolchain.calibration.selection"),
    *(f"whisper_runtime.{name}" for name in ("audio", "blocks", "mel", "stitching")),
)


def export(workspace: Workspace, plan: ShapePlan, dataset: Path | None, *, report: Report) -> Stage:
    """Export the fetched checkpoint and compare the graphs with the torch model.

    Args:
        workspace: holds the fetch stage's output.
        plan: the shapes.
        dataset: speech for the comparison, and for the relocations of short windows; None for what was fetched.
        report: takes one line of progress.

    Raises:
        StageError: the fetch stage has not run.
        ExportError: the graphs differ from the model.
        DatasetError: there is no speech, or the recording to compare on is silent.
        AudioError: a recording cannot be read.
    """
    fetched = Stage.read(workspace.checkpoint(plan.variant), f"fetch {plan.options}")
    inputs = {
        "checkpoint": fetched.digests(),
        "whisper": third_party.prepared_stamp(workspace.whisper),
        "shape": plan.shape_name,
        "code": code_digest(*_CODE),
        "versions": installed_versions("torch", "onnx", "numpy", "soundfile", "soxr"),
    }
    if plan.host_blocks > 1:
        inputs["speech"] = datasets.digest(workspace.dataset(dataset).utterances())

    def make(folder: Path) -> dict[str, Any]:
        from whisper_runtime.audio import load_audio
        from whisper_runtime.windows import cut_windows

        from whisper_toolchain.export import check_export, export_graphs
        from whisper_toolchain.float_model import load_tokenizer
        from whisper_toolchain.host_decoder import check_host_decoder, write_host_decoder
        from whisper_toolchain.model import alignment_heads, build_model
        from whisper_toolchain.relocation import some_speech, write_relocations

        checkpoint = load(fetched.folder / CHECKPOINT)
        whisper = third_party.import_whisper(workspace.whisper)
        model = build_model(whisper, checkpoint, plan.feature_frames)
        export_graphs(model, plan, folder)
        write_host_decoder(checkpoint, plan, folder, alignment_heads(whisper, checkpoint))
        speech = workspace.dataset(dataset).utterances()
        utterance = next((item for item in speech if item.text), speech[0])
        tokenizer = load_tokenizer(workspace.whisper, plan.dims)
        tokens = [*tokenizer.sot_sequence(), *tokenizer.encode(f" {utterance.text or 'Hello.'}")]
        window = next(cut_windows([load_audio(utterance.path)], plan.seconds), None)
        if window is None:
            raise DatasetError(f"{utterance.path}: nothing in it is louder than silence: give speech to compare on")
        check = check_export(model, plan, folder, window.samples, tokens)
        report(
            f"export: against torch on {utterance.id}: features {check.feature_snr_db:.0f} dB (largest difference "
            f"{check.feature_error:.1e}), logits {check.logit_snr_db:.0f} dB ({check.logit_error:.1e}), the same most "
            "likely token at every position"
        )
        host = check_host_decoder(model, checkpoint, plan, folder, window.samples, tokens)
        report(
            f"export: host decoder (int8) against torch on the same: logits {host.logit_snr_db:.0f} dB, the same most "
            f"likely token at {host.argmax_equal:.0%} of the positions"
        )
        check_results = {**check.as_dict(), "host_decoder": host.as_dict()}
        if plan.host_blocks > 1:
            report(
                f"export: fitting what makes a window of {plan.host_seconds} s of {plan.host_blocks} blocks for the "
                "host decoder: about half a minute"
            )
            relocated = write_relocations(model, checkpoint, plan, folder, some_speech(speech))
            report(
                f"export: features that are moved to their place in it: {min(relocated.snr_db):.0f} dB, unmoved "
                f"{min(relocated.unmoved_snr_db):.0f} dB"
            )
            check_results["relocation"] = asdict(relocated)
        return {"shape": plan.shape_name, "check": check_results, "clip": utterance.id}

    return run_stage("export", workspace.export(plan), inputs, make, report)


def graph_digests(exported: Stage) -> dict[str, str]:
    """File name -> sha256 of the two graphs that are compiled; the decoder for the host plays no part there."""
    digests = exported.digests()
    return {name: digests[name] for name in (ENCODER, DECODER)}
