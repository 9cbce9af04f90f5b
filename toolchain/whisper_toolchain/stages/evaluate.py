"""Evaluate: the ladder of rungs on real speech, as a table, as JSON, and as a record in the bundle's manifest."""

import functools
import json
import platform
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from whisper_runtime.atomic_file import write_atomically
from whisper_runtime.bundle import Bundle
from whisper_runtime.errors import BundleError
from whisper_runtime.evaluation import speech
from whisper_runtime.evaluation.code_digest import code_digest
from whisper_runtime.evaluation.ladder import LADDER
from whisper_runtime.evaluation.record import add_evaluation, record
from whisper_runtime.evaluation.rung import MISSING, RungRun, measure_rung, open_journal
from whisper_runtime.evaluation.summary import describe_bundle, summarise
from whisper_runtime.evaluation.table import table
from whisper_runtime.measuring import Clip

from whisper_toolchain import __version__, third_party
from whisper_toolchain.download import Report
from whisper_toolchain.errors import EvaluationError
from whisper_toolchain.evaluation.dfc_backend import DfcNetworks
from whisper_toolchain.evaluation.noise_file import noise_to_show
from whisper_toolchain.evaluation.report import render_report
from whisper_toolchain.evaluation.rungs import STOCK, STOCK_OPTIONS, Rungs, parse_rungs
from whisper_toolchain.shape_plan import ShapePlan
from whisper_toolchain.stage import Stage, installed_versions
from whisper_toolchain.stages.bundle import git_revision
from whisper_toolchain.stages.fetch import CHECKPOINT
from whisper_toolchain.workspace import Workspace

VERSIONS = ("numpy", "onnxruntime", "torch", "soundfile", "soxr", "tiktoken", "jiwer")


@dataclass(frozen=True)
class Wanted:
    """What to evaluate.

    Attributes:
        dataset: the speech; None for what was fetched.
        limit: recordings at most, drawn with `seed`; None for all.
        seed: of the draw.
        rungs: comma-separated; None for every rung.
        language: code such as "en"; None to detect it in each recording.
        bundle: folder of a bundle; None for the newest of the plan.
        drafts: whether slots on this CPU are drafted.
        dfc_python: interpreter that has Hailo's compiler; None for the current one.
        output: the JSON file; None for `evaluation.json` below the build folder. The page lies beside it, as `.html`.
    """

    dataset: Path | None = None
    limit: int | None = None
    seed: int = 0
    rungs: str | None = None
    language: str | None = "en"
    bundle: Path | None = None
    drafts: bool = True
    dfc_python: str | None = None
    output: Path | None = None


def evaluate_rungs(workspace: Workspace, plan: ShapePlan, wanted: Wanted, *, report: Report) -> dict[str, Any]:
    """Measure the rungs, print the table, write JSON, page and the bundle's record, and return what is in the JSON.

    Every clip's result is kept as it comes (`build/evaluation/*.jsonl`): an interrupted evaluation goes on there.

    Raises:
        DatasetError: the speech cannot be listed.
        EvaluationError: no recording with a transcript can be read, no rung ran, or `output` is no name for JSON.
        StageError: an earlier stage has not run.
    """
    from whisper_toolchain.checkpoints import load

    names = list(LADDER) if wanted.rungs is None else parse_rungs(wanted.rungs)
    output = wanted.output or workspace.root / "build" / plan.bundle_name / "evaluation.json"
    beside = output.with_suffix(".html")
    if beside == output:
        raise EvaluationError(f"{output}: name the JSON file; the page is written beside it")
    fetched = Stage.read(workspace.checkpoint(plan.variant), f"fetch {plan.options}")
    exported = Stage.read(workspace.export(plan), f"export {plan.options}")
    clips, dataset = choose_clips(workspace, wanted.dataset, wanted.limit, wanted.seed)
    try:
        bundle: Bundle | str = Bundle.open(wanted.bundle or workspace.bundle(plan))
    except BundleError as error:
        bundle = str(error)
    stock = workspace.root / "build" / "evaluation" / "stock"
    checkpoint = load(fetched.folder / CHECKPOINT)
    networks = DfcNetworks.find(workspace.compiler_work(plan, "dfc").absolute(), wanted.dfc_python)
    rungs = Rungs(
        *(plan, exported.folder, checkpoint, workspace.whisper, stock, bundle, wanted.language, networks, wanted.drafts)
    )
    common = {
        "checkpoint": fetched.results["tensor_digest"],
        "language": wanted.language,
        "versions": installed_versions(*VERSIONS),
    }
    runs: dict[str, RungRun] = {}
    # Stock last: torch, once loaded, would count as memory of the others.
    for name in sorted(names, key=lambda name: name == STOCK):
        own = {**common, "rung": name}
        if name == STOCK:
            third_party.unpack_stock(workspace.third_party, stock, offline=True, report=report)
            own |= {"whisper": third_party.read_lock(workspace.third_party)["sha256"], "options": STOCK_OPTIONS}
        else:
            own |= {
                "code": code_digest(),
                "plan": plan.shape_name,
                "export": exported.digests(),
                "drafts": rungs.drafted(name),
                "bundle": bundle.manifest.content_digest if isinstance(bundle, Bundle) and name != "float" else None,
            }
        reason = rungs.missing(name)
        if reason is not None:
            runs[name] = RungRun(MISSING, reason)
            continue
        own |= rungs.dfc_inputs(name)
        journal = open_journal(workspace.root / "build" / "evaluation", own)
        open_engine = functools.partial(rungs.open, name)
        runs[name] = measure_rung(name, open_engine, clips, journal, drafted=rungs.drafted(name), report=report)
        if rungs.dfc_inputs(name):  # what matters is in the compiler's processes
            runs[name] = replace(runs[name], memory=None)
    normaliser, normalise = normaliser_for(workspace, wanted.language)
    nobody = {"name": plan.bundle_name, "version": None, "digest": None, "emulated": False}
    result = summarise(
        runs,
        clips,
        normalise,
        dataset=dataset,
        command=_command(plan, wanted),
        bundle=describe_bundle(bundle) if isinstance(bundle, Bundle) else nobody,
        language=wanted.language,
        normaliser=normaliser,
        toolchain=__version__,
        git_revision=git_revision(workspace.root),
        versions=installed_versions(*VERSIONS) | {"python": platform.python_version()},
        layer_noise=noise_to_show(workspace, plan, exported, bundle, report) if isinstance(bundle, Bundle) else None,
    )
    report(table(result))
    write_atomically(output, [json.dumps(result, indent=1, sort_keys=True).encode() + b"\n"])
    report(f"evaluate: wrote {output}")
    if isinstance(bundle, Bundle):
        add_evaluation(bundle, record(result, "toolchain"))
        report(f"evaluate: recorded in {bundle.folder}/manifest.json")
    write_atomically(beside, [render_report(result, {clip.id: clip.path for clip in clips})])
    report(f"evaluate: {beside} shows it in any browser")
    return result


def choose_clips(
    workspace: Workspace, dataset: Path | None, limit: int | None, seed: int
) -> tuple[list[Clip], dict[str, Any]]:
    """As the runtime's `choose_clips`, from a dataset or from what was fetched. Raises as that, or StageError."""
    return speech.choose_clips(workspace.dataset(dataset, keep_missing=True), limit, seed)


def _command(plan: ShapePlan, wanted: Wanted) -> str:
    """What to type for the same again. Of absolute paths only the name: who reads the result need not know the rest."""
    parts = ["whisper-toolchain", "evaluate", "--variant", plan.variant, "--arch", plan.arch]
    parts += ["--seconds", str(plan.seconds), "--sequence", str(plan.sequence), "--seed", str(wanted.seed)]
    parts += ["--language", wanted.language or "auto"]
    for option, value in (("--limit", wanted.limit), ("--rungs", wanted.rungs)):
        parts += [option, str(value)] if value is not None else []
    for option, path in (("--dataset", wanted.dataset), ("--bundle", wanted.bundle)):
        parts += [option, path.name if path.is_absolute() else str(path)] if path is not None else []
    return shlex.join([*parts, *([] if wanted.drafts else ["--no-drafts"])])


def normaliser_for(workspace: Workspace, language: str | None) -> tuple[str, Callable[[str], str]]:
    """Name and function of Whisper's normaliser: the English one, or the basic one for any other language."""
    normalizers = third_party.import_normalizers(workspace.whisper)
    if language == "en":
        return "Whisper's English", normalizers.EnglishTextNormalizer()
    return "Whisper's basic", normalizers.BasicTextNormalizer()
