"""Compile: the two graphs for the accelerator, or their emulation."""

import math
from pathlib import Path
from typing import Any

from whisper_toolchain.compilers import CompileJob
from whisper_toolchain.compilers.choose import choose_compiler
from whisper_toolchain.download import Report
from whisper_toolchain.errors import CompileError
from whisper_toolchain.recipe import load_recipe
from whisper_toolchain.shape_plan import ShapePlan
from whisper_toolchain.stage import Stage, code_digest, run_stage
from whisper_toolchain.stages.calibrate import array_digests
from whisper_toolchain.stages.export import graph_digests
from whisper_toolchain.workspace import Workspace

LOG = "compile.log"

_CODE = {
    "emulator": (
        "compilers.emulator",
        "compilers.equalise",
        "compilers.inner_tensors",
        "compilers.layer_noise",
        "compilers.prepared_graph",
        "compilers.quantised_graph",
        "compilers.ranges",
        "compilers.rows",
        "graph_names",
        "recipe",
        "ort_session",
        "signal_to_noise",
    ),
    "dfc": (
        "compilers.dfc",
        "compilers.dfc_log",
        "compilers.dfc_process",
        "compilers.dfc_worker",
        "compilers.model_script",
        "compilers.vendor_layers",
        "recipe",
    ),
}


def compile_graphs(
    workspace: Workspace,
    plan: ShapePlan,
    compiler: str,
    dfc_python: str | None,
    recipe_path: Path | None,
    *,
    report: Report,
) -> Stage:
    """Compile the exported graphs with the calibration set.

    Args:
        workspace: holds the export and calibrate stages' output.
        plan: the shapes and the architecture.
        compiler: "auto", "dfc" or "emulator".
        dfc_python: interpreter that has the vendor's compiler.
        recipe_path: the user's own recipe; None for the variant's.
        report: takes one line of progress.

    Raises:
        StageError: an earlier stage has not run.
        CompileError: the compiler asked for is not there, or fails.
        RecipeError: the recipe is malformed.
    """
    chosen, why = choose_compiler(compiler, dfc_python)
    report(why)
    exported = Stage.read(workspace.export(plan), f"export {plan.options}")
    calibrated = Stage.read(workspace.calibration(plan), f"calibrate {plan.options}")
    for stage in (exported, calibrated):
        if stage.results["shape"] != plan.shape_name:
            raise CompileError(f"{stage.folder} is for {stage.results['shape']}, not for {plan.shape_name}")
    recipe = load_recipe(plan.variant, plan.arch, recipe_path)
    inputs = {
        "export": graph_digests(exported),
        "calibration": array_digests(calibrated),
        "recipe": recipe.as_dict(),
        "arch": plan.arch,
        "compiler": f"{chosen.name} {chosen.version}",
        "code": code_digest(*(f"whisper_toolchain.{name}" for name in _CODE[chosen.name])),
    }

    def make(folder: Path) -> dict[str, Any]:
        lines: list[str] = []

        def log(line: str) -> None:
            lines.append(line)
            report(line)

        job = CompileJob(
            plan, recipe, exported.folder, calibrated.folder, folder, workspace.compiler_work(plan, chosen.name), log
        )
        compiled = chosen.compile(job)
        for name, value in sorted(compiled.snr_db.items()):
            if not math.isfinite(value):
                raise CompileError(
                    f"{chosen.name}: the {name} of the compiled graph are {value} dB from float on the holdout, so it "
                    "cannot be what it should be: look at the recipe and the calibration set"
                )
            log(f"{chosen.name}: SNR of the {name} against float on the holdout: {value:.1f} dB")
        (folder / LOG).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return {
            "compiler": {"name": chosen.name, "version": chosen.version},
            "emulated": chosen.emulated,
            "encoder": compiled.encoder,
            "decoder": compiled.decoder,
            "extra_files": list(compiled.extra_files),
            "snr_db": dict(compiled.snr_db),
            "measurements": dict(compiled.measurements),
            "recipe": recipe.as_dict(),
        }

    return run_stage("compile", workspace.compiled(plan), inputs, make, report)
