"""Power and temperature of a device while it works, read once a second beside the work."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from whisper_runtime.closing import Closing
from whisper_runtime.errors import one_line
from whisper_runtime.hailort_status import status_of

SECONDS = 1.0
"""Between two readings. Each takes some milliseconds, in which no other thread of Python runs."""

_PATIENCE = 5.0  # seconds that a reading may take at the end; HailoRT gives the firmware one

_log = logging.getLogger(__name__)


class Reader(Protocol):
    """Reads a device's sensors. What it raises is up to the vendor."""

    def watts(self) -> float:
        """Power that the device takes now."""
        ...

    def celsius(self) -> float:
        """Temperature of its hottest place."""
        ...

    def close(self) -> None:
        """Give it back."""
        ...


@dataclass(frozen=True)
class Readings:
    """What was read in some time: watts, and degrees Celsius."""

    watts: tuple[float, ...] = ()
    celsius: tuple[float, ...] = ()


NOTHING_READ = Readings()


class Sensors(Closing):
    """Reads in a thread of its own until it is closed. A sensor that fails once is not asked again.

    Args:
        open_reader: opens the device's sensors; called here, and what it raises ends up in `reason`.
        seconds: between two readings; None for `SECONDS`.
    """

    def __init__(self, open_reader: Callable[[], Reader], seconds: float | None = None) -> None:
        self._seconds = SECONDS if seconds is None else seconds
        self._reasons: dict[str, str] = {}
        self._readings: dict[str, list[tuple[float, float]]] = {"power": [], "temperature": []}
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        try:
            self._reader = open_reader()
        except Exception as error:  # the vendor's exceptions have no common base, and the work goes on without
            self._reasons["sensors"] = _why(error)
            return
        self._thread = threading.Thread(target=self._read, name="sensors", daemon=True)
        self._thread.start()

    @property
    def reason(self) -> str:
        """What cannot be read and why, in one line; "" if all can."""
        return "; ".join(f"{what}: {why}" for what, why in self._reasons.items())

    def since(self, began: float) -> Readings:
        """What was read since a time of `time.perf_counter`, and is not older than that."""
        found = {
            what: tuple(value for moment, value in list(values) if moment >= began)
            for what, values in self._readings.items()
        }
        return Readings(found["power"], found["temperature"])

    def close(self) -> None:
        """Stop, and give the device's controls back. A reading that hangs is left behind."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(_PATIENCE)
            alive, self._thread = self._thread.is_alive(), None
            if alive:
                _log.warning("a reading of the device's sensors hangs and is left behind")
                return
            try:
                self._reader.close()
            except Exception as error:  # the vendor's exceptions have no common base, and nothing depends on this
                _log.warning("closing the device's sensors failed: %s", _why(error))

    def _read(self) -> None:
        reads = {"power": self._reader.watts, "temperature": self._reader.celsius}
        while reads:
            for what, read in list(reads.items()):
                moment = time.perf_counter()
                try:
                    self._readings[what].append((moment, read()))
                except Exception as error:  # not every board has every sensor
                    self._reasons[what] = _why(error)
                    del reads[what]
            if self._closed.wait(self._seconds):
                return


def _why(error: Exception) -> str:
    status = status_of(error)
    return one_line(error) + ("" if status is None else f" (HailoRT status {status})")
