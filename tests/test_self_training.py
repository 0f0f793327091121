"""Self-training on a few drawn images: the three parts, killed and continued, and every mistake it refuses."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pseudoseg_tf import config_io
from pseudoseg_tf.cli.plan import self_training_plan
from pseudoseg_tf.config import Config
from pseudoseg_tf.data.sources import open_sources
from pseudoseg_tf.data.specs import IGNORE_LABEL
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.evaluate import evaluate
from pseudoseg_tf.export import export
from pseudoseg_tf.inference import Predictor, read_image
from pseudoseg_tf.self_training import confident_labels, prepare, self_train, write_pseudo_labels
from tests.folder import CLASS_NAMES, draw_folder, small_config

ROOT = Path(__file__).resolve().parents[1]
# In the midst of the confidences of a network of two steps.
THRESHOLD = 0.43


@dataclasses.dataclass
class Finished:
    """A chain that was never broken off."""

    folder: Path
    config: Config
    run_dir: Path
    results: dict[str, dict[str, dict[str, Any]]]
    lines: list[str]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    root = tmp_path_factory.mktemp("self_training")
    draw_folder(root / "data")
    # A labeled image in the pool keeps its mask; images are resized, and masks are not.
    (root / "data/unlabeled.txt").write_text("3\n0\n4\n5\n")
    overrides = ["train.evaluate_every=2", "train.learning_rate=0.1", "model.batch_norm_decay=0.01"]
    config = config_io.apply_overrides(
        small_config(root / "data", steps=2), [*overrides, "data.min_resize=33"]
    )
    lines: list[str] = []
    results = self_train(config, str(root / "run"), THRESHOLD, lines.append, "folder")
    return Finished(root / "data", config, root / "run", results, lines)


def masks_of(run_dir: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.asarray(Image.open(path)) for path in (run_dir / "pseudo_labels").glob("*.png")}


def variables(run_dir: Path) -> dict[str, np.ndarray]:
    """Every variable of the newest checkpoint."""
    reader = tf.train.load_checkpoint(str(run_dir / "checkpoints/last"))
    names = reader.get_variable_to_shape_map()
    return {name: reader.get_tensor(name) for name in names if name.endswith("VARIABLE_VALUE")}


def test_confident_labels_are_above_the_threshold() -> None:
    probabilities = tf.constant([[0.5, 0.5], [0.25, 0.75], [0.51, 0.49]])
    labels = tf.constant([0, 1, 0], tf.uint8)
    np.testing.assert_array_equal(confident_labels(labels, probabilities, 0.5), [IGNORE_LABEL, 1, 0])
    np.testing.assert_array_equal(confident_labels(labels, probabilities, 0.0), [0, 1, 0])


def test_pseudo_labels_are_the_confident_predictions_of_the_exported_teacher(
    finished: Finished, tmp_path: Path
) -> None:
    export(str(finished.run_dir / "teacher"), str(tmp_path / "model"), "last", compare=0)
    predictor = Predictor(tmp_path / "model")
    masks = masks_of(finished.run_dir)
    assert sorted(masks) == ["3", "4", "5"]
    ignored = 0
    for name, mask in masks.items():
        image = read_image(finished.folder / f"images/{name}.png")
        prediction = predictor(image)
        labels, probabilities = prediction.labels, prediction.probabilities
        assert mask.shape == image.shape[:2]
        # Where rounding could decide, nothing is asked.
        clear = abs(probabilities.max(-1) - THRESHOLD) > 1e-5
        expected = np.where(probabilities.max(-1) > THRESHOLD, labels, IGNORE_LABEL)
        np.testing.assert_array_equal(mask[clear], expected[clear])
        ignored += int((mask == IGNORE_LABEL).sum())
    pixels = sum(mask.size for mask in masks.values())
    assert 0 < ignored < pixels
    kept = f"{100 * (1 - ignored / pixels):.1f} % of the pixels have a confidence above {THRESHOLD}"
    assert any(line.startswith("3 of 3 written, 0 were there; ") and kept in line for line in finished.lines)


def test_teacher_and_student_are_runs_of_supervised_mode(finished: Finished) -> None:
    teacher = config_io.load(finished.run_dir / "teacher")
    student = config_io.load(finished.run_dir / "student")
    supervised = dataclasses.replace(finished.config.train, mode="supervised")
    assert teacher == dataclasses.replace(finished.config, train=supervised)
    changed = dataclasses.replace(
        teacher.data, pseudo_labels=str(finished.run_dir / "pseudo_labels"), batch_labeled=4
    )
    assert student == dataclasses.replace(teacher, data=changed)
    for part in ("teacher", "student"):
        history = (finished.run_dir / part / "history.jsonl").read_text().splitlines()
        assert finished.results[part]["last"] == json.loads(history[-1])
        assert json.loads((finished.run_dir / part / "config.json").read_text())["preset"] == "folder"
    # Same first weights, other data.
    assert finished.results["teacher"]["last"] != finished.results["student"]["last"]


def test_the_student_is_evaluated_without_its_pseudo_labels(finished: Finished) -> None:
    folder = finished.run_dir / "pseudo_labels"
    folder.rename(finished.run_dir / "elsewhere")
    try:
        result = evaluate(str(finished.run_dir / "student"))
    finally:
        (finished.run_dir / "elsewhere").rename(folder)
    assert result["iou"] == finished.results["student"]["last"]["iou"]
    assert list(result["iou"]) == list(CLASS_NAMES)


def test_missing_pseudo_labels_alone_are_written(finished: Finished) -> None:
    """One was lost, another changed by hand."""
    parts = prepare(finished.config, str(finished.run_dir), THRESHOLD)
    folder = finished.run_dir / "pseudo_labels"
    before = {name: (folder / name).read_bytes() for name in ("3.png", "4.png", "5.png")}
    scores = finished.results["teacher"]["last"]
    lines: list[str] = []
    try:
        (folder / "3.png").unlink()
        (folder / "4.png").write_bytes(b"by hand")
        assert parts.missing() == [0]
        write_pseudo_labels(parts, scores, lines.append)
        assert (folder / "3.png").read_bytes() == before["3.png"]
        assert (folder / "4.png").read_bytes() == b"by hand"
        write_pseudo_labels(parts, scores, lines.append)
        assert lines[0].startswith("1 of 3 written, 2 were there; ")
        assert lines[1] == "3 are there already"
    finally:
        for name, content in before.items():
            (folder / name).write_bytes(content)
    assert sorted(path.name for path in folder.iterdir()) == ["3.png", "4.png", "5.png", "pseudo_labels.json"]


def test_a_damaged_image_leaves_the_pseudo_labels_before_it(finished: Finished) -> None:
    parts = prepare(finished.config, str(finished.run_dir), THRESHOLD)
    folder, image = finished.run_dir / "pseudo_labels", finished.folder / "images/4.png"
    before = {name: (folder / name).read_bytes() for name in ("3.png", "4.png", "5.png")}
    whole = image.read_bytes()
    try:
        for name in before:
            (folder / name).unlink()
        image.write_bytes(whole[:-100])
        with pytest.raises(UserError, match=rf"^image {image}: damaged \("):
            write_pseudo_labels(parts, finished.results["teacher"]["last"])
        assert sorted(path.name for path in folder.iterdir()) == ["3.png", "pseudo_labels.json"]
        assert (folder / "3.png").read_bytes() == before["3.png"]
    finally:
        image.write_bytes(whole)
        for name, content in before.items():
            (folder / name).write_bytes(content)


def test_a_damaged_image_is_left_out_if_that_is_wanted(finished: Finished, tmp_path: Path) -> None:
    """The student learns without it; mended, it gets its pseudo label."""
    config = config_io.apply_overrides(finished.config, ["data.on_bad_example=skip"])
    run = tmp_path / "run"
    shutil.copytree(finished.run_dir / "teacher", run / "teacher")
    image = finished.folder / "images/4.png"
    whole = image.read_bytes()
    lines: list[str] = []
    try:
        image.write_bytes(whole[:-100])
        result = self_train(config, str(run), THRESHOLD, lines.append, "folder")
        assert result["student"]["last"]["step"] == 2
        folder = run / "pseudo_labels"
        (listed,) = (folder / "bad_examples.txt").read_text().splitlines()
        assert listed.startswith(f"4\timage {image}: damaged (")
        assert f"left out: image {image}: damaged (" in "\n".join(lines)
        assert any(line.startswith("2 of 3 written, 0 were there; ") for line in lines)
        assert sorted(path.stem for path in folder.glob("*.png")) == ["3", "5"]
        parts = prepare(config, str(run))
        assert parts.missing() == []
        student = open_sources(parts.student.data, "supervised").labeled
        assert set(student.ids) == {"0", "1", "2", "3", "5"}
    finally:
        image.write_bytes(whole)
    (folder / "bad_examples.txt").unlink()
    write_pseudo_labels(parts, finished.results["teacher"]["last"])
    assert (folder / "4.png").read_bytes() == (finished.run_dir / "pseudo_labels/4.png").read_bytes()


def test_more_damaged_images_than_allowed(finished: Finished, tmp_path: Path) -> None:
    overrides = ["data.on_bad_example=skip", "data.max_bad_examples=0"]
    run = tmp_path / "run"
    shutil.copytree(finished.run_dir / "teacher", run / "teacher")
    parts = prepare(config_io.apply_overrides(finished.config, overrides), str(run))
    image = finished.folder / "images/4.png"
    whole = image.read_bytes()
    try:
        image.write_bytes(whole[:-100])
        with pytest.raises(
            UserError, match=r"pseudo_labels/bad_examples\.txt: 1 examples cannot be used, data"
        ):
            write_pseudo_labels(parts, finished.results["teacher"]["last"])
    finally:
        image.write_bytes(whole)


def test_pseudo_labels_of_another_threshold_or_teacher_are_refused(finished: Finished) -> None:
    with pytest.raises(
        UserError, match=rf"pseudo_labels: pseudo labels of the threshold {THRESHOLD:g}, now it is 0\.5"
    ):
        prepare(finished.config, str(finished.run_dir), 0.5)
    parts = prepare(finished.config, str(finished.run_dir), THRESHOLD)
    with pytest.raises(UserError, match=r"pseudo_labels\.json: pseudo labels of another teacher; "):
        write_pseudo_labels(parts, finished.results["teacher"]["last"] | {"miou": 0.123})


def test_a_teacher_that_is_confident_of_nothing(finished: Finished, tmp_path: Path) -> None:
    shutil.copytree(finished.run_dir / "teacher", tmp_path / "run/teacher")
    lines: list[str] = []
    write_pseudo_labels(
        prepare(finished.config, str(tmp_path / "run"), 0.999),
        finished.results["teacher"]["last"],
        lines.append,
    )
    assert lines[0].startswith("note: the teacher is confident of no pixel, ")
    assert "a --threshold below 0.999" in lines[0]


def test_the_threshold_is_that_of_the_pseudo_labels(finished: Finished, tmp_path: Path) -> None:
    assert prepare(finished.config, str(finished.run_dir)).threshold == THRESHOLD != 0.5
    assert prepare(finished.config, str(tmp_path / "new")).threshold == 0.5
    description = tmp_path / "pseudo_labels" / "pseudo_labels.json"
    description.parent.mkdir()
    for text in ("[]", '{"threshold": "high"}'):
        description.write_text(text)
        with pytest.raises(UserError, match=r"pseudo_labels\.json: no description of pseudo labels; delete"):
            prepare(finished.config, str(tmp_path))


@pytest.mark.slow
def test_killed_and_continued_ends_as_if_it_had_not_been(finished: Finished, tmp_path: Path) -> None:
    """Killed before the student's first checkpoint, after a chain that was stopped within the pseudo labels."""
    run_dir = tmp_path / "run"
    shutil.copytree(finished.run_dir / "teacher", run_dir / "teacher")
    (run_dir / "pseudo_labels").mkdir()
    for name in ("pseudo_labels.json", "4.png"):
        shutil.copy2(finished.run_dir / "pseudo_labels" / name, run_dir / "pseudo_labels")
    command = [sys.executable, "-u", "-m", "pseudoseg_tf.cli.self_train", f"--run_dir={run_dir}"]
    command += [f"--threshold={THRESHOLD}", "--set=runtime.threads=1"]
    lines = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if line.startswith("learns from 3 labeled images"):
                process.kill()
    assert process.returncode == -9
    assert any(line.startswith("finished already, nothing to train") for line in lines)
    assert any(line.startswith("2 of 3 written, 1 were there") for line in lines)

    lines.clear()
    assert self_train(finished.config, str(run_dir), THRESHOLD, lines.append, "folder") == finished.results
    assert "3 are there already" in lines
    assert masks_of(run_dir).keys() == masks_of(finished.run_dir).keys()
    for name, mask in masks_of(run_dir).items():
        np.testing.assert_array_equal(mask, masks_of(finished.run_dir)[name])
    for part in ("teacher", "student"):
        ours, theirs = variables(run_dir / part), variables(finished.run_dir / part)
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.parametrize(
    ("batches", "repeat"), [((2, 2), 1), ((4, 1), 4), ((1, 4), 1), ((5, 2), 2), ((3, 1), 3)]
)
def test_share_of_labeled_images_follows_the_batches(
    finished: Finished, tmp_path: Path, batches: tuple[int, int], repeat: int
) -> None:
    """Of 3 labeled and 3 other images."""
    data = dataclasses.replace(finished.config.data, batch_labeled=batches[0], batch_unlabeled=batches[1])
    student = prepare(dataclasses.replace(finished.config, data=data), str(tmp_path), THRESHOLD).student
    assert student.data.batch_labeled == sum(batches)
    assert student.data.repeat_labeled == repeat


def test_plan_of_a_finished_chain(finished: Finished) -> None:
    text = " ".join(self_training_plan(finished.config, str(finished.run_dir), THRESHOLD).split())
    for part in (
        f"1 of 3, the teacher: {finished.run_dir / 'teacher'}",
        "(continues the run in it)",
        "3 images, 3 of them there already; pixels of a confidence above 0.43",
        "3 pseudo-labeled images, 3 labeled ones, each 1 times an epoch; 4 a step, 1.3 epochs",
        "steps: 2, each worth 12 forward passes",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.mode=weakly", r"^train\.mode: found 'weakly', but self-training reads no image-level labels"),
        ("runtime.strategy=multi_worker", r"^runtime\.strategy: found 'multi_worker'"),
        ("data.unlabeled=", r"^data\.unlabeled: found '', must be a text file"),
        ("train.steps=3", r"teacher: holds a run of another configuration \(train\.steps was '2', now '3'\)"),
        # Only the student reads it.
        ("data.batch_unlabeled=6", r"teacher: holds a run of another configuration \(data\.batch_unlabeled"),
    ],
)
def test_configurations_that_are_refused(finished: Finished, override: str, message: str) -> None:
    config = config_io.apply_overrides(finished.config, [override])
    with pytest.raises(UserError, match=message):
        prepare(config, str(finished.run_dir), THRESHOLD)


def test_pool_of_labeled_images_alone_is_refused(finished: Finished, tmp_path: Path) -> None:
    data = dataclasses.replace(finished.config.data, unlabeled=finished.config.data.labeled)
    with pytest.raises(UserError, match=r"^data\.unlabeled: all 3 images are in data\.labeled too"):
        prepare(dataclasses.replace(finished.config, data=data), str(tmp_path / "run"), THRESHOLD)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ([], "--run_dir: missing"),
        (["--run_dir=DIR"], "--preset: missing, no run in DIR/teacher"),
        (["--run_dir=DIR", "--preset=shapes", "--threshold=1"], "--threshold: found 1, must be 0 or greater"),
        (["--run_dir=DIR", "--preset=shapes", "--threshold=nan"], "flag --threshold=nan: must be a number"),
        (["--run_dir=DIR", "--preset=folder"], "data.images: found ''"),
    ],
)
def test_a_mistake_is_one_line(flags: list[str], part: str, tmp_path: Path) -> None:
    run_dir = str(tmp_path / "run")
    command = [sys.executable, "-m", "pseudoseg_tf.cli.self_train"]
    command += [flag.replace("DIR", run_dir) for flag in flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert part.replace("DIR", run_dir) in done.stderr
    assert not Path(run_dir).exists()
