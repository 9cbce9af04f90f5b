"""Layer noise: which layers lose most, and the recipe line that gives each 16 bits."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whisper_runtime.atomic_file import write_atomically
from whisper_runtime.bundle import Bundle
from whisper_runtime.canonical_json import canonical_digest
from whisper_runtime.errors import BundleError
from whisper_runtime.evaluation.summary import layer_noise as noise_in_bundle

from whisper_toolchain.compilers import CompileJob
from whisper_toolchain.compilers.choose import choose_compiler
from whisper_toolchain.compilers.dfc import DataflowCompiler
from whisper_toolchain.compilers.dfc_layer_noise import dfc_layer_noise
from whisper_toolchain.download import Report
from whisper_toolchain.errors import CompileError
from whisper_toolchain.evaluation.charts import decibels, noise_key
from whisper_toolchain.evaluation.noise_file import noise_file
from whisper_toolchain.recipe import load_recipe
from whisper_toolchain.shape_plan import ShapePlan
from whisper_toolchain.stage import Stage
from whisper_toolchain.stages.calibrate import array_digests
from whisper_toolchain.stages.export import graph_digests
from whisper_toolchain.workspace import Workspace

_SHOWN = 15


def layer_noise(
    workspace: Workspace,
    plan: ShapePlan,
    compiler: str,
    dfc_python: str | None,
    recipe_path: Path | None,
    *,
    report: Report,
) -> dict[str, Any]:
    """Report the noisiest layers as a table, and return the whole list as plain values.

    With Hailo's compiler they are measured (`compilers.dfc_layer_noise`) and written to `layer-noise.json` in the
    compiler's work folder. The emulator measured them while it compiled: its list is in the newest bundle.

    Args:
        workspace: holds the export and calibrate stages' output, or the emulator's bundle.
        plan: the shapes and the architecture.
        compiler: "auto", "dfc" or "emulator".
        dfc_python: interpreter that has the vendor's compiler.
        recipe_path: the user's own recipe; None for the variant's. Only Hailo's compiler asks for it.
        report: takes one line of progress.

    Raises:
        CompileError: there is neither Hailo's compiler nor a bundle of the emulator's, or the compiler fails.
        RecipeError: the recipe is malformed, or does not fit.
        StageError: an earlier stage has not run.
    """
    chosen, why = choose_compiler(compiler, dfc_python)
    report(why)
    if isinstance(chosen, DataflowCompiler):
        noise = _measure(workspace, plan, chosen, recipe_path, report)
    else:
        noise = _of_emulator(workspace.bundle(plan), report)
    for line in _table(noise):
        report(line)
    return noise


def _measure(
    workspace: Workspace, plan: ShapePlan, compiler: DataflowCompiler, recipe_path: Path | None, report: Report
) -> dict[str, Any]:
    exported = Stage.read(workspace.export(plan), f"export {plan.options}")
    calibrated = Stage.read(workspace.calibration(plan), f"calibrate {plan.options}")
    recipe = load_recipe(plan.variant, plan.arch, recipe_path)
    path = noise_file(workspace, plan)
    work = path.parent / "layers"
    noise = dfc_layer_noise(compiler, CompileJob(plan, recipe, exported.folder, calibrated.folder, work, work, report))
    made_from = {
        "export": graph_digests(exported),
        "calibration": canonical_digest(array_digests(calibrated)),
        "recipe": canonical_digest(recipe.as_dict()),
        "compiler": {"name": compiler.name, "version": compiler.version},
    }
    write_atomically(path, [json.dumps({"made_from": made_from, **noise}, indent=1).encode() + b"\n"])
    report(f"layer-noise: wrote {path}; the evaluation of a bundle from the same export and recipe shows it")
    return noise


def _of_emulator(folder: Path, report: Report) -> dict[str, Any]:
    try:
        bundle = Bundle.open(folder)
    except BundleError as error:
        raise CompileError(
            f"layer-noise: neither Hailo's compiler (set DFC_PYTHON) nor a bundle of the emulator's: {error}"
        ) from error
    noise: dict[str, Any] | None = noise_in_bundle(bundle)
    if noise is None:
        raise CompileError(
            f"layer-noise: {folder} was not made by the emulator, so it has no list: set DFC_PYTHON to measure it with "
            "Hailo's compiler"
        )
    manifest = bundle.manifest
    report(f"layer-noise: EMULATED, of {manifest.name} {manifest.version}, recipe '{manifest.data['recipe']['name']}'")
    return noise


def _table(noise: Mapping[str, Any]) -> list[str]:
    """The noisiest layers, a line each, with what the figures are."""
    layers = noise["layers"]
    by = noise_key(noise)
    whole = by == "snr_db"
    what = "with all noise up to there, before fine-tuning" if whole else "of what the layer adds itself"
    lines = [f"layer-noise: signal-to-noise ratio on {noise['clips']} windows that did not calibrate, {what}"]
    for layer in layers[:_SHOWN]:
        ratio = decibels(layer[by])
        lines.append(f"{ratio:>10}  {layer['bits']:2} bits  {layer['recipe_line']}")
    if len(layers) > _SHOWN:
        lines.append(f"layer-noise: and {len(layers) - _SHOWN} more")
    missing = [layer["layer"] for layer in layers if whole and layer["snr_db"] is None]
    if missing:
        lines.append(f"layer-noise: no figure for {', '.join(missing)}")
    return lines
