"""Named experiments: each function returns a whole configuration, and its docstring says how to run it."""

from __future__ import annotations

from collections.abc import Callable

from pseudoseg_tf.config import Config, DataConfig, InitConfig, ModelConfig, PseudoConfig, TrainConfig
from pseudoseg_tf.config_io import nearest
from pseudoseg_tf.errors import UserError


def folder() -> Config:
    """Your own images: a directory of images, masks for some of them, and lists of who is labeled.

    Command:
        pseudoseg-train --preset=folder --run_dir=runs/mine --set data.images=my/images
        --set data.masks=my/masks --set data.classes=my/classes.txt --set data.labeled=my/labeled.txt
        --set data.unlabeled=my/unlabeled.txt --set data.val=my/val.txt

    Run time: 4000 steps of 4 + 4 crops of 257x257; --dry_run prints the passes through the network.
    Result: depends on the data; compare with --set train.mode=supervised (the labeled images alone).
    """
    return Config(
        model=ModelConfig(atrous_rates=(3, 6, 9)),
        data=DataConfig(crop_size=(257, 257), batch_labeled=4, batch_unlabeled=4),
        train=TrainConfig(steps=4000, checkpoint_every=500, evaluate_every=500, pictures_every=500),
        init=InitConfig(weights="imagenet"),
    )


def shapes(draw: int = 0) -> Config:
    """Drawn scenes of textured objects, made on the spot: 16 of 4000 labeled. Needs no download.

    Starts from features that learned to name patterns (closeups.py). Everything is small. What differs from the
    paper, for a run of few steps: weak views are predicted in inference mode, only confident pixels are learned
    from and their weight ramps up, and self-attention learns ten times as fast.

    Command: pseudoseg-train --preset=shapes --run_dir=runs/shapes
    Run time: 7 minutes on one core; supervised 3.
    Result: benchmarks/RESULTS.md.

    Args:
      draw: which 16 are labeled: the first, the next, ...
    """
    first, end = 16 * draw, 16 * (draw + 1)
    return Config(
        model=ModelConfig(
            width_multiplier=0.25,
            # The feature map of a crop is 7x7.
            atrous_rates=(2, 4, 6),
            aspp_channels=64,
            decoder_channels=64,
            attention_dim=32,
            batch_norm_decay=0.95,
        ),
        data=DataConfig(
            source="tfds",
            name="shapes_seg",
            labeled=f"train[{first}:{end}]",
            unlabeled=f"train[{end}:]" + (f"+train[:{first}]" if first else ""),
            val="val",
            crop_size=(97, 97),
            eval_size=(97, 97),
            eval_batch=8,
            min_scale=0.75,
            max_scale=1.25,
            cutout=12,
        ),
        train=TrainConfig(
            steps=2250,
            learning_rate=0.05,
            attention_weight=10.0,
            checkpoint_every=450,
            evaluate_every=750,
            pictures_every=750,
        ),
        init=InitConfig(weights="closeups"),
        pseudo=PseudoConfig(threshold=0.8, ramp_steps=200, weak_inference=True, strong_statistics=False),
    )


def voc12() -> Config:
    """PASCAL VOC 2012 with the schedule of the paper: 30000 steps of 64 + 64 crops of 513x513.

    Reads the TFDS builder pascal_voc_seg: the paper's first split of 92 images is labeled, train_aug (with SBD) is
    unlabeled. Its other splits: --set data.labeled=1_16/2, 1_16/3, 1_8, 1_4, 1_2; all of VOC's train list: train.

    Command, with VOCdevkit and benchmark_RELEASE unpacked in archives:
        pseudoseg-train --preset=voc12 --run_dir=runs/voc12 --set data.manual_dir=archives

    A part of a devkit: --set data.name=pascal_voc_seg/subset --set data.labeled=train. TFRecords in DeepLab's
    format: --set data.source=tfrecord and the keys data.classes, data.labeled, data.unlabeled and data.val.

    Starts from random weights; the paper's rows start from ImageNet. With a checkpoint of DeepLab's model zoo:
    --set init.weights=zoo/xception_65/model.ckpt
    or for the paper's ResNets: --set init.weights=zoo/resnet_v1_101/model.ckpt
    --set model.backbone=resnet_v1_101_beta --set model.multi_grid=1,2,4 --set train.weight_decay=1e-4

    Run time: meant for several accelerators; with fewer, lower both batches and train.learning_rate.
    Result: not run here.
    """
    return Config(
        model=ModelConfig(backbone="xception_65"),
        data=DataConfig(
            source="tfds",
            name="pascal_voc_seg",
            labeled="1_16/1",
            unlabeled="train_aug",
            val="val",
            crop_size=(513, 513),
            eval_size=(513, 513),
            batch_labeled=64,
            batch_unlabeled=64,
        ),
        train=TrainConfig(steps=30000),
    )


def coco() -> Config:
    """COCO 2017, 81 classes, with the schedule of the paper: 200000 steps of 64 + 64 crops of 513x513.

    Reads the TFDS builder coco_seg: the paper's split of 232 images is labeled, all of train2017 is unlabeled. Its
    other splits: --set data.labeled=1_256, 1_128, 1_64, 1_32.

    Command, with train2017, val2017 and annotations unpacked in archives:
        pseudoseg-train --preset=coco --run_dir=runs/coco --set data.manual_dir=archives

    With unlabeled2017 there too: --set data.unlabeled=unlabeled. Other files and parts: as for voc12.

    First weights, run time and result: as for voc12, with 6.7 times the steps.
    """
    return Config(
        model=ModelConfig(backbone="xception_65"),
        data=DataConfig(
            source="tfds",
            name="coco_seg",
            labeled="1_512",
            unlabeled="train",
            val="val",
            crop_size=(513, 513),
            eval_size=(641, 641),
            batch_labeled=64,
            batch_unlabeled=64,
        ),
        train=TrainConfig(steps=200000, checkpoint_every=5000, evaluate_every=5000, pictures_every=5000),
    )


def cityscapes() -> Config:
    """Cityscapes, 19 train ids, crops of 513x1025, evaluation on whole frames; steps and batches as voc12.

    Reads the TFDS builder cityscapes_seg: 100 train frames are labeled, all 2975 are unlabeled. Other splits: --set
    data.labeled=1_8, 1_4. Cityscapes has no background; in the authors' code class 0, road, takes its place: --set
    data.background=0.

    Command, with leftImg8bit and gtFine unpacked in archives:
        pseudoseg-train --preset=cityscapes --run_dir=runs/cityscapes --set data.manual_dir=archives

    First weights, run time and result: as for voc12, with twice the pixels.
    """
    return Config(
        model=ModelConfig(backbone="xception_65"),
        data=DataConfig(
            source="tfds",
            name="cityscapes_seg",
            labeled="1_30",
            unlabeled="train",
            val="val",
            crop_size=(513, 1025),
            eval_size=(1025, 2049),
            batch_labeled=64,
            batch_unlabeled=64,
        ),
        train=TrainConfig(steps=30000),
    )


PRESETS: dict[str, Callable[[], Config]] = {
    function.__name__: function for function in (folder, shapes, voc12, coco, cityscapes)
}


def preset(name: str) -> Config:
    """Returns the configuration of a named experiment.

    Raises:
      UserError: for an unknown name; the message holds the nearest one.
    """
    if name not in PRESETS:
        meant = nearest(name, PRESETS)
        raise UserError(f"preset {name!r}: unknown; nearest: {meant}; presets: {', '.join(PRESETS)}")
    return PRESETS[name]()
