"""What the builders of published data sets share: files fetched by hand, numbers of images, and checks of each file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from pseudoseg_tf.data.decode import check_same_size, decode_image
from pseudoseg_tf.errors import UserError

from .segmentation import SegmentationBuilder

# COCO's largest file of annotations has 448 MiB.
_MAX_BYTES = 1 << 30


@dataclasses.dataclass(eq=False)
class PublishedConfig(tfds.core.BuilderConfig):
    """Which part of a published data set is there."""

    # Every split must have the published number of images; else whatever the given files hold is taken.
    complete: bool = True


class PublishedBuilder(SegmentationBuilder):
    """A builder that reads the unpacked archives of a data set whose license asks users to fetch it themselves.

    MANUAL_DOWNLOAD_INSTRUCTIONS is one line: which archives, from where, and what the folder then holds.
    """

    # Published number of images of each split that the configuration "complete" must have.
    COUNTS: ClassVar[Mapping[str, int]]

    def _manual_dir(self, dl_manager: tfds.download.DownloadManager) -> Path:
        """Returns the folder with the unpacked archives.

        Raises:
          UserError: there is no such folder, or it is empty.
        """
        try:
            return Path(dl_manager.manual_dir)
        except AssertionError as error:
            found = str(error).partition(" does not exist")[0].removeprefix("Manual directory ")
            raise self._missing(f"{found} does not exist or is empty") from error
        except OSError as error:
            raise self._missing(f"{error.filename} is not a folder") from error

    def _existing(self, path: Path) -> Path:
        """Returns `path`; raises UserError, with what to fetch, if there is no such file or folder."""
        if not path.exists():
            raise self._missing(f"{path} does not exist")
        return path

    def _missing(self, what: str) -> UserError:
        return UserError(
            f"{self.name}: {what}; {self.MANUAL_DOWNLOAD_INSTRUCTIONS} Unpacked elsewhere: set data.manual_dir "
            "to that folder"
        )

    def _check_counts(self, splits: Mapping[str, Sequence[str]]) -> None:
        """Checks the number of ids of each split.

        Raises:
          UserError: the configuration wants the complete data set, and this is another.
        """
        config = self.builder_config
        assert isinstance(config, PublishedConfig)
        if not config.complete:
            return
        subsets = [
            f"{self.name}/{name}" for name, other in self.builder_configs.items() if not other.complete
        ]
        for split, ids in splits.items():
            if len(ids) != self.COUNTS[split]:
                raise UserError(
                    f"data.name={self.name}/{config.name}: found {len(ids)} images for the split {split}, the "
                    f"complete data set has {self.COUNTS[split]}; fetch the rest, or take "
                    f"{' or '.join(subsets)}"
                )


def labeled_example(record_id: str, image: Path, labels: np.ndarray, mask_name: str) -> dict[str, Any]:
    """Returns a record whose image is the file as it is, once that is known to be whole.

    Args:
      record_id: the id.
      image: JPEG or PNG file.
      labels: uint8 [height, width] of class ids and 255.
      mask_name: what error messages call the labels.

    Raises:
      UserError: the image cannot be read or decoded, or has another size.
    """
    data, size = whole_image(image)
    check_same_size(f"image {image}", size, mask_name, labels.shape)
    return {"image": data, "label": labels[..., np.newaxis], "id": record_id}


def whole_image(path: Path) -> tuple[bytes, tuple[int, ...]]:
    """Returns the content of an image file, and height and width.

    Raises:
      UserError: it cannot be read or decoded.
    """
    data = read_bytes(path)
    return data, decode_image(data, str(path)).shape[:2]


def read_bytes(path: Path) -> bytes:
    """Returns the content of a file.

    Raises:
      UserError: it cannot be read, or is over 1 GiB.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(f"{path}: more than 1 GiB; unpack the archive that holds it again")
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); unpack the archive that holds it again"
        ) from error
