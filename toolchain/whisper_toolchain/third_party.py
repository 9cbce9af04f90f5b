"""openai-whisper, fetched as its pinned sdist, unpacked (never built or installed), patched and imported."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from whisper_runtime.canonical_json import canonical_digest

from whisper_toolchain import package_index
from whisper_toolchain.archive import extract_tree
from whisper_toolchain.download import Report, report_to_stderr, sha256_file
from whisper_toolchain.errors import ToolchainError
from whisper_toolchain.stage import remove_tree
from whisper_toolchain.toml import read_toml

LOCK = "whisper.lock.toml"
STAMP = "PREPARED"  # inside the unpacked tree: digest of the sdist and the patches that it was made from


def prepare_whisper(
    third_party: Path, patches: Path, *, offline: bool = False, report: Report = report_to_stderr
) -> Path:
    """Make sure that `third_party/whisper` holds the pinned sources with all patches applied.

    Does nothing if it already does. The folder is prepared beside its final place and renamed, so that a
    killed run never leaves a half-patched tree.

    Args:
        third_party: folder that holds `whisper.lock.toml` and receives `whisper/` and `downloads/`.
        patches: folder with `*.patch`, applied in the order of their names.
        offline: use only what is already downloaded.
        report: takes one line of progress.

    Returns:
        The folder to put before the package `whisper`: `third_party/whisper`.

    Raises:
        DownloadError: the sdist cannot be fetched or has another digest.
        ToolchainError: no lock file, no patches, or a patch does not apply.
    """
    lock = read_lock(third_party)
    patch_files = sorted(patches.glob("*.patch"))
    if not patch_files:
        raise ToolchainError(f"no patches in {patches}: run this from the project's root folder")
    wanted = canonical_digest({"sdist": lock["sha256"], "patches": [sha256_file(p) for p in patch_files]})
    target = third_party / "whisper"
    stamp = target / STAMP
    if stamp.is_file() and stamp.read_text(encoding="ascii").strip() == wanted:
        return target
    sdist = fetch_sdist(third_party, offline=offline, report=report)
    scratch = third_party / "whisper.partial"
    try:
        remove_tree(scratch)  # of a killed run
        scratch.mkdir()
        tree = scratch / "tree"
        unpack_sdist(sdist, tree)
        for patch in patch_files:
            _apply(patch.resolve(), tree)
        (tree / STAMP).write_text(wanted + "\n", encoding="ascii")
        if target.exists():
            target.replace(scratch / "earlier")  # not removed in place: half a tree could still hold its stamp
        tree.replace(target)
    finally:
        remove_tree(scratch)
    report(f"third_party: {lock['project']} {lock['version']} with {len(patch_files)} patches in {target}")
    return target


def read_lock(third_party: Path) -> dict[str, str]:
    """Return project, version, filename and sha256 of the pinned sdist."""
    path = third_party / LOCK
    if not path.is_file():
        raise ToolchainError(f"{path} is missing: run this from the project's root folder")
    return {key: str(value) for key, value in read_toml(path).items()}


def fetch_sdist(third_party: Path, *, offline: bool = False, report: Report = report_to_stderr) -> Path:
    """Return the pinned sdist, from `third_party/downloads` or the package index. Raises DownloadError."""
    lock = read_lock(third_party)
    destination = third_party / "downloads" / lock["filename"]
    return package_index.fetch_file(
        lock["project"],
        lock["filename"],
        destination,
        lock["sha256"],
        offline=offline,
        report=report,
    )


def unpack_sdist(sdist: Path, folder: Path) -> None:
    """Unpack a verified sdist's one top directory as the new folder. Raises DownloadError if it is damaged."""
    extract_tree(sdist, sdist.name.removesuffix(".tar.gz"), folder)


def unpack_stock(third_party: Path, tree: Path, *, offline: bool = False, report: Report = report_to_stderr) -> Path:
    """Make sure that `tree` holds the pinned sources without patches, to compare with; return it.

    Raises DownloadError: the sdist cannot be had or is damaged.
    """
    if not tree.exists():
        sdist = fetch_sdist(third_party, offline=offline, report=report)
        partial = tree.with_name(f"{tree.name}.partial")
        remove_tree(partial)
        partial.parent.mkdir(parents=True, exist_ok=True)
        unpack_sdist(sdist, partial)
        partial.replace(tree)
    return tree


def _apply(patch: Path, tree: Path) -> None:
    # Without these two, git would take the surrounding checkout for the patch's target and skip every file.
    environment = {**os.environ, "GIT_DIR": os.devnull, "GIT_CEILING_DIRECTORIES": str(tree.parent)}
    result = subprocess.run(
        ["git", "apply", "--whitespace=nowarn", str(patch)],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["git apply failed"])[0]
        raise ToolchainError(f"{patch.name} does not apply to the pinned openai-whisper: {reason}")


def import_whisper(tree: Path, name: str = "whisper") -> ModuleType:
    """Import the package `whisper` of an unpacked tree under the given module name.

    Stock and patched sources can be imported side by side under two names, because openai-whisper only
    imports itself relatively. Raises ToolchainError if there is no such package, or another one of the name.
    """
    return _import_package(tree / "whisper", name)


def import_normalizers(tree: Path) -> ModuleType:
    """Import only openai-whisper's text normalisers, without torch and the model. Raises ToolchainError."""
    return _import_package(tree / "whisper" / "normalizers", "whisper_normalizers")


def _import_package(package: Path, name: str) -> ModuleType:
    package = package.resolve()
    if not package.is_dir():
        raise ToolchainError(f"{package} holds no Python package: run `whisper-toolchain fetch` first")
    if name in sys.modules:
        module = sys.modules[name]
        if Path(str(module.__file__)).parent == package:
            return module
        raise ToolchainError(f"another package named '{name}' is already imported from {module.__file__}")
    spec = importlib.util.spec_from_file_location(
        name, package / "__init__.py", submodule_search_locations=[str(package)]
    )
    if spec is None or spec.loader is None:
        raise ToolchainError(f"{package} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def prepared_stamp(tree: Path) -> str:
    """Return the digest of what an unpacked tree was made from. Raises ToolchainError if it is not prepared."""
    try:
        return (tree / STAMP).read_text(encoding="ascii").strip()
    except OSError as error:
        raise ToolchainError(f"{tree} is missing: run `whisper-toolchain fetch` first") from error


def assets(tree: Path) -> Path:
    """Return the folder with the tokenizer ranks and mel filters inside an unpacked tree."""
    return tree / "whisper" / "assets"


def official_urls(tree: Path) -> dict[str, str]:
    """Return openai-whisper's own table of checkpoint addresses, read from its source without running it.

    Importing the package would load torch and numba, which a fetch does not need.
    """
    source = (tree / "whisper" / "__init__.py").read_text(encoding="utf-8")
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "_MODELS" for target in statement.targets
        ):
            urls = ast.literal_eval(statement.value)
            return {str(variant): str(url) for variant, url in urls.items()}
    raise ToolchainError("openai-whisper's table of checkpoints (_MODELS) was not found in its source")
