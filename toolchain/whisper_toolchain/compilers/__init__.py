"""Compilers: what turns the two exported graphs into what a bundle holds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from whisper_toolchain.recipe import Recipe
from whisper_toolchain.shape_plan import ShapePlan


@dataclass(frozen=True)
class CompileJob:
    """What a compiler works on.

    Attributes:
        plan: the shapes and the architecture.
        recipe: how each layer is quantised.
        export: folder with `encoder.onnx` and `decoder.onnx`.
        calibration: folder with the calibration set and the holdout.
        output: folder to write into.
        report: takes one line of progress.
    """

    plan: ShapePlan
    recipe: Recipe
    export: Path
    calibration: Path
    output: Path
    report: Callable[[str], None]


@dataclass(frozen=True)
class Compiled:
    """What a compiler made.

    Attributes:
        encoder, decoder: names of the two graph files in the output folder.
        snr_db: signal-to-noise ratios against float on the holdout, by name, in dB.
    """

    encoder: str
    decoder: str
    snr_db: Mapping[str, float]


class Compiler(Protocol):
    """One way to turn a job into graph files.

    Attributes:
        name: "emulator" or "dfc".
        emulated: True if the result does not come from the vendor's compiler.
    """

    name: str
    emulated: bool

    @property
    def version(self) -> str:
        """Version of what does the work."""
        ...

    def compile(self, job: CompileJob) -> Compiled:
        """Write the two graph files into `job.output`. Raises CompileError."""
        ...
