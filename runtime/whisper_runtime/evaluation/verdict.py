"""Which rung of the ladder is the first broken one."""

from collections.abc import Mapping, Sequence
from typing import Any

# A rung is broken that is this much worse than the one it is compared with, and whose interval excludes no change.
BROKEN_POINTS = 2.0

# With n recordings that all differ, chance alone makes all of them worse once in 2**n times: that is 0.1 % for ten. Of
# fewer, a bootstrap promises more than it can know.
FEW_CLIPS = 10


def is_broken(rung: Mapping[str, Any]) -> bool:
    """Whether a measured rung lost accuracy that chance does not explain, or did not run at all."""
    if rung["status"] == "failed":
        return True
    against = rung.get("against")
    return bool(against and against["points"] >= BROKEN_POINTS and against["low"] > 0)


def first_broken(rungs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The first broken rung in the ladder's order; None if there is none."""
    return next((rung for rung in rungs if is_broken(rung)), None)


def verdict(rungs: Sequence[Mapping[str, Any]]) -> str:
    """One line that names the first broken rung, in the ladder's order, and what is new in it."""
    rung = first_broken(rungs)
    if rung is None and not any(rung.get("against") for rung in rungs):
        return "no rung was measured that another one here can be compared with"
    if rung is None:
        return f"no broken rung: none is {BROKEN_POINTS:g} points or more above the one before it, beyond chance"
    if rung["status"] == "failed":
        return f"first broken rung: {rung['name']} ({rung['changed']}): it does not run: {rung['reason']}"
    against = rung["against"]
    return (
        f"first broken rung: {rung['name']} ({rung['changed']}): {against['points']:+.1f} points against "
        f"{against['name']}, 95 % interval {against['low']:+.1f} to {against['high']:+.1f}{_of_few(rung)}"
    )


def _of_few(rung: Mapping[str, Any]) -> str:
    clips = rung["score"]["clips"]
    return f"; of {clips} recordings only, which is too few to be sure" if clips < FEW_CLIPS else ""
