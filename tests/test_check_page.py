"""The page of a data check: what was found, and pictures that are really there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pseudoseg_tf.check_page import write_page
from pseudoseg_tf.data.check import check_data
from pseudoseg_tf.data.findings import Report
from pseudoseg_tf.data.specs import voc_palette
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.visualize import overlay
from tests.folder import draw_folder, small_config
from tests.html_page import Page


@pytest.fixture
def root(tmp_path: Path) -> Path:
    draw_folder(tmp_path / "data")
    return tmp_path / "data"


def report_on(root: Path) -> Report:
    return check_data(small_config(root).data, "unlabeled")


def test_page_of_a_good_folder(root: Path, tmp_path: Path) -> None:
    path = write_page(report_on(root), tmp_path / "out", "Check of data")
    assert path == tmp_path / "out/index.html"
    page = Page(path)
    assert "None." in page.text
    assert page.cells[-40:-32] == [
        *("id", "class", "labeled pixels", "labeled share", "labeled images"),
        *("val pixels", "val share", "val images"),
    ]
    assert page.cells[-8:] == ["255", "(ignored)", "0", "0.00 %", "0", "0", "0.00 %", "0"]
    # Background and red in two of the labeled images each, green in one.
    assert len(page.images) == 5
    assert sorted(page.images) == sorted(
        f"pictures/{file.name}" for file in (tmp_path / "out/pictures").iterdir()
    )
    assert page.links == page.images


def test_pictures_show_image_overlay_and_mask(root: Path, tmp_path: Path) -> None:
    path = write_page(report_on(root), tmp_path / "out", "Check")
    assert "green: 1 (data.labeled)" in path.read_text()
    with Image.open(tmp_path / "out/pictures/class002_labeled_1.jpg") as file:
        panel = np.asarray(file).astype(int)
    image = np.asarray(Image.open(root / "images/1.png"))
    labels = np.asarray(Image.open(root / "masks/1.png"))
    palette = voc_palette(3)
    tinted = overlay(image, labels, palette)
    # The middle of the square in each of the three pictures, 320 pixels wide, 4 apart, below a line of 20.
    rows, columns = np.nonzero(labels)
    row, column = int(rows.mean()), int(columns.mean())
    y, x = (round((each + 0.5) * 320 / 55) for each in (row, column))
    for place, expected in enumerate((image[row, column], tinted[row, column], palette[2])):
        found = panel[20 + y, 4 + place * 324 + x]
        assert np.abs(found - np.array(expected, int)).max() <= 30, place


def test_findings_are_shown_and_escaped(root: Path, tmp_path: Path) -> None:
    (root / "classes.txt").write_text("background\nred\n<green>&co\nvoid\n")
    (root / "val.txt").write_text("6\n7\n1\n")
    path = write_page(report_on(root), tmp_path / "out", "<title>")
    page = Page(path)
    assert "<green>" not in path.read_text()
    assert "<green>&co" in page.cells and "<title>" in page.text
    assert "data.labeled and data.val share 1 id ('1')" in page.text
    headings = re.findall(r'<h3 class="(\w+)">(.*?)</h3>', path.read_text())
    assert headings == [
        ("error", "error: ids both trained on and scored (1)"),
        ("warning", "warning: ignored pixels as a class (1)"),
        ("warning", "warning: classes that never occur (1)"),
    ]


def test_classes_without_labeled_images_are_shown_by_val(root: Path, tmp_path: Path) -> None:
    for record_id in "012":
        labels = np.asarray(Image.open(root / f"masks/{record_id}.png"))
        Image.fromarray(np.minimum(labels, 1)).save(root / f"masks/{record_id}.png")
    page = Page(write_page(report_on(root), tmp_path / "out", "Check"))
    assert [name for name in page.images if "class002" in name] == ["pictures/class002_val_1.jpg"]


def test_a_record_at_fault_gets_no_picture(root: Path, tmp_path: Path) -> None:
    Image.fromarray(np.ones((5, 5), np.uint8)).save(root / "masks/0.png")
    page = Page(write_page(report_on(root), tmp_path / "out", "Check"))
    assert not [name for name in page.images if "labeled_0" in name]


def test_an_earlier_page_is_replaced(root: Path, tmp_path: Path) -> None:
    first = write_page(report_on(root), tmp_path / "out", "First").read_text()
    second = write_page(report_on(root), tmp_path / "out", "Second").read_text()
    assert second == first.replace("First", "Second")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"index.html", "pictures"}


def test_a_folder_that_cannot_be_made(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/out: cannot be made \(Not a directory\); name another folder"):
        write_page(report_on(root), tmp_path / "file/out", "Check")
