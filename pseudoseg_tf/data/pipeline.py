"""From sources to batches: a pure function of the configuration, the seed and the global step.

The number of an example (global step times batch size, plus position in the batch) decides which record is
read and what every random draw is. So a run that starts again at step k sees the batches of the run that
never stopped, bit for bit, on any number of devices. The labeled and the unlabeled stream count and draw
independently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from pseudoseg_tf.data.bad_examples import BadExamples, replacements
from pseudoseg_tf.data.color import strong_draws
from pseudoseg_tf.data.decoded_cache import Decode, decoder
from pseudoseg_tf.data.geometry import (
    evaluation_view,
    geometry_draws,
    padded_size,
    resize_to_range,
    weak_view,
)
from pseudoseg_tf.errors import UserError

if TYPE_CHECKING:
    from pseudoseg_tf.config import DataConfig
    from pseudoseg_tf.data.sources import Sources
    from pseudoseg_tf.data.specs import Source

Example = dict[str, tf.Tensor]
# Image, labels and image-level labels of a record.
_Decoded = tuple[np.ndarray, np.ndarray, np.ndarray]

# Added to the numbers of examples that others are to replace: beyond those of any run.
_REDRAWN = 2**48


def training_dataset(
    sources: Sources,
    data: DataConfig,
    mode: str,
    start_step: int,
    input_context: tf.distribute.InputContext | None = None,
    redrawn: Sequence[int] = (),
    bad_examples: BadExamples | None = None,
    turn: tuple[int, int] = (1, 0),
) -> tf.data.Dataset:
    """Returns the endless training batches from step `start_step` on.

    One element is the share of one replica: b examples of each stream, b being the batch size over the number
    of replicas. The replicas of an input pipeline take elements in turn, so that the shares of one step, in
    the order of the replicas over all pipelines, are the batch of a single-replica run.

    Args:
        sources: labeled and, except in supervised mode, unlabeled records.
        data: crop size, batch sizes over all replicas, augmentation and seed.
        mode: "supervised", "unlabeled" or "weakly".
        start_step: the step the first element belongs to.
        input_context: which input pipeline this is, from `tf.distribute`; None: the only one, of one replica.
        redrawn: steps whose examples give way to others; for a step named twice these give way, too, and so on.
        bad_examples: takes the examples that cannot be used, in place of which others are given, by the number of
            the example alone; None: reading such an example raises UserError.
        turn: (n, i) keeps every n-th element from the i-th one on, and reads no image of the others.

    Returns:
        A dataset of `{"labeled": examples, "unlabeled": examples}`, without "unlabeled" in supervised mode.
        Examples are "image" uint8 [b, H, W, 3], "labels" uint8 [b, H, W] (255 in the padding, and everywhere
        where there is no mask), "valid" uint8 [b, H, W], "image_labels" float32 [b, C - 1] (-1 everywhere
        where not given) and "counter" int64 [b], the number of the example. The unlabeled ones also hold
        `color.StrongDraws`: "jitter" float32 [b, 4], "order" int32 [b, 4], "cutout_center" int32 [b, 2].

    Raises:
        UserError: a batch size is not a multiple of the number of replicas.
    """
    context = input_context or tf.distribute.InputContext()
    rest = data, start_step, context, redrawn, bad_examples, turn
    streams = {"labeled": _stream("labeled", sources.labeled, *rest)}
    if mode != "supervised":
        assert sources.unlabeled is not None
        streams["unlabeled"] = _stream("unlabeled", sources.unlabeled, *rest)
    return tf.data.Dataset.zip(streams).prefetch(tf.data.AUTOTUNE)


def evaluation_dataset(
    source: Source,
    data: DataConfig,
    start: int = 0,
    shard: tuple[int, int] = (1, 0),
) -> tf.data.Dataset:
    """Returns every record once, in order, padded at the bottom and right.

    Args:
        source: the records.
        data: range of sizes, canvas and batch size; with `eval_size` (0, 0) each image has its own canvas, in
            a batch of 1.
        start: the record to begin with.
        shard: (n, i) keeps every n-th record from the i-th one on.

    Returns:
        A dataset of "image" uint8 [b, H, W, 3], "labels" uint8 [b, H, W] (255 in the padding), "size" int32
        [b, 2] (height and width without the padding) and "index" int64 [b] (position in the source). With
        `min_resize`, image, labels and size are those after the resize, as in the reference, and the image is
        float32, not rounded. The last batch may be smaller. Reading an image larger than the canvas raises
        UserError.
    """
    canvas = data.eval_size if any(data.eval_size) else None

    def example(index: tf.Tensor) -> Example:
        image, labels, _ = _read(source, index, decoder(data.cache))
        image, labels = _resized(image, labels, data)
        size = tf.shape(labels)
        if canvas is None:
            image, labels = evaluation_view(image, labels, padded_size(size, 0))
        else:
            size = _checked_size(source, index, size, canvas)
            with tf.control_dependencies([size]):
                image, labels = evaluation_view(image, labels, canvas)
        return {"image": image, "labels": labels, "size": size, "index": index}

    indices = tf.data.Dataset.range(start, len(source)).shard(*shard)
    # What is mapped has nothing for AutoGraph to convert, which takes as long as tracing it.
    example = tf.autograph.experimental.do_not_convert(example)
    examples = indices.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return examples.batch(1 if canvas is None else data.eval_batch).prefetch(tf.data.AUTOTUNE)


def _stream(
    name: str,
    source: Source,
    data: DataConfig,
    start_step: int,
    context: tf.distribute.InputContext,
    redrawn: Sequence[int],
    bad_examples: BadExamples | None,
    turn: tuple[int, int],
) -> tf.data.Dataset:
    """Returns the batches of the "labeled" or "unlabeled" stream for the replicas of one input pipeline."""
    batch = data.batch_labeled if name == "labeled" else data.batch_unlabeled
    replicas = context.num_replicas_in_sync
    if batch % replicas:
        raise UserError(
            f"data.batch_{name}={batch} cannot be shared by {replicas} replicas: "
            f"choose a multiple of {replicas}"
        )
    share = batch // context.num_input_pipelines
    first = share * context.input_pipeline_id

    def example(number: tf.Tensor) -> Example:
        step, position = number // share, number % share
        counter = _first_number(step, batch, redrawn) + first + position
        return training_example(source, data, name, counter, bad_examples)

    replica_batch = batch // replicas
    numbers = tf.data.Dataset.range(start_step * share, tf.int64.max)
    numbers = numbers.batch(replica_batch, drop_remainder=True).shard(*turn).unbatch()
    # See `evaluation_dataset`.
    example = tf.autograph.experimental.do_not_convert(example)
    examples = numbers.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return examples.batch(replica_batch, drop_remainder=True)


def training_example(
    source: Source, data: DataConfig, name: str, counter: tf.Tensor, bad_examples: BadExamples | None = None
) -> Example:
    """Returns one example of a stream, as `training_dataset` does but without batch dimension.

    Args:
        source: the records of the stream.
        data: range of sizes, crop size, augmentation and seed.
        name: "labeled" or "unlabeled"; the latter adds the draws of the strong view.
        counter: int64 [], number of the example since step 0.
        bad_examples: see `training_dataset`.
    """
    index, geometry_seed, strong_seed = example_draws(len(source), data, name, counter)
    decode = decoder(data.cache)
    if bad_examples is None:
        image, labels, image_labels = _read(source, index, decode)
    else:
        seed = _stream_seed(data, name)
        image, labels, image_labels = _read_usable(source, index, seed, counter, bad_examples, decode)
    image, labels = _resized(image, labels, data)
    draws = geometry_draws(
        geometry_seed, tf.shape(labels), data.crop_size, data.min_scale, data.max_scale, data.scale_step
    )
    image, labels, valid = weak_view(image, labels, draws, data.crop_size)
    example = {
        "image": image,
        "labels": labels,
        "valid": valid,
        "image_labels": image_labels,
        "counter": counter,
    }
    if name == "unlabeled":
        example |= strong_draws(strong_seed, data.crop_size, data.jitter_strength)._asdict()
    return example


def example_draws(
    length: int, data: DataConfig, name: str, counter: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns what an example is made of: its record (int64 []), and the seeds (int64 [2]) of weak and strong view.

    Args:
        length: how many records the source has.
        data: seed.
        name: "labeled" or "unlabeled".
        counter: int64 [], number of the example since step 0.
    """
    order_seed, view_seed = _stream_seeds(data, name)
    geometry_seed, strong_seed = tf.unstack(tf.random.split(tf.random.fold_in(view_seed, counter), 2))
    return _shuffled(counter, length, order_seed), geometry_seed, strong_seed


def example_ids(
    source: Source, data: DataConfig, name: str, step: int, redrawn: Sequence[int] = ()
) -> list[str]:
    """Returns the record ids of the examples that a stream gives all replicas at a step.

    Args:
        source: the records of the stream.
        data: batch sizes and seed.
        name: "labeled" or "unlabeled".
        step: counted from 0.
        redrawn: as in `training_dataset`.
    """
    batch = data.batch_labeled if name == "labeled" else data.batch_unlabeled
    first = _first_number(tf.constant(step, tf.int64), batch, redrawn)
    order_seed, _ = _stream_seeds(data, name)
    return [
        source.ids[int(_shuffled(first + position, len(source), order_seed))] for position in range(batch)
    ]


def _first_number(step: tf.Tensor, batch: int, redrawn: Sequence[int]) -> tf.Tensor:
    """Returns the number (int64 []) of the first example of a step."""
    if not redrawn:
        return step * batch
    times = tf.reduce_sum(tf.cast(tf.constant(redrawn, tf.int64) == step, tf.int64))
    return step * batch + times * _REDRAWN


def _stream_seeds(data: DataConfig, name: str) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the seeds of the order and of the views of a stream."""
    stream_seed = tf.constant(_stream_seed(data, name), tf.int64)
    order_seed, view_seed = tf.unstack(tf.random.split(stream_seed, 2))
    return order_seed, view_seed


def _stream_seed(data: DataConfig, name: str) -> tuple[int, int]:
    return data.seed, ("labeled", "unlabeled").index(name)


def _shuffled(counter: tf.Tensor, length: int, seed: tf.Tensor) -> tf.Tensor:
    """Returns the record (int64 []) of an example; each `length` examples visit each record once."""
    # index_shuffle uses few bits of its seed: with the plain epoch in it there would be 256 different orders.
    # Splitting hashes the epoch into every bit.
    epoch_seed = tf.random.split(tf.random.fold_in(seed, counter // length), 1)[0]
    last = tf.constant(length - 1, tf.int64)
    return tf.random.experimental.index_shuffle(counter % length, epoch_seed, last)


def _resized(image: tf.Tensor, labels: tf.Tensor, data: DataConfig) -> tuple[tf.Tensor, tf.Tensor]:
    """Brings an example to the range of sizes, as float32 image; without `min_resize` it stays as it is."""
    if not data.min_resize:
        return image, labels
    return resize_to_range(image, labels, data.min_resize, data.max_resize, data.resize_factor)


def check_canvas(record_id: str, height: int, width: int, canvas: tuple[int, int]) -> None:
    """Raises UserError if an image is larger than the evaluation canvas."""
    if height > canvas[0] or width > canvas[1]:
        enough = padded_size(height, canvas[0]), padded_size(width, canvas[1])
        raise UserError(
            f"{record_id}: the image is {height}x{width} (height x width), larger than "
            f"data.eval_size={canvas[0]},{canvas[1]}: set data.eval_size to at least "
            f"{enough[0]},{enough[1]}, or to 0,0 to evaluate each image at its own size"
        )


@tf.autograph.experimental.do_not_convert
def _checked_size(source: Source, index: tf.Tensor, size: tf.Tensor, canvas: tuple[int, int]) -> tf.Tensor:
    """Returns `size`, int32 [2]; running it raises UserError where that is larger than the canvas."""

    def check(position: np.int64, sides: np.ndarray) -> np.ndarray:
        height, width = map(int, sides)
        check_canvas(source.ids[int(position)], height, width, canvas)
        return sides

    return tf.ensure_shape(tf.numpy_function(check, [index, size], tf.int32), [2])


# AutoGraph would rewrite the readers and decoders called in here, which are plain Python.
@tf.autograph.experimental.do_not_convert
def _read(source: Source, index: tf.Tensor, decode: Decode) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Reads and decodes one record inside a graph.

    Args:
        source: the records.
        index: int64 [], position in the source.
        decode: `decode.decode_record`, or a cache before it.

    Returns:
        The image uint8 [h, w, 3], the labels uint8 [h, w], the image-level labels float32, one for
        each of the info's `image_classes`, all -1 where they are not given.
    """
    return _in_graph(source, lambda position: _decoded(source, int(position), decode), [index])


@tf.autograph.experimental.do_not_convert
def _read_usable(
    source: Source,
    index: tf.Tensor,
    seed: tuple[int, int],
    counter: tf.Tensor,
    bad_examples: BadExamples,
    decode: Decode,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """As `_read`; in place of a record that cannot be used, another one, chosen by seed and counter alone."""

    def read(position: np.int64, number: np.int64) -> _Decoded:
        chosen = int(position)
        others = replacements(chosen, len(source), seed, int(number))
        while True:
            try:
                return _decoded(source, chosen, decode)
            except UserError as error:
                bad_examples.add(source.ids[chosen], str(error))
                following = next(others, None)
                if following is None:
                    raise UserError(
                        f"none of {len(source)} records can be used; the last: {error}"
                    ) from error
                chosen = following

    return _in_graph(source, read, [index, counter])


def _decoded(source: Source, index: int, decode: Decode) -> _Decoded:
    """Image, labels and image-level labels of a record, as `_read` gives them."""
    info = source.info
    record = source.read(index)
    image, labels = decode(record, info.num_classes)
    image_labels = record.image_labels
    if image_labels is None:
        image_labels = np.full(len(info.image_classes), -1)
    return image, labels, image_labels.astype(np.float32)


def _in_graph(
    source: Source, read: Callable[..., _Decoded], inputs: list[tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Calls `read` inside a graph."""
    image, labels, image_labels = tf.numpy_function(read, inputs, (tf.uint8, tf.uint8, tf.float32))
    return (
        tf.ensure_shape(image, [None, None, 3]),
        tf.ensure_shape(labels, [None, None]),
        tf.ensure_shape(image_labels, [len(source.info.image_classes)]),
    )
