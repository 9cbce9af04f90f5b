"""What the vendor's log says that a user should know: telling lines, signal-to-noise ratios, and what to try."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# Parts of lines (FACTS section 2), in lower case.
TELLING = (
    "reducing optimization level to",
    "falling back to cpu",
    "assigning 4bit weights",
    "single context flow failed",
    "found valid partition to",
    "mapping failed",
)
SENSITIVE_DB = 10.0  # below this the vendor calls a layer sensitive

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LINE_END = re.compile(rb"\r\n|\n|\r(?=.)", re.DOTALL)
_NUMBER = r"[-+]?(?:inf|nan|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
_SNR = re.compile(rf"(\S+)\s+SNR:\s*({_NUMBER})\s*dB")
_LONGEST = 1 << 16

# Parts of what the vendor says, in lower case, and what helps.
_ADVICE = (
    (
        ("mapping failed", "no valid partition", "failed to find a valid partition", "agent infeasible"),
        "the graph does not fit the chip: try a smaller SECONDS or SEQUENCE, or another ARCH",
    ),
    (
        ("out of memory", "cannot allocate memory", "unable to allocate", "memoryerror", "resourceexhausted"),
        "memory ran out: close other programs, add swap, or use a machine with more RAM",
    ),
    (
        ("no space left", "disk quota"),
        "the disk is full: free some space",
    ),
    (
        ("calibset_size", "dataset_size"),
        "the recipe asks for more rows than were recorded: run `make calibrate` with a larger SAMPLES, or lower the "
        "recipe's rows",
    ),
    (
        ("no module named", "cannot import", "importerror"),
        "the compiler is not completely installed: install it again, into a virtual environment of its own",
    ),
)
_GO_ON = "read the end of the log; the same command run again goes on after the last finished step"
_BY_ACTION = {
    "translate": "this version of the compiler may lack an operation of the graph: try another one that knows the ARCH",
    "optimise": _GO_ON,
    "measure": _GO_ON,
    "compile": "read the end of the log; a smaller SECONDS or SEQUENCE, or another ARCH, takes less of the chip",
}


@dataclass(frozen=True)
class LogLine:
    """One line of output.

    Attributes:
        text: the line without colours and surrounding blanks.
        overwritten: True for a progress bar's state, which the next one replaces on a terminal.
    """

    text: str
    overwritten: bool


class LineSplitter:
    """Cuts a stream of bytes into lines; a progress bar's carriage return ends one too."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[LogLine]:
        """Yield the lines that a chunk completes."""
        self._rest += chunk
        start = 0
        for end in _LINE_END.finditer(self._rest):
            yield _line(self._rest[start : end.start()], end.group() == b"\r")
            start = end.end()
        self._rest = self._rest[start:]
        if len(self._rest) > _LONGEST:
            yield from self.finish()

    def finish(self) -> Iterator[LogLine]:
        """Yield what is left at the stream's end."""
        if self._rest:
            yield _line(self._rest, False)
        self._rest = b""


def _line(data: bytes, overwritten: bool) -> LogLine:
    return LogLine(_COLOUR.sub("", data.decode("utf-8", "replace")).strip(), overwritten)


def is_telling(line: str) -> bool:
    """Whether a user should see a line."""
    lowered = line.lower()
    return any(part in lowered for part in TELLING)


def telling_lines(lines: Iterable[str]) -> list[str]:
    """The lines that a user should see, each once, in order."""
    return list(dict.fromkeys(line for line in lines if is_telling(line)))


def parse_snr(lines: Iterable[str]) -> dict[str, float]:
    """The vendor's own signal-to-noise ratios by layer, in dB, maybe not finite; the last one of a layer counts."""
    return {match[1]: float(match[2]) for line in lines for match in _SNR.finditer(line)}


def what_to_try(action: str, said: Iterable[str]) -> str:
    """One line of advice for a failed step.

    Args:
        action: "translate", "optimise", "measure" or "compile".
        said: the vendor's error and the telling lines of its log, the most telling first.
    """
    for text in said:
        lowered = text.lower()
        for parts, advice in _ADVICE:
            if any(part in lowered for part in parts):
                return advice
    return _BY_ACTION[action]
