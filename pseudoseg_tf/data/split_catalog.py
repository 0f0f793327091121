"""Published label splits by name: lists of ids, fetched once, and one rule.

The lists are not part of this package. They come from the repositories of their authors, or from a directory
(`data.splits_dir`), and either way their SHA-256 sum must be the one known here.

pascal_voc_seg: 1_16/1, 1_16/2, 1_16/3, 1_8, 1_4 and 1_2 are PseudoSeg's 16_clean_3, 16_clean_14, 16_clean_20,
8_clean, 4_clean and 2_clean. unimatch_1_2 is the other list of 732 images that is in use; 371 are in both.
coco_seg: 1_512, 1_256, 1_128, 1_64 and 1_32 are PseudoSeg's.
cityscapes_seg: 1_30, 1_8 and 1_4 are the first 100, 372 and 744 of a permutation of the sorted training images.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.client
import os
import posixpath
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from pseudoseg_tf.data.text import canonical_id
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import cache_directory
from pseudoseg_tf.progress import Progress

# Far above the largest list (85 KB), and what a list is given to arrive.
_MAX_BYTES = 1 << 20
_TIMEOUT_SECONDS = 30.0

_PSEUDOSEG = (
    "https://raw.githubusercontent.com/googleinterns/wss/b01acaf0317a48ed8b4a1a239a9a90bcfb0844e8/data_splits"
)
# The 732 images were offered to the repository by its author (pull request 8) and never merged.
_PSEUDOSEG_1_2 = (
    "https://raw.githubusercontent.com/googleinterns/wss/ca74a310b141f106bb73f7d2490704d1ad3a6f7a/data_splits"
)
_UNIMATCH = "https://raw.githubusercontent.com/LiheYoung/UniMatch/0324f3dd4a22128105a5eb135d2586c0bb3cc647/splits/pascal"


@dataclasses.dataclass(frozen=True)
class _List:
    """A published file: a line is an id, or begins with the path of its image.

    Attributes:
      file: its path in a directory of lists.
      url: where its authors keep it, of one commit.
      sha256: of its content.
    """

    file: str
    url: str
    sha256: str


_LISTS: Mapping[str, Mapping[str, _List]] = MappingProxyType(
    {
        "pascal_voc_seg": {
            "1_16/1": _List(
                "voc/16_clean_3.txt",
                f"{_PSEUDOSEG}/pascal_voc_seg/16_clean_3.txt",
                "a2a472eb74fcf8f3ec462d1151f98f68bfcbded3fbfd08c08a49b2d9d7a51ca5",
            ),
            "1_16/2": _List(
                "voc/16_clean_14.txt",
                f"{_PSEUDOSEG}/pascal_voc_seg/16_clean_14.txt",
                "d9a31f5d479024a4bec996f9f4059ddf4877ba18383e282aa3a403b8e31e485e",
            ),
            "1_16/3": _List(
                "voc/16_clean_20.txt",
                f"{_PSEUDOSEG}/pascal_voc_seg/16_clean_20.txt",
                "0fec5a3639a87837aea30609d25d5a45b3234e875be887c314d1808a3c9b9786",
            ),
            "1_8": _List(
                "voc/8_clean.txt",
                f"{_PSEUDOSEG}/pascal_voc_seg/8_clean.txt",
                "7d364bb88766ba220e68e01eb066d94e714349209af73608eaf8940ca2cdedc9",
            ),
            "1_4": _List(
                "voc/4_clean.txt",
                f"{_PSEUDOSEG}/pascal_voc_seg/4_clean.txt",
                "4b58843de93dc6927e66a6ae10e0dd257f70ddc370c0875a42a79419290d745a",
            ),
            "1_2": _List(
                "voc/2_clean.txt",
                f"{_PSEUDOSEG_1_2}/pascal_voc_seg/2_clean.txt",
                "5fef6d10440f157ddd4408bf72401f27c72faf4d0f5f61b26d916ad0a96a40cb",
            ),
            "unimatch_1_2": _List(
                "voc/unimatch_732_labeled.txt",
                f"{_UNIMATCH}/732/labeled.txt",
                "02c8ec5b62e27364f5bc91eb95bccf54debaa721e9d31c50c07507aea258fd0f",
            ),
        },
        "coco_seg": {
            "1_512": _List(
                "coco/512_all.txt",
                f"{_PSEUDOSEG}/coco/512_all.txt",
                "fb9d176965ae8b1f8848ae944b947eebfa5fcd1948e4b3e4761aae1eff8f0a17",
            ),
            "1_256": _List(
                "coco/256_all.txt",
                f"{_PSEUDOSEG}/coco/256_all.txt",
                "ee7dccf67b1440e3b09ba56ada3f39010d62fc133888ebcef6e6b2e799006941",
            ),
            "1_128": _List(
                "coco/128_all.txt",
                f"{_PSEUDOSEG}/coco/128_all.txt",
                "7619a4e8bddbde7066c16e36e97eefa2bc3077b24b06994a3647907beec91138",
            ),
            "1_64": _List(
                "coco/64_all.txt",
                f"{_PSEUDOSEG}/coco/64_all.txt",
                "82890b4d98e8aab261a3d88100fcf2f0dff1314bd2d04afc7c5dcdd5eaf23754",
            ),
            "1_32": _List(
                "coco/32_all.txt",
                f"{_PSEUDOSEG}/coco/32_all.txt",
                "550f36b5eace9b69b7e5d0f0f65a417768d5143146817fa85c36e1e066a238cc",
            ),
        },
    }
)

# French et al. publish the rule, not the lists: sort the training images, permute with their first seed, take
# the first so many. The sum is that of the sorted names, one a line.
_CITYSCAPES = MappingProxyType({"1_30": 100, "1_8": 372, "1_4": 744})
_CITYSCAPES_SEED = 12345
_CITYSCAPES_IMAGES = 2975
_CITYSCAPES_SHA256 = "542654ffc478a9f85e62156a13292931e39b85a9b05886432daecd041ba40b3e"

# Where the images of a data set's splits are; for VOC the 10582 that the paper trains on.
_BASE_SPLIT = MappingProxyType(
    {"pascal_voc_seg": "train_aug", "coco_seg": "train", "cityscapes_seg": "train"}
)


def data_sets() -> tuple[str, ...]:
    """Returns the data sets that have named splits."""
    return tuple(_BASE_SPLIT)


def split_names(data_set: str) -> tuple[str, ...]:
    """Returns the names of a data set's published splits; none for a data set without."""
    return tuple(_CITYSCAPES if data_set == "cityscapes_seg" else _LISTS.get(data_set, ()))


def base_split(data_set: str) -> str:
    """Returns the split of the data set that holds the images of its published splits."""
    return _BASE_SPLIT[data_set]


def named_ids(
    data_set: str, name: str, splits_dir: str, base_ids: Callable[[], Sequence[str]], where: str
) -> list[str]:
    """Returns the ids of a published split, in its order.

    Args:
      data_set: one of `data_sets()`.
      name: one of `split_names(data_set)`.
      splits_dir: directory of the lists (`data.splits_dir`), named as in it or in its subdirectories voc and
        coco; "": from the cache of this program, or else the network.
      base_ids: gives the ids of the base split; asked for Cityscapes alone.
      where: key or flag, and value, that names the split, for error messages.

    Returns:
      The ids as the data set's builder spells them: 2007_000733, train2017/000000177254,
      train/jena/jena_000088_000019.

    Raises:
      UserError: the list is not there, cannot be fetched or is another one than published; or `base_ids` are
        not those of all training images of Cityscapes.
    """
    if data_set == "cityscapes_seg":
        return _cityscapes_ids(_CITYSCAPES[name], base_ids(), where)
    published = _LISTS[data_set][name]
    content = _from_directory(splits_dir, published) if splits_dir else _from_cache(published)
    return [_id_of(line) for line in content.decode().splitlines()]


def _id_of(line: str) -> str:
    """The id of "ID" or "JPEGImages/ID.jpg SegmentationClass/ID.png"."""
    path, _, mask = line.partition(" ")
    return canonical_id(posixpath.basename(path) if mask else path)


def _cityscapes_ids(count: int, base_ids: Sequence[str], where: str) -> list[str]:
    names = sorted(base_ids)
    found = hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
    if found != _CITYSCAPES_SHA256:
        raise UserError(
            f"{where}: the splits of Cityscapes are drawn from the ids of its {_CITYSCAPES_IMAGES} training images, "
            f"such as train/jena/jena_000088_000019 (sorted, SHA-256 {_CITYSCAPES_SHA256}); found {len(names)} ids "
            f"(SHA-256 {found}): give the whole training set, or a list file of yours"
        )
    order = np.random.RandomState(_CITYSCAPES_SEED).permutation(_CITYSCAPES_IMAGES)
    return [names[index] for index in order[:count]]


def _from_directory(directory: str, published: _List) -> bytes:
    if not os.path.isdir(directory):
        raise UserError(f"data.splits_dir: {directory} is not a folder; give the one with the lists of ids")
    paths = [os.path.join(directory, name) for name in (published.file, posixpath.basename(published.file))]
    path = next(filter(os.path.isfile, paths), None)
    if path is None:
        raise UserError(
            f"data.splits_dir: {directory} holds neither {published.file} nor "
            f"{posixpath.basename(published.file)}; put {published.url} there, or leave the key empty to fetch it"
        )
    content = _read(path)
    _check_sum(content, published, f"data.splits_dir: {path}", "take the file as published")
    return content


def _from_cache(published: _List) -> bytes:
    path = cache_directory() / "splits" / published.file
    if path.is_file():
        content = _read(path)
        _check_sum(content, published, f"{path}", "delete this file, it will be fetched again")
        return content
    content = _fetch(published)
    _check_sum(
        content, published, published.url, "try again, or set data.splits_dir to a folder with the list"
    )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    # The cache spares the next run the network; without one this run goes on all the same.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    return content


def _fetch(published: _List) -> bytes:
    with Progress(1, "fetching a list") as progress:
        progress.note(f"fetching {published.url}")
        try:
            with urllib.request.urlopen(published.url, timeout=_TIMEOUT_SECONDS) as response:
                content: bytes = response.read(_MAX_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
            raise UserError(
                f"{published.url}: cannot be fetched ({reason}); try again with a network, or set "
                f"data.splits_dir to a folder that holds {published.file} of {_repository(published)}"
            ) from error
    if len(content) > _MAX_BYTES:
        raise UserError(
            f"{published.url}: more than {_MAX_BYTES >> 20} MiB, which is no list; set data.splits_dir"
        )
    return content


def _repository(published: _List) -> str:
    return "github.com/" + "/".join(published.url.split("/")[3:5])


def _read(path: str | Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _check_sum(content: bytes, published: _List, where: str, remedy: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != published.sha256:
        raise UserError(f"{where}: SHA-256 is {found}, expected {published.sha256}; {remedy}")
