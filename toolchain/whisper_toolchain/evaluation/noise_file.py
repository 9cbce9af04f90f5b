"""The list of layers that Hailo's compiler measured: where it lies, and whether it fits a bundle."""

import json
from pathlib import Path
from typing import Any

from whisper_runtime.bundle import Bundle
from whisper_runtime.evaluation.summary import layer_noise

from whisper_toolchain.download import Report
from whisper_toolchain.evaluation.result import check_layer_noise
from whisper_toolchain.shape_plan import ShapePlan
from whisper_toolchain.stage import Stage
from whisper_toolchain.stages.export import graph_digests
from whisper_toolchain.workspace import Workspace


def noise_file(workspace: Workspace, plan: ShapePlan) -> Path:
    """Where the list of Hailo's compiler lies."""
    return workspace.compiler_work(plan, "dfc") / "layer-noise.json"


def noise_to_show(
    workspace: Workspace, plan: ShapePlan, exported: Stage, bundle: Bundle, report: Report
) -> dict[str, Any] | None:
    """The list for a bundle's evaluation: the emulator's own, or that of Hailo's compiler if it fits the bundle.

    None if there is none, if it cannot be read, or if it was made from something else than the bundle; the last two
    are reported.
    """
    found: dict[str, Any] | None = layer_noise(bundle)
    path = noise_file(workspace, plan)
    if found is not None or bundle.manifest.emulated or not path.exists():
        return found
    again = "run `whisper-toolchain layer-noise` again"
    try:
        data = json.loads(path.read_bytes())
        made_from = data.pop("made_from")
        check_layer_noise(data)
        manifest = bundle.manifest.data
        wanted = {
            "export": graph_digests(exported),
            "calibration": manifest["calibration"]["digest"],
            "recipe": manifest["recipe"]["digest"],
            "compiler": manifest["compiler"],
        }
        stale = [name for name, value in wanted.items() if made_from[name] != value]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        report(f"evaluate: {path} is not shown, for it cannot be read ({error}): {again}")
        return None
    if stale:
        report(f"evaluate: {path} is not shown, for it is of another {', '.join(stale)} than the bundle: {again}")
        return None
    return dict(data)
