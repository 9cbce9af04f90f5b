"""A Python that can run the app: with the packages that the app asks for, as far as they can be had."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from integration.app import HAILO_APPS, App
from integration.edits import CLI
from integration.errors import ValidationError
from integration.install import Report

REQUIREMENTS = "requirements_inference.txt"
_STAMP = ".installed"
_STAND_INS = Path(__file__).parent / "stand_ins"

# hailo-apps' app checks for these or imports them through the code that its examples share.
_OF_HAILO_APPS = ("streamlit", "python-dotenv", "opencv-python-headless")


@dataclass(frozen=True)
class AppPython:
    """An interpreter for the app.

    Attributes:
        executable: the interpreter.
        import_path: folders for PYTHONPATH.
        bin_path: folders for PATH.
    """

    executable: Path
    import_path: tuple[Path, ...] = ()
    bin_path: tuple[Path, ...] = ()


def app_python(
    app: App, folder: Path, lock: Path, *, given: Path | None, emulated: bool, offline: bool, report: Report
) -> AppPython:
    """Return an interpreter with the app's requirements.

    Args:
        app: the app.
        folder: where environments are made, one for each set of requirements.
        lock: the project's requirements.lock, for the versions of torch and onnxruntime.
        given: the user's own interpreter for the app, used as it is; None to take the app's `whisper_env` for a
            compiled bundle where it exists, and to make one otherwise.
        emulated: whether graphs of the emulator are to run in it.
        offline: nothing is downloaded.
        report: takes one line of progress.

    Raises:
        ValidationError: a package cannot be had.
    """
    own = app.root / "whisper_env" / "bin" / "python"  # where the app's setup.py makes it
    if given is None and not emulated and own.is_file():
        given = own
    if given is not None:
        report(f"python  {given}, as it is")
        return _complete(AppPython(given), folder, emulated, report)
    wanted = _requirements(app, lock, emulated, report)
    key = hashlib.sha256("\n".join([sys.version, sys.prefix, str(emulated), *wanted]).encode()).hexdigest()[:12]
    venv = folder / key
    python = venv / "bin" / "python"
    if not (venv / _STAMP).is_file():
        if offline:
            raise ValidationError(f"{venv}: not there, and OFFLINE is set: give an interpreter as APP_PYTHON")
        shutil.rmtree(venv, ignore_errors=True)
        report(f"python  making {venv} with {', '.join(wanted)}")
        # On a Raspberry Pi, HailoRT's package belongs to the system.
        extra = [] if emulated else ["--system-site-packages"]
        _run([sys.executable, "-m", "venv", *extra, str(venv)], "make a virtual environment")
        _install(python, wanted, report)
        (venv / _STAMP).touch()
    return _complete(AppPython(python), folder, emulated, report)


def _requirements(app: App, lock: Path, emulated: bool, report: Report) -> list[str]:
    path = app.root / REQUIREMENTS
    if not path.is_file():
        raise ValidationError(f"{path}: missing: give an interpreter for the app as APP_PYTHON")
    lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    wanted = [line for line in lines if line]
    ours = _locked(lock)
    for number, line in enumerate(wanted):
        if re.match(r"torch\b(?!-)", line) and line != ours["torch"]:
            report(f"python  {ours['torch']}, which this project uses, in the place of the app's {line}: for the mel")
            wanted[number] = ours["torch"]
    if b"get_standalone_parser" in (app.root / CLI).read_bytes():
        wanted += _OF_HAILO_APPS
    if emulated:
        wanted.append(ours["onnxruntime"])
    if shutil.which("ffmpeg") is None:
        report("python  imageio-ffmpeg besides, as this machine has no ffmpeg")
        wanted.append("imageio-ffmpeg")
    return wanted


def _locked(lock: Path) -> dict[str, str]:
    pins = [line.split("#")[0].split(";")[0].strip() for line in lock.read_text(encoding="utf-8").splitlines()]
    return {pin.partition("==")[0]: pin for pin in pins if "==" in pin}


def _install(python: Path, wanted: list[str], report: Report) -> None:
    pip = [str(python), "-m", "pip", "install", "--quiet", "--only-binary=:all:"]
    try:
        _run([*pip, *wanted], "install the app's requirements")
    except ValidationError as error:
        loose = [item if item.startswith(("torch", "onnxruntime")) else item.partition("==")[0] for item in wanted]
        report(f"python  not to be had as pinned ({error}); trying other versions: {', '.join(loose)}")
        _run([*pip, *loose], "install the app's requirements")


def _complete(python: AppPython, folder: Path, emulated: bool, report: Report) -> AppPython:
    """Find what is besides the packages: the parts of ours, a recorder's library, ffmpeg."""
    import_path: list[Path] = []
    if not emulated and (problem := _fails(python.executable, "import hailo_platform")):
        raise ValidationError(
            f"{python.executable}: {problem}: a compiled bundle needs HailoRT and the device: run this there, and give "
            "the Python that has hailo_platform as APP_PYTHON"
        )
    if emulated:
        import whisper_runtime

        import_path += [Path(__file__).parent / "emulated", Path(whisper_runtime.__file__).parent.parent]
    problem = _fails(python.executable, "import sounddevice")
    if "PortAudio" in problem:
        report("python  STAND-IN for sounddevice: PortAudio is not installed here; nothing is recorded in this run")
        import_path.append(_STAND_INS)
    bin_path = []
    if shutil.which("ffmpeg") is None:
        script = "import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())"
        found = subprocess.run([str(python.executable), "-c", script], capture_output=True, text=True, check=False)
        if found.returncode != 0:
            raise ValidationError("no ffmpeg on this machine, which the app needs: install it")
        links = folder / "bin"
        links.mkdir(parents=True, exist_ok=True)
        link = links / "ffmpeg"
        link.unlink(missing_ok=True)
        link.symlink_to(found.stdout.strip())
        bin_path.append(links)
    return AppPython(python.executable, tuple(import_path), tuple(bin_path))


def environment(python: AppPython, app: App) -> dict[str, str]:
    """The environment variables for one run of the app: no bytecode in its folders, and no model hub."""
    repository = Path(str(app.root).removesuffix(f"/{HAILO_APPS}"))
    # In hailo-apps the app is a part of an installed package.
    folders = [*python.import_path, *([repository] if repository != app.root else [])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PATH": os.pathsep.join([*map(str, python.bin_path), os.environ.get("PATH", os.defpath)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }


def _fails(python: Path, script: str) -> str:
    """The last line of what a script complains about; empty if it runs."""
    done = subprocess.run([str(python), "-c", script], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["failed"])[-1]


def _run(command: list[str], purpose: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        lines = [line for line in (done.stdout + done.stderr).strip().splitlines() if "WARNING" not in line]
        raise ValidationError(f"cannot {purpose}: {(lines or ['failed'])[-1][:300]}")
