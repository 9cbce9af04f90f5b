"""`whisper-toolchain doctor`: what this machine has for making bundles, what fits together, and what to do.

Everything that the runtime checks is looked at too; the checks have the same form (see `whisper_runtime.doctor`).
"""

import os
import platform
import shutil
import sys
from collections.abc import Sequence

from whisper_runtime.bundle import Bundle
from whisper_runtime.doctor import (
    NOTE,
    OK,
    PROBLEM,
    Check,
    check_package,
    check_python,
    import_package,
    probe_hailort,
    run_limited,
    runtime_checks,
)
from whisper_runtime.errors import BundleError
from whisper_runtime.versions import dfc_fits_arch, dfc_for_arch, hailort_for_dfc, parse_version

from whisper_toolchain.compilers import dfc_checks
from whisper_toolchain.compilers.dfc_checks import (
    PYTHONS,
    SET_DFC_PYTHON,
    VENDOR_PACKAGE,
    Requirements,
    VendorTools,
    fits_memory,
    fits_python,
    gigabytes,
)
from whisper_toolchain.errors import CompileError, StageError
from whisper_toolchain.shape_plan import ARCHITECTURES, ShapePlan
from whisper_toolchain.stage import Stage
from whisper_toolchain.workspace import Workspace

NEWEST_PYTHON = (3, 12)
# Versions as in toolchain/pyproject.toml: package -> (oldest, first that does not fit any more).
PACKAGES = {"torch": ("2.13.0", "2.13.1"), "onnx": ("1.23.2", "1.23.3")}

_FREE_DISK = 3_000_000_000  # bytes that one variant takes without the DFC
_GPU_LIMIT = 20.0  # seconds


def toolchain_checks(
    workspace: Workspace,
    arch: str,
    variant: str | None,
    dfc_python: str | None,
    seconds: int | None = None,
    sequence: int | None = None,
) -> list[Check]:
    """Look at everything that making bundles needs here.

    Args:
        workspace: the project's folders.
        arch: accelerator that bundles are made for.
        variant: the model whose stages are looked at, or None for none.
        dfc_python: interpreter that has the DFC, or None for the current one.
        seconds, sequence: window and decoder slots of the stages, or None for the variant's own.

    Raises:
        ShapePlanError: unknown variant or architecture, or a combination that is known not to compile.
    """
    # Without a variant this only refuses an unknown architecture.
    plan = ShapePlan.make(variant or "tiny", arch, seconds, sequence)
    hailort = probe_hailort()
    checks = runtime_checks(hailort, build_host=True)
    python = check_python(sys.version_info[:2], platform.machine(), NEWEST_PYTHON)
    checks = [python if check.check == "python" else check for check in checks if check.check != "service"]
    checks += [check_package(name, import_package(name), *PACKAGES[name]) for name in PACKAGES]
    checks.append(check_git(shutil.which("git")))
    try:
        tools = dfc_checks.probe(dfc_python)
        checks += check_dfc(tools, dfc_python, arch, hailort.hailort)
    except CompileError as error:
        tools = None
        checks.append(Check("dfc", PROBLEM, str(error).removesuffix(f": {SET_DFC_PYTHON}"), SET_DFC_PYTHON))
    checks.append(check_machine(platform.machine(), tools is not None))
    checks.append(check_memory(dfc_checks.total_memory(), tools is not None, Requirements()))
    checks.append(check_disk(shutil.disk_usage(workspace.root).free, tools is not None, Requirements()))
    checks.append(check_gpu(graphics_cards()))
    return checks + (check_stages(workspace, plan) if variant is not None else [])


def check_git(found: str | None) -> Check:
    """Git, which applies our patches to openai-whisper."""
    if found is None:
        return Check("git", PROBLEM, "not found", "install git: it applies the patches to openai-whisper")
    return Check("git", OK, found)


# The Dataflow Compiler


def check_dfc(tools: VendorTools | None, asked_for: str | None, arch: str, hailort: str | None) -> list[Check]:
    """The DFC: there, for this architecture, in a Python that it supports, and what HailoRT its HEFs need.

    Args:
        tools: what `dfc_checks.probe` found, None for no DFC.
        asked_for: the interpreter that the user named, or None for the current one.
        arch: accelerator that bundles are made for.
        hailort: version of HailoRT on this machine, or None.
    """
    where = "this Python" if asked_for is None else f"DFC_PYTHON={asked_for}"
    if tools is None:
        advice = (
            "the emulator works without; to compile for a device, install Hailo's Dataflow Compiler into a virtual "
            f"environment of its own and {SET_DFC_PYTHON}"
        )
        return [Check("dfc", NOTE if asked_for is None else PROBLEM, f"{where} has no {VENDOR_PACKAGE}", advice)]
    python = _check_dfc_python(tools.python)
    if tools.version is None:
        found = f"{VENDOR_PACKAGE} in {where} cannot be used ({tools.problem or 'it tells no version'})"
        return [Check("dfc", PROBLEM, found, "install the DFC again into a new virtual environment"), python]
    found = f"{tools.version} in {where}"
    try:
        fitting = [name for name in ARCHITECTURES if dfc_fits_arch(tools.version, name)]
    except ValueError as error:
        return [Check("dfc", PROBLEM, f"{found}: {error}", f"install DFC {dfc_for_arch(arch)}"), python]
    if arch in fitting:
        fit = Check("dfc", OK, f"{found}, compiles for {arch}")
    else:
        instead = f", or build for ARCH={' or ARCH='.join(fitting)}" if fitting else ""
        advice = f"{arch} needs DFC {dfc_for_arch(arch)}{instead}"
        fit = Check("dfc", PROBLEM, f"{found} does not compile for {arch}", advice)
    return [fit, python, _check_pair(tools.version, hailort)]


def _check_dfc_python(version: tuple[int, int, int]) -> Check:
    found = ".".join(map(str, version))
    if fits_python(version):
        return Check("dfc-python", OK, found)
    advice = f"the DFC runs in Python {PYTHONS}: make its environment with one"
    return Check("dfc-python", PROBLEM, found, advice)


def _check_pair(dfc: str, hailort: str | None) -> Check:
    pair = hailort_for_dfc(dfc)
    if pair is None:
        advice = "if the device refuses the HEF, ask which HailoRT belongs to this DFC"
        return Check("dfc-hailort", NOTE, f"the HailoRT that belongs to DFC {dfc} is not known", advice)
    if hailort is None:
        return Check("dfc-hailort", OK, f"the device needs HailoRT {pair} for what DFC {dfc} compiles")
    if parse_version(pair)[:2] == parse_version(hailort)[:2]:
        return Check("dfc-hailort", OK, f"DFC {dfc} belongs to HailoRT {hailort}, which is here")
    return Check(
        "dfc-hailort",
        NOTE,
        f"DFC {dfc} belongs to HailoRT {pair}, here it is {hailort}",
        f"see that the device has HailoRT {pair}",
    )


# The machine


def check_machine(machine: str, has_dfc: bool) -> Check:
    """The processor: the DFC runs on x86_64 only."""
    if machine in ("x86_64", "AMD64"):
        return Check("machine", OK, machine)
    advice = "the emulator works; the DFC runs on x86_64 only, so compile on such a machine"
    return Check("machine", PROBLEM if has_dfc else NOTE, machine, advice)


def check_memory(size: int, has_dfc: bool, requirements: Requirements) -> Check:
    """Memory in bytes: enough for the DFC, or as much as is advised."""
    found = gigabytes(size)
    if not fits_memory(size, requirements.memory):
        advice = f"the DFC needs {gigabytes(requirements.memory)}, better {gigabytes(requirements.advised_memory)}"
        return Check("memory", PROBLEM if has_dfc else NOTE, found, advice)
    if not fits_memory(size, requirements.advised_memory):
        advice = f"enough, but the DFC is better off with {gigabytes(requirements.advised_memory)}"
        return Check("memory", NOTE, found, advice)
    return Check("memory", OK, found)


def check_disk(free: int, has_dfc: bool, requirements: Requirements) -> Check:
    """Free bytes on the project's disk: enough for one variant, and for the DFC's own files."""
    found = f"{gigabytes(free)} free"
    if free < _FREE_DISK:
        return Check("disk", PROBLEM, found, f"free some, one variant takes {gigabytes(_FREE_DISK)}")
    if free < requirements.disk:
        advice = f"the DFC needs {gigabytes(requirements.disk)}"
        return Check("disk", PROBLEM if has_dfc else NOTE, found, advice)
    return Check("disk", OK, found)


def graphics_cards(program: str = "nvidia-smi", limit: float = _GPU_LIMIT) -> list[str]:
    """Return the NVIDIA cards that the driver's own program lists; none if there is no driver or it fails."""
    try:
        done = run_limited([program, "--query-gpu=name", "--format=csv,noheader"], limit, os.environ)
    except OSError:
        return []
    return [line.strip() for line in done.output.splitlines() if line.strip()] if done.status == 0 else []


def check_gpu(cards: Sequence[str]) -> Check:
    """A graphics card, without which the DFC optimises less, or for much longer."""
    if cards:
        return Check("gpu", OK, ", ".join(cards))
    advice = "without one the DFC lowers its optimisation level, which costs accuracy; the emulator uses none"
    return Check("gpu", NOTE, "nvidia-smi lists no card", advice)


# What was made


def check_stages(workspace: Workspace, plan: ShapePlan) -> list[Check]:
    """The stages of one plan: finished and whole, or not made yet. Whether one is up to date is for make to say."""
    folders = {
        "fetch": workspace.checkpoint(plan.variant),
        "export": workspace.export(plan),
        "calibrate": workspace.calibration(plan),
        "compile": workspace.compiled(plan),
    }
    checks = []
    for name, folder in folders.items():
        make = f"make {name} VARIANT={plan.variant} ARCH={plan.arch}"
        try:
            Stage.read(folder, name)
            checks.append(Check(f"stage-{name}", OK, str(folder)))
        except StageError:
            checks.append(Check(f"stage-{name}", NOTE, f"{folder} is not made yet, or was changed", make))
    folder = workspace.bundle(plan)
    if not folder.exists():
        advice = f"make bundle VARIANT={plan.variant} ARCH={plan.arch}"
        return [*checks, Check("stage-bundle", NOTE, f"{folder} is not made yet", advice)]
    try:
        manifest = Bundle.open(folder).manifest
    except BundleError as error:
        advice = f"make bundle VARIANT={plan.variant} ARCH={plan.arch}"
        return [*checks, Check("stage-bundle", PROBLEM, str(error), advice)]
    kind = "EMULATED: runs on CPUs, not on a Hailo device" if manifest.emulated else "compiled"
    return [*checks, Check("stage-bundle", OK, f"{manifest.name} {manifest.version}, {kind}")]
