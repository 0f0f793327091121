"""The classes and images that a run began with: it goes on with the same ones."""

from __future__ import annotations

import hashlib
import os

from pseudoseg_tf.data.sources import Sources
from pseudoseg_tf.data.specs import DatasetInfo
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import read_json, write_json
from pseudoseg_tf.inference import read_info

_CLASSES, _EXAMPLES = "dataset.json", "examples.json"


def save_run_data(run_dir: str, sources: Sources) -> None:
    """Writes ``dataset.json``, the classes, and ``examples.json``, each list's number of images and SHA-256."""
    write_json(os.path.join(run_dir, _CLASSES), sources.info.to_json())
    write_json(os.path.join(run_dir, _EXAMPLES), _examples(sources))


def check_run_data(run_dir: str, sources: Sources) -> None:
    """Checks that data are those of the run in a directory, if there is one.

    Raises:
        UserError: other classes; other images or another order in a list; one of the two files is damaged.
    """
    path = os.path.join(run_dir, _CLASSES)
    if os.path.exists(path):
        check_classes(run_dir, sources.info, read_info(path))
    path = os.path.join(run_dir, _EXAMPLES)
    if not os.path.exists(path):
        return
    before = read_json(path)
    for key, now in _examples(sources).items():
        try:
            same, count = before[key] == now, before[key]["images"]
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}: says nothing of data.{key}; restore it, or delete it") from error
        if not same:
            raise UserError(
                f"{run_dir}: data.{key} has {now['images']} images, other ones or in another order than the {count} "
                "that the run began with; restore the list, or take another run directory"
            )


def check_classes(run_dir: str, found: DatasetInfo, trained: DatasetInfo) -> None:
    """Raises UserError if data have other classes than a run."""
    if found.class_names != trained.class_names:
        raise UserError(
            f"{run_dir}: trained with the classes {', '.join(trained.class_names)}, but the data now has "
            f"{', '.join(found.class_names)}; restore the class list of the run"
        )
    if found.has_background != trained.has_background:
        raise UserError(
            f"{run_dir}: trained {'with' if trained.has_background else 'without'} a background, and the data now has "
            "it otherwise; restore data.background of the run"
        )


def _examples(sources: Sources) -> dict[str, dict[str, int | str]]:
    lists = {**sources.streams(), "val": sources.val}
    return {
        key: {
            "images": len(source),
            "sha256": hashlib.sha256("\n".join(source.ids).encode("utf-8", "surrogateescape")).hexdigest(),
        }
        for key, source in lists.items()
    }
