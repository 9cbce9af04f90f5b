"""The devices of the machine, who holds them, and the thread that works for one virtual device.

Sources: libhailort/src/vdevice/vdevice.cpp, vdevice_hrpc_client.cpp, src/utils/shared_resource_manager.hpp,
src/vdma/driver/hailort_driver.cpp, os/posix/linux/driver_os_specific.cpp.
"""

import fcntl
import hashlib
import os
import tempfile
import threading
from collections import deque
from pathlib import Path
from typing import Any

from hailo_platform._fake import config, faults
from hailo_platform._fake.statuses import check, failure

UNIQUE = "UNIQUE"
_shared: dict[str, "Chip"] = {}  # group id -> what this process has open under it


def scan() -> list[str]:
    """Ids of the devices. Without a driver, 64 up to 4.22; later versions then see no device."""
    device = config.device()
    if device.get("driver", config.VERSION) is None:
        check(config.RELEASE >= (4, 23), "DRIVER_NOT_INSTALLED")
        return []
    first = device.get("id", "0000:01:00.0")
    domain, bus, rest = first.split(":")
    return [f"{domain}:{int(bus, 16) + index:02x}:{rest}" for index in range(device.get("count", 1))]


def architecture() -> str:
    """HAILO8, HAILO8L or HAILO10H."""
    return config.device().get("architecture", "HAILO8")


def is_soc() -> bool:
    """Whether the device runs a server of its own, which the library talks to."""
    return architecture() == "HAILO10H" and config.RELEASE >= (5, 0)


def check_openable(device_id: str) -> None:
    """Opening a device looks for it and compares the driver's version with the library's."""
    check(device_id in scan(), "INVALID_ARGUMENT")
    check(config.device().get("driver", config.VERSION) == config.VERSION, "INVALID_DRIVER_VERSION")


class Chip:
    """A virtual device as the library holds it: shared by all VDevices of a group within the process."""

    def __init__(self, scheduled: bool, group: str, device_ids: list[str], handles: list[int]) -> None:
        self.scheduled = scheduled
        self.group = group
        self.device_ids = device_ids
        self.soc = is_soc()
        self.users = 1
        self.released = False
        self.cores: list[Any] = []  # configured models that were not shut down
        self.activated: Any = None  # the one that was activated by hand, without a scheduler
        self.pid = os.getpid()
        self.worker = Worker()
        self._handles = handles

    def release(self) -> None:
        """Give the device back, once every VDevice of the group did. In a forked child only the child's copy goes."""
        if os.getpid() != self.pid:
            for handle in self._handles:
                os.close(handle)
            self.released = True
            return
        self.users -= 1
        if self.users:
            return
        alive = [core for core in self.cores if not core.is_shut_down]
        for core in alive:
            core.abort("COMMUNICATION_CLOSED" if self.soc else "STREAM_ABORT")
        self.released = True
        self.worker.stop()
        _shared.pop(self.group, None)
        for handle in self._handles:
            fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)
        if alive:
            raise AssertionError(
                "VDevice.release: a configured model is still alive, and HailoRT keeps bare references to the device: "
                "leave the context of each ConfiguredInferModel first"
            )


def open_chip(scheduled: bool, group: str, service: bool, count: int, device_ids: list[str] | None) -> Chip:
    """VDevice::create. `scheduled`: round robin; `device_ids` None: any free device."""
    faults.reach("VDevice.create")
    check(count > 0, "INVALID_ARGUMENT")
    if service and config.RELEASE < (5, 0):
        check(scheduled, "INVALID_ARGUMENT")
        check(config.load().get("service", False), "RPC_FAILED")
    elif service:
        check(not is_soc(), "INVALID_OPERATION")  # it shares without a service
        check(config.load().get("service", False), "CONNECTION_REFUSED")
    found = scan()
    check(not (is_soc() and count != 1), "OUT_OF_PHYSICAL_DEVICES")
    if group in _shared:
        if _shared[group].pid != os.getpid():
            refuse("a VDevice of a group that was opened before the process forked")
        check(len(_shared[group].device_ids) == count, "INVALID_OPERATION")
        check(device_ids is None or set(device_ids) == set(_shared[group].device_ids), "INVALID_OPERATION")
        _shared[group].users += 1
        return _shared[group]  # with the scheduling that the first one asked for
    for device_id in device_ids or []:
        check(device_id in found, "INVALID_ARGUMENT")
    # Only the service and the server on the chip share a device between processes; a group alone does not.
    across = (service or is_soc()) and group != UNIQUE
    taken: list[str] = []
    handles: list[int] = []
    try:
        for device_id in found if device_ids is None else device_ids:
            if len(taken) == count:
                break
            check_openable(device_id)
            check(count == 1 or architecture() == "HAILO8", "INVALID_OPERATION")
            handle = _take(device_id, group if across else None)
            if handle is None and device_ids is None:
                continue
            check(handle is not None, "DEVICE_IN_USE")
            taken.append(device_id)
            handles.append(handle)
        check(len(taken) == count, "OUT_OF_PHYSICAL_DEVICES")
    except BaseException:
        for handle in handles:
            os.close(handle)
        raise
    chip = Chip(scheduled, group, taken, handles)
    if group != UNIQUE:
        _shared[group] = chip
    return chip


def _take(device_id: str, group: str | None) -> int | None:
    """Lock a device for this process, or together with others of `group`. None if somebody else has it."""
    machine = hashlib.sha256(os.environ.get("FAKE_HAILO", "").encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"fake-hailo-{os.getuid()}-{machine}-{device_id}.lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(handle, 0)
        os.write(handle, (group or "").encode())
        if group is not None:
            fcntl.flock(handle, fcntl.LOCK_SH)
        return handle
    except BlockingIOError:
        pass
    try:
        if group is not None:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if os.pread(handle, 4096, 0).decode() == group:
                return handle
    except BlockingIOError:
        pass
    os.close(handle)
    return None


class Worker:
    """One thread for all models of a virtual device: it takes a frame of each model in turn."""

    def __init__(self) -> None:
        self._wake = threading.Condition()
        self._waiting: dict[Any, deque] = {}  # core -> its frames, in the order in which cores get their turn
        self._stopped = False
        self._thread: threading.Thread | None = None

    def submit(self, core: Any, frame: Any) -> None:
        """Queue a frame."""
        with self._wake:
            self._waiting.setdefault(core, deque()).append(frame)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="fake-hailo-device", daemon=True)
                self._thread.start()
            self._wake.notify_all()

    def withdraw(self, core: Any) -> list[Any]:
        """Take back the frames of a core that were not started, and free the thread from one that never ends."""
        with self._wake:
            frames = list(self._waiting.pop(core, ()))
            self._wake.notify_all()
            return frames

    def stop(self) -> None:
        """End the thread."""
        with self._wake:
            self._stopped = True
            self._wake.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(10)

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopped or self._waiting)
                if self._stopped:
                    return
                core = next(iter(self._waiting))
                frames = self._waiting.pop(core)
                frame = frames.popleft()
                if frames:
                    self._waiting[core] = frames  # behind the others
                if frame.stalled:
                    self._wake.wait_for(lambda: self._stopped or core.is_shut_down)  # noqa: B023 - used at once
            core.execute(frame)


def chip_temperatures() -> tuple[float, float]:
    """Degrees Celsius of both sensors."""
    warmer = float(config.device().get("celsius", 45.5))
    return warmer - 1.25, warmer


def power() -> float:
    """Watts of the board's sensor. Without one, a firmware refuses, and Hailo-10H's Linux has no such file."""
    watts = config.device().get("watts")
    check(watts is not None, "OPEN_FILE_FAILURE" if is_soc() else "UNSUPPORTED_OPCODE")
    return float(watts)


def refuse(reason: str) -> None:
    """The misuse of something that HailoRT itself does not notice."""
    raise AssertionError(f"undefined behaviour in HailoRT: {reason}")


def check_alive(chip: Chip, what: str) -> None:
    """The device must be open, and opened by this process. configured_infer_model_hrpc_client.cpp."""
    if os.getpid() != chip.pid:
        refuse(f"{what} in another process than the one that opened the VDevice")
    if chip.released:
        if chip.soc:
            raise failure("INTERNAL_FAILURE")
        refuse(f"{what} after its VDevice was released")
