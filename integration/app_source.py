"""A clone of the vendor's repository for those who have none, and the bundle that was built last."""

import shutil
import subprocess
from pathlib import Path

from integration.app import EXAMPLES
from integration.errors import AppError
from integration.install import Report

REPOSITORY = "https://github.com/hailo-ai/Hailo-Application-Code-Examples.git"
CLONE = "Hailo-Application-Code-Examples"


def cloned_app(third_party: Path, *, offline: bool, report: Report, repository: str = REPOSITORY) -> Path:
    """Return a clone of the repository with the app, made below `third_party` unless it is there.

    Only the app's folder is checked out. The clone is made beside its place and renamed.

    Raises:
        AppError: git fails, or `offline` and there is no clone yet.
    """
    target = third_party / CLONE
    if target.is_dir():
        return target
    if offline:
        raise AppError(f"{target}: not there, and OFFLINE is set: give the app's folder as APP_DIR")
    partial = third_party / f"{CLONE}.partial"
    if partial.exists():
        shutil.rmtree(partial)
    report(f"app     cloning {repository}")
    clone = ["git", "clone", "--quiet", "--depth", "1", "--filter=blob:none", "--no-checkout", repository, str(partial)]
    for command in (
        clone,
        ["git", "-C", str(partial), "sparse-checkout", "set", EXAMPLES],
        ["git", "-C", str(partial), "checkout", "--quiet"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            shutil.rmtree(partial, ignore_errors=True)
            reason = (done.stderr.strip().splitlines() or ["git failed"])[-1]
            raise AppError(
                f"{repository}: cannot be cloned ({reason}): clone it elsewhere and give its folder as APP_DIR"
            )
    partial.rename(target)
    return target


def newest_bundle(artifacts: Path) -> Path:
    """The bundle below `artifacts` that was built last. Raises AppError if there is none."""
    manifests = sorted(artifacts.glob("*/latest/manifest.json"), key=lambda path: (path.stat().st_mtime, str(path)))
    if not manifests:
        raise AppError(f"{artifacts}: no bundle in it: build one with make all, or give its folder as BUNDLE")
    return manifests[-1].parent
