"""Bad and odd inputs, made by code: each spoils a good data set of its own, and says what must come of it.

``python -m tests.bad_inputs FOLDER`` runs those of folders in a process of 2 GiB, and prints a line of JSON for each.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import resource
import shutil
import struct
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pseudoseg_tf import config_io
from pseudoseg_tf.config import Config
from pseudoseg_tf.data.decode import MAX_FILE_BYTES, decode_record
from pseudoseg_tf.data.sources import open_sources
from pseudoseg_tf.data.specs import voc_palette
from pseudoseg_tf.errors import UserError
from tests.folder import draw_folder, small_config

# No input may take more.
MEMORY_LIMIT = 2 << 30
WORKS = "works"

PICTURE = np.random.RandomState(0).randint(0, 256, (24, 36, 3)).astype(np.uint8)
GREY = PICTURE[..., 0]
# What compression by JPEG leaves nearly as it is.
SMOOTH = np.stack(np.broadcast_arrays(*np.ix_(range(24), range(36)), 100), axis=-1).astype(np.uint8) * 2
MASK = np.zeros((40, 56), np.uint8)
MASK[10:20, 10:20] = 1


def saved(picture: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(buffer, kind, **options)
    return buffer.getvalue()


def png(pixels: np.ndarray, **options: Any) -> bytes:
    return saved(pixels, "PNG", **options)


def jpeg(picture: np.ndarray | Image.Image, **options: Any) -> bytes:
    return saved(picture, "JPEG", **{"quality": 100, "subsampling": 0, **options})


def chunk(name: bytes, content: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_of(width: int, height: int, depth: int, color_type: int, rows: bytes, *more: bytes) -> bytes:
    """A PNG file from its parts; `rows` as the format has them, filter byte first; `more` chunks before them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0))
    parts = [header, *more, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def huge_jpeg(width: int, height: int) -> bytes:
    """A JPEG file whose header claims another size."""
    data = bytearray(jpeg(SMOOTH))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def flipped(data: bytes, position: int) -> bytes:
    """One bit is another."""
    return data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :]


def with_orientation(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def palette_image(labels: np.ndarray, colors: Sequence[tuple[int, int, int]]) -> Image.Image:
    image = Image.fromarray(labels).convert("L")
    image.putpalette([value for color in colors for value in color])
    return image


Spoil = Callable[[Path], None]
Content = bytes | str | Callable[[], bytes]


@dataclasses.dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
      name: of the case.
      spoil: changes a data set in a folder; see ``tests.folder.draw_folder``.
      outcome: WORKS, or a regular expression that the whole error line matches.
      overrides: of the configuration; "{root}" stands for the folder.
      mode: of training.
      pixels: of image 3, if it works; those of a JPEG file may differ by `tolerance`.
    """

    name: str
    spoil: Spoil
    outcome: str = WORKS
    overrides: tuple[str, ...] = ()
    mode: str = "unlabeled"
    pixels: np.ndarray | None = None
    tolerance: int = 0


def put(path: str, content: Content) -> Spoil:
    """Another content for a file; a function makes it when it is needed."""

    def spoil(root: Path) -> None:
        data = content() if callable(content) else content
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data if isinstance(data, bytes) else data.encode())

    return spoil


def remove(path: str) -> Spoil:
    return lambda root: (root / path).unlink()


def rename(path: str, other: str) -> Spoil:
    return lambda root: (root / path).rename(root / other) and None


def both(*spoils: Spoil) -> Spoil:
    def spoil(root: Path) -> None:
        for each in spoils:
            each(root)

    return spoil


def special(path: str, make: Callable[[Path], Any]) -> Spoil:
    """Something that is no file where a file should be."""

    def spoil(root: Path) -> None:
        (root / path).unlink(missing_ok=True)
        make(root / path)

    return spoil


def sparse(path: str, size: int) -> Spoil:
    """A file that takes no room on disk."""

    def spoil(root: Path) -> None:
        (root / path).touch()
        os.truncate(root / path, size)

    return spoil


def picture(name: str, data: Content, outcome: str = WORKS, file: str = "3.png", **options: Any) -> Case:
    """Another file for the unlabeled image 3."""
    return Case(
        f"image: {name}", both(remove("images/3.png"), put(f"images/{file}", data)), outcome, **options
    )


def mask(name: str, data: bytes, outcome: str = WORKS, **options: Any) -> Case:
    """Another file for the mask of the labeled image 0, 56x40."""
    return Case(f"mask: {name}", put("masks/0.png", data), outcome, **options)


def text(key: str, name: str, content: bytes | str, outcome: str = WORKS, **options: Any) -> Case:
    """Another content for one of the text files; its key must be set to it, if it is none of the usual."""
    return Case(f"{key}: {name}", put(f"{key}.txt", content), outcome, **options)


def palette(name: str, content: str, outcome: str) -> Case:
    return text("palette", name, content, outcome, overrides=("data.palette={root}/palette.txt",))


def tags(name: str, content: bytes | str, outcome: str = WORKS) -> Case:
    overrides = ("data.image_labels={root}/tags.txt",)
    return text("tags", name, content, outcome, overrides=overrides, mode="weakly")


def coco(name: str, content: Any, outcome: str = WORKS, rows: str | None = None) -> Case:
    """COCO's annotations as image-level labels; `rows` for data.category_classes."""
    data = content if isinstance(content, (bytes, str)) else json.dumps(content)
    spoil, overrides = put("tags.json", data), ["data.image_labels={root}/tags.json"]
    if rows is not None:
        spoil = both(spoil, put("rows.csv", rows))
        overrides.append("data.category_classes={root}/rows.csv")
    return Case(f"coco: {name}", spoil, outcome, tuple(overrides), "weakly")


def annotations(**changes: Any) -> dict[str, Any]:
    """Of the unlabeled images: an object of red in 3, one of green in 4, and none in 5."""
    return {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in (3, 4, 5)],
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}],
        "annotations": [
            {"image_id": 3, "category_id": 1, "iscrowd": 0},
            {"image_id": 4, "category_id": 2, "iscrowd": 0},
        ],
        **changes,
    }


PNG, JPEG = png(PICTURE), jpeg(SMOOTH)
MASK_PNG = png(MASK)
DEEP = (np.arange(24 * 36, dtype=np.uint16) * 75).reshape(24, 36)
DAMAGED = r"image \S*images/3\.\w+: damaged \(.+\); replace the file"
TWICE = "2 ids \\('0', '1'\\)"

PICTURES = [
    picture("grey PNG", png(GREY), pixels=np.dstack([GREY] * 3)),
    picture("grey JPEG", jpeg(SMOOTH[..., 0]), pixels=np.dstack([SMOOTH[..., 0]] * 3), tolerance=4),
    picture("CMYK JPEG", jpeg(Image.fromarray(SMOOTH).convert("CMYK")), pixels=SMOOTH, tolerance=6),
    picture("16-bit grey PNG", png(DEEP), pixels=np.dstack([(DEEP >> 8).astype(np.uint8)] * 3)),
    picture(
        "16-bit RGB PNG",
        png_of(36, 24, 16, 2, b"".join(b"\0" + row.repeat(3).astype(">u2").tobytes() for row in DEEP)),
        pixels=np.dstack([(DEEP >> 8).astype(np.uint8)] * 3),
    ),
    picture("PNG with alpha", png(np.dstack([PICTURE, GREY])), pixels=PICTURE),
    picture("grey PNG with alpha", png(np.dstack([GREY, GREY])), pixels=np.dstack([GREY] * 3)),
    picture(
        "palette PNG",
        saved(palette_image(GREY // 16, voc_palette(16))),
        pixels=np.array(voc_palette(16), np.uint8)[GREY // 16],
    ),
    picture(
        "palette PNG with transparency",
        saved(palette_image(GREY // 16, voc_palette(16)), transparency=3),
        pixels=np.array(voc_palette(16), np.uint8)[GREY // 16],
    ),
    picture("1-bit PNG", png(GREY > 127), pixels=np.dstack([np.where(GREY > 127, 255, 0)] * 3)),
    picture("RGB PNG with a transparent color", png(PICTURE, transparency=(1, 2, 3)), pixels=PICTURE),
    picture("interlaced PNG", saved(Image.fromarray(PICTURE), interlace=1), pixels=PICTURE),
    picture("progressive JPEG", jpeg(SMOOTH, progressive=True), pixels=SMOOTH, tolerance=4),
    picture(
        "JPEG turned by EXIF",
        jpeg(SMOOTH, exif=with_orientation(6)),
        pixels=np.rot90(SMOOTH, -1),
        tolerance=4,
    ),
    picture("PNG mirrored by EXIF", png(PICTURE, exif=with_orientation(2)), pixels=PICTURE[:, ::-1]),
    picture("senseless EXIF", jpeg(SMOOTH, exif=b"Exif\0\0MM\0*\xff\xff"), pixels=SMOOTH, tolerance=4),
    picture("JPEG called .png", JPEG, pixels=SMOOTH, tolerance=4),
    picture("PNG called .jpg", PNG, file="3.jpg", pixels=PICTURE),
    picture("ending in capitals", PNG, file="3.PNG", pixels=PICTURE),
    picture("text behind the PNG", PNG + b"more", pixels=PICTURE),
    picture("text behind the JPEG", JPEG + b"more", pixels=SMOOTH, tolerance=4),
    picture("color profile", png(PICTURE, icc_profile=b"no profile"), pixels=PICTURE),
    picture("one pixel", png(PICTURE[:1, :1]), pixels=PICTURE[:1, :1]),
    picture("one row", png(np.repeat(PICTURE[:1], 100, axis=1)), pixels=np.repeat(PICTURE[:1], 100, axis=1)),
    picture("67 million pixels of 16 bits", lambda: png_of(8192, 8192, 16, 0, bytes(8192 * (2 * 8192 + 1)))),
    picture(
        "67 million pixels, progressive",
        lambda: jpeg(Image.new("RGB", (8192, 8192), (9, 99, 9)), quality=10, progressive=True),
    ),
    picture("empty file", b"", r"image \S*images/3.png: the file is empty; replace it"),
    picture("cut off in the magic", PNG[:5], r"image \S*3.png: neither a JPEG nor a PNG file; convert it.*"),
    picture("cut off in the header", PNG[:20], DAMAGED),
    picture("half of a PNG", PNG[: len(PNG) // 2], DAMAGED),
    picture("PNG without its last pixels", PNG[:-30], DAMAGED),
    picture("half of a JPEG", JPEG[: len(JPEG) // 2], DAMAGED, file="3.jpg"),
    picture("JPEG cut off in the header", JPEG[:200], DAMAGED, file="3.jpg"),
    picture("flipped bit in PNG pixels", flipped(PNG, len(PNG) // 2), DAMAGED),
    picture("flipped bit in a PNG header", flipped(PNG, 18), DAMAGED),
    picture("zeros in place of pixels", PNG[:60] + bytes(len(PNG) - 60), DAMAGED),
    picture("zeros", bytes(1000), r"image \S*3.png: neither a JPEG nor a PNG file; .*"),
    picture("PNG of no pixels", png_of(0, 5, 8, 2, b""), DAMAGED),
    picture("PNG of unknown depth", png_of(5, 5, 3, 2, bytes(80)), DAMAGED),
    picture("PNG without pixels", PNG[:33] + chunk(b"IEND", b""), DAMAGED),
    picture("palette PNG without palette", png_of(5, 5, 8, 3, bytes(30)), WORKS),
    picture("GIF", saved(PICTURE, "GIF"), r"image \S*3.png: neither a JPEG nor a PNG file; convert it.*"),
    picture("BMP", saved(PICTURE, "BMP"), r"image \S*3.png: neither a JPEG nor a PNG file; convert it.*"),
    picture("TIFF", saved(PICTURE, "TIFF"), r"image \S*3.png: neither a JPEG nor a PNG file; convert it.*"),
    picture("WEBP", saved(PICTURE, "WEBP"), r"image \S*3.png: neither a JPEG nor a PNG file; convert it.*"),
    picture("web page", b"<html>404</html>", r"image \S*3.png: neither a JPEG nor a PNG file; .*"),
    picture(
        "PNG that claims 2.5 billion pixels",
        png_of(50000, 50000, 8, 2, b"\0"),
        r"image \S*3.png: 50000x50000 pixels \(width x height\), at most 67,108,864 in all are read; .*",
    ),
    picture(
        "JPEG that claims 4 billion pixels", huge_jpeg(65500, 65500), r"image \S*3.png: 65500x65500 pixels .*"
    ),
    picture(
        "PNG that claims gigabytes of text",
        lambda: PNG[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 28))) + PNG[33:],
        DAMAGED,
    ),
    picture(
        "wide beyond reason", png_of((1 << 31) - 1, 1, 1, 0, b"\0"), r"image \S*3.png: 2147483647x1 pixels .*"
    ),
    Case(
        "image: larger than any",
        sparse("images/3.png", MAX_FILE_BYTES + 1),
        r"\S*images/3.png: more than 256 MiB, too large for a file of its kind",
    ),
    Case(
        "image: directory",
        special("images/3.png", Path.mkdir),
        r"data.unlabeled: \S*unlabeled.txt: 1 of 3 ids have no image .*, first '3' \(there is '3.png'; needed is a file "
        r"named 3.jpg or .jpeg or .png\); add the image .*",
    ),
    Case(
        "image: link to itself",
        special("images/3.png", lambda path: path.symlink_to(path.name)),
        r"data.unlabeled: \S*: 1 of 3 ids have no image .*, first '3' \(there is '3.png'; needed is a file .*",
    ),
    Case(
        "image: link to nothing",
        special("images/3.png", lambda path: path.symlink_to("nothing")),
        r"data.unlabeled: \S*: 1 of 3 ids have no image .*, first '3' \(there is '3.png'; needed is a file .*",
    ),
    Case(
        "image: pipe",
        special("images/3.png", os.mkfifo),
        r"data.unlabeled: \S*: 1 of 3 ids have no image .*, first '3' \(there is '3.png'; needed is a file .*",
    ),
    Case(
        "image: link",
        both(
            rename("images/3.png", "other.png"),
            lambda root: (root / "images/3.png").symlink_to("../other.png"),
        ),
    ),
    Case(
        "image: two of a name",
        put("images/3.jpg", JPEG),
        r"data.images: \S*images/? holds 3.jpg and 3.png for the id '3'; write the file name with its ending .*",
    ),
    Case(
        "image: names that are not UTF-8 beside",
        lambda root: (root / os.fsdecode(b"images/\xff\xfe.png")).write_bytes(PNG) and None,
    ),
    Case(
        "folder: that is a file",
        put("file", ""),
        r"data.images: \S*file is not a folder; give the path of one",
        ("data.images={root}/file",),
    ),
    Case(
        "folder: link to itself",
        lambda root: (root / "loop").symlink_to("loop"),
        r"data.images: \S*loop is not a folder; give the path of one",
        ("data.images={root}/loop",),
    ),
    Case(
        "folder: not there",
        put("file", ""),
        r"data.masks: \S*nothing is not a folder; .*",
        ("data.masks={root}/nothing",),
    ),
]

MASKS = [
    mask("palette", saved(palette_image(MASK, voc_palette(256)))),
    mask("palette with transparency", saved(palette_image(MASK, voc_palette(256)), transparency=0)),
    mask("interlaced", saved(Image.fromarray(MASK), interlace=1)),
    mask("of 4 bits", saved(palette_image(MASK, voc_palette(16)), bits=4)),
    mask("unknown id", png(MASK * 7), r"mask \S*0(\.png)?: pixel values 0, 7; allowed are the class ids 0 to 2 and 255 .*"),
    mask("JPEG", jpeg(MASK), r"mask 0: a JPEG file, whose compression changes class ids; save masks as PNG"),
    mask("colors without palette", png(np.dstack([MASK] * 3)), r"mask 0: stored as a color picture; .*"),
    mask("colors with alpha", png(np.dstack([MASK] * 4)), r"mask 0: stored as a color picture with alpha; .*"),
    mask("16 bits", png(MASK.astype(np.uint16)), r"mask 0: stored as 16-bit values; .*"),
    mask("grey with alpha", png(np.dstack([MASK] * 2)), r"mask 0: stored as grey with alpha; .*"),
    mask("another size", png(MASK[:-1]), r"\S*0.png is 56x40 pixels \(width x height\), but \S*0.png is 56x39; .*"),
    mask("cut off", MASK_PNG[:-30], r"mask 0: damaged \(.*\); replace the file"),
    mask("empty", b"", r"\S*masks/0.png: the file is empty; replace it"),
    mask("text", b"0 1 2", r"\S*masks/0.png: neither a JPEG nor a PNG file; .*"),
    mask("huge header", png_of(50000, 50000, 8, 0, b"\0"), r"\S*masks/0.png: 50000x50000 pixels .*"),
    mask("flipped bit", flipped(MASK_PNG, len(MASK_PNG) - 25), r"mask 0: damaged \(.*\); replace the file"),
    Case("mask: black", both(*(put(f"masks/{n}.png", png(np.zeros((40 + n, 56 - n), np.uint8))) for n in (0, 1, 2))),
        r"data.labeled: the 3 masks looked at hold the values 0 alone, which is no class but the background; .*"),
    Case("mask: white", both(*(put(f"masks/{n}.png", png(np.full((40 + n, 56 - n), 255, np.uint8))) for n in (0, 1, 2))),
        r"data.labeled: the 3 masks looked at hold the values 255 alone, which is no class; .*"),
    Case("mask: ending in capitals", rename("masks/0.png", "masks/0.PNG")),
    Case("mask: another ending", rename("masks/0.png", "masks/0.tif"),
        r"data.labeled: \S*: 1 of 3 ids have no mask \(.png\) in data.masks \S*, first '0' \(there is '0.tif'; needed is a "
        r"file named 0.png\); add the mask .*"),
    Case("mask: more behind its name", rename("masks/0.png", "masks/0_mask.png"),
        r"data.labeled: .*, first '0' \(there is '0_mask.png'; needed is a file named 0.png\); add the mask .*"),
    Case("mask: missing", remove("masks/0.png"), r"data.labeled: .* 1 of 3 ids have no mask .*, first '0'.*; add the mask .*"),
    Case("mask: directory", special("masks/0.png", Path.mkdir), r"data.labeled: .* \(there is '0.png'; needed is a file .*"),
    Case("mask: of an unlabeled image, unknown id", put("masks/3.png", png(np.full((43, 53), 9, np.uint8))),
        r"mask \S*masks/3.png: pixel values 9; .*"),
    Case("mask: of a scored image, cut off", put("masks/6.png", png(MASK)[:-30]), r"(mask 6: damaged .*|\S*6.png is .* they must be equal)"),
]  # fmt: skip

LISTS = [
    text("labeled", "Windows line ends", "0\r\n1\r\n2\r\n"),
    text("labeled", "old Mac line ends", "0\r1\r2"),
    text("labeled", "byte-order mark", "\ufeff0\n1\n2\n"),
    text("labeled", "blank lines and spaces", "\n  0 \n\n1\t\n2"),
    text("labeled", "endings", "0.png\n1\n./2.png\n"),
    text("labeled", "empty", "", r"data.labeled: \S*labeled.txt holds no ids; it needs one a line"),
    text("labeled", "blank", "\n\r\n \n", r"data.labeled: \S*labeled.txt holds no ids; .*"),
    text("labeled", "not UTF-8", b"0\n\xff\xfe\n", r"data.labeled: \S*, line 2: not UTF-8; save it as text in UTF-8"),
    text("labeled", "UTF-16", "0\n1\n".encode("utf-16"), r"data.labeled: \S*, line \d+: not UTF-8; .*"),
    text("labeled", "NUL", "0\n1\0\n", r"data.labeled: \S* holds NUL characters; .*"),
    text("labeled", "a picture", PNG, r"data.labeled: \S*, line \d+: not UTF-8; .*"),
    text("labeled", "an id twice", "0\n1\n0\n1\n", rf"data.labeled: \S* repeats {TWICE}; each id may stand once"),
    text("labeled", "an id twice, spelled otherwise", "0\n./0.png\n", r"data.labeled: \S* repeats 1 id \('0'\); .*"),
    text("labeled", "absolute path", "/etc/passwd\n", r"data.labeled: \S* holds '/etc/passwd'; ids are paths in .*"),
    text("labeled", "out of the folder", "../../0\n", r"data.labeled: \S* holds '../../0'; ids are paths in .*"),
    text("labeled", "two columns", "0.png 0_mask.png\n", r"data.labeled: \S*: 1 of 1 ids have no image .*"),
    text("labeled", "unknown id", "0\n9\n", r"data.labeled: \S*: 1 of 2 ids have no image .*, first '9'.*"),
    text("labeled", "name longer than any", "0" * 5000, r"data.labeled: \S*: 1 of 1 ids have no image .*"),
    text("labeled", "folder name longer than any", "0" * 5000 + "/0", r"data.images: \S* cannot be listed \(File name .*"),
    text("labeled", "surrogates", b"\xed\xb3\xbf\n", r"data.labeled: \S*, line \d+: not UTF-8; .*"),
    text("val", "shared with labeled", "0\n1\n", rf"data.labeled and data.val share {TWICE}; what is scored .*"),
    text("unlabeled", "shared with val", "3\n6\n", r"data.unlabeled and data.val share 1 id \('6'\); .*"),
    text("unlabeled", "shared with labeled", "0\n3\n"),
    Case("labeled: missing", remove("labeled.txt"), r"data.labeled: \S* cannot be read \(No such file .*\); give a text file"),
    Case("labeled: directory", special("labeled.txt", Path.mkdir), r"data.labeled: \S* cannot be read \(Is a directory\); .*"),
    Case("labeled: pipe", special("labeled.txt", os.mkfifo), r"data.labeled: \S*: a device, pipe or socket; name a file; .*"),
    Case("labeled: device", put("x", ""), r"data.labeled: /dev/zero: a device, pipe or socket; .*", ("data.labeled=/dev/zero",)),
    Case("labeled: link to itself", special("labeled.txt", lambda path: path.symlink_to(path.name)),
        r"data.labeled: \S* cannot be read \(Too many levels of symbolic links\); .*"),
    Case("labeled: gigabytes", sparse("labeled.txt", 1 << 33), r"data.labeled: \S* more than 64 MiB, too large .*"),
    text("classes", "byte-order mark and Windows line ends", "\ufeffbackground\r\nred\r\ngreen\r\n"),
    text("classes", "empty", "", r"data.classes: \S* holds 0 names; it needs 2 to 255, .*"),
    text("classes", "one", "background\n", r"data.classes: \S* holds 1 names; it needs 2 to 255, .*"),
    text("classes", "256", "".join(f"{n}\n" for n in range(256)), r"data.classes: \S* holds 256 names; .*"),
    text("classes", "a name twice", "a\nb\na\n", r"data.classes: \S* names 'a' in lines 1 and 3; .*"),
    text("classes", "blank line between", "a\n\nb\n", r"data.classes: \S* line 2 is blank, .*"),
    palette("right", "background 0 0 0\nred 250 0 0\ngreen 0 250 0\n", WORKS),
    palette("not a number", "background 0 0 nan\n", r"data.palette: \S* line 1 is 'background 0 0 nan'; it needs .*"),
    palette("above 255", "background 0 0 256\n", r"data.palette: \S* line 1 is .*; it needs .*"),
    palette("digits without end", f"background 0 0 {'9' * 5000}\n", r"data.palette: \S* line 1 is .*; it needs .*"),
    palette("digits of another script", "background 0 0 \u0663\n", r"data.palette: \S* line 1 is .*; it needs .*"),
    palette("below 0", "background 0 0 -1\n", r"data.palette: \S* line 1 is .*; it needs .*"),
    palette("a color twice", "background 0 0 0\nred 0 0 0\n", r"data.palette: \S* line 2 gives 'red' the color of .*"),
    palette("another name", "background 0 0 0\nblue 1 1 1\ngreen 0 1 0\n", r"data.palette: \S* names 'blue' for class id 1, .*"),
    palette("a class too few", "background 0 0 0\nred 1 1 1\n", r"data.palette: \S* colors 2 classes, .*"),
    tags("right", "\ufeff3,red\r\n4,green,red\r\n5\r\n"),
    tags("quoted", '3,"red"\n"4",green\n5,\n'),
    tags("NaN", "3,nan\n4\n5\n", r"data.image_labels: \S* line 1 names 'nan', which is not a class of .*"),
    tags("NaN below", "3,red\n4,nan\n5\n", r"data.image_labels: \S* line 2 names 'nan', which is not a class of [^;]*"),
    tags("header row", "id,class\n3,red\n4\n5\n", r"data.image_labels: \S* line 1 names 'class', .*; if this is a header row, leave it out"),
    tags("semicolons", "3;red\n4;\n5\n", r"data.image_labels: \S* line 1 is '3;red', with semicolons; a row is id,name,name,..., with commas"),
    tags("tabs", "3\tred\n4\n5\n", r"data.image_labels: \S* line 1 is .*, with tabs; .*"),
    tags("slip in a name", "3,redd\n4\n5\n", r"data.image_labels: \S* line 1 names 'redd', .* \(did you mean 'red'\?\).*"),
    tags("an id twice", "3,red\n3.png,green\n4\n5\n", r"data.image_labels: \S* line 2 repeats the id '3'; .*"),
    tags("no id", ",red\n", r"data.image_labels: \S* line 1 has no id; .*"),
    tags("too few rows", "3,red\n", r"data.image_labels: 2 of 3 images of data.unlabeled have neither an entry .*"),
    tags("not UTF-8", b"3,\xff\n", r"data.image_labels: \S*, line \d+: not UTF-8; .*"),
    tags("a cell without end", "3," + "r" * 200000, r"data.image_labels: \S* line 1 is not a CSV row \(field larger .*"),
    coco("right", annotations()),
    coco("not JSON", "{", r"data.image_labels: \S*tags.json: not valid JSON \(.*\)"),
    coco("empty", "", r"data.image_labels: \S*tags.json: not valid JSON \(.*\)"),
    coco("a list", [1], r"data.image_labels: \S* has no list 'images'; .*"),
    coco("nested without end", "[" * 100000, r"data.image_labels: \S* not valid JSON \(.*\)"),
    coco("NaN for an id", '{"images": [{"id": NaN, "file_name": "a"}]}', r"data.image_labels: \S* images\[0\] lacks one of .*"),
    coco("a number without end", '{"images": ' + "9" * 5000 + "}", r"data.image_labels: \S* not valid JSON \(.*\)"),
    coco("a file twice", annotations(images=[{"id": n, "file_name": "3.png"} for n in (3, 4)]), r"data.image_labels: \S* images names '3.png' .*"),
    coco("unknown image", annotations(images=[]), r"data.image_labels: \S* an annotation is of image 3 .*"),
    coco("names out of the folder", annotations(images=[{"id": n, "file_name": f"../../{n}.png"} for n in (3, 4, 5)])),
    coco("other names", annotations(categories=[{"id": 1, "name": "crimson"}, {"id": 2, "name": "green"}]),
        r"data.image_labels: \S* category 'crimson' is not a class of the data set other than the background; say in "
        r"data.category_classes, a file of rows category,class, .*"),
    coco("other names, told", annotations(categories=[{"id": 1, "name": "crimson"}, {"id": 2, "name": "green"}]),
        rows="\ufeffcrimson,red\r\n"),
    coco("other names, told to be none", annotations(categories=[{"id": 1, "name": "crimson"}, {"id": 2, "name": "x"}]),
        rows="crimson,red\n*,\n"),
    coco("told a wrong class", annotations(), r"data.category_classes: \S* line 1 names 'redd', .* \(did you mean 'red'\?\)", rows="red,redd\n"),
    coco("told twice", annotations(), r"data.category_classes: \S* line 2 repeats the category 'red'; .*", rows="red,red\nred,\n"),
    coco("told without a comma", annotations(), r"data.category_classes: \S* line 1 is 'red'; a row is category,class .*", rows="red\n"),
]  # fmt: skip

# Every input of folders: those of records are in tests/data, of checkpoints in tests/test_tf1_checkpoint.py.
CASES = [*PICTURES, *MASKS, *LISTS]


def outcome(case: Case, root: Path) -> str:
    """Opens the data as training does and decodes all of it: WORKS, or the error line."""
    overrides = [override.replace("{root}", str(root)) for override in case.overrides]
    try:
        config: Config = config_io.apply_overrides(small_config(root, case.mode), overrides)
        config_io.validate(config)
        sources = open_sources(config.data, case.mode)
        for source in (sources.labeled, sources.val, sources.unlabeled):
            assert source is not None
            for index in range(len(source)):
                image, _ = decode_record(source.read(index), source.info.num_classes)
                if source.ids[index] == "3" and case.pixels is not None:
                    if image.shape != case.pixels.shape:
                        return f"of shape {image.shape}"
                    difference = np.abs(image.astype(int) - case.pixels).max()
                    if difference > case.tolerance:
                        return f"pixels differ by {difference}"
    except UserError as error:
        return str(error)
    return WORKS


def main(folder: str) -> None:
    """Runs all cases, each on its own copy of the data set."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    good = Path(folder) / "good"
    draw_folder(good)
    for number, case in enumerate(CASES):
        root = Path(folder) / f"case{number}"
        shutil.copytree(good, root)
        case.spoil(root)
        before = time.monotonic()
        found = outcome(case, root)
        seconds = time.monotonic() - before
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(
            json.dumps({"name": case.name, "outcome": found, "seconds": seconds, "peak_mb": peak}), flush=True
        )
        shutil.rmtree(root)


if __name__ == "__main__":
    main(sys.argv[1])
