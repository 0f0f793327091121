"""The check of a data set: reads every image and every mask once and collects what is wrong.

`sources.open_sources` looks at what is cheap to see before training and stops at the first mistake. Here its
rules are applied to everything, beside others that only whole lists can tell.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import io
import os
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from pseudoseg_tf.config import DataConfig
from pseudoseg_tf.data.decode import check_sizes, decode_image, decode_mask
from pseudoseg_tf.data.findings import Findings, ListSummary, Report
from pseudoseg_tf.data.folder import FolderSource
from pseudoseg_tf.data.mask_signs import other_color, palette_of, rim_share
from pseudoseg_tf.data.selection import without
from pseudoseg_tf.data.sources import (
    check_image_labels,
    check_objects,
    image_labels_by_id,
    opener,
    pool_note,
)
from pseudoseg_tf.data.specs import IGNORE_LABEL, Color, DatasetInfo, Source
from pseudoseg_tf.data.splits import check_disjoint, common_ids
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.progress import Progress

_T = TypeVar("_T")

# Images per class kept for pictures.
_SAMPLES = 2
# Records decoded at the same time, at most, and records whose results are held; both bound the memory.
_THREADS = 8
_AT_ONCE = 256
# A side shorter than this is no picture of anything; of an image of more crops than this each crop shows little.
_MIN_SIDE = 16
_MAX_CROPS = 16
# Of a crop that an image fills as it is.
_MIN_CROPS = 0.25
# What people call the pixels of no object.
_BACKGROUND_NAMES = ("background", "bg", "backgrnd", "other", "others", "none", "rest")
# What people call pixels that belong to no class.
_IGNORE_NAMES = (
    "ignore",
    "ignored",
    "void",
    "unlabeled",
    "unlabelled",
    "border",
    "boundary",
    "dontcare",
    "255",
)


def check_data(data: DataConfig, mode: str) -> Report:
    """Reads all images and masks that a run would read.

    Args:
      data: which files.
      mode: "supervised", "unlabeled" or "weakly"; says whether there are additional images, and whether they
        need image-level labels.

    Raises:
      UserError: classes or folders cannot be read, so that there is nothing to check.
    """
    info, open_one = opener(data)
    findings = Findings()
    sources: dict[str, Source] = {}
    for name in ("labeled", "val") if mode == "supervised" else ("labeled", "val", "unlabeled"):
        key = f"data.{name}"
        with findings.collect("lists that cannot be opened"):
            sources[key] = open_one(getattr(data, name), key, need_masks=False, check=False)
    _check_ids(sources, data, findings)
    if data.exclude_labeled and {"data.labeled", "data.unlabeled"} <= sources.keys():
        sources["data.unlabeled"] = without(sources["data.unlabeled"], sources["data.labeled"].ids)
    pictures, palettes = _Pictures(findings), _Palettes(findings)
    lists = {key: _read_all(key, source, pictures, palettes, findings) for key, source in sources.items()}
    if mode == "weakly" and "data.unlabeled" in lists:
        _check_image_labels(lists["data.unlabeled"], data, findings)
    _check_class_names(info, findings)
    _check_classes(info, lists, findings)
    _check_sizes(data, lists, findings)
    return Report(info, lists, findings.sorted())


# One record


@dataclasses.dataclass
class _Look:
    """What a record holds; None where it cannot be read.

    Attributes:
      size: (height, width) of the image.
      digest: tells images apart by their pixels.
      has_mask: whether there is a mask.
      counts: int64 [256], pixels of each label.
      rims: part of its outlines on which the mask has a rim, see `mask_signs.rim_share`.
      colors: of its class ids, by its own palette.
      faults: kind and line of each error found.
    """

    size: tuple[int, int] | None = None
    digest: bytes = b""
    has_mask: bool = True
    counts: np.ndarray | None = None
    rims: float = 0.0
    colors: dict[int, Color] = dataclasses.field(default_factory=dict)
    faults: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def attempt(self, kind: str, call: Callable[[], _T]) -> _T | None:
        """The result of a call; None where it raises a UserError, which is taken for a fault."""
        try:
            return call()
        except UserError as error:
            self.faults.append((kind, str(error)))
            return None


def _look_at(source: Source, key: str, index: int) -> _Look:
    """Reads and decodes one record."""
    look = _Look()
    unreadable = "images that cannot be read"
    record = look.attempt(unreadable, lambda: source.read(index))
    if record is None:
        return look
    name = f"{record.id} ({key})"
    image = look.attempt(unreadable, lambda: decode_image(record.image, name))
    if image is not None:
        look.size = image.shape[0], image.shape[1]
        look.digest = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
    mask, classes, encoding = record.mask, source.info.num_classes, record.encoding
    if mask is None:
        look.has_mask = False
        return look
    labels = look.attempt("masks that cannot be used", lambda: decode_mask(mask, name, classes, encoding))
    if labels is not None:
        look.counts = np.bincount(labels.ravel(), minlength=256)
        look.rims = rim_share(labels)
        if not encoding.colors:
            look.colors = palette_of(mask, labels)
        if image is not None:
            files = io.BytesIO(record.image), f"image {name}", io.BytesIO(mask), f"mask {name}"
            look.attempt("masks of another size", lambda: check_sizes(*files))
    return look


# One list


def _read_all(
    key: str, source: Source, pictures: _Pictures, palettes: _Palettes, findings: Findings
) -> ListSummary:
    """Looks at each record of a list, several at a time."""
    summary = ListSummary(source)
    threads = min(_THREADS, os.cpu_count() or 1)
    with Progress(len(source), key) as progress, concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(source), _AT_ONCE):
            indices = range(start, min(start + _AT_ONCE, len(source)))
            looks = pool.map(lambda index: _look_at(source, key, index), indices)
            for index, look in zip(indices, looks, strict=True):
                _take_in(look, index, key, summary, pictures, findings)
                palettes.add(f"mask {source.ids[index]} ({key})", look.colors)
                progress.update()
    return summary


def _take_in(
    look: _Look, index: int, key: str, summary: ListSummary, pictures: _Pictures, findings: Findings
) -> None:
    """Adds what a record holds to the summary of its list, and its faults to the findings."""
    record_id = summary.source.ids[index]
    for kind, line in look.faults:
        findings.add("error", kind, line)
    if look.size is not None:
        summary.sizes[record_id] = look.size
        pictures.add(key, record_id, look.digest)
    if not look.has_mask:
        summary.without_mask.append(record_id)
        if key != "data.unlabeled":
            source = summary.source
            near = source.near_mask(index) if isinstance(source, FolderSource) else ""
            line = f"{record_id} ({key}) has no mask{near}; add it or take the id off the list"
            findings.add("error", "images without a mask", line)
    if look.counts is None:
        return
    summary.masks += 1
    summary.pixels += look.counts
    summary.images += look.counts > 0
    # Pictures can only be made of records without fault.
    for label in np.flatnonzero(look.counts[:IGNORE_LABEL]) if not look.faults else ():
        best = summary.samples.setdefault(int(label), [])
        best.append((int(look.counts[label]), index))
        best.sort(key=lambda sample: (-sample[0], sample[1]))
        del best[_SAMPLES:]
    seen = set(np.flatnonzero(look.counts))
    where = f"mask {record_id} ({key})"
    if look.rims:
        findings.add(
            "warning",
            "masks with rims",
            f"{where}: on {100 * look.rims:.0f} % of its outlines a third class lies between two others, one pixel "
            "thin, as resizing with interpolation makes it; resize masks by nearest neighbor",
        )
    if seen == {IGNORE_LABEL}:
        line = f"{where}: every pixel is ignored ({IGNORE_LABEL}); nothing is learned from it or scored on it"
        findings.add("warning", "masks that say nothing", line)
    # Of two classes, decoding refuses such masks; without a background, 0 is a class like others.
    elif seen == {0, IGNORE_LABEL} and summary.source.info.has_background:
        findings.add(
            "warning",
            "masks of 0 and 255 alone",
            f"{where}: pixel values 0 and {IGNORE_LABEL} alone, and {IGNORE_LABEL} means ignored; where it is an "
            "object saved as white, save the object's class id",
        )


class _Pictures:
    """Finds pictures that occur more than once, under whatever id."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._ids: dict[str, dict[bytes, str]] = {}

    def add(self, key: str, record_id: str, digest: bytes) -> None:
        """Compares a picture with all before it."""
        for other_key, ids in self._ids.items():
            other = ids.get(digest)
            # The same id in two lists is found without reading pictures.
            if other is None or (other == record_id and other_key != key):
                continue
            same = f"{record_id} ({key}) is the same picture as {other} ({other_key})"
            if other_key == key:
                line = f"{same}; take one off the list, or it counts twice"
                self._findings.add("warning", "pictures twice in a list", line)
            elif "data.val" in (key, other_key):
                line = f"{same}; what is scored must not be trained on: take one of them off its list"
                self._findings.add("error", "pictures both trained on and scored", line)
            else:
                self._findings.add("note", "labeled pictures among the unlabeled", same)
        self._ids.setdefault(key, {}).setdefault(digest, record_id)


class _Palettes:
    """Finds palette masks in which a class id has another color than in those before."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._known: dict[int, Color] = {}
        self._first: dict[int, str] = {}

    def add(self, where: str, colors: Mapping[int, Color]) -> None:
        """Compares the palette of a mask with those before."""
        label = other_color(colors, self._known)
        if label is not None:
            this, other = (" ".join(map(str, color)) for color in (colors[label], self._known[label]))
            self._findings.add(
                "warning",
                "palettes that differ",
                f"{where}: palette index {label} has the color {this}, but {other} in {self._first[label]}; palette "
                "indices are the class ids: if an editor numbered the colors anew, save the mask in the palette of the "
                "others, or as RGB with data.palette",
            )
            return
        for each, color in colors.items():
            self._known.setdefault(each, color)
            self._first.setdefault(each, where)


# All lists


def _check_ids(sources: Mapping[str, Source], data: DataConfig, findings: Findings) -> None:
    """The same id in two lists."""
    ids = {key: source.ids for key, source in sources.items()}
    for key in ("data.labeled", "data.unlabeled"):
        if key in ids and "data.val" in ids:
            with findings.collect("ids both trained on and scored"):
                check_disjoint(ids[key], key, ids["data.val"], "data.val")
    labeled, unlabeled = ids.get("data.labeled", ()), ids.get("data.unlabeled", ())
    if common_ids(labeled, unlabeled):
        with findings.collect("no unlabeled images left"):
            note = pool_note(unlabeled, labeled, data.exclude_labeled)
            findings.add("note", "labeled images among the unlabeled", note)


def _check_image_labels(unlabeled: ListSummary, data: DataConfig, findings: Findings) -> None:
    """Each additional image of weakly mode needs image-level labels."""
    kind = "image-level labels"
    with findings.collect(kind):
        ids, lacking = unlabeled.source.ids, unlabeled.without_mask
        rows = image_labels_by_id(unlabeled.source.info, ids, data.image_labels, data.category_classes)
        if rows and not any(labels.any() for labels in rows.values()):
            line = f"data.image_labels: {data.image_labels} names no class for any image; a row is id,name,name,..."
            findings.add("error", kind, line)
        for note in check_image_labels(ids, lacking, rows, data.image_labels):
            findings.add("note", kind, note)


def _check_class_names(info: DatasetInfo, findings: Findings) -> None:
    """A class for pixels without a class, and which class is the background."""
    plain = ["".join(filter(str.isalnum, name.lower())) for name in info.class_names]
    called = [class_id for class_id, name in enumerate(plain) if name in _BACKGROUND_NAMES]
    kind = "the background"
    if info.has_background and 0 not in called:
        line = f"the background is class 0 {info.class_names[0]!r}"
        if called:
            other = called[0]
            line += f", but class {other} is named {info.class_names[other]!r}; number the classes so that it is 0"
            findings.add("warning", kind, line)
        else:
            line += (
                ", which has no image-level labels; if it is a class as the others, set data.background=none"
            )
            findings.add("note", kind, line)
    for class_id, name in enumerate(info.class_names):
        if plain[class_id] in _IGNORE_NAMES:
            findings.add(
                "warning",
                "ignored pixels as a class",
                f"class {class_id} is named {name!r}, but is learned and scored like any class; if its pixels are to "
                f"be ignored, save them as {IGNORE_LABEL} and take the name off the list",
            )


def _check_classes(info: DatasetInfo, lists: Mapping[str, ListSummary], findings: Findings) -> None:
    """Classes and ignored pixels of the masks that are learned and scored."""
    kind = "ignored pixels"
    needed = {key: each for key, each in lists.items() if key != "data.unlabeled" and each.masks}
    for key, each in needed.items():
        with findings.collect("nothing but background"):
            check_objects(each.pixels > 0, each.masks, key, info.has_background)
        if each.share(IGNORE_LABEL) > 0.5:
            findings.add(
                "warning",
                kind,
                f"{key}: {100 * each.share(IGNORE_LABEL):.0f} % of the pixels are ignored ({IGNORE_LABEL}); where "
                "these are objects or background, save their class ids",
            )
    if "data.labeled" not in needed:
        return
    labeled = needed["data.labeled"]
    if info.has_background and not any(each.pixels[0] for each in needed.values()):
        findings.add(
            "error",
            "ids that begin at 1",
            f"no pixel of any mask is 0, the background {info.class_names[0]!r}; if the ids begin at 1, subtract 1 "
            "from all but the ignored; if there is no background, set data.background=none",
        )
    val = needed.get("data.val", ListSummary(labeled.source))
    if val.share(IGNORE_LABEL) and not labeled.share(IGNORE_LABEL):
        findings.add(
            "warning",
            kind,
            f"data.labeled: no pixel is ignored ({IGNORE_LABEL}), but {100 * val.share(IGNORE_LABEL):.1f} % of "
            "data.val are; if both have borders or unclear regions, save those of data.labeled as "
            f"{IGNORE_LABEL} too",
        )
    for class_id in np.flatnonzero(labeled.images[: info.num_classes] == 0):
        name, images = info.class_names[class_id], val.images[class_id]
        line = f"class {class_id} {name!r} is in no mask of data.labeled"
        if images:
            line += f" but in {images} of data.val, where it will be missed; label an image that shows it"
            findings.add("warning", "classes scored but never labeled", line)
        else:
            line += " or data.val; label an image that shows it or take it off the list of classes"
            findings.add("warning", "classes that never occur", line)


def _check_sizes(data: DataConfig, lists: Mapping[str, ListSummary], findings: Findings) -> None:
    """Sizes of images against crop and canvas, of lists against batches."""
    for key, each in lists.items():
        for record_id, (height, width) in each.sizes.items():
            where = f"{record_id} ({key}) is {width}x{height} pixels (width x height)"
            if min(height, width) < _MIN_SIDE:
                line = f"{where}; such a picture shows nothing: replace it or take it off the list"
                findings.add("warning", "tiny images", line)
            crops = height * width / (data.crop_size[0] * data.crop_size[1])
            if key != "data.val" and not data.min_resize and crops < _MIN_CROPS:
                findings.add(
                    "note",
                    "images far smaller than the crop",
                    f"{where}, {100 * crops:.0f} % of data.crop_size; the rest of a crop is padding, which teaches "
                    "nothing and takes as long: choose a smaller data.crop_size",
                )
            if key != "data.val" and not data.min_resize and crops > _MAX_CROPS:
                findings.add(
                    "warning",
                    "images far larger than the crop",
                    f"{where}, {crops:.0f} times data.crop_size; shrink the images, or set data.min_resize or a "
                    "larger data.crop_size",
                )
        batch = {"data.labeled": data.batch_labeled, "data.unlabeled": data.batch_unlabeled}.get(key, 0)
        if batch > len(each.source):
            line = (
                f"{key} has {len(each.source)} images, fewer than a batch of {batch}: a step sees some twice"
            )
            findings.add("note", "short lists", line)
    if "data.val" in lists and any(data.eval_size) and not data.min_resize:
        # Only here, since it imports TensorFlow, which takes seconds.
        from pseudoseg_tf.data.pipeline import check_canvas

        for record_id, (height, width) in lists["data.val"].sizes.items():
            with findings.collect("images larger than data.eval_size"):
                check_canvas(record_id, height, width, data.eval_size)
