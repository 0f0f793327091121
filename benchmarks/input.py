r"""Images a second of one core, by stage of the input pipeline, against the plain order of the same work.

The plain order: decode, resize the whole image, jitter its colors, pad, crop, flip, all of it on the host. Ours: decode
(or take from the cache), one sampling of the crop; colors change on the device. JPEG pictures of drawn noise in memory,
of VOC's usual size. The stages take turns, so that all meet the same load. Prints a table and writes JSON.

Example:
  python -m benchmarks.input --out=runs/bench/input.json
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping, Sequence

from absl import flags

from benchmarks.machine import described, machine
from pseudoseg_tf.cli import _app
from pseudoseg_tf.config_io import read_flag
from pseudoseg_tf.files import write_json

# A stage has as many turns.
_TURNS = 16

_CROP = flags.DEFINE_integer("crop", 513, "Side of the crop, 16k+1.", lower_bound=17)
_HEIGHT = flags.DEFINE_integer("height", 375, "Height of the pictures.", lower_bound=1)
_WIDTH = flags.DEFINE_integer("width", 500, "Width of the pictures.", lower_bound=1)
_IMAGES = flags.DEFINE_integer("images", 256, "Images measured by each stage.", lower_bound=_TURNS)
_OUT = flags.DEFINE_string("out", None, "JSON file to write; none if absent.")

# Rows of the table; the ratio is to the first.
PLAIN, OURS, CACHED = "plain order, all on the host", "ours", "ours, data.cache=memory"
DECODE, SAMPLE = "decoding alone", "sampling alone"
DEVICE = "strong view of a batch, on the device"


def main(argv: Sequence[str]) -> None:
    """Measures every stage and prints the table."""
    del argv
    crop = read_flag("--crop", "data.crop_size", str(_CROP.value))
    rates = measure(crop, (_HEIGHT.value, _WIDTH.value), _IMAGES.value)
    lines = [
        f"{_WIDTH.value}x{_HEIGHT.value} JPEG to crops of {_CROP.value}x{_CROP.value}; {described()}",
        "",
        "| stage | images/s of a core | times the plain order |",
        "|--|--|--|",
        *(f"| {stage} | {rate:.0f} | {rate / rates[PLAIN]:.1f} |" for stage, rate in rates.items()),
    ]
    print("\n".join(lines))
    if _OUT.value:
        write_json(_OUT.value, {**machine(), "crop": _CROP.value, "images_per_core_second": rates})


def measure(crop: tuple[int, int], size: tuple[int, int], images: int) -> dict[str, float]:
    """Images a second of processor time for each stage."""
    import tensorflow as tf

    from benchmarks.noise import noise_sources
    from benchmarks.plain_input import plain_dataset
    from pseudoseg_tf.config import DataConfig
    from pseudoseg_tf.data import color, geometry
    from pseudoseg_tf.data.decode import decode_record
    from pseudoseg_tf.data.pipeline import training_dataset

    sources = noise_sources(21, count=8, size=size)
    source = sources.labeled
    data = DataConfig(crop_size=crop, batch_labeled=1, batch_unlabeled=1)

    def of_dataset(dataset: tf.data.Dataset) -> Callable[[], object]:
        # One after the other: else threads that wait for each other would count.
        options = tf.data.Options()
        options.threading.private_threadpool_size = 1
        options.threading.max_intra_op_parallelism = 1
        iterator = iter(dataset.with_options(options))
        return lambda: next(iterator)

    def ours(**keys: str) -> Callable[[], object]:
        return of_dataset(training_dataset(sources, dataclasses.replace(data, **keys), "supervised", 0))

    record, seed = source.read(0), tf.constant([0, 0], tf.int64)
    image, labels = (tf.constant(each) for each in decode_record(record, 21))
    seeds = itertools.cycle(tf.unstack(tf.random.split(seed, images)))

    @tf.function
    def sample(seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        draws = geometry.geometry_draws(seed, tf.shape(labels), crop, 0.5, 2.0, 0.25)
        return geometry.weak_view(image, labels, draws, crop)

    batch = 8
    views = tf.random.uniform([batch, *crop, 3], maxval=255.0)
    draws = [color.strong_draws(seed, crop, 1.0) for seed in tf.unstack(tf.random.split(seed, batch))]
    stacked = color.StrongDraws(*(tf.stack(each) for each in zip(*draws, strict=True)))
    strong = tf.function(lambda: color.strong_view(views, tf.ones([batch, *crop]), stacked, 50))
    stages = {
        PLAIN: of_dataset(plain_dataset(source, data)),
        OURS: ours(),
        CACHED: ours(cache="memory"),
        DECODE: lambda: decode_record(record, 21),
        SAMPLE: lambda: sample(next(seeds)),
        DEVICE: strong,
    }
    return _rates(stages, {DEVICE: batch}, images)


def _rates(
    stages: Mapping[str, Callable[[], object]], batches: Mapping[str, int], images: int
) -> dict[str, float]:
    """Images a second of processor time; a call of a stage makes as many as ``batches`` says, else one."""
    calls = {stage: -(-images // (_TURNS * batches.get(stage, 1))) for stage in stages}
    seconds = dict.fromkeys(stages, 0.0)
    for turn in range(-1, _TURNS):
        for stage, work in stages.items():
            begin = time.process_time()
            for _ in range(calls[stage]):
                work()
            end = _when_idle()
            # The first turn traces, and fills what is read ahead.
            seconds[stage] += (end - begin) * (turn >= 0)
    return {stage: _TURNS * calls[stage] * batches.get(stage, 1) / spent for stage, spent in seconds.items()}


def _when_idle() -> float:
    """Waits until nothing is read ahead any more; returns the processor time by then."""
    before = -1.0
    while (now := time.process_time()) - before > 1e-3:
        before = now
        time.sleep(0.02)
    return now


if __name__ == "__main__":
    _app.run(main)
