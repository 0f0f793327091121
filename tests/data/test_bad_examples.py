"""Training examples that cannot be used: replaced by the number of the example alone, listed once, bounded."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pseudoseg_tf.config import DataConfig
from pseudoseg_tf.data import pipeline
from pseudoseg_tf.data.bad_examples import BadExamples, replacements
from pseudoseg_tf.data.sources import Sources
from pseudoseg_tf.data.specs import DatasetInfo, Record, voc_palette
from pseudoseg_tf.errors import UserError
from tests.bad_inputs import png

INFO = DatasetInfo(("background", "cat", "dog"), voc_palette(3), "tiny")
DATA = DataConfig(crop_size=(17, 17), batch_labeled=4, min_scale=1.0, max_scale=1.0, on_bad_example="skip")


class TestList:
    def test_an_id_stands_once(self, tmp_path: Path) -> None:
        path = tmp_path / "run/bad_examples.txt"
        bad = BadExamples(path, 3)
        assert not path.exists()
        for record_id, reason in (("b", "image b: damaged"), ("a", "mask a:\n2 lines"), ("b", "again")):
            bad.add(record_id, reason)
        assert path.read_text() == "b\timage b: damaged\na\tmask a: 2 lines\n"
        lines: list[str] = []
        bad.report(lines.append)
        assert lines == [
            f"left out: image b: damaged (1 of at most 3, listed in {path})",
            f"left out: mask a: 2 lines (2 of at most 3, listed in {path})",
        ]
        bad.report(lines.append)
        assert len(lines) == 2

    def test_a_run_that_continues_does_not_list_them_again(self, tmp_path: Path) -> None:
        path = tmp_path / "bad_examples.txt"
        BadExamples(path, 2).add("a", "image a: damaged")
        bad = BadExamples(path, 2)
        bad.add("a", "image a: damaged")
        bad.add("b", "image b: damaged")
        assert path.read_text() == "a\timage a: damaged\nb\timage b: damaged\n"

    def test_more_than_the_bound(self, tmp_path: Path) -> None:
        path = tmp_path / "bad_examples.txt"
        bad = BadExamples(path, 1)
        bad.add("a", "image a: damaged")
        message = (
            rf"^{path}: 2 examples cannot be used, data.max_bad_examples allows 1; the last: image b: damaged; mend "
            r"them and delete this list, or set a larger bound$"
        )
        with pytest.raises(UserError, match=message):
            bad.add("b", "image b: damaged")
        assert path.read_text() == "a\timage a: damaged\nb\timage b: damaged\n"
        # Nor does a run go on that stopped for this.
        with pytest.raises(UserError, match=message):
            BadExamples(path, 1)
        BadExamples(path, 2)

    def test_names_of_any_characters_stay_one_line(self, tmp_path: Path) -> None:
        path = tmp_path / "bad_examples.txt"
        BadExamples(path, 5).add("a\tb\nc", "image a\udcff: damaged")
        assert path.read_text() == "a b c\timage a\\udcff: damaged\n"
        BadExamples(path, 5).add("a\tb\nc", "again")
        assert path.read_text().count("\n") == 1

    def test_many_threads(self, tmp_path: Path) -> None:
        bad = BadExamples(tmp_path / "bad_examples.txt", 40)
        threads = [
            threading.Thread(target=lambda: [bad.add(str(number), "damaged") for number in range(40)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lines = (tmp_path / "bad_examples.txt").read_text().splitlines()
        assert sorted(lines, key=lambda line: int(line.split()[0])) == [f"{n}\tdamaged" for n in range(40)]


class TestReplacements:
    def test_all_others_once(self) -> None:
        assert sorted(replacements(2, 6, (0, 0), 7)) == [0, 1, 3, 4, 5]
        assert list(replacements(0, 1, (0, 0), 7)) == []

    def test_a_frozen_function_of_its_arguments(self) -> None:
        assert list(replacements(0, 6, (0, 0), 0)) == [5, 2, 4, 3, 1]
        assert list(replacements(0, 6, (0, 0), 1 << 32)) != list(replacements(0, 6, (0, 0), 0))

    def test_every_argument_counts_and_all_are_chosen_alike(self) -> None:
        def first(seed: int, stream: int, start: int) -> list[int]:
            return [next(replacements(0, 5, (seed, stream), start + n)) for n in range(400)]

        assert first(0, 0, 0) != first(1, 0, 0) != first(0, 1, 0) != first(0, 0, 1)
        counts = np.bincount(first(3, 0, 0), minlength=5)
        assert counts[0] == 0 and counts[1:].min() > 70


class DamagedSource:
    """Records 0 to count - 1, each a picture of its number; those in `damaged` are cut off."""

    info = INFO
    has_masks = True

    def __init__(self, count: int, damaged: set[int]) -> None:
        self.ids = [f"p{index}" for index in range(count)]
        self._damaged = damaged

    def __len__(self) -> int:
        return len(self.ids)

    def has_mask(self, index: int) -> bool:
        return True

    def read(self, index: int) -> Record:
        image = png(np.full((6, 8, 3), index, np.uint8))
        mask = png(np.full((6, 8), index % 3, np.uint8))
        return Record(self.ids[index], image[:45] if index in self._damaged else image, mask, None)


def batches(
    source: DamagedSource, bad: BadExamples | None, steps: int, start: int = 0, context: Any = None
) -> list[dict[str, np.ndarray]]:
    sources = Sources(INFO, source, None, source)
    dataset = pipeline.training_dataset(sources, DATA, "supervised", start, context, bad_examples=bad)
    return [batch["labeled"] for batch in dataset.take(steps).as_numpy_iterator()]


def numbers(examples: list[dict[str, np.ndarray]]) -> list[int]:
    """Which picture each example is: its pixels tell."""
    return [
        int(image[valid > 0].max())
        for batch in examples
        for image, valid in zip(batch["image"], batch["valid"], strict=True)
    ]


class TestTraining:
    DAMAGED: frozenset[int] = frozenset({1, 4})

    def test_others_in_their_place(self, tmp_path: Path) -> None:
        bad = BadExamples(tmp_path / "bad_examples.txt", 5)
        replaced = numbers(batches(DamagedSource(6, {1, 4}), bad, 6))
        whole = numbers(batches(DamagedSource(6, set()), None, 6))
        assert len(replaced) == 24 and not set(replaced) & self.DAMAGED
        # Only what is damaged is another example.
        for number, (ours, theirs) in enumerate(zip(replaced, whole, strict=True)):
            usable = (k for k in replacements(theirs, 6, (0, 0), number) if k not in self.DAMAGED)
            assert ours == (next(usable) if theirs in self.DAMAGED else theirs)
        listed = (tmp_path / "bad_examples.txt").read_text().splitlines()
        assert sorted(line.split("\t")[0] for line in listed) == ["p1", "p4"]
        assert all("\timage p" in line and "damaged (" in line for line in listed)

    def test_labels_belong_to_the_replacement(self, tmp_path: Path) -> None:
        (batch, *_) = batches(DamagedSource(6, {1, 4}), BadExamples(tmp_path / "bad", 5), 1)
        for image, labels, valid in zip(batch["image"], batch["labels"], batch["valid"], strict=True):
            assert set(labels[valid > 0]) == {image[valid > 0].max() % 3}

    def test_the_same_after_a_restart_and_on_more_replicas(self, tmp_path: Path) -> None:
        source = DamagedSource(6, {1, 4})
        unbroken = batches(source, BadExamples(tmp_path / "a", 5), 5)
        restarted = batches(source, BadExamples(tmp_path / "b", 5), 3, start=2)
        for ours, theirs in zip(restarted, unbroken[2:], strict=True):
            for key in theirs:
                np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)
        # Two pipelines of one replica each: the first half of each batch, and the second.
        for pipeline_id in (0, 1):
            context = tf.distribute.InputContext(2, pipeline_id, 2)
            half = batches(source, BadExamples(tmp_path / f"c{pipeline_id}", 5), 5, context=context)
            for ours, theirs in zip(half, unbroken, strict=True):
                for key in theirs:
                    expected = theirs[key][2 * pipeline_id : 2 * pipeline_id + 2]
                    np.testing.assert_array_equal(ours[key], expected, err_msg=key)

    def test_nothing_changes_without_bad_ones(self, tmp_path: Path) -> None:
        skipping = batches(DamagedSource(6, set()), BadExamples(tmp_path / "bad", 0), 3)
        failing = batches(DamagedSource(6, set()), None, 3)
        for ours, theirs in zip(skipping, failing, strict=True):
            for key in theirs:
                np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)
        assert not (tmp_path / "bad").exists()

    @pytest.mark.parametrize(
        ("limit", "message"),
        [
            (
                1,
                "UserError: .*bad: 2 examples cannot be used, data.max_bad_examples allows 1; the last: image p",
            ),
            (9, "UserError: none of 3 records can be used; the last: image p"),
        ],
    )
    def test_it_ends(self, limit: int, message: str, tmp_path: Path) -> None:
        with pytest.raises(tf.errors.OpError, match=message):
            batches(DamagedSource(3, {0, 1, 2}), BadExamples(tmp_path / "bad", limit), 1)

    def test_evaluation_stops(self) -> None:
        data = dataclasses.replace(DATA, eval_size=(17, 17))
        with pytest.raises(tf.errors.OpError, match="UserError: image p1: damaged"):
            list(pipeline.evaluation_dataset(DamagedSource(3, {1}), data))
