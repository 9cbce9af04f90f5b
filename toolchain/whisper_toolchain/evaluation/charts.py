"""An evaluation's charts: rows of a name, a strip of inline SVG, and the figure."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup
from whisper_runtime.evaluation.table import probability
from whisper_runtime.evaluation.verdict import first_broken

from whisper_toolchain.evaluation.result import measured_rungs
from whisper_toolchain.html_page import bar, counted, join, percent

_LENGTHS = (0, 2, 5, 10, 15, 20, 30, 60, math.inf)  # seconds
_MOST_LAYERS = 30
SENSITIVE_DB = 10.0
"""Below this a layer is marked: the vendor's own mark for a sensitive layer."""

STYLE = Markup("""
.rungs { list-style: none; padding: 0; margin: 0 } .rung { padding: .5rem 0 }
.rung .head { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1rem }
.rung.broken { position: relative } .rung.broken::before { content: ""; position: absolute; left: -.7rem; top: 0;
  bottom: 0; width: .3rem; background: var(--bad) } .rung.broken .tag { color: var(--bad) }
.rung.missing { color: var(--soft) } .tag { font-weight: 700; white-space: nowrap }
.strip .range { stroke: var(--mark); stroke-width: 8; opacity: .35 } .strip .point { fill: var(--mark) }
.broken .strip .range { stroke: var(--bad) } .broken .strip .point { fill: var(--bad) }
.strip .before { stroke: var(--ink); stroke-width: 2 }
.bars { display: grid; grid-template-columns: minmax(6rem, 9rem) minmax(0, 1fr) 4.5rem; gap: .15rem .6rem;
  align-items: center; font-size: .9rem; margin-bottom: .8rem }
.bars > .wide { grid-column: 1 / -1; margin-top: .4rem } .bars > .figure { text-align: right }
.layers { grid-template-columns: minmax(0, 1fr) 5.5rem }
code { font-size: .85em }
""")


def ladder(result: Mapping[str, Any]) -> Markup:
    """Each rung's word error rate with its interval, all on one scale; then those that are missing, by their reason."""
    measured = measured_rungs(result)
    rates = {rung["name"]: rung["score"]["wer"] for rung in measured}
    greatest = 1.05 * max([rung["score"]["wer_high"] for rung in measured] + list(rates.values()) + [1.0])
    broken = first_broken(result["rungs"])
    missing: dict[str, list[str]] = {}
    for rung in result["rungs"]:
        if rung["status"] == "missing":
            missing.setdefault(rung["reason"], []).append(rung["name"])
    rows = join(
        [
            *(_rung(each, rates, greatest, each is broken) for each in result["rungs"] if each["status"] != "missing"),
            *(_missing(names, reason) for reason, names in missing.items()),
        ]
    )
    return Markup('{}<ul class="rungs">{}</ul>').format(_axis(greatest), rows)


def _rung(rung: Mapping[str, Any], rates: Mapping[str, float], greatest: float, broken: bool) -> Markup:
    tag = Markup(' <span class="tag">✗ first broken rung</span>') if broken else ""
    if rung["status"] != "measured":
        return Markup(
            '<li class="rung {}"><div class="head"><span><b>{}</b>{}</span></div><small>{}: {}</small></li>'
        ).format("broken" if broken else "", rung["name"], tag, rung["status"], rung["reason"])
    score, against = rung["score"], rung["against"]
    figure = f"{score['wer']:.2f} % ({score['wer_low']:.2f} – {score['wer_high']:.2f})"
    notes = []
    if against:
        notes.append(
            f"{against['points']:+.2f} points against {against['name']} "
            f"({against['low']:+.2f} to {against['high']:+.2f}, {probability(against['p'])})"
        )
        notes.append(f"new here: {rung['changed']}")
    if rung["failed"]:
        notes.append(f"{counted(len(rung['failed']), 'recording')} failed on this rung: not in its figures")
    return Markup(
        '<li class="rung{}"><div class="head"><span><b>{}</b>{}</span><span>{}</span></div>{}<small>{}</small></li>'
    ).format(
        " broken" if broken else "",
        rung["name"],
        tag,
        figure,
        _strip(score, rates.get(against["name"]) if against else None, greatest, f"{rung['name']}: {figure}"),
        "; ".join(notes),
    )


def _missing(names: Sequence[str], reason: str) -> Markup:
    return Markup(
        '<li class="rung missing"><div class="head"><span><b>{}</b></span></div><small>missing: {}</small></li>'
    ).format(", ".join(names), reason)


def _strip(score: Mapping[str, Any], before: float | None, greatest: float, label: str) -> Markup:
    lines = [_line("grid", tick, greatest, 0, 18) for tick in _ticks(greatest)]
    if before is not None:
        lines.append(_line("before", before, greatest, 2, 16))
    low, at, high = (percent(score[name], greatest) for name in ("wer_low", "wer", "wer_high"))
    return Markup(
        '<svg class="strip" height="18" role="img" aria-label="{}">{}'
        '<line class="range" x1="{}" x2="{}" y1="9" y2="9"/><circle class="point" cx="{}" cy="9" r="6"/></svg>'
    ).format(label, join(lines), low, high, at)


def _axis(greatest: float) -> Markup:
    texts = join(
        Markup('<text x="{}" y="12" text-anchor="{}">{:g}{}</text>').format(
            percent(tick, greatest), "middle" if tick else "start", tick, "" if tick else " %"
        )
        for tick in _ticks(greatest)
        if tick <= 0.97 * greatest
    )
    return Markup('<svg class="axis" height="16" aria-hidden="true">{}</svg>').format(texts)


def _line(kind: str, value: float, greatest: float, top: int, bottom: int) -> Markup:
    x = percent(value, greatest)
    return Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(kind, x, x, top, bottom)


def _ticks(greatest: float) -> list[float]:
    """Round values from 0, six at most."""
    power = 10.0 ** math.floor(math.log10(greatest / 5))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= greatest / 5)
    return [i * step for i in range(int(greatest / step) + 1)]


def by_length(result: Mapping[str, Any]) -> Markup:
    """Word error rate of stock, float and the last rung, by the length of the recordings."""
    measured = measured_rungs(result)
    shown = [rung for rung in measured if rung["name"] in ("stock", "float") or rung is measured[-1]]
    groups = []
    for low, high in itertools.pairwise(_LENGTHS):
        inside = [[clip for clip in rung["clips"] if low <= clip["duration"] < high] for rung in shown]
        if any(inside):
            name = f"{low:g} to {high:g} s" if high < math.inf else f"{low:g} s and longer"
            groups.append((name, inside))
    rates = [[_rate(clips) for clips in inside] for _, inside in groups]
    greatest = max((rate for row in rates for rate in row if rate is not None), default=0.0)
    parts: list[Markup] = []
    for (name, inside), row in zip(groups, rates, strict=True):
        words = max(sum(clip["words"] for clip in clips) for clips in inside)
        count = max(len(clips) for clips in inside)
        parts.append(
            Markup('<div class="wide"><b>{}</b>: {}, {}</div>').format(
                name, counted(count, "recording"), counted(words, "word")
            )
        )
        for rung, rate in zip(shown, row, strict=True):
            figure = "-" if rate is None else f"{rate:.1f} %"
            parts += [
                Markup("<span>{}</span>").format(rung["name"]),
                bar(rate or 0.0, greatest, f"{rung['name']}: {figure}"),
                Markup('<span class="figure">{}</span>').format(figure),
            ]
    return _bars(parts, "")


def _rate(clips: Sequence[Mapping[str, Any]]) -> float | None:
    words = sum(clip["words"] for clip in clips)
    return 100.0 * sum(clip["errors"] for clip in clips) / words if words else None


def layer_noise(noise: Mapping[str, Any]) -> Markup:
    """The noise by layer, the noisiest first, and the line that gives a layer 16 bits in the recipe.

    A bar is what the layer adds itself. Hailo's compiler does not tell that: there it is all noise up to the layer.
    """
    layers = noise["layers"]
    by = noise_key(noise)
    greatest = max([*(layer[by] for layer in layers if _is_figure(layer[by])), SENSITIVE_DB])
    shown = _bars((part for layer in layers[:_MOST_LAYERS] for part in _layer(layer, by, greatest)), "layers")
    if len(layers) <= _MOST_LAYERS:
        return shown
    rest = _bars((part for layer in layers[_MOST_LAYERS:] for part in _layer(layer, by, greatest)), "layers")
    return Markup("{}<details><summary>{} layers with less noise</summary>{}</details>").format(
        shown, len(layers) - _MOST_LAYERS, rest
    )


def noise_key(noise: Mapping[str, Any]) -> str:
    """The key of the ratio that a list of layers is about, and sorted by."""
    return "snr_db" if noise.get("compiler") == "dfc" else "own_snr_db"


def _layer(layer: Mapping[str, Any], by: str, greatest: float) -> list[Markup]:
    ratio, whole = layer[by], layer["snr_db"]
    figure = decibels(ratio)
    tag = Markup(' <span class="tag">{} with the noise before it</span>').format(decibels(whole))
    return [
        Markup('<div class="wide"><b>{}</b> <small>{}, {} bits, <code>{}</code></small>{}</div>').format(
            layer["layer"],
            layer["graph"],
            layer["bits"],
            layer["recipe_line"],
            tag if by != "snr_db" and whole is not None and whole < SENSITIVE_DB else "",
        ),
        bar(
            ratio if _is_figure(ratio) else greatest if ratio == math.inf else 0.0,
            greatest,
            f"{layer['layer']}: {figure}",
        ),
        Markup('<span class="figure">{}</span>').format(figure),
    ]


def decibels(ratio: float | None) -> str:
    """A signal-to-noise ratio in words."""
    if ratio is None or math.isnan(ratio):
        return "no figure"
    if math.isinf(ratio):
        return "no noise" if ratio > 0 else "all noise"
    return f"{ratio:.1f} dB"


def _is_figure(ratio: float | None) -> bool:
    return ratio is not None and math.isfinite(ratio)


def _bars(parts: Iterable[Markup], kind: str) -> Markup:
    return Markup('<div class="bars {}">{}</div>').format(kind, join(parts))
