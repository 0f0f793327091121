"""How well calibrated the pseudo label of a run is, and each map that it is made of (paper section 4.5)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Literal

import tensorflow as tf

from pseudoseg_tf import config_io
from pseudoseg_tf.assembly import create_model, create_strategy, pseudo_label_options
from pseudoseg_tf.checkpoint import find_checkpoint, restore_model
from pseudoseg_tf.config import Config, PseudoConfig
from pseudoseg_tf.data.pipeline import evaluation_dataset
from pseudoseg_tf.evaluate import validation_images
from pseudoseg_tf.files import check_directory, write_json
from pseudoseg_tf.inference import inside, read_info
from pseudoseg_tf.losses import image_labels_of
from pseudoseg_tf.metrics import SegmentationMetrics
from pseudoseg_tf.nn.layers import resize_mask
from pseudoseg_tf.nn.model import PseudoSegModel
from pseudoseg_tf.progress import Progress
from pseudoseg_tf.pseudo_label import make_pseudo_label
from pseudoseg_tf.reliability_diagram import save_reliability_diagrams
from pseudoseg_tf.steps import WeakBranch, weak_branch

ImageLabels = Literal["predicted", "given"]


def variants(pseudo: PseudoConfig, with_sgc: bool) -> dict[str, dict[str, Any]]:
    """The maps that are compared, as arguments of ``make_pseudo_label``, by name.

    Args:
        pseudo: gamma and temperature of the run.
        with_sgc: false: what the decoder alone gives.
    """
    plain: dict[str, Any] = {"gamma": pseudo.gamma, "temperature": 1.0}
    sharp = {**plain, "temperature": pseudo.temperature}
    decoder = {
        "decoder": {**plain, "source": "decoder"},
        "decoder, sharpened": {**sharp, "source": "decoder"},
    }
    if not with_sgc:
        return {**decoder, "decoder, hard": {**plain, "source": "decoder", "soft": False}}
    return {
        **decoder,
        "decoder, Norm": {**plain, "source": "decoder", "normalize_alone": True},
        "SGC": {**plain, "source": "sgc"},
        "SGC, sharpened": {**sharp, "source": "sgc"},
        "SGC, Norm": {**plain, "source": "sgc", "normalize_alone": True},
        "fusion without Norm": {**plain, "normalize_maps": False},
        "fusion": plain,
        "fusion, sharpened": sharp,
        "fusion, hard": {**plain, "soft": False},
    }


def calibrate(
    run_dir: str,
    checkpoint: str = "last",
    out: str | None = None,
    image_labels: ImageLabels | None = None,
) -> dict[str, Any]:
    """Compares the maps of the weak branch with the masks of the validation images.

    They are computed as in training, at the decoder's resolution, but from whole images and with the moving
    statistics of batch norm; Norm is taken over each batch of ``data.eval_batch`` images. Self-attention that
    was never trained (supervised mode, ``pseudo.use_attention=false``) is left out.

    Writes ``calibration.json`` and ``reliability.png``, a reliability diagram of each map.

    Args:
        run_dir: directory that ``train`` wrote.
        checkpoint: "last", "best" or the path of a checkpoint.
        out: directory to write to, made if absent; None: ``calibration`` in the run directory.
        image_labels: Grad-CAM shows the classes that the classifier "predicted", or those of the mask, "given".
            None: given for a run in weakly mode, else predicted.

    Returns:
        What ``calibration.json`` holds: "checkpoint", "step", "images", "image_labels" (None without SGC),
        "gamma", "temperature", and "maps": name -> "ece", "pixel_accuracy", "mean_confidence", "miou", and "bins"
        (see ``Reliability.to_json``).

    Raises:
        UserError: the run directory, checkpoint or data cannot be read, or ``out`` cannot be written.
    """
    out = out or os.path.join(run_dir, "calibration")
    config = config_io.load(run_dir)
    check_directory(out)
    info = read_info(os.path.join(run_dir, "dataset.json"))
    find_checkpoint(run_dir, checkpoint)  # before the data, which may take long to open
    # The images are few. Before the data, because it also sets the number of threads.
    strategy = create_strategy(dataclasses.replace(config.runtime, strategy="one_device"))
    val = validation_images(config, run_dir, info)
    with strategy.scope():
        model = create_model(config, info)
        step, path = restore_model(run_dir, checkpoint, model)
        maps = variants(config.pseudo, has_trained_sgc(config))
        metrics = {name: SegmentationMetrics(info.num_classes) for name in maps}
    if image_labels is None:
        image_labels = image_labels_of_training(config)

    dataset = evaluation_dataset(val, config.data)

    @tf.function(input_signature=[dataset.element_spec])
    def compare(batch: Mapping[str, tf.Tensor]) -> None:
        branch = validation_branch(model, config, batch, image_labels)
        labels = tf.cast(batch["labels"], tf.float32)
        labels = resize_mask(labels, tf.shape(branch.decoder_logits)[1:3])
        for name, options in maps.items():
            probabilities, _ = make_pseudo_label(branch.decoder_logits, branch.sgc_logits, **options)
            metrics[name].update(labels, probabilities)

    with Progress(len(val), "calibrate") as progress:
        for batch in dataset:
            compare(batch)
            progress.update(len(batch["index"]))

    result: dict[str, Any] = {
        "checkpoint": path,
        "step": step,
        "images": len(val),
        "image_labels": image_labels if has_trained_sgc(config) else None,
        "gamma": config.pseudo.gamma,
        "temperature": config.pseudo.temperature,
        "maps": {name: _scores(each, info.class_names) for name, each in metrics.items()},
    }
    os.makedirs(out, exist_ok=True)
    diagrams = {name: each.reliability() for name, each in metrics.items()}
    save_reliability_diagrams(os.path.join(out, "reliability.png"), diagrams)
    write_json(os.path.join(out, "calibration.json"), result)
    return result


def image_labels_of_training(config: Config) -> ImageLabels:
    """Which classes Grad-CAM shows while a run trains."""
    return "given" if config.train.mode == "weakly" else "predicted"


def has_trained_sgc(config: Config) -> bool:
    """Whether a run trains self-attention."""
    return config.train.mode != "supervised" and config.pseudo.use_attention


def validation_branch(
    model: PseudoSegModel, config: Config, batch: Mapping[str, tf.Tensor], image_labels: ImageLabels
) -> WeakBranch:
    """The weak branch of a training step, on a batch of ``evaluation_dataset``, with moving statistics.

    Args:
        config: of the run; without self-attention that was trained (``has_trained_sgc``) the decoder alone makes
            the pseudo label.
        image_labels: see ``calibrate``.
    """
    size = tf.shape(batch["labels"])[1:3]
    valid = inside(batch["size"], (size[0], size[1]))
    features = model.features(
        model.normalize(tf.cast(batch["image"], tf.float32), valid),
        training=False,
    )
    given = image_labels_of(batch["labels"], model.num_classes, model.has_background)
    options = pseudo_label_options(config)
    if not has_trained_sgc(config):
        options = options._replace(source="decoder", normalize_alone=False, use_attention=False)
    return weak_branch(
        model,
        features,
        features,
        valid,
        image_labels=given if image_labels == "given" else None,
        options=options,
        training=False,
    )


def _scores(metrics: SegmentationMetrics, class_names: tuple[str, ...]) -> dict[str, Any]:
    scores, reliability = metrics.result(class_names), metrics.reliability()
    return {
        **{name: scores[name] for name in ("ece", "pixel_accuracy", "miou")},
        "mean_confidence": reliability.mean_confidence,
        "bins": reliability.to_json(),
    }
