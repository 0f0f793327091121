"""What a training step costs, and the schedule for other batches, from the configuration alone."""

from __future__ import annotations

from pseudoseg_tf.config import Config


def passes(config: Config) -> list[tuple[int, str, int]]:
    """Returns (images, what is done with each, its cost in forward passes) of a step, as in ``steps.py``.

    A backward pass counts as two forward passes.
    """
    labeled, additional = config.data.batch_labeled, config.data.batch_unlabeled
    found = [(labeled, "labeled forward and backward", 3)]
    if config.train.mode == "supervised":
        return found
    pseudo = config.pseudo
    by_moving_statistics = config.model.fine_tune_batch_norm and (
        pseudo.weak_inference or (pseudo.use_attention and not pseudo.share_weak_pass)
    )
    if config.train.mode == "weakly" and not pseudo.classify_labeled:
        found.append((additional, "weak view forward, backward from its image labels", 3))
    elif not (by_moving_statistics and pseudo.weak_inference):
        found.append((additional, "weak view forward", 1))
    if by_moving_statistics:
        found.append((additional, "weak view forward, by moving statistics", 1))
    return [*found, (additional, "strong view forward and backward", 3)]


def forward_passes(config: Config) -> int:
    """The cost of a step in forward passes of a crop."""
    return sum(images * cost for images, _, cost in passes(config))


def images_per_step(config: Config) -> int:
    """How many images a step reads."""
    additional = 0 if config.train.mode == "supervised" else config.data.batch_unlabeled
    return config.data.batch_labeled + additional


def images_with_backward(config: Config) -> int:
    """How many images of a step have activations that wait for the backward pass."""
    return sum(images for images, _, cost in passes(config) if cost > 1)


def scaled_schedule(config: Config, reference: Config) -> tuple[float, int]:
    """The learning rate and the steps of ``reference``, scaled to the labeled batch of ``config``.

    The linear scaling rule: the rate is proportional to the batch, and the run sees as many images. It leaves
    batch norm with fewer images a step, and momentum and ``data.batch_unlabeled`` as they are.
    """
    factor = config.data.batch_labeled / reference.data.batch_labeled
    return reference.train.learning_rate * factor, round(reference.train.steps / factor)
