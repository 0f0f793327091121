r"""Draws who is labeled: lists of ids, chosen at random, that miss no class. Or writes a published list.

Example:
  Three lists of a 16th of your images, runs/lists/mine_1.txt to mine_3.txt, each class in 5 images of each:
    pseudoseg-make-split --ratio=1/16 --min_images_per_class=5 --out=runs/lists/mine \
      --set data.images=my/images --set data.masks=my/masks --set data.classes=my/classes.txt \
      --set data.labeled=my/all_with_masks.txt
  The same for a TensorFlow Datasets builder; train it with --set data.labeled=train:runs/lists/shapes_1.txt
    pseudoseg-make-split --preset=shapes --set data.labeled=train --count=20 --out=runs/lists/shapes
  The 92 ids of the paper's first VOC split, for images in folders or TFRecords:
    pseudoseg-make-split --named=pascal_voc_seg/1_16/1 --out=runs/lists/voc_92

The pool is data.labeled. A list is a uniform draw, repeated until every class is in enough images, as in
Appendix C of the paper. How many images and pixels of each class there are, in the pool and in each draw, is
printed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from pseudoseg_tf import config_io
from pseudoseg_tf.cli import _app
from pseudoseg_tf.config import Config, DataConfig
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import check_directory
from pseudoseg_tf.presets import PRESETS, preset

_PRESET = flags.DEFINE_string(
    "preset", None, f"Experiment whose data to take: {', '.join(PRESETS)}. Absent: none, all is set by --set."
)
_SET = flags.DEFINE_multi_string(
    "set", [], "Change a key, as for pseudoseg-train: --set data.labeled=all.txt"
)
_OUT = flags.DEFINE_string("out", None, "Lists to write: OUT_1.txt, OUT_2.txt, ...; with --named OUT.txt.")
_RATIO = flags.DEFINE_string("ratio", None, "Draw this part of the pool, such as 1/16, rounded up.")
_COUNT = flags.DEFINE_integer("count", None, "Draw so many ids.", lower_bound=1)
_DRAWS = flags.DEFINE_integer("draws", 3, "How many lists to draw.", lower_bound=1, upper_bound=1000)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of the first list; the next have the next ones.", lower_bound=0, upper_bound=2**31
)
_MIN_IMAGES = flags.DEFINE_integer(
    "min_images_per_class", 1, "Each class is in at least so many images of a list.", lower_bound=0
)
_CLASSES = flags.DEFINE_list("classes", [], "Classes that this holds for. Absent: all that the pool shows.")
_NAMED = flags.DEFINE_string(
    "named",
    None,
    "Write a published list instead: NAME of data.name, or DATA_SET/NAME (1_16/1 of pascal_voc_seg).",
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace lists that are there.")

# What a published list leaves nothing to choose of.
_OF_DRAWS = ("draws", "seed", "min_images_per_class", "classes")


def main(argv: Sequence[str]) -> None:
    """Writes the lists and prints the report."""
    del argv
    given = [flag.name for flag in (_RATIO, _COUNT, _NAMED) if flag.value is not None]
    if len(given) != 1:
        found = " and ".join(f"--{name}" for name in given) or "none of them"
        raise UserError(f"found {found}; give one of --ratio, --count and --named (--help shows examples)")
    if not _OUT.value:
        raise UserError("--out: missing; how the lists begin, such as runs/lists/voc_1_16")
    config = preset(_PRESET.value) if _PRESET.value else Config()
    data = config_io.apply_overrides(config, _SET.value).data
    if _NAMED.value is None:
        _draw(data)
        return
    for name in _OF_DRAWS:
        if flags.FLAGS[name].present:
            raise UserError(f"--{name}: has no meaning with --named; leave it out")
    _write_named(data, _NAMED.value)


def _draw(data: DataConfig) -> None:
    parts = None if _RATIO.value is None else _parse_ratio(_RATIO.value)
    paths = [Path(f"{_OUT.value}_{number}.txt") for number in range(1, _DRAWS.value + 1)]
    _check_free(paths)

    # These take a while to import: only now, when the flags are known to be right.
    from pseudoseg_tf.data.class_counts import count_pixels, table
    from pseudoseg_tf.data.sources import open_labeled
    from pseudoseg_tf.data.splits import class_balanced_draw, write_ids

    pool = open_labeled(data)
    names = pool.info.class_names
    covered = _class_ids(names) if _CLASSES.value else range(len(names))
    count = _COUNT.value if parts is None else -(-len(pool) * parts[0] // parts[1])
    pixels = count_pixels(pool)
    shown = {
        record_id: {class_id for class_id in covered if row[class_id]}
        for record_id, row in zip(pool.ids, pixels, strict=True)
    }
    draws = [
        class_balanced_draw(pool.ids, shown, count, _SEED.value + number, _MIN_IMAGES.value, names)
        for number in range(_DRAWS.value)
    ]
    position = {record_id: index for index, record_id in enumerate(pool.ids)}
    columns = {f"pool of {len(pool)}": pixels}
    for path, draw in zip(paths, draws, strict=True):
        columns[f"{path.stem}: {len(draw)}"] = pixels[[position[record_id] for record_id in draw]]
    for path, draw in zip(paths, draws, strict=True):
        write_ids(path, draw)
    print(table(names, columns))
    for number, path in enumerate(paths):
        print(f"{path}: {count} of {len(pool)} ids, seed {_SEED.value + number}")


def _parse_ratio(text: str) -> tuple[int, int]:
    """Reads "1/16" as (1, 16)."""
    parts = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not parts or not 0 < int(parts[1]) <= int(parts[2]):
        raise UserError(f"--ratio: found {text!r}, must be a fraction such as 1/16, above 0 and at most 1/1")
    return int(parts[1]), int(parts[2])


def _check_free(paths: Sequence[Path]) -> None:
    there = [path for path in paths if path.exists()]
    if there and not _OVERWRITE.value:
        raise UserError(f"--out: {there[0]} is there already; take another name, or give --overwrite")
    check_directory(paths[0].parent)


def _class_ids(names: Sequence[str]) -> list[int]:
    from pseudoseg_tf.data.text import nearest_hint

    for name in _CLASSES.value:
        if name not in names:
            raise UserError(
                f"--classes: found {name!r}, which is not a class of the data set{nearest_hint(name, names)}; "
                f"classes: {', '.join(names)}"
            )
    return [names.index(name) for name in _CLASSES.value]


def _write_named(data: DataConfig, value: str) -> None:
    from pseudoseg_tf.data import split_catalog
    from pseudoseg_tf.data.splits import write_ids

    data_set, _, name = value.partition("/")
    if data_set not in split_catalog.data_sets():
        data_set, name = re.split("[/:]", data.name)[0], value
    names = split_catalog.split_names(data_set)
    if not names:
        raise UserError(
            f"--named: found {value!r}, must be DATA_SET/NAME with one of {', '.join(split_catalog.data_sets())} "
            "as data set, such as pascal_voc_seg/1_16/1"
        )
    if name not in names:
        raise UserError(f"--named: found {value!r}; published splits of {data_set}: {', '.join(names)}")
    path = Path(f"{_OUT.value}.txt")
    _check_free([path])
    ids = split_catalog.named_ids(
        data_set, name, data.splits_dir, lambda: _training_ids(data, data_set), f"--named={value}"
    )
    write_ids(path, ids)
    print(f"{path}: {len(ids)} ids of {data_set}/{name}")


def _training_ids(data: DataConfig, data_set: str) -> Sequence[str]:
    from pseudoseg_tf.data.sources import open_labeled
    from pseudoseg_tf.data.split_catalog import base_split

    if data.source != "tfds" and not data.labeled:
        raise UserError(
            f"--named={data_set}: its splits are drawn from the ids of all training images; add "
            "--preset=cityscapes --set data.manual_dir=FOLDER, or name them in a list file, as data.labeled"
        )
    if data.source == "tfds":
        data = dataclasses.replace(data, labeled=base_split(data_set))
    return open_labeled(data).ids


def run() -> None:
    """Entry point of pseudoseg-make-split."""
    _app.run(main)


if __name__ == "__main__":
    run()
