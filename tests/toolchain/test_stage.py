"""Stages do nothing when nothing changed, and leave nothing half when they do not finish."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from whisper_runtime.canonical_json import canonical_digest, canonical_json
from whisper_toolchain.errors import StageError
from whisper_toolchain.stage import RECORD, Stage, code_digest, run_stage

INPUTS = {"source": "abc", "numbers": [1, 2]}


class Maker:
    """Writes two files and counts how often."""

    def __init__(self, content=b"one"):
        self.calls = 0
        self.content = content

    def __call__(self, folder):
        self.calls += 1
        (folder / "a.bin").write_bytes(self.content)
        (folder / "b.txt").write_text("two")
        return {"measured": 1.5}


@pytest.fixture
def lines():
    return []


@pytest.fixture
def run(tmp_path, lines):
    def call(make, inputs=INPUTS, folder=tmp_path / "build" / "stage"):
        return run_stage("toy", folder, inputs, make, lines.append)

    return call


def no_partial(stage_or_folder):
    parent = getattr(stage_or_folder, "folder", stage_or_folder).parent
    return not parent.exists() or not [path for path in parent.iterdir() if "partial" in path.name]


def test_first_run_writes_the_files_and_the_record(run, lines):
    stage = run(Maker())
    assert (stage.folder / "a.bin").read_bytes() == b"one"
    assert sorted(path.name for path in stage.folder.iterdir()) == ["a.bin", "b.txt", RECORD]
    assert stage.results == {"measured": 1.5}
    record = json.loads((stage.folder / RECORD).read_text())
    assert record["inputs"] == INPUTS
    assert record["key"] == stage.key == canonical_digest({"stage": "toy", **INPUTS})
    assert lines == [f"toy: wrote {stage.folder}, a.bin 3 B, b.txt 3 B"]
    assert no_partial(stage)


def test_second_run_does_nothing(run, lines):
    make = Maker()
    first = run(make)
    times = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    second = run(make)
    assert make.calls == 1
    assert (second.key, second.files, second.results) == (first.key, first.files, first.results)
    assert {path: path.stat().st_mtime_ns for path in first.folder.iterdir()} == times
    assert lines[-1] == f"toy: up to date ({first.folder})"


@pytest.mark.parametrize("first_fails", [False, True], ids=["first-succeeds", "first-fails"])
def test_two_runs_at_once_do_not_disturb_each_other(run, lines, first_fails):
    """The second waits for the first, and makes it only if the first did not."""
    at_work, go_on = threading.Event(), threading.Event()
    make = Maker()

    def slowly(folder):
        (folder / "half").write_text("being made")
        at_work.set()
        assert go_on.wait(10)
        assert (folder / "half").read_text() == "being made"
        (folder / "half").unlink()
        if first_fails:
            raise RuntimeError("on purpose")
        return make(folder)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run, slowly)
        assert at_work.wait(10)
        second = pool.submit(run, make)
        deadline = time.monotonic() + 10
        while not any("another run is making the same" in line for line in lines):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        go_on.set()
        assert (first.exception() is not None) == first_fails
        stage = second.result()
    assert make.calls == 1
    assert sorted(path.name for path in stage.folder.iterdir()) == ["a.bin", "b.txt", RECORD]
    assert any("up to date" in line for line in lines) != first_fails
    assert no_partial(stage)


def test_changed_input_makes_it_again(run):
    make = Maker()
    first = run(make)
    make.content = b"other"
    second = run(make, {**INPUTS, "source": "abd"})
    assert make.calls == 2
    assert second.key != first.key
    assert (second.folder / "a.bin").read_bytes() == b"other"
    assert second.digests() != first.digests()


def test_order_of_inputs_does_not_matter(run):
    make = Maker()
    run(make)
    run(make, dict(reversed(INPUTS.items())))
    assert make.calls == 1


@pytest.mark.parametrize("content", [b"two!", b"eno", b""])
def test_changed_output_makes_it_again(run, content):
    make = Maker()
    stage = run(make)
    time.sleep(0.01)
    (stage.folder / "a.bin").write_bytes(content)
    assert run(make).digests() == stage.digests()
    assert make.calls == 2
    assert (stage.folder / "a.bin").read_bytes() == b"one"


def test_missing_output_makes_it_again(run):
    make = Maker()
    stage = run(make)
    (stage.folder / "a.bin").unlink()
    run(make)
    assert make.calls == 2
    assert (stage.folder / "a.bin").is_file()


@pytest.mark.parametrize("record", ["", "{", "[]", '{"key": 1}', "null", "\x00"])
def test_damaged_record_makes_it_again(run, record):
    make = Maker()
    stage = run(make)
    (stage.folder / RECORD).write_text(record)
    run(make)
    assert make.calls == 2


@given(st.binary(max_size=300))
def test_any_record_is_read_or_refused_in_one_line(tmp_path_factory, record):
    folder = tmp_path_factory.mktemp("stage")
    (folder / RECORD).write_bytes(record)
    with pytest.raises(StageError) as caught:
        Stage.read(folder, "toy")
    assert "\n" not in str(caught.value)


def test_touched_but_equal_output_is_up_to_date(run):
    make = Maker()
    stage = run(make)
    for path in stage.folder.iterdir():
        os.utime(path, (1, 1))
    run(make)
    assert make.calls == 1


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt(), SystemExit(3)])
def test_interrupted_first_run_leaves_nothing(run, tmp_path, error):
    def make(folder):
        (folder / "half.bin").write_bytes(b"half")
        raise error

    with pytest.raises(type(error)) as caught:
        run(make)
    assert caught.value is error
    assert list((tmp_path / "build").iterdir()) == []


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt(), OSError(5, "Input/output error")])
def test_interrupted_remake_leaves_the_previous_result(run, error):
    stage = run(Maker())

    def make(folder):
        (folder / "half.bin").write_bytes(b"half")
        raise error

    with pytest.raises((type(error), StageError)):
        run(make, {"source": "new"})
    assert no_partial(stage)
    kept = Stage.read(stage.folder, "toy")
    assert kept.key == stage.key
    assert (stage.folder / "a.bin").read_bytes() == b"one"


def test_scratch_of_a_killed_run_is_removed(run, tmp_path):
    scratch = tmp_path / "build" / "stage.partial"
    (scratch / "deep").mkdir(parents=True)
    (scratch / "deep" / "rest.bin").write_bytes(b"rest")
    (scratch / "a.bin").write_bytes(b"half")
    stage = run(Maker())
    assert sorted(stage.files) == ["a.bin", "b.txt"]
    assert not scratch.exists()


def test_full_disk_is_one_line(run, tmp_path):
    def make(folder):
        with Path("/dev/full").open("wb", buffering=0) as full:
            full.write(b"x")
        return {}

    with pytest.raises(StageError) as caught:
        run(make)
    assert str(caught.value) == f"toy: the disk that holds {tmp_path / 'build'} is full"
    assert list((tmp_path / "build").iterdir()) == []


def test_unwritable_place_is_one_line(run, tmp_path):
    (tmp_path / "build").write_text("a file where a folder should be")
    make = Maker()
    with pytest.raises(StageError) as caught:
        run(make)
    message = str(caught.value)
    assert message.startswith(f"toy: cannot write {tmp_path / 'build' / 'stage'}.partial: ")
    assert "\n" not in message
    assert make.calls == 0


def test_read_names_the_command(run, tmp_path):
    with pytest.raises(StageError) as caught:
        Stage.read(tmp_path / "nowhere", "fetch --variant tiny")
    message = str(caught.value)
    assert message == (
        f"{tmp_path / 'nowhere'} is missing or was changed: run `whisper-toolchain fetch --variant tiny` first"
    )
    stage = run(Maker())
    assert Stage.read(stage.folder, "toy").digests() == stage.digests()
    (stage.folder / "b.txt").write_text("2wo")
    with pytest.raises(StageError, match="was changed"):
        Stage.read(stage.folder, "toy")


def test_code_digest_follows_the_source(tmp_path, monkeypatch):
    module = tmp_path / "some_module_of_a_stage.py"
    module.write_text("raise RuntimeError('must not be imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    first = code_digest("some_module_of_a_stage")
    assert code_digest("some_module_of_a_stage") == first
    module.write_text("x = 1\n")
    assert code_digest("some_module_of_a_stage") != first


def test_code_digest_of_no_module():
    with pytest.raises(StageError, match="no such module"):
        code_digest("whisper_toolchain.there_is_no_such_module")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_canonical_json_is_one_ascii_line_and_lossless(value):
    text = canonical_json(value)
    assert text.isascii()
    assert "\n" not in text
    assert json.loads(text) == value


def test_canonical_json_refuses_nan():
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"x": float("nan")})


SCRIPT = """
import sys, time
from pathlib import Path
from whisper_toolchain.stage import run_stage

folder, marker = Path(sys.argv[1]), Path(sys.argv[2])

def make(scratch):
    (scratch / "a.bin").write_bytes(b"a" * 100_000)
    if not marker.exists():
        with (scratch / "b.bin").open("wb") as file:
            file.write(b"b" * 50)
            file.flush()
            marker.write_text("in the middle")
            time.sleep(60)
    (scratch / "b.bin").write_bytes(b"b" * 100_000)
    return {"x": 1}

run_stage("toy", folder, {"n": 1}, make, print)
"""


def test_killed_in_the_middle_and_run_again(tmp_path):
    folder, marker = tmp_path / "build" / "stage", tmp_path / "marker"
    command = [sys.executable, "-c", SCRIPT, str(folder), str(marker)]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 30
        while not marker.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert marker.exists()
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
    finally:
        process.kill()
    assert not folder.exists()
    with pytest.raises(StageError):
        Stage.read(folder, "toy")

    subprocess.run(command, check=True, capture_output=True)
    undisturbed = tmp_path / "other" / "stage"
    subprocess.run([*command[:3], str(undisturbed), str(marker)], check=True, capture_output=True)
    again, reference = Stage.read(folder, "toy"), Stage.read(undisturbed, "toy")
    assert again.digests() == reference.digests()
    assert (again.key, again.results) == (reference.key, reference.results)
    assert no_partial(again)


def test_a_folder_of_the_user_is_never_replaced(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(StageError, match="holds something else") as error:
        run_stage("fetch", mine, {}, lambda folder: {}, lambda line: None)
    assert "\n" not in str(error.value)
    assert (mine / "thesis.txt").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_another_stages_folder_is_never_replaced(tmp_path):
    run_stage("export", tmp_path / "stage", {}, lambda folder: {}, lambda line: None)
    with pytest.raises(StageError, match="holds something else"):
        run_stage("fetch", tmp_path / "stage", {}, lambda folder: {}, lambda line: None)


def test_a_resumable_stage_goes_on_with_what_it_left(tmp_path, lines):
    folder = tmp_path / "build" / "stage"
    seen = []

    def make(scratch):
        seen.append(sorted(path.name for path in scratch.iterdir() if path.name != "unfinished"))
        (scratch / f"part-{len(seen)}").write_text("done")
        if len(seen) < 4:
            raise KeyboardInterrupt
        return {}

    for inputs in (INPUTS, INPUTS, {**INPUTS, "other": 1}):
        with pytest.raises(KeyboardInterrupt):
            run_stage("toy", folder, inputs, make, lines.append, resumable=True)
    stage = run_stage("toy", folder, {**INPUTS, "other": 1}, make, lines.append, resumable=True)
    assert seen == [[], ["part-1"], [], ["part-3"]]  # other inputs start anew
    assert sorted(stage.files) == ["part-3", "part-4"]
    assert no_partial(stage)
