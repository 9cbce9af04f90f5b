"""What is checked before a compilation that takes hours: the compiler, the machine and the calibration set."""

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from whisper_runtime.versions import dfc_fits_arch, dfc_for_arch

from whisper_toolchain.calibration import CALIBRATION, HOLDOUT, CalibrationFiles
from whisper_toolchain.compilers import CompileJob
from whisper_toolchain.errors import CompileError
from whisper_toolchain.shape_plan import ShapePlan

VENDOR_PACKAGE = "hailo_sdk_client"
SET_DFC_PYTHON = "set DFC_PYTHON=/path/to/venv/bin/python"
PYTHONS = "3.10 to 3.12"  # see `fits_python`

_SHOWN_SHARE = 0.93  # firmware and kernel keep some of the memory that a machine is sold with

_PROBE_SECONDS = 300  # importing the compiler loads TensorFlow
_MARK = "whisper-toolchain-probe:"
# Says so in words: a program that is no Python at all may also exit with 0. Kept to what old Pythons know. The version
# is read without importing the compiler where its wheel says it, because an import takes many seconds.
_PROBE = f"""
import importlib.util, json, platform, sys
found, version, problem = importlib.util.find_spec("{VENDOR_PACKAGE}") is not None, None, None
if found:
    try:
        from importlib import metadata
        try:
            version = metadata.version("hailo-dataflow-compiler")
        except metadata.PackageNotFoundError:
            import {VENDOR_PACKAGE}
            version = getattr({VENDOR_PACKAGE}, "__version__", None)
    except Exception as error:
        problem = type(error).__name__ + ": " + str(error)
print()
print("{_MARK}" + json.dumps({{
    "found": found, "version": version, "problem": problem,
    "python": list(sys.version_info[:3]), "machine": platform.machine(),
}}))
"""


@dataclass(frozen=True)
class VendorTools:
    """The vendor's compiler, as its interpreter describes it.

    Attributes:
        interpreter: absolute path of the Python that has it.
        version: version of the Dataflow Compiler, or None where it does not say.
        problem: why the version cannot be read, or None.
        python: version of the interpreter.
        machine: the interpreter's processor, such as "x86_64".
    """

    interpreter: str
    version: str | None
    problem: str | None
    python: tuple[int, int, int]
    machine: str


@dataclass(frozen=True)
class Requirements:
    """What a machine needs, in bytes: RAM at least, RAM advised, free disk."""

    memory: int = 16_000_000_000
    advised_memory: int = 32_000_000_000
    disk: int = 10_000_000_000


def probe(dfc_python: str | None) -> VendorTools | None:
    """Ask an interpreter for the vendor's compiler; None if it has none.

    Args:
        dfc_python: the interpreter; None for the current one.

    Raises:
        CompileError: the interpreter does not exist, does not run, does not answer in time, or is no Python. The line
            ends with `SET_DFC_PYTHON`.
    """
    # Path("./python") is "python", which would be looked up in PATH.
    name = sys.executable if dfc_python is None else os.path.expanduser(dfc_python)  # noqa: PTH111
    where = name if dfc_python is None else f"DFC_PYTHON={dfc_python}"
    found = shutil.which(name)
    if found is None:
        raise CompileError(f"{where} {_why_not_found(name)}: {SET_DFC_PYTHON}")
    interpreter = str(Path(found).absolute())  # not resolved: a virtual environment's Python is a link
    # In a folder of its own: the compiler writes logs into the current one, and what lies there is not installed.
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = subprocess.run(
                [interpreter, "-c", _PROBE],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_PROBE_SECONDS,
                check=False,
                cwd=folder,
            )
        except subprocess.TimeoutExpired as error:
            raise CompileError(f"{where} did not answer within {_PROBE_SECONDS} s: {SET_DFC_PYTHON}") from error
        except OSError as error:
            raise CompileError(f"{where} does not run ({error.strerror or error}): {SET_DFC_PYTHON}") from error
    answers = [line for line in result.stdout.decode(errors="replace").splitlines() if line.startswith(_MARK)]
    try:
        result.check_returncode()
        answer: dict[str, Any] = json.loads(answers[-1].removeprefix(_MARK))
        major, minor, micro = answer["python"]
        tools = VendorTools(interpreter, answer["version"], answer["problem"], (major, minor, micro), answer["machine"])
        return tools if answer["found"] else None
    except (subprocess.CalledProcessError, IndexError, ValueError, KeyError, TypeError) as error:
        raise CompileError(f"{where} is not a Python interpreter: {SET_DFC_PYTHON}") from error


def _why_not_found(name: str) -> str:
    """What is wrong with a name that `shutil.which` does not find."""
    try:
        mode = Path(name).stat().st_mode
    except OSError as error:
        return f"cannot be found ({error.strerror})" if os.sep in name else "is not in PATH"
    if stat.S_ISDIR(mode):
        return "is a folder"
    return "is not executable" if os.sep in name else "is not in PATH"


def check_before(job: CompileJob, tools: VendorTools, requirements: Requirements) -> list[str]:
    """Check everything that would stop a compilation later; return warnings, one line each.

    Raises:
        CompileError: with all the problems in one line.
    """
    problems = [
        *compiler_problems(tools, job.plan.arch),
        *machine_problems(job.work, requirements),
        *work_problems(job.work),
        *calibration_problems(job.calibration, job.plan),
    ]
    if problems:
        raise CompileError("the Dataflow Compiler was not started: " + "; ".join(problems))
    memory = total_memory()
    if not fits_memory(memory, requirements.advised_memory):
        return [f"{gigabytes(memory)} of RAM; {gigabytes(requirements.advised_memory)} are advised"]
    return []


def compiler_problems(tools: VendorTools, arch: str) -> Iterator[str]:
    """Yield what is wrong with the compiler and its interpreter for an architecture."""
    if tools.version is None:
        why = tools.problem or "it does not say its version"
        yield f"{VENDOR_PACKAGE} of {tools.interpreter} is not usable ({why}): install it again"
    else:
        try:
            fits = dfc_fits_arch(tools.version, arch)
        except ValueError as error:
            yield f"{VENDOR_PACKAGE} of {tools.interpreter}: {error}"
        else:
            if not fits:
                yield (
                    f"Dataflow Compiler {tools.version} does not compile for {arch}, which needs {dfc_for_arch(arch)}: "
                    "set DFC_PYTHON to an interpreter that has it"
                )
    if not fits_python(tools.python):
        version = ".".join(map(str, tools.python))
        yield f"{tools.interpreter} is Python {version}: the Dataflow Compiler runs in {PYTHONS}"
    if tools.machine not in ("x86_64", "AMD64"):
        yield f"this is a {tools.machine} machine: the Dataflow Compiler runs on x86_64 only"


def machine_problems(work: Path, requirements: Requirements) -> Iterator[str]:
    """Yield what the machine lacks."""
    memory = total_memory()
    if not fits_memory(memory, requirements.memory):
        yield f"{gigabytes(memory)} of RAM: the Dataflow Compiler needs {gigabytes(requirements.memory)}"
    free = shutil.disk_usage(_existing(work)).free
    if free < requirements.disk:
        yield f"{gigabytes(free)} free on the disk of {work}: {gigabytes(requirements.disk)} are needed"


def work_problems(work: Path) -> Iterator[str]:
    """Yield why files cannot be written into the work folder, or why it cannot be made. Leaves nothing behind."""
    existing = _existing(work)
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        yield (
            f"the work folder {work} cannot be written ({error.strerror or error}): make {existing} a folder that this "
            "user may write to"
        )


def _existing(work: Path) -> Path:
    """The work folder, or the nearest of its parents that exists."""
    return next(folder for folder in (work.absolute(), *work.absolute().parents) if folder.exists())


def fits_memory(size: int, needed: int) -> bool:
    """Whether a machine that shows `size` bytes of RAM was sold with the `needed` ones."""
    return size >= needed * _SHOWN_SHARE


def fits_python(version: tuple[int, int, int]) -> bool:
    """Whether the Dataflow Compiler runs in a version of Python."""
    return (3, 10) <= version[:2] <= (3, 12)


def total_memory() -> int:
    """RAM of this machine, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def calibration_problems(folder: Path, plan: ShapePlan) -> Iterator[str]:
    """Yield what is wrong with the arrays of the calibration set and the holdout."""
    for files in (CALIBRATION, HOLDOUT):
        yield from _set_problems(folder, files, plan)


def _set_problems(folder: Path, files: CalibrationFiles, plan: ShapePlan) -> Iterator[str]:
    again = "run `make calibrate` again"
    shapes: dict[str, tuple[int, ...]] = {
        files.mel: (1, plan.mel_frames, plan.dims.n_mels),
        files.features: (1, plan.feature_frames, plan.state),
        files.token_embeddings: (plan.sequence, 1, plan.state),
        files.lengths: (),
    }
    rows: dict[str, int] = {}
    for name, shape in shapes.items():
        dtype = np.int32 if name == files.lengths else np.float32
        try:
            array: np.ndarray = np.load(folder / name, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            yield f"{folder / name} cannot be read ({' '.join(str(error).split())}): {again}"
            continue
        if array.dtype != dtype or array.ndim != len(shape) + 1 or array.shape[1:] != shape:
            wanted = (
                f"{np.dtype(dtype)} (rows, {', '.join(map(str, shape))})" if shape else f"{np.dtype(dtype)} (rows,)"
            )
            yield f"{folder / name} is {array.dtype} {array.shape} where {wanted} belongs: {again}"
            continue
        rows[name] = len(array)
        bad = next((row for row, values in enumerate(array) if not np.isfinite(values).all()), None)
        if bad is not None:
            yield f"{folder / name} has values in row {bad} that are not finite: {again}"
        if name == files.lengths and not ((array >= 1) & (array <= plan.sequence)).all():
            yield f"{folder / name} has lengths outside 1..{plan.sequence}: {again}"
    # The decoder's arrays have equally many rows, and the encoder's at least as many.
    decoder = {count for name, count in rows.items() if name != files.mel}
    windows = rows.get(files.mel, max(decoder, default=0))
    if len(decoder) > 1 or 0 in rows.values() or any(count > windows for count in decoder):
        counts = ", ".join(f"{name} {count}" for name, count in rows.items())
        yield f"the arrays in {folder} do not belong together, their rows are {counts}: {again}"


def gigabytes(size: int) -> str:
    """A number of bytes as messages show it."""
    return f"{size / 1e9:.1f} GB"
