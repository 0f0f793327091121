"""A folder data set of eight drawn images: colored squares on noise, four of them labeled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from pseudoseg_tf.config import Config, DataConfig, ModelConfig, TrainConfig

CLASS_NAMES = ("background", "red", "green")


def draw_folder(root: Path) -> None:
    """Writes images/, masks/ (none for the unlabeled), classes.txt, labeled.txt, unlabeled.txt and val.txt."""
    random = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for index in range(8):
        height, width = 40 + index, 56 - index
        image = random.integers(60, 120, (height, width, 3)).astype(np.uint8)
        mask = np.zeros((height, width), np.uint8)
        top, left, label = random.integers(0, 16), random.integers(0, 24), 1 + index % 2
        mask[top : top + 20, left : left + 20] = label
        image[mask > 0, label - 1] = 250
        Image.fromarray(image).save(root / f"images/{index}.png")
        if not 3 <= index < 6:
            Image.fromarray(mask).save(root / f"masks/{index}.png")
    (root / "classes.txt").write_text("\n".join(CLASS_NAMES) + "\n")
    for name, ids in (("labeled", "012"), ("unlabeled", "345"), ("val", "67")):
        (root / f"{name}.txt").write_text("".join(f"{record_id}\n" for record_id in ids))


def small_config(root: Path, mode: str = "unlabeled", steps: int = 6) -> Config:
    """A run on ``draw_folder(root)`` that takes seconds."""
    return Config(
        model=ModelConfig(
            width_multiplier=0.25, aspp_channels=8, decoder_channels=8, attention_dim=8, batch_norm_decay=0.9
        ),
        data=DataConfig(
            images=str(root / "images"),
            masks=str(root / "masks"),
            classes=str(root / "classes.txt"),
            labeled=str(root / "labeled.txt"),
            unlabeled=str(root / "unlabeled.txt"),
            val=str(root / "val.txt"),
            crop_size=(33, 33),
            batch_labeled=2,
            batch_unlabeled=2,
            cutout=5,
        ),
        train=TrainConfig(
            mode=mode,
            steps=steps,
            learning_rate=0.02,
            log_every=2,
            checkpoint_every=2,
            evaluate_every=4,
            pictures_every=4,
        ),
    )
