"""Pictures of how the pseudo labels come about, of the same few images as training goes on."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

import numpy as np
import orbit
import tensorflow as tf

from pseudoseg_tf import steps, visualize
from pseudoseg_tf.assembly import pseudo_label_options
from pseudoseg_tf.config import Config
from pseudoseg_tf.data import pipeline
from pseudoseg_tf.data.bad_examples import BadExamples
from pseudoseg_tf.data.decode import decode_record
from pseudoseg_tf.data.sources import Sources
from pseudoseg_tf.data.specs import DatasetInfo, Source
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.metrics import Reliability
from pseudoseg_tf.nn.model import PseudoSegModel
from pseudoseg_tf.reliability_diagram import reliability_figure
from pseudoseg_tf.trainer import additional_batch

# Images in a picture.
_PANEL_IMAGES = 4


class Panel:
    """Pictures of the pseudo labels of the same few images at each time, as PNG and in TensorBoard."""

    def __init__(
        self,
        config: Config,
        model: PseudoSegModel,
        sources: Sources,
        run_dir: str,
        bad_examples: BadExamples | None,
    ):
        self._config = config
        self._model = model
        self._info: DatasetInfo = sources.info
        self._directory = os.path.join(run_dir, "pictures")
        data = dataclasses.replace(config.data, batch_labeled=1, batch_unlabeled=_PANEL_IMAGES)
        dataset = pipeline.training_dataset(sources, data, config.train.mode, 0, bad_examples=bad_examples)
        batch = next(iter(dataset))
        self._examples = batch["unlabeled"]
        assert sources.unlabeled is not None
        ids = pipeline.example_ids(sources.unlabeled, data, "unlabeled", 0)
        self._images = [_image_or_white(sources.unlabeled, record_id) for record_id in ids]

    def write(
        self, step: int, reliability: Mapping[str, Reliability], summaries: orbit.utils.SummaryManager
    ) -> None:
        """Draws the panel of ``step`` and, where masks are known, reliability diagrams of the maps."""
        additional, branch = self._pseudo_labels()
        picture = visualize.pseudo_label_panel(
            images=self._images,
            weak=self._pixels(additional["weak"]),
            strong=self._pixels(additional["strong"]),
            cam=branch.cam.numpy(),
            sgc=branch.sgc_logits.numpy(),
            decoder=branch.decoder_logits.numpy(),
            pseudo=branch.pseudo_label.numpy(),
            labels=self._examples["labels"].numpy(),
            class_names=self._info.class_names,
            palette=self._info.palette,
        )
        os.makedirs(self._directory, exist_ok=True)
        visualize.save_image(os.path.join(self._directory, f"step-{step:08d}.png"), picture)
        with summaries.summary_writer().as_default():
            tf.summary.image("pseudo_labels", picture[np.newaxis], step=step)
            if reliability:
                diagrams = visualize.figure_pixels(reliability_figure(reliability))
                tf.summary.image("reliability", diagrams[np.newaxis], step=step)

    @tf.function(autograph=False)
    def _pseudo_labels(self) -> tuple[steps.AdditionalBatch, steps.WeakBranch]:
        additional = additional_batch(self._model, self._examples, self._config.data.cutout)
        features = self._model.features(additional["weak"], training=False)
        branch = steps.weak_branch(
            self._model,
            features,
            features,
            additional["valid"],
            image_labels=additional["image_labels"] if self._config.train.mode == "weakly" else None,
            options=pseudo_label_options(self._config),
            training=False,
        )
        return additional, branch

    def _pixels(self, normalized: tf.Tensor) -> np.ndarray:
        """Normalized images back to uint8."""
        return np.clip(self._model.denormalize(normalized).numpy(), 0, 255).astype(np.uint8)


def _image_or_white(source: Source, record_id: str) -> np.ndarray:
    """The image of a record, uint8 [h, w, 3]; white if it cannot be used, so that the views are those of another."""
    try:
        return decode_record(source.read(source.ids.index(record_id)), source.info.num_classes)[0]
    except UserError:
        return np.full([1, 1, 3], 255, np.uint8)
