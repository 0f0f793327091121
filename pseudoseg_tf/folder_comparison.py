"""A comparison on a folder of real images that a CPU can finish: who is labeled, and settings for few steps.

The folder holds ``images/``, ``masks/``, ``classes.txt`` and the lists ``train.txt``, ``val.txt`` and
``aug_extra.txt`` (additional images, whose masks nothing learns from).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pseudoseg_tf.data.decode import decode_mask
from pseudoseg_tf.data.specs import IGNORE_LABEL
from pseudoseg_tf.data.splits import class_balanced_draw, read_ids, write_ids
from pseudoseg_tf.data.text import canonical_id, read_class_names
from pseudoseg_tf.errors import UserError

# What suits a few hundred steps of small batches on a CPU; the same for every row.
FEW_STEPS = (
    "model.atrous_rates=2,5,7",
    "model.aspp_channels=128",
    "model.decoder_channels=128",
    "model.batch_norm_decay=0.99",
    "data.crop_size=193",
    # Views near the size that images have at evaluation: easier than the paper's 0.5 to 2, for less time.
    "data.min_scale=0.75",
    "data.max_scale=1.25",
    "data.cutout=25",
    "data.batch_labeled=4",
    "data.batch_unlabeled=4",
    "train.learning_rate=0.05",
    "train.backbone_multiplier=0.1",
    "train.attention_weight=10",
    "pseudo.weight=0.5",
    "pseudo.weak_inference=true",
    "pseudo.strong_statistics=false",
    "pseudo.repeat_statistics=false",
)


class TooFewImagesError(UserError):
    """The folder is in order but too small for a split."""


def schedule(steps: int, evaluations: int) -> tuple[str, ...]:
    """Overrides for a run of ``steps`` that is evaluated ``evaluations`` times."""
    every = max(1, steps // evaluations)
    return (
        f"train.steps={steps}",
        f"pseudo.ramp_steps={steps // 2}",
        f"train.evaluate_every={every}",
        f"train.checkpoint_every={every}",
        f"train.pictures_every={every}",
    )


def draw_lists(data: Path, out: Path, part: int, seed: int = 0, frequent: Sequence[str] = ()) -> None:
    """Writes ``out/labeled.txt``, a class-balanced part of the training list, and ``out/unlabeled.txt``, the rest.

    Args:
        data: the folder.
        out: made if need be.
        part: one of so many training images is labeled; 1: all, and the additional list alone is unlabeled.
        seed: of the draw.
        frequent: names of the classes that the draw must not miss; none: those in a tenth of the images.

    Raises:
        TooFewImagesError: no such draw can be had.
        UserError: the folder lacks a file, or one is wrong.
    """
    ids, extra = (read_ids(data / name, "--data") for name in ("train.txt", "aug_extra.txt"))
    out.mkdir(parents=True, exist_ok=True)
    labeled = ids if part == 1 else _draw(data, ids, part, seed, frequent)
    # Additional lists often name all images there are, those of the training list among them.
    known = {canonical_id(i) for i in ids}
    others = [i for i in ids if i not in set(labeled)] + [i for i in extra if canonical_id(i) not in known]
    for name, drawn in (("labeled.txt", labeled), ("unlabeled.txt", others)):
        path = out / name
        # Runs that were made with other lists would stand in one table with those to come.
        if path.exists() and read_ids(path, "--out") != drawn:
            raise UserError(
                f"{path}: runs here had other lists than {data} gives now; take another --out, or the folder as it was"
            )
        write_ids(path, drawn)


def folder_overrides(data: Path, lists: Path, weights: str) -> tuple[str, ...]:
    """Overrides that name the folder, the lists that :func:`draw_lists` wrote, and the backbone's first weights."""
    return (
        f"data.images={data / 'images'}",
        f"data.masks={data / 'masks'}",
        f"data.classes={data / 'classes.txt'}",
        f"data.labeled={lists / 'labeled.txt'}",
        f"data.unlabeled={lists / 'unlabeled.txt'}",
        f"data.val={data / 'val.txt'}",
        f"init.weights={weights}",
    )


def _draw(data: Path, ids: Sequence[str], part: int, seed: int, frequent: Sequence[str]) -> list[str]:
    classes = read_class_names(data / "classes.txt")
    shown = {
        record_id: _classes_of(data / "masks" / f"{canonical_id(record_id)}.png", len(classes))
        for record_id in ids
    }
    absent = [name for name in frequent if name not in classes]
    if absent:
        raise UserError(
            f"--data: {data / 'classes.txt'} does not name {absent[0]!r}, which each draw must show"
        )
    if frequent:
        wanted = {classes.index(name) for name in frequent}
    else:
        images = Counter(class_id for present in shown.values() for class_id in present)
        wanted = {class_id for class_id, count in images.items() if 10 * count >= len(ids)}
    count = len(ids) // part
    if not count:
        raise TooFewImagesError(
            f"--data: {data / 'train.txt'}: {len(ids)} images are too few to draw 1/{part} of them; it takes {part}"
        )
    counted = {record_id: wanted & present for record_id, present in shown.items()}
    try:
        return class_balanced_draw(ids, counted, count, seed, max(1, count // 11))
    except UserError as error:
        raise TooFewImagesError(
            f"--data: {data / 'train.txt'}: {len(ids)} images are too few to draw 1/{part} of them ({error})"
        ) from error


def _classes_of(mask: Path, num_classes: int) -> set[int]:
    """The ids of the classes that a mask shows."""
    try:
        content = mask.read_bytes()
    except OSError as error:
        raise UserError(
            f"--data: {mask} cannot be read ({error.strerror}); each training image needs a mask"
        ) from error
    return set(np.unique(decode_mask(content, str(mask), num_classes)).tolist()) - {IGNORE_LABEL}
