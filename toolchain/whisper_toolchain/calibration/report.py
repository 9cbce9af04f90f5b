"""A page about a calibration set: one HTML file with its plots, which needs nothing else."""

from markupsafe import Markup

from whisper_toolchain.calibration.statistics import PERCENTILES, SetStatistics, TensorStatistics
from whisper_toolchain.html_page import histogram, join, page, table


def render_report(title: str, statistics: SetStatistics) -> bytes:
    """The page. The same statistics give the same bytes."""
    speakers = len(statistics.speakers) - (None in statistics.speakers)
    longest = max(statistics.seconds, default=0.0)
    bins = [0] * max(1, int(longest) + 1)
    for seconds in statistics.seconds:
        bins[int(seconds)] += 1
    warnings = join(Markup('<p class="warning">{}</p>').format(line) for line in statistics.warnings)
    parts = [
        Markup(
            "<p>{} windows for the encoder, {} of them for the decoder, {} speakers, {:.1f} minutes.</p>",
        ).format(len(statistics.seconds), statistics.decoder_rows, speakers or "unknown", sum(statistics.seconds) / 60),
        warnings or Markup("<p>Nothing to warn of.</p>"),
        Markup("<h2>Length of the windows</h2>"),
        histogram(bins, "0 s", f"{len(bins)} s"),
        Markup("<h2>Decoder slots that are filled</h2>"),
        histogram(statistics.filled, "slot 1", f"slot {len(statistics.filled)}"),
        *(_tensor(tensor) for tensor in statistics.tensors),
    ]
    return page(title, parts)


def _tensor(tensor: TensorStatistics) -> Markup:
    rows = [
        (f"{kept:g} %", f"{low:.3f}", f"{high:.3f}", f"{(high - low) / 255:.4f}")
        for kept, (low, high) in zip(PERCENTILES, tensor.ranges, strict=True)
    ]
    return join(
        (
            Markup(
                "<h2>{}</h2><p>{} rows, mean {:.3f}, deviation {:.3f}.<br>"
                "<small>Bars: number of values, as the square root, so that the ends show.</small></p>"
            ).format(tensor.name, tensor.rows, tensor.mean, tensor.deviation),
            histogram([count**0.5 for count in tensor.counts], f"{tensor.least:.2f}", f"{tensor.greatest:.2f}"),
            table(("kept", "from", "to", "step of 8 bits"), rows),
        )
    )
