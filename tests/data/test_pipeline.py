"""Batches as a pure function of configuration, seed and step; evaluation in order; errors for the user."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pseudoseg_tf.config import DataConfig
from pseudoseg_tf.data import color, pipeline
from pseudoseg_tf.data.geometry import resize_to_range
from pseudoseg_tf.data.sources import Sources
from pseudoseg_tf.data.specs import IGNORE_LABEL, DatasetInfo, Record, voc_palette

INFO = DatasetInfo(("background", "cat", "dog"), voc_palette(3), "tiny")
DATA = DataConfig(crop_size=(17, 33), batch_labeled=2, batch_unlabeled=4, cutout=3, seed=5)
ONE_SCALE = dataclasses.replace(DATA, min_scale=1.0, max_scale=1.0)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


class MemorySource:
    """Records in memory; `make(index)` gives image, labels or None, and image-level labels or None."""

    info = INFO

    def __init__(self, count: int, make: Callable[[int], tuple[np.ndarray, np.ndarray | None, Any]]) -> None:
        self.ids = [f"example-{index}" for index in range(count)]
        self.records = []
        for index, name in enumerate(self.ids):
            image, labels, image_labels = make(index)
            self.records.append(
                Record(name, png(image), None if labels is None else png(labels), image_labels)
            )
        self.has_masks = all(record.mask for record in self.records)

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int) -> Record:
        return self.records[index]


def noise(index: int) -> tuple[np.ndarray, np.ndarray, None]:
    """A picture of its own size whose labels can be read off its first channel."""
    rng = np.random.default_rng(index)
    size = (int(rng.integers(10, 30)), int(rng.integers(10, 50)))
    image = rng.integers(0, 256, [*size, 3], dtype=np.uint8)
    return image, image[..., 0] % 3, None


def flat(index: int) -> tuple[np.ndarray, None, np.ndarray]:
    """One color, which tells the index, no mask, and image-level labels."""
    return np.full([12, 20, 3], 10 * index, np.uint8), None, np.float32([index % 2, 1])


def make_sources(labeled: int = 5, unlabeled: int = 7) -> Sources:
    return Sources(INFO, MemorySource(labeled, noise), MemorySource(unlabeled, flat), MemorySource(3, noise))


def take(dataset: tf.data.Dataset, count: int) -> list[Any]:
    return list(dataset.take(count).as_numpy_iterator())


def assert_same(first: Any, second: Any) -> None:
    """Both are dicts of dicts, or of arrays, equal bit for bit."""
    assert first.keys() == second.keys()
    for key in first:
        if isinstance(first[key], dict):
            assert_same(first[key], second[key])
        else:
            np.testing.assert_array_equal(first[key], second[key], err_msg=key)


def joined(batches: Iterable[Any]) -> Any:
    """Concatenates the examples of several batches, stream by stream."""
    batches = list(batches)
    return {
        stream: {key: np.concatenate([batch[stream][key] for batch in batches]) for key in batches[0][stream]}
        for stream in batches[0]
    }


def test_shapes_are_static():
    spec = pipeline.training_dataset(make_sources(), DATA, "unlabeled", 0).element_spec
    common = {
        "image": ("uint8", [17, 33, 3]),
        "labels": ("uint8", [17, 33]),
        "valid": ("uint8", [17, 33]),
        "image_labels": ("float32", [2]),
        "counter": ("int64", []),
    }
    draws = {"jitter": ("float32", [4]), "order": ("int32", [4]), "cutout_center": ("int32", [2])}
    for stream, batch, expected in [("labeled", 2, common), ("unlabeled", 4, common | draws)]:
        found = {key: (part.dtype.name, part.shape.as_list()) for key, part in spec[stream].items()}
        assert found == {key: (dtype, [batch, *shape]) for key, (dtype, shape) in expected.items()}


def test_supervised_mode_reads_labeled_images_only():
    sources = dataclasses.replace(make_sources(), unlabeled=None)
    (batch,) = take(pipeline.training_dataset(sources, DATA, "supervised", 0), 1)
    assert list(batch) == ["labeled"]


def test_a_restart_continues_bit_for_bit():
    sources = make_sources()
    unbroken = take(pipeline.training_dataset(sources, DATA, "unlabeled", 0), 8)
    for start in (3, 7):
        restarted = take(pipeline.training_dataset(sources, DATA, "unlabeled", start), 8 - start)
        for before, after in zip(unbroken[start:], restarted, strict=True):
            assert_same(before, after)


@pytest.mark.parametrize(("pipelines", "replicas"), [(1, 2), (2, 2), (2, 4)])
def test_replicas_share_the_batch_of_a_single_one(pipelines, replicas):
    sources, data = make_sources(), dataclasses.replace(DATA, batch_labeled=4)
    whole = take(pipeline.training_dataset(sources, data, "unlabeled", 2), 2)
    turns = replicas // pipelines
    shares = [
        take(pipeline.training_dataset(sources, data, "unlabeled", 2, context), 2 * turns)
        for context in (tf.distribute.InputContext(pipelines, index, replicas) for index in range(pipelines))
    ]
    for step, batch in enumerate(whole):
        parts = [part for share in shares for part in share[step * turns : (step + 1) * turns]]
        assert [len(part["labeled"]["counter"]) for part in parts] == [4 // replicas] * replicas
        assert_same(joined(parts), batch)


def test_mirrored_replicas_take_their_shares_in_turn(two_replicas):
    sources = make_sources()
    whole = take(pipeline.training_dataset(sources, DATA, "unlabeled", 2), 3)
    iterator = iter(
        two_replicas.distribute_datasets_from_function(
            lambda context: pipeline.training_dataset(sources, DATA, "unlabeled", 2, context)
        )
    )
    for batch in whole:
        per_replica = tf.nest.map_structure(two_replicas.experimental_local_results, next(iterator))
        parts = [
            {
                stream: {key: part[replica] for key, part in examples.items()}
                for stream, examples in per_replica.items()
            }
            for replica in range(2)
        ]
        assert_same(joined(parts), batch)


@pytest.mark.parametrize("key", ["batch_labeled", "batch_unlabeled"])
def test_a_batch_that_replicas_cannot_share_is_refused(key):
    data = dataclasses.replace(DATA, **{key: 3})
    with pytest.raises(pipeline.UserError, match=rf"data\.{key}=3 .* 2 replicas.*multiple of 2"):
        pipeline.training_dataset(make_sources(), data, "unlabeled", 0, tf.distribute.InputContext(1, 0, 2))


def test_each_epoch_visits_every_example_once_in_its_own_order():
    batches = take(pipeline.training_dataset(make_sources(), ONE_SCALE, "unlabeled", 0), 7)
    examples = joined(batches)["unlabeled"]
    np.testing.assert_array_equal(examples["counter"], np.arange(28))
    visited = (examples["image"].max(axis=(1, 2, 3)) // 10).reshape(4, 7)
    np.testing.assert_array_equal(np.sort(visited), np.tile(np.arange(7), [4, 1]))
    assert len(np.unique(visited, axis=0)) == 4


def test_orders_of_the_epochs_hardly_repeat():
    indices = tf.data.Dataset.range(8 * 300).map(
        lambda counter: pipeline._shuffled(counter, 8, tf.constant([3, 4], tf.int64))
    )
    orders = np.array(list(indices.as_numpy_iterator())).reshape(300, 8)
    np.testing.assert_array_equal(np.sort(orders), np.tile(np.arange(8), [300, 1]))
    assert len(np.unique(orders, axis=0)) > 290


def test_one_example_is_an_epoch():
    batches = take(pipeline.training_dataset(make_sources(labeled=1), DATA, "supervised", 0), 2)
    np.testing.assert_array_equal(joined(batches)["labeled"]["counter"], np.arange(4))


@pytest.mark.parametrize("redrawn", [(), (1,), (1, 1, 3)])
def test_the_records_of_a_step_are_known(redrawn):
    sources = make_sources()
    batches = take(pipeline.training_dataset(sources, DATA, "unlabeled", 0, redrawn=redrawn), 4)
    for step, batch in enumerate(batches):
        # Of one color, which tells the record.
        shown = [
            int(image[valid > 0].max()) // 10
            for image, valid in zip(batch["unlabeled"]["image"], batch["unlabeled"]["valid"], strict=True)
        ]
        ids = pipeline.example_ids(sources.unlabeled, DATA, "unlabeled", step, redrawn)
        assert ids == [f"example-{index}" for index in shown]
        assert (
            len(pipeline.example_ids(sources.labeled, DATA, "labeled", step, redrawn)) == DATA.batch_labeled
        )


def test_examples_of_a_step_give_way_to_others_and_the_rest_stays():
    sources = make_sources()
    first, once, twice = (
        take(pipeline.training_dataset(sources, DATA, "unlabeled", 1, redrawn=redrawn), 3)
        for redrawn in ((), (2,), (2, 2))
    )
    for before, after in zip(first, once, strict=True):
        same = (before["labeled"]["counter"] == after["labeled"]["counter"]).all()
        assert same == (4 not in before["labeled"]["counter"])
        if same:
            assert_same(before, after)
    others = [
        (batches[1]["unlabeled"]["jitter"].tobytes(), batches[1]["labeled"]["image"].tobytes())
        for batches in (first, once, twice)
    ]
    assert len(set(others)) == 3
    (again,) = take(pipeline.training_dataset(sources, DATA, "unlabeled", 2, redrawn=(2, 2)), 1)
    assert_same(again, twice[1])


def test_streams_do_not_depend_on_each_other():
    data = dataclasses.replace(DATA, batch_labeled=4)
    twins = dataclasses.replace(make_sources(), unlabeled=MemorySource(5, noise))
    together = joined(take(pipeline.training_dataset(twins, data, "unlabeled", 0), 5))
    alone = joined(take(pipeline.training_dataset(twins, data, "supervised", 0), 5))
    assert_same(together["labeled"], alone["labeled"])
    # The same five records on both sides, but not in the same order or the same crops.
    assert not any(map(np.array_equal, together["labeled"]["image"], together["unlabeled"]["image"]))


def test_the_seed_decides():
    batches = [
        take(
            pipeline.training_dataset(make_sources(), dataclasses.replace(DATA, seed=seed), "unlabeled", 0), 1
        )[0]
        for seed in (5, 6, 5)
    ]
    assert_same(batches[0], batches[2])
    for stream, key in [("labeled", "image"), ("unlabeled", "jitter"), ("unlabeled", "cutout_center")]:
        assert not np.array_equal(batches[0][stream][key], batches[1][stream][key])


def test_eager_equals_the_data_set():
    sources = make_sources()
    batches = joined(take(pipeline.training_dataset(sources, DATA, "unlabeled", 0), 2))
    for stream, source in [("labeled", sources.labeled), ("unlabeled", sources.unlabeled)]:
        for counter in range(4):
            example = pipeline.training_example(source, DATA, stream, tf.constant(counter, tf.int64))
            assert_same(example, {key: part[counter] for key, part in batches[stream].items()})


def test_image_labels_and_valid_stay_aligned():
    batches = take(pipeline.training_dataset(make_sources(), ONE_SCALE, "supervised", 0), 8)
    examples = joined(batches)["labeled"]
    inside = examples["valid"] == 1
    assert 0 < inside.sum() < inside.size
    np.testing.assert_array_equal(examples["labels"][inside], examples["image"][inside][:, 0] % 3)
    assert np.all(examples["labels"][~inside] == IGNORE_LABEL)
    assert np.all(examples["image"][~inside] == 0)
    # Each crop shows its record, as it is or mirrored: as many pixels as fit.
    sizes = {record_size for record_size in (noise(index)[1].shape for index in range(5))}
    shown = {(min(height, 17) * min(width, 33)) for height, width in sizes}
    assert set(inside.sum(axis=(1, 2))) == shown


def test_the_strong_view_stays_on_the_weak_one():
    data = dataclasses.replace(DATA, jitter_strength=0.0)
    sources = dataclasses.replace(make_sources(), unlabeled=MemorySource(6, noise))
    examples = joined(take(pipeline.training_dataset(sources, data, "unlabeled", 0), 3))["unlabeled"]
    draws = color.StrongDraws(*(tf.constant(examples[key]) for key in color.StrongDraws._fields))
    weak = tf.cast(examples["image"], tf.float32)
    strong, valid = color.strong_view(weak, tf.constant(examples["valid"]), draws, data.cutout)
    kept = valid.numpy() == 1
    np.testing.assert_allclose(strong.numpy()[kept], examples["image"][kept], atol=1e-3)
    # What left is the box, as far as it lies on the image.
    for before, after, (row, column) in zip(examples["valid"], kept, examples["cutout_center"], strict=True):
        box = before[max(0, row - 3) : row + 3, max(0, column - 3) : column + 3]
        assert before.sum() - after.sum() == box.sum()


def test_what_is_not_given_is_marked():
    batch = joined(take(pipeline.training_dataset(make_sources(), ONE_SCALE, "weakly", 0), 2))
    np.testing.assert_array_equal(batch["labeled"]["image_labels"], np.full([4, 2], -1))
    assert np.all(batch["unlabeled"]["labels"] == IGNORE_LABEL)
    records = batch["unlabeled"]["image"].max(axis=(1, 2, 3)) // 10
    np.testing.assert_array_equal(
        batch["unlabeled"]["image_labels"], np.stack([records % 2, records**0], axis=1)
    )


def test_a_damaged_record_is_named_to_the_user():
    sources = make_sources(labeled=1)
    sources.labeled.records[0] = dataclasses.replace(sources.labeled.records[0], image=b"GIF89a")
    with pytest.raises(tf.errors.OpError, match=r"UserError: .*example-0"):
        take(pipeline.training_dataset(sources, DATA, "unlabeled", 0), 1)


def test_evaluation_gives_each_image_its_own_canvas():
    source = make_sources().val
    batches = take(pipeline.evaluation_dataset(source, DATA), 9)
    assert len(batches) == 3
    for index, batch in enumerate(batches):
        image, labels, _ = noise(index)
        height, width = labels.shape
        assert batch["index"].tolist() == [index]
        assert batch["size"].tolist() == [[height, width]]
        assert batch["image"].shape == (1, (height + 14) // 16 * 16 + 1, (width + 14) // 16 * 16 + 1, 3)
        np.testing.assert_array_equal(batch["image"][0, :height, :width], image)
        np.testing.assert_array_equal(batch["labels"][0, :height, :width], labels)
        assert np.sum(batch["labels"] != IGNORE_LABEL) == height * width


def test_evaluation_keeps_the_remainder_on_a_static_canvas():
    data = dataclasses.replace(DATA, eval_size=(33, 65), eval_batch=2)
    dataset = pipeline.evaluation_dataset(make_sources().val, data)
    assert dataset.element_spec["image"].shape.as_list() == [None, 33, 65, 3]
    assert dataset.element_spec["labels"].shape.as_list() == [None, 33, 65]
    assert [batch["index"].tolist() for batch in dataset.as_numpy_iterator()] == [[0, 1], [2]]


def test_evaluation_starts_anywhere_and_is_sharded():
    source = MemorySource(7, noise)

    def visited(**options: Any) -> list[int]:
        return [int(batch["index"][0]) for batch in pipeline.evaluation_dataset(source, DATA, **options)]

    assert visited(start=4) == [4, 5, 6]
    assert visited(shard=(2, 1)) == [1, 3, 5]
    assert visited(start=2, shard=(3, 0)) == [2, 5]


def test_an_image_beyond_the_canvas_is_named_to_the_user():
    source = MemorySource(1, lambda _: (np.zeros([40, 20, 3], np.uint8), np.zeros([40, 20], np.uint8), None))
    data = dataclasses.replace(DATA, eval_size=(33, 33))
    message = r"UserError: example-0: .* 40x20 .*data\.eval_size=33,33: set data\.eval_size to at least 49,33"
    with pytest.raises(tf.errors.OpError, match=message):
        take(pipeline.evaluation_dataset(source, data), 1)


RANGE = {"min_resize": 14, "max_resize": 25, "resize_factor": 4}


def in_range(index: int) -> tuple[np.ndarray, np.ndarray]:
    """`noise` after the resize, float32 and uint8."""
    image, labels, _ = noise(index)
    resized = resize_to_range(tf.constant(image), tf.constant(labels), *RANGE.values())
    return resized[0].numpy(), resized[1].numpy()


def test_training_resizes_before_the_weak_view():
    data = dataclasses.replace(ONE_SCALE, **RANGE, crop_size=(33, 33))
    source = MemorySource(4, noise)
    for counter in range(4):
        example = pipeline.training_example(source, data, "labeled", tf.constant(counter, tf.int64))
        rows, columns = (int(np.sum(np.any(example["valid"], axis))) for axis in (1, 0))
        image, labels = example["image"][:rows], example["labels"][:rows]
        # The crop holds all of the image, as it is or mirrored.
        found = [
            index
            for index in range(4)
            for shown in (slice(columns), slice(-1, -columns - 1, -1))
            if np.array_equal(in_range(index)[1], labels.numpy()[:, shown])
            and np.max(np.abs(in_range(index)[0] - image.numpy()[:, shown])) < 0.51
        ]
        assert len(found) == 1
        assert max(rows, columns) <= 25 and rows % 4 == columns % 4 == 1


def test_scales_count_from_the_resized_image():
    data = dataclasses.replace(DATA, **RANGE, crop_size=(65, 65), min_scale=2.0, max_scale=2.0)
    source = MemorySource(1, noise)
    example = pipeline.training_example(source, data, "labeled", tf.constant(0, tf.int64))
    rows, columns = in_range(0)[1].shape
    assert np.sum(example["valid"]) == 4 * rows * columns


@pytest.mark.parametrize("eval_size", [(0, 0), (33, 33)])
def test_evaluation_compares_at_the_resized_size(eval_size):
    data = dataclasses.replace(DATA, **RANGE, eval_size=eval_size)
    batches = take(pipeline.evaluation_dataset(MemorySource(4, noise), data), 4)
    for index, batch in enumerate(batches):
        image, labels = in_range(index)
        height, width = labels.shape
        assert batch["size"].tolist() == [[height, width]]
        assert batch["image"].dtype == np.float32 and batch["labels"].dtype == np.uint8
        np.testing.assert_array_equal(batch["image"][0, :height, :width], image)
        np.testing.assert_array_equal(batch["labels"][0, :height, :width], labels)
        assert not np.any(batch["image"][0, height:]) and not np.any(batch["image"][0, :, width:])
        assert np.sum(batch["labels"] != IGNORE_LABEL) == labels.size


def test_the_canvas_must_hold_the_resized_image():
    large = MemorySource(1, lambda _: (np.zeros([60, 80, 3], np.uint8), np.zeros([60, 80], np.uint8), None))
    data = dataclasses.replace(DATA, eval_size=(33, 33), min_resize=24)
    (batch,) = take(pipeline.evaluation_dataset(large, data), 2)
    assert batch["size"].tolist() == [[24, 32]]
    message = r"UserError: example-0: the image is 30x40 .*set data\.eval_size to at least 33,49"
    with pytest.raises(tf.errors.OpError, match=message):
        take(pipeline.evaluation_dataset(large, dataclasses.replace(data, min_resize=30)), 1)
