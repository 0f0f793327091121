r"""How fast the unpacked archives of a data set become a prepared one, and what disk that takes.

Prepares each builder from the folder given, into a temporary directory, and prints a table: records per second of
processor time, which is what one core does that has nothing else to do, and the sizes of the files before and after.

Example:
  python -m benchmarks.conversion --voc=../shared/data/voc12_devkit_sample --coco=../shared/data/coco_sample
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from pseudoseg_tf.cli import _app
from pseudoseg_tf.data.tfds_source import open_builder
from pseudoseg_tf.errors import UserError

_VOC = flags.DEFINE_string("voc", "", "Folder with VOCdevkit, as data.manual_dir.")
_COCO = flags.DEFINE_string("coco", "", "Folder with train2017, val2017 and annotations, as data.manual_dir.")
_CITYSCAPES = flags.DEFINE_string("cityscapes", "", "Folder with leftImg8bit and gtFine, as data.manual_dir.")
_REPEAT = flags.DEFINE_integer("repeat", 3, "Times each is prepared; the fastest counts.", lower_bound=1)


def main(argv: Sequence[str]) -> None:
    """Prepares what is given and prints the table."""
    del argv
    given = {
        "pascal_voc_seg/subset": _VOC.value,
        "coco_seg/coco81_subset": _COCO.value,
        "cityscapes_seg/subset": _CITYSCAPES.value,
    }
    if not any(given.values()):
        raise UserError("--voc, --coco, --cityscapes: none given; name a folder of archives with one of them")
    rows = [_row(name, folder) for name, folder in given.items() if folder]
    print("| builder | records | records/s of a core | MB prepared | MB of the archives |")
    print("|--|--|--|--|--|", *rows, sep="\n")


def _row(name: str, folder: str) -> str:
    seconds = []
    for _ in range(_REPEAT.value):
        with tempfile.TemporaryDirectory() as data_dir:
            start = time.process_time()
            builder, _ = open_builder(name, data_dir, folder)
            seconds.append(time.process_time() - start)
            prepared = _megabytes(Path(builder.data_dir))
    records = sum(split.num_examples for split in builder.info.splits.values())
    speed = records / min(seconds)
    return f"| {name} | {records} | {speed:.0f} | {prepared:.1f} | {_megabytes(Path(folder)):.1f} |"


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


if __name__ == "__main__":
    _app.run(main)
