"""A page about a calibration set: one HTML file with its plots, which needs nothing else."""

from collections.abc import Sequence
from html import escape

from whisper_toolchain.calibration.statistics import PERCENTILES, SetStatistics, TensorStatistics

_WIDTH, _HEIGHT = 640, 120

_STYLE = """
body { font: 16px/1.45 system-ui, sans-serif; max-width: 44rem; margin: 1.5rem auto; padding: 0 1rem; color: #222 }
svg { width: 100%; height: auto; background: #f6f7f9 } svg rect { fill: #3273a8 }
table { border-collapse: collapse; font-size: .9rem } td, th { padding: .2rem .8rem .2rem 0; text-align: right }
.warning { background: #fff3cd; padding: .4rem .7rem; margin: .3rem 0 } small { color: #666 }
"""


def render_report(title: str, statistics: SetStatistics) -> str:
    """The page as HTML. The same statistics give the same text."""
    warnings = "".join(f'<p class="warning">{escape(line)}</p>' for line in statistics.warnings)
    speakers = len(statistics.speakers) - (None in statistics.speakers)
    longest = max(statistics.seconds, default=0.0)
    bins = [0] * max(1, int(longest) + 1)
    for seconds in statistics.seconds:
        bins[int(seconds)] += 1
    parts = [
        f"<p>{len(statistics.seconds)} windows for the encoder, {statistics.decoder_rows} of them for the decoder, "
        f"{speakers or 'unknown'} speakers, {sum(statistics.seconds) / 60:.1f} minutes.</p>",
        warnings or "<p>Nothing to warn of.</p>",
        "<h2>Length of the windows</h2>",
        _bars(bins, "0 s", f"{len(bins)} s"),
        "<h2>Decoder slots that are filled</h2>",
        _bars(statistics.filled, "slot 1", f"slot {len(statistics.filled)}"),
        *(_tensor(tensor) for tensor in statistics.tensors),
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style><h1>{escape(title)}</h1>{''.join(parts)}</html>\n"
    )


def _tensor(tensor: TensorStatistics) -> str:
    rows = "".join(
        f"<tr><td>{kept:g} %</td><td>{low:.3f}</td><td>{high:.3f}</td><td>{(high - low) / 255:.4f}</td></tr>"
        for kept, (low, high) in zip(PERCENTILES, tensor.ranges, strict=True)
    )
    return (
        f"<h2>{escape(tensor.name)}</h2>"
        f"<p>{tensor.rows} rows, mean {tensor.mean:.3f}, deviation {tensor.deviation:.3f}.<br>"
        "<small>Bars: number of values, as the square root, so that the ends show.</small></p>"
        + _bars([count**0.5 for count in tensor.counts], f"{tensor.least:.2f}", f"{tensor.greatest:.2f}")
        + f"<table><tr><th>kept</th><th>from</th><th>to</th><th>step of 8 bits</th></tr>{rows}</table>"
    )


def _bars(heights: Sequence[float], left: str, right: str) -> str:
    greatest = max(heights, default=0) or 1
    width = _WIDTH / len(heights)
    bars = "".join(
        f'<rect x="{i * width:.1f}" y="{_HEIGHT - _HEIGHT * height / greatest:.1f}" width="{max(1.0, width - 1):.1f}" '
        f'height="{_HEIGHT * height / greatest:.1f}"/>'
        for i, height in enumerate(heights)
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + 18}">{bars}<text x="0" y="{_HEIGHT + 14}" font-size="13">{escape(left)}'
        f'</text><text x="{_WIDTH}" y="{_HEIGHT + 14}" font-size="13" text-anchor="end">{escape(right)}</text></svg>'
    )
