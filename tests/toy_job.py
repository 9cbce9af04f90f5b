"""A compiler's job on a toy Whisper with random weights and random rows."""

from types import SimpleNamespace

import numpy as np
from whisper_toolchain.calibration import CALIBRATION, HOLDOUT
from whisper_toolchain.compilers import CompileJob
from whisper_toolchain.compilers.prepared_graph import PreparedGraph
from whisper_toolchain.compilers.rows import Rows
from whisper_toolchain.export import export_graphs
from whisper_toolchain.model import build_model
from whisper_toolchain.recipe import GRAPHS, Calibration, Compilation, Emulation, Finetune, GraphRecipe, Recipe
from whisper_toolchain.shape_plan import Dimensions, ShapePlan

DIMS = Dimensions(80, 50, 32, 2, 2, 103, 16, 32, 2, 2)
PLAN = ShapePlan("toy", "hailo8", 1, 12, DIMS)


def graph_recipe(rows=8, percentile=100.0, wide=(), **others):
    """A recipe with the emulator's settings given, and everything else at 8 bits and off."""
    settings = {
        "sixteen_bit": wide,
        "sixteen_bit_outputs": False,
        "matmul_equalization": False,
        "matmul_correction": False,
        "separate_additions": False,
        "layer_norm_decomposition": False,
        "calibration": Calibration(rows, 1),
        "finetune": Finetune(rows, 1, 1e-5),
        "compilation": Compilation(),
        "emulator": Emulation(rows, percentile),
    }
    return GraphRecipe(**{**settings, **others})


EIGHT = graph_recipe()
SIXTEEN = graph_recipe(wide=("*",))


def toy_export(patched_whisper, toy_checkpoint, folder):
    """Export the toy into a folder, and return the folder."""
    export_graphs(build_model(patched_whisper, toy_checkpoint(DIMS, 11, spread=0.3), 50), PLAN, folder)
    return folder


def write_set(folder, files, count, seed):
    random = np.random.default_rng(seed)
    shapes = {
        files.mel: (count, 1, 100, 80),
        files.features: (count, 1, 50, 32),
        files.token_embeddings: (count, 12, 1, 32),
    }
    for name, shape in shapes.items():
        np.save(folder / name, random.uniform(-1, 1, shape).astype(np.float32))
    np.save(folder / files.lengths, random.integers(3, 13, count).astype(np.int32))


def toy_job(export, tmp_path):
    """The encoder at 8 bits, the decoder at 16."""
    for name in ("calibration", "output"):
        (tmp_path / name).mkdir()
    write_set(tmp_path / "calibration", CALIBRATION, 8, 0)
    write_set(tmp_path / "calibration", HOLDOUT, 3, 1)
    recipe = Recipe("toy", EIGHT, SIXTEEN)
    folders = (export, tmp_path / "calibration", tmp_path / "output", tmp_path / "work")
    return CompileJob(PLAN, recipe, *folders, [].append)


def prepared_toy(patched_whisper, toy_checkpoint, new_folder):
    """A job on the toy, its float graphs with their ranges by name, and the rows to measure on."""
    job = toy_job(toy_export(patched_whisper, toy_checkpoint, new_folder("export")), new_folder("job"))
    rows = Rows(job.calibration, CALIBRATION)
    prepared = {graph: PreparedGraph.make(job, graph, rows) for graph in GRAPHS}
    return SimpleNamespace(job=job, prepared=prepared, holdout=Rows(job.calibration, HOLDOUT))
