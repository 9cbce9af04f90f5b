"""Bundle: everything that a device needs, in one immutable folder."""

import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from whisper_runtime.canonical_json import canonical_digest
from whisper_runtime.host_decoder import CROSS_ATTENTION, HOST_DECODER
from whisper_runtime.stitching import RELOCATIONS

from whisper_toolchain import __version__, bundle_writer, third_party
from whisper_toolchain.checkpoints import load
from whisper_toolchain.download import Report
from whisper_toolchain.errors import StageError
from whisper_toolchain.shape_plan import ShapePlan
from whisper_toolchain.stage import Stage, code_digest, remove_tree, run_stage
from whisper_toolchain.stages.calibrate import array_digests
from whisper_toolchain.stages.compile import LOG
from whisper_toolchain.stages.fetch import CHECKPOINT
from whisper_toolchain.workspace import Workspace

_CODE = ("whisper_runtime.manifest", "whisper_toolchain.bundle_writer", "whisper_toolchain.stages.bundle")
_HOST_GRAPHS = (CROSS_ATTENTION, HOST_DECODER)
_VERSIONS = ("numpy", "onnx", "onnxruntime", "torch", "soundfile", "soxr", "tiktoken")


def bundle(workspace: Workspace, plan: ShapePlan, *, report: Report) -> Path:
    """Publish the compiled graphs as a bundle and return its folder.

    Args:
        workspace: holds the output of all stages before.
        plan: the shapes and the architecture.
        report: takes one line of progress.

    Raises:
        StageError: an earlier stage has not run.
        HefError: a compiled graph is damaged, or compiled for another architecture than the bundle's.
    """
    fetched = Stage.read(workspace.checkpoint(plan.variant), f"fetch {plan.options}")
    exported = Stage.read(workspace.export(plan), f"export {plan.options}")
    calibrated = Stage.read(workspace.calibration(plan), f"calibrate {plan.options}")
    compiled = Stage.read(workspace.compiled(plan), f"compile {plan.options}")
    host_files = (*_HOST_GRAPHS, *(RELOCATIONS if plan.host_blocks > 1 else ()))
    if missing := set(host_files) - exported.digests().keys():
        raise StageError(
            f"{exported.folder} has no {', '.join(sorted(missing))}: "
            f"run `whisper-toolchain export {plan.options}` first"
        )
    inputs = {
        "checkpoint": fetched.digests(),
        "compiled": compiled.digests(),
        "host_decoder": {name: exported.digests()[name] for name in host_files},
        "made_from": _made_from(fetched, calibrated, compiled),
        "version": __version__,
        "code": code_digest(*_CODE),
        "whisper": third_party.prepared_stamp(workspace.whisper),
    }

    def make(folder: Path) -> dict[str, Any]:
        from whisper_toolchain.float_model import host_arrays, load_tokenizer, tokenizer_file

        # Beside its final place, so that publishing is one rename.
        scratch = workspace.artifacts / plan.bundle_name / ".partial"
        remove_tree(scratch)
        scratch.mkdir(parents=True)
        try:
            graphs = {"encoder": compiled.results["encoder"], "decoder": compiled.results["decoder"]}
            if not compiled.results["emulated"]:
                for name in graphs.values():
                    bundle_writer.check_hef(compiled.folder / name, plan)
            for name in (*graphs.values(), *compiled.results["extra_files"], LOG):
                shutil.copyfile(compiled.folder / name, scratch / name)
            for name in host_files:
                shutil.copyfile(exported.folder / name, scratch / name)
            bundle_writer.write_host_arrays(scratch, plan, *host_arrays(load(fetched.folder / CHECKPOINT)))
            ranks = tokenizer_file(workspace.whisper, plan.dims)
            shutil.copyfile(ranks, scratch / ranks.name)
            manifest = bundle_writer.make_manifest(
                scratch,
                plan,
                load_tokenizer(workspace.whisper, plan.dims),
                ranks.name,
                _made_from(fetched, calibrated, compiled),
                _build(workspace.root, fetched, exported, calibrated, compiled),
                emulated=compiled.results["emulated"],
                semver=__version__,
            )
            target = bundle_writer.publish(scratch, manifest, workspace.artifacts)
        finally:
            remove_tree(scratch)
        return {"version": target.name}

    folder = workspace.published(plan)
    stage = run_stage("bundle", folder, inputs, make, report)
    target = workspace.artifacts / plan.bundle_name / str(stage.results["version"])
    if not bundle_writer.is_intact(target):
        report(f"bundle: {target} is missing or damaged, publishing it again")
        remove_tree(folder)
        stage = run_stage("bundle", folder, inputs, make, report)
        target = workspace.artifacts / plan.bundle_name / str(stage.results["version"])
    bundle_writer.point_latest(target)
    report(f"bundle: {target}")
    return target


def _made_from(fetched: Stage, calibrated: Stage, compiled: Stage) -> dict[str, Any]:
    recipe = compiled.results["recipe"]
    return {
        "checkpoint": {"tensor_digest": fetched.results["tensor_digest"]},
        "calibration": {
            "digest": canonical_digest(array_digests(calibrated)),
            "count": calibrated.results["count"],
            "dataset_digest": calibrated.results["dataset_digest"],
        },
        "recipe": {"name": recipe["name"], "digest": canonical_digest(recipe), "layers": recipe},
        "compiler": compiled.results["compiler"],
    }


def _build(root: Path, fetched: Stage, exported: Stage, calibrated: Stage, compiled: Stage) -> dict[str, Any]:
    return {
        "checkpoint_source": fetched.results["source"],
        "calibration_source": calibrated.results["source"],
        "snr_db": compiled.results["snr_db"],
        "compilation": compiled.results["measurements"],
        "export_check": exported.results["check"],
        "git_revision": git_revision(root),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _VERSIONS},
    }


def git_revision(root: Path) -> str:
    """The commit that the toolchain runs from, with `-dirty` for uncommitted changes; "unknown" outside git."""
    result = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout.strip() if result.returncode == 0 else "unknown"
