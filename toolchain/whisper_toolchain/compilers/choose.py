"""Chooses between the vendor's compiler and the emulator, and says why."""

from whisper_toolchain.compilers import Compiler
from whisper_toolchain.compilers.dfc import DataflowCompiler
from whisper_toolchain.compilers.dfc_checks import VENDOR_PACKAGE
from whisper_toolchain.compilers.emulator import Emulator
from whisper_toolchain.errors import CompileError

CHOICES = ("auto", "dfc", "emulator")


def choose_compiler(choice: str, dfc_python: str | None) -> tuple[Compiler, str]:
    """Return the compiler to use and one line that says which it is and why.

    Args:
        choice: "auto" takes the vendor's Dataflow Compiler where it is installed and the emulator elsewhere. With an
            interpreter named, it must be there: who names one does not want an emulation instead.
        dfc_python: interpreter of the virtual environment that has the vendor's compiler, or None for the
            current one.

    Raises:
        CompileError: the vendor's compiler was asked for or its interpreter named, and it is not there; the
            interpreter does not run; or the choice is unknown.
    """
    if choice not in CHOICES:
        raise CompileError(f"unknown compiler '{choice}': choose one of {', '.join(CHOICES)}")
    if choice == "emulator":
        return Emulator(), "compiler: EMULATOR, as asked for. The result runs on CPUs, not on a Hailo device."
    where = f"DFC_PYTHON={dfc_python}" if dfc_python else "the current Python"
    compiler = DataflowCompiler(dfc_python)
    if compiler.installed:
        return compiler, f"compiler: Hailo's Dataflow Compiler, {compiler.version} of {where}"
    if choice == "dfc" or dfc_python:
        raise CompileError(
            f"{where} has no {VENDOR_PACKAGE}: install Hailo's Dataflow Compiler into a virtual environment of its own "
            "and set DFC_PYTHON=/path/to/venv/bin/python, or use COMPILER=emulator"
        )
    return Emulator(), (
        f"compiler: EMULATOR, because {where} has no Hailo Dataflow Compiler ({VENDOR_PACKAGE}; set DFC_PYTHON "
        "if it is elsewhere). The result runs on CPUs, not on a Hailo device."
    )
