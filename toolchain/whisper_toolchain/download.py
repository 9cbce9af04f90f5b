"""Downloads: https only, resumable, and nothing is used before its sha256 matches."""

import base64
import contextlib
import errno
import fcntl
import hashlib
import http.client
import os
import re
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Protocol

from tqdm import tqdm
from whisper_runtime.atomic_file import sync_folder

from whisper_toolchain.errors import DownloadError

TIMEOUT_SECONDS = 20.0  # for connecting and for each read, not for the whole file
CHUNK_BYTES = 1 << 18
PLAIN_STEP_BYTES = 1_000_000  # small files need no ten lines
PLAIN_LINE_BYTES = 1 << 24  # without a total there are no percents: a line every 16 MiB

Report = Callable[[str], None]


def report_to_stderr(line: str) -> None:
    """Write one line of progress where it cannot get mixed up with results."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


class Headers(Protocol):
    """The one thing that is asked of a response's headers."""

    def get(self, name: str, /) -> str | None:
        """The header's value, or None."""


class Response(Protocol):
    """What a download needs of an HTTP response; `urllib.response.addinfourl` has it."""

    @property
    def status(self) -> int | None:
        """The HTTP status."""

    @property
    def headers(self) -> Headers:
        """The response's headers."""

    @property
    def url(self) -> str:
        """The address that answered, after redirects."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; empty at the end."""

    def close(self) -> None:
        """Close the connection."""


OpenUrl = Callable[[str, Mapping[str, str]], Response]


def sha256_file(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes. Raises OSError where the file cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def has_digest(path: Path, sha256: str) -> bool:
    """True when `path` is a file with that sha256. Raises DownloadError where it cannot be read."""
    try:
        return path.is_file() and sha256_file(path) == sha256.lower()
    except OSError as error:
        raise DownloadError(f"cannot read {path}: {error.strerror or error}") from error


def without_credentials(url: str) -> str:
    """`url` as it may be shown: no user name, no password, no query."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https only; to http only where http is allowed and was used all along."""

    def __init__(self, allow_http: bool) -> None:
        self._allow_http = allow_http

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme != "https" and not (self._allow_http and req.type == "http" and scheme == "http"):
            raise DownloadError(
                f"{without_credentials(req.full_url)} redirects to {without_credentials(newurl)}, "
                "which is not https: refused"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@dataclass(frozen=True)
class UrlOpener:
    """Opens a URL as urllib does: SSL_CERT_FILE, https_proxy and no_proxy are honoured.

    `allow_http` is for a package index that the user configured with http, and for loopback tests.
    """

    allow_http: bool = False
    cafile: str | None = None
    proxy: str | None = None
    timeout: float = TIMEOUT_SECONDS

    def __call__(self, url: str, headers: Mapping[str, str]) -> Response:
        """The response, whatever its status. Raises DownloadError for a scheme that is not allowed, and
        OSError or http.client.HTTPException for what goes wrong on the way."""
        parts = urllib.parse.urlsplit(url)
        if parts.scheme != "https" and not (self.allow_http and parts.scheme == "http"):
            raise DownloadError(f"{without_credentials(url)} is not https: refused")
        user, at, host = parts.netloc.rpartition("@")
        request = urllib.request.Request(urllib.parse.urlunsplit(parts._replace(netloc=host)))
        for name, value in headers.items():
            request.add_header(name, value)
        if at:  # unredirected, so that a password never travels to the host that a redirect names
            token = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {token}")
        handlers: list[urllib.request.BaseHandler] = [
            urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=self.cafile)),
            _SafeRedirects(self.allow_http),
        ]
        if self.proxy:
            handlers.append(urllib.request.ProxyHandler({"http": self.proxy, "https": self.proxy}))
        try:
            response: Response = urllib.request.build_opener(*handlers).open(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            return error  # it is a response too; the caller knows which statuses it expects
        return response


def fetch_https(
    url: str, destination: Path, sha256: str, *, offline: bool = False, report: Report = report_to_stderr
) -> Path:
    """Make sure that `destination` holds the file with that sha256, from `url` if it is not there yet.

    What came before a lost connection stays beside it as `.part`, and the next call goes on from there.
    Raises DownloadError: not https, offline, no network, HTTP error, disk full, wrong digest.
    """
    return fetch_url(url, destination, sha256, open_url=UrlOpener(), offline=offline, report=report)


def fetch_url(
    url: str,
    destination: Path,
    sha256: str,
    *,
    open_url: OpenUrl,
    offline: bool = False,
    report: Report = report_to_stderr,
) -> Path:
    """`fetch_https` with an opener of the caller's choice, which decides about schemes and certificates."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise DownloadError(f"{sha256!r}, pinned for {destination.name}, is not a sha256")
    if has_digest(destination, sha256):
        return destination
    if offline:
        raise DownloadError(f"offline, and {destination} is not there; run once without --offline")
    return _download(open_url, url, destination, sha256.lower(), report)


def _download(
    open_url: OpenUrl,
    url: str,
    destination: Path,
    sha256: str,
    report: Report,
    open_part: Callable[[Path], BinaryIO] | None = None,
) -> Path:
    """Fetch into the `.part` file, verify, rename. `open_part` lets tests hand in a disk that is full."""
    part = destination.with_name(destination.name + ".part")
    with writing(part):
        destination.parent.mkdir(parents=True, exist_ok=True)
        file = open_part(part) if open_part else part.open("a+b")
    with contextlib.closing(file), _without_empty_part(part):
        _lock(file, part)
        resumed = _receive(open_url, url, file, part, sha256, report)
        found = _digest(file, part)
        if found != sha256 and resumed:
            # The old part may belong to an older file at this address: that deserves a fresh start.
            report(f"{destination.name}: what was left of an earlier download does not fit; starting again")
            _truncate(file, part)
            _receive(open_url, url, file, part, sha256, report)
            found = _digest(file, part)
        if found != sha256:
            part.unlink(missing_ok=True)
            raise DownloadError(
                f"{without_credentials(url)} has sha256 {found}, but {sha256} is pinned: removed; "
                "the file changed or something on the way changes it"
            )
        with writing(part):
            file.flush()
            os.fsync(file.fileno())
            part.replace(destination)
            sync_folder(destination.parent)
    return destination


@contextlib.contextmanager
def _without_empty_part(part: Path) -> Iterator[None]:
    """Where nothing came at all, nothing is left behind."""
    try:
        yield
    except DownloadError:
        with contextlib.suppress(OSError):
            if part.stat().st_size == 0:
                part.unlink()
        raise


def copy_file(source: Path, destination: Path, sha256: str) -> Path:
    """Copy a local file beside `destination`, verify, rename. Raises DownloadError."""
    if has_digest(destination, sha256):
        return destination
    part = destination.with_name(destination.name + ".part")
    digest = hashlib.sha256()
    with writing(part):
        destination.parent.mkdir(parents=True, exist_ok=True)
        try:
            with source.open("rb") as original, part.open("wb") as file:
                while chunk := original.read(1 << 20):
                    digest.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            if digest.hexdigest() != sha256.lower():
                raise DownloadError(f"{source} has sha256 {digest.hexdigest()}, but {sha256} is pinned")
            part.replace(destination)
        finally:
            part.unlink(missing_ok=True)
        sync_folder(destination.parent)
    return destination


def read_page(url: str, headers: Mapping[str, str], open_url: OpenUrl, limit: int) -> tuple[str, str, str] | None:
    """Text, content type and final address of a page of at most `limit` bytes; None for a 404.

    Raises DownloadError.
    """
    shown = without_credentials(url)
    with _network(shown):
        response = open_url(url, headers)
    with contextlib.closing(response):
        if response.status in (http.client.NOT_FOUND, http.client.GONE):
            return None
        if response.status != http.client.OK:
            raise DownloadError(f"{shown}: the server answered {_status(response)}")
        with _network(shown):
            content = response.read(limit + 1)
    length = response.headers.get("Content-Length")
    if len(content) > limit or (length and length.isdecimal() and len(content) < int(length)):
        raise DownloadError(f"{shown}: the page is larger than {limit} bytes or came incomplete")
    return content.decode("utf-8", errors="replace"), response.headers.get("Content-Type") or "", response.url


def _status(response: Response) -> str:
    return f"{response.status} {http.client.responses.get(response.status or 0, 'unknown status')}"


def _receive(open_url: OpenUrl, url: str, file: BinaryIO, part: Path, sha256: str, report: Report) -> bool:
    """Append to `file` what is missing; True when bytes of an earlier run were used."""
    shown = without_credentials(url)
    start = _size(file)
    if start and _digest(file, part) == sha256:
        return True  # all of it came, and only the rename did not happen
    with _network(shown):
        response = open_url(url, {"Range": f"bytes={start}-"} if start else {})
    with contextlib.closing(response):
        status = response.status
        if start and status == http.client.PARTIAL_CONTENT:
            total = _total_of_range(response, start, shown)
        elif status == http.client.OK:
            if start:  # the server ignores Range
                _truncate(file, part)
                start = 0
            length = response.headers.get("Content-Length")
            total = int(length) if length and length.isdecimal() else None
        elif start and status == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            _truncate(file, part)
            return _receive(open_url, url, file, part, sha256, report)
        else:
            raise DownloadError(f"{shown}: the server answered {_status(response)}")
        came = start
        with _progress(part.name.removesuffix(".part"), start, total, report) as advance:
            while True:
                with _network(shown, f"after {came} bytes, which are kept: run again to resume"):
                    chunk = response.read(CHUNK_BYTES)
                if not chunk:
                    break
                with writing(part):
                    file.write(chunk)
                came += len(chunk)
                advance(len(chunk))
    with writing(part):
        file.flush()
    if total is not None and came < total:
        raise DownloadError(
            f"{shown}: the connection was lost after {came} of {total} bytes, which are kept: run again to resume"
        )
    return start > 0


def _total_of_range(response: Response, start: int, shown: str) -> int | None:
    """The whole file's size from Content-Range, which must begin where the part ends."""
    header = response.headers.get("Content-Range") or ""
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", header.strip())
    if not match or int(match[1]) != start:
        raise DownloadError(f"{shown}: asked for the bytes from {start} on, got Content-Range {header!r}")
    return None if match[3] == "*" else int(match[3])


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _digest(file: BinaryIO, part: Path) -> str:
    digest = hashlib.sha256()
    with writing(part):
        file.flush()
        file.seek(0)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _truncate(file: BinaryIO, part: Path) -> None:
    with writing(part):
        file.seek(0)
        file.truncate()


def _lock(file: BinaryIO, part: Path) -> None:
    """Two runs at once must not write into one part."""
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between open and lock the other run may have renamed the part to its destination.
        same = part.exists() and os.fstat(file.fileno()).st_ino == part.stat().st_ino
    except BlockingIOError:
        same = False
    except OSError:
        return  # some network file systems have no locks; the digest still protects the result
    if not same:
        raise DownloadError(f"{part} is being written by another run; wait for it, then run again")


@contextlib.contextmanager
def _network(shown: str, when: str = "") -> Iterator[None]:
    """Turn everything that goes wrong on the way into one line."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        cause = "timed out" if isinstance(reason, TimeoutError) else str(reason) or type(reason).__name__
        raise DownloadError(f"{shown}: {one_line(cause)}{' ' + when if when else ''}") from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full disk and its kin into a DownloadError of one line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DownloadError(f"no room for {path} ({error.strerror}); free some, then run again") from error
        raise DownloadError(f"cannot write {path}: {error.strerror or error}") from error


def one_line(text: str) -> str:
    """`text` without line breaks, for an error message."""
    return " ".join(text.split())


@contextlib.contextmanager
def _progress(name: str, start: int, total: int | None, report: Report) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; elsewhere a line every 10 %, or every MB of a small file."""
    if sys.stderr.isatty():
        with tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=name, leave=False) as bar:

            def advance_bar(count: int) -> None:
                bar.update(count)

            yield advance_bar
        return
    came = start
    step = max(total // 10, PLAIN_STEP_BYTES) if total else PLAIN_LINE_BYTES
    following = (start // step + 1) * step

    def advance_line(count: int) -> None:
        nonlocal came, following
        came += count
        if came < following and came != total:
            return
        following = (came // step + 1) * step
        share = f"{100 * came // total} % of {total / 1e6:.1f} MB" if total else f"{came / 1e6:.1f} MB"
        report(f"{name}: {share}")

    yield advance_line
