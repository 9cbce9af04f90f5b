"""Evaluate: the ladder of rungs on real speech, as a table, as JSON, and as a record in the bundle's manifest."""

import datetime
import json
import platform
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whisper_runtime.bundle import Bundle
from whisper_runtime.errors import BundleError, WhisperError
from whisper_runtime.machine import machine
from whisper_runtime.measuring import Clip, Journal, Measured, measure
from whisper_runtime.peak_memory import PeakMemory
from whisper_runtime.timed_engine import Engine

from whisper_toolchain import __version__, third_party
from whisper_toolchain.atomic_file import write_atomically
from whisper_toolchain.bundle_writer import add_evaluation
from whisper_toolchain.datasets import Utterance, digest, open_dataset, select
from whisper_toolchain.download import Report
from whisper_toolchain.errors import EvaluationError
from whisper_toolchain.evaluation.metrics import ClipErrors, compare, difference, score
from whisper_toolchain.evaluation.report import render_report
from whisper_toolchain.evaluation.result import SCHEMA, without_folder
from whisper_toolchain.evaluation.rungs import CHANGED, LADDER, STOCK, MissingRung, Rungs, parse_rungs
from whisper_toolchain.evaluation.table import table
from whisper_toolchain.evaluation.verdict import verdict
from whisper_toolchain.shape_plan import ShapePlan
from whisper_toolchain.stage import Stage, canonical_digest, code_digest, installed_versions
from whisper_toolchain.stages.bundle import git_revision
from whisper_toolchain.stages.fetch import CHECKPOINT
from whisper_toolchain.workspace import Workspace

_VERSIONS = ("numpy", "onnxruntime", "torch", "soundfile", "soxr", "tiktoken", "jiwer")
RUNTIME = (
    *("audio", "backends.onnxruntime", "backends.hailort", "decoding", "embedding", "host_decoder", "loops", "mel"),
    *("segmenting", "slot_decoder", "token_rules", "tokenizer", "transcriber", "window_reader", "windows"),
)


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
        output: the JSON file; None for `evaluation.json` below the build folder. The page lies beside it, as `.html`.
    """

    dataset: Path | None = None
    limit: int | None = None
    seed: int = 0
    rungs: str | None = None
    language: str | None = "en"
    bundle: Path | None = None
    drafts: bool = True
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
    rungs = Rungs(plan, exported.folder, checkpoint, workspace.whisper, stock, bundle, wanted.language, wanted.drafts)
    common = {
        "checkpoint": fetched.results["tensor_digest"],
        "language": wanted.language,
        "versions": installed_versions(*_VERSIONS),
    }
    code = code_digest(*(f"whisper_runtime.{name}" for name in RUNTIME))
    measured: dict[str, dict[str, Any]] = {}
    # Stock last: torch, once loaded, would count as memory of the others.
    for name in sorted(names, key=lambda name: name == STOCK):
        own = {**common, "rung": name}
        if name == STOCK:
            third_party.unpack_stock(workspace.third_party, stock, offline=True, report=report)
        else:
            own |= {
                "code": code,
                "plan": plan.shape_name,
                "export": exported.digests(),
                "drafts": rungs.drafted(name),
                "bundle": bundle.manifest.content_digest if isinstance(bundle, Bundle) and name != "float" else None,
            }
        journal = Journal(workspace.root / "build" / "evaluation" / f"{canonical_digest(own)[:24]}.jsonl")
        measured[name] = _measure(rungs, name, clips, journal, report)
    normaliser, normalise = normaliser_for(workspace, wanted.language)
    dataset |= _unreadable(measured, clips)
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": _command(plan, wanted),
        "bundle": _describe(bundle, plan),
        "dataset": dataset,
        "language": wanted.language,
        "normaliser": normaliser,
        "machine": machine(),
        "toolchain": __version__,
        "git_revision": git_revision(workspace.root),
        "versions": installed_versions(*_VERSIONS) | {"python": platform.python_version()},
        "rungs": _score(names, measured, clips, normalise),
        "layer_noise": bundle.manifest.data["build"]["compilation"].get("layer_noise")
        if isinstance(bundle, Bundle)
        else None,
    }
    result["verdict"] = verdict(result["rungs"])
    report(table(result))
    write_atomically(output, [json.dumps(result, indent=1, sort_keys=True).encode() + b"\n"])
    report(f"evaluate: wrote {output}")
    if isinstance(bundle, Bundle):
        add_evaluation(bundle, _record(result))
        report(f"evaluate: recorded in {bundle.folder}/manifest.json")
    write_atomically(beside, [render_report(result, {clip.id: clip.path for clip in clips})])
    report(f"evaluate: {beside} shows it in any browser")
    return result


def choose_clips(
    workspace: Workspace, dataset: Path | None, limit: int | None, seed: int
) -> tuple[list[Clip], dict[str, Any]]:
    """The recordings with a transcript to measure on, and what to say of them.

    Args:
        workspace: knows what was fetched.
        dataset: the speech; None for what was fetched.
        limit: recordings at most, drawn with `seed`; None for all.
        seed: of the draw.

    Raises:
        DatasetError: the speech cannot be listed.
        EvaluationError: no recording has a transcript.
    """
    speech = workspace.dataset(None) if dataset is None else open_dataset(dataset, keep_missing=True)
    utterances = speech.utterances()
    with_text = [utterance for utterance in utterances if utterance.text]
    chosen = with_text if limit is None else select(with_text, limit, seed)
    if not chosen:
        raise EvaluationError(f"{speech.name}: no recording has a transcript to compare with")
    readable: list[Utterance] = [utterance for utterance in chosen if utterance.path.is_file()]
    return [Clip(utterance.id, utterance.path, utterance.text) for utterance in chosen], {
        "name": speech.name,
        "digest": digest(readable),
        "seed": seed,
        "limit": limit,
        "without_text": len(utterances) - len(with_text),
    }


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


def _measure(rungs: Rungs, name: str, clips: list[Clip], journal: Journal, report: Report) -> dict[str, Any]:
    """Measure one rung: `status`, and `reason` or `clips` by id."""
    reason = rungs.missing(name)
    if reason is not None:
        return {"status": "missing", "reason": reason}
    memory, found = PeakMemory(), {}
    taken = len(journal)
    opened: list[Engine] = []

    def engine() -> Engine:
        opened.append(rungs.open(name))
        return opened[0]

    report(f"evaluate: {name}: {len(clips)} clips" + (f", {taken} known from before" if taken else ""))
    try:
        for measured in measure(engine, clips, journal):
            found[measured.id] = measured
    except MissingRung as error:
        return {"status": "missing", "reason": str(error)}
    except WhisperError as error:
        return {"status": "failed", "reason": str(error)}
    finally:
        for each in opened:
            each.close()
    if all(measured.error for measured in found.values()):
        reasons = [measured.error for measured in found.values() if not measured.unreadable]
        return {"status": "failed", "reason": reasons[0] if reasons else "no recording can be read", "clips": found}
    return {
        "status": "measured",
        "clips": found,
        "drafted": rungs.drafted(name),
        "memory": memory.megabytes if opened else None,
    }


def _unreadable(measured: Mapping[str, Mapping[str, Any]], clips: list[Clip]) -> dict[str, Any]:
    """What is said of the dataset once it has been read. Raises EvaluationError if nothing was measured."""
    runs = [rung["clips"] for rung in measured.values() if rung["status"] == "measured"]
    if not runs:
        reasons = "; ".join(f"{name}: {rung['reason']}" for name, rung in measured.items())
        raise EvaluationError(f"no rung could be measured: {reasons}")
    bad = [(clip, runs[0][clip.id]) for clip in clips if runs[0][clip.id].unreadable]
    good = [found for found in runs[0].values() if not found.unreadable]
    return {
        "clips": len(good),
        "seconds": sum(found.duration for found in good),
        "unreadable": [{"id": found.id, "reason": without_folder(found.error, clip.path)} for clip, found in bad],
    }


def normaliser_for(workspace: Workspace, language: str | None) -> tuple[str, Callable[[str], str]]:
    """Name and function of Whisper's normaliser: the English one, or the basic one for any other language."""
    normalizers = third_party.import_normalizers(workspace.whisper)
    if language == "en":
        return "Whisper's English", normalizers.EnglishTextNormalizer()
    return "Whisper's basic", normalizers.BasicTextNormalizer()


def _score(
    names: list[str],
    measured: Mapping[str, Mapping[str, Any]],
    clips: list[Clip],
    normalise: Callable[[str], str],
) -> list[dict[str, Any]]:
    """Figures of each rung, in the ladder's order."""
    errors: dict[str, dict[str, ClipErrors]] = {}
    rungs = []
    for name in sorted(names, key=lambda name: list(LADDER).index(name) if name in LADDER else len(LADDER)):
        rung = measured[name]
        entry: dict[str, Any] = {
            "name": name,
            "status": rung["status"],
            "changed": CHANGED.get(name, "what was asked for"),
        }
        rungs.append(entry)
        if rung["status"] != "measured":
            entry["reason"] = rung["reason"]
            continue
        found: dict[str, Measured] = rung["clips"]
        good = [clip for clip in clips if not found[clip.id].error]
        errors[name] = {clip.id: compare(clip.text or "", found[clip.id].text, normalise) for clip in good}
        seconds = sum(found[clip.id].duration for clip in good)
        total = sum(found[clip.id].seconds for clip in good)
        stages = {stage for clip in good for stage in found[clip.id].stages}
        entry |= {
            "score": score(list(errors[name].values())).as_dict(),
            "drafted": rung["drafted"],
            "calls": sum(found[clip.id].calls for clip in good),
            "seconds": total,
            "stages": {stage: sum(found[c.id].stages.get(stage, 0.0) for c in good) for stage in sorted(stages)},
            "real_time_factor": total / seconds if seconds else 0.0,
            "peak_memory_mb": rung["memory"],
            "failed": [
                {"id": clip.id, "reason": found[clip.id].error}
                for clip in clips
                if found[clip.id].error and not found[clip.id].unreadable
            ],
            "clips": [
                {
                    "id": clip.id,
                    "audio": found[clip.id].audio,
                    "duration": found[clip.id].duration,
                    "reference": clip.text,
                    "text": found[clip.id].text,
                    "errors": errors[name][clip.id].errors,
                    "substitutions": errors[name][clip.id].substitutions,
                    "deletions": errors[name][clip.id].deletions,
                    "insertions": errors[name][clip.id].insertions,
                    "words": errors[name][clip.id].words,
                    "normalised_reference": errors[name][clip.id].reference,
                    "normalised_text": errors[name][clip.id].text,
                }
                for clip in good
            ],
            "against": _against(name, errors),
        }
    return rungs


def _against(name: str, errors: Mapping[str, Mapping[str, ClipErrors]]) -> dict[str, Any] | None:
    """The difference to the rung that this one is compared with, on the clips that both have."""
    for other in LADDER.get(name, ("float", "stock")):
        if other in errors:
            common = [clip for clip in errors[name] if clip in errors[other]]
            found = difference([errors[name][c] for c in common], [errors[other][c] for c in common])
            return {"name": other, "points": found.points, "low": found.low, "high": found.high, "p": found.p}
    return None


def _describe(bundle: Bundle | str, plan: ShapePlan) -> dict[str, Any]:
    if isinstance(bundle, str):
        return {"name": plan.bundle_name, "version": None, "digest": None, "emulated": False}
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "digest": manifest.content_digest,
        "emulated": manifest.emulated,
    }


def _record(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the bundle's manifest keeps of an evaluation."""
    kept = ("name", "digest", "seed", "clips")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "dataset": {name: result["dataset"][name] for name in kept},
        "language": result["language"],
        "normaliser": result["normaliser"],
        "git_revision": result["git_revision"],
        "emulated": result["bundle"]["emulated"],
        "wer": {
            rung["name"]: [rung["score"][name] for name in ("wer", "wer_low", "wer_high")]
            for rung in result["rungs"]
            if rung["status"] == "measured"
        },
        "verdict": result["verdict"],
    }
