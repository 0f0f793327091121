"""Who is labeled: list files of ids, checks between lists, and a draw that misses no class."""

from __future__ import annotations

import os
import posixpath
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from pseudoseg_tf.data.text import canonical_id, read_lines
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import write_text
from pseudoseg_tf.progress import Progress

# Draws tried before a request counts as hopeless: seconds of work, and hits as rare as 1 in 10,000 are met.
_MAX_DRAWS = 50_000


def read_ids(path: str | os.PathLike[str], key: str) -> list[str]:
    """Reads a list file: one id a line, relative to the image folder, with or without image extension.

    Args:
      path: the file; byte-order mark, Windows line ends and blank lines are fine.
      key: the configuration key that names it, for error messages.

    Returns:
      The ids as written, in order.

    Raises:
      UserError: the file cannot be read, holds no id, repeats one, or one could leave the image folder.
    """
    ids = [line for line in read_lines(path, key) if line]
    where = f"{key}: {path}"
    if not ids:
        raise UserError(f"{where} holds no ids; it needs one a line")
    for record_id in ids:
        if posixpath.isabs(record_id) or ".." in record_id.split("/"):
            raise UserError(f"{where} holds {record_id!r}; ids are paths in the image folder, without '..'")
    check_unique([canonical_id(record_id) for record_id in ids], where)
    return ids


def split_list(value: str) -> tuple[str, str]:
    """Splits "BASE:LIST", a list of ids that are looked up in a TFDS split or in shards.

    A colon in brackets (train[:20]) or before two slashes (gs://bucket/train-*) does not count.

    Returns:
      BASE and LIST; without a list, the value and "".
    """
    parts = re.fullmatch(r"((?:\[[^\]]*\]|:(?=//)|[^:\[])+):(?!//)(.+)", value)
    return (parts[1], parts[2]) if parts else (value, "")


def write_ids(path: str | os.PathLike[str], ids: Sequence[str]) -> None:
    """Writes a list file, one id a line: under a temporary name, then renamed.

    Raises:
      UserError: the file cannot be written.
    """
    write_text(path, "".join(f"{record_id}\n" for record_id in ids))


def check_unique(ids: Sequence[str], where: str) -> None:
    """Raises UserError if an id occurs twice; `where` opens the message."""
    repeated = [record_id for record_id, count in Counter(ids).items() if count > 1]
    if repeated:
        raise UserError(f"{where} repeats {_some(repeated)}; each id may stand once")


def check_disjoint(ids: Sequence[str], where: str, others: Sequence[str], others_where: str) -> None:
    """Raises UserError if two lists share an id; `where` and `others_where` name the lists."""
    shared = common_ids(ids, others)
    if shared:
        raise UserError(
            f"{where} and {others_where} share {_some(shared)}; what is scored must not be trained on: "
            "remove them from one of the two"
        )


def common_ids(ids: Sequence[str], others: Sequence[str]) -> list[str]:
    """Returns the ids that stand in both lists, in the order of the first."""
    known = set(others)
    return [record_id for record_id in ids if record_id in known]


def class_balanced_draw(
    ids: Sequence[str],
    image_classes: Mapping[str, Collection[int]],
    count: int,
    seed: int,
    min_images_per_class: int,
    class_names: Sequence[str] = (),
) -> list[str]:
    """Draws a small labeled set that misses no class (Appendix C of the paper).

    Uniform draws without replacement are repeated until every class is in enough images, so the result is
    uniform over all sets that qualify. The same arguments give the same ids everywhere.

    Args:
      ids: the pool, without repetition.
      image_classes: the class ids in each image of the pool. A class counts if it is in any of them: leave
        out of the values what need not be covered, such as 255 or a class too rare to be asked for.
      count: how many ids to draw.
      seed: 0 to 2**32 - 1.
      min_images_per_class: how many of the images drawn must show each class.
      class_names: by class id, what error messages call it; (): its id.

    Returns:
      `count` ids in the order of the pool.

    Raises:
      UserError: count is above len(ids) or below min_images_per_class, the pool has too few images of a
        class, or no draw qualified.
    """
    least = max(1, min_images_per_class)
    if not least <= count <= len(ids):
        raise UserError(f"cannot draw {count} of {len(ids)} ids; the count must be {least} to {len(ids)}")
    classes = sorted(set().union(*(image_classes[record_id] for record_id in ids)))
    shows = np.array([[c in image_classes[record_id] for c in classes] for record_id in ids], bool)
    for class_id, images in zip(classes, shows.sum(axis=0), strict=True):
        if images < min_images_per_class:
            raise UserError(
                f"class {_name(class_id, class_names)} is in {images} of {len(ids)} images, but each class must be in "
                f"{min_images_per_class} of the images drawn; ask for fewer or leave the class out"
            )
    # RandomState, because its stream is frozen; that of numpy's newer generators may change.
    random = np.random.RandomState(seed)
    with Progress(_MAX_DRAWS, f"seed {seed}: draws of {count} ids, at most") as progress:
        for _ in range(_MAX_DRAWS):
            drawn = random.permutation(len(ids))[:count]
            if (shows[drawn].sum(axis=0) >= min_images_per_class).all():
                return [ids[index] for index in np.sort(drawn)]
            progress.update()
    rarest = _name(classes[int(shows.sum(axis=0).argmin())], class_names)
    raise UserError(
        f"none of {_MAX_DRAWS:,} draws of {count} ids had {min_images_per_class} images of each of the "
        f"{len(classes)} classes (rarest: {rarest}); draw more ids, ask for fewer or leave a class out"
    )


def _name(class_id: int, class_names: Sequence[str]) -> str:
    return repr(class_names[class_id]) if class_names else str(class_id)


def _some(ids: Sequence[str]) -> str:
    """The number of ids and the first three, such as "5 ids ('a', 'b', 'c', ...)"."""
    shown = ", ".join(repr(record_id) for record_id in ids[:3]) + (", ..." if len(ids) > 3 else "")
    return f"{len(ids)} id{'s' if len(ids) > 1 else ''} ({shown})"
