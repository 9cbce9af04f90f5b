"""An evaluation for those who stay in the terminal."""

from collections.abc import Mapping
from typing import Any


def table(result: Mapping[str, Any]) -> str:
    """The ladder with its figures, then what is missing, what could not be read, and the verdict."""
    dataset = result["dataset"]
    lines = [
        f"{result['bundle']['name']}: {dataset['clips']} clips of {dataset['name']} (seed {dataset['seed']}), "
        f"{dataset['seconds']:.0f} s, {result['normaliser']} normaliser"
    ]
    if result["bundle"]["emulated"]:
        lines.append("EMULATED: the bundle's rungs ran on this CPU with ONNX Runtime, not on a Hailo device")
    lines.append(
        f"{'rung':<20}{'WER %':>7}  {'95 % interval':<15}{'CER %':>6}{'sub':>5}{'del':>5}{'ins':>5}{'inv':>5}"
        f"{'empty':>6}{'calls':>7}{'enc s':>7}{'dec s':>7}{'RTF':>7}{'MB':>6}  against"
    )
    for rung in result["rungs"]:
        if rung["status"] != "measured":
            continue
        found, against = rung["score"], rung["against"]
        interval = f"{found['wer_low']:.2f} - {found['wer_high']:.2f}"
        encoder, decoder = (
            f"{rung['stages'][stage]:.1f}" if stage in rung["stages"] else "-" for stage in ("encoder", "decoder")
        )
        calls = "-" if rung["calls"] is None else rung["calls"]
        memory = f"{rung['peak_memory_mb']:.0f}" if rung["peak_memory_mb"] else "-"
        change = ""
        if against:
            change = f"{against['name']} {against['points']:+.2f} ({probability(against['p'])})"
        factor = f"{rung['real_time_factor']:.3f}" + ("*" if rung["drafted"] else "")
        lines.append(
            f"{rung['name']:<20}{found['wer']:>7.2f}  {interval:<15}{found['cer']:>6.2f}{found['substitutions']:>5}"
            f"{found['deletions']:>5}{found['insertions']:>5}{found['hallucinations']:>5}{found['empty']:>6}"
            f"{calls:>7}{encoder:>7}{decoder:>7}{factor:>7}{memory:>6}  {change}"
        )
        if rung["device"]:
            lines.append(f"{'':<20}{_sensors(rung['device'])}")
        if rung["failed"]:
            lines.append(f"{'':<20}{len(rung['failed'])} clips failed on this rung and are not in its figures")
    if any(rung["status"] == "measured" and rung["drafted"] for rung in result["rungs"]):
        lines.append("* drafted by the decoder for the host: the same text in fewer calls and less time (--no-drafts)")
    # Rungs that have one reason share a line.
    apart: dict[str, list[str]] = {}
    for rung in result["rungs"]:
        if rung["status"] != "measured":
            apart.setdefault(f"{rung['status']}: {rung['reason']}", []).append(rung["name"])
    lines += [f"{', '.join(names)}: {why}" for why, names in apart.items()]
    for clip in dataset["unreadable"]:
        lines.append(f"unreadable: {clip['id']}: {clip['reason']}")
    if dataset["without_text"]:
        lines.append(f"left out: {dataset['without_text']} recordings without a transcript")
    return "\n".join([*lines, result["verdict"]])


def probability(p: float) -> str:
    """A difference's probability for a person, such as "p 0.03"."""
    return "p < 0.001" if p < 0.001 else f"p {p:.3f}" if p < 0.01 else f"p {p:.2f}"


def _sensors(device: Mapping[str, Any]) -> str:
    """What the device took and how warm it got, in one line."""
    parts = []
    if device["power_w"]:
        parts.append(f"{device['power_w']['mean']:.2f} W on average, {device['power_w']['max']:.2f} W at most")
    if device["temperature_c"]:
        parts.append(f"{device['temperature_c']['max']:.1f} degrees Celsius at most")
    if device["reason"]:
        parts.append(f"not read: {device['reason']}")
    return "; ".join(parts)
