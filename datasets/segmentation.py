"""What all builders of this package share: their features and metadata, and records in a decided order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from pseudoseg_tf.data.specs import IGNORE_LABEL
from pseudoseg_tf.progress import Progress

# TFDS sorts records by key, and a key has so many values.
_KEYS = 2**128


class SegmentationBuilder(tfds.core.GeneratorBasedBuilder):
    """A builder of images, masks and ids, in ArrayRecord files, so that `tfds.data_source` reads any record at once."""

    # TFDS would derive this from the module's name, which is not where the file lies in a checkout, and
    # for that it imports a package (importlib_resources) that it does not install.
    code_path = epath.Path(__file__)

    def __init__(self, *, file_format: str | None = "array_record", **kwargs: Any) -> None:
        super().__init__(file_format=file_format, **kwargs)

    def _segmentation_info(
        self,
        *,
        class_names: Sequence[str],
        palette: Sequence[Sequence[int]],
        background: int | None,
        image_format: str,
        label: tfds.features.Image | None = None,
        **texts: str,
    ) -> tfds.core.DatasetInfo:
        """Returns what `_info` must.

        Args:
          class_names: one name per class id.
          palette: one (red, green, blue) per class id.
          background: the id of the class that means "none of the others"; None: there is none.
          image_format: "jpeg" or "png", the encoding of most images. Files keep theirs.
          label: the feature of the mask; None: an image of one channel, which every record has.
          **texts: description, homepage, citation.
        """
        label = label or tfds.features.Image(shape=(None, None, 1), encoding_format="png")
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format=image_format),
                    "label": label,
                    "id": tfds.features.Text(),
                }
            ),
            metadata=tfds.core.MetadataDict(
                class_names=list(class_names),
                palette=[list(color) for color in palette],
                ignore_label=IGNORE_LABEL,
                background=background,
            ),
            disable_shuffling=True,
            **texts,
        )

    def _records(
        self, split: str, count: int, examples: Iterable[dict[str, Any]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields what `_generate_examples` must, so that the records stand in the order of the examples.

        Args:
          split: what the progress line calls them.
          count: how many there are.
          examples: image, label and id of each, as their features take them.
        """
        # TFDS keeps many records on disk in parts that each hold a range of keys, and reads a part as a whole. Keys
        # that spread over all values keep the parts small; plain indices would all lie in the first.
        step = _KEYS // max(1, count)
        with Progress(count, f"{self.name}: {split}") as progress:
            for index, example in enumerate(examples):
                yield index * step, example
                progress.update()


class OptionalLabel(tfds.features.Image):
    """The mask of a data set in which some images have none; it is given and read as None."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"shape": (None, None, 1), "encoding_format": "png", **kwargs})

    def get_serialized_info(self) -> tfds.features.TensorInfo:
        return tfds.features.TensorInfo(shape=(), dtype=np.object_, optional=True)

    def encode_example(self, labels: np.ndarray | None) -> bytes | None:
        return None if labels is None else super().encode_example(labels)

    def decode_example_np(self, encoded: bytes | None) -> np.ndarray | None:
        return None if encoded is None else super().decode_example_np(encoded)
