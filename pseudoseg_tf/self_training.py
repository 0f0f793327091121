"""Self-training, a baseline of the paper (section 4.4): a teacher labels what is unlabeled, a student learns from it.

Offline and in three parts, each of which can be stopped and continued: the teacher learns from the labeled images; it
predicts the unlabeled ones once, and what it is confident of is written as masks; the student learns from both.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pseudoseg_tf import config_io
from pseudoseg_tf.assembly import create_model, create_strategy
from pseudoseg_tf.checkpoint import restore_model
from pseudoseg_tf.config import Config, RuntimeConfig
from pseudoseg_tf.data.bad_examples import BadExamples, listed
from pseudoseg_tf.data.decode import decode_image
from pseudoseg_tf.data.pseudo_labeled import BAD_EXAMPLES, mask_path, not_labeled
from pseudoseg_tf.data.sources import open_sources
from pseudoseg_tf.data.specs import IGNORE_LABEL, Source
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import check_directory, read_json, write_json
from pseudoseg_tf.inference import predict_at_own_size
from pseudoseg_tf.progress import Progress
from pseudoseg_tf.records import Log
from pseudoseg_tf.train import train
from pseudoseg_tf.visualize import save_palette_png

# Describes the pseudo labels beside it.
_DESCRIPTION = "pseudo_labels.json"
_THRESHOLD = 0.5


@dataclasses.dataclass(frozen=True)
class SelfTraining:
    """The three parts of a self-training, checked and not begun.

    Attributes:
      teacher, student: their configurations.
      teacher_dir, student_dir: their run directories.
      pseudo_labels: folder of the masks that lie between them.
      threshold: pixels of at most this confidence are ignored.
      labeled: how many images are labeled.
      unlabeled: the images that the teacher labels: those of ``data.unlabeled`` that are not labeled too.
    """

    teacher: Config
    student: Config
    teacher_dir: str
    student_dir: str
    pseudo_labels: str
    threshold: float
    labeled: int
    unlabeled: Source

    @property
    def bad_examples(self) -> str:
        """List of images that cannot be read, and so have no pseudo label."""
        return os.path.join(self.pseudo_labels, BAD_EXAMPLES)

    def missing(self) -> list[int]:
        """Positions of the images of ``unlabeled`` that have no pseudo label yet, and are not listed as bad."""
        bad = set(listed(self.bad_examples, self.unlabeled.ids))
        return [
            index
            for index, record_id in enumerate(self.unlabeled.ids)
            if record_id not in bad and not os.path.isfile(mask_path(self.pseudo_labels, record_id))
        ]


def prepare(config: Config, run_dir: str, threshold: float | None = None) -> SelfTraining:
    """Resolves both configurations and checks data and directories; writes nothing.

    Teacher and student learn as in supervised mode, from the same first weights and for as many steps. A batch of the
    student has ``data.batch_labeled + data.batch_unlabeled`` images, as many as PseudoSeg sees in a step, and labeled
    images are repeated so that about ``data.batch_labeled`` of them are labeled.

    Args:
      config: the run, with ``data.unlabeled``; ``pseudo.*`` is not read.
      run_dir: gets the directories ``teacher``, ``pseudo_labels`` and ``student``.
      threshold: least confidence of a pseudo-labeled pixel, exclusive; 0 or greater and less than 1. None: that of the
        pseudo labels that are there, else 0.5.

    Raises:
      UserError: configuration, data, or directories that hold something else.
    """
    if threshold is not None and not 0 <= threshold < 1:
        raise UserError(f"threshold: found {threshold:g}, must be 0 or greater, and less than 1")
    _check_config(config)
    teacher_dir, student_dir = os.path.join(run_dir, "teacher"), os.path.join(run_dir, "student")
    # As the student's configuration names it: the same from whatever directory the program is started.
    pseudo_labels = os.path.abspath(os.path.join(run_dir, "pseudo_labels"))
    teacher = dataclasses.replace(config, train=dataclasses.replace(config.train, mode="supervised"))
    config_io.check_run_dir(teacher_dir, teacher)
    check_directory(pseudo_labels)
    sources = open_sources(config.data, "unlabeled")
    assert sources.unlabeled is not None
    unlabeled = not_labeled(sources.unlabeled, sources.labeled)
    for record_id in unlabeled.ids:
        mask_path(pseudo_labels, record_id)
    there = _threshold_of(pseudo_labels)
    if there is not None and threshold not in (None, there):
        raise UserError(
            f"{pseudo_labels}: pseudo labels of the threshold {there:g}, now it is {threshold:g}; leave --threshold "
            f"out, take another run directory, or delete {pseudo_labels} and {student_dir}"
        )
    threshold = next((known for known in (threshold, there) if known is not None), _THRESHOLD)
    student = _student(teacher, pseudo_labels, len(sources.labeled), len(unlabeled))
    config_io.check_run_dir(student_dir, student)
    return SelfTraining(
        teacher,
        student,
        teacher_dir,
        student_dir,
        pseudo_labels,
        threshold,
        len(sources.labeled),
        unlabeled,
    )


def _threshold_of(pseudo_labels: str) -> float | None:
    """That of the pseudo labels in a folder; None if there are none."""
    path = os.path.join(pseudo_labels, _DESCRIPTION)
    if not os.path.exists(path):
        return None
    values = read_json(path)
    found = values.get("threshold") if isinstance(values, dict) else None
    if not isinstance(found, float | int):
        raise UserError(
            f"{path}: no description of pseudo labels; delete {pseudo_labels}, which are then made anew"
        )
    return found


def self_train(
    config: Config, run_dir: str, threshold: float | None = None, log: Log = print, preset: str = ""
) -> dict[str, dict[str, dict[str, Any]]]:
    """Trains a teacher, writes its pseudo labels, trains a student on them; see ``prepare``.

    A second call with the same arguments continues where the first stopped, and leaves alone what is finished.

    Args:
      log: takes each line meant for a person.
      preset: name of the preset, for the record.

    Returns:
      {"teacher": ..., "student": ...}, what ``train`` returns of each.

    Raises:
      UserError: as ``prepare`` and ``train``, or ``run_dir`` holds pseudo labels of another teacher or threshold.
    """
    # For the number of threads, which must stand before TensorFlow does anything, such as opening the data.
    create_strategy(_one_device(config))
    parts = prepare(config, run_dir, threshold)
    log(f"1 of 3, the teacher: {parts.teacher_dir}")
    teacher = train(parts.teacher, parts.teacher_dir, log, preset)
    log(f"2 of 3, pseudo labels: {parts.pseudo_labels}")
    write_pseudo_labels(parts, teacher["last"], log)
    log(f"3 of 3, the student: {parts.student_dir}")
    return {"teacher": teacher, "student": train(parts.student, parts.student_dir, log, preset)}


def write_pseudo_labels(parts: SelfTraining, scores: dict[str, Any], log: Log = print) -> None:
    """Writes the pseudo labels that are missing: the teacher's last checkpoint, predicting as in evaluation.

    Args:
      parts: what to predict, and where to.
      scores: of the teacher's last evaluation, by which it is known again.
      log: takes a line on what was written.

    Raises:
      UserError: there are pseudo labels of another teacher; an image cannot be read, and ``data.on_bad_example`` is
        "fail", or there are too many of them.
    """
    path = os.path.join(parts.pseudo_labels, _DESCRIPTION)
    teacher = {name: scores[name] for name in ("step", "miou", "pixel_accuracy", "ece")}
    description = {"threshold": parts.threshold, "teacher": teacher}
    if os.path.exists(path) and read_json(path) != description:
        raise UserError(
            f"{path}: pseudo labels of another teacher; now its mIoU is {100 * teacher['miou']:.2f}; take another run "
            f"directory, or delete {parts.pseudo_labels} and {parts.student_dir}"
        )
    missing = parts.missing()
    if not missing:
        log(f"{len(parts.unlabeled)} are there already")
        return
    write_json(path, description)
    pseudo_label = _teacher(parts)
    data = parts.teacher.data
    bad_examples = BadExamples(parts.bad_examples, data.max_bad_examples)
    written = kept = pixels = 0
    with Progress(len(missing), "pseudo labels") as progress:
        for index in missing:
            progress.update()
            try:
                record = parts.unlabeled.read(index)
                image = decode_image(record.image, record.image_name)
            except UserError as error:
                if data.on_bad_example == "fail":
                    raise
                bad_examples.add(parts.unlabeled.ids[index], str(error))
                continue
            labels = pseudo_label(image)
            path = mask_path(parts.pseudo_labels, record.id)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            save_palette_png(path, labels, parts.unlabeled.info.palette)
            written += 1
            kept += int((labels != IGNORE_LABEL).sum())
            pixels += labels.size
    bad_examples.report(log)
    if pixels and not kept:
        log(
            f"note: the teacher is confident of no pixel, and the student will learn from labeled images alone; a "
            f"--threshold below {parts.threshold:g}, or more steps, give it more"
        )
    log(
        f"{written} of {len(parts.unlabeled)} written, {len(parts.unlabeled) - len(missing)} were there; "
        f"{100 * kept / max(pixels, 1):.1f} % of the pixels have a confidence above {parts.threshold:g}, the others "
        "are ignored"
    )


def confident_labels(labels: tf.Tensor, probabilities: tf.Tensor, threshold: float) -> tf.Tensor:
    """Labels uint8 [...] where the largest of the probabilities [..., C] is above the threshold, else 255."""
    confident = tf.reduce_max(probabilities, axis=-1) > threshold
    return tf.where(confident, labels, tf.constant(IGNORE_LABEL, tf.uint8))


def _teacher(parts: SelfTraining) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]:
    """From an image uint8 [H, W, 3] to its pseudo label uint8 [H, W]."""
    config = parts.teacher
    # One image at a time, for which there is no use of several devices.
    with create_strategy(_one_device(config)).scope():
        model = create_model(config, parts.unlabeled.info)
        restore_model(parts.teacher_dir, "last", model)

    @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8)])
    def predict(images: tf.Tensor) -> tf.Tensor:
        labels, probabilities = predict_at_own_size(model, images, config.data)
        return confident_labels(labels, probabilities, parts.threshold)

    return lambda image: predict(image[np.newaxis])[0].numpy()


def _one_device(config: Config) -> RuntimeConfig:
    return dataclasses.replace(config.runtime, strategy="one_device")


def _check_config(config: Config) -> None:
    """Refuses what self-training has no use for, and lists that are not named."""
    if config.train.mode == "weakly":
        raise UserError(
            "train.mode: found 'weakly', but self-training reads no image-level labels; leave it out"
        )
    if config.data.pseudo_labels:
        raise UserError(
            f"data.pseudo_labels: found {config.data.pseudo_labels!r}, but self-training writes its own; leave it out"
        )
    if config.runtime.strategy == "multi_worker":
        raise UserError(
            "runtime.strategy: found 'multi_worker', which one process cannot start twice, for teacher and student; "
            "take auto or mirrored"
        )
    # For the rule that there is an unlabeled list.
    config_io.validate(dataclasses.replace(config, train=dataclasses.replace(config.train, mode="unlabeled")))


def _student(teacher: Config, pseudo_labels: str, labeled: int, pseudo_labeled: int) -> Config:
    """The student's configuration: that of the teacher, with other data."""
    data = teacher.data
    repeat = round(data.batch_labeled * pseudo_labeled / (data.batch_unlabeled * labeled))
    return dataclasses.replace(
        teacher,
        data=dataclasses.replace(
            data,
            pseudo_labels=pseudo_labels,
            repeat_labeled=max(1, repeat),
            batch_labeled=data.batch_labeled + data.batch_unlabeled,
        ),
    )
