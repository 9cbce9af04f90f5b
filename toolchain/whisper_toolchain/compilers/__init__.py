"""Compilers: what turns the two exported graphs into what a bundle holds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

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
        output: folder to write into; empty, and renamed into place when everything is finished.
        work: folder that survives an interruption, for what a long compilation can continue from.
        report: takes one line of progress.
    """

    plan: ShapePlan
    recipe: Recipe
    export: Path
    calibration: Path
    output: Path
    work: Path
    report: Callable[[str], None]


@dataclass(frozen=True)
class Compiled:
    """What a compiler made.

    Attributes:
        encoder, decoder: names of the two graph files in the output folder.
        snr_db: signal-to-noise ratios against float on the holdout, by name ("features", "logits"), in dB.
        extra_files: names of further files in the output folder that belong into the bundle.
        measurements: what the compilation took (time, memory), as plain JSON values; not part of the content.
    """

    encoder: str
    decoder: str
    snr_db: Mapping[str, float]
    extra_files: tuple[str, ...] = ()
    measurements: Mapping[str, Any] = field(default_factory=dict)


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
