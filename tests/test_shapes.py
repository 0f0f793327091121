"""The drawn data set: what each picture promises, and what comes back out of the prepared files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow_datasets as tfds

from pseudoseg_tf.datasets import shapes_drawing, shapes_seg
from pseudoseg_tf.datasets.shapes_drawing import (
    CLASS_NAMES,
    CLOSEUP_NAMES,
    PALETTE,
    SPLITS,
    draw_closeup,
    draw_example,
)

KINDS = len(CLASS_NAMES) - 1
COUNT = 140


@pytest.fixture(scope="module")
def labels() -> npt.NDArray[np.uint8]:
    """The first 140 masks of the training split."""
    return np.stack([draw_example(0, i, 96)[1] for i in range(COUNT)])


@pytest.mark.parametrize("size", [48, 96, 129])
def test_types_and_shapes(size: int) -> None:
    image, label = draw_example(3, 5, size)
    assert image.dtype == label.dtype == np.uint8
    assert image.shape == (size, size, 3)
    assert label.shape == (size, size)
    assert image.flags.c_contiguous


def test_same_arguments_give_the_same_bytes() -> None:
    first = [draw_example(0, i, 96) for i in range(4)]
    draw_example(1, 0, 64)  # nothing may carry over from other calls
    for i in reversed(range(4)):
        image, label = draw_example(0, i, 96)
        np.testing.assert_array_equal(image, first[i][0])
        np.testing.assert_array_equal(label, first[i][1])


def test_every_argument_matters() -> None:
    image, _ = draw_example(0, 0, 96, "train")
    others = (draw_example(1, 0, 96), draw_example(0, 1, 96), draw_example(0, 0, 96, "val"))
    for other, _ in others:
        # Another scene altogether, not the same one under other noise.
        assert np.abs(image.astype(float) - other).mean() > 10


def test_no_picture_of_one_split_is_in_another() -> None:
    drawn = {split: {draw_example(0, i, 48, split)[0].tobytes() for i in range(30)} for split in SPLITS}
    assert all(len(pictures) == 30 for pictures in drawn.values())
    assert not drawn["train"] & drawn["val"]


def test_size_changes_sharpness_not_content() -> None:
    for index in range(8):
        image, label = draw_example(0, index, 64)
        fine_image, fine_label = draw_example(0, index, 192)
        # The middle of each 3x3 block is the center of the coarse pixel.
        assert (fine_label[1::3, 1::3] == label).mean() > 0.97
        blocks = fine_image.reshape(64, 3, 64, 3, 3).mean(axis=(1, 3))
        assert np.corrcoef(blocks.ravel(), image.ravel())[0, 1] > 0.8


def test_labels_are_class_ids_and_complete(labels: npt.NDArray[np.uint8]) -> None:
    assert set(np.unique(labels)) == set(range(KINDS + 1))  # so no 255 either


def test_classes_have_a_fair_share(labels: npt.NDArray[np.uint8]) -> None:
    present = np.stack([(labels == c).any(axis=(1, 2)) for c in range(KINDS + 1)], axis=1)
    assert present[:, 1:].any(axis=1).all(), "a picture without any object"
    share = present.mean(axis=0)
    assert share[1:].min() > 0.15
    assert share[1:].max() < 0.55
    several = (present[:, 1:].sum(axis=1) > 1).mean()
    assert 0.2 < several < 0.6, "many pictures are of a single class, as of VOC"
    pixels = np.bincount(labels.ravel(), minlength=KINDS + 1) / labels.size
    assert 0.5 < pixels[0] < 0.85
    assert pixels[1:].min() > 0.02
    # Nothing is hidden but for a sliver that the image-level label could not be told from.
    area = np.stack([(labels == c).sum(axis=(1, 2)) for c in range(1, KINDS + 1)])
    assert (area[area > 0] < 40).mean() < 0.02


def test_a_few_labeled_pictures_show_all_classes() -> None:
    for seed in range(3):
        for split in SPLITS:
            for start in (0, KINDS):
                masks = [draw_example(seed, i, 48, split)[1] for i in range(start, start + KINDS)]
                # A main object may be hidden by others, rarely; then another picture shows its class.
                assert len(np.unique(np.stack(masks))) >= KINDS


def test_objects_overlap_sometimes(monkeypatch: pytest.MonkeyPatch) -> None:
    covers: list[npt.NDArray[np.bool_]] = []
    outline = shapes_drawing._outline

    def spy(*args: Any) -> npt.NDArray[np.float32]:
        distance = outline(*args)
        covers.append(distance <= 0)
        return distance

    monkeypatch.setattr(shapes_drawing, "_outline", spy)
    overlapping = several = 0
    for index in range(60):
        covers.clear()
        draw_example(0, index, 48)
        several += len(covers) > 1
        overlapping += bool((np.sum(covers, axis=0) > 1).sum() > 10)
    assert 0.25 < overlapping / several < 0.95


def test_color_tells_nothing_about_the_class() -> None:
    """The nearest class by mean color, learned on half of the objects, is a guess for the others."""
    colors, classes = [], []
    for index in range(2 * COUNT):
        image, label = draw_example(0, index, 48)
        for c in np.unique(label[label > 0]):
            colors.append(image[label == c].mean(axis=0))
            classes.append(int(c))
    x, y = np.stack(colors), np.array(classes)
    half = len(y) // 2
    centers = np.stack([x[:half][y[:half] == c].mean(axis=0) for c in range(1, KINDS + 1)])
    guess = 1 + np.linalg.norm(x[half:, None] - centers, axis=-1).argmin(axis=1)
    assert (guess == y[half:]).mean() < 0.36


def test_closeups_take_turns_and_repeat() -> None:
    assert set(CLASS_NAMES[1:]) < set(CLOSEUP_NAMES)
    drawn = [draw_closeup(0, index, 96) for index in range(2 * len(CLOSEUP_NAMES))]
    assert [kind for _, kind in drawn] == list(range(len(CLOSEUP_NAMES))) * 2
    assert len({image.tobytes() for image, _ in drawn}) == len(drawn)
    image, _ = draw_closeup(0, 3, 96)
    assert image.shape == (96, 96, 3)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, drawn[3][0])
    with pytest.raises(ValueError, match="size must be >= 48"):
        draw_closeup(0, 0, 47)


@pytest.mark.parametrize("pattern", shapes_drawing._PATTERNS.values(), ids=shapes_drawing._PATTERNS)
def test_patterns_mix_two_colors_at_the_scale_asked_for(pattern: shapes_drawing.Pattern) -> None:
    axis = np.arange(96, dtype=np.float32) + 0.5
    x, y = np.meshgrid(axis, axis)
    for seed in range(5):
        coarse, fine = (
            pattern(x - 48, y - 48, period, 1.0, np.random.default_rng(seed)) for period in (14, 7)
        )
        for mix in (coarse, fine):
            assert mix.dtype == np.float32
            assert mix.min() >= 0
            assert mix.max() <= 1
            assert 0.1 < mix.mean() < 0.9
            assert mix.std() > 0.2
        # Half the period: about twice as many edges.
        few, many = (sum(np.diff(mix > 0.4, axis=a).mean() for a in (0, 1)) for mix in (coarse, fine))
        assert 1.4 < many / few < 2.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 0, 96), "seed and index"),
        ((0, -1, 96), "seed and index"),
        ((0, 0, 47), "size must be >= 48"),
        ((0, 0, 96, "test"), "split must be one of train, val"),
    ],
)
def test_arguments_out_of_range(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_example(*arguments)


def test_default_configuration() -> None:
    config = shapes_seg.ShapesSeg.BUILDER_CONFIGS[0]
    assert (config.size, config.seed, config.train, config.val) == (96, 2037, 4000, 250)
    assert config.name == "96px"


def test_prepared_files_give_back_the_drawings(tmp_path: Path) -> None:
    config = shapes_seg.ShapesSegConfig(name="small", size=48, seed=7, train=23, val=5)
    tfds.builder("shapes_seg", data_dir=tmp_path, config=config).download_and_prepare()

    builder = tfds.builder("shapes_seg", data_dir=tmp_path, config=config)  # as a later run finds it
    metadata = builder.info.metadata
    assert metadata["class_names"] == list(CLASS_NAMES)
    assert [tuple(color) for color in metadata["palette"]] == list(PALETTE[: KINDS + 1])
    assert metadata["ignore_label"] == 255
    for split, count in (("train", 23), ("val", 5)):
        assert builder.info.splits[split].num_examples == count
        source = builder.as_data_source(split)
        assert len(source) == count
        for index in reversed(range(count)):  # in any order
            record = source[index]
            image, label = draw_example(7, index, 48, split)
            assert record["id"] == f"{split}_{index:05d}".encode()
            np.testing.assert_array_equal(record["image"], image)
            np.testing.assert_array_equal(record["label"], label[..., None])

    part = builder.as_data_source("train[:20]")
    assert [record["id"].decode() for record in part] == [f"train_{i:05d}" for i in range(20)]


def test_encoded_bytes_are_png(tmp_path: Path) -> None:
    config = shapes_seg.ShapesSegConfig(name="tiny", size=48, train=2, val=1)
    builder = tfds.builder("shapes_seg", data_dir=tmp_path, config=config)
    builder.download_and_prepare()
    skip = {"image": tfds.decode.SkipDecoding(), "label": tfds.decode.SkipDecoding()}
    record = builder.as_data_source("train", decoders=skip)[0]
    assert record["image"].startswith(b"\x89PNG")
    assert record["label"].startswith(b"\x89PNG")
    # Bit depth 8, color type 0 (grey): the ids themselves, no palette that a reader might expand to RGB.
    assert record["label"][24:26] == bytes([8, 0])
