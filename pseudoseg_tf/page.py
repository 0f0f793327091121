"""HTML pages that work without a network: skeleton and styles, light and dark, sortable tables, pictures."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

_STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fff; --ink: #1a1d21; --faint: #5b636d; --line: #d4d8dd; --band: #f3f5f7; --link: #0b57b0;
  --bar: #3b82c4; --error: #a30000; --warning: #7a4b00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16181c; --ink: #e4e7eb; --faint: #a2abb6; --line: #3a4048; --band: #20242a; --link: #7db7ff;
    --error: #ff8a80; --warning: #f2b866;
  }
}
* { box-sizing: border-box; }
body {
  font: 1rem/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 80em; margin: 0 auto; padding: 1em 1em 4em; overflow-wrap: break-word;
}
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.25rem; margin-top: 2.2em; }
a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: 0.3em 1.2em; margin: 1em 0; }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.scroll { overflow-x: auto; margin: 1em 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border: 1px solid var(--line); padding: 0.25em 0.6em; text-align: right; }
td { white-space: nowrap; }
th { background: var(--band); vertical-align: bottom; }
.text { text-align: left; }
th button {
  font: inherit; color: inherit; text-align: inherit; background: none; border: 0; padding: 0; cursor: pointer;
}
th button::after { content: " \\2195"; color: var(--faint); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
li { margin: 0.3em 0; }
.error { color: var(--error); }
.warning { color: var(--warning); }
.faint, figcaption { color: var(--faint); font-size: 0.875rem; }
.swatch { display: inline-block; width: 0.9em; height: 0.9em; border: 1px solid gray; vertical-align: -0.1em; }
figure { margin: 1em 0; }
img { max-width: 100%; height: auto; }
svg.chart { display: block; width: 100%; height: auto; }
svg.chart text { fill: currentColor; }
"""

# A number with separators of thousands, and perhaps a unit; "-" is none.
_NUMBER = re.compile(r"[-+]?\d[\d,]*(\.\d+)?( ?%| \w+)?")
# "-" and nothing go last in either order.
_SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    const text = row => row.cells[column].textContent.trim();
    const number = row => parseFloat(text(row).replace(/,/g, ""));
    const empty = row => /^-?$/.test(text(row));
    const numeric = head.classList.contains("number");
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort") || (numeric ? "ascending" : "descending");
      const order = before === "ascending" ? "descending" : "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const compare = numeric
        ? (a, b) => sign * (number(a) - number(b))
        : (a, b) => sign * text(a).localeCompare(text(b));
      body.append(...[...body.rows].sort((a, b) => empty(a) - empty(b) || compare(a, b)));
    });
  });
}
"""


def page(title: str, parts: Iterable[str], style: str = "") -> str:
    """The whole text of a page.

    Args:
      title: plain text, the heading and the name of the window.
      parts: HTML below the heading.
      style: rules that this page has besides those of all pages.
    """
    heading = html.escape(title)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{heading}</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<style>{_STYLE}{style}</style></head><body>",
            f"<h1>{heading}</h1>",
            *parts,
            f"<script>{_SCRIPT}</script>",
            "</body></html>\n",
        ]
    )


def table(
    rows: Sequence[Sequence[str]], name: str, marks: Mapping[tuple[int, int], str] | None = None
) -> str:
    """A table whose rows the reader can sort by a click on the head of a column.

    Args:
      rows: plain text; the first row is the header.
      name: what the table shows, for those who hear the page.
      marks: HTML before the text of a cell, by row, 0 for the one below the header, and column.
    """
    marks = marks or {}
    kinds = [
        "number" if all(_is_number(row[column]) for row in rows[1:]) else "text"
        for column in range(len(rows[0]))
    ]
    head = "".join(
        f'<th scope="col" class="{kind}">{html.escape(cell)}</th>'
        for kind, cell in zip(kinds, rows[0], strict=True)
    )
    body = []
    for number, row in enumerate(rows[1:]):
        cells = []
        for column, (kind, cell) in enumerate(zip(kinds, row, strict=True)):
            text = html.escape(cell)
            mark = marks.get((number, column), "")
            cells.append(f'<td class="{kind}">{mark}{text}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return scroller(
        f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>\n'
        + "\n".join(body)
        + "</tbody></table>",
        name,
    )


def _is_number(cell: str) -> bool:
    return cell in ("", "-") or _NUMBER.fullmatch(cell) is not None


def scroller(content: str, name: str) -> str:
    """HTML that may be wider than the window, in a frame that scrolls, by the keyboard too."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{html.escape(name)}">{content}</div>'


def swatch(color: Sequence[int]) -> str:
    """A small square of a color, red, green and blue from 0 to 255."""
    return f'<span class="swatch" style="background: rgb({", ".join(map(str, color))})"></span> '


def picture(image: Image.Image, alt: str) -> str:
    """An image inside of the page: as PNG if it has a palette, as pictures of class ids have, else as JPEG."""
    buffer = io.BytesIO()
    kind = "png" if image.mode == "P" else "jpeg"
    image.save(buffer, kind, quality=85, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<img src="data:image/{kind};base64,{data}" width="{image.width}" height="{image.height}" '
        f'alt="{html.escape(alt)}">'
    )


def figure(drawn: Figure, alt: str) -> str:
    """A matplotlib figure inside of the page, as SVG; what is black has the color of the text, light or dark.

    Args:
      drawn: its background is left out.
      alt: what it shows, for those who hear the page.
    """
    from matplotlib import rc_context

    drawn.patch.set_visible(False)
    for axes in drawn.axes:
        axes.patch.set_visible(False)
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    # Text as text: it is small, and can be found and read aloud.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "page"}):
        drawn.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Matplotlib's style speaks of the whole document, and its names of parts repeat from figure to figure.
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[^"]*_\d+"', "", text)
    text = text.replace("#000000", "currentColor")
    label = f'<svg class="chart" role="img" aria-label="{html.escape(alt)}"'
    return text.replace("<svg", label, 1).strip()
