"""Downloads against a real server on the loopback interface."""

import contextlib
import errno
import hashlib
import http.server
import io
import os
import random
import re
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from whisper_toolchain import download
from whisper_toolchain.download import UrlOpener, fetch_https, fetch_url, sha256_file
from whisper_toolchain.errors import DownloadError

CONTENT = random.Random(1).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
LOOPBACK = UrlOpener(allow_http=True, timeout=2)


class Handler(http.server.BaseHTTPRequestHandler):
    """The path says how the server misbehaves."""

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.seen.append((self.path, wanted))  # type: ignore[attr-defined]
        self.server.authorizations.append(self.headers.get("Authorization"))  # type: ignore[attr-defined]
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0  # type: ignore[index]
        if self.path.startswith("/missing"):
            return self.send_error(404)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.end_headers()
            return None
        if self.path == "/silent":
            threading.Event().wait(5)
            return None
        if self.path == "/short" and start >= len(CONTENT) // 2:
            self.send_response(416)
            self.end_headers()
            return None
        if self.path == "/norange":
            start = 0
        shift = 1 if self.path == "/shifted" else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start + shift}-{len(CONTENT) - 1}/{len(CONTENT)}")
        if self.path != "/nolength":
            self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        body = CONTENT[start:]
        if self.path == "/cut" and not start:
            body = body[:1_000_000]
        with contextlib.suppress(OSError):
            self.wfile.write(body)
        return None

    def log_message(self, *_: object) -> None:
        pass


class Server:
    def __init__(self) -> None:
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.seen = []  # type: ignore[attr-defined]
        self.http.authorizations = self.authorizations = []  # type: ignore[attr-defined]
        self.seen: list[tuple[str, str | None]] = self.http.seen  # type: ignore[attr-defined]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.http.server_port}{path}"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


def fetch(server: Server, path: str, destination: Path, sha256: str = SHA256) -> Path:
    return fetch_url(server.url(path), destination, sha256, open_url=LOOPBACK, report=lambda _: None)


def part_of(destination: Path) -> Path:
    return destination.with_name(destination.name + ".part")


@pytest.mark.parametrize("path", ["/file", "/nolength", "/to//file"])
def test_fetches_and_verifies(server: Server, tmp_path: Path, path: str) -> None:
    destination = tmp_path / "new" / "file.bin"
    assert fetch(server, path, destination) == destination
    assert destination.read_bytes() == CONTENT
    assert [entry.name for entry in destination.parent.iterdir()] == ["file.bin"]


def test_does_nothing_when_the_file_is_there(server: Server, tmp_path: Path) -> None:
    destination = tmp_path / "file.bin"
    destination.write_bytes(CONTENT)
    fetch(server, "/missing", destination, SHA256.upper())
    fetch_https("https://nowhere.invalid/file", destination, SHA256, offline=True)
    assert server.seen == []


def test_replaces_a_file_of_another_digest(server: Server, tmp_path: Path) -> None:
    destination = tmp_path / "file.bin"
    destination.write_bytes(b"older")
    fetch(server, "/file", destination)
    assert sha256_file(destination) == SHA256


def test_a_cut_connection_keeps_the_part_and_the_next_run_resumes(server: Server, tmp_path: Path) -> None:
    destination = tmp_path / "file.bin"
    with pytest.raises(DownloadError, match=r"lost after 1000000 of 3000000 bytes.*run again to resume"):
        fetch(server, "/cut", destination)
    assert part_of(destination).stat().st_size == 1_000_000
    assert not destination.exists()
    fetch(server, "/cut", destination)
    assert server.seen[-1] == ("/cut", "bytes=1000000-")
    assert destination.read_bytes() == CONTENT
    assert not part_of(destination).exists()


def test_a_server_that_ignores_range_starts_again(server: Server, tmp_path: Path) -> None:
    destination = tmp_path / "file.bin"
    part_of(destination).write_bytes(CONTENT[:1234])
    fetch(server, "/norange", destination)
    assert server.seen == [("/norange", "bytes=1234-")]
    assert destination.read_bytes() == CONTENT


def test_a_wrong_content_range_is_refused(server: Server, tmp_path: Path) -> None:
    destination = tmp_path / "file.bin"
    part_of(destination).write_bytes(CONTENT[:1234])
    with pytest.raises(DownloadError, match="Content-Range 'bytes 1235-"):
        fetch(server, "/shifted", destination)


def test_a_part_that_is_complete_needs_no_network(server: Server, tmp_path: Path) -> None:
    destination = tmp_path / "file.bin"
    part_of(destination).write_bytes(CONTENT)
    fetch(server, "/missing", destination)
    assert server.seen == []


def test_a_part_that_is_too_long_starts_again(server: Server, tmp_path: Path) -> None:
    destination = tmp_path / "file.bin"
    part_of(destination).write_bytes(b"x" * len(CONTENT))
    fetch(server, "/short", destination)
    assert [wanted for _, wanted in server.seen] == ["bytes=3000000-", None]
    assert destination.read_bytes() == CONTENT


def test_a_part_of_another_file_starts_again(server: Server, tmp_path: Path) -> None:
    destination = tmp_path / "file.bin"
    part_of(destination).write_bytes(b"x" * 1000)
    fetch(server, "/file", destination)
    assert [wanted for _, wanted in server.seen] == ["bytes=1000-", None]
    assert destination.read_bytes() == CONTENT


def test_a_wrong_digest_names_both_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    destination = tmp_path / "file.bin"
    pinned = "0" * 64
    with pytest.raises(DownloadError, match=f"{SHA256}.*{pinned}") as caught:
        fetch(server, "/file", destination, pinned)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_http_errors_and_silence(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="/missing: the server answered 404 Not Found"):
        fetch(server, "/missing", tmp_path / "file.bin")
    impatient = UrlOpener(allow_http=True, timeout=0.2)
    with pytest.raises(DownloadError, match="/silent: timed out"):
        fetch_url(server.url("/silent"), tmp_path / "file.bin", SHA256, open_url=impatient)
    with pytest.raises(DownloadError, match="refused"):
        fetch_url("http://127.0.0.1:9/", tmp_path / "file.bin", SHA256, open_url=LOOPBACK)
    assert list(tmp_path.iterdir()) == []


def test_offline_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"offline, and .*file\.bin is not there"):
        fetch_https("https://nowhere.invalid/file", tmp_path / "file.bin", SHA256, offline=True)


def test_only_https(server: Server, tmp_path: Path) -> None:
    for url in (server.url("/file"), "file:///etc/hostname", "ftp://127.0.0.1/file", "data:,x"):
        with pytest.raises(DownloadError, match="not https: refused"):
            fetch_https(url, tmp_path / "file.bin", SHA256)
    assert server.seen == []
    with pytest.raises(DownloadError, match=r"redirects to .*not https: refused"):
        fetch(server, "/to/ftp://127.0.0.1/file", tmp_path / "file.bin")
    with pytest.raises(DownloadError, match="the server answered 302"):  # urllib itself stops here
        fetch(server, "/to/file:///etc/hostname", tmp_path / "file.bin")
    assert list(tmp_path.iterdir()) == []


def test_passwords_are_sent_but_never_shown(server: Server, tmp_path: Path) -> None:
    url = server.url("/missing").replace("//", "//user:secret@") + "?token=secret"
    with pytest.raises(DownloadError) as caught:
        fetch_url(url, tmp_path / "file.bin", SHA256, open_url=LOOPBACK)
    assert "secret" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)
    assert server.authorizations == ["Basic dXNlcjpzZWNyZXQ="]
    redirected = server.url("/to//file").replace("//127", "//user:secret@127")
    fetch_url(redirected, tmp_path / "file.bin", SHA256, open_url=LOOPBACK)
    assert server.authorizations[1:] == ["Basic dXNlcjpzZWNyZXQ=", None]


def test_a_pin_that_is_no_digest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="is not a sha256"):
        fetch_https("https://nowhere.invalid/file", tmp_path / "file.bin", "")


class FullDisk(io.FileIO):
    def write(self, data: object, /) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_one_line(server: Server, tmp_path: Path) -> None:
    def open_part(path: Path) -> BinaryIO:
        return FullDisk(path, "a+")  # type: ignore[return-value]

    with pytest.raises(DownloadError, match=r"no room for .*file\.bin\.part \(No space left on device\)"):
        download._download(LOOPBACK, server.url("/file"), tmp_path / "file.bin", SHA256, lambda _: None, open_part)
    assert list(tmp_path.iterdir()) == []


def test_a_file_size_limit_is_one_line_and_keeps_what_came(server: Server, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom whisper_toolchain import download\n"
        "try:\n    download.fetch_url(sys.argv[1], Path(sys.argv[2]), sys.argv[3],"
        " open_url=download.UrlOpener(allow_http=True))\n"
        "except download.DownloadError as error:\n    print(error)\n"
    )
    destination = tmp_path / "file.bin"
    result = subprocess.run(
        [sys.executable, "-c", code, server.url("/file"), str(destination), SHA256],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
    )
    assert result.stdout.startswith(f"no room for {destination}.part")
    assert part_of(destination).stat().st_size == 1_000_000
    fetch(server, "/file", destination)
    assert server.seen[-1] == ("/file", "bytes=1000000-")


def test_two_runs_at_once(server: Server, tmp_path: Path) -> None:
    destination = tmp_path / "file.bin"
    with part_of(destination).open("a+b") as other:
        download._lock(other, part_of(destination))
        with pytest.raises(DownloadError, match="written by another run"):
            fetch(server, "/file", destination)
    fetch(server, "/file", destination)


def test_a_destination_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DownloadError, match="cannot write"):
        fetch(server, "/file", tmp_path / "file" / "file.bin")


def test_plain_lines_of_progress(server: Server, tmp_path: Path) -> None:
    lines: list[str] = []
    fetch_url(server.url("/file"), tmp_path / "a", SHA256, open_url=LOOPBACK, report=lines.append)
    assert lines[-1] == "a: 100 % of 3.0 MB"
    assert len(lines) <= 4


def test_a_bar_on_a_terminal(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    lines: list[str] = []
    fetch_url(server.url("/file"), tmp_path / "a", SHA256, open_url=LOOPBACK, report=lines.append)
    assert lines == []
    assert "3.00M" in terminal.getvalue()
