"""Package indexes made of files, one served on the loopback interface, and archives of all kinds."""

import functools
import hashlib
import http.server
import io
import json
import os
import shlex
import stat
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from whisper_toolchain.archive import extract_members, extract_tree
from whisper_toolchain.errors import DownloadError
from whisper_toolchain.package_index import Configuration, fetch_file, fetch_npm, read_configuration

WHEEL = "Some.Project-1.0-py3-none-any.whl"
CONTENT = b"not really a wheel" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """The root of a PEP 503 index with relative links."""
    root = tmp_path / "index"
    (root / "files").mkdir(parents=True)
    (root / "files" / WHEEL).write_bytes(CONTENT)
    (root / "simple" / "some-project").mkdir(parents=True)
    (root / "simple" / "some-project" / "index.html").write_text(
        f'<!DOCTYPE html><html><body><a href="mailto:x@[">?</a>\n'
        f'<a href="../../files/{WHEEL}#sha256={SHA256}" data-requires-python="&gt;=9.9">{WHEEL}</a>'
    )
    return root


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """Serve a folder; gives its address."""
    running: list[tuple[http.server.ThreadingHTTPServer, threading.Thread]] = []

    def start(folder: Path) -> str:
        handler = functools.partial(Quiet, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def get(configuration: Configuration, to: Path, sha256: str | None = SHA256, offline: bool = False) -> Path:
    return fetch_file(
        "some_project", WHEEL, to, sha256, offline=offline, configuration=configuration, report=lambda _: None
    )


def only(index: str) -> Configuration:
    return Configuration(indexes=(index,), links=(), timeout=2)


@pytest.mark.parametrize("sha256", [SHA256, SHA256.upper(), None])
def test_an_index_of_files(index: Path, tmp_path: Path, sha256: str | None) -> None:
    to = tmp_path / "out" / WHEEL
    configuration = only((index / "simple").as_uri())
    assert get(configuration, to, sha256).read_bytes() == CONTENT
    assert get(configuration, tmp_path / "offline.whl", sha256, offline=True).read_bytes() == CONTENT
    assert sorted(path.name for path in to.parent.iterdir()) == [WHEEL]


def test_an_index_on_http(index: Path, tmp_path: Path, serve: Callable[[Path], str]) -> None:
    address = serve(index) + "/simple/"
    assert get(only(address), tmp_path / "a").read_bytes() == CONTENT
    assert get(only(address), tmp_path / "b", None).read_bytes() == CONTENT
    with pytest.raises(DownloadError, match=r"offline, and .*c is not there"):
        get(only(address), tmp_path / "c", offline=True)


def test_a_json_index(tmp_path: Path, serve: Callable[[Path], str]) -> None:
    (tmp_path / "simple/some-project").mkdir(parents=True)
    (tmp_path / WHEEL).write_bytes(CONTENT)
    file = {"filename": WHEEL, "url": f"../../{WHEEL}", "hashes": {"sha256": SHA256}}

    class Json(Quiet):
        def guess_type(self, path: object) -> str:
            return "application/vnd.pypi.simple.v1+json"

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Json, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        page = tmp_path / "simple/some-project/index.html"
        address = f"http://127.0.0.1:{server.server_port}/simple"
        page.write_text(json.dumps({"files": [file]}))
        assert get(only(address), tmp_path / "a", None).read_bytes() == CONTENT
        page.write_text(json.dumps({"files": [{"name": "?"}]}))
        with pytest.raises(DownloadError, match="not a package index"):
            get(only(address), tmp_path / "b")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_find_links(index: Path, tmp_path: Path) -> None:
    for links in (str(index / "files"), (index / "files").as_uri()):
        configuration = Configuration(indexes=(), links=(links,))
        to = tmp_path / hashlib.sha256(links.encode()).hexdigest()
        assert get(configuration, to).read_bytes() == CONTENT
    with pytest.raises(DownloadError, match="names no sha256"):
        get(Configuration(indexes=(), links=(str(index / "files"),)), tmp_path / "x", None)


def test_the_next_index_is_asked(index: Path, tmp_path: Path, serve: Callable[[Path], str]) -> None:
    (tmp_path / "empty").mkdir()
    empty = serve(tmp_path / "empty")
    configuration = Configuration((empty, "http://127.0.0.1:9/simple", serve(index) + "/simple"), (), timeout=2)
    assert get(configuration, tmp_path / "a").read_bytes() == CONTENT


def test_what_is_nowhere(index: Path, tmp_path: Path, serve: Callable[[Path], str]) -> None:
    address = serve(index)
    with pytest.raises(DownloadError, match="is not where pip is configured to look"):
        get(only(address + "/files"), tmp_path / "a")
    with pytest.raises(DownloadError, match=r"other\.whl of some-project is not where pip"):
        fetch_file("some-project", "other.whl", tmp_path / "a", None, configuration=only(address + "/simple"))
    with pytest.raises(DownloadError, match=r"cannot fetch .*refused"):
        get(only("http://127.0.0.1:9/"), tmp_path / "a")


def test_digests_that_do_not_match(index: Path, tmp_path: Path) -> None:
    configuration = only((index / "simple").as_uri())
    with pytest.raises(DownloadError, match=f"{SHA256}.*{'0' * 64} is pinned"):
        get(configuration, tmp_path / "a", "0" * 64)
    (index / "files" / WHEEL).write_bytes(b"changed")
    with pytest.raises(DownloadError, match=f"but {SHA256} is pinned"):
        get(configuration, tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_a_page_on_the_network_names_no_local_files(tmp_path: Path, serve: Callable[[Path], str]) -> None:
    (tmp_path / "www/some-project").mkdir(parents=True)
    (tmp_path / WHEEL).write_bytes(CONTENT)
    (tmp_path / "www/some-project/index.html").write_text(f'<a href="{(tmp_path / WHEEL).as_uri()}">x</a>')
    with pytest.raises(DownloadError, match="is not where pip is configured"):
        get(only(serve(tmp_path / "www")), tmp_path / "a")


def test_reads_what_pip_reads(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nindex-url = https://one.invalid/simple\nextra-index-url = file:///two\n  https://three.invalid\n"
        "find-links = /four\ncert = /five.pem\ntimeout = 7\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    found = read_configuration()
    # Other configuration files of the machine may add keys; these three are all set here.
    assert found.indexes == ("https://one.invalid/simple", "file:///two", "https://three.invalid")
    assert (found.links, found.cafile, found.timeout) == (("/four",), "/five.pem", 7.0)
    monkeypatch.setenv("PIP_INDEX_URL", (index / "simple").as_uri())
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "file:///six")
    assert read_configuration().indexes == ((index / "simple").as_uri(), "file:///six")
    fetch_file("Some.Project", WHEEL, tmp_path / "a", SHA256, report=lambda _: None)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert read_configuration().indexes == ()


def test_without_configuration_pip_is_asked_for_its_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name in ("PIP_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    assert read_configuration().indexes[0].startswith("https://")


def test_a_python_without_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(DownloadError, match="has no working pip: No module named pip"):
        read_configuration()


def fake_npm(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    folder.mkdir()
    for name in ("npm", "node"):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_npm_packs_without_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    fake_npm(tmp_path / "bin", monkeypatch, f'echo "$@" > {shlex.quote(str(log))}; echo tgz > scope-name-1.0.0.tgz')
    to = tmp_path / "out/name.tgz"
    assert fetch_npm("@scope/name", "1.0.0", to, report=lambda _: None).read_text() == "tgz\n"
    assert log.read_text().split()[:3] == ["pack", "--ignore-scripts", "--json"]
    assert log.read_text().split()[-1] == "@scope/name@1.0.0"
    log.unlink()
    fetch_npm("@scope/name", "1.0.0", to)
    assert not log.exists()
    assert [path.name for path in to.parent.iterdir()] == ["name.tgz"]


def test_npm_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_npm(tmp_path / "bin", monkeypatch, r"""printf '%s' '{"error": {"summary": "No such\nversion"}}'; exit 1""")
    with pytest.raises(DownloadError, match=r"npm cannot fetch name@1\.0: No such version"):
        fetch_npm("name", "1.0", tmp_path / "a")
    with pytest.raises(DownloadError, match="offline, and"):
        fetch_npm("name", "1.0", tmp_path / "a", offline=True)


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("./name", "1"),
        ("-g", "1"),
        ("a/b", "1"),
        ("name", "latest; x"),
        ("https://x/y.tgz", "1"),
        ("..", "1"),
    ],
)
def test_npm_gets_plain_names_only(tmp_path: Path, package: str, version: str) -> None:
    with pytest.raises(DownloadError, match="is not an npm package and version"):
        fetch_npm(package, version, tmp_path / "a")


Members = list[tuple[str, bytes | None]]


def make_zip(path: Path, members: Members) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if content is None:
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            file.writestr(info, content if content is not None else "/etc/passwd")
    return path


def make_tar(path: Path, members: Members) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                info.size = len(content)
            file.addfile(info, io.BytesIO(content or b""))
    return path


MAKERS = [(make_zip, "a.whl"), (make_tar, "a.tar.gz"), (make_tar, "a.tar")]
Maker = Callable[[Path, Members], Path]


@pytest.mark.parametrize(("make", "name"), MAKERS)
def test_extracts_just_the_members(tmp_path: Path, make: Maker, name: str) -> None:
    archive = make(tmp_path / name, [("p/a.wav", b"a" * 700_000), ("p/b.wav", b""), ("/evil", b"x"), ("p/../c", b"x")])
    out = tmp_path / "out"
    extract_members(archive, {"p/a.wav": out / "deep/a", "p/b.wav": out / "b"})
    assert (out / "deep/a").read_bytes() == b"a" * 700_000
    assert (out / "b").read_bytes() == b""
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == ["a", "b"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("make", "name"), MAKERS)
def test_hostile_members(tmp_path: Path, make: Maker, name: str) -> None:
    archive = make(tmp_path / name, [("/abs", b"x"), ("../up", b"x"), ("link", None), ("two", b"1"), ("two", b"2")])
    for member, message in [
        ("/abs", "leaves the folder"),
        ("../up", "leaves the folder"),
        ("link", "not a regular file"),
        ("two", "twice"),
        ("none", "does not hold none"),
    ]:
        with pytest.raises(DownloadError, match=message):
            extract_members(archive, {member: tmp_path / "out" / "file"})


@pytest.mark.parametrize(("make", "name"), MAKERS)
def test_truncated_archives(tmp_path: Path, make: Maker, name: str) -> None:
    archive = make(tmp_path / name, [("a", os.urandom(300_000)), ("b", os.urandom(300_000))])
    whole = archive.read_bytes()
    for size in (0, 3, 100, 200_000, 400_000, len(whole) // 2):
        archive.write_bytes(whole[:size])
        with pytest.raises(DownloadError) as caught:
            extract_members(archive, {"a": tmp_path / "a", "b": tmp_path / "b"})
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "b").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_missing_archive(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="cannot read"):
        extract_members(tmp_path / "none.zip", {"a": tmp_path / "a"})


def test_a_zip_that_lies_about_its_size(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", [("a", b"a" * 1000)])
    data = archive.read_bytes()
    archive.write_bytes(data.replace((1000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(DownloadError):
        extract_members(archive, {"a": tmp_path / "a"})
    assert not (tmp_path / "a").exists()


def test_extracts_a_tree(tmp_path: Path) -> None:
    members: Members = [
        ("top/sub/1/a.flac", b"a"),
        ("top/sub/b.txt", b"b"),
        ("top/other", b"x"),
        ("topsub/c", b"x"),
    ]
    archive = make_tar(tmp_path / "a.tar.gz", members)
    extract_tree(archive, "top/sub", tmp_path / "out" / "sub")
    files = [path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert sorted(map(str, files)) == ["sub/1/a.flac", "sub/b.txt"]
    with pytest.raises(DownloadError, match="holds nothing below nothing"):
        extract_tree(archive, "nothing", tmp_path / "out" / "nothing")


@pytest.mark.parametrize("bad", [("/abs", b"x"), ("top/../../up", b"x"), ("top/link", None)])
def test_a_hostile_tree_leaves_nothing(tmp_path: Path, bad: tuple[str, bytes | None]) -> None:
    archive = make_tar(tmp_path / "a.tar.gz", [("top/a", b"a"), bad, ("top/b", b"b")])
    with pytest.raises(DownloadError, match="refused"):
        extract_tree(archive, "top", tmp_path / "out" / "top")
    assert list((tmp_path / "out").iterdir()) == []
