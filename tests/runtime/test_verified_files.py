"""A file is hashed once and not again until it changes; a memory that is lost or damaged costs only time."""

import hashlib
import json
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from whisper_runtime.verified_files import MOST_ENTRIES, SETTLED_NS, VerifiedFiles, default_path, has_digest

CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()


def later():
    """A clock that runs ahead, so that a file just written has long settled."""
    return time.time_ns() + 60 * 10**9


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def memory(tmp_path):
    return tmp_path / "cache" / "hailo-whisper" / "verified.json"


def verify(file, memory, digest=DIGEST, clock=later):
    verified = VerifiedFiles(memory, clock)
    matches = verified.matches(file, digest)
    verified.save()
    return matches


def entries(memory):
    return json.loads(memory.read_text())["files"] if memory.exists() else {}


def pretend(memory, digest):
    """Change what is remembered of every file, which shows whether the memory or the file is asked."""
    memory.write_text(json.dumps({"schema": 1, "files": dict.fromkeys(entries(memory), digest)}))


def believed(file, memory):
    """Whether what is remembered is used."""
    pretend(memory, OTHER)
    return VerifiedFiles(memory).matches(file, OTHER)


# Files


def test_a_file_is_remembered_by_the_next_process(file, memory):
    assert verify(file, memory)
    assert list(entries(memory).values()) == [DIGEST]
    assert believed(file, memory)


def test_a_file_with_another_digest_is_not_remembered(file, memory):
    assert not verify(file, memory, OTHER)
    assert not memory.exists()


def test_every_file_is_read_where_nothing_is_remembered(file):
    assert has_digest(file, DIGEST)
    assert not has_digest(file, OTHER)


def test_a_damaged_memory_does_not_condemn_a_sound_file(file, memory):
    verify(file, memory)
    pretend(memory, OTHER)
    assert verify(file, memory)
    assert list(entries(memory).values()) == [DIGEST]


def rewrite(file):
    file.write_bytes(CONTENT.swapcase())


def patch(file):
    with file.open("r+b") as opened:
        opened.seek(100)
        opened.write(b"!")


def replace(file):
    beside = file.with_name("beside")
    beside.write_bytes(CONTENT.swapcase())
    beside.replace(file)


@pytest.mark.parametrize("change", [rewrite, patch, replace])
def test_a_changed_file_is_noticed_although_size_and_time_are_put_back(file, memory, change):
    verify(file, memory)
    times = file.stat()
    time.sleep(0.02)  # a tick of the file system's clock; right after it had changed, it was not remembered
    change(file)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (times.st_size, times.st_mtime_ns)
    assert not verify(file, memory)


@pytest.mark.parametrize("age_ns", [-3600 * 10**9, 0, SETTLED_NS // 2])
def test_a_file_that_changed_just_now_or_in_the_future_is_not_remembered(file, memory, age_ns):
    assert verify(file, memory, clock=lambda: file.stat().st_ctime_ns + age_ns)
    assert not memory.exists()


def test_a_file_with_an_old_time_that_was_copied_just_now_is_not_remembered(file, memory):
    os.utime(file, ns=(0, 0))
    assert verify(file, memory, clock=time.time_ns)
    assert not memory.exists()


def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(file, memory):
    def clock_that_touches():
        time.sleep(0.02)
        os.utime(file)
        return later()

    assert verify(file, memory, clock=clock_that_touches)
    assert not memory.exists()


def test_a_missing_file_is_an_error(tmp_path, memory):
    with pytest.raises(FileNotFoundError):
        VerifiedFiles(memory).matches(tmp_path / "none", DIGEST)


# The memory


def test_only_the_user_can_read_or_write_it(file, memory):
    verify(file, memory)
    assert stat.S_IMODE(memory.stat().st_mode) == 0o600
    assert stat.S_IMODE(memory.parent.stat().st_mode) == 0o700
    assert [path.name for path in memory.parent.iterdir()] == ["verified.json"]


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
@pytest.mark.parametrize("which", ["file", "folder"])
def test_it_is_not_believed_where_others_can_write_to_it(file, memory, which, mode):
    verify(file, memory)
    pretend(memory, OTHER)
    (memory if which == "file" else memory.parent).chmod(mode | 0o100)
    assert not VerifiedFiles(memory).matches(file, OTHER)


def test_it_is_not_written_where_others_could_change_it(file, memory, caplog):
    memory.parent.mkdir(parents=True)
    memory.parent.chmod(0o777)
    with caplog.at_level("INFO", "whisper_runtime"):
        assert verify(file, memory)
    assert not memory.exists()
    assert f"others can write to {memory.parent}" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("which", ["file", "folder"])
def test_it_is_not_believed_if_it_is_another_users(file, memory, which):
    verify(file, memory)
    pretend(memory, OTHER)
    os.chown(memory if which == "file" else memory.parent, 12345, -1)
    assert not VerifiedFiles(memory).matches(file, OTHER)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_leaves_nothing_in_another_users_home(file, memory, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 12345, -1)
    assert verify(file, home / ".cache" / "hailo-whisper" / "verified.json")
    assert list(home.iterdir()) == []


def test_links_are_not_followed(file, memory, tmp_path):
    verify(file, memory)
    pretend(memory, OTHER)
    memory.rename(tmp_path / "elsewhere.json")
    memory.symlink_to(tmp_path / "elsewhere.json")
    before = (tmp_path / "elsewhere.json").read_bytes()
    assert not VerifiedFiles(memory).matches(file, OTHER)
    assert verify(file, memory)
    assert (tmp_path / "elsewhere.json").read_bytes() == before
    assert not memory.is_symlink()


def test_a_pipe_in_its_place_does_not_hang(file, memory):
    memory.parent.mkdir(parents=True, mode=0o700)
    os.mkfifo(memory, 0o600)
    assert verify(file, memory)
    assert list(entries(memory).values()) == [DIGEST]


@pytest.mark.parametrize("obstacle", ["a folder where it belongs", "no folder can be made"])
def test_where_nothing_can_be_remembered_files_are_still_verified(file, memory, obstacle, caplog):
    if obstacle == "no folder can be made":
        memory.parent.parent.write_text("a file")
    else:
        memory.mkdir(parents=True)
        memory.parent.chmod(0o700)
    with caplog.at_level("INFO", "whisper_runtime"):
        assert verify(file, memory)
        assert not verify(file, memory, OTHER)
    assert "verified files are not remembered" in caplog.text


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=300)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["schema", "files", "1:2:3:4:5", "x"]), inner, max_size=4)
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode())
)
@example(b"[" * 100_000)
@example(b"9" * 10_000)
@example(json.dumps({"schema": 1, "files": {"1:2:3:4:5": int("1" * 64)}}).encode())
@example(json.dumps({"schema": 1, "files": {"1:2:3:4:5": [DIGEST]}}).encode())
def test_whatever_it_holds_files_are_verified_and_it_is_repaired(file, memory, content):
    memory.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
    memory.write_bytes(content)
    memory.chmod(0o600)
    assert not verify(file, memory, OTHER)
    assert verify(file, memory)
    assert DIGEST in entries(memory).values()
    assert all(isinstance(digest, str) for digest in entries(memory).values())


def test_what_a_newer_version_wrote_is_not_understood(file, memory):
    verify(file, memory)
    pretend(memory, OTHER)
    memory.write_text(memory.read_text().replace('"schema": 1', '"schema": 2'))
    assert not VerifiedFiles(memory).matches(file, OTHER)


def test_it_does_not_grow_and_forgets_the_oldest(file, memory):
    verify(file, memory)
    (ours,) = entries(memory)
    others = {f"1:{number}:3:4:5": OTHER for number in range(MOST_ENTRIES)}
    memory.write_text(json.dumps({"schema": 1, "files": others}))
    verify(file, memory)
    assert list(entries(memory)) == [*list(others)[1:], ours]


def test_a_huge_one_is_not_read(file, memory):
    verify(file, memory)
    pretend(memory, OTHER)
    with memory.open("a") as opened:
        opened.write(" " * (1 << 20))
    assert not VerifiedFiles(memory).matches(file, OTHER)


def test_two_processes_keep_what_the_other_remembered(tmp_path, file, memory):
    (tmp_path / "second").write_bytes(b"other")
    first, second = VerifiedFiles(memory, later), VerifiedFiles(memory, later)
    assert first.matches(file, DIGEST)
    assert second.matches(tmp_path / "second", OTHER)
    first.save()
    second.save()
    assert sorted(entries(memory).values()) == sorted([DIGEST, OTHER])


def test_many_at_once_leave_a_whole_memory(tmp_path, memory):
    files = [tmp_path / str(number) for number in range(32)]
    for path in files:
        path.write_bytes(CONTENT)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda path: verify(path, memory), files))
    assert 1 <= len(entries(memory)) <= 32
    assert [path.name for path in memory.parent.iterdir()] == ["verified.json"]


# Its place


def test_it_is_in_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_path() == tmp_path / "xdg" / "hailo-whisper" / "verified.json"
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert default_path() == tmp_path / ".cache" / "hailo-whisper" / "verified.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_path() == tmp_path / ".cache" / "hailo-whisper" / "verified.json"


def test_a_user_without_a_home_does_without(monkeypatch, file):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert default_path() is None
    assert verify(file, None)
