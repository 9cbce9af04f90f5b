"""What changed between two evaluations."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whisper_runtime.evaluation.metrics import difference
from whisper_runtime.evaluation.table import probability

from whisper_toolchain.evaluation.clip_choice import key
from whisper_toolchain.evaluation.result import measured_rungs

_MOST_CLIPS = 5
_FACTS = ("bundle", "dataset", "language", "normaliser", "machine", "versions", "toolchain", "git_revision", "command")
_SPEECH = ("name", "digest", "seed", "limit")

_Clips = Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]


@dataclass(frozen=True)
class _Counted:
    errors: int
    words: int


def comparison(first: Mapping[str, Any], second: Mapping[str, Any], rungs: Iterable[str] | None = None) -> str:
    """Say what differs between two results, A and B, and which recordings came out better or worse.

    Args:
        first: A, checked.
        second: B, checked.
        rungs: on which recordings are shown; None for the last one that both have.
    """
    lines = [_title("A", first), _title("B", second)]
    lines += _differences(first, second)
    lines += _warnings(first, second)
    a, b = ({rung["name"]: rung for rung in measured_rungs(result)} for result in (first, second))
    common = {name: _common(a[name], b[name]) for name in a if name in b}
    lines.append(f"{'rung':<16}{'clips':>6}{'A %':>8}{'B %':>8}{'B - A':>8}  95 % interval of the difference")
    lines += [_figures(name, clips) for name, clips in common.items()]
    for name in [*a, *(name for name in b if name not in a)]:
        if name not in common:
            lines.append(f"{name:<16}was measured in {'A' if name in a else 'B'} only")
    for name in list(common)[-1:] if rungs is None else rungs:
        lines += _changed(name, common[name]) if name in common else [f"{name}: not measured in both"]
    return "\n".join(_printable(line) for line in lines)


def _title(letter: str, result: Mapping[str, Any]) -> str:
    bundle = result["bundle"]
    parts = [letter, bundle["name"], bundle["version"] or "without a bundle", result.get("date") or ""]
    return " ".join(filter(None, (*parts, "EMULATED" if bundle["emulated"] else "")))


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    a, b = _flat(first), _flat(second)
    differing = [name for name in dict.fromkeys([*a, *b]) if a.get(name) != b.get(name)]
    if not differing:
        return ["bundle, dataset, versions, machine and commit are the same"]
    return [f"differs: {name}: {_fact(a.get(name))} -> {_fact(b.get(name))}" for name in differing]


def _flat(result: Mapping[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name in _FACTS:
        value = result.get(name)
        if name == "dataset":
            value = {each: result[name].get(each) for each in _SPEECH}
        if isinstance(value, Mapping):
            facts |= {f"{name}.{inner}": value[inner] for inner in sorted(value)}
        else:
            facts[name] = value
    return facts


def _fact(value: Any) -> str:
    return "none" if value is None else str(value)


def _warnings(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    lines = []
    if first["dataset"]["digest"] != second["dataset"]["digest"]:
        lines.append("warning: A and B are of different speech: what follows is of the recordings that both have")
    if (first["language"], first["normaliser"]) != (second["language"], second["normaliser"]):
        lines.append("warning: language or normaliser differ: the word error rates do not mean the same")
    return lines


def _common(a: Mapping[str, Any], b: Mapping[str, Any]) -> _Clips:
    others = {key(clip): clip for clip in b["clips"]}
    return [(clip, others[key(clip)]) for clip in a["clips"] if key(clip) in others]


def _figures(name: str, clips: _Clips) -> str:
    words = sum(a["words"] for a, _ in clips)
    if not words:
        return f"{name:<16}{len(clips):>6}  no words in common"
    # The references are A's: where B has others, the warning has said so or the line below does.
    found = difference(*([_Counted(pair[i]["errors"], pair[0]["words"]) for pair in clips] for i in (1, 0)))
    rates = (100.0 * sum(pair[i]["errors"] for pair in clips) / words for i in (0, 1))
    line = f"{name:<16}{len(clips):>6}" + "".join(f"{rate:>8.2f}" for rate in rates)
    line += f"{found.points:>+8.2f}  {found.low:+.2f} to {found.high:+.2f} ({probability(found.p)})"
    others = sum(a["reference"] != b["reference"] for a, b in clips)
    return line + (f"; {others} have another reference in B" if others else "")


def _changed(name: str, clips: _Clips) -> list[str]:
    better = sorted((pair for pair in clips if _extra(pair) < 0), key=lambda pair: (_extra(pair), pair[0]["id"]))
    worse = sorted((pair for pair in clips if _extra(pair) > 0), key=lambda pair: (-_extra(pair), pair[0]["id"]))
    others = sum(a["text"] != b["text"] and a["errors"] == b["errors"] for a, b in clips)
    lines = [
        f"{name}: {len(better)} recordings better in B, {len(worse)} worse, {others} as many errors in another text"
    ]
    for word, pairs in (("better", better), ("worse", worse)):
        for a, b in pairs[:_MOST_CLIPS]:
            lines += [
                f"  {word}: {a['id']}: errors {a['errors']} -> {b['errors']}, words {a['words']}",
                f"    said  {a['reference']}",
                f"    A     {a['text']}",
                f"    B     {b['text']}",
            ]
        if len(pairs) > _MOST_CLIPS:
            lines.append(f"  {word}: {len(pairs) - _MOST_CLIPS} more")
    return lines


def _extra(pair: tuple[Mapping[str, Any], Mapping[str, Any]]) -> int:
    return int(pair[1]["errors"] - pair[0]["errors"])


def _printable(line: str) -> str:
    """Without what would move a terminal's cursor or change its colours."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)
