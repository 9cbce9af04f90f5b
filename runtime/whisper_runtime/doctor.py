"""`whisper-runtime doctor`: what is installed here, what fits together, and what to do about the rest.

Each check is a small function that gets what it judges as parameters and returns a `Check`. Nothing but the standard
library is imported before it is needed, so that a missing package is a finding and not a crash.
"""

import importlib
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisper_runtime import device_probe
from whisper_runtime.errors import WhisperError, one_line
from whisper_runtime.hailort_status import (
    DEVICE_IN_USE,
    DRIVER_NOT_INSTALLED,
    DRIVER_TIMEOUT,
    DRIVER_VERSION,
    DRIVERS,
    OUT_OF_PHYSICAL_DEVICES,
    TIMEOUT,
    driver_of,
)
from whisper_runtime.versions import hailort_for_dfc, hailort_major_for_arch, is_known_to_run_on, parse_version

if TYPE_CHECKING:
    from whisper_runtime.bundle import Bundle
    from whisper_runtime.hef import Hef

OK = "ok"
PROBLEM = "problem"
NOTE = "note"

VENDOR_LIMIT = 30.0  # seconds for everything that is asked of HailoRT; a healthy device answers within two

# Versions as in runtime/pyproject.toml: package -> (oldest, first that does not fit any more).
PACKAGES: Mapping[str, tuple[str, str | None]] = {
    "numpy": ("1.23", None),
    "soundfile": ("0.12", None),
    "soxr": ("0.5", None),
    "tiktoken": ("0.7", None),
    "xxhash": ("3.0", None),
}
ONNXRUNTIME = ("1.23", "1.24")

SERVICE_SOCKET = Path("/tmp/hailort_uds.sock")  # noqa: S108 - where HailoRT's service listens
_HEFS = ("encoder.hef", "decoder.hef")


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        check: what was looked at, such as "driver". Names are stable.
        status: OK, PROBLEM (does not work as it is), or NOTE (missing, but not needed for what works here).
        found: what is there.
        advice: what to do; "" if nothing.
    """

    check: str
    status: str
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Device:
    """One accelerator: id, architecture such as "hailo8l", firmware, and degrees Celsius if it tells."""

    id: str
    architecture: str
    firmware: str
    celsius: float | None
    celsius_error: str = ""


@dataclass(frozen=True)
class Probe:
    """What HailoRT's Python package told.

    Attributes:
        installed: False if there is no such package in this Python.
        hailort: its version; None if it cannot be imported.
        devices: the accelerators that could be identified.
        free: True if the first free device could be taken for a moment.
        step: what was being done at the end: "import", "scan", "identify", "claim" or "done".
        error: `kind`, `text` and `status` of what went wrong at that step, None if nothing did.
        hung: True if the step did not end within the limit.
        log: what the vendor's library printed.
    """

    installed: bool = False
    hailort: str | None = None
    devices: tuple[Device, ...] = ()
    free: bool = False
    step: str = "import"
    error: Mapping[str, Any] | None = None
    hung: bool = False
    log: str = ""


@dataclass(frozen=True)
class Finished:
    """A process that ended, or did not: its output, and its exit status or None if it ran into the limit."""

    status: int | None
    output: str
    errors: str


@dataclass(frozen=True)
class Import:
    """What importing a package gave: its version, or the error in one line."""

    version: str | None
    error: str = ""


def all_is_well(checks: Iterable[Check]) -> bool:
    """True if no check found a problem."""
    return all(check.status != PROBLEM for check in checks)


def as_text(checks: Sequence[Check]) -> str:
    """Return one line a check, for a person."""
    width = max(len(check.check) for check in checks)
    return "\n".join(
        f"{check.status:<8} {check.check:<{width}}  {check.found}" + (f": {check.advice}" if check.advice else "")
        for check in checks
    )


def as_json(checks: Sequence[Check]) -> str:
    """Return {"ok": bool, "checks": [{"check", "status", "found", "advice"}, ...]} as text."""
    return json.dumps({"ok": all_is_well(checks), "checks": [asdict(check) for check in checks]}, indent=1)


def runtime_checks(probe: Probe, bundle: Path | None = None, *, build_host: bool = False) -> list[Check]:
    """Look at everything that the runtime needs here.

    Args:
        probe: what `probe_hailort` returned.
        bundle: folder of a bundle that is to run here, or None.
        build_host: True where bundles are made: a device is not expected then, the emulator's engine is.
    """
    opened, emulated, bundle_checks = None, False, []
    if bundle is not None:
        first, opened = check_bundle(bundle)
        bundle_checks = [first]
        emulated = opened is not None and opened.manifest.emulated
    drivers = loaded_drivers(Path("/sys"))
    nodes = device_nodes(Path("/dev"))
    compiled = opened is not None and not emulated
    # A part of HailoRT that is here shows that a device is meant to be used; then the other parts must be here too.
    needed = not build_host and (compiled or (not emulated and bool(probe.installed or drivers or nodes)))
    checks = [check_python(sys.version_info[:2], platform.machine())]
    checks += [check_package(name, import_package(name), *PACKAGES[name]) for name in PACKAGES if name != "numpy"]
    checks.insert(1, check_numpy(import_package("numpy"), probe.installed, sys.version_info[:2]))
    checks.append(
        check_package("onnxruntime", import_package("onnxruntime"), *ONNXRUNTIME, needed=emulated or build_host)
    )
    checks.append(check_hailort(probe, needed))
    checks.append(check_driver(drivers, probe.hailort, needed))
    checks.append(check_device_node(nodes, needed, accessible=_accessible))
    checks += check_device(probe, needed, holders=device_holders(Path("/proc"), nodes))
    if probe.hailort is not None and parse_version(probe.hailort)[0] == 4:
        checks.append(check_service(SERVICE_SOCKET))
    checks += bundle_checks
    if opened is not None and not emulated:
        checks += hef_checks(opened, probe)
    return checks


# What is installed


def check_python(version: tuple[int, int], machine: str, newest: tuple[int, int] | None = None) -> Check:
    """Python's version, from 3.10 on and up to `newest` if that is given, and the machine."""
    found = f"{version[0]}.{version[1]} on {machine}"
    if version < (3, 10):
        return Check("python", PROBLEM, found, "use Python 3.10 or later")
    if newest is not None and version > newest:
        return Check("python", PROBLEM, found, f"use Python 3.10 to {newest[0]}.{newest[1]}")
    return Check("python", OK, found)


def import_package(name: str) -> Import:
    """Import a package and return its installed version, or why it cannot be imported."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name == name
        return Import(None, "not installed" if missing else f"needs {error.name}, which is not installed")
    except Exception as error:  # a package whose native library is missing or broken raises whatever it likes
        return Import(None, f"cannot be imported ({_line(error)})")
    try:
        return Import(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        version = getattr(module, "__version__", None)
        return Import(None, "installed without a version") if version is None else Import(str(version))


def check_package(name: str, found: Import, oldest: str, below: str | None, *, needed: bool = True) -> Check:
    """A Python package: importable, and of a version from `oldest` on and, if given, below `below`."""
    wanted = f"'{name}>={oldest}" + (f",<{below}'" if below else "'")
    advice = f"pip install {wanted}" + ("" if needed else " to run emulated bundles")
    bad = PROBLEM if needed else NOTE
    if found.version is None:
        return Check(name, bad, found.error, advice)
    if not fits(found.version, oldest, below):
        return Check(name, bad, f"{found.version} does not fit", advice)
    return Check(name, OK, found.version)


def fits(version: str, oldest: str, below: str | None) -> bool:
    """True if `oldest <= version < below`; False also for what is not a version."""
    try:
        number = parse_version(version)
    except ValueError:
        return False
    return number >= parse_version(oldest) and (below is None or number < parse_version(below))


def check_numpy(found: Import, beside_hailort: bool, python: tuple[int, int]) -> Check:
    """numpy from 1.23 on; below 2 beside HailoRT's package, which asks for that up to Python 3.12."""
    check = check_package("numpy", found, *PACKAGES["numpy"])
    if check.status == OK and beside_hailort and python < (3, 13) and not fits(check.found, "1.23", "2.0"):
        return Check(
            "numpy",
            PROBLEM,
            f"{check.found}, but {device_probe.VENDOR_PACKAGE} is made for numpy 1",
            "pip install 'numpy>=1.23,<2'",
        )
    return check


# HailoRT, its driver, its devices


def probe_hailort(limit: float = VENDOR_LIMIT) -> Probe:
    """Ask HailoRT's Python package for its version and devices, in a process of its own, for `limit` seconds."""
    # Without this HailoRT leaves a hailort.log in the current and in the home folder.
    quiet = {**os.environ, "HAILORT_LOGGER_PATH": "NONE"}
    done = run_limited([sys.executable, "-m", device_probe.__name__], limit, quiet)
    return read_probe(done)


def read_probe(done: Finished) -> Probe:
    """Return what the probe's process printed; a process that died is an error at its last step."""
    facts: dict[str, Any] = {"step": "import"}
    devices = []
    for line in done.output.splitlines():
        if line.startswith(device_probe.MARK):
            finding = json.loads(line.removeprefix(device_probe.MARK))
            if "device" in finding:
                devices.append(Device(**finding.pop("device")))
            facts.update(finding)
    error = facts.get("error")
    hung = done.status is None
    if error is None and not hung and facts["step"] != "done":
        last = (done.errors.strip().splitlines() or ["no message"])[-1]
        error = {"kind": "", "text": f"the process ended with status {done.status} ({last})", "status": None}
    return Probe(
        installed=not (error is not None and error.get("missing", False)),
        hailort=facts.get("hailort"),
        devices=tuple(devices),
        free=facts.get("free", False),
        step=facts["step"],
        error=error,
        hung=hung,
        log=done.errors,
    )


def run_limited(command: Sequence[str], limit: float, environment: Mapping[str, str]) -> Finished:
    """Run a process for at most `limit` seconds and return what it printed, whether it ended or not.

    A process that is stuck inside a driver cannot be killed; it is left behind then and not waited for. It runs
    in an empty folder, so that a stray file there is neither imported nor written.

    Raises:
        OSError: the program does not exist or cannot be run.
    """
    with (
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
    ):
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
        status: int | None = None
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            _kill(process)
        except BaseException:
            _kill(process)
            raise
        return Finished(status, _text(output), _text(errors))


def _kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(1.0)
    except subprocess.TimeoutExpired:
        return  # stuck in the kernel; it ends when the driver lets it go


def _text(file: Any) -> str:
    file.seek(0)
    return bytes(file.read()).decode(errors="replace")


def loaded_drivers(sys_root: Path) -> dict[str, str]:
    """Return the loaded kernel modules of HailoRT and their versions, "" where none is told."""
    versions = {}
    for name in DRIVERS:
        folder = sys_root / "module" / name
        if folder.is_dir():
            file = folder / "version"
            versions[name] = file.read_text(encoding="utf-8").strip() if file.is_file() else ""
    return versions


def device_nodes(dev_root: Path) -> list[Path]:
    """Return the device files of accelerators, such as /dev/hailo0."""
    return sorted(dev_root.glob("hailo[0-9]*"))


def device_holders(proc_root: Path, nodes: Sequence[Path]) -> list[str]:
    """Return the processes that have a device file open, such as "python3 (pid 812)", as far as this user may see."""
    targets = {str(node) for node in nodes}
    found = []
    for folder in sorted(proc_root.glob("[0-9]*"), key=lambda path: int(path.name)) if targets else []:
        try:
            if any(str(link.readlink()) in targets for link in (folder / "fd").iterdir()):
                found.append(f"{(folder / 'comm').read_text(encoding='utf-8').strip()} (pid {folder.name})")
        except OSError:
            continue  # another user's process, or one that ended meanwhile
    return found


def check_hailort(probe: Probe, needed: bool) -> Check:
    """HailoRT's Python package: there, and its parts of one version."""
    package = device_probe.VENDOR_PACKAGE
    if probe.hailort is not None:
        return Check("hailort", OK, f"{package} {probe.hailort}")
    if not probe.installed:
        advice = "install HailoRT and its Python package from Hailo's developer zone to run bundles on a device"
        return Check("hailort", PROBLEM if needed else NOTE, f"{package} is not installed in this Python", advice)
    if probe.hung:
        return Check(
            "hailort", PROBLEM, f"import {package} did not end in time", "restart the machine, or reinstall HailoRT"
        )
    text = _error_text(probe)
    if "does not match" in text:
        advice = "install HailoRT and its Python package of one version; these are of two"
    elif "libhailort" in text:
        advice = "install HailoRT itself, of the same version as its Python package"
    elif "numpy" in text:
        advice = "pip install 'numpy>=1.23,<2'"
    else:
        advice = "install the wheel of HailoRT that is for this Python version and machine"
    return Check("hailort", PROBLEM, f"import {package} fails ({text})", advice)


def check_driver(drivers: Mapping[str, str], hailort: str | None, needed: bool) -> Check:
    """The kernel module: loaded, and of exactly HailoRT's version, which is what libhailort insists on."""
    found = ", ".join(f"{name} {version}".strip() for name, version in drivers.items())
    if not drivers:
        release = f" of version {hailort}" if hailort else ""
        module = driver_of(hailort) if hailort else DRIVERS[0]
        return Check(
            "driver",
            PROBLEM if needed else NOTE,
            f"no Hailo kernel module is loaded ({' or '.join(DRIVERS)})",
            f"to use a device, install HailoRT's PCIe driver{release}, then sudo modprobe {module} or restart",
        )
    told = [version for version in drivers.values() if version]
    if not told:
        return Check("driver", OK, f"{found}, which tells no version")
    if hailort is None:
        return Check("driver", OK, found)
    if any(_same(version, hailort) for version in told):
        return Check("driver", OK, f"{found}, the same as HailoRT")
    return Check(
        "driver",
        PROBLEM,
        f"{found}, but HailoRT is {hailort}",
        f"install driver and HailoRT of one version (the driver {hailort}, or HailoRT {told[0]}), then restart",
    )


def _same(version: str, other: str) -> bool:
    try:
        return parse_version(version) == parse_version(other)
    except ValueError:
        return version == other


def check_device_node(nodes: Sequence[Path], needed: bool, accessible: Callable[[Path], bool]) -> Check:
    """The device file: there, and this user may read and write it."""
    if not nodes:
        return Check(
            "device-node",
            PROBLEM if needed else NOTE,
            "no /dev/hailo0",
            "to use a device, see that the card sits in its slot (lspci lists 'Hailo'), PCIe is on, the driver loaded",
        )
    closed = [str(node) for node in nodes if not accessible(node)]
    if closed:
        return Check(
            "device-node",
            PROBLEM,
            f"{', '.join(closed)} cannot be read and written by this user",
            f"sudo chmod a+rw {' '.join(closed)}; the driver's package has a udev rule that does so at every start",
        )
    return Check("device-node", OK, ", ".join(map(str, nodes)))


def _accessible(node: Path) -> bool:
    return os.access(node, os.R_OK | os.W_OK)


def check_device(probe: Probe, needed: bool, holders: Sequence[str] = ()) -> list[Check]:
    """The accelerators: one check for each that answers, or one that says why none does.

    Args:
        probe: what HailoRT told.
        needed: True if a device is expected here.
        holders: processes that have the device open.
    """
    missing = PROBLEM if needed else NOTE
    if probe.hailort is None:
        return [Check("device", NOTE, "not looked for, because HailoRT cannot be used", "see the line 'hailort'")]
    checks = [_check_one_device(device, probe.hailort) for device in probe.devices]
    by = f" by {', '.join(holders)}" if holders else " by another process"
    status = (probe.error or {}).get("status")
    if probe.hung or status in (TIMEOUT, DRIVER_TIMEOUT):
        advice = "restart the machine; if it stays so, sudo dmesg | grep -i hailo tells more"
        checks.append(Check("device", PROBLEM, f"HailoRT did not answer in time ({_DOING[probe.step]})", advice))
    elif status in (DEVICE_IN_USE, OUT_OF_PHYSICAL_DEVICES):
        advice = "end that process, or share the device: transcribe with --share-device"
        checks.append(Check("device", missing, f"in use{by}", advice))
    elif status in DRIVER_VERSION:
        advice = "install driver and HailoRT of one version, then restart"
        checks.append(Check("device", PROBLEM, f"driver and HailoRT do not fit ({_error_text(probe)})", advice))
    elif status == DRIVER_NOT_INSTALLED:
        checks.append(Check("device", missing, "no driver is running", "see the line 'driver'"))
    elif probe.error is not None:
        advice = "see sudo dmesg | grep -i hailo; --debug shows what HailoRT printed"
        checks.append(Check("device", PROBLEM, f"{_DOING[probe.step]} failed ({_error_text(probe)})", advice))
    elif not checks:
        checks.append(Check("device", missing, "none found", "see the lines 'driver' and 'device-node'"))
    return checks


_DOING = {
    "import": "importing the package",
    "scan": "looking for devices",
    "identify": "identifying the device",
    "claim": "taking the device for a moment",
}


def _check_one_device(device: Device, hailort: str) -> Check:
    heat = f"{device.celsius:.0f} °C" if device.celsius is not None else "temperature not readable"
    found = f"{device.architecture} at {device.id}, firmware {device.firmware}, {heat}"
    try:
        major = hailort_major_for_arch(device.architecture)
    except ValueError:
        return Check("device", PROBLEM, found, "bundles are made for hailo8, hailo8l and hailo10h only")
    if parse_version(hailort)[0] != major:
        return Check(
            "device", PROBLEM, f"{found}, but HailoRT is {hailort}", f"install HailoRT {major}.x for this device"
        )
    return Check("device", OK, found)


def check_service(socket: Path) -> Check:
    """HailoRT 4's service, which only a device shared between processes needs."""
    if socket.exists():
        return Check("service", OK, f"HailoRT's service listens at {socket}")
    return Check(
        "service",
        NOTE,
        "HailoRT's service is not running",
        "only --share-device needs it: sudo systemctl enable --now hailort.service",
    )


# A bundle


def check_bundle(folder: Path) -> "tuple[Check, Bundle | None]":
    """A bundle: complete and unchanged. Returns it too, or None if it cannot be used."""
    again = "build or copy the bundle again"
    try:
        from whisper_runtime.bundle import Bundle

        bundle = Bundle.open(folder)
    except ImportError as error:
        return Check("bundle", PROBLEM, f"{folder}: not looked at ({_line(error)})", "see the packages above"), None
    except WhisperError as error:
        return Check("bundle", PROBLEM, str(error).removesuffix(f": {again}"), again), None
    found = f"{bundle.manifest.name} {bundle.manifest.version}"
    if bundle.manifest.emulated:
        return Check("bundle", OK, f"{found}, EMULATED: runs on this CPU, not on a Hailo device"), bundle
    return Check("bundle", OK, f"{found}, for {bundle.manifest.arch}"), bundle


def hef_checks(bundle: "Bundle", probe: Probe) -> list[Check]:
    """The HEFs of a compiled bundle: sound, for the device that is here, and for HailoRT's version."""
    try:
        from whisper_runtime.hef import check_outputs, read_hef
    except ImportError as error:
        return [Check("bundle-hef", PROBLEM, f"not looked at ({_line(error)})", "see the packages above")]
    hefs = []
    for name in _HEFS:
        try:
            hef = read_hef(bundle.folder / name)
            check_outputs(hef)
        except WhisperError as error:
            return [Check("bundle-hef", PROBLEM, str(error), "build or copy the bundle again")]
        if hef.architecture != bundle.manifest.arch:
            found = f"{name} is for {hef.architecture}, its bundle says {bundle.manifest.arch}"
            return [Check("bundle-hef", PROBLEM, found, "build the bundle again")]
        hefs.append(hef)
    return [
        Check("bundle-hef", OK, ", ".join(_describe_hef(hef) for hef in hefs)),
        check_bundle_device(bundle.manifest.arch, [device.architecture for device in probe.devices]),
        check_bundle_hailort(sorted({hef.sdk_version for hef in hefs}), probe.hailort),
    ]


def _describe_hef(hef: "Hef") -> str:
    return f"{hef.path.name} for {hef.architecture} by DFC {hef.sdk_version}"


def check_bundle_device(arch: str, devices: Sequence[str]) -> Check:
    """Whether a device that is here runs what was compiled for `arch`."""
    if not devices:
        return Check("bundle-device", PROBLEM, f"for {arch}, and no device answers", "see the line 'device'")
    known = [device for device in devices if is_known_to_run_on(arch, device)]
    here = ", ".join(devices)
    if not known:
        return Check(
            "bundle-device",
            PROBLEM,
            f"for {arch}, which does not run on {here}",
            f"use a bundle whose name ends with -{devices[0]} (make all ARCH={devices[0]})",
        )
    if arch not in known:
        slower = f"a bundle for {known[0]} uses more of the chip (make all ARCH={known[0]})"
        return Check("bundle-device", NOTE, f"for {arch}, which runs on {known[0]}", slower)
    return Check("bundle-device", OK, f"for {arch}, which is here")


def check_bundle_hailort(dfc_versions: Sequence[str], hailort: str | None) -> Check:
    """Whether the DFC that compiled a bundle belongs to the HailoRT that is here."""
    name = "bundle-hailort"
    made = f"compiled by DFC {', '.join(dfc_versions)}"
    if hailort is None:
        return Check(name, PROBLEM, f"{made}, and HailoRT cannot be used here", "see the line 'hailort'")
    try:
        pairs = {hailort_for_dfc(version) for version in dfc_versions}
    except ValueError:
        pairs = {None}
    if len(pairs) > 1 or None in pairs:
        advice = "if HailoRT refuses it, build it with the DFC that belongs to this HailoRT"
        return Check(name, NOTE, f"{made}; its HailoRT is not known", advice)
    pair = str(pairs.pop())
    here, wanted = parse_version(hailort)[:2], parse_version(pair)[:2]
    if here == wanted:
        return Check(name, OK, f"{made}, made for HailoRT {pair}")
    found = f"{made} for HailoRT {pair}, but HailoRT is {hailort}"
    if here[0] == wanted[0] and here > wanted:
        advice = f"a later HailoRT usually runs it; if it refuses, install {pair} or build the bundle again"
        return Check(name, NOTE, found, advice)
    return Check(name, PROBLEM, found, f"install HailoRT {pair} and its driver, or build the bundle again")


def _error_text(probe: Probe) -> str:
    error = probe.error or {}
    if error.get("text", "").isdecimal():  # some calls pass on libhailort's bare number
        return f"status {error['text']}"
    return _named(error.get("kind", ""), error.get("text", ""))


def _line(error: Exception) -> str:
    return _named(type(error).__name__, one_line(error))


def _named(kind: str, text: str) -> str:
    return ": ".join(dict.fromkeys(part for part in (kind, text) if part))  # an error without a text has its class
