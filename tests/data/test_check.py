"""The check of a data set: every mistake is found, and its line says how to mend it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pseudoseg_tf.config import Config
from pseudoseg_tf.config_io import apply_overrides
from pseudoseg_tf.data import check as check_module
from pseudoseg_tf.data.check import check_data
from pseudoseg_tf.data.findings import Findings, ListSummary, Report
from pseudoseg_tf.data.mask_signs import rim_share
from pseudoseg_tf.data.specs import voc_palette
from pseudoseg_tf.datasets.coco_annotations import Annotations
from pseudoseg_tf.datasets.coco_seg import OBJECT_NAMES
from pseudoseg_tf.datasets.shapes_seg import ShapesSeg, ShapesSegConfig
from pseudoseg_tf.errors import UserError
from tests.folder import draw_folder, small_config


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Eight images of about 40x56: 0 to 2 labeled, 3 to 5 unlabeled, 6 and 7 for evaluation."""
    draw_folder(tmp_path / "data")
    return tmp_path / "data"


def report_on(root: Path, *overrides: str, mode: str = "unlabeled") -> Report:
    config = apply_overrides(small_config(root, mode), overrides)
    return check_data(config.data, config.train.mode)


def found(report: Report) -> list[str]:
    """Each line with its severity."""
    return [f"{finding.severity}: {line}" for finding in report.findings for line in finding.text()]


def mask(root: Path, record_id: str | int) -> np.ndarray:
    return np.asarray(Image.open(root / f"masks/{record_id}.png"))


def save_mask(root: Path, record_id: str | int, labels: np.ndarray) -> None:
    Image.fromarray(labels).save(root / f"masks/{record_id}.png")


def change_masks(root: Path, change: Callable[[np.ndarray], np.ndarray], ids: str = "01267") -> None:
    for record_id in ids:
        save_mask(root, record_id, change(mask(root, record_id)))


def test_a_good_folder_has_no_findings(root: Path) -> None:
    for mode in ("supervised", "unlabeled"):
        assert found(report_on(root, mode=mode)) == []


def test_what_the_masks_hold(root: Path) -> None:
    labels = mask(root, 1).copy()
    labels[:2, :5] = 255
    save_mask(root, 1, labels)
    report = report_on(root)
    masks = {record_id: mask(root, record_id) for record_id in "01267"}
    for key, ids in (("data.labeled", "012"), ("data.val", "67")):
        values = np.concatenate([masks[record_id].ravel() for record_id in ids])
        summary = report.lists[key]
        np.testing.assert_array_equal(summary.pixels, np.bincount(values, minlength=256))
        assert summary.sizes == {record_id: masks[record_id].shape for record_id in ids}
        assert summary.masks == len(ids) and summary.without_mask == []
    # Images 0 and 2 show red, image 1 green.
    assert report.lists["data.labeled"].images[[0, 1, 2, 255]].tolist() == [3, 2, 1, 1]
    assert report.lists["data.labeled"].samples[2] == [(int((labels == 2).sum()), 1)]
    unlabeled = report.lists["data.unlabeled"]
    assert (unlabeled.masks, unlabeled.without_mask, unlabeled.pixels.sum()) == (0, ["3", "4", "5"], 0)

    header, *rows = report.class_table()
    assert header[:5] == ["id", "class", "labeled pixels", "labeled share", "labeled images"]
    assert [row[:2] for row in rows] == [
        ["0", "background"],
        ["1", "red"],
        ["2", "green"],
        ["255", "(ignored)"],
    ]
    total = sum(each.size for record_id, each in masks.items() if record_id in "012")
    assert rows[3][2:5] == ["10", f"{1000 / total:.2f} %", "1"]
    assert report.list_table()[1:] == [
        ["data.labeled", "3", "3", "40, 41, 42", "54, 55, 56"],
        ["data.val", "2", "2", "46, 46.5, 47", "49, 49.5, 50"],
        ["data.unlabeled", "3", "0", "43, 44, 45", "51, 52, 53"],
    ]


def test_samples_are_the_images_with_most_of_a_class(root: Path) -> None:
    (root / "labeled.txt").write_text("0\n1\n2\n6\n")
    (root / "val.txt").write_text("7\n")
    for record_id, pixels in (("0", 3), ("2", 5), ("6", 5)):
        labels = np.zeros_like(mask(root, record_id))
        labels[0, :pixels] = 1
        save_mask(root, record_id, labels)
    assert report_on(root).lists["data.labeled"].samples[1] == [(5, 2), (5, 3)]


class TestLabelEncoding:
    """All-black predictions, IoU 0 or NaN: masks that do not hold class ids."""

    def test_object_saved_white_of_two_classes(self, root: Path) -> None:
        (root / "classes.txt").write_text("background\nthing\n")
        change_masks(root, lambda labels: np.where(labels > 0, 255, 0).astype(np.uint8))
        lines = found(report_on(root))
        assert len(lines) == 5 and lines[0] == (
            "error: mask 0 (data.labeled): pixel values 0 and 255 alone, where 255 means ignored: save the object as "
            "1, not as white, or set data.binary_masks=true"
        )
        assert found(report_on(root, "data.binary_masks=true")) == []

    def test_object_saved_white_of_more_classes(self, root: Path) -> None:
        change_masks(root, lambda labels: np.where(labels > 0, 255, 0).astype(np.uint8))
        lines = found(report_on(root))
        assert lines[0] == (
            "error: data.labeled: the 3 masks looked at hold the values 0, 255 alone, which is no class but the "
            "background; save class ids as pixel values (255 means ignored; where it is the object, set "
            "data.binary_masks=true)"
        )
        assert lines[1].startswith("error: data.val: the 2 masks looked at hold the values 0, 255 alone")
        assert (
            "warning: mask 0 (data.labeled): pixel values 0 and 255 alone, and 255 means ignored; where it is an "
            "object saved as white, save the object's class id"
        ) in lines

    def test_palette_masks_saved_again_as_colors(self, root: Path) -> None:
        colors = np.array(voc_palette(3), np.uint8)
        change_masks(root, lambda labels: colors[labels])
        report = report_on(root)
        lines = found(report)
        assert lines[0] == (
            "error: mask 0 (data.labeled): stored as a color picture; a mask holds one class id per pixel: save it "
            "as an 8-bit grey or palette PNG whose pixel values are class ids, or name a file of the classes' "
            "colors in data.palette"
        )
        assert report.count("error") == len(lines) == 5
        (root / "colors.txt").write_text("background 0 0 0\nred 128 0 0\ngreen 0 128 0\n")
        assert found(report_on(root, f"data.palette={root / 'colors.txt'}")) == []

    def test_a_color_that_is_no_class(self, root: Path) -> None:
        (root / "colors.txt").write_text("background 0 0 0\nred 128 0 0\ngreen 0 128 0\n")
        picture = np.zeros((40, 56, 3), np.uint8)
        picture[7, 9] = (0, 120, 0)
        save_mask(root, 0, picture)
        assert found(report_on(root, f"data.palette={root / 'colors.txt'}"))[0] == (
            "error: mask 0 (data.labeled): the color 0 120 0 at row 7, column 9 (1 of 2240 pixels have such colors) "
            "is none of data.palette, nearest: 0 128 0 (class 2); add it there, as 'ignore' if it is no class, or save "
            "the mask without smoothing"
        )

    def test_ids_that_want_mapping(self, root: Path) -> None:
        (root / "classes.txt").write_text("".join(f"class{number}\n" for number in range(19)))
        label_ids = np.array([7, 26, 33], np.uint8)
        change_masks(root, lambda labels: label_ids[labels])
        assert found(report_on(root))[0] == (
            "error: mask 0 (data.labeled): pixel values 7, 26; allowed are the class ids 0 to 18 and 255 (ignored): "
            "save class ids as pixel values, or name all classes (Cityscapes: take the labelTrainIds files, not "
            "labelIds)"
        )

    def test_ignored_pixels_counted_as_a_class(self, root: Path) -> None:
        (root / "classes.txt").write_text("background\nred\ngreen\nDon't care\n")
        lines = found(report_on(root))
        assert lines[0] == (
            'warning: class 3 is named "Don\'t care", but is learned and scored like any class; if its pixels are to '
            "be ignored, save them as 255 and take the name off the list"
        )
        assert lines[1].startswith(
            'warning: class 3 "Don\'t care" is in no mask of data.labeled or data.val;'
        )

    @pytest.mark.parametrize("name", ["void", "Un-labeled", "255", "border", "IGNORE"])
    def test_names_of_ignored_pixels(self, root: Path, name: str) -> None:
        (root / "classes.txt").write_text(f"background\nred\n{name}\n")
        assert found(report_on(root))[0].startswith(f"warning: class 2 is named {name!r}, but is learned")

    def test_nothing_but_background(self, root: Path) -> None:
        change_masks(root, np.zeros_like)
        lines = found(report_on(root))
        assert lines[:2] == [
            f"error: {key}: the {count} masks looked at hold the values 0 alone, which is no class but the background; "
            "save class ids as pixel values (255 means ignored)"
            for key, count in (("data.labeled", 3), ("data.val", 2))
        ]

    def test_ids_that_begin_at_one(self, root: Path) -> None:
        change_masks(root, lambda labels: np.where(labels == 255, 255, np.minimum(labels, 1) + 1))
        assert any(
            line.startswith("error: no pixel of any mask is 0, the background")
            for line in found(report_on(root))
        )
        without = found(report_on(root, "data.background=none"))
        assert not any("no pixel of any mask is 0" in line for line in without)

    def test_another_class_is_called_background(self, root: Path) -> None:
        names = (root / "classes.txt").read_text().split()
        (root / "classes.txt").write_text("\n".join([*names[1:], names[0]]) + "\n")
        expected = f"warning: the background is class 0 {names[1]!r}, but class {len(names) - 1} is named"
        assert any(line.startswith(expected) for line in found(report_on(root)))


class TestEditedMasks:
    """Masks that an image editor changed, and that still hold class ids only."""

    @pytest.mark.parametrize("factor", [0.5, 0.7, 2.0])
    @pytest.mark.parametrize("filtering", ["BILINEAR", "BICUBIC", "LANCZOS"])
    def test_resized_with_interpolation(self, factor: float, filtering: str) -> None:
        disks = drawn_disks(np.array([0, 5, 2]))
        size = [round(factor * side) for side in disks.shape[::-1]]
        assert rim_share(disks) == 0
        resized = Image.fromarray(disks).resize(size, Image.Resampling[filtering])
        assert 0.25 < rim_share(np.asarray(resized)) < 0.8
        assert rim_share(np.asarray(Image.fromarray(disks).resize(size, Image.Resampling.NEAREST))) == 0

    def test_colors_resized_and_brought_back_to_a_palette(self) -> None:
        """Between black and teal lie green and blue, between others other classes: not in order of the ids."""
        colors = np.array(voc_palette(21))
        rgb = Image.fromarray(colors.astype(np.uint8)[drawn_disks(np.array([0, 15, 6]))])
        small = np.asarray(rgb.resize((100, 100), Image.Resampling.BILINEAR)).astype(int)
        nearest = ((small[:, :, None] - colors) ** 2).sum(axis=-1).argmin(axis=-1).astype(np.uint8)
        assert set(np.unique(nearest)) > {0, 15, 6}
        assert rim_share(nearest) > 0.125

    def test_borders_of_ignored_pixels_are_no_rims(self) -> None:
        disks = drawn_disks(np.array([0, 1, 2]))
        edges = np.zeros(disks.shape, bool)
        edges[1:] |= disks[1:] != disks[:-1]
        edges[:, 1:] |= disks[:, 1:] != disks[:, :-1]
        assert rim_share(np.where(edges, 255, disks).astype(np.uint8)) == 0

    def test_too_few_to_tell(self) -> None:
        labels = np.zeros((40, 40), np.uint8)
        labels[:, 20], labels[:, 21:] = 1, 2
        assert rim_share(labels[:29]) == 0
        assert rim_share(labels[:30]) == pytest.approx(1 / 3)

    def test_rims_are_reported(self, root: Path) -> None:
        disks = Image.fromarray(drawn_disks(np.array([0, 2, 2])))
        for name in ("images", "masks"):
            disks.resize((75, 75), Image.Resampling.BILINEAR).save(root / name / "0.png")
        lines = [line for line in found(report_on(root)) if "outlines" in line]
        assert len(lines) == 1
        assert re.fullmatch(
            r"warning: mask 0 \(data.labeled\): on 21 % of its outlines a third class lies between two others, "
            "one pixel thin, as resizing with interpolation makes it; resize masks by nearest neighbor",
            lines[0],
        )

    def test_palettes_that_differ(self, root: Path) -> None:
        colors = {"0": voc_palette(3), "1": voc_palette(3), "2": voc_palette(3)[::-1]}
        for record_id, palette in colors.items():
            image = Image.fromarray(mask(root, record_id))
            image.putpalette([value for color in palette for value in color])
            image.save(root / f"masks/{record_id}.png")
        assert found(report_on(root)) == [
            "warning: mask 2 (data.labeled): palette index 0 has the color 0 128 0, but 0 0 0 in mask 0 "
            "(data.labeled); palette indices are the class ids: if an editor numbered the colors anew, save the mask "
            "in the palette of the others, or as RGB with data.palette"
        ]

    def test_a_grey_palette_beside_a_colored_one(self, root: Path) -> None:
        for record_id, palette in {"0": voc_palette(3), "1": [(level,) * 3 for level in range(3)]}.items():
            image = Image.fromarray(mask(root, record_id))
            image.putpalette([value for color in palette for value in color])
            image.save(root / f"masks/{record_id}.png")
        assert found(report_on(root)) == []


def drawn_disks(ids: np.ndarray) -> np.ndarray:
    """uint8 [200, 200]: a disk of each of the last two ids on the first."""
    rows, columns = np.mgrid[:200, :200]
    labels = np.full((200, 200), ids[0], np.uint8)
    labels[(rows - 70) ** 2 + (columns - 70) ** 2 < 50**2] = ids[1]
    labels[(rows - 130) ** 2 + (columns - 140) ** 2 < 45**2] = ids[2]
    return labels


class TestLists:
    """Which split exactly, and do its lists overlap?"""

    def test_labeled_and_val_overlap(self, root: Path) -> None:
        (root / "val.txt").write_text("6\n7\n1\n")
        assert found(report_on(root)) == [
            "error: data.labeled and data.val share 1 id ('1'); what is scored must not be trained on: remove them "
            "from one of the two"
        ]

    def test_unlabeled_and_val_overlap(self, root: Path) -> None:
        (root / "unlabeled.txt").write_text("3\n6.png\n7\n")
        assert found(report_on(root)) == [
            "error: data.unlabeled and data.val share 2 ids ('6', '7'); what is scored must not be trained on: remove "
            "them from one of the two"
        ]
        assert found(report_on(root, mode="supervised")) == []

    def test_labeled_among_the_unlabeled(self, root: Path) -> None:
        (root / "unlabeled.txt").write_text("3\n2\n0\n")
        report = report_on(root)
        (note,) = found(report)
        assert note.startswith(
            "note: unlabeled pool: 3 images, 2 labeled ones among them (data.exclude_labeled"
        )
        assert report.count("error") == 0

    def test_the_same_picture_under_other_names(self, root: Path) -> None:
        shutil.copy(root / "images/0.png", root / "images/copy.png")
        shutil.copy(root / "masks/0.png", root / "masks/copy.png")
        # Other bytes, the same pixels.
        Image.open(root / "images/1.png").save(root / "images/again.png", compress_level=0)
        (root / "labeled.txt").write_text("0\n1\n2\ncopy\n")
        (root / "unlabeled.txt").write_text("3\nagain\n4\n")
        assert found(report_on(root)) == [
            "warning: copy (data.labeled) is the same picture as 0 (data.labeled); take one off the list, or it "
            "counts twice",
            "note: again (data.unlabeled) is the same picture as 1 (data.labeled)",
        ]
        (root / "labeled.txt").write_text("0\n1\n2\n")
        (root / "val.txt").write_text("copy\n6\n7\n")
        assert found(report_on(root))[0] == (
            "error: copy (data.val) is the same picture as 0 (data.labeled); what is scored must not be trained on: "
            "take one of them off its list"
        )

    def test_unlabeled_picture_that_is_scored(self, root: Path) -> None:
        shutil.copy(root / "images/6.png", root / "images/copy.png")
        (root / "unlabeled.txt").write_text("copy\n3\n")
        assert found(report_on(root)) == [
            "error: copy (data.unlabeled) is the same picture as 6 (data.val); what is scored must not be trained on: "
            "take one of them off its list"
        ]

    def test_lists_that_cannot_be_opened_do_not_stop_the_others(self, root: Path) -> None:
        (root / "labeled.txt").write_text("0\n1\n0\n")
        (root / "unlabeled.txt").unlink()
        report = report_on(root)
        assert list(report.lists) == ["data.val"]
        lines = found(report)
        assert len(lines) == 2
        assert lines[0].startswith("error: data.labeled: ") and "labeled.txt repeats 1 id ('0')" in lines[0]
        assert lines[1].startswith("error: data.unlabeled: ") and "cannot be read" in lines[1]
        assert report.class_table()[0] == ["id", "class", "val pixels", "val share", "val images"]

    def test_image_level_labels(self, root: Path) -> None:
        tags = root / "tags.csv"
        tags.write_text("3,red\n4\n")
        override = f"data.image_labels={tags}"
        assert found(report_on(root, override, mode="weakly")) == [
            f"error: data.image_labels: 1 of 3 images of data.unlabeled have neither an entry in {tags} nor a mask, "
            "first '5'; train.mode=weakly needs one of them for each"
        ]
        save_mask(root, 5, np.zeros((45, 51), np.uint8))
        assert found(report_on(root, override, mode="weakly")) == [
            "note: image-level labels of 1 of 3 unlabeled images come from their masks"
        ]
        tags.write_text("3,blue\n")
        assert found(report_on(root, override, mode="weakly"))[0].startswith(
            f"error: data.image_labels: {tags} line 1 names 'blue', which is not a class"
        )

    def test_classes_that_cannot_be_read_end_the_check(self, root: Path) -> None:
        (root / "classes.txt").unlink()
        with pytest.raises(UserError, match=r"^data.classes: .* cannot be read"):
            report_on(root)


class TestFiles:
    def test_everything_is_reported_at_once(self, root: Path) -> None:
        """Missing, cut off, of another kind, of another size: the rest is read all the same."""
        (root / "labeled.txt").write_text("0\n1\n2\nnothing\n")
        content = (root / "images/3.png").read_bytes()
        (root / "images/3.png").write_bytes(content[: len(content) // 2])
        (root / "images/4.png").write_bytes(b"GIF89a")
        content = (root / "masks/1.png").read_bytes()
        (root / "masks/1.png").write_bytes(content[:60])
        (root / "masks/2.png").unlink()
        save_mask(root, 6, np.eye(20, 30, dtype=np.uint8))
        report = report_on(root)
        lines = found(report)
        assert lines[0].startswith("error: mask 1 (data.labeled): damaged (")
        assert lines[0].endswith("; replace the file")
        assert lines[1:3] == [
            "error: 2 (data.labeled) has no mask; add it or take the id off the list",
            f"error: data.labeled: {root / 'labeled.txt'}: 'nothing' has no image (.jpg, .jpeg, .png) in data.images "
            f"{root / 'images'}; add the image or take the id off the list (a line holds one id and "
            "nothing else)",
        ]
        assert lines[3].startswith("error: image 3 (data.unlabeled): damaged (")
        assert lines[4:6] == [
            "error: image 4 (data.unlabeled): neither a JPEG nor a PNG file; convert it to one of them",
            "error: image 6 (data.val) is 50x46 pixels (width x height), but mask 6 (data.val) is 30x20; they must be "
            "equal",
        ]
        assert report.count("error") == 6
        assert report.lists["data.labeled"].sizes.keys() == {"0", "1", "2"}
        assert report.lists["data.labeled"].masks == 1
        # No picture can be made of image 6.
        assert report.lists["data.val"].samples.keys() == {0, 2}
        assert [index for _, index in report.lists["data.val"].samples[0]] == [1]

    def test_masks_under_another_name(self, root: Path) -> None:
        for other in ("0_mask.png", "1.tif"):
            (root / f"masks/{other[0]}.png").rename(root / "masks" / other)
        mend = "add it or take the id off the list"
        assert found(report_on(root))[:2] == [
            f"error: 0 (data.labeled) has no mask (there is '0_mask.png'; needed is a file named 0.png); {mend}",
            f"error: 1 (data.labeled) has no mask (there is '1.tif'; needed is a file named 1.png); {mend}",
        ]

    def test_only_some_examples_of_a_kind_are_shown(self, root: Path) -> None:
        ids = [f"lost{number}" for number in range(8)]
        (root / "unlabeled.txt").write_text("\n".join(["3", *ids]))
        report = report_on(root)
        lines = found(report)
        assert [line.split("'")[1] for line in lines[:5]] == ids[:5]
        assert lines[5] == "error: and 3 more: images that cannot be read"
        assert len(lines) == 6 and report.count("error") == 8

    def test_order_does_not_depend_on_the_threads(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        change_masks(root, lambda labels: labels + 3)
        together = found(report_on(root))
        monkeypatch.setattr(check_module, "_AT_ONCE", 2)
        assert found(report_on(root)) == together
        assert [line.split()[2] for line in together] == ["0", "1", "2", "6", "7"]


class TestPixels:
    def test_much_is_ignored(self, root: Path) -> None:
        change_masks(root, lambda labels: np.where(labels == 0, 255, labels).astype(np.uint8), "012")
        labels = np.concatenate([mask(root, record_id).ravel() for record_id in "012"])
        share = 100 * (labels == 255).mean()
        assert (
            f"warning: data.labeled: {share:.0f} % of the pixels are ignored (255); where these are objects or "
            in ("\n".join(found(report_on(root))))
        )

    def test_exactly_half_is_not_much(self) -> None:
        findings = Findings()
        summary = ListSummary(source=None, masks=1)  # type: ignore[arg-type]
        summary.pixels[[1, 255]] = 5
        summary.images[[1, 255]] = 1
        info = check_module.DatasetInfo(("background", "thing"), voc_palette(2), "x")
        check_module._check_classes(info, {"data.val": summary}, findings)
        assert findings.sorted() == []
        summary.pixels[255] = 6
        check_module._check_classes(info, {"data.val": summary}, findings)
        assert [finding.lines[0][:41] for finding in findings.sorted()] == [
            "data.val: 55 % of the pixels are ignored "
        ]

    def test_only_val_ignores(self, root: Path) -> None:
        labels = mask(root, 6).copy()
        labels[:, :5] = 255
        save_mask(root, 6, labels)
        share = 100 * 5 * 46 / (46 * 50 + 47 * 49)
        assert found(report_on(root)) == [
            f"warning: data.labeled: no pixel is ignored (255), but {share:.1f} % of data.val are; if both have "
            "borders or unclear regions, save those of data.labeled as 255 too"
        ]

    def test_a_mask_that_says_nothing(self, root: Path) -> None:
        change_masks(root, lambda labels: np.full_like(labels, 255), "2")
        assert (
            "warning: mask 2 (data.labeled): every pixel is ignored (255); nothing is learned from it or scored on it"
        ) in found(report_on(root))

    def test_classes_without_pixels(self, root: Path) -> None:
        (root / "classes.txt").write_text("background\nred\ngreen\nblue\n")
        change_masks(root, lambda labels: np.where(labels == 2, 1, labels), "012")
        assert found(report_on(root)) == [
            "warning: class 2 'green' is in no mask of data.labeled but in 1 of data.val, where it will be missed; "
            "label an image that shows it",
            "warning: class 3 'blue' is in no mask of data.labeled or data.val; label an image that shows it or take "
            "it off the list of classes",
        ]


class TestSizes:
    def test_tiny_image(self, root: Path) -> None:
        Image.fromarray(np.zeros((15, 40, 3), np.uint8)).save(root / "images/3.png")
        Image.fromarray(np.zeros((16, 18, 3), np.uint8)).save(root / "images/4.png")
        assert found(report_on(root)) == [
            "warning: 3 (data.unlabeled) is 40x15 pixels (width x height); such a picture shows nothing: replace it or "
            "take it off the list"
        ]

    @pytest.mark.parametrize(("width", "small"), [(18, False), (17, True)])
    def test_image_far_smaller_than_the_crop(self, root: Path, width: int, small: bool) -> None:
        """16 x 17 of 33 x 33 pixels."""
        Image.fromarray(np.zeros((16, width, 3), np.uint8)).save(root / "images/3.png")
        expected = (
            "note: 3 (data.unlabeled) is 17x16 pixels (width x height), 25 % of data.crop_size; the rest of a crop is "
            "padding, which teaches nothing and takes as long: choose a smaller data.crop_size"
        )
        assert found(report_on(root)) == [expected] * small
        assert found(report_on(root, "data.min_resize=33")) == []

    @pytest.mark.parametrize(("side", "large"), [(132, False), (133, True)])
    def test_image_far_larger_than_the_crop(self, root: Path, side: int, large: bool) -> None:
        Image.fromarray(np.zeros((side, 132, 3), np.uint8)).save(root / "images/3.png")
        expected = (
            f"warning: 3 (data.unlabeled) is 132x{side} pixels (width x height), 16 times data.crop_size; shrink the "
            "images, or set data.min_resize or a larger data.crop_size"
        )
        assert found(report_on(root)) == [expected] * large
        assert found(report_on(root, "data.min_resize=33")) == []
        assert found(report_on(root, "data.crop_size=49")) == []

    def test_image_larger_than_the_canvas(self, root: Path) -> None:
        assert found(report_on(root, "data.eval_size=49")) == [
            "error: 6: the image is 46x50 (height x width), larger than data.eval_size=49,49: set data.eval_size to at "
            "least 49,65, or to 0,0 to evaluate each image at its own size"
        ]
        assert found(report_on(root, "data.eval_size=49", "data.min_resize=33")) == []

    def test_batch_larger_than_the_list(self, root: Path) -> None:
        overrides = ("data.batch_labeled=4", "data.batch_unlabeled=3")
        line = "note: data.labeled has 3 images, fewer than a batch of 4: a step sees some twice"
        assert found(report_on(root, *overrides)) == [line]


def shard(path: Path, root: Path, ids: Sequence[str]) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record_id in ids:
            features = {"image/encoded": root / f"images/{record_id}.png"}
            if (root / f"masks/{record_id}.png").exists():
                features["image/segmentation/class/encoded"] = root / f"masks/{record_id}.png"
            message = tf.train.Example()
            message.features.feature["image/filename"].bytes_list.value.append(record_id.encode())
            for key, file in features.items():
                message.features.feature[key].bytes_list.value.append(file.read_bytes())
            writer.write(message.SerializeToString())


def test_shards(root: Path, tmp_path: Path) -> None:
    (root / "masks/1.png").unlink()
    save_mask(root, 2, np.ones((5, 5), np.uint8))
    save_mask(root, 7, mask(root, 7) + 3)
    overrides = ["data.source=tfrecord"]
    for name, ids in (("labeled", "012"), ("unlabeled", "345"), ("val", "67")):
        shard(tmp_path / name, root, ids)
        overrides.append(f"data.{name}={tmp_path / name}")
    lines = found(report_on(root, *overrides))
    assert lines[:3] == [
        "error: 1 (data.labeled) has no mask; add it or take the id off the list",
        "error: image 2 (data.labeled) is 54x42 pixels (width x height), but mask 2 (data.labeled) is 5x5; they must "
        "be equal",
        "error: mask 7 (data.val): pixel values 3, 5; allowed are the class ids 0 to 2 and 255 (ignored): save class "
        "ids as pixel values, or name all classes",
    ]


def test_builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ShapesSegConfig(name="few", size=48, train=6, val=3)
    monkeypatch.setattr(ShapesSeg, "builder_configs", {"few": config})
    overrides = [
        *("data.source=tfds", "data.name=shapes_seg/few", f"data.data_dir={tmp_path}"),
        *("data.labeled=train[:4]", "data.unlabeled=train[3:]", "data.val=val", "data.crop_size=33"),
        *("data.batch_labeled=4", "data.batch_unlabeled=3"),
    ]
    data = apply_overrides(Config(), overrides).data
    report = check_data(data, "unlabeled")
    assert {key: (len(each.sizes), each.masks) for key, each in report.lists.items()} == {
        "data.labeled": (4, 4),
        "data.val": (3, 3),
        "data.unlabeled": (3, 3),
    }
    assert set(report.lists["data.val"].sizes.values()) == {(48, 48)}
    assert report.lists["data.labeled"].pixels.sum() == 4 * 48 * 48
    assert (
        "note: unlabeled pool: 3 images, 1 labeled ones among them (data.exclude_labeled=true would leave those out)"
        in found(report)
    )
    assert report.count("error") == 0


def test_any_bytes_for_a_file_give_lines_and_no_traceback(root: Path) -> None:
    for number, content in enumerate([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\0" * 100]):
        (root / f"images/x{number}.png").write_bytes(content)
        (root / f"masks/x{number}.png").write_bytes(content)
    (root / "labeled.txt").write_text("0\n1\n2\nx0\nx1\nx2\nx3\n")
    report = report_on(root)
    assert report.count("error") == 8
    assert all("\n" not in line for line in found(report))


@pytest.mark.needs_shared
class TestRealFiles:
    def overrides(self, shared_dir: Path, **changes: Any) -> list[str]:
        root = shared_dir / "data/voc12_subset"
        keys = {
            "images": root / "images",
            "masks": root / "masks",
            "classes": root / "classes.txt",
            "labeled": root / "train.txt",
            "val": root / "val.txt",
        }
        return [f"data.{key}={value}" for key, value in (keys | changes).items()]

    def check(self, overrides: Sequence[str]) -> Report:
        return check_data(apply_overrides(Config(), overrides).data, "supervised")

    def test_voc_subset(self, shared_dir: Path) -> None:
        report = self.check(self.overrides(shared_dir))
        labeled, val = report.lists["data.labeled"], report.lists["data.val"]
        assert (labeled.masks, val.masks) == (437, 445)
        assert labeled.images[[8, 10, 12, 13, 15, 17]].tolist() == [131, 62, 121, 68, 79, 63]
        assert int(labeled.pixels.sum()) == sum(height * width for height, width in labeled.sizes.values())
        assert report.count("error") == 0 and report.count("warning") == 5

    def test_label_ids_of_cityscapes(self, shared_dir: Path, tmp_path: Path) -> None:
        city = shared_dir / "data/cityscapes_sample"
        stem = "frankfurt_000000_000294"
        (tmp_path / "masks").mkdir()
        (tmp_path / "images").mkdir()
        shutil.copy(
            city / f"leftImg8bit/val/frankfurt/{stem}_leftImg8bit.png", tmp_path / f"images/{stem}.png"
        )
        (tmp_path / "ids.txt").write_text(f"{stem}\n")
        (tmp_path / "none.txt").write_text("nothing\n")
        (tmp_path / "classes.txt").write_text("".join(f"class{number}\n" for number in range(19)))
        changes = {
            "images": tmp_path / "images",
            "masks": tmp_path / "masks",
            "classes": tmp_path / "classes.txt",
            "labeled": tmp_path / "none.txt",
            "val": tmp_path / "ids.txt",
        }
        lines = {}
        for kind in ("labelIds", "labelTrainIds"):
            source = city / f"gtFine/val/frankfurt/{stem}_gtFine_{kind}.png"
            shutil.copy(source, tmp_path / f"masks/{stem}.png")
            lines[kind] = [
                line for line in found(self.check(self.overrides(shared_dir, **changes))) if stem in line
            ]
        assert len(lines["labelIds"]) == 1 and lines["labelTrainIds"] == []
        assert lines["labelIds"][0].endswith("(Cityscapes: take the labelTrainIds files, not labelIds)")

    def test_no_rims(self, shared_dir: Path) -> None:
        """Of masks as they are published, or shrunk by nearest neighbor."""
        data = shared_dir / "data"
        paths = [
            *sorted((data / "voc12_subset/masks").glob("*.png"))[::8],
            *sorted((data / "voc12_devkit_sample").rglob("SegmentationClass*/*.png")),
            *sorted((data / "cityscapes_sample").rglob("*_label*.png")),
        ]
        assert len(paths) > 400
        for path in paths:
            with Image.open(path) as image:
                labels = np.asarray(image)
                half = np.asarray(image.resize([side // 2 for side in image.size], Image.Resampling.NEAREST))
            assert rim_share(labels) == rim_share(half) == 0, path
        path = data / "coco_sample/annotations/instances_val2017.json"
        annotations = Annotations(path, OBJECT_NAMES, lambda name: 1 + OBJECT_NAMES.index(name))
        for name in annotations.file_names:
            assert rim_share(annotations.labels(name)) == 0, name

    def test_devkit_masks_read_as_colors_and_saved(self, shared_dir: Path, tmp_path: Path) -> None:
        """What happens to VOC's palette masks in tools that open everything as RGB."""
        voc = shared_dir / "data/voc12_devkit_sample/VOCdevkit/VOC2012"
        names = (shared_dir / "data/voc12_subset/classes.txt").read_text().split()
        lines = [f"{name} {r} {g} {b}" for name, (r, g, b) in zip(names, voc_palette(21), strict=True)]
        (tmp_path / "colors.txt").write_text("\n".join([*lines, "ignore 224 224 192"]))
        changes: dict[str, Path] = {"images": voc / "JPEGImages", "masks": tmp_path / "masks"}
        changes["masks"].mkdir()
        for name in ("train", "val"):
            ids = (voc / f"ImageSets/Segmentation/{name}.txt").read_text().split()[:5]
            changes[{"train": "labeled"}.get(name, name)] = tmp_path / f"{name}.txt"
            (tmp_path / f"{name}.txt").write_text("\n".join(ids))
            for record_id in ids:
                with Image.open(voc / f"SegmentationClass/{record_id}.png") as palette_mask:
                    palette_mask.convert("RGB").save(changes["masks"] / f"{record_id}.png")
        refused = self.check(self.overrides(shared_dir, **changes))
        assert refused.count("error") == 10 and "data.palette" in refused.findings[0].lines[0]
        read = self.check(self.overrides(shared_dir, **changes, palette=tmp_path / "colors.txt"))
        as_ids = self.check(self.overrides(shared_dir, **(changes | {"masks": voc / "SegmentationClass"})))
        for key in ("data.labeled", "data.val"):
            np.testing.assert_array_equal(read.lists[key].pixels, as_ids.lists[key].pixels)
        assert read.count("error") == 0
