"""The runtime's doctor: every state of every check, and that nothing the vendor does can stop it."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from whisper_runtime import cli, doctor
from whisper_runtime import manifest as manifest_format
from whisper_runtime.doctor import (
    NOTE,
    OK,
    PROBLEM,
    Check,
    Device,
    Finished,
    Import,
    Probe,
    all_is_well,
    as_json,
    as_text,
    check_bundle,
    check_bundle_device,
    check_bundle_hailort,
    check_device,
    check_device_node,
    check_driver,
    check_hailort,
    check_numpy,
    check_package,
    check_python,
    check_service,
    device_holders,
    device_nodes,
    hef_checks,
    import_package,
    loaded_drivers,
    probe_hailort,
    read_probe,
    run_limited,
    runtime_checks,
)

try:
    import tomllib
except ImportError:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
FAKES = ROOT / "tests" / "fakes"
H8 = Device("0000:01:00.0", "hailo8", "4.20.0", 48.7)
H8L = Device("0000:01:00.0", "hailo8l", "4.20.0", 48.7)
H10 = Device("0001:01:00.0", "hailo10h", "5.2.0", None, "not supported")
READY = Probe(installed=True, hailort="4.20.0", devices=(H8,), free=True, step="done")
ABSENT = Probe(installed=False)


def failed(step, text="", status=None, kind="HailoRTException", **more):
    """A probe that ended with an error of the vendor's."""
    error = {"kind": kind, "text": text, "status": status}
    return Probe(**{"installed": True, "hailort": "4.20.0", "step": step, "error": error, **more})


# Python and packages


@pytest.mark.parametrize(
    ("version", "newest", "status"),
    [
        ((3, 9), None, PROBLEM),
        ((3, 10), None, OK),
        ((3, 14), None, OK),
        ((3, 12), (3, 12), OK),
        ((3, 13), (3, 12), PROBLEM),
    ],
)
def test_python_has_a_range(version, newest, status):
    check = check_python(version, "aarch64", newest)
    assert (check.check, check.status) == ("python", status)
    assert check.found == f"{version[0]}.{version[1]} on aarch64"
    assert ("use Python 3.10" in check.advice) == (status == PROBLEM)


@pytest.mark.parametrize(
    ("found", "status", "says"),
    [
        (Import("1.23.2"), OK, "1.23.2"),
        (Import("1.23.0.post1"), OK, "1.23.0.post1"),
        (Import("1.22.9"), PROBLEM, "1.22.9 does not fit"),
        (Import("1.24.0"), PROBLEM, "1.24.0 does not fit"),
        (Import("unknown"), PROBLEM, "unknown does not fit"),
        (Import(None, "not installed"), PROBLEM, "not installed"),
    ],
)
def test_a_package_has_a_range_and_the_advice_installs_it(found, status, says):
    check = check_package("onnxruntime", found, "1.23", "1.24")
    assert (check.status, check.found) == (status, says)
    assert check.advice == ("" if status == OK else "pip install 'onnxruntime>=1.23,<1.24'")


def test_a_package_that_only_emulated_bundles_need_is_a_note():
    check = check_package("onnxruntime", Import(None, "not installed"), "1.23", "1.24", needed=False)
    assert (check.status, check.advice) == (NOTE, "pip install 'onnxruntime>=1.23,<1.24' to run emulated bundles")


@pytest.mark.parametrize(
    ("version", "beside_hailort", "python", "status"),
    [
        ("2.2.6", False, (3, 11), OK),
        ("2.2.6", True, (3, 11), PROBLEM),
        ("2.2.6", True, (3, 13), OK),
        ("1.26.4", True, (3, 11), OK),
        ("1.22.0", False, (3, 11), PROBLEM),
    ],
)
def test_numpy_2_does_not_go_with_hailort(version, beside_hailort, python, status):
    assert check_numpy(Import(version), beside_hailort, python).status == status


def test_numpy_2_beside_hailort_gets_the_command_that_repairs_it():
    check = check_numpy(Import("2.2.6"), True, (3, 11))
    assert "made for numpy 1" in check.found
    assert check.advice == "pip install 'numpy>=1.23,<2'"


def test_the_ranges_are_those_of_the_package():
    project = tomllib.loads((ROOT / "runtime" / "pyproject.toml").read_text())["project"]
    assert {f"{name}>={oldest}".removesuffix(".0") for name, (oldest, _) in doctor.PACKAGES.items()} == set(
        project["dependencies"]
    )
    assert project["optional-dependencies"]["emulator"] == ["onnxruntime>={},<{}".format(*doctor.ONNXRUNTIME)]


def test_importing_tells_the_version_or_why_not(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "doctored_broken.py").write_text("raise OSError('sndfile library\\nnot found')")
    (tmp_path / "doctored_needy.py").write_text("import doctored_nowhere")
    (tmp_path / "doctored_own.py").write_text("__version__ = '7.1'")
    (tmp_path / "doctored_bare.py").write_text("")
    import numpy

    assert import_package("numpy") == Import(numpy.__version__)
    assert import_package("doctored_nowhere") == Import(None, "not installed")
    assert import_package("doctored_needy") == Import(None, "needs doctored_nowhere, which is not installed")
    assert import_package("doctored_broken") == Import(None, "cannot be imported (OSError: sndfile library not found)")
    assert import_package("doctored_own") == Import("7.1")
    assert import_package("doctored_bare") == Import(None, "installed without a version")


# HailoRT's Python package, in a process of its own


@pytest.fixture
def vendor(tmp_path, monkeypatch):
    """Writes a hailo_platform that the probe's process imports."""
    folder = tmp_path / "site" / "hailo_platform"
    folder.mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(folder.parent))

    def write(text):
        (folder / "__init__.py").write_text(text)

    return write


STUB = """
__version__ = "4.20.0"
import enum, time
Arch = enum.IntEnum("DeviceArchitectureTypes", {"HAILO8": 1, "HAILO8L": 2})
class HailoRTException(Exception): pass
class HailoRTStatusException(Exception): pass
class Temperature: ts0_temperature = 51.26
class Board:
    device_architecture = Arch.HAILO8L
    firmware_version = "4.20.0 (release,app)"
class Control:
    def identify(self): return Board()
    def get_chip_temperature(self): return Temperature()
class Device:
    control = Control()
    def __init__(self, device_id): assert device_id == "0000:01:00.0"
    def __enter__(self): return self
    def __exit__(self, *args): self.control = None
    @staticmethod
    def scan(): return ["0000:01:00.0"]
class VDevice:
    def __enter__(self): return self
    def __exit__(self, *args): pass
"""


def test_the_probe_tells_version_device_and_that_it_is_free(vendor):
    vendor(STUB + "print('a vendor that prints without an end of line', end='')")
    assert probe_hailort() == Probe(
        installed=True,
        hailort="4.20.0",
        devices=(Device("0000:01:00.0", "hailo8l", "4.20.0 (release,app)", 51.26),),
        free=True,
        step="done",
    )


def test_without_the_package_the_probe_says_so(monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    probe = probe_hailort()
    assert (probe.installed, probe.hailort, probe.hung) == (False, None, False)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (
            "raise ImportError('_pyhailort version (4.20.0) does not match pyhailort version (4.23.0)')",
            "install HailoRT and its Python package of one version",
        ),
        (
            "raise ImportError('libhailort.so.4.20.0: cannot open shared object file: No such file or directory')",
            "install HailoRT itself",
        ),
        ("raise ImportError('numpy.core.multiarray failed to import')", "pip install 'numpy>=1.23,<2'"),
        ("raise Exception('no _pyhailort library')", "wheel of HailoRT that is for this Python"),
        ("import hailo_platform_native_part", "wheel of HailoRT that is for this Python"),
    ],
)
def test_a_package_that_cannot_be_imported_is_explained(vendor, text, advice):
    vendor(text)
    probe = probe_hailort()
    assert (probe.installed, probe.hailort) == (True, None)
    check = check_hailort(probe, needed=False)
    assert check.status == PROBLEM
    assert check.found.startswith("import hailo_platform fails (")
    assert advice in check.advice


def test_a_package_that_kills_its_process_is_reported(vendor):
    vendor(STUB + "import os, sys, signal\nsys.stderr.write('native trouble\\n')\nos.kill(os.getpid(), signal.SIGSEGV)")
    probe = probe_hailort()
    assert probe.error["text"] == "the process ended with status -11 (native trouble)"
    assert check_hailort(probe, needed=True).status == PROBLEM


@pytest.mark.parametrize(
    ("patch", "step"),
    [
        ("time.sleep(60)", "import"),
        ("Device.scan = staticmethod(lambda: time.sleep(60))", "scan"),
        ("Control.identify = lambda self: time.sleep(60)", "identify"),
        ("Control.get_chip_temperature = lambda self: time.sleep(60)", "identify"),
        ("VDevice.__enter__ = lambda self: time.sleep(60)", "claim"),
        ("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)", "import"),
    ],
)
def test_a_hanging_call_ends_with_its_limit_and_is_named(vendor, patch, step):
    vendor(STUB + patch)
    begin = time.monotonic()
    probe = probe_hailort(limit=1.5)
    assert time.monotonic() - begin < 4
    assert (probe.hung, probe.step) == (True, step)
    hung = check_hailort(probe, True) if step == "import" else check_device(probe, True)[-1]
    assert hung.status == PROBLEM
    assert "in time" in hung.found
    assert "restart the machine" in hung.advice


def test_a_process_that_cannot_be_killed_is_left_behind(monkeypatch):
    # A process inside a driver ignores even SIGKILL; here the signal is withheld instead.
    killed = []
    monkeypatch.setattr(os, "killpg", lambda group, number: killed.append((group, number)))
    begin = time.monotonic()
    done = run_limited([sys.executable, "-c", "import time; print(1, flush=True); time.sleep(8)"], 0.7, os.environ)
    assert time.monotonic() - begin < 3
    assert done == Finished(None, "1\n", "")
    ((group, number),) = killed
    assert number == signal.SIGKILL
    monkeypatch.undo()
    os.killpg(group, signal.SIGKILL)
    os.waitpid(group, 0)


def test_an_interrupt_ends_the_probe_too(tmp_path, monkeypatch):
    note = tmp_path / "pid"
    code = f"import os, pathlib, time; pathlib.Path({str(note)!r}).write_text(str(os.getpid())); time.sleep(60)"
    wait = subprocess.Popen.wait

    def interrupted(process, timeout=None):
        if timeout == 30:
            while not note.exists() or not note.read_text():
                time.sleep(0.01)
            raise KeyboardInterrupt
        return wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_limited([sys.executable, "-c", code], 30, os.environ)
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_the_probe_leaves_no_log_file_behind(vendor, tmp_path, monkeypatch):
    # HailoRT writes hailort.log into the current folder unless it is told not to.
    vendor(
        STUB + "import os, pathlib\nassert os.environ['HAILORT_LOGGER_PATH'] == 'NONE'\npathlib.Path('x.log').touch()"
    )
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert probe_hailort().step == "done"
    assert sorted(tmp_path.iterdir()) == before


def test_temperature_that_cannot_be_read_is_no_failure(vendor):
    vendor(STUB + "def no(self): raise HailoRTException('not\\nsupported')\nControl.get_chip_temperature = no")
    probe = probe_hailort()
    assert (probe.step, probe.error) == ("done", None)
    assert probe.devices[0].celsius is None
    assert probe.devices[0].celsius_error == "not supported"
    assert "temperature not readable" in check_device(probe, True)[0].found


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ("HailoRTException('libhailort failed with error: 74 (HAILO_OUT_OF_PHYSICAL_DEVICES)')", 74),
        ("HailoRTStatusException('64')", 64),  # Device.scan and Device() pass the native exception on as it is
        ("HailoRTException('HailoRT device 5 not found in the system')", None),
        ("HailoRTException('error: 76 (HAILO_INVALID_DRIVER_VERSION) - see hailort.log')", 76),
        ("type('HailoRTTimeout', (HailoRTException,), {})('Received a timeout - hailort has failed')", 4),
        ("type('HailoRTDriverOperationFailedException', (HailoRTException,), {})('Failure in ioctl')", 36),
    ],
)
def test_the_number_of_an_error_is_read(vendor, error, status):
    vendor(STUB + f"def no(): raise {error}\nDevice.scan = staticmethod(no)")
    probe = probe_hailort()
    assert (probe.step, probe.error["status"]) == ("scan", status)


@pytest.fixture
def fake_hailort(tmp_path, monkeypatch):
    """The strict fake of HailoRT in the probe's process, configured by keywords."""

    def configure(**settings):
        (tmp_path / "fake.json").write_text(json.dumps(settings))
        monkeypatch.setenv("FAKE_HAILO", str(tmp_path / "fake.json"))
        monkeypatch.setenv("PYTHONPATH", str(FAKES))

    return configure


@pytest.mark.parametrize(
    ("hailort", "architecture"), [("4.20.0", "HAILO8L"), ("4.23.0", "HAILO8"), ("5.2.0", "HAILO10H")]
)
def test_the_strict_fake_is_identified(fake_hailort, hailort, architecture):
    fake_hailort(hailort=hailort, device={"architecture": architecture, "count": 1})
    probe = probe_hailort()
    assert (probe.hailort, probe.step, probe.free, probe.error) == (hailort, "done", True, None)
    (check,) = check_device(probe, True)
    assert check.status == OK
    assert check.found.startswith(f"{architecture.lower()} at 0000:01:00.0, firmware {hailort}")
    assert "°C" in check.found


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"device": {"count": 0}}, "none found"),
        ({"device": {"driver": "4.20.0"}}, "driver and HailoRT do not fit (status 76)"),
        ({"faults": {"Device.scan": {"status": 64}}}, "no driver is running"),
        ({"faults": {"Device.create": {"status": 36}}}, "identifying the device failed (status 36)"),
        ({"faults": {"Control.identify": {"status": 4}}}, "did not answer in time (identifying the device)"),
        ({"faults": {"VDevice.create": {"status": 87}}}, "did not answer in time (taking the device for a moment)"),
        ({"faults": {"Control.identify": {"status": 62}}}, "failed (HailoCommunicationClosedException: "),
        ({"faults": {"VDevice.create": {"status": 74}}}, "in use by another process"),
        ({"faults": {"VDevice.create": {"status": 5}}}, "taking the device for a moment failed (HailoRTException"),
        ({"faults": {"Device.scan": {"sleep": 20.0}}}, "did not answer in time (looking for devices)"),
    ],
)
def test_the_strict_fakes_failures_are_told(fake_hailort, settings, says):
    fake_hailort(hailort="4.23.0", **settings)
    check = check_device(probe_hailort(limit=4), True)[-1]
    assert check.status == PROBLEM
    assert says in check.found
    assert check.advice


@pytest.mark.parametrize(
    ("native", "says"), [("4.20.0", "Python package of one version"), (None, "install HailoRT itself")]
)
def test_the_strict_fakes_broken_installations_are_told(fake_hailort, native, says):
    fake_hailort(hailort="4.23.0", native_version=native)
    check = check_hailort(probe_hailort(), True)
    assert check.status == PROBLEM
    assert says in check.advice


def test_a_whole_installation_has_no_problem(fake_hailort, monkeypatch, tmp_path):
    fake_hailort(hailort="4.23.0")
    monkeypatch.setattr(doctor, "loaded_drivers", lambda root: {"hailo_pci": "4.23.0"})
    monkeypatch.setattr(doctor, "device_nodes", lambda root: [tmp_path / "hailo0"])
    (tmp_path / "hailo0").touch()
    checks = runtime_checks(probe_hailort(), make_bundle(tmp_path / "b", sdk_version="3.33.0"))
    # This environment may have numpy 2, which the real package does not take.
    problems = [check.check for check in checks if check.status == PROBLEM and check.check != "numpy"]
    assert problems == []
    found = statuses(checks)
    assert [found[f"bundle{part}"] for part in ("", "-hef", "-device", "-hailort")] == [OK, OK, OK, OK]


def test_output_of_a_process_that_told_nothing_is_an_error_at_import():
    probe = read_probe(Finished(1, "Segmentation fault", ""))
    assert (probe.step, probe.error["text"]) == ("import", "the process ended with status 1 (no message)")


def test_hailort_that_is_not_installed_matters_only_where_a_device_is_expected():
    assert check_hailort(ABSENT, needed=False).status == NOTE
    needed = check_hailort(ABSENT, needed=True)
    assert (needed.status, needed.found) == (PROBLEM, "hailo_platform is not installed in this Python")
    assert check_hailort(READY, needed=True) == Check("hailort", OK, "hailo_platform 4.20.0")


# Driver and device file


def module(root, name, version):
    folder = root / "module" / name
    folder.mkdir(parents=True)
    if version is not None:
        (folder / "version").write_text(version + "\n")


@pytest.mark.parametrize(
    ("loaded", "hailort", "status", "says"),
    [
        ({"hailo_pci": "4.20.0"}, "4.20.0", OK, "hailo_pci 4.20.0, the same as HailoRT"),
        ({"hailo1x_pci": "5.2.0"}, "5.2.0", OK, "hailo1x_pci 5.2.0, the same as HailoRT"),
        ({"hailo_pci": "4.23.0", "hailo1x_pci": "5.2.0"}, "5.2.0", OK, "the same as HailoRT"),
        ({"hailo_pci": "4.20.0"}, "4.20.1", PROBLEM, "hailo_pci 4.20.0, but HailoRT is 4.20.1"),
        ({"hailo_pci": "4.20.0"}, "4.23.0", PROBLEM, "hailo_pci 4.20.0, but HailoRT is 4.23.0"),
        ({"hailo_pci": "4.20.0"}, None, OK, "hailo_pci 4.20.0"),
        ({"hailo_pci": None}, "4.20.0", OK, "hailo_pci, which tells no version"),
        ({"hailo_pci": "odd"}, "4.20.0", PROBLEM, "hailo_pci odd, but HailoRT is 4.20.0"),
    ],
)
def test_the_driver_must_be_of_hailorts_version(tmp_path, loaded, hailort, status, says):
    for name, version in loaded.items():
        module(tmp_path, name, version)
    check = check_driver(loaded_drivers(tmp_path), hailort, needed=True)
    assert check.status == status
    assert says in check.found
    assert ("of one version" in check.advice) == (status == PROBLEM)


@pytest.mark.parametrize(("hailort", "name"), [("4.20.0", "hailo_pci"), ("5.2.0", "hailo1x_pci"), (None, "hailo_pci")])
def test_without_a_driver_the_advice_names_the_right_one(tmp_path, hailort, name):
    missing = check_driver(loaded_drivers(tmp_path), hailort, needed=True)
    assert missing.status == PROBLEM
    assert f"sudo modprobe {name} " in missing.advice
    assert hailort is None or f"of version {hailort}" in missing.advice
    assert check_driver({}, hailort, needed=False).status == NOTE


def test_the_device_file_must_be_there_and_open_to_this_user(tmp_path):
    for name in ("hailo0", "hailo_integrated_nnc", "hailort", "hailo1"):
        (tmp_path / name).touch()
    nodes = device_nodes(tmp_path)
    assert [node.name for node in nodes] == ["hailo0", "hailo1"]
    assert check_device_node(nodes, True, lambda node: True).status == OK
    closed = check_device_node(nodes, False, lambda node: node.name == "hailo0")
    assert closed.status == PROBLEM
    assert closed.found == f"{tmp_path}/hailo1 cannot be read and written by this user"
    assert f"sudo chmod a+rw {tmp_path}/hailo1" in closed.advice
    assert check_device_node([], True, lambda node: True).status == PROBLEM
    assert check_device_node([], False, lambda node: True).status == NOTE


def test_processes_that_hold_the_device_are_named(tmp_path):
    node = tmp_path / "hailo0"
    node.touch()
    proc = tmp_path / "proc"
    for pid, target, name in ((812, node, "python3"), (9, tmp_path / "other", "cat"), (1001, node, "app")):
        (proc / str(pid) / "fd").mkdir(parents=True)
        (proc / str(pid) / "fd" / "3").symlink_to(target)
        (proc / str(pid) / "comm").write_text(name + "\n")
    (proc / "77").mkdir()  # ended meanwhile
    assert device_holders(proc, [node]) == ["python3 (pid 812)", "app (pid 1001)"]
    assert device_holders(proc, []) == []


# Devices


def test_a_device_that_answers_is_described():
    (check,) = check_device(READY, True)
    assert check == Check("device", OK, "hailo8 at 0000:01:00.0, firmware 4.20.0, 49 °C")


def test_each_device_has_its_line():
    probe = Probe(installed=True, hailort="5.2.0", devices=(H10, H8), step="done")
    first, second = check_device(probe, True)
    assert (first.status, second.status) == (OK, PROBLEM)
    assert "hailo10h at 0001:01:00.0" in first.found
    assert second.found.endswith("but HailoRT is 5.2.0")
    assert second.advice == "install HailoRT 4.x for this device"


def test_a_device_that_no_bundle_is_made_for_is_named():
    probe = Probe(installed=True, hailort="4.20.0", devices=(Device("a", "hailo15l", "1", 40.0),), step="done")
    assert check_device(probe, True)[0].status == PROBLEM


def test_no_device():
    empty = Probe(installed=True, hailort="4.20.0", step="done")
    assert check_device(empty, True)[0] == Check(
        "device", PROBLEM, "none found", "see the lines 'driver' and 'device-node'"
    )
    assert check_device(empty, False)[0].status == NOTE
    assert check_device(ABSENT, True)[0].status == NOTE  # the line 'hailort' has the problem


@pytest.mark.parametrize("status", [73, 74])
def test_a_device_in_use_is_reported_with_who_uses_it(status):
    probe = failed("claim", "libhailort failed", status, devices=(H8,))
    known, unknown = check_device(probe, True, ["app (pid 812)"]), check_device(probe, True)
    assert [check.status for check in known] == [OK, PROBLEM]
    assert known[-1].found == "in use by app (pid 812)"
    assert unknown[-1].found == "in use by another process"
    assert "--share-device" in known[-1].advice
    assert check_device(probe, False)[-1].status == NOTE


@pytest.mark.parametrize("status", [76, 85, 86])
def test_a_driver_of_another_version_is_a_problem_everywhere(status):
    check = check_device(failed("scan", f"libhailort failed with error: {status}", status), False)[-1]
    assert check.status == PROBLEM
    assert "driver and HailoRT of one version" in check.advice


def test_a_driver_that_is_not_running():
    assert check_device(failed("scan", "64", 64), True)[-1].status == PROBLEM
    assert check_device(failed("scan", "64", 64), False)[-1] == Check(
        "device", NOTE, "no driver is running", "see the line 'driver'"
    )


def test_any_other_failure_keeps_the_vendors_words():
    probe = failed("identify", "Failure in hailort driver ioctl", kind="HailoRTDriverOperationFailedException")
    check = check_device(probe, False)[-1]
    assert check.status == PROBLEM
    assert check.found == (
        "identifying the device failed (HailoRTDriverOperationFailedException: Failure in hailort driver ioctl)"
    )
    assert "dmesg" in check.advice


def test_an_error_without_a_text_is_told_by_its_class(vendor):
    vendor(STUB + "def no(): raise HailoRTException\nDevice.scan = staticmethod(no)")
    check = check_device(probe_hailort(), True)[-1]
    assert check.found == "looking for devices failed (HailoRTException)"


def test_the_service_is_a_note(tmp_path):
    assert check_service(tmp_path / "none").status == NOTE
    (tmp_path / "sock").touch()
    assert check_service(tmp_path / "sock").status == OK


# Bundles


def make_bundle(folder, arch="hailo8", emulated=False, sdk_version="3.30.0", hef_arch=None, zero_point=0.0):
    """A bundle whose manifest and HEFs are sound, and hold nothing that could run."""
    sys.path.insert(0, str(FAKES))
    try:
        from hef_file import ARCHITECTURES, FakeStream, build_hef
    finally:
        sys.path.remove(str(FAKES))
    folder.mkdir()
    names = ["encoder.emulated.onnx", "decoder.emulated.onnx"] if emulated else ["encoder.hef", "decoder.hef"]
    for name in names:
        group = name.split(".")[0]
        hef = build_hef(
            hw_arch=ARCHITECTURES[hef_arch or arch],
            network_group=group,
            inputs=[FakeStream(f"{group}/input_layer1", (1, 4, 8), 1, 0.0, 1.0, ("mel",))],
            outputs=[FakeStream(f"{group}/conv1", (1, 4, 8), 1, zero_point, 1.0, ("features",))],
            version=2,
            sdk_version=sdk_version,
        )
        (folder / name).write_bytes(hef)
    entry = {name: {"size": (folder / name).stat().st_size, "sha256": doctor_sha256(folder / name)} for name in names}
    data = {
        "schema": 1,
        "provenance": "emulated" if emulated else "compiled",
        "name": f"whisper-toy-1s-seq8-{arch}",
        "model": {
            "variant": "toy",
            "arch": arch,
            "seconds": 1,
            "sequence": 8,
            "dims": {"n_vocab": 8},
            "vocabulary_parts": [2, 2, 2, 2],
        },
        "tokenizer": {"sot_sequence": [1], "eot": 2, "file": "toy.tiktoken"},
        "files": entry,
    }
    sealed = manifest_format.seal(data, "0.1.0")
    (folder / manifest_format.FILENAME).write_bytes(manifest_format.serialise(sealed))
    return folder


def doctor_sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_emulated_bundle_says_so(tmp_path):
    check, bundle = check_bundle(make_bundle(tmp_path / "b", emulated=True))
    assert check.status == OK
    assert "EMULATED: runs on this CPU, not on a Hailo device" in check.found
    assert bundle.manifest.emulated


def test_a_damaged_or_missing_bundle_is_a_problem(tmp_path):
    missing, none = check_bundle(tmp_path / "nowhere")
    assert (missing.status, none) == (PROBLEM, None)
    assert "no such folder" in missing.found
    folder = make_bundle(tmp_path / "b")
    (folder / "encoder.hef").write_bytes(b"other")
    damaged, none = check_bundle(folder)
    assert (damaged.status, none, damaged.advice) == (PROBLEM, None, "build or copy the bundle again")
    assert damaged.found.endswith("(digest differs)")


def test_a_compiled_bundle_is_matched_with_device_and_hailort(tmp_path):
    _, bundle = check_bundle(make_bundle(tmp_path / "b"))
    checks = hef_checks(bundle, READY)
    assert [(check.check, check.status) for check in checks] == [
        ("bundle-hef", OK),
        ("bundle-device", OK),
        ("bundle-hailort", OK),
    ]
    assert "encoder.hef for hailo8 by DFC 3.30.0" in checks[0].found


def test_a_hef_for_another_architecture_than_its_bundle_is_a_problem(tmp_path):
    _, bundle = check_bundle(make_bundle(tmp_path / "b", hef_arch="hailo8l"))
    (check,) = hef_checks(bundle, READY)
    assert check.status == PROBLEM
    assert check.found == "encoder.hef is for hailo8l, its bundle says hailo8"


def test_a_dead_output_is_a_problem(tmp_path):
    _, bundle = check_bundle(make_bundle(tmp_path / "b", zero_point=20000.0))
    (check,) = hef_checks(bundle, READY)
    assert (check.check, check.status) == ("bundle-hef", PROBLEM)


@pytest.mark.parametrize(
    ("arch", "devices", "status", "says"),
    [
        ("hailo8", ["hailo8"], OK, "which is here"),
        ("hailo8l", ["hailo8"], NOTE, "ARCH=hailo8)"),
        ("hailo8", ["hailo8l"], PROBLEM, "ends with -hailo8l"),
        ("hailo8", ["hailo10h"], PROBLEM, "ends with -hailo10h"),
        ("hailo10h", ["hailo8l"], PROBLEM, "ends with -hailo8l"),
        ("hailo8", ["hailo8l", "hailo8"], OK, "which is here"),
        ("hailo8", [], PROBLEM, "see the line 'device'"),
        ("hailo8", ["hailo12l"], PROBLEM, "does not run on hailo12l"),
    ],
)
def test_a_bundle_runs_on_its_device_and_the_larger_one(arch, devices, status, says):
    check = check_bundle_device(arch, devices)
    assert check.status == status
    assert says in f"{check.found}: {check.advice}"


@pytest.mark.parametrize(
    ("dfc", "hailort", "status", "says"),
    [
        (["3.30.0"], "4.20.1", OK, "made for HailoRT 4.20"),
        (["5.1.0"], "5.1.1", OK, "made for HailoRT 5.1"),
        (["3.31.0"], "4.23.0", NOTE, "a later HailoRT usually runs it"),
        (["3.33.0"], "4.20.0", PROBLEM, "install HailoRT 4.23"),
        (["3.33.0"], "5.2.0", PROBLEM, "install HailoRT 4.23"),
        (["5.2.0"], "4.23.0", PROBLEM, "install HailoRT 5.2"),
        (["3.29.0"], "4.20.0", NOTE, "its HailoRT is not known"),
        (["0.0.0"], "4.20.0", NOTE, "its HailoRT is not known"),
        ([""], "4.20.0", NOTE, "its HailoRT is not known"),
        (["3.30.0", "3.31.0"], "4.21.0", NOTE, "3.30.0, 3.31.0"),
        (["3.30.0"], None, PROBLEM, "see the line 'hailort'"),
    ],
)
def test_a_bundle_belongs_to_a_hailort(dfc, hailort, status, says):
    check = check_bundle_hailort(dfc, hailort)
    assert check.status == status
    assert says in f"{check.found}: {check.advice}"


# The whole


@pytest.fixture
def bare_machine(monkeypatch):
    """No driver and no device file, whatever this machine has."""
    monkeypatch.setattr(doctor, "loaded_drivers", lambda root: {})
    monkeypatch.setattr(doctor, "device_nodes", lambda root: [])


def statuses(checks):
    return {check.check: check.status for check in checks}


def test_where_nothing_of_hailort_is_here_its_absence_is_a_note(bare_machine):
    checks = runtime_checks(ABSENT)
    assert all_is_well(checks)
    assert {name for name, status in statuses(checks).items() if status == NOTE} == {
        "hailort",
        "driver",
        "device-node",
        "device",
    }


def test_a_part_of_hailort_asks_for_the_others(bare_machine):
    found = statuses(runtime_checks(Probe(installed=True, hailort="4.20.0", step="done")))
    assert (found["driver"], found["device-node"], found["device"]) == (PROBLEM, PROBLEM, PROBLEM)


def test_a_driver_asks_for_hailort(bare_machine, monkeypatch):
    monkeypatch.setattr(doctor, "loaded_drivers", lambda root: {"hailo_pci": "4.20.0"})
    assert statuses(runtime_checks(ABSENT))["hailort"] == PROBLEM


def test_a_host_that_only_builds_needs_no_device(bare_machine):
    found = statuses(runtime_checks(Probe(installed=True, hailort="4.20.0", step="done"), build_host=True))
    assert (found["driver"], found["device-node"], found["device"]) == (NOTE, NOTE, NOTE)


def test_an_emulated_bundle_needs_no_device_and_a_compiled_one_does(bare_machine, tmp_path):
    here = Probe(installed=True, hailort="4.20.0", step="done")
    emulated = statuses(runtime_checks(here, make_bundle(tmp_path / "e", emulated=True)))
    assert (emulated["device"], emulated["onnxruntime"], "bundle-device" in emulated) == (NOTE, OK, False)
    compiled = statuses(runtime_checks(ABSENT, make_bundle(tmp_path / "c")))
    assert (compiled["hailort"], compiled["driver"], compiled["bundle-device"]) == (PROBLEM, PROBLEM, PROBLEM)


def test_onnxruntime_is_a_problem_only_for_an_emulated_bundle(bare_machine, tmp_path, monkeypatch):
    real = import_package
    gone = Import(None, "not installed")
    monkeypatch.setattr(doctor, "import_package", lambda name: gone if name == "onnxruntime" else real(name))
    assert statuses(runtime_checks(ABSENT))["onnxruntime"] == NOTE
    assert statuses(runtime_checks(ABSENT, make_bundle(tmp_path / "e", emulated=True)))["onnxruntime"] == PROBLEM


@pytest.mark.parametrize(("hailort", "there"), [("4.20.0", True), ("5.2.0", False)])
def test_the_service_is_looked_for_on_hailort_4_only(bare_machine, hailort, there):
    checks = runtime_checks(Probe(installed=True, hailort=hailort, step="done"))
    assert ("service" in statuses(checks)) == there


def test_text_is_one_line_a_check():
    checks = [Check("python", OK, "3.11 on aarch64"), Check("device-node", PROBLEM, "no /dev/hailo0", "plug it in")]
    assert as_text(checks).splitlines() == [
        "ok       python       3.11 on aarch64",
        "problem  device-node  no /dev/hailo0: plug it in",
    ]


def test_json_has_stable_keys():
    checks = [Check("python", OK, "3.11"), Check("driver", NOTE, "none", "load it")]
    assert json.loads(as_json(checks)) == {
        "ok": True,
        "checks": [
            {"check": "python", "status": "ok", "found": "3.11", "advice": ""},
            {"check": "driver", "status": "note", "found": "none", "advice": "load it"},
        ],
    }
    assert json.loads(as_json([*checks, Check("device", PROBLEM, "")]))["ok"] is False


def test_the_command_ends_with_0_or_1(vendor, bare_machine, tmp_path, capsys, monkeypatch):
    emulated = make_bundle(tmp_path / "e", emulated=True)
    monkeypatch.setenv("PYTHONPATH", "")
    assert cli.main(["doctor", "--bundle", str(emulated)]) == 0
    assert "EMULATED" in capsys.readouterr().out
    assert cli.main(["doctor", "--json", "--bundle", str(tmp_path / "none")]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert [check["check"] for check in report["checks"] if check["status"] == "problem"] == ["bundle"]


def test_debug_shows_what_the_vendor_printed(vendor, bare_machine, capsys):
    vendor(STUB + "import sys; sys.stderr.write('[HailoRT] [error] ioctl failed\\n')")
    cli.main(["doctor"])
    assert "ioctl" not in capsys.readouterr().err
    cli.main(["doctor", "--debug"])
    assert "[HailoRT] [error] ioctl failed" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["numpy", "tiktoken", "soundfile", "soxr", "xxhash", "onnxruntime"])
def test_the_command_works_without_any_of_its_packages(tmp_path, package):
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / f"{package}.py").write_text(f"raise ImportError('{package} is broken here')")
    bundle = make_bundle(tmp_path / "c")
    done = subprocess.run(
        [sys.executable, "-m", "whisper_runtime", "doctor", "--json", "--bundle", str(bundle)],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    (check,) = [check for check in json.loads(done.stdout)["checks"] if check["check"] == package]
    assert check["found"] == f"cannot be imported (ImportError: {package} is broken here)"
    assert check["status"] == ("note" if package == "onnxruntime" else "problem")
