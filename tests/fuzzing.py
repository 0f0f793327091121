"""Readers of what users give, fed with mutated input: whatever it is, they work or raise a UserError of one line.

``python -m tests.fuzzing --seconds=600`` gives each reader so much processor time (``make fuzz``) and prints how often
it was run.
``tests/test_fuzzing.py`` runs each some hundred times. TensorFlow is imported for the targets that need it alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import io
import json
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import h5py
import numpy as np
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from pseudoseg_tf import config_io
from pseudoseg_tf.config import Config
from pseudoseg_tf.data.coco_labels import read_coco_image_labels
from pseudoseg_tf.data.decode import check_sizes, decode_image, decode_mask
from pseudoseg_tf.data.specs import DatasetInfo, MaskEncoding, voc_palette
from pseudoseg_tf.data.splits import read_ids
from pseudoseg_tf.data.text import (
    read_category_classes,
    read_class_names,
    read_image_labels,
    read_palette,
)
from pseudoseg_tf.errors import UserError
from tests import bad_inputs as made

NAMES = ("background", "cat", "dog")
INFO = DatasetInfo(NAMES, voc_palette(3), "tiny")
COLORS = MaskEncoding({color: index for index, color in enumerate(voc_palette(3))})

# Mutations


@st.composite
def mutated(draw: st.DrawFn, originals: Sequence[bytes]) -> bytes:
    """One of some contents, with up to six changes."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, len(data)))
        change = draw(st.sampled_from(["flip", "overwrite", "insert", "delete", "cut", "repeat"]))
        if change == "flip" and start < len(data):
            data[start] ^= 1 << draw(st.integers(0, 7))
        elif change == "overwrite":
            new = draw(st.sampled_from(EXTREMES) | st.binary(min_size=1, max_size=8))
            data[start : start + len(new)] = new
        elif change == "insert":
            data[start:start] = draw(st.sampled_from(EXTREMES) | st.binary(max_size=20))
        elif change == "delete":
            del data[start : start + draw(st.integers(1, 100))]
        elif change == "cut":
            del data[start:]
        elif change == "repeat":
            data[start:start] = data[start : start + draw(st.integers(1, 100))]
    return bytes(data)


# Least and largest numbers of some bytes, and what ends or opens something in a text.
EXTREMES = [
    *(bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xff\xff\x7f", b"\0\x01", bytes(8)),
    *(b"\r\n", b"\r", b"\0", b'"', b",", b";", b"\t", b"..", b"/", b"\xef\xbb\xbf", b"\xff", b"\xed\xb3\xbf"),
    *(b"nan", b"-1", b"1e999", b"9" * 5000, b"[", b"{", b"null", b"ignore", "\u0663\u2028\x85".encode()),
]


def with_checksums(data: bytes) -> bytes:
    """A PNG file whose chunks all have the right checksum, as far as chunks can be told."""
    parts, rest = [data[:8]], data[8:]
    while len(rest) >= 12:
        length = int.from_bytes(rest[:4], "big")
        if length + 12 > len(rest):
            break
        content = rest[4 : 8 + length]
        parts.append(rest[:4] + content + zlib.crc32(content).to_bytes(4, "big"))
        rest = rest[12 + length :]
    return b"".join([*parts, rest])


def masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def framed(content: bytes) -> bytes:
    """A TFRecord with the right checksums."""
    length = len(content).to_bytes(8, "little")
    return length + masked_crc(length) + content + masked_crc(content)


def texts(*originals: str) -> st.SearchStrategy[bytes]:
    encoded = [original.encode() for original in originals]
    return mutated(encoded) | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary()


@st.composite
def json_texts(draw: st.DrawFn, value: Any) -> bytes:
    """A JSON text with other values in some places, mutated or not."""
    text = json.dumps(replaced(draw, value))
    return draw(mutated([text.encode()])) if draw(st.booleans()) else text.encode()


def replaced(draw: st.DrawFn, value: Any) -> Any:
    if draw(st.integers(0, 19)) == 0:
        return draw(ODD_VALUES)
    if isinstance(value, dict):
        return {key: replaced(draw, each) for key, each in value.items() if draw(st.integers(0, 29))}
    if isinstance(value, list):
        return [replaced(draw, each) for each in value]
    return value


ODD_VALUES = st.sampled_from(
    [None, True, -1, 0, 1e999, float("nan"), 10**30, "", "nan", [], {}, [[]], "../x", "a\0b", "\udcff", 0.5]
)

# Inputs of the readers


PNGS = [
    made.PNG,
    made.png(made.GREY),
    made.png(made.DEEP),
    made.png(np.dstack([made.PICTURE, made.GREY])),
    made.saved(made.palette_image(made.GREY // 16, voc_palette(16)), transparency=3),
    made.saved(made.Image.fromarray(made.PICTURE), interlace=1),
    made.png(made.GREY > 127),
    made.png(made.PICTURE, exif=made.with_orientation(6)),
]
JPEGS = [
    made.JPEG,
    made.jpeg(made.SMOOTH[..., 0]),
    made.jpeg(made.Image.fromarray(made.SMOOTH).convert("CMYK")),
    made.jpeg(made.SMOOTH, progressive=True),
    made.jpeg(made.SMOOTH, exif=made.with_orientation(5)),
]
MASKS = [
    made.png(made.MASK),
    made.saved(made.palette_image(made.MASK, voc_palette(256)), transparency=1),
    made.saved(made.palette_image(made.MASK, voc_palette(16)), bits=4),
    made.png(np.array(voc_palette(3), np.uint8)[made.MASK]),
    made.png(made.MASK > 0),
]


def pictures(originals: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Mutated files, half of them with checksums that fit the mutation."""
    files = mutated(originals)
    return files | files.map(with_checksums) | st.binary(max_size=40)


def example(**changes: bytes | None) -> bytes:
    """A serialized tf.train.Example as DeepLab writes it."""
    import tensorflow as tf

    values: dict[str, bytes | None] = {
        "image/filename": b"p0",
        "image/encoded": made.PNG,
        "image/segmentation/class/encoded": made.png(np.zeros(made.GREY.shape, np.uint8)),
        **changes,
    }
    features = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        for name, value in values.items()
        if value is not None
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(
        deterministic=True
    )


def shards() -> st.SearchStrategy[bytes]:
    contents = [example(), example(**{"image/filename": b"../../p1"}), example(**{"image/encoded": b"none"})]
    records = mutated(contents).map(framed)
    return st.lists(records, max_size=3).map(b"".join) | mutated([b"".join(map(framed, contents))])


def overrides() -> st.SearchStrategy[list[str]]:
    keys = st.sampled_from(list(config_io.flatten(Config())))
    values = st.text() | st.sampled_from(
        [
            "nan",
            "inf",
            "-inf",
            "1e999",
            "-1",
            "0",
            "1",
            "9" * 5000,
            "",
            ",",
            "1,2",
            "1,,2",
            "true",
            "none",
            "\u0663",
        ]
    )
    values |= st.integers().map(str) | st.floats().map(str)
    pairs = st.tuples(keys | st.text(), st.just("=") | st.text(max_size=2), values).map("".join)
    return st.lists(pairs, max_size=4)


@functools.cache
def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, **{"conv1/kernel": np.ones((3, 3, 3, 8), np.float32), "conv1_bn/gamma": np.ones(8)}
    )
    return buffer.getvalue()


@functools.cache
def h5() -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("conv1/conv1/kernel:0", data=np.ones((3, 3, 3, 8), np.float32), chunks=True)
        file.create_dataset("conv1_bn/conv1_bn/gamma:0", data=np.ones(8, np.float32), compression="gzip")
    return buffer.getvalue()


@functools.cache
def tf1_files() -> tuple[bytes, bytes]:
    """Index and data of a small checkpoint."""
    from tests import tf1

    values = {f"layer{index}/weights": np.ones((index + 1, 4), np.float32) for index in range(5)}
    with tempfile.TemporaryDirectory() as folder:
        prefix = tf1.save(Path(folder) / "model.ckpt", {**values, "global_step": np.int64(7)})
        return Path(f"{prefix}.index").read_bytes(), Path(f"{prefix}.data-00000-of-00001").read_bytes()


# The readers


def reader(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    """Of a file of some name."""

    def run(data: bytes, folder: Path) -> object:
        (folder / name).write_bytes(data)
        return read(folder / name)

    return run


def resolve(values: list[str], _: Path) -> None:
    config_io.validate(config_io.apply_overrides(Config(), values))


def decode_as_image(data: bytes, _: Path) -> None:
    pixels = decode_image(data, "m")
    assert pixels.dtype == np.uint8 and pixels.shape[2:] == (3,) and pixels.size


def decode_as_mask(encoding: MaskEncoding, data: bytes, _: Path) -> None:
    labels = decode_mask(data, "m", 3, encoding)
    assert labels.dtype == np.uint8 and labels.ndim == 2 and set(np.unique(labels)) <= {0, 1, 2, 255}


def compare_headers(data: bytes, _: Path) -> None:
    check_sizes(io.BytesIO(data), "i", io.BytesIO(data), "m")


def read_description(path: Path) -> None:
    from pseudoseg_tf.inference import read_info

    read_info(path)


def read_weights(path: Path) -> None:
    from pseudoseg_tf import checkpoint

    checkpoint._read_arrays(str(path))


def read_shard(path: Path, check: bool) -> None:
    from pseudoseg_tf.data.tfrecord import TFRecordSource

    source = TFRecordSource(INFO, str(path), "data.labeled", need_masks=False, check=check)
    for index in range(len(source)):
        try:
            source.read(index)
        except UserError:
            if check:
                raise


def read_tf1(data: tuple[bytes, bytes], folder: Path) -> None:
    from pseudoseg_tf.tf1_files import Tf1Checkpoint

    (folder / "model.index").write_bytes(data[0])
    (folder / "model.data-00000-of-00001").write_bytes(data[1])
    opened = Tf1Checkpoint(str(folder / "model"))
    for name, shape in opened.shapes.items():
        assert opened.read(name).shape == shape


def tf1_inputs() -> st.SearchStrategy[tuple[bytes, bytes]]:
    index, data = tf1_files()
    either = st.tuples(mutated([index]), st.just(data)) | st.tuples(st.just(index), mutated([data]))
    return either | st.tuples(st.binary(max_size=100), st.binary(max_size=100))


@dataclasses.dataclass(frozen=True)
class Target:
    """A reader, and how its inputs are made."""

    name: str
    inputs: Callable[[], st.SearchStrategy[Any]]
    run: Callable[[Any, Path], object]


TARGETS = [
    Target("overrides", overrides, resolve),
    Target(
        "config.json",
        lambda: json_texts({"preset": "voc12", "config": config_io.to_dict(Config())}),
        reader("config.json", lambda path: config_io.load(path.parent)),
    ),
    Target("dataset.json", lambda: json_texts(INFO.to_json()), reader("dataset.json", read_description)),
    Target(
        "list",
        lambda: texts("a\nb/c.png\n", "\ufeff1\r\n2\r\n"),
        reader("l.txt", lambda p: read_ids(p, "key")),
    ),
    Target("classes", lambda: texts("background\ncat\ndog\n"), reader("c.txt", read_class_names)),
    Target(
        "palette",
        lambda: texts("background 0 0 0\nnice cat 1 22 255\ndog 9 9 9\nignore 1 1 1\n"),
        reader("p.txt", read_palette),
    ),
    Target(
        "image labels",
        lambda: texts("p0,cat\np1\np2,dog,cat\n", '"p0","cat"\r\n'),
        reader("t.csv", lambda path: read_image_labels(path, NAMES[1:])),
    ),
    Target(
        "category classes",
        lambda: texts("cats,cat\n*,\n"),
        reader("r.csv", lambda path: read_category_classes(path, NAMES[1:])),
    ),
    Target(
        "COCO",
        lambda: json_texts(made.annotations()),
        reader("coco.json", lambda path: read_coco_image_labels(path, ("red", "green"))),
    ),
    Target("TFRecord", shards, reader("shard", lambda path: read_shard(path, check=True))),
    Target("unchecked TFRecord", shards, reader("shard", lambda path: read_shard(path, check=False))),
    Target("PNG", lambda: pictures(PNGS), decode_as_image),
    Target("JPEG", lambda: pictures(JPEGS), decode_as_image),
    Target("mask", lambda: pictures(MASKS), functools.partial(decode_as_mask, MaskEncoding())),
    Target("color mask", lambda: pictures(MASKS), functools.partial(decode_as_mask, COLORS)),
    Target(
        "binary mask", lambda: pictures(MASKS), functools.partial(decode_as_mask, MaskEncoding(binary=True))
    ),
    Target("headers", lambda: pictures([*PNGS, *MASKS]), compare_headers),
    Target("TensorFlow 1 checkpoint", tf1_inputs, read_tf1),
    Target("npz", lambda: mutated([npz()]), reader("w.npz", read_weights)),
    Target("h5", lambda: mutated([h5()]), reader("w.h5", read_weights)),
]


def fuzz(target: Target, folder: Path, examples: int, number: int = 0) -> int:
    """Runs a reader on so many inputs, drawn by the number; returns how often it was run.

    Raises:
      Exception: what the reader raised, other than a UserError of one line, on an input that is then shrunk.
    """
    executions = 0

    @seed(number)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(target.inputs())
    def run(value: Any) -> None:
        nonlocal executions
        executions += 1
        try:
            target.run(value, folder)
        except UserError as error:
            assert str(error) and "\n" not in str(error)

    run()
    return executions


def add_real_files(shared: Path) -> None:
    """Mutates real images, too."""
    for originals, pattern in ((JPEGS, "voc12_subset/images/*.jpg"), (PNGS, "cityscapes_sample/**/*.png")):
        originals += [path.read_bytes() for path in sorted((shared / "data").glob(pattern))[:5]]
    MASKS.extend(path.read_bytes() for path in sorted((shared / "data").glob("voc12_subset/masks/*.png"))[:5])


def main() -> int:
    """Gives each target its time; returns how many failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--only", default="", help="names of targets, with commas between")
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    arguments = parser.parse_args()
    add_real_files(arguments.shared)
    names = arguments.only.split(",") if arguments.only else [target.name for target in TARGETS]
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for target in (target for target in TARGETS if target.name in names):
            executions, number, begin, end = 0, 0, time.process_time(), "no failure"
            while time.process_time() - begin < arguments.seconds:
                try:
                    executions += fuzz(target, Path(folder), 500, number)
                except Exception:  # Whatever a reader lets through; the other readers get their time.
                    traceback.print_exc()
                    failures += 1
                    end = "a failure, see above"
                    break
                number += 1
            seconds = time.process_time() - begin
            print(
                f"{target.name}: {executions:,} executions in {seconds:.0f} s of processor time, {end}",
                flush=True,
            )
    return failures


if __name__ == "__main__":
    sys.exit(main())
