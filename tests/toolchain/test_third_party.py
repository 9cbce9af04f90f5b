"""The pinned openai-whisper: verified, patched whole or not at all, imported beside the stock one."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from whisper_toolchain import third_party
from whisper_toolchain.download import sha256_file
from whisper_toolchain.errors import DownloadError, ToolchainError
from whisper_toolchain.shape_plan import VARIANTS

ROOT = Path(__file__).resolve().parents[2]
SDIST = "openai_whisper-20250625.tar.gz"


def digests(tree):
    return {str(p.relative_to(tree)): sha256_file(p) for p in sorted(tree.rglob("*")) if p.is_file()}


def visible(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def place(tmp_path, patched_tree):
    """third_party/ with the verified sdist, and patches/ of its own."""
    return make_place(tmp_path / "checkout")


def make_place(root):
    folder = root / "third_party"
    (folder / "downloads").mkdir(parents=True)
    shutil.copyfile(ROOT / "third_party" / third_party.LOCK, folder / third_party.LOCK)
    (folder / "downloads" / SDIST).symlink_to(ROOT / "third_party" / "downloads" / SDIST)
    shutil.copytree(ROOT / "patches" / "whisper", root / "patches")
    return folder


def prepare(place, lines=None):
    report = [].append if lines is None else lines.append
    return third_party.prepare_whisper(place, place.parent / "patches", offline=True, report=report)


def patches(place):
    return sorted((place.parent / "patches").iterdir())


NEW_FILE = """One more.

diff --git a/whisper/one_more.py b/whisper/one_more.py
new file mode 100644
--- /dev/null
+++ b/whisper/one_more.py
@@ -0,0 +1 @@
+ONE_MORE = 1
"""


def test_prepared_once(place, patched_tree):
    lines = []
    tree = prepare(place, lines)
    assert tree == place / "whisper"
    assert lines == [f"third_party: openai-whisper 20250625 with 4 patches in {tree}"]
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*")}
    assert prepare(place, lines) == tree
    assert len(lines) == 1
    assert {path: path.stat().st_mtime_ns for path in tree.rglob("*")} == before
    made = digests(tree)
    assert made == {name: digest for name, digest in digests(patched_tree).items() if "__pycache__" not in name}
    assert visible(place) == ["downloads", "whisper", third_party.LOCK]


def test_all_patches_are_in(place):
    source = (prepare(place) / "whisper" / "model.py").read_text()
    for sign in (
        "class Conv2d",
        "def forward_embedded",
        "VOCABULARY_PARTS = 4",
        "use_sdpa = False",
        "-64.0 if n_state <= 384 else -128.0",
    ):
        assert sign in source
    assert "class Conv1d" not in source


def test_made_again_when_a_patch_is_added_or_changed(place):
    tree = prepare(place)
    first = third_party.prepared_stamp(tree)
    extra = place.parent / "patches" / "0005-one-more.patch"
    extra.write_text(NEW_FILE)
    assert prepare(place) == tree
    assert (tree / "whisper" / "one_more.py").read_text() == "ONE_MORE = 1\n"
    second = third_party.prepared_stamp(tree)
    extra.write_text(NEW_FILE.replace("= 1", "= 2"))
    prepare(place)
    assert (tree / "whisper" / "one_more.py").read_text() == "ONE_MORE = 2\n"
    extra.unlink()
    prepare(place)
    assert not (tree / "whisper" / "one_more.py").exists()
    assert third_party.prepared_stamp(tree) == first != second


@pytest.mark.parametrize(
    "text",
    [NEW_FILE.replace("one_more.py", "nowhere/x.py").replace("new file mode", "old mode"), "no patch at all\n", ""],
)
def test_a_patch_that_does_not_apply(place, text):
    tree = prepare(place)
    before = digests(tree)
    (place.parent / "patches" / "0005-broken.patch").write_text(text)
    with pytest.raises(ToolchainError) as caught:
        prepare(place)
    message = str(caught.value)
    assert message.startswith("0005-broken.patch does not apply to the pinned openai-whisper: ")
    assert "\n" not in message
    assert digests(tree) == before
    assert visible(place) == ["downloads", "whisper", third_party.LOCK]


def test_a_patch_of_other_sources_does_not_apply(place):
    target = patches(place)[0]
    target.write_text(target.read_text().replace("kernel_size=3, stride=2", "kernel_size=5, stride=2"))
    with pytest.raises(ToolchainError) as caught:
        prepare(place)
    assert str(caught.value).startswith(f"{target.name} does not apply to the pinned openai-whisper: ")
    assert "\n" not in str(caught.value)
    assert visible(place) == ["downloads", third_party.LOCK]


def test_no_patches_and_no_lock(place, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ToolchainError, match=r"no patches in .*: run this from the project's root folder"):
        third_party.prepare_whisper(place, empty, offline=True, report=print)
    with pytest.raises(ToolchainError, match=r"whisper\.lock\.toml is missing: run this from"):
        third_party.prepare_whisper(empty, place.parent / "patches", offline=True, report=print)


def git(*arguments, cwd):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    subprocess.run(["git", *arguments], cwd=cwd, env=clean, check=True, capture_output=True)


def test_inside_a_git_checkout(tmp_path, patched_tree):
    place = make_place(tmp_path / "checkout")
    git("init", "-q", cwd=place.parent)
    tree = prepare(place)
    assert digests(tree) == {n: d for n, d in digests(patched_tree).items() if "__pycache__" not in n}


def test_inside_a_git_hook(tmp_path, monkeypatch, patched_tree):
    """git sets these for its hooks, and whoever runs the build from one should not get an unpatched tree."""
    place = make_place(tmp_path / "checkout")
    git("init", "-q", cwd=place.parent)
    monkeypatch.setenv("GIT_DIR", str(place.parent / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(place.parent))
    monkeypatch.setenv("GIT_INDEX_FILE", str(place.parent / ".git" / "index"))
    monkeypatch.setenv("GIT_PREFIX", "third_party/")
    tree = prepare(place)
    assert digests(tree) == {n: d for n, d in digests(patched_tree).items() if "__pycache__" not in n}


PREPARE = """
import sys
from pathlib import Path
from whisper_toolchain.third_party import prepare_whisper
prepare_whisper(Path(sys.argv[1]), Path(sys.argv[2]), offline=True, report=print)
"""

SLOW_GIT = """#!/bin/sh
case "$*" in *0003*) echo $$ > "{marker}"; exec sleep 60;; esac
exec "{git}" "$@"
"""


@pytest.mark.parametrize("prepared_before", [False, True])
def test_killed_between_two_patches(place, tmp_path, prepared_before):
    if prepared_before:
        earlier = digests(prepare(place))
        (place.parent / "patches" / "0005-one-more.patch").write_text(NEW_FILE)
    tools, marker = tmp_path / "bin", tmp_path / "marker"
    tools.mkdir()
    (tools / "git").write_text(SLOW_GIT.format(marker=marker, git=shutil.which("git")))
    (tools / "git").chmod(0o755)
    command = [sys.executable, "-c", PREPARE, str(place), str(place.parent / "patches")]
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    process = subprocess.Popen(command, env=environment)
    try:
        deadline = time.monotonic() + 30
        while not (marker.exists() and marker.read_text().strip()) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
    finally:
        process.kill()
        os.kill(int(marker.read_text()), signal.SIGKILL)
    tree = place / "whisper"
    if prepared_before:
        assert digests(tree) == earlier
    else:
        assert not tree.exists()
    assert prepare(place) == tree
    assert "-64.0 if n_state <= 384 else -128.0" in (tree / "whisper" / "model.py").read_text()
    assert (tree / "whisper" / "one_more.py").exists() == prepared_before
    # nothing of the killed run is left lying about
    assert visible(place) == ["downloads", "whisper", third_party.LOCK]


def test_an_sdist_of_another_digest_is_refused(place, tmp_path, monkeypatch):
    sdist = place / "downloads" / SDIST
    data = bytearray(sdist.read_bytes())
    data[len(data) // 2] ^= 1
    links = tmp_path / "links"
    links.mkdir()
    (links / SDIST).write_bytes(data)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    sdist.unlink()
    sdist.write_bytes(data)
    with pytest.raises(DownloadError) as caught:
        third_party.prepare_whisper(place, place.parent / "patches", report=[].append)
    assert "\n" not in str(caught.value)
    assert "sha256" in str(caught.value)
    assert not (place / "whisper").exists()
    with pytest.raises(DownloadError) as caught:
        prepare(place)  # offline
    assert "\n" not in str(caught.value)
    assert not (place / "whisper").exists()


def test_official_addresses(patched_tree):
    urls = third_party.official_urls(patched_tree)
    for variant in VARIANTS:
        assert urls[variant].startswith("https://")
        assert urls[variant].endswith(f"/{variant}.pt")
        assert len(urls[variant].split("/")[-2]) == 64  # the file's sha256


def test_official_addresses_of_another_source(tmp_path):
    (tmp_path / "whisper").mkdir()
    (tmp_path / "whisper" / "__init__.py").write_text("MODELS = {}\n")
    with pytest.raises(ToolchainError, match="_MODELS"):
        third_party.official_urls(tmp_path)


def test_stock_and_patched_live_side_by_side(stock_whisper, patched_whisper):
    assert stock_whisper.model.Whisper is not patched_whisper.model.Whisper
    assert hasattr(stock_whisper.model, "Conv1d")
    assert hasattr(patched_whisper.model, "Conv2d")
    assert patched_whisper.__version__ == stock_whisper.__version__ == "20250625"


def test_imported_once(patched_tree, patched_whisper, stock_tree):
    assert third_party.import_whisper(patched_tree) is patched_whisper
    with pytest.raises(ToolchainError, match="another package named 'whisper' is already imported"):
        third_party.import_whisper(stock_tree)


def test_a_broken_package_is_not_left_imported(tmp_path):
    package = tmp_path / "whisper"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('broken')\n")
    with pytest.raises(RuntimeError, match="broken"):
        third_party.import_whisper(tmp_path, "broken_whisper")
    assert "broken_whisper" not in sys.modules


def test_nothing_to_import(tmp_path):
    for call in (third_party.import_whisper, third_party.import_normalizers):
        with pytest.raises(ToolchainError, match="run `whisper-toolchain fetch` first"):
            call(tmp_path / "none", *(["none_whisper"] if call is third_party.import_whisper else []))
    with pytest.raises(ToolchainError, match="run `whisper-toolchain fetch` first"):
        third_party.prepared_stamp(tmp_path)


def test_normalizers_come_without_torch(patched_tree):
    script = (
        "import sys; from pathlib import Path; from whisper_toolchain.third_party import import_normalizers;"
        "n = import_normalizers(Path(sys.argv[1]));"
        "print(n.EnglishTextNormalizer()('Mr. Colour!'), 'torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(patched_tree)], capture_output=True, text=True, check=True
    )
    assert result.stdout == "mister color False\n"
