"""The training step: which loss reaches which weights, which statistics each pass sees."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.plain_step import plain_losses
from pseudoseg_tf import losses, steps
from pseudoseg_tf.nn.model import PseudoSegModel, build_model
from pseudoseg_tf.pseudo_label import make_pseudo_label


@pytest.fixture(scope="module")
def batches() -> tuple[steps.LabeledBatch, steps.AdditionalBatch]:
    random = np.random.default_rng(0)

    def images() -> tf.Tensor:
        return tf.constant(random.normal(size=(2, 33, 33, 3)), tf.float32)

    valid = np.ones((2, 33, 33), np.uint8)
    valid[0, 20:] = 0
    labels = random.integers(0, 3, (2, 33, 33)).astype(np.uint8)
    labels[:, :4] = 255
    labeled = steps.LabeledBatch(image=images(), labels=tf.constant(labels), valid=tf.constant(valid))
    additional = steps.AdditionalBatch(
        weak=images(), strong=images(), valid=tf.constant(valid), image_labels=tf.constant([[1.0, 0], [0, 1]])
    )
    return labeled, additional


def _model(**options: object) -> PseudoSegModel:
    arguments = {
        "width_multiplier": 0.25,
        "aspp_channels": 8,
        "decoder_channels": 8,
        "attention_dim": 8,
        "batch_norm_decay": 0.9,
        "aspp_keep_prob": 1.0,
    }
    return build_model(3, **{**arguments, **options})


def _run(model, batches, *, weakly=False, options=None, weights=None):
    with tf.GradientTape(persistent=True) as tape:
        terms, branch = steps.pseudoseg_losses(
            model,
            *batches,
            weakly=weakly,
            options=options or steps.PseudoLabelOptions(),
            weights=weights or steps.LossWeights(),
        )
    return terms, branch, tape


def _reached(tape: tf.GradientTape, loss: tf.Tensor, model: PseudoSegModel) -> set[str]:
    """The parts of the model whose variables a loss trains."""
    gradients = tape.gradient(loss, model.trainable_variables)
    return {
        variable.name.removeprefix("pseudoseg/").split("/")[0]
        for variable, gradient in zip(model.trainable_variables, gradients, strict=True)
        if gradient is not None
    }


def _assert_same_statistics(model: PseudoSegModel, plain: PseudoSegModel) -> None:
    """Of the backbone and of the segmentation head."""
    for part in ("backbone", "head"):
        pair = (getattr(each, part).non_trainable_variables for each in (model, plain))
        for ours, theirs in zip(*pair, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("weakly", [False, True])
def test_each_loss_trains_its_part(batches, weakly: bool) -> None:
    model = _model()
    terms, _, tape = _run(model, batches, weakly=weakly)
    network = {"mobilenet_v1", "deeplab_head"}
    assert _reached(tape, terms["supervised"], model) == network
    assert _reached(tape, terms["consistency"], model) == network
    assert _reached(tape, terms["attention"], model) == {"sgc"}
    assert _reached(tape, terms["classification"], model) == {"mobilenet_v1", "image_logits"}


def test_total_is_the_weighted_sum(batches) -> None:
    weights = steps.LossWeights(consistency=0.5, classification=2.0, attention=3.0, decay=1e-3)
    plain = _run(_model(), batches)[0]
    terms = _run(_model(), batches, weights=weights)[0]
    for name, factor in (
        ("supervised", 1),
        ("consistency", 0.5),
        ("classification", 2),
        ("attention", 3),
        ("decay", 25),
    ):
        np.testing.assert_allclose(terms[name], factor * plain[name], rtol=1e-5)
    np.testing.assert_allclose(terms["total"], sum(terms[n] for n in terms if n != "total"), rtol=1e-6)


@pytest.mark.parametrize("weakly", [False, True])
def test_equals_the_plain_form_with_a_pass_for_each_purpose(batches, weakly: bool) -> None:
    """One labeled pass and shared weak passes, against the five or six of the paper's figure."""
    options = steps.PseudoLabelOptions()
    model, plain = _model(), _model()
    terms, branch, _ = _run(model, batches, weakly=weakly, options=options)
    expected, plain_branch = plain_losses(
        plain, *batches, weakly=weakly, options=options, weights=steps.LossWeights()
    )
    assert terms.keys() == expected.keys()
    for name, term in terms.items():
        np.testing.assert_allclose(term, expected[name], rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(branch.pseudo_label, plain_branch.pseudo_label, atol=1e-5)
    np.testing.assert_allclose(branch.cam, plain_branch.cam, atol=1e-5)
    _assert_same_statistics(model, plain)


@pytest.mark.parametrize("weakly", [False, True])
def test_shared_weak_pass_sees_batch_statistics_throughout(batches, weakly: bool) -> None:
    _, additional = batches
    branch = _run(_model(), batches, weakly=weakly, options=steps.PseudoLabelOptions(share_weak_pass=True))[1]
    plain = _model()
    features = plain.features(additional["weak"], training=True)
    image_logits, cam_weights = plain.classify(features)
    labels = additional["image_labels"]
    if not weakly:
        labels = tf.cast(tf.nn.sigmoid(image_logits) >= 0.5, tf.float32)
    np.testing.assert_allclose(branch.cam, plain.grad_cam(features, cam_weights, labels), atol=1e-5)
    logits = plain.decode(features, training=True)
    np.testing.assert_allclose(branch.decoder_logits, logits, atol=1e-5)


def test_pixel_options_reach_both_losses_of_pixel_labels(batches) -> None:
    pixels = losses.PixelLossOptions(hardest=0.1)
    plain = _run(_model(), batches)[0]
    terms, _ = steps.pseudoseg_losses(
        _model(),
        *batches,
        weakly=False,
        options=steps.PseudoLabelOptions(),
        weights=steps.LossWeights(),
        pixels=pixels,
    )
    for name in ("supervised", "attention"):
        assert terms[name] > 1.01 * plain[name], name
    for name in ("consistency", "classification", "decay"):
        np.testing.assert_array_equal(terms[name], plain[name])
    alone = steps.supervised_losses(_model(), batches[0], steps.LossWeights(), pixels=pixels)
    logits = _model()(batches[0]["image"], training=True)
    expected = losses.pixel_cross_entropy(logits, batches[0]["labels"], options=pixels)
    np.testing.assert_allclose(alone["supervised"], expected, rtol=1e-6)


@pytest.mark.parametrize("weakly", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        steps.PseudoLabelOptions(),
        steps.PseudoLabelOptions(repeat_statistics=False),
        steps.PseudoLabelOptions(use_attention=False, source="decoder"),
        steps.PseudoLabelOptions(classify_labeled=True),
        steps.PseudoLabelOptions(weak_inference=True),
    ],
)
def test_batch_norm_statistics_follow_the_passes_of_the_reference(
    batches, weakly: bool, options: steps.PseudoLabelOptions
) -> None:
    """Weak, strong, labeled; images that the classifier sees too go through the backbone once more."""
    labeled, additional = batches
    model, plain = _model(), _model()
    _run(model, batches, weakly=weakly, options=options)
    classify_weak = weakly and not options.classify_labeled
    more_labeled = options.use_attention + (weakly and options.classify_labeled)
    if not options.weak_inference:
        plain(additional["weak"], training=True)
    # With moving statistics for the pseudo label, the only pass is that of the classifier.
    for _ in range(classify_weak * (options.weak_inference or options.repeat_statistics)):
        plain.features(additional["weak"], training=True)
    plain(additional["strong"], training=True)
    plain(labeled["image"], training=True)
    for _ in range(more_labeled * options.repeat_statistics):
        plain.features(labeled["image"], training=True)
    _assert_same_statistics(model, plain)


def test_without_attention_the_decoder_teaches_alone(batches) -> None:
    options = steps.PseudoLabelOptions(use_attention=False, source="decoder")
    with_attention = steps.PseudoLabelOptions(source="decoder")
    terms, branch, _ = _run(_model(), batches, options=options)
    expected = _run(_model(), batches, options=with_attention)[0]
    assert terms["classification"] == terms["attention"] == 0
    assert not np.any(branch.cam)
    for name in ("consistency", "supervised", "decay"):
        np.testing.assert_allclose(terms[name], expected[name], rtol=1e-6)


@pytest.mark.parametrize("weakly", [False, True])
def test_without_a_background_every_class_has_image_label_cam_and_score(batches, weakly: bool) -> None:
    labeled, additional = batches
    given = tf.constant([[1.0, 0, 0], [0, 0, 1]])
    additional = steps.AdditionalBatch(**{**additional, "image_labels": given})
    model = _model(background=False)
    features = model.features((additional["weak"] if weakly else labeled["image"]), training=True)
    image_logits, _ = model.classify(features, training=True)
    expected = losses.image_classification(
        image_logits, given if weakly else losses.image_labels_of(labeled["labels"], 3, background=False)
    )
    terms, branch, tape = _run(model, (labeled, additional), weakly=weakly)
    np.testing.assert_allclose(terms["classification"], expected, rtol=1e-5)
    assert branch.cam.shape[-1] == branch.sgc_logits.shape[-1] == 3
    if weakly:
        shown = branch.cam.numpy().max((1, 2)) > 0
        assert not shown[given.numpy() == 0].any() and shown.any()
    normalized = branch.decoder_logits, branch.sgc_logits
    np.testing.assert_allclose(branch.pseudo_label, make_pseudo_label(*normalized)[0], atol=1e-6)
    assert _reached(tape, terms["attention"], model) == {"sgc"}


def test_weakly_mode_can_train_the_classifier_on_labeled_images(batches) -> None:
    """The reference's cls_with_cls=False; Grad-CAM still sees the given image-level labels."""
    options = steps.PseudoLabelOptions(classify_labeled=True)
    terms = _run(_model(), batches, weakly=True, options=options)[0]
    np.testing.assert_allclose(
        terms["classification"], _run(_model(), batches)[0]["classification"], rtol=1e-6
    )
    given = _run(_model(), batches, weakly=True)[0]
    np.testing.assert_allclose(terms["consistency"], given["consistency"], rtol=1e-5)
    assert terms["classification"] != given["classification"]


def test_frozen_statistics_make_one_weak_pass_enough(batches) -> None:
    model = _model(fine_tune_batch_norm=False)
    separate = _run(model, batches, options=steps.PseudoLabelOptions(share_weak_pass=False))[0]
    shared = _run(
        _model(fine_tune_batch_norm=False), batches, options=steps.PseudoLabelOptions(share_weak_pass=True)
    )[0]
    np.testing.assert_allclose(separate["total"], shared["total"], rtol=1e-6)


def test_supervised_mode_is_one_pass_and_two_terms(batches) -> None:
    terms = steps.supervised_losses(_model(), batches[0], steps.LossWeights())
    assert set(terms) == {"supervised", "decay", "total"}
    expected = losses.pixel_cross_entropy(_model()(batches[0]["image"], training=True), batches[0]["labels"])
    np.testing.assert_allclose(terms["supervised"], expected, rtol=1e-6)


def test_only_labeled_statistics_are_kept_when_asked(batches) -> None:
    """Inference-mode weak pass and untouched strong statistics leave one update: that of the labeled pass."""
    labeled, additional = batches
    model, plain = _model(), _model()
    options = steps.PseudoLabelOptions(weak_inference=True, strong_statistics=False)
    _, branch, _ = _run(model, batches, options=options)
    # The weak view as a finished model would predict it, before any update.
    np.testing.assert_allclose(branch.decoder_logits, plain(additional["weak"]), atol=1e-5)
    plain(labeled["image"], training=True)
    plain.features(labeled["image"], training=True)
    _assert_same_statistics(model, plain)


def test_the_gradient_taken_pass_by_pass_is_that_of_the_total(batches) -> None:
    weights = steps.LossWeights(decay=0.1)
    gradients = steps.GradientSum(variables := (model := _model()).trainable_variables)
    steps.pseudoseg_losses(
        model,
        *batches,
        weakly=False,
        options=steps.PseudoLabelOptions(),
        weights=weights,
        gradients=gradients,
    )
    other = _model()
    terms, _, tape = _run(other, batches, weights=weights)
    expected = tape.gradient(terms["total"], other.trainable_variables)
    for variable, one, whole in zip(variables, gradients.values, expected, strict=True):
        np.testing.assert_allclose(one, whole, rtol=1e-3, atol=1e-5, err_msg=variable.name)


def test_weight_decay_waits_for_the_gradients_of_the_pass(batches) -> None:
    """Else a copy of all weights would be in memory from the start of the step on."""
    model = _model()

    @tf.function(autograph=False)
    def step() -> None:
        gradients = steps.GradientSum(model.trainable_variables)
        steps.supervised_losses(model, batches[0], steps.LossWeights(), gradients=gradients)

    graph = step.get_concrete_function().graph
    decays = [operation for operation in graph.get_operations() if operation.type == "L2Loss"]
    assert len(decays) == len(model.regularized_weights)
    for operation in decays:
        read = operation.inputs[0].op
        assert any("Conv2DBackpropFilter" in each.type for each in read.control_inputs)
