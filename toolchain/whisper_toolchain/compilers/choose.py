"""Chooses between the vendor's compiler and the emulator, and says why."""

import importlib.util
import subprocess
from pathlib import Path

from whisper_toolchain.compilers import Compiler
from whisper_toolchain.compilers.emulator import Emulator
from whisper_toolchain.errors import CompileError

CHOICES = ("auto", "dfc", "emulator")
VENDOR_PACKAGE = "hailo_sdk_client"

# Says so in words: a program that is no Python at all may also exit with 0.
_PROBE = f"import importlib.util; print('{VENDOR_PACKAGE}', importlib.util.find_spec('{VENDOR_PACKAGE}') is not None)"


def choose_compiler(choice: str, dfc_python: str | None) -> tuple[Compiler, str]:
    """Return the compiler to use and one line that says which it is and why.

    Args:
        choice: "auto" takes the vendor's Dataflow Compiler where it is installed and the emulator elsewhere.
        dfc_python: interpreter of the virtual environment that has the vendor's compiler, or None for the
            current one.

    Raises:
        CompileError: the vendor's compiler was asked for or found, and cannot be driven by this version; or
            the choice is unknown.
    """
    if choice not in CHOICES:
        raise CompileError(f"unknown compiler '{choice}': choose one of {', '.join(CHOICES)}")
    emulator = Emulator()
    if choice == "emulator":
        return emulator, "compiler: EMULATOR, as asked for. The result runs on CPUs, not on a Hailo device."
    found = has_vendor_compiler(dfc_python)
    where = dfc_python or "the current Python"
    if not found and choice == "dfc":
        raise CompileError(
            f"COMPILER=dfc: {where} has no {VENDOR_PACKAGE}. Install Hailo's Dataflow Compiler into a virtual "
            "environment of its own and set DFC_PYTHON=/path/to/venv/bin/python, or use COMPILER=emulator"
        )
    if found and choice == "dfc":
        raise CompileError(
            f"COMPILER=dfc: {where} has {VENDOR_PACKAGE}, but this version of the toolchain cannot drive it "
            "yet; the exported graphs and the calibration set in build/ are ready for it. COMPILER=emulator works"
        )
    if found:
        return emulator, (
            f"compiler: EMULATOR. {where} has Hailo's Dataflow Compiler, but this version of the toolchain "
            "cannot drive it yet. The result runs on CPUs, not on a Hailo device."
        )
    return emulator, (
        f"compiler: EMULATOR, because {where} has no Hailo Dataflow Compiler ({VENDOR_PACKAGE}; set DFC_PYTHON "
        "if it is elsewhere). The result runs on CPUs, not on a Hailo device."
    )


def has_vendor_compiler(dfc_python: str | None) -> bool:
    """True if the vendor's compiler can be found by an interpreter (None: the current one).

    Raises:
        CompileError: the interpreter does not exist or does not run.
    """
    if dfc_python is None:
        return importlib.util.find_spec(VENDOR_PACKAGE) is not None
    try:
        result = subprocess.run(
            [str(Path(dfc_python).expanduser()), "-c", _PROBE], capture_output=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompileError(f"DFC_PYTHON={dfc_python} does not run: {error}") from error
    words = result.stdout.decode(errors="replace").split()
    if result.returncode != 0 or words[:1] != [VENDOR_PACKAGE]:
        raise CompileError(f"DFC_PYTHON={dfc_python} is not a Python interpreter")
    return words[1:] == ["True"]
