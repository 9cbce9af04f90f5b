"""Reads a Hailo device's power and temperature through HailoRT's controls, which are the same from 4.20 to 5.2.

- Temperature is that of two sensors in the chip, on every chip.
- Power has a sensor on some boards: evaluation boards, and M.2 and mPCIe modules with current monitoring; on Hailo-10H
  where its Linux has one. Elsewhere HailoRT raises, mostly with status 48 (unsupported opcode), 18 (the firmware's
  control failed), or 13 (no such file, Hailo-10H).

Each value is a single measurement. The long one (`start_power_measurement`), which averages in the firmware, switches
the module's protection from overcurrent off until it is stopped, and a process that is killed does not stop it.
"""

from typing import Any


class DeviceReader:
    """The sensors of an opened device, which is the reader's from now on.

    Args:
        hailo: the vendor's package.
        device: its `Device`.
    """

    def __init__(self, hailo: Any, device: Any) -> None:
        self._device = device
        self._what = (hailo.DvmTypes.AUTO, hailo.PowerMeasurementTypes.POWER)

    def watts(self) -> float:
        """Power of the module, or of the chip where only that is measured. Raises what HailoRT raises."""
        return float(self._device.control.power_measurement(*self._what))

    def celsius(self) -> float:
        """The warmer of the chip's two sensors. Raises what HailoRT raises."""
        found = self._device.control.get_chip_temperature()
        return max(float(found.ts0_temperature), float(found.ts1_temperature))

    def close(self) -> None:
        """Close the device's controls; whoever runs on it goes on. Raises what HailoRT raises."""
        self._device.release()
