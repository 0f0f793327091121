r"""Latency and throughput of exported models, on one thread and on two.

Each export and number of threads is a process of its own, held to as many cores, that predicts images of one size one
by one and, where the format takes batches, in batches. The table has the median latency of one image, images a second,
the time of loading and the first image, and the size on disk.

Example:
  pseudoseg-export --run_dir=runs/mine --out=exports/model
  pseudoseg-export --run_dir=runs/mine --out=exports/model.tflite --format=tflite --size=257,385
  python -m benchmarks.infer --models=exports/model,exports/model.tflite --size=257,385 --out=runs/bench/infer.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks.machine import described, machine
from pseudoseg_tf.cli import _app
from pseudoseg_tf.config_io import read_flag
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import write_json

_MODELS = flags.DEFINE_list("models", [], "What pseudoseg-export wrote: directories and files.")
_SIZE = flags.DEFINE_string("size", "257,385", "height,width of the images, each 16k+1.")
_IMAGES = flags.DEFINE_integer("images", 20, "Timed images of each measurement.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 4, "Images of a batch, for throughput.", lower_bound=2)
_OUT = flags.DEFINE_string("out", None, "JSON file to write; none if absent.")
_THREADS = flags.DEFINE_integer(
    "threads",
    None,
    "Measure the one model with so many threads, in this process; prints JSON.",
    lower_bound=1,
)


def main(argv: Sequence[str]) -> None:
    """Measures the models one after the other."""
    del argv
    if not _MODELS.value:
        raise UserError("--models: missing; name what pseudoseg-export wrote, separated by commas")
    height, width = read_flag("--size", "data.crop_size", _SIZE.value)
    if _THREADS.value:
        print(json.dumps(measure(_MODELS.value[0], _THREADS.value, height, width)))
        return
    for model in _MODELS.value:
        if (Path(model) / "config.json").is_file():
            raise UserError(f"--models: {model} is a run directory; name what pseudoseg-export wrote of it")
    results = []
    for model in _MODELS.value:
        for threads in range(1, min(2, len(os.sched_getaffinity(0))) + 1):
            print(f"measuring: {model}, {threads} threads ...", file=sys.stderr, flush=True)
            command = [sys.executable, "-m", "benchmarks.infer", *sys.argv[1:]]
            command += [f"--models={model}", f"--threads={threads}"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                raise UserError(f"the process that measures {model} failed, see above")
            results.append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{height}x{width}, batches of {_BATCH.value}; {described()}\n")
    print(report(results))
    if _OUT.value:
        write_json(_OUT.value, {**machine(), "size": [height, width], "models": results})


def measure(model: str, threads: int, height: int, width: int) -> dict[str, Any]:
    """Times one model in this process, which it holds to as many cores as it has threads.

    Returns:
      "latency_ms": median of one image; "images_per_second": one by one; "batch_images_per_second": None where
      the format takes one image at a time; "first_seconds": loading and the first image; "megabytes" on disk.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])

    from pseudoseg_tf.exported import load_exported

    images = np.random.default_rng(0).integers(0, 256, [_BATCH.value, height, width, 3]).astype(np.uint8)
    begin = time.perf_counter()
    exported = load_exported(model, threads)
    exported.serve(images[:1])
    first = time.perf_counter() - begin
    one = [_seconds(exported.serve, images[:1]) for _ in range(_IMAGES.value)]
    takes_batches = not str(exported.description["format"]).startswith("tflite")
    if takes_batches:
        exported.serve(images)
        batches = [_seconds(exported.serve, images) for _ in range(-(-_IMAGES.value // _BATCH.value))]
    path = Path(model)
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return {
        "model": path.name,
        "format": _format(exported.description),
        "threads": threads,
        "latency_ms": 1000 * float(np.median(one)),
        "images_per_second": len(one) / sum(one),
        "batch_images_per_second": _BATCH.value * len(batches) / sum(batches) if takes_batches else None,
        "first_seconds": first,
        "megabytes": sum(file.stat().st_size for file in files) / 1e6,
    }


def _seconds(serve: Any, images: np.ndarray) -> float:
    begin = time.perf_counter()
    serve(images)
    return time.perf_counter() - begin


def report(results: Sequence[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = [
        "| format | threads | latency ms | images/s | images/s in batches | first image s | MB |",
        "|--|--|--|--|--|--|--|",
    ]
    for found in results:
        batches = found["batch_images_per_second"]
        lines.append(
            f"| {found['format']} | {found['threads']} | {found['latency_ms']:.1f} "
            f"| {found['images_per_second']:.2f} | {'-' if batches is None else f'{batches:.2f}'} "
            f"| {found['first_seconds']:.1f} | {found['megabytes']:.1f} |"
        )
    return "\n".join(lines)


def _format(description: dict[str, Any]) -> str:
    precision = description["prediction"].get("runtime.precision", "float32")
    canvas = description["input"]["largest_size"]
    of_precision = "" if precision == "float32" else f", {precision}"
    return description["format"] + of_precision + (f", canvas {canvas[0]}x{canvas[1]}" if canvas else "")


if __name__ == "__main__":
    _app.run(main)
