"""Pages: what is in them, without a browser; and tables that a click sorts, in one."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from pseudoseg_tf.page import figure, page, picture, swatch, table
from pseudoseg_tf.visualize import palette_picture
from tests.browser import look_at
from tests.html_page import Page

ROWS = [
    ["name", "pixels", "IoU"],
    ["cat", "9", "10.5 %"],
    ["Dog <b>", "1,234", "-"],
    ["ant", "20", "9.25 %"],
]


def test_a_table_escapes_text_and_knows_numbers(tmp_path: Path) -> None:
    text = page("a & b", [table(ROWS, "scores", {(1, 0): swatch((1, 2, 3))})])
    (tmp_path / "page.html").write_text(text)
    read = Page(tmp_path / "page.html")
    assert read.cells[:3] == ROWS[0] and read.cells[6] == " Dog <b>"
    assert "<b>" not in text and "<title>a &amp; b</title>" in text
    kinds = [part.split('"')[0] for part in text.split('<th scope="col" class="')[1:]]
    assert kinds == ["text", "number", "number"]
    assert "rgb(1, 2, 3)" in text
    assert "<tbody>" in table(ROWS[:1], "nothing found")
    assert read.links == [] and "http" not in text


def test_pictures_are_inside_and_exact(tmp_path: Path) -> None:
    labels = np.array([[0, 1], [2, 255]], np.uint8)
    palette = ((0, 0, 0), (200, 0, 0), (0, 100, 0))
    shown = picture(palette_picture(labels, palette), 'a "b"')
    assert shown.startswith('<img src="data:image/png;base64,') and 'alt="a &quot;b&quot;"' in shown
    data = base64.b64decode(shown.split("base64,")[1].split('"')[0])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), labels)
    photo = picture(Image.fromarray(np.full([5, 7, 3], 90, np.uint8)), "photo")
    assert photo.startswith('<img src="data:image/jpeg;base64,') and 'width="7" height="5"' in photo


def test_a_figure_takes_the_colors_of_the_page() -> None:
    def drawn() -> Figure:
        made = Figure()
        made.add_subplot().plot([0, 1], [2, 3], "k")
        return made

    text = figure(drawn(), "a < b")
    assert text.startswith('<svg class="chart" role="img" aria-label="a &lt; b"') and text.endswith("</svg>")
    assert "#000000" not in text and text.count("currentColor") > 2
    assert "<style" not in text and 'id="axes_1"' not in text and "#ffffff" not in text
    assert figure(drawn(), "a < b") == text


def test_tables_sort_in_a_browser(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(page("Sorting", [table(ROWS, "scores")]))
    seen = look_at(tmp_path / "page.html", tmp_path)
    assert seen["errors"] == [] and seen["missing"] == []
    names, pixels, ious = seen["tables"][0]
    assert names == {
        "name": "name",
        "before": ["cat", "Dog <b>", "ant"],
        "once": ["ant", "cat", "Dog <b>"],
        "twice": ["Dog <b>", "cat", "ant"],
    }
    # Numbers begin with the largest.
    assert (pixels["once"], pixels["twice"]) == (["1,234", "20", "9"], ["9", "20", "1,234"])
    assert (ious["once"], ious["twice"]) == (["10.5 %", "9.25 %", "-"], ["9.25 %", "10.5 %", "-"])
