"""Records from a folder of images, a folder of masks and a list of ids."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Sequence

from pseudoseg_tf.data.decode import check_sizes, read_encoded
from pseudoseg_tf.data.specs import CLASS_IDS, DatasetInfo, MaskEncoding, Record
from pseudoseg_tf.data.splits import read_ids
from pseudoseg_tf.data.text import canonical_id, nearest_hint
from pseudoseg_tf.errors import UserError


class Folder:
    """Finds the files of a folder tree by id. Each directory is listed once, when first asked for."""

    def __init__(self, root: str, suffixes: tuple[str, ...], key: str) -> None:
        """Takes the folder, the file name endings that count (any case), and the key that names it.

        Raises:
          UserError: there is no such folder.
        """
        if not os.path.isdir(root):
            raise UserError(f"{key}: {root or '(empty)'} is not a folder; give the path of one")
        self.root = root
        self.suffixes = suffixes
        self.key = key
        # For messages: " (.png) in data.masks my/masks".
        self.place = f"({', '.join(suffixes)}) in {key} {root}"
        self._listings: dict[str, dict[str, list[str]]] = {}
        self._names: dict[str, list[str]] = {}

    def find(self, record_id: str) -> str | None:
        """Returns the path of the one file of an id, with or without file name ending, or None.

        Raises:
          UserError: several files fit an id without ending.
        """
        parent, name = posixpath.split(posixpath.normpath(record_id))
        listing = self._list(parent)
        complete = name in listing.get(posixpath.splitext(name)[0], ())
        found = [name] if complete else listing.get(name, [])
        if len(found) > 1:
            raise UserError(
                f"{self.key}: {os.path.join(self.root, parent)} holds {' and '.join(sorted(found))} for the "
                f"id {record_id!r}; write the file name with its ending in the list, or rename one"
            )
        return os.path.join(self.root, parent, found[0]) if found else None

    def id_of(self, path: str) -> str:
        """The id of a file that ``find`` returned."""
        return os.path.splitext(path.removeprefix(os.path.join(self.root, "")))[0]

    def nearest(self, record_id: str) -> str:
        """Returns a hint that names what lies in place of an id's file: there, in a folder there, or the nearest id."""
        parent, name = posixpath.split(canonical_id(record_id))
        # Of another ending, as name_mask.png, or no file.
        meant = re.compile(re.escape(name) + "(?![0-9A-Za-z])")
        known = [posixpath.join(parent, stem) for stem in self._list(parent)]
        there = filter(meant.match, self._names[parent])
        found = min(there, key=lambda file: (posixpath.splitext(file)[0] != name, file), default=None)
        if found:
            return f" (there is {found!r}; needed is a file named {name}{' or '.join(self.suffixes)})"
        below = (posixpath.join(parent, folder, name) for folder in sorted(self._names[parent]))
        deeper = next(filter(self.find, below), None)
        if deeper:
            return f" (there is one in a folder: its id is {deeper!r})"
        return nearest_hint(canonical_id(record_id), known)

    def _list(self, parent: str) -> dict[str, list[str]]:
        """File names by stem, of one directory below the root; empty where there is none."""
        if parent not in self._listings:
            listing: dict[str, list[str]] = {}
            names: list[str] = []
            directory = os.path.join(self.root, parent)
            try:
                with os.scandir(directory) as entries:
                    for entry in entries:
                        names.append(entry.name)
                        stem, suffix = posixpath.splitext(entry.name)
                        if suffix.lower() in self.suffixes and _is_file(entry):
                            listing.setdefault(stem, []).append(entry.name)
            except (FileNotFoundError, NotADirectoryError):
                pass  # The caller reports the id.
            except OSError as error:
                raise UserError(f"{self.key}: {directory} cannot be listed ({error.strerror})") from error
            self._listings[parent], self._names[parent] = listing, names
        return self._listings[parent]


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # A link that leads to itself.
        return False


class FolderSource:
    """The records of a list of ids.

    Making the source finds all files and compares the header sizes of images and masks; the files of a record
    are read when it is asked for.

    Attributes:
      info: the classes.
      ids: canonical ids, in the order of the list.
      has_masks: whether every record carries a mask.
    """

    def __init__(
        self,
        info: DatasetInfo,
        images: Folder,
        masks: Folder,
        path: str,
        key: str,
        *,
        need_masks: bool,
        check: bool = True,
        encoding: MaskEncoding = CLASS_IDS,
    ) -> None:
        """Reads the list and finds the files.

        Args:
          info: the classes.
          images: where the images are.
          masks: where the masks are, one PNG file of the same stem per image.
          path: list file, see `splits.read_ids`.
          key: the configuration key that names the list, for error messages.
          need_masks: whether an id without a mask is an error.
          check: whether to look for mistakes in the records now; else each shows when it is read.
          encoding: what the pixels of the masks mean.

        Raises:
          UserError: the list is at fault; an id has no image, or several; or it needs a mask and has none, or
            one of another size.
        """
        ids = read_ids(path, key)
        where = f"{key}: {path}"
        self.info = info
        self._images = [images.find(record_id) for record_id in ids]
        # That of the file, where there is one: a.png and a.png.jpg may mean the same.
        self.ids = tuple(
            canonical_id(record_id) if path is None else images.id_of(path)
            for record_id, path in zip(ids, self._images, strict=True)
        )
        self._where = where
        self._written = ids
        self._image_folder, self._mask_folder = images, masks
        self._masks = [masks.find(record_id) for record_id in self.ids]
        if check:
            found = _all_found(self._images, ids, images, "image", where)
            if need_masks:
                _check_all_sizes(found, _all_found(self._masks, self.ids, masks, "mask", where))
        self.has_masks = None not in self._masks
        self._encoding = encoding

    def __len__(self) -> int:
        return len(self.ids)

    def has_mask(self, index: int) -> bool:
        """Returns whether record `index` carries a mask."""
        return self._masks[index] is not None

    def near_mask(self, index: int) -> str:
        """Returns a hint that names what lies in place of a mask that record `index` lacks, or ""."""
        return self._mask_folder.nearest(self.ids[index])

    def read(self, index: int) -> Record:
        """Returns record `index`.

        Raises:
          UserError: there is no image, or a file cannot be read any more.
        """
        record_id, image, mask = self.ids[index], self._images[index], self._masks[index]
        if image is None:
            folder, written = self._image_folder, self._written[index]
            raise UserError(
                f"{self._where}: {written!r} has no image {folder.place}{folder.nearest(written)}; add the image or "
                "take the id off the list (a line holds one id and nothing else)"
            )
        return Record(
            id=record_id,
            image=read_encoded(image),
            mask=None if mask is None else read_encoded(mask),
            image_labels=None,
            encoding=self._encoding,
            image_name=image,
            mask_name=mask or "",
        )


def _all_found(
    paths: Sequence[str | None], ids: Sequence[str], folder: Folder, what: str, where: str
) -> list[str]:
    missing = [record_id for record_id, path in zip(ids, paths, strict=True) if path is None]
    if missing:
        raise UserError(
            f"{where}: {len(missing)} of {len(ids)} ids have no {what} {folder.place}, first {missing[0]!r}"
            f"{folder.nearest(missing[0])}; add the {what} or take the id off the list (a line holds one id and "
            "nothing else)"
        )
    return [path for path in paths if path is not None]


def _check_all_sizes(images: Sequence[str], masks: Sequence[str]) -> None:
    for image, mask in zip(images, masks, strict=True):
        try:
            with open(image, "rb") as image_file, open(mask, "rb") as mask_file:
                check_sizes(image_file, image, mask_file, mask)
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error
