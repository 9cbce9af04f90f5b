"""Drives Hailo's Dataflow Compiler: each graph is translated, optimised, measured and compiled.

Each step runs in the vendor's interpreter, in a process of its own, and takes up to many hours. So each keeps its
files in the work folder, under a record of what they were made from; a later run uses every step that is still good:

    encoder.translated.har  encoder.network.json    the parsed network and its layers
    encoder.alls                                    the recipe, rendered for those layers
    encoder.optimised.har                           quantised and fine-tuned
    encoder.measured.json                           signal-to-noise ratio on the holdout
    encoder.compiled.har    encoder.hef
    encoder.<step>.log      encoder.<step>.json     what the vendor said; the record
    encoder.<step>.failed.log                       what it said in an attempt that failed or was interrupted
    partial                                         files and log of the step that is running
"""

import contextlib
import errno
import fcntl
import inspect
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from whisper_runtime.atomic_file import sync_folder
from whisper_runtime.canonical_json import canonical_digest
from whisper_runtime.errors import HefError
from whisper_runtime.hef import Hef, check_outputs, read_hef
from whisper_runtime.versions import dfc_for_arch, parse_version

from whisper_toolchain import graph_contract
from whisper_toolchain.calibration import CALIBRATION, HOLDOUT
from whisper_toolchain.compilers import Compiled, CompileJob, dfc_worker
from whisper_toolchain.compilers.dfc_checks import (
    SET_DFC_PYTHON,
    VENDOR_PACKAGE,
    Requirements,
    VendorTools,
    check_before,
    probe,
)
from whisper_toolchain.compilers.dfc_log import (
    SENSITIVE_DB,
    LogLine,
    is_telling,
    parse_snr,
    telling_lines,
    what_to_try,
)
from whisper_toolchain.compilers.dfc_process import Finished, WorkerFailure, run_worker
from whisper_toolchain.compilers.model_script import ModelScript, render_model_script
from whisper_toolchain.compilers.vendor_layers import VendorLayer, map_layers
from whisper_toolchain.download import sha256_file
from whisper_toolchain.errors import CompileError
from whisper_toolchain.recipe import GRAPHS
from whisper_toolchain.shape_plan import ShapePlan
from whisper_toolchain.stage import remove_tree

LOG = "dfc.log"

_ACTIONS = ("translate", "optimise", "measure", "compile")
_HEARTBEAT_SECONDS = 600.0
# What of the worker's code an action's result depends on. A change elsewhere in that file must not cost a user the
# hours of an optimisation.
_CODE: Mapping[str, Sequence[Callable[..., Any]]] = {
    "translate": (dfc_worker.translate, dfc_worker.describe_layers),
    "optimise": (dfc_worker.optimise, dfc_worker.match_arrays),
    "measure": (
        dfc_worker.measure,
        dfc_worker.match_arrays,
        dfc_worker.as_list,
        dfc_worker.signal_to_noise,
        dfc_worker.squares,
    ),
    "look": (dfc_worker.look, dfc_worker.match_arrays, dfc_worker.as_list),
    "measure_layers": (
        dfc_worker.measure_layers,
        dfc_worker.match_arrays,
        dfc_worker.as_list,
        dfc_worker.squares,
    ),
    "compile": (dfc_worker.compile_hef,),
}
# What a step's record tells of it, besides its key and its files.
_MEASURED: Mapping[str, Callable[[Any], Any]] = {
    "seconds": float,
    "peak_memory_bytes": int,
    "vendor_snr_db": dict,
    "lines": list,
}
_DISK_ADVICE = {
    errno.ENOSPC: "free some space on its disk",
    errno.EDQUOT: "free some space on its disk",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.EROFS: "make it writable",
    errno.EISDIR: "move it away",
    errno.ENOTDIR: "move it away",
    errno.EEXIST: "move it away",
    errno.ENOTEMPTY: "move it away",
}
_DEAD_OUTPUT_ADVICE = (
    "Dataflow Compiler 3.33.0 is known for such outputs: use 3.32, or a recipe without sixteen_bit_outputs"
)


class DataflowCompiler:
    """Compiles with Hailo's Dataflow Compiler.

    Args:
        dfc_python: interpreter of the virtual environment that has it; None for the current one.
        requirements: what the machine needs.
    """

    name = "dfc"
    emulated = False

    def __init__(self, dfc_python: str | None, requirements: Requirements | None = None) -> None:
        self._dfc_python = dfc_python
        self._requirements = requirements or Requirements()

    @cached_property
    def _found(self) -> VendorTools | None:
        return probe(self._dfc_python)

    @property
    def _tools(self) -> VendorTools:
        if self._found is None:
            raise CompileError(f"{self._dfc_python or 'the current Python'} has no {VENDOR_PACKAGE}: {SET_DFC_PYTHON}")
        return self._found

    @property
    def installed(self) -> bool:
        """Whether the interpreter has the vendor's package. Raises CompileError if it does not run."""
        return self._found is not None

    @property
    def version(self) -> str:
        """Version of the vendor's package. Raises CompileError if the interpreter does not have it."""
        return f"{VENDOR_PACKAGE} {self._tools.version or 'of unknown version'}"

    def compile(self, job: CompileJob) -> Compiled:
        """Write `encoder.hef`, `decoder.hef`, their model scripts and the vendor's log.

        Ctrl-C ends the vendor's process and leaves what is finished in `job.work`, for the next run.

        Raises:
            CompileError: a check before the start, a step, or the result failed, or a file cannot be read or written.
            RecipeError: the recipe does not fit the parsed networks.
        """
        with self.at_work(job) as (job, tools):
            graphs = {graph: GraphSteps(job, tools, graph) for graph in GRAPHS}
            # Both graphs are parsed and both recipes rendered before the first long step.
            for each in graphs.values():
                each.translate()
                each.render()
            for each in graphs.values():
                each.optimise()
                each.measure()
                each.compile()
            return self._collect(job, graphs)

    @contextlib.contextmanager
    def at_work(self, job: CompileJob) -> Iterator[tuple[CompileJob, VendorTools]]:
        """Check what long work needs, and keep others out of the job's work folder meanwhile.

        Yields:
            The job, its work folder made and absolute, and the vendor's tools.

        Raises:
            CompileError: a check failed, another run is at work there, or a file cannot be read or written inside.
        """
        tools = self._tools
        job = replace(job, work=job.work.absolute())  # the worker runs in a folder of its own
        with _disk_faults_explained(job.work):
            for warning in check_before(job, tools, self._requirements):
                job.report(f"dfc: {warning}")
            job.work.mkdir(parents=True, exist_ok=True)
            with _alone(job.work):
                yield job, tools

    def _collect(self, job: CompileJob, graphs: Mapping[str, "GraphSteps"]) -> Compiled:
        files = [f"{graph}.{kind}" for kind in ("hef", "alls") for graph in graphs]
        for name in files:
            shutil.copyfile(job.work / name, job.output / name)
        with (job.output / LOG).open("wb") as log:
            for graph in graphs:
                for action in _ACTIONS:
                    log.write(f"==> {graph}: {action}\n".encode())
                    log.write((job.work / f"{graph}.{action}.log").read_bytes())
        encoder, decoder, *scripts = files
        return Compiled(
            encoder,
            decoder,
            {"features": graphs["encoder"].snr_db, "logits": graphs["decoder"].snr_db},
            (*scripts, LOG),
            {graph: each.measurements for graph, each in graphs.items()},
        )


@contextlib.contextmanager
def _disk_faults_explained(work: Path) -> Iterator[None]:
    """Name the file that cannot be read or written, and what to do; the stage would blame its own folder."""
    try:
        yield
    except BrokenPipeError:
        raise  # whoever read the reports has gone
    except OSError as error:
        path = error.filename2 or error.filename or work
        advice = _DISK_ADVICE.get(error.errno or 0, "look at it and at its disk")
        raise CompileError(
            f"dfc: {path}: {error.strerror or error}: {advice}, then run the same command again: it goes on here"
        ) from error


@contextlib.contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Keep a second run out of a work folder: it would remove what the first one is making, maybe for hours."""
    with (work / "lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CompileError(f"dfc: another compilation is at work in {work}: wait for its end or stop it") from error
        yield


@dataclass(frozen=True)
class GraphArrays:
    """Arrays of one calibration set for one graph's inputs, and the array with the filled slots of each row."""

    inputs: tuple[Path, ...]
    lengths: Path | None

    @classmethod
    def of(cls, folder: Path, graph: str, holdout: bool) -> "GraphArrays":
        """Those of "encoder" or "decoder" in a calibration folder."""
        files = HOLDOUT if holdout else CALIBRATION
        if graph == "encoder":
            return cls((folder / files.mel,), None)
        return cls((folder / files.features, folder / files.token_embeddings), folder / files.lengths)

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(np.load(self.inputs[0], mmap_mode="r", allow_pickle=False))

    def digests(self) -> dict[str, str]:
        """File name -> sha256."""
        paths = self.inputs if self.lengths is None else (*self.inputs, self.lengths)
        return {path.name: sha256_file(path) for path in paths}


class GraphSteps:
    """One graph on its way through the steps.

    Attributes:
        measurements: what each step took, by its action.
        snr_db: of the graph's outputs on the holdout, once it is measured.
    """

    def __init__(self, job: CompileJob, tools: VendorTools, graph: str) -> None:
        self._job = job
        self._tools = tools
        self._graph = graph
        self._path = job.export / {"encoder": graph_contract.ENCODER, "decoder": graph_contract.DECODER}[graph]
        self._model = onnx.load(self._path)
        self._keys: dict[str, str] = {}
        self._script: ModelScript | None = None
        self._said: set[str] = set()
        self.measurements: dict[str, Any] = {}
        self.snr_db = float("nan")

    def translate(self, further: Sequence[str] = ()) -> None:
        """Parse the exported graph.

        Args:
            further: names of inner nodes whose results are to be outputs too.
        """
        model, path = self._model, self._path
        made_by = {name: node.name for node in model.graph.node for name in node.output}
        self._step(
            "translate",
            {"graph": sha256_file(path)} | ({"further": list(further)} if further else {}),
            {"har": "translated.har"},
            {
                "arch": self._job.plan.arch,
                "graph": str(path.absolute()),
                "net_name": net_name(self._job.plan.variant, self._graph),
                "start_nodes": [value.name for value in model.graph.input],
                "end_nodes": list(dict.fromkeys([*(made_by[value.name] for value in model.graph.output), *further])),
                "input_shapes": {
                    value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
                    for value in model.graph.input
                },
            },
            "network.json",
        )

    def render(self) -> None:
        """Write the model script for the parsed network."""
        self._render(self._model, None)

    def _render(self, model: onnx.ModelProto, own_ends: Collection[str] | None) -> None:
        """As `render`, of a model that is the exported graph but for further outputs."""
        job, graph = self._job, self._graph
        network = json.loads(self._file("network.json").read_text(encoding="utf-8"))["layers"]
        layers = [VendorLayer(entry["name"], entry["type"], tuple(entry["original_names"])) for entry in network]
        mapping = map_layers(layers, model, net_name(job.plan.variant, graph))
        rows = GraphArrays.of(job.calibration, graph, holdout=False).rows
        recipe = getattr(job.recipe, graph)
        self._script = render_model_script(recipe, graph, layers, mapping, rows, job.plan.arch, own_ends)
        for warning in self._script.warnings:
            job.report(f"dfc: {warning}")
        _write(self._file("alls"), self._script.text.encode("utf-8"))

    def optimise(self) -> None:
        """Quantise by the model script."""
        assert self._script is not None  # noqa: S101 - rendered before
        arrays = GraphArrays.of(self._job.calibration, self._graph, holdout=False)
        rows = self._script.calibration_rows
        self._step(
            "optimise",
            {"translate": self._keys["translate"], "script": self._script.text, "rows": rows} | arrays.digests(),
            {"har": "optimised.har"},
            {
                "translated": str(self._file("translated.har")),
                "script": self._script.text,
                "arrays": [str(path.absolute()) for path in arrays.inputs],
                "rows": rows,
                "work_dir": str(self._partial / "work"),
            },
        )

    def measure(self) -> None:
        """Measure what the quantisation costs on the holdout."""
        arrays = GraphArrays.of(self._job.calibration, self._graph, holdout=True)
        self._step(
            "measure",
            {"optimise": self._keys["optimise"]} | arrays.digests(),
            {},
            {
                "optimised": str(self._file("optimised.har")),
                "arrays": [str(path.absolute()) for path in arrays.inputs],
                "lengths": None if arrays.lengths is None else str(arrays.lengths.absolute()),
            },
            "measured.json",
        )
        self.snr_db = float(json.loads(self._file("measured.json").read_text(encoding="utf-8"))["snr_db"])

    def compile(self) -> None:
        """Compile, and check what came out."""
        self._step(
            "compile",
            {"optimise": self._keys["optimise"]},
            {"har": "compiled.har", "hef": "hef"},
            {"optimised": str(self._file("optimised.har"))},
        )
        plan, path = self._job.plan, self._file("hef")
        try:
            hef = read_hef(path)
        except HefError as error:
            raise CompileError(f"dfc: {self._graph}: the compiler made no usable HEF: {error}") from error
        warning = hef_warning(hef, str(self._tools.version))
        if warning is not None:
            self._report(f"{path} {warning}")
        problem = hef_problem(hef, plan, self._graph)
        if problem is not None:
            raise CompileError(f"dfc: {self._graph}: {path}: {problem}")
        try:
            check_outputs(hef)
        except HefError as error:
            raise CompileError(f"dfc: {self._graph}: {error}. {_DEAD_OUTPUT_ADVICE}") from error

    def _step(
        self,
        action: str,
        inputs: Mapping[str, Any],
        files: Mapping[str, str],
        worker_job: Mapping[str, Any],
        result_file: str | None = None,
    ) -> None:
        """Do one step, unless its files are there and were made from the same inputs.

        Keys name the keys of earlier steps and not their files: a HAR that was damaged is made again by the same
        compiler from the same inputs, which does not spoil the hours that went into what followed from it.

        Args:
            action: the worker's action.
            inputs: everything that the result depends on, besides compiler, architecture and code.
            files: argument of the worker's job -> end of the file's name.
            worker_job: the other arguments.
            result_file: end of the name of the file that gets what the worker returns.
        """
        code = [inspect.getsource(function) for function in _CODE[action]]
        everything = {"graph_name": self._graph, "arch": self._job.plan.arch, "dfc": self._tools.version, "code": code}
        key = canonical_digest({"action": action, **everything, **inputs})
        self._keys[action] = key
        made = {argument: self._file(end).name for argument, end in files.items()}
        result = None if result_file is None else self._file(result_file).name
        names = [*made.values(), *([] if result is None else [result]), self._file(f"{action}.log").name]
        record_file, failed_log = self._file(f"{action}.json"), self._file(f"{action}.failed.log")
        measured = self._measured_before(record_file, key, names)
        if measured is None:
            for path in (*map(self._job.work.joinpath, names), record_file, failed_log):
                if path.is_dir():  # no file can be put there, which must not be found out after hours
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            digests, measured = self._run(action, made, worker_job, result, names, failed_log)
            record = {"key": key, "files": digests, **measured}
            _write(record_file, json.dumps(record, indent=1).encode("utf-8"))
            remove_tree(self._partial)
            failed_log.unlink(missing_ok=True)
        else:
            self._report(f"{action}: done before, in {measured['seconds'] / 60:.0f} min ({record_file.parent})")
        self.measurements[action] = measured

    def _measured_before(self, record_file: Path, key: str, names: Sequence[str]) -> dict[str, Any] | None:
        """What the record of a step tells that was made from the same inputs and whose files are whole; else None."""
        try:
            record = json.loads(record_file.read_text(encoding="utf-8"))
            if record["key"] != key:
                return None
            digests = {name: record["files"][name] for name in names}
            measured = {name: kind(record[name]) for name, kind in _MEASURED.items()}
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            damaged = [record_file.name]
        else:
            damaged = [name for name, digest in digests.items() if _digest(record_file.with_name(name)) != digest]
        if damaged:
            self._report(f"{', '.join(damaged)} is missing or damaged and is made again")
            return None
        return measured

    def _run(
        self,
        action: str,
        made: Mapping[str, str],
        worker_job: Mapping[str, Any],
        result: str | None,
        names: Sequence[str],
        failed_log: Path,
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """Run the worker and put its files in place.

        Args:
            action: the worker's action.
            made: argument of the worker's job -> name of the file that it makes.
            worker_job: the other arguments.
            result: name of the file that gets what the worker returns.
            names: all the files of the step.
            failed_log: where the log goes if the step fails or is interrupted.

        Returns:
            File name -> sha256, and what is measured.
        """
        remove_tree(self._partial)
        (self._partial / "work").mkdir(parents=True)
        log = self._partial / f"{self._graph}.{action}.log"
        log.touch()
        with _kept_on_failure(log, failed_log):
            finished = self._run_worker(action, made, worker_job, log, failed_log)
            if result is not None:
                (self._partial / result).write_text(json.dumps(finished.result, indent=1), encoding="utf-8")
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            missing = [name for name in names if not (self._partial / name).is_file()]
            if missing:
                advice = what_to_try(action, telling_lines(lines))
                raise CompileError(
                    f"dfc: {self._graph}: {action} made no {', '.join(missing)}; log: {failed_log}; {advice}"
                )
            digests = {name: sha256_file(self._partial / name) for name in names}
            for name in names:
                _put_in_place(self._partial / name, self._job.work / name)
        self._report(f"{action}: done in {finished.seconds / 60:.1f} min, {finished.peak_memory_bytes / 1e9:.1f} GB")
        return digests, {
            "seconds": finished.seconds,
            "peak_memory_bytes": finished.peak_memory_bytes,
            # JSON has no other numbers.
            "vendor_snr_db": {
                layer: ratio if math.isfinite(ratio) else None for layer, ratio in parse_snr(lines).items()
            },
            "lines": telling_lines(lines),
        }

    def _run_worker(
        self, action: str, made: Mapping[str, str], worker_job: Mapping[str, Any], log: Path, failed_log: Path
    ) -> Finished:
        """Run the worker and pass on what it says. Messages name `failed_log`, where a failure leaves the log."""
        vendor_logs = self._job.work / "vendor"
        vendor_logs.mkdir(exist_ok=True)
        paths = {argument: str(self._partial / name) for argument, name in made.items()}
        listener = _Listener(lambda text: self._report(f"{action}: {text}"), self._said)
        self._report(f"{action} (log: {log})")
        try:
            return run_worker(
                self._tools.interpreter,
                {"action": action, **worker_job, **paths},
                vendor_logs,
                log,
                on_line=listener.line,
                on_step=listener.step,
                on_wait=listener.wait,
            )
        except WorkerFailure as error:
            advice = what_to_try(action, [str(error), *listener.told])
            raise CompileError(
                f"dfc: {self._graph}: {action} failed: {_short(str(error))}; log: {failed_log}; {advice}"
            ) from error
        except KeyboardInterrupt:
            kept = f"the steps before it are kept in {self._job.work}"
            self._report(f"{action} interrupted (log: {failed_log}); {kept}")
            raise

    @property
    def _partial(self) -> Path:
        return self._job.work / "partial"

    def _file(self, end: str) -> Path:
        return self._job.work / f"{self._graph}.{end}"

    def _report(self, text: str) -> None:
        self._job.report(f"dfc: {self._graph}: {text}")


class _Listener:
    """Passes on what a user should know of a running step.

    Args:
        report: takes one line.
        said: telling lines that were reported before, which are not repeated; new ones are added.

    Attributes:
        told: the telling lines of this step.
    """

    def __init__(self, report: Callable[[str], None], said: set[str]) -> None:
        self.told: list[str] = []
        self._said = said
        self._report = report
        self._latest = ""
        self._started = self._spoke = time.monotonic()

    def line(self, line: LogLine) -> None:
        """Take a line of the vendor's."""
        self._latest = line.text or self._latest
        if is_telling(line.text):
            self.told.append(line.text)
            if line.text not in self._said:
                self._said.add(line.text)
                self.step(line.text)
        for layer, ratio in parse_snr([line.text]).items():
            weak = f", below the {SENSITIVE_DB:.0f} dB that the vendor calls sensitive" if ratio < SENSITIVE_DB else ""
            weak = ", which is no number" if math.isnan(ratio) else weak
            self.step(f"SNR of {layer} by the vendor: {ratio:.1f} dB{weak}")

    def step(self, text: str) -> None:
        """Report a line."""
        self._spoke = time.monotonic()
        self._report(text)

    def wait(self) -> None:
        """Called about every second: says now and then that the step is still running."""
        if time.monotonic() - self._spoke >= _HEARTBEAT_SECONDS:
            minutes = (time.monotonic() - self._started) / 60
            self.step(f"{minutes:.0f} min so far; latest: {_short(self._latest)}")


def net_name(variant: str, graph: str) -> str:
    """The network's name for the vendor, such as `whisper_tiny_en_encoder`; it becomes the network group's."""
    return f"whisper_{variant.replace('.', '_')}_{graph}"


def hef_warning(hef: Hef, version: str) -> str | None:
    """What is odd about the compiler's version in a HEF, or None.

    It is no proof: nothing says that the version in the file and the one of the installed package are counted alike.

    Args:
        hef: the compiled graph.
        version: version of the compiler that was run.
    """
    try:
        same = parse_version(hef.sdk_version)[:2] == parse_version(version)[:2]
    except ValueError:
        return None  # the file does not say
    if same:
        return None
    return (
        f"names Dataflow Compiler {hef.sdk_version}, though {version} was run: if it does not run on the device, look "
        "for two installations in the interpreter of DFC_PYTHON"
    )


def hef_problem(hef: Hef, plan: ShapePlan, graph: str) -> str | None:
    """What is wrong with a compiled graph for a plan, with what to do; None if nothing is.

    Args:
        hef: the compiled graph.
        plan: what it should be.
        graph: "encoder" or "decoder".
    """
    if hef.architecture != plan.arch:
        return f"compiled for {hef.architecture}, not for {plan.arch}: use Dataflow Compiler {dfc_for_arch(plan.arch)}"
    features = (1, plan.feature_frames, plan.state)
    inputs, outputs = {
        "encoder": ([(1, plan.mel_frames, plan.dims.n_mels)], [features]),
        "decoder": (
            [features, (plan.sequence, 1, plan.state)],
            [(1, plan.sequence, size) for size in plan.vocabulary_parts],
        ),
    }[graph]
    for what, wanted, streams in (("inputs", inputs, hef.inputs), ("outputs", outputs, hef.outputs)):
        found = sorted(stream.shape for stream in streams)
        if found != sorted(wanted):
            return (
                f"its {what} have the shapes {found} where {sorted(wanted)} belong: this compiler changed the graph; "
                "try another version"
            )
    return None


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"{text[:297]}..."


def _digest(path: Path) -> str | None:
    """The sha256 of a file; None if there is none."""
    try:
        return sha256_file(path)
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _kept_on_failure(log: Path, failed_log: Path) -> Iterator[None]:
    """Keep a step's log if the step fails or is interrupted; the next attempt removes what lies beside it."""
    try:
        yield
    except BaseException:
        if log.exists():  # else it is in its place already
            log.replace(failed_log)
        raise


def _write(path: Path, data: bytes) -> None:
    """Write a file beside its place and rename it."""
    beside = path.with_name(f"{path.name}.partial")
    beside.write_bytes(data)
    _put_in_place(beside, path)


def _put_in_place(source: Path, target: Path) -> None:
    with source.open("rb") as file:
        os.fsync(file.fileno())
    source.replace(target)
    sync_folder(target.parent)
