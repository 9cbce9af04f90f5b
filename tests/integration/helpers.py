"""Helpers of the tests of an install: the app in each layout, an interpreter for it, and comparisons.

Where the environment variable APP_DIR names the vendor's real app, the tests run on a copy of that one too.
"""

import hashlib
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import whisper_runtime

from integration.app import HAILO_APPS, App
from integration.app_venv import AppPython
from integration.changes import STATE
from integration.clip import Clip
from tests.integration import miniature

ROOT = Path(__file__).resolve().parent.parent.parent
LAYOUTS = [*miniature.LAYOUTS, *(["real"] if os.environ.get("APP_DIR") else [])]
STUBS = Path(__file__).parent / "stubs"
EMULATED = ROOT / "integration" / "emulated"
FAKES = ROOT / "tests" / "fakes"
LIBRARIES = Path(whisper_runtime.__file__).parent.parent


def make_app(folder, layout):
    """Write or copy the app and return its folder."""
    if layout != "real":
        return miniature.write_miniature(folder, layout)
    original = App.find(Path(os.environ["APP_DIR"])).root
    ignored = shutil.ignore_patterns("hefs", "decoder_assets", "whisper_env", "__pycache__")
    if not str(original).endswith(HAILO_APPS):
        return Path(shutil.copytree(original, folder / "app", ignore=ignored))
    core = original.parents[1] / "core"
    shutil.copytree(core, folder / core.relative_to(original.parents[3]), ignore=ignored)
    return Path(shutil.copytree(original, folder / HAILO_APPS, ignore=ignored))


def emulating_python():
    """This interpreter with the emulated hailo_platform and a model hub of one tokenizer."""
    return AppPython(Path(sys.executable), (EMULATED, LIBRARIES, STUBS))


def faking_python():
    """This interpreter with the strict fake of HailoRT."""
    return AppPython(Path(sys.executable), (FAKES, STUBS))


def tree(folder, *, ours=True):
    """Every file below a folder: its mode and the digest of its content. `ours` False: without our own state."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and (ours or STATE not in path.parts)
    }


def tone(seconds=1.0, seed=0):
    """A loud noise that starts at once; 16 bits are enough for it."""
    samples = np.random.default_rng(seed).normal(0, 0.2, int(seconds * 16000))
    samples[0] = 0.5
    return Clip("noise", (np.rint(np.clip(samples, -1, 1) * 32767) / 32767).astype(np.float32))


def ignore(line):
    """Takes a line of progress and does nothing with it."""
