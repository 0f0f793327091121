"""TensorFlow 1 checkpoints: what is read, what is left out and why, what is refused, and what is written."""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pseudoseg_tf.checkpoint import check_initial_weights, load_initial_weights
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.nn.model import PseudoSegModel, build_model
from pseudoseg_tf.optim import Adam, Momentum
from pseudoseg_tf.tf1_checkpoint import (
    VariableMapping,
    guess_network,
    load_variables,
    map_variables,
    tf1_shape,
    tf1_variables,
    write_tf1_checkpoint,
)
from pseudoseg_tf.tf1_files import Tf1Checkpoint, find_tf1_checkpoint
from tests import tf1
from tests.reference import formula

SMALL = {"width_multiplier": 0.25, "aspp_channels": 8, "decoder_channels": 8, "attention_dim": 8}
Values = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]


def small_model(num_classes: int = 3, **options: object) -> PseudoSegModel:
    return build_model(num_classes, **{**SMALL, **options})


def momentum_of(model: PseudoSegModel) -> Momentum:
    optimizer = Momentum(0.1)
    optimizer.build(model.trainable_variables)
    return optimizer


@pytest.fixture(scope="module")
def model() -> PseudoSegModel:
    return small_model()


@pytest.fixture(scope="module")
def optimizer(model: PseudoSegModel) -> Momentum:
    return momentum_of(model)


@pytest.fixture(scope="module")
def trained() -> Values:
    """A whole checkpoint of a small network: variables, momenta, step."""
    values = tf1.random_values(small_model())
    return values | tf1.momenta(values) | {"global_step": np.int64(30000)}


@pytest.fixture(scope="module")
def prefix(trained: Values, tmp_path_factory: pytest.TempPathFactory) -> str:
    return tf1.save(tmp_path_factory.mktemp("trained") / "model.ckpt-30000", trained, state=True)


def shapes_of(values: Mapping[str, np.ndarray]) -> Shapes:
    return {name: np.shape(value) for name, value in values.items()}


def mapped(
    shapes: Shapes,
    model: PseudoSegModel,
    last_layers: bool = False,
    optimizer: Momentum | Adam | None = None,
) -> VariableMapping:
    """The mapping; whatever it is, it accounts for every variable of both sides."""
    mapping = map_variables(shapes, model, last_layers=last_layers, optimizer=optimizer)
    assert sorted([*mapping.loaded, *mapping.skipped, *mapping.leftover]) == sorted(shapes)
    assert sorted([*mapping.loaded, *mapping.random]) == sorted(tf1_variables(model, optimizer))
    assert "\n" not in mapping.summary() + "".join(mapping.errors)
    return mapping


def assert_equal(found: Mapping[str, tf.Variable], values: Mapping[str, np.ndarray]) -> None:
    for name, variable in found.items():
        np.testing.assert_array_equal(np.reshape(variable, tf1_shape(variable)), values[name], err_msg=name)


# Whole checkpoints


@pytest.mark.needs_shared
@pytest.mark.parametrize(
    "backbone", ["resnet_v1_50_beta", pytest.param("xception_65", marks=pytest.mark.slow)]
)
def test_every_variable_of_the_reference_comes_in_and_goes_out(
    backbone: str, shared_dir: Path, tmp_path: Path
) -> None:
    reference = json.loads((shared_dir / f"reference/A/variables_{backbone}.json").read_text())
    shapes = {row[0]: tuple(row[1]) for row in reference["variables"] if row[0] != "global_step"}
    values = {name: formula.variable(name, shape) for name, shape in shapes.items()}
    for slot in reference["momentum_slots"]:
        random = np.random.default_rng(zlib.crc32(slot.encode()))
        values[slot] = random.standard_normal(shapes[slot.removesuffix("/Momentum")], np.float32)
    values["global_step"] = np.int64(12345)
    checkpoint = Tf1Checkpoint(tf1.save(tmp_path / "theirs/model.ckpt-12345", values))
    assert guess_network(checkpoint.shapes) == {
        "backbone": backbone,
        "num_classes": 21,
        "aspp_channels": 256,
        "decoder_channels": 256,
        "attention_dim": 128,
        "attention_v2": True,
        "atrous_rates": (6, 12, 18),
    }

    model = build_model(21, backbone)
    optimizer = momentum_of(model)
    mapping = mapped(checkpoint.shapes, model, optimizer=optimizer)
    assert not (mapping.errors or mapping.skipped or mapping.random or mapping.leftover)
    load_variables(checkpoint, mapping)
    assert tf1_variables(model, optimizer).keys() == values.keys()
    assert_equal(tf1_variables(model, optimizer), values)

    write_tf1_checkpoint(str(tmp_path / "ours/model.ckpt"), model, optimizer)
    written = tf1.restore(str(tmp_path / "ours/model.ckpt"), shapes_of(values))
    for name, value in values.items():
        np.testing.assert_array_equal(written[name], value, err_msg=name)
    assert Tf1Checkpoint(str(tmp_path / "ours")).shapes == checkpoint.shapes

    # As first weights: neither step, slots nor last layers.
    first = mapped(checkpoint.shapes, model)
    last_layers = {f"{scope}/{kind}" for scope in ("logits/semantic", f"{model.backbone.scope}/logits")
                   for kind in ("weights", "biases")}  # fmt: skip
    assert first.loaded.keys() == shapes.keys() - last_layers and not first.errors


@pytest.mark.parametrize(("kind", "attention_v2"), [(Momentum, True), (Adam, False)])
def test_ours_to_tensorflow_1_and_back_bit_for_bit(kind: type, attention_v2: bool, tmp_path: Path) -> None:
    def begin(seed: int) -> tuple[PseudoSegModel, Momentum | Adam]:
        model = small_model(attention_v2=attention_v2, seed=seed)
        optimizer = kind(0.1)
        optimizer.build(model.trainable_variables)
        return model, optimizer

    model, optimizer = begin(0)
    random = np.random.default_rng(0)
    for variable in tf1_variables(model, optimizer).values():
        if variable.dtype == tf.float32:
            variable.assign(random.normal(size=variable.shape))
    optimizer.iterations.assign(41)
    prefix = str(tmp_path / "new" / "model.ckpt-41")
    write_tf1_checkpoint(prefix, model, optimizer)
    assert tf.train.latest_checkpoint(str(tmp_path / "new")) == prefix
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "checkpoint",
        "model.ckpt-41.data-00000-of-00001",
        "model.ckpt-41.index",
    ]

    ours = tf1_variables(model, optimizer)
    shapes = {name: tf1_shape(variable) for name, variable in ours.items()}
    slots = {name.rsplit("/", 1)[-1] for name in shapes} & {"Momentum", "Adam", "Adam_1"}
    if kind is Adam:
        shapes |= {"beta1_power": (), "beta2_power": ()}
    theirs = tf1.restore(prefix, shapes)
    assert_equal(ours, theirs)
    assert slots == ({"Momentum"} if kind is Momentum else {"Adam", "Adam_1"})
    if kind is Adam:
        # One factor a step, the first before any.
        assert theirs["beta1_power"] == pytest.approx(0.9**42)
        assert theirs["beta2_power"] == pytest.approx(0.999**42)

    another, its_optimizer = begin(1)
    checkpoint = Tf1Checkpoint(tf1.save(tmp_path / "again/model.ckpt", theirs))
    assert checkpoint.shapes == Tf1Checkpoint(prefix).shapes
    mapping = mapped(checkpoint.shapes, another, optimizer=its_optimizer)
    assert mapping.skipped == (
        {} if kind is Momentum else dict.fromkeys(["beta1_power", "beta2_power"], "that follow from the step")
    )
    load_variables(checkpoint, mapping)
    assert int(its_optimizer.iterations) == 41
    assert_equal(tf1_variables(another, its_optimizer), theirs)


def test_a_run_without_slots_and_self_attention(
    model: PseudoSegModel, optimizer: Momentum, trained: Values
) -> None:
    kept = re.compile(r"(?!hyper_column|pixel_normalization|MobilenetV1/logits|.*/Momentum$)")
    shapes = {name: shape for name, shape in shapes_of(trained).items() if kept.match(name)}
    mapping = mapped(shapes, model, optimizer=optimizer)
    assert not mapping.errors and mapping.loaded.keys() == shapes.keys()
    assert re.search(
        r"; 8 of the model random \(.*self-attention: 2.*\); \d+ of the optimizer start at 0$",
        mapping.summary(),
    )


# First weights


def test_first_weights_are_what_the_reference_takes(trained: Values, tmp_path: Path) -> None:
    model = small_model(seed=3)
    before = {name: variable.numpy() for name, variable in tf1_variables(model).items()}
    extra = {
        "aspp0/weights/ExponentialMovingAverage": np.zeros([1, 1, 256, 8], np.float32),
        "MobilenetV1/mean_rgb": np.zeros(3, np.float32),
        "MobilenetV1/Conv2d_0/weights/RMSProp": np.zeros([3, 3, 3, 8], np.float32),
        "MobilenetV1/Logits/Conv2d_1c_1x1/biases": np.zeros(1001, np.float32),
        "beta1_power": np.float32(0.9),
        "something/else": np.zeros(2, np.float32),
    }
    prefix = tf1.save(tmp_path / "model.ckpt", trained | extra)
    line = load_initial_weights(model, prefix)
    last = ["logits/semantic/weights", "logits/semantic/biases"]
    last += ["MobilenetV1/logits/weights", "MobilenetV1/logits/biases"]
    now = tf1_variables(model)
    assert_equal({name: variable for name, variable in now.items() if name not in last}, trained)
    for name in last:
        np.testing.assert_array_equal(now[name], before[name])
    slots = sum(name.endswith("/Momentum") for name in trained) + 2
    for part in (
        f"first weights from {prefix}: {len(now) - 4} variables loaded; ",
        f"of the optimizer: {slots}",
        "of the last layers (init.last_layers=true loads them): 4",
        "the step: 1",
        "moving averages of variables: 1",
        "the mean pixel, a constant here: 1",
        "of an image classifier in other layers: 1",
        "4 of the model random (decoder logits: 2, image-level classifier: 2)",
        "1 left over (something/else)",
    ):
        assert part in line
    assert check_initial_weights(model, prefix) == line

    load_initial_weights(model, prefix, last_layers=True)
    assert_equal(tf1_variables(model), trained)


@pytest.mark.parametrize("last_layers", [False, True])
def test_backbone_of_the_model_zoo(trained: Values, last_layers: bool, tmp_path: Path) -> None:
    zoo = {name: value for name, value in trained.items() if name.startswith("MobilenetV1/")}
    zoo = {name: value for name, value in zoo.items() if not name.endswith("/Momentum")}
    zoo["MobilenetV1/logits/weights"] = np.zeros([1, 1, 256, 1001], np.float32)
    zoo["MobilenetV1/logits/biases"] = np.zeros(1001, np.float32)
    zoo["global_step"] = np.int64(5)
    prefix = tf1.save(tmp_path / "model.ckpt", zoo)
    model = small_model(seed=3)
    heads = [variable.numpy() for variable in [*model.head.variables, *model.sgc_attention.variables]]
    line = load_initial_weights(model, prefix, last_layers)
    assert f"first weights from {prefix}: {len(zoo) - 3} variables loaded; 3 skipped (" in line
    assert "of another number of classes (1001 there, 2 here): 2" in line
    for part in ("ASPP: ", "decoder: ", "decoder logits: 2", "self-attention: 2"):
        assert part in line
    backbone = {name: v for name, v in tf1_variables(model).items() if name.startswith("MobilenetV1/C")}
    assert_equal(backbone, zoo)
    for old, new in zip(heads, [*model.head.variables, *model.sgc_attention.variables], strict=True):
        np.testing.assert_array_equal(old, new)


def test_last_layers_of_another_number_of_classes(trained: Values) -> None:
    model = small_model(4)
    for last_layers in (False, True):
        mapping = mapped(shapes_of(trained), model, last_layers)
        assert not mapping.errors
        assert mapping.skipped["logits/semantic/weights"] == "of another number of classes (3 there, 4 here)"
        assert (
            mapping.skipped["MobilenetV1/logits/biases"] == "of another number of classes (2 there, 3 here)"
        )
        assert mapping.skipped["pixel_normalization/weights"] == mapping.skipped["logits/semantic/weights"]
        assert "hyper_column/key/weights" in mapping.loaded


def test_checkpoint_of_a_resnet() -> None:
    model = build_model(3, "resnet_v1_50_beta", aspp_channels=8, decoder_channels=8, attention_dim=8)
    shapes = {name: tf1_shape(variable) for name, variable in tf1_variables(model).items()}
    zoo = {name: shape for name, shape in shapes.items() if name.startswith("resnet_v1_50/")}
    mapping = mapped(zoo | {"resnet_v1_50/mean_rgb": (3,)}, model)
    assert not mapping.errors and len(mapping.skipped) == 3
    # The same network with the 7x7 stem has other variables there.
    plain = {name.replace("conv1_1", "conv1"): shape for name, shape in zoo.items() if "conv1_2" not in name}
    assert mapped(plain, model).errors[0] == (
        "it looks like one of resnet_v1_50, the model has resnet_v1_50_beta (model.backbone)"
    )
    deeper = {name.replace("resnet_v1_50", "resnet_v1_101"): shape for name, shape in zoo.items()}
    errors = mapped(deeper, model).errors
    assert errors[0].startswith("it looks like one of resnet_v1_101_beta, the model has resnet_v1_50_beta")
    assert re.search(
        r"\d+ of \d+ variables of backbone missing, such as resnet_v1_50/conv1_1/weights "
        r"\(nearest there: resnet_v1_101/conv1_\d/weights\)",
        errors[1],
    )


# What does not fit


def drop(pattern: str) -> Callable[[Shapes], Shapes]:
    return lambda shapes: {name: shape for name, shape in shapes.items() if not re.search(pattern, name)}


@pytest.mark.parametrize(
    ("change", "whole", "message"),
    [
        (
            drop("Conv2d_7_pointwise/weights"),
            False,
            r"1 of \d+ variables of backbone missing, such as MobilenetV1/Conv2d_7_pointwise/weights$",
        ),
        (
            drop("decoder/feature"),
            False,
            r"5 of \d+ variables of decoder missing, such as decoder/feature_pro",
        ),
        (drop("^decoder/"), True, r"25 of 25 variables of decoder missing"),
        (drop("^logits/"), True, r"2 of 2 variables of decoder logits missing"),
        (
            lambda shapes: shapes | {"aspp4_depthwise/depthwise_weights": (3, 3, 256, 1)},
            False,
            r"1 variable left over \(aspp4_depthwise/depthwise_weights\)",
        ),
        (lambda shapes: shapes | {"something/else": (2,)}, True, r"1 variable left over \(something/else\)"),
        (
            lambda shapes: {name.replace("/gamma", "/gama"): shape for name, shape in shapes.items()},
            False,
            r"variables of ASPP missing, such as \S+/gamma \(nearest there: \S+/gama\)",
        ),
        (
            lambda shapes: {name: shape for name, shape in shapes.items() if "xx" in name},
            False,
            r"^it names no backbone known here \(\), the model has mobilenet_v1 \(model\.backbone\)",
        ),
    ],
)
def test_another_network_is_refused(
    model: PseudoSegModel,
    optimizer: Momentum,
    trained: Values,
    change: Callable[[Shapes], Shapes],
    whole: bool,
    message: str,
) -> None:
    shapes = change(shapes_of(trained))
    mapping = mapped(shapes, model, optimizer=optimizer if whole else None)
    assert any(re.search(message, error) for error in mapping.errors), mapping.errors


@pytest.mark.parametrize(
    ("options", "whole", "message"),
    [
        (
            {"width_multiplier": 0.5},
            False,
            r"Conv2d_\S+ has shape \S+, the model needs \S+ "
            r"\(another model\.backbone or model\.width_multiplier\), and \d+ more like it",
        ),
        (
            {"aspp_channels": 16},
            False,
            r"/weights has shape 1x1x256x8, the model needs 1x1x256x16 \(another model\.aspp_channels",
        ),
        ({"decoder_channels": 16}, False, r"decoder/\S+ has shape .* \(another model\.decoder_channels"),
        (
            {"attention_dim": 16},
            False,
            r"key/weights has shape 1x1x384x8, the model needs 1x1x384x16 \(another model\.attention_dim",
        ),
        (
            {"hypercolumn": (1,)},
            False,
            r"needs 1x1x256x8 \(another model\.attention_dim, model\.hypercolumn or",
        ),
        (
            {"attention_v2": False},
            False,
            r"self-attention's last layer missing.*; try another model\.attention_v2",
        ),
        ({"atrous_rates": (6, 12)}, False, r"left over \(aspp3_depthwise/"),
        (
            {"num_classes": 4},
            True,
            r"^logits/semantic/weights has shape 1x1x8x3, the model needs 1x1x8x4 "
            r"\(another number of classes\), and 7 more like it$",
        ),
    ],
)
def test_another_shape_is_refused_with_its_cause(
    trained: Values, options: dict[str, object], whole: bool, message: str
) -> None:
    other = small_model(**options)
    mapping = mapped(shapes_of(trained), other, optimizer=momentum_of(other) if whole else None)
    assert any(re.search(message, error) for error in mapping.errors), mapping.errors


def test_slots_of_another_optimizer_are_refused(model: PseudoSegModel, trained: Values) -> None:
    adam = Adam()
    adam.build(model.trainable_variables)
    assert mapped(shapes_of(trained), model, optimizer=adam).errors == (
        "it was trained with momentum, the configuration has train.optimizer=adam",
    )


def test_values_of_another_type_are_refused(
    model: PseudoSegModel, optimizer: Momentum, trained: Values, tmp_path: Path
) -> None:
    name = "logits/semantic/biases"
    half = {name: trained[name].astype(np.float16)}
    for value, refused in ((half[name], False), (np.array([b"a", b"b", b"c"], object), True)):
        checkpoint = Tf1Checkpoint(tf1.save(tmp_path / f"{refused}/model.ckpt", trained | {name: value}))
        mapping = mapped(checkpoint.shapes, model, optimizer=optimizer)
        if refused:
            with pytest.raises(UserError, match=rf"{name} is of type object, the model needs float32"):
                load_variables(checkpoint, mapping)
        else:
            load_variables(checkpoint, mapping)
            np.testing.assert_array_equal(tf1_variables(model)[name], value.astype(np.float32))


# Paths and files


def test_forms_of_a_path(prefix: str, trained: Values, tmp_path: Path) -> None:
    directory = Path(prefix).parent
    for path in (prefix, f"{prefix}.index", f"{prefix}.data-00000-of-00001", str(directory), f"{directory}/"):
        assert Path(find_tf1_checkpoint(path)) == Path(prefix)
    # Copied from a machine where it lay elsewhere.
    copied = tmp_path / "copy"
    shutil.copytree(directory, copied)
    (copied / "checkpoint").write_text('model_checkpoint_path: "/gone/model.ckpt-30000"\n')
    assert find_tf1_checkpoint(str(copied)) == str(copied / "model.ckpt-30000")
    # As unpacked from the zoo.
    (copied / "checkpoint").unlink()
    assert find_tf1_checkpoint(str(copied)) == str(copied / "model.ckpt-30000")
    assert Tf1Checkpoint(str(copied)).shapes == shapes_of(trained)
    copied.rename(tmp_path / "copy [1]")
    _refused(tmp_path / "copy [1]", r"TensorFlow takes \* \? \[ for a pattern; rename")


def test_single_file_of_the_older_format(trained: Values, tmp_path: Path) -> None:
    path = tf1.save(tmp_path / "resnet.ckpt", trained, old_format=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["resnet.ckpt"]
    model = small_model(seed=3)
    load_initial_weights(model, path, last_layers=True)
    assert_equal(tf1_variables(model), trained)


def _refused(path: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        Tf1Checkpoint(str(path))
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    _refused(tmp_path / "absent", r"absent: no TensorFlow 1 checkpoint; .* there is no \S+absent\.index$")
    _refused(tmp_path / "absent.index", r"there is no \S+absent\.index$")
    _refused(tmp_path, r": a directory without a TensorFlow 1 checkpoint; expected files PREFIX\.index")
    (tmp_path / "file.ckpt").write_text("text")
    _refused(tmp_path / "file.ckpt", r"file\.ckpt: not a TensorFlow 1 checkpoint, or a damaged one \(")
    (tmp_path / "model.tar.gz").write_bytes(b"")
    _refused(tmp_path / "model.tar.gz", r"an archive; unpack it")
    (tmp_path / "saved_model.pb").touch()
    _refused(tmp_path, r": a SavedModel, not")
    (tmp_path / "saved_model.pb").unlink()
    (tmp_path / "config.json").touch()
    _refused(tmp_path, r": a run directory of pseudoseg-train, not")
    (tmp_path / "checkpoint").write_text("no such file")
    _refused(tmp_path, r"checkpoint: damaged; name the checkpoint itself")
    (tmp_path / "checkpoint").write_bytes(b"\xff\xfe")
    _refused(tmp_path, r"checkpoint: damaged; name the checkpoint itself")
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-9"\n')
    _refused(tmp_path, r"checkpoint: names \S*model\.ckpt-9, which is not there")
    (tmp_path / "checkpoint").unlink()
    for name in ("a.index", "b.index"):
        (tmp_path / name).touch()
    _refused(tmp_path, r": holds several checkpoints; name one of a, b$")


def test_checkpoint_of_tensorflow_2_is_named_as_such(tmp_path: Path) -> None:
    path = tf.train.Checkpoint(step=tf.Variable(1)).save(str(tmp_path / "ckpt"))
    _refused(Path(path), r"a TensorFlow 2 checkpoint of objects, as pseudoseg-train writes them")
    _refused(tmp_path, r"a TensorFlow 2 checkpoint of objects")


def test_damaged_files_change_nothing(prefix: str, tmp_path: Path) -> None:
    shutil.copytree(Path(prefix).parent, tmp_path / "copy")
    copy = tmp_path / "copy" / Path(prefix).name
    data = Path(f"{copy}.data-00000-of-00001")
    content = data.read_bytes()
    model = small_model()
    before = [variable.numpy() for variable in model.variables]
    for damaged in (content[: len(content) // 2], bytes(byte ^ 1 for byte in content), b""):
        data.write_bytes(damaged)
        with pytest.raises(
            UserError, match=r"^init\.weights: \S+: \S+ cannot be read, the data file is cut off"
        ) as error:
            load_initial_weights(model, str(copy), last_layers=True)
        assert "\n" not in str(error.value)
        with pytest.raises(UserError, match=r"^init\.weights: .* the data file is cut off or damaged"):
            check_initial_weights(model, str(copy))
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, new)
    data.unlink()
    _refused(copy, r"data-00000-of-00001: no such file; \S+\.index is of no use without it")
    (tmp_path / "copy" / f"{copy.name}.data-00001-of-00002").touch()
    _refused(copy, r"data-00000-of-00002: no such file")
    data.write_bytes(content)
    Path(f"{copy}.data-00001-of-00002").unlink()
    index = Path(f"{copy}.index")
    for damaged in (index.read_bytes()[:100], tf1.with_huge_index_block(index.read_bytes())):
        index.write_bytes(damaged)
        _refused(copy, r"not a TensorFlow 1 checkpoint, or a damaged one")


def test_an_existing_checkpoint_is_not_overwritten(
    model: PseudoSegModel, optimizer: Momentum, prefix: str, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in Path(prefix).parent.iterdir()}
    with pytest.raises(UserError, match=r"\.index: exists already; name another"):
        write_tf1_checkpoint(prefix, model, optimizer)
    with pytest.raises(UserError, match=r"\.index: names a file; give the prefix alone, such as \S+-30000$"):
        write_tf1_checkpoint(f"{prefix}.index", model, optimizer)
    with pytest.raises(UserError, match="a directory; name files in it, such as"):
        write_tf1_checkpoint(str(tmp_path), model, optimizer)
    assert {path: path.read_bytes() for path in Path(prefix).parent.iterdir()} == before
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_tf1_checkpoint(str(tmp_path / "file" / "model.ckpt"), model, optimizer)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_keras_names_are_for_mobilenet_alone() -> None:
    model = build_model(3, "resnet_v1_50_beta", aspp_channels=8, decoder_channels=8, attention_dim=8)
    with pytest.raises(UserError, match=r"mobilenet_v1 only; name a TensorFlow 1 checkpoint"):
        load_initial_weights(model, "weights.npz")
    with pytest.raises(UserError, match=r"^init\.weights: weights\.h5: no such file"):
        check_initial_weights(model, "weights.h5")
    assert check_initial_weights(model, "imagenet") == "first weights: downloaded, unless they are there"
