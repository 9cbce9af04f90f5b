"""Time and memory of the export stage, beside torch's two exports alone.

    python benchmarks/export_cost.py --variant tiny.en --arch hailo8

after `make fetch` for that variant. Reference: build the model, `torch.onnx.export` of both graphs, nothing else. Ours
also simplifies and names them, writes the host's decoder, and checks everything on speech against torch. Each in a
process of its own, three times in turn. Fails if ours takes more than four times as long or twice the memory.
"""

import argparse
import resource
import statistics
import sys
import tempfile
import time
import warnings
from multiprocessing import get_context
from pathlib import Path

from figures import Figure, tell
from whisper_toolchain.shape_plan import VARIANTS, ShapePlan
from whisper_toolchain.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent
TURNS = 3
MOST_TIME = 4.0
MOST_MEMORY = 2.0


def ours(plan: ShapePlan) -> tuple[float, float]:
    """Seconds and peak MB of the export stage."""
    from whisper_toolchain.stages.export import export

    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        export(Workspace(ROOT, {"export": Path(folder) / "export"}), plan, None, report=lambda line: None)
    return time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def reference(plan: ShapePlan) -> tuple[float, float]:
    """Seconds and peak MB of torch's exports."""
    import torch
    from whisper_toolchain import third_party
    from whisper_toolchain.checkpoints import load
    from whisper_toolchain.model import build_model
    from whisper_toolchain.stages.fetch import CHECKPOINT

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        workspace = Workspace(ROOT)
        whisper = third_party.import_whisper(workspace.whisper)
        model = build_model(whisper, load(workspace.checkpoint(plan.variant) / CHECKPOINT), plan.feature_frames)
        features = torch.zeros(1, plan.feature_frames, plan.state)
        tokens = torch.zeros(1, plan.sequence, dtype=torch.int64)
        for module, inputs in (
            (model.encoder, (torch.zeros(1, plan.dims.n_mels, 1, plan.mel_frames),)),
            (model.decoder, (tokens, features)),
        ):
            torch.onnx.export(module, inputs, f"{folder}/graph.onnx", opset_version=17, dynamo=False)
    return time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def main() -> int:
    """Measure both and print; return the exit status."""
    parser = argparse.ArgumentParser(description="Time and memory of the export stage.")
    parser.add_argument("--variant", choices=VARIANTS, required=True)
    parser.add_argument("--arch", required=True)
    options = parser.parse_args()
    plan = ShapePlan.make(options.variant, options.arch)
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "reference": []}
    for _ in range(TURNS):
        for name, run in (("ours", ours), ("reference", reference)):
            with get_context("spawn").Pool(1) as pool:
                found[name].append(pool.apply(run, (plan,)))
    (seconds, memory), (other_seconds, other_memory) = (
        tuple(statistics.median(run[i] for run in found[name]) for i in range(2)) for name in ("ours", "reference")
    )
    print(f"{plan.shape_name}: export stage {seconds:.1f} s, {memory:.0f} MB at its peak")
    print(f"torch's exports alone {other_seconds:.1f} s, {other_memory:.0f} MB")
    print(f"time {seconds / other_seconds:.2f}, memory {memory / other_memory:.2f} of it")
    beside = "torch's exports alone"
    return tell(
        Figure("export with all checks", seconds, "s", beside, other_seconds, most_ratio=MOST_TIME),
        Figure("peak memory of the export", memory, "MB", beside, other_memory, most_ratio=MOST_MEMORY),
    )


if __name__ == "__main__":
    sys.exit(main())
