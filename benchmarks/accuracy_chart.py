"""Draws the word error rates that accuracy.py has written down, as docs/accuracy.svg.

    .venv/bin/python benchmarks/accuracy_chart.py benchmarks/results/accuracy.json docs/accuracy.svg

One group of bars for each bundle whose forms have all been measured on the speech.
"""

import argparse
import json
import sys
from pathlib import Path
from xml.sax.saxutils import escape

SPEECH = "dev-clean"
FORMS = {
    "reference": ("Hailo's reference flow", "#c0504d"),
    "float": ("this project, in the accelerator's slots", "#1f6fb2"),
    "float/host": ("this project, decoder on the CPU", "#6fb1e0"),
    "stock": ("openai-whisper, 30 s of context", "#8a8a8a"),
}

WIDTH, LEFT, RIGHT, BAR, GAP, TOP = 800, 170, 60, 16, 18, 60


def draw(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """The chart of {bundle: {speech: {form: percent}}} as SVG."""
    groups = {bundle: rates[SPEECH] for bundle, rates in results.items() if set(FORMS) <= set(rates.get(SPEECH, {}))}
    if not groups:
        raise SystemExit(f"no bundle has all of {', '.join(FORMS)} on {SPEECH}: run accuracy.py --results first")
    scale = (WIDTH - LEFT - RIGHT) / max(rates[form] for rates in groups.values() for form in FORMS)
    height = TOP + len(groups) * (len(FORMS) * BAR + GAP)
    parts = [f'<rect width="{WIDTH}" height="{height}" fill="white"/>']
    for index, (label, colour) in enumerate(FORMS.values()):
        x, y = 10 + index % 2 * WIDTH // 2, 10 + index // 2 * 20
        parts += [f'<rect x="{x}" y="{y}" width="12" height="12" fill="{colour}"/>', _text(x + 18, y + 11, label)]
    y = TOP
    for bundle, rates in groups.items():
        variant, seconds, slots, _ = bundle.removeprefix("whisper-").split("-")
        parts.append(_text(10, y + 2 * BAR, variant, "bold"))
        parts.append(_text(10, y + 3 * BAR, f"{seconds[:-1]} s, {slots[3:]} slots"))
        for form, (_, colour) in FORMS.items():
            length = rates[form] * scale
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR - 2}" fill="{colour}"/>')
            parts.append(_text(LEFT + length + 5, y + BAR - 4, f"{rates[form]:.1f} %"))
            y += BAR
        y += GAP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" font-family="sans-serif" '
        'font-size="13">',
        f"<title>Word error rates on LibriSpeech {SPEECH}</title>",
        *parts,
        "</svg>",
    ]
    return "".join(line + "\n" for line in lines)


def _text(x: float, y: float, text: str, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-weight="{weight}">{escape(text)}</text>'


def main() -> int:
    """Read, draw and write; return the exit status."""
    parser = argparse.ArgumentParser(description="Draw the word error rates that accuracy.py has written down.")
    parser.add_argument("results", type=Path, help="JSON that accuracy.py --results has written")
    parser.add_argument("chart", type=Path, help="SVG to write")
    options = parser.parse_args()
    options.chart.write_text(draw(json.loads(options.results.read_text(encoding="utf-8"))), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
