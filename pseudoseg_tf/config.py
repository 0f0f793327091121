"""Everything that can be set about a run, as frozen dataclasses.

One place to read every knob. A preset (``presets.py``) fills a ``Config``, dotted overrides
(``train.steps=2000``) change single fields, and the resolved result is written into the run directory.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

# Values of the reference are the defaults wherever paper and reference agree or the reference decides.


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network: backbone, ASPP, decoder, image-level classifier, self-attention (SGC)."""

    # Feature extractor.
    backbone: Literal[
        "mobilenet_v1",
        "xception_65",
        "resnet_v1_50_beta",
        "resnet_v1_101_beta",
        "resnet_v1_50",
        "resnet_v1_101",
    ] = "mobilenet_v1"
    # Input pixels per cell of the last feature map; 8 or 16.
    output_stride: int = 16
    # Dilation rates of the three atrous ASPP branches (for output stride 16; doubled at 8). Below crop_size / 16:
    # weights that meet padding alone in training learn nothing, and disturb on larger images.
    atrous_rates: tuple[int, ...] = (6, 12, 18)
    # Dilation of the three convolutions of the last block as a multiple of the block's (not mobilenet_v1).
    # DeepLab's ResNet checkpoints were trained with 1,2,4.
    multi_grid: tuple[int, ...] = (1, 1, 1)
    # Channels of each ASPP branch and of the decoder.
    aspp_channels: int = 256
    decoder_channels: int = 256
    # Key and query dimension of the self-attention (paper eq. 3).
    attention_dim: int = 128
    # Stages that feed the self-attention: 1 is the last, 2 the one before (1 alone: no hypercolumn). Xception
    # has 6, the others 4.
    hypercolumn: tuple[int, ...] = (1, 2)
    # Self-attention adds the scores it propagates to the ones it got, and ends in batch norm (false: the
    # reference's first version, without both).
    attention_v2: bool = True
    # Width of the backbone as a multiple of the published one (mobilenet_v1 only).
    width_multiplier: float = 1.0
    # Keep probability of the dropout behind the ASPP projection (1 turns it off).
    aspp_keep_prob: float = 0.9
    # The same before the image-level classifier; 0: the reference's (0.5 for xception_65, else 1).
    classifier_keep_prob: float = 0.0
    # Decay of the batch norm statistics; 0: the reference's (0.9997, ResNet 0.95, SGC 0.999). Runs of a few
    # hundred steps from random weights want 0.9 to 0.99.
    batch_norm_decay: float = 0.0
    # Batch statistics over all replicas instead of each replica's own.
    synchronized_batch_norm: bool = False
    # Train with batch statistics in the backbone (false: moving statistics; gamma and beta still learn).
    fine_tune_batch_norm: bool = True


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """Where the first weights come from."""

    # Empty: random. A TensorFlow 1 checkpoint of DeepLab or of the reference: its prefix or directory. For
    # mobilenet_v1 also a .npz or .h5 file with Keras-Applications names, "imagenet": such weights, downloaded,
    # or "closeups": of this package, for drawn images.
    weights: str = ""
    # Also load the last layers of a TensorFlow 1 checkpoint, where the number of classes agrees.
    last_layers: bool = False


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The images, their masks, who is labeled, and the views made of them."""

    # Where examples come from.
    source: Literal["folder", "tfrecord", "tfds"] = "folder"
    # folder: directory of images.
    images: str = ""
    # folder: directory of masks (PNG of class ids), same file stem as the image.
    masks: str = ""
    # folder, tfrecord: masks are black and white: 0 is the background, 255 the one class; nothing is ignored.
    binary_masks: bool = False
    # folder, tfrecord: text file, one class name a line; line k is class id k. With palette it may be empty.
    classes: str = ""
    # Whether class 0 is the background, which has no image-level label and no Grad-CAM: 0, or none for no. auto: as
    # the data set's description says, 0 for folder and tfrecord.
    background: Literal["auto", "0", "none"] = "auto"
    # folder, tfrecord: text file of lines "name red green blue" in order of the class ids, for RGB masks and for
    # pictures; a line "ignore red green blue" is the color of ignored pixels. Empty: no RGB masks, VOC's colors.
    palette: str = ""
    # folder: list files of ids. tfrecord: shard patterns (path/train-*). tfds: splits (train[:20]), or published label
    # splits by name (1_16/1, data/split_catalog.py). tfrecord, tfds: also SPLIT:FILE, the ids of a list file.
    labeled: str = ""
    unlabeled: str = ""
    val: str = ""
    # Directory of the lists behind those names, as published; empty: fetched once, kept in ~/.cache/pseudoseg_tf.
    splits_dir: str = ""
    # The additional images are those of data.unlabeled that are not in data.labeled (false: all, as the reference's).
    exclude_labeled: bool = False
    # Directory of masks (PNG, ID.png) for the images of data.unlabeled, which then count as labeled; written by
    # pseudoseg-self-train for its student (supervised mode only). Images of data.labeled keep their own masks.
    pseudo_labels: str = ""
    # With pseudo_labels: how often an epoch visits each image of data.labeled, for once each pseudo-labeled one.
    repeat_labeled: int = 1
    # Image-level labels for the weakly mode: CSV id,name,name,... or COCO's annotations (instances_train2017.json);
    # images that it does not name have those of their masks.
    image_labels: str = ""
    # With COCO's annotations whose categories are called otherwise than the classes: CSV category,class; nothing behind
    # the comma: no class; the category *: all without a row.
    category_classes: str = ""
    # tfds: builder name and data directory (empty: the TFDS default).
    name: str = ""
    data_dir: str = ""
    # tfds: builder of data.unlabeled, where the additional images come from another data set; empty: data.name. Its
    # masks say nothing unless both have the same classes.
    unlabeled_name: str = ""
    # tfds: where you unpacked the archives of pascal_voc_seg, coco_seg or cityscapes_seg; read once, to prepare
    # them (empty: the TFDS default, downloads/manual below the data directory).
    manual_dir: str = ""
    # Before anything else, training, evaluation and export resize images, and labels, until the smaller side
    # has so many pixels; 0: off. Evaluation compares at that size, an exported model answers at the image's.
    min_resize: int = 0
    # With min_resize: a larger side that would exceed this becomes this instead (0: no limit).
    max_resize: int = 0
    # With min_resize: sides are then rounded up to a multiple of this, plus 1, within max_resize (0: not).
    resize_factor: int = 0
    # Decoded images and masks are kept for later epochs, and evaluations: in half of the free memory, or on disk
    # (~/.cache/pseudoseg_tf/decoded, also for later runs) as long as a tenth of it is free; a run says if it is not.
    # The batches stay the same.
    cache: Literal["none", "memory", "disk"] = "none"
    # Training crop (height, width), each 16k+1.
    crop_size: tuple[int, int] = (513, 513)
    # Evaluation canvas (height, width), each 16k+1; 0,0: every image at its own size, one at a time.
    eval_size: tuple[int, int] = (0, 0)
    # Images per evaluation batch (must be 1 when eval_size is 0,0).
    eval_batch: int = 1
    # Evaluation and export average the probabilities over these factors of the canvas, each above 0 and at most 4.
    # Time grows with the sum of their squares, memory with the largest.
    eval_scales: tuple[float, ...] = (1.0,)
    # They also average over each image and its mirror image, left to right: twice the time.
    eval_flip: bool = False
    # They also predict window by window (height, width), each 16k+1, and average the probabilities where windows
    # overlap; 0,0: the whole canvas at once.
    eval_window: tuple[int, int] = (0, 0)
    # Overlap of neighboring windows, as part of a window; from 0 to 0.95.
    eval_overlap: float = 0.25
    # Pixel-labeled images per step, over all replicas.
    batch_labeled: int = 8
    # Additional images per step, over all replicas (not read in supervised mode).
    batch_unlabeled: int = 8
    # Scale augmentation: smallest, largest factor and step between the factors.
    min_scale: float = 0.5
    max_scale: float = 2.0
    scale_step: float = 0.25
    # Strong view: color jitter strength (0 turns it off; 1 is the reference).
    jitter_strength: float = 1.0
    # Strong view: half the side of the CutOut box in pixels (0 turns it off). The reference's
    # pad_size=50 cuts up to 100x100; the paper's text says 50x50, which is 25 here.
    cutout: int = 50
    # Training examples that cannot be read, decoded or used: fail stops and names the first; skip takes another
    # example in place of each, the same one whenever the run is repeated or continued, and lists it in
    # bad_examples.txt of the run; self-training makes no pseudo labels of them. Evaluation always stops.
    on_bad_example: Literal["fail", "skip"] = "fail"
    # skip: how many different ones may be left out before the run stops; 0 or greater.
    max_bad_examples: int = 100
    # Order of examples, crops, scales, flips and strong-view draws.
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Optimization and bookkeeping."""

    # supervised: labeled images only. unlabeled: plus images without labels. weakly: plus images
    # with image-level labels.
    mode: Literal["supervised", "unlabeled", "weakly"] = "unlabeled"
    # Optimizer steps.
    steps: int = 30000
    # Parts in which the batches of a step are taken, one after the other, where memory does not hold them at once.
    # data.batch_labeled and data.batch_unlabeled stay those of the step, and the losses means over them. Batch norm,
    # whose moving statistics then move with each part, Norm (paper eq. 4) and the hardest pixels see a part alone.
    accumulate: int = 1
    # TF1's MomentumOptimizer under the learning policy, or its AdamOptimizer at a constant rate of its own.
    optimizer: Literal["momentum", "adam"] = "momentum"
    # momentum: poly decays polynomially to the end rate, step by a factor every so many steps.
    learning_policy: Literal["poly", "step"] = "poly"
    # momentum: learning rate before it decays; at step 0, or after the slow start; greater than 0.
    learning_rate: float = 0.007
    # poly: power of the decay; 0 or greater.
    power: float = 0.9
    # poly: learning rate at the end of the decay; 0 or greater.
    end_learning_rate: float = 0.0
    # poly: steps from the base to the end rate, slow start not counted (0: steps - slow_start_steps).
    decay_steps: int = 0
    # step: factor on the learning rate at each decay; greater than 0 and at most 1.
    step_decay_factor: float = 0.1
    # step: steps from one decay to the next, slow start not counted.
    step_decay_every: int = 2000
    # momentum: first steps at the slow-start rate, fewer than steps; the decay counts from their end.
    slow_start_steps: int = 0
    # momentum: learning rate of the slow start; 0 or greater.
    slow_start_learning_rate: float = 1e-4
    # momentum: decay of the accumulated gradient; 0 or greater, less than 1.
    momentum: float = 0.9
    # adam: learning rate of all steps; greater than 0. Its betas are 0.9 and 0.999.
    adam_learning_rate: float = 0.001
    # adam: added to the root of the second moment before its bias is corrected; greater than 0.
    adam_epsilon: float = 1e-8
    # slim's l2: weight_decay / 2 * sum(w^2), not on depthwise kernels, biases or batch norm.
    weight_decay: float = 4e-5
    # Gradient factor of the backbone (1: the reference).
    backbone_multiplier: float = 1.0
    # Gradient factor of the decoder's logits and the image classifier, twice for their biases; 0 or greater.
    last_layer_multiplier: float = 1.0
    # L_s and L_sa: logits are resized to the labels (true), or labels, by nearest, to the logits.
    upsample_logits: bool = True
    # L_s and L_sa: factor on the loss of each class's pixels, 0 or greater, one per class (empty: all 1). The
    # mean still divides by the number of labeled pixels.
    label_weights: tuple[float, ...] = ()
    # L_s and L_sa: part of the pixels that counts, the hardest; greater than 0, at most 1 (all).
    top_k_percent_pixels: float = 1.0
    # Steps over which that part shrinks linearly from 1 (0: as given from the start).
    hard_example_mining_step: int = 0
    # Weight of the image-level classification loss L_x.
    classification_weight: float = 1.0
    # Weight of the SGC loss on labeled images L_sa.
    attention_weight: float = 1.0
    # Initial weights, dropout.
    seed: int = 0
    # Steps between checkpoints, evaluations, console lines, and pictures in TensorBoard.
    checkpoint_every: int = 1000
    evaluate_every: int = 1000
    log_every: int = 50
    pictures_every: int = 1000
    # How many "last" checkpoints stay on disk.
    keep: int = 2
    # A step whose loss or gradient is not finite: fail stops the run; rollback goes back to the last checkpoint and
    # takes other examples for that step, as rollbacks.jsonl of the run then says.
    on_nonfinite: Literal["fail", "rollback"] = "fail"
    # rollback: how often in a run; greater than 0.
    max_rollbacks: int = 3


@dataclasses.dataclass(frozen=True)
class PseudoConfig:
    """Pseudo labels (paper eq. 4) and the consistency loss L_u."""

    # fused: calibrated fusion of decoder and SGC. decoder / sgc: one map alone.
    source: Literal["fused", "decoder", "sgc"] = "fused"
    # Weight of the decoder in the fusion; 1 - gamma goes to the SGC map.
    gamma: float = 0.5
    # Sharpening temperature of soft labels.
    temperature: float = 0.5
    # Soft labels, or one-hot of their argmax.
    soft: bool = True
    # Pixels whose sharpened confidence is below this leave the loss (0: all pixels stay).
    threshold: float = 0.0
    # Joint Norm of both maps before the softmax (fused only).
    normalize: bool = True
    # Joint Norm also before the softmax of one map alone (decoder or sgc): that term of the fusion by itself.
    normalize_alone: bool = False
    # Weight of L_u, and the steps over which it grows to that as exp(-5 (1 - t)^2) (0: full from the start).
    weight: float = 1.0
    ramp_steps: int = 0
    # Grad-CAM and self-attention (false: neither is computed nor trained, and the decoder alone makes the pseudo
    # label; in unlabeled mode the classifier is not trained either, as in the reference).
    use_attention: bool = True
    # weakly: the classifier learns from the labeled images (the reference's cls_with_cls=False) instead of
    # the image-level labels.
    classify_labeled: bool = False
    # The weak view is predicted like a finished model: moving statistics, no dropout. The reference predicts it
    # with batch statistics and dropout (only Grad-CAM sees moving ones), which makes a noisier teacher.
    weak_inference: bool = False
    # The strong view's batch statistics enter the moving ones that evaluation uses (the reference). The strong
    # view's colors are not those of real images, so a small network may do better without.
    strong_statistics: bool = True
    # The reference passes labeled images (weakly: weak views too) twice through the backbone, so their batch
    # statistics enter the moving ones twice. One pass does it here, and moves them twice (false: once).
    repeat_statistics: bool = True
    # One weak pass for the decoder prediction and the CAM (cheaper; CAM then sees batch statistics).
    share_weak_pass: bool = False


@dataclasses.dataclass(frozen=True)
class RuntimeConfig:
    """Devices and numerics."""

    # auto: MirroredStrategy when several GPUs are visible, else one device.
    strategy: Literal["auto", "one_device", "mirrored", "multi_worker", "tpu"] = "auto"
    # tpu: name of the TPU or address grpc://HOST:8470 of its worker; local on a TPU VM. Empty: the environment's.
    tpu: str = ""
    # Of convolutions and activations; weights, statistics, softmax and losses stay float32. float16 scales losses.
    # 16 bits are slow on a CPU without instructions for them.
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    # Keep of each block of the backbone only what goes into it, and compute the rest once more in the backward pass:
    # less memory for about a third more work.
    rematerialize: bool = False
    # Operations give the same bits in each run, on one kind of device; slower, reading of images most of all. Without
    # it examples and views are the same, and sums on accelerators may differ in their last bits.
    deterministic: bool = False
    # Compile the training step with XLA (for accelerators; slower on CPU).
    jit: bool = False
    # Threads of TensorFlow's CPU ops (0: all cores).
    threads: int = 0
    # Addresses HOST:PORT,HOST:PORT of pseudoseg-input-server, which read the training images in turn, in place of this
    # process; the batches stay the same. Empty: none.
    input_servers: str = ""


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run."""

    model: ModelConfig = ModelConfig()
    init: InitConfig = InitConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    pseudo: PseudoConfig = PseudoConfig()
    runtime: RuntimeConfig = RuntimeConfig()
