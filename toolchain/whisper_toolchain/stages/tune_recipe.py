"""Tune a recipe: few 16-bit layers that meet a word error rate or a signal-to-noise ratio on the emulator."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from whisper_runtime.atomic_file import write_atomically

from whisper_toolchain.calibration import CALIBRATION, HOLDOUT
from whisper_toolchain.compilers import CompileJob
from whisper_toolchain.compilers.prepared_graph import PreparedGraph
from whisper_toolchain.compilers.rows import Rows
from whisper_toolchain.download import Report
from whisper_toolchain.errors import RecipeError
from whisper_toolchain.recipe import GRAPHS, Recipe, load_recipe
from whisper_toolchain.recipe_file import recipe_toml
from whisper_toolchain.shape_plan import ShapePlan
from whisper_toolchain.stage import Stage
from whisper_toolchain.tuning.graph_tuner import GraphTuner
from whisper_toolchain.tuning.word_errors import Speech, WordErrors
from whisper_toolchain.workspace import Workspace

Wide = Mapping[str, frozenset[str]]
"""The layers with 16 bits, by graph."""


@dataclass(frozen=True)
class Target:
    """What the recipe must reach; exactly one of the two.

    Attributes:
        snr_db: signal-to-noise ratio of features and of logits, each alone, in dB.
        points: word error rate in points above the float graphs'.
    """

    snr_db: float | None = None
    points: float | None = None

    def __post_init__(self) -> None:
        """Raise RecipeError unless there is one target, and a finite one."""
        given = [value for value in (self.snr_db, self.points) if value is not None]
        if len(given) != 1 or not math.isfinite(given[0]):
            raise RecipeError("give one target: a signal-to-noise ratio in dB, or points of word error rate")
        if given[0] < 0:
            raise RecipeError(f"a target of {given[0]:g}: it must be 0 or more")

    def __str__(self) -> str:
        if self.snr_db is not None:
            return f"{self.snr_db:g} dB"
        return f"at most {self.points:g} points above the float graphs"


def tune_recipe(
    workspace: Workspace,
    plan: ShapePlan,
    target: Target,
    speech: Speech,
    recipe_path: Path | None,
    output: Path | None,
    *,
    report: Report,
) -> Path:
    """Search, and write the recipe with its measured effect in a comment. Returns its path.

    Layers are added in the order of what they cost at the graph's output. For a ratio, each graph gets as many as it
    needs. For a word error rate, the ratio is what is searched for: first the encoder's with the float decoder, then
    the decoder's with the float encoder, then both are raised together until the rate holds.

    Args:
        workspace: holds the fetch, export and calibrate stages' output.
        plan: the shapes and the architecture.
        target: what to reach.
        speech: for a word error rate.
        recipe_path: the recipe to start from: all but its 16-bit layers stays; None for the variant's.
        output: the file; None for `tuned-recipe.toml` below the build folder.
        report: takes one line of progress.

    Raises:
        RecipeError: the target cannot be reached, or the recipe is malformed.
        StageError: an earlier stage has not run.
    """
    exported = Stage.read(workspace.export(plan), f"export {plan.options}")
    calibrated = Stage.read(workspace.calibration(plan), f"calibrate {plan.options}")
    recipe = load_recipe(plan.variant, plan.arch, recipe_path)
    work = workspace.root / "build" / plan.bundle_name / "tuning"
    job = CompileJob(plan, recipe, exported.folder, calibrated.folder, work, work, report)
    rows, holdout = Rows(job.calibration, CALIBRATION), Rows(job.calibration, HOLDOUT)
    tuners = {
        graph: GraphTuner(PreparedGraph.make(job, graph, rows), getattr(recipe, graph), holdout, plan.arch, report)
        for graph in GRAPHS
    }
    words: WordErrors | None = None
    wide: Wide
    if target.points is not None:
        words = WordErrors.open(workspace, plan, speech, exported, tuners, report)
        ratios, wide = search_by_words(words, tuners, target.points, report)
    else:
        assert target.snr_db is not None  # noqa: S101 - a target has one of the two
        ratios = dict.fromkeys(GRAPHS, target.snr_db)
        wide = {graph: tuners[graph].smallest(ratio) for graph, ratio in ratios.items()}
    fewer = {graph: tuners[graph].without_needless(wide[graph], ratio) for graph, ratio in ratios.items()}
    if words is None or target.points is None or words.points(fewer) <= target.points:
        wide = fewer
    tuned = Recipe(recipe.name, **{graph: tuners[graph].recipe(wide[graph]) for graph in GRAPHS})
    started = {graph: tuners[graph].wide_in(getattr(recipe, graph)) for graph in GRAPHS}
    lines = [
        f"Whisper {plan.variant} for {plan.arch}, {plan.seconds} s, {plan.sequence} slots: made by tune-recipe for "
        f"{target}.",
        f"EMULATED: measured on this CPU, on {len(holdout)} windows that did not calibrate"
        + ("." if words is None else f", and on {words.described}."),
        "Hailo's compiler fine-tunes, which the emulator cannot: it may need fewer layers with 16 bits.",
        _described("here", tuners, wide, words),
        _described(f"recipe '{recipe.name}'", tuners, started, words),
        _described("all in 8 bits", tuners, dict.fromkeys(GRAPHS, frozenset()), words),
    ]
    for line in lines:
        report(f"tune-recipe: {line}")
    path = output or workspace.root / "build" / plan.bundle_name / "tuned-recipe.toml"
    write_atomically(path, [recipe_toml(tuned, lines).encode()])
    report(f"tune-recipe: wrote {path}; use it with RECIPE={path}")
    return path


def _described(what: str, tuners: Mapping[str, GraphTuner], wide: Wide, words: WordErrors | None) -> str:
    parts = [
        f"{graph} {len(wide[graph])} of {len(tuner.candidates)} layers in 16 bits, {tuner.decibels(wide[graph]):.1f} dB"
        for graph, tuner in tuners.items()
    ]
    if words is not None:
        parts.append(f"WER {words.rate(wide):.2f} % (float {words.rate(None):.2f} %)")
    return f"{what}: {'; '.join(parts)}"


def search_by_words(
    words: WordErrors, tuners: Mapping[str, GraphTuner], points: float, report: Report
) -> tuple[dict[str, float], Wide]:
    """The lowest ratio of each graph, in whole dB, at which the word error rate holds, and the layers for it."""

    def highest(graph: str) -> int:
        """Only asked for where 8 bits are not enough, since ordering the layers takes longest."""
        return math.floor(tuners[graph].decibels(tuners[graph].order()))

    ratios: dict[str, float] = {}
    for graph, tuner in tuners.items():
        too_low = enough = math.floor(tuner.decibels(()))
        if words.points({graph: frozenset()}) > points:
            enough = highest(graph)
        while enough - too_low > 1:
            middle = (too_low + enough) // 2
            found = words.points({graph: tuner.smallest(middle)})
            report(f"tune-recipe: {graph} at {middle} dB, the other graph in float: {found:+.2f} points")
            too_low, enough = (too_low, middle) if found <= points else (middle, enough)
        ratios[graph] = enough
    while True:
        wide = {graph: tuner.smallest(ratios[graph]) for graph, tuner in tuners.items()}
        found = words.points(wide)
        told = ", ".join(f"{graph} {ratio:g} dB" for graph, ratio in ratios.items())
        report(f"tune-recipe: {told}: {found:+.2f} points")
        if found <= points:
            return ratios, wide
        if all(ratios[graph] >= highest(graph) for graph in GRAPHS):
            raise RecipeError(
                f"{points:g} points cannot be reached: with 16 bits for every layer that can have them it is "
                f"{found:+.2f} points"
            )
        ratios = {graph: min(ratio + 1, highest(graph)) for graph, ratio in ratios.items()}
