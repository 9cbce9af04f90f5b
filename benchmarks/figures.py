"""What a benchmark measured, in numbers: it tells them in its last line, and bench.py takes them from there."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

_MARK = "figures: "


@dataclass(frozen=True)
class Figure:
    """One figure, and what is promised of it. Less is better in all of them.

    Attributes:
        what: what was measured.
        ours: how much.
        unit: of `ours` and `other`.
        beside: the method that ours is compared with; None if it is with none.
        other: how much that one needed, in the same run.
        most_ratio: the promise on ours / other; None if there is none.
        most: the promise on `ours`; None if there is none.
    """

    what: str
    ours: float
    unit: str
    beside: str | None = None
    other: float | None = None
    most_ratio: float | None = None
    most: float | None = None

    @property
    def ratio(self) -> float | None:
        """ours / other."""
        return self.ours / self.other if self.other else None

    @property
    def kept(self) -> bool | None:
        """Whether all that is promised holds; None if nothing is."""
        promises = [
            value <= limit
            for value, limit in ((self.ratio, self.most_ratio), (self.ours, self.most))
            if value is not None and limit is not None
        ]
        return all(promises) if promises else None

    def as_dict(self) -> dict[str, Any]:
        """Everything, as plain JSON values."""
        return {**asdict(self), "ratio": self.ratio, "kept": self.kept}


def tell(*figures: Figure) -> int:
    """Print figures for bench.py; return the exit status: 1 if a promise is broken."""
    print(_MARK + json.dumps([asdict(figure) for figure in figures]))
    return int(any(figure.kept is False for figure in figures))


def take(output: Sequence[str]) -> tuple[list[str], list[Figure]]:
    """Part what a benchmark printed into the lines for readers and its figures."""
    lines = [line for line in output if not line.startswith(_MARK)]
    told = [line.removeprefix(_MARK) for line in output if line.startswith(_MARK)]
    return lines, [Figure(**values) for line in told for values in json.loads(line)]
