"""What our HTML pages are made of: one file that needs nothing else, in which all that is put in is escaped.

Text becomes part of a page through `Markup.format`, which escapes everything that is not `Markup` itself (MarkupSafe).
Charts are inline SVG whose lengths across are percentages: their text stays as large on a phone as on a screen.
"""

from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

# Without a word about scripts, none runs, whatever a transcript says.
_POLICY = Markup("default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:")

_STYLE = Markup("""
:root { color-scheme: light dark; --ink: #1c1f24; --soft: #5b6370; --paper: #fff; --panel: #f4f5f7; --line: #d5d9df;
  --mark: #2f6db0; --warn: #8a5a00; --warn-paper: #fff3cd; --bad: #b3261e; --good: #1f6f3f }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #a2a9b4; --paper: #14161a; --panel: #1e2228;
  --line: #3a404a; --mark: #6ea8e6; --warn: #ffd479; --warn-paper: #3a2f12; --bad: #ff8a80; --good: #7fd39b } }
* { box-sizing: border-box }
body { font: 16px/1.45 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1rem; color: var(--ink);
  background: var(--paper); overflow-wrap: anywhere }
h1 { font-size: 1.5rem; line-height: 1.2 } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem }
small, .soft { color: var(--soft); font-size: .85rem }
svg { display: block; width: 100%; overflow: visible } svg text { font-size: 12px; fill: var(--soft) }
svg .value { fill: var(--mark) } svg .grid { stroke: var(--line) }
.warning { background: var(--warn-paper); color: var(--warn); padding: .5rem .8rem; margin: .4rem 0;
  border-left: .3rem solid }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
td, th { padding: .25rem .7rem .25rem 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line) }
td:first-child, th:first-child { text-align: left }
.ends { display: flex; justify-content: space-between } .histogram { background: var(--panel) }
""")
_NO_STYLE = Markup("")


def page(title: str, parts: Iterable[Markup], style: Markup = _NO_STYLE) -> bytes:
    """A whole page, UTF-8.

    Args:
        title: in the window's title and at the top.
        parts: what follows.
        style: CSS in addition to that of every page.
    """
    text = Markup(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="{}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<title>{}</title>\n<style>{}{}</style>\n</head>\n<body>\n<h1>{}</h1>\n{}\n</body>\n</html>\n"
    ).format(_POLICY, title, _STYLE, style, title, join(parts, "\n"))
    # JSON can hold half a surrogate pair, which UTF-8 cannot.
    return text.encode("utf-8", "replace")


def join(parts: Iterable[str], between: str = "") -> Markup:
    """Put parts one behind the other; those that are not `Markup` are escaped."""
    return escape(between).join(parts)


def counted(number: int, noun: str) -> str:
    """Such as "1 word" and "2 words"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """A table that scrolls in a box of its own where it is too wide; the first column names the row."""
    head = join(Markup('<th scope="col">{}</th>').format(each) for each in heads)
    body = join(
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(
            row[0], join(Markup("<td>{}</td>").format(cell) for cell in row[1:])
        )
        for row in rows
    )
    return Markup(
        '<div class="scroll" tabindex="0"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>'
    ).format(head, body)


def percent(value: float, greatest: float) -> str:
    """A share of the width, at most all of it, as CSS and SVG write it."""
    return f"{100 * min(1.0, max(0.0, value / greatest if greatest > 0 else 0.0)):.2f}%"


def bar(value: float, greatest: float, label: str) -> Markup:
    """A horizontal bar; `label` is for those who do not see it."""
    return Markup(
        '<svg class="bar" height="14" role="img" aria-label="{}">'
        '<line class="grid" x1="0" x2="100%" y1="13.5" y2="13.5"/>'
        '<rect class="value" width="{}" height="14"/></svg>'
    ).format(label, percent(value, greatest))


def histogram(heights: Sequence[float], left: str, right: str) -> Markup:
    """Upright bars side by side, with a label below either end."""
    tall = 120
    greatest = max(heights, default=0) or 1
    bars = join(
        Markup('<rect class="value" x="{:.2f}%" width="{:.2f}%" y="{:.1f}" height="{:.1f}"/>').format(
            100 * i / len(heights), 90 / len(heights), tall - tall * height / greatest, tall * height / greatest
        )
        for i, height in enumerate(heights)
    )
    return Markup(
        '<svg class="histogram" height="{}" aria-hidden="true">{}</svg><div class="ends soft"><span>{}</span>'
        "<span>{}</span></div>"
    ).format(tall, bars, left, right)
