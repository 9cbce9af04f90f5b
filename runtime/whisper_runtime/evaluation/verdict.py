"""Which rung of the ladder is the first broken one."""

from collections.abc import Mapping, Sequence
from typing import Any

# A rung is broken that is this much worse than the one it is compared with, and whose interval excludes no change.
BROKEN_POINTS = 2.0

# With n recordings that all differ, chance alone makes all of them worse once in 2**n times: that is 0.1 % for ten. Of
# fewer, a bootstrap promises more than it can know.
FEW_CLIPS = 10


def is_broken(rung: Mapping[str, Any]) -> bool:
    """Whether a rung lost accuracy that chance does not explain, or failed on one recording or on all."""
    return rung["status"] == "failed" or bool(_failures(rung)) or _is_worse(rung)


def _is_worse(rung: Mapping[str, Any]) -> bool:
    against = rung.get("against")
    return bool(against and against["points"] >= BROKEN_POINTS and against["low"] > 0)


def _failures(rung: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The recordings that a rung fails on. A recording that has gone meanwhile is not the rung's fault."""
    return [each for each in rung.get("failed", ()) if not each.get("unreadable")]


def first_broken(rungs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The first broken rung in the ladder's order; None if there is none."""
    return next((rung for rung in rungs if is_broken(rung)), None)


def verdict(rungs: Sequence[Mapping[str, Any]]) -> str:
    """One line that names the first broken rung, in the ladder's order, and what is new in it."""
    rung = first_broken(rungs)
    if rung is None and not any(rung.get("against") for rung in rungs):
        return "no rung was measured that another one here can be compared with"
    if rung is None:
        return f"no broken rung: none is {BROKEN_POINTS:g} points or more above its comparison, beyond chance"
    said = []
    if rung["status"] == "failed":
        said.append(f"it does not run: {rung['reason']}")
    if _is_worse(rung):
        against = rung["against"]
        said.append(
            f"{against['points']:+.1f} points against {against['name']}, 95 % interval {against['low']:+.1f} to "
            f"{against['high']:+.1f}{_of_few(rung)}"
        )
    if failures := _failures(rung):
        tried = rung["score"]["clips"] + len(rung["failed"])
        said.append(f"it fails on {len(failures)} of {tried} recordings: {failures[0]['reason']}")
    return f"first broken rung: {rung['name']} ({rung['changed']}): {'; '.join(said)}"


def _of_few(rung: Mapping[str, Any]) -> str:
    clips = rung["score"]["clips"]
    return f"; of {clips} recordings only, which is too few to be sure" if clips < FEW_CLIPS else ""
