"""What a training step costs, and the schedule for other batches, from the configuration alone."""

from __future__ import annotations

from pseudoseg_tf.config import Config


def passes(config: Config) -> list[tuple[int, str, int]]:
    """Returns (images, what is done with each, its cost in forward passes) of a step, as in ``steps.py``.

    A backward pass counts as two forward passes, with ``runtime.rematerialize`` as three.
    """
    labeled, additional = config.data.batch_labeled, config.data.batch_unlabeled
    learning = 3 + config.runtime.rematerialize
    found = [(labeled, "labeled forward and backward", learning)]
    if config.train.mode == "supervised":
        return found
    pseudo = config.pseudo
    by_moving_statistics = config.model.fine_tune_batch_norm and (
        pseudo.weak_inference or (pseudo.use_attention and not pseudo.share_weak_pass)
    )
    if config.train.mode == "weakly" and not pseudo.classify_labeled:
        found.append((additional, "weak view forward, backward from its image labels", learning))
    elif not (by_moving_statistics and pseudo.weak_inference):
        found.append((additional, "weak view forward", 1))
    if by_moving_statistics:
        found.append((additional, "weak view forward, by moving statistics", 1))
    return [*found, (additional, "strong view forward and backward", learning)]


def forward_passes(config: Config) -> int:
    """The cost of a step in forward passes of a crop."""
    return sum(images * cost for images, _, cost in passes(config))


def images_at_once(config: Config) -> int:
    """How many images have activations that wait for the backward pass at one time, over all devices.

    Those of the largest pass, or of one of the parts it is taken in: a step takes gradients pass by pass.
    """
    return max(images for images, _, cost in passes(config) if cost > 1) // config.train.accumulate


def parts_of_batch(config: Config, reference: Config) -> int | None:
    """Into how many parts the batches of ``reference`` fall that are no larger than those of ``config``.

    None: its batches are no larger, or have no such parts.
    """
    pairs = [(reference.data.batch_labeled, config.data.batch_labeled)]
    if config.train.mode != "supervised":
        pairs.append((reference.data.batch_unlabeled, config.data.batch_unlabeled))
    for parts in range(2, pairs[0][0] + 1):
        if all(whole % parts == 0 and whole // parts <= held for whole, held in pairs):
            return parts
    return None


def images_per_step(config: Config) -> int:
    """How many images a step reads."""
    additional = 0 if config.train.mode == "supervised" else config.data.batch_unlabeled
    return config.data.batch_labeled + additional


def scaled_schedule(config: Config, reference: Config) -> tuple[float, int]:
    """The learning rate and the steps of ``reference``, scaled to the labeled batch of ``config``.

    The linear scaling rule: the rate is proportional to the batch, and the run sees as many images. It leaves
    batch norm with fewer images a step, and momentum and ``data.batch_unlabeled`` as they are.
    """
    factor = config.data.batch_labeled / reference.data.batch_labeled
    return reference.train.learning_rate * factor, round(reference.train.steps / factor)
