"""Export and Predictor: what the SavedModel computes, who can load it, and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import pseudoseg_tf
from pseudoseg_tf import config_io
from pseudoseg_tf.agreement import Agreement, compare_with_evaluation, images_within
from pseudoseg_tf.assembly import create_model
from pseudoseg_tf.checkpoint import restore_model
from pseudoseg_tf.data.decode import decode_image
from pseudoseg_tf.data.pipeline import evaluation_dataset
from pseudoseg_tf.data.sources import open_sources
from pseudoseg_tf.data.specs import DatasetInfo, voc_palette
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.evaluate import evaluate
from pseudoseg_tf.export import Format, export
from pseudoseg_tf.exported import load_exported
from pseudoseg_tf.files import read_json, write_json
from pseudoseg_tf.inference import Predictor, predict
from pseudoseg_tf.visualize import overlay, save_image
from tests.tiny import CLASS_NAMES, SIZES, STEP, make_run, random_images, resize_plainly

INFO = DatasetInfo(CLASS_NAMES, voc_palette(len(CLASS_NAMES)), "tiny")

ROOT = Path(__file__).resolve().parents[1]
EVAL_SIZE = (33, 49)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_run(tmp_path_factory.mktemp("export"), EVAL_SIZE)


@pytest.fixture(scope="module")
def exported(run_dir: str) -> Path:
    out = Path(run_dir, "deep", "model")
    found = export(run_dir, str(out), compare=0)
    assert (found.checkpoint, found.agreement) == (f"{run_dir}/checkpoints/best/ckpt-{STEP}", None)
    return out


@pytest.fixture(scope="module")
def predictor(exported: Path) -> Predictor:
    return Predictor(exported)


def test_export_writes_one_complete_directory(exported: Path) -> None:
    assert [path.name for path in exported.parent.iterdir()] == ["model"]
    info = json.loads((exported / "assets.extra" / "dataset.json").read_text())
    assert info["class_names"] == list(CLASS_NAMES)


def test_exported_model_equals_evaluation_at_any_size(run_dir: str, predictor: Predictor) -> None:
    config = config_io.load(run_dir)
    model = create_model(config, INFO)
    restore_model(run_dir, "best", model)
    for size in [*SIZES, (70, 20)]:
        images = random_images(2, *size)
        labels, probabilities = predict(model, tf.constant(images), EVAL_SIZE)
        found = predictor(images)
        np.testing.assert_allclose(found.probabilities, probabilities, atol=1e-5)
        sure = np.diff(np.sort(probabilities)[..., -2:])[..., 0] > 1e-4
        np.testing.assert_array_equal(found.labels[sure], labels.numpy()[sure])
        assert sure.mean() > 0.99


def test_exported_model_has_the_labels_of_evaluation_with_scales_and_flip(
    run_dir: str, tmp_path: Path
) -> None:
    options = {"scales": (0.5, 1.75), "flip": True}
    export(run_dir, str(tmp_path / "model"), **options, compare=0)
    model = create_model(config_io.load(run_dir), INFO)
    restore_model(run_dir, "best", model)
    predictor = Predictor(tmp_path / "model")

    # As in evaluation: compiled, and of images that are padded to the canvas already.
    @tf.function
    def evaluated(padded: tf.Tensor, sizes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return predict(model, padded, EVAL_SIZE, sizes, **options)

    for height, width in SIZES:
        image = random_images(1, height, width)
        padded = np.pad(image, [(0, 0), (0, 33 - height), (0, 49 - width), (0, 0)])
        labels, probabilities = evaluated(tf.constant(padded), tf.constant([[height, width]]))
        found = predictor(image)
        np.testing.assert_array_equal(found.labels, labels[:, :height, :width])
        np.testing.assert_allclose(found.probabilities, probabilities[:, :height, :width], atol=1e-5)
        mirrored = predictor(image[:, :, ::-1])
        np.testing.assert_array_equal(mirrored.probabilities, found.probabilities[:, :, ::-1])


def test_exported_model_is_used_without_this_package_as_documented(
    exported: Path, predictor: Predictor, tmp_path: Path
) -> None:
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports/model").symlink_to(exported)
    photo = tmp_path / "my/new/photo.jpg"
    photo.parent.mkdir(parents=True)
    Image.fromarray(random_images(1, 20, 30)[0]).save(photo)
    documented = (ROOT / "docs/predict.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", documented, re.DOTALL)
    without = """
import sys
for absent in ("pseudoseg_tf", "tf_keras", "keras", "orbit"):
    sys.modules[absent] = None
"""
    save = "np.savez('found.npz', labels=labels, probabilities=probabilities)"
    subprocess.run([sys.executable, "-c", without + example + save], check=True, cwd=tmp_path)
    expected = predictor(photo)
    with np.load(tmp_path / "found.npz", allow_pickle=False) as found:
        np.testing.assert_array_equal(found["labels"], expected.labels)
        assert found["labels"].dtype == np.uint8 and found["probabilities"].dtype == np.float32
        np.testing.assert_allclose(found["probabilities"], expected.probabilities, atol=1e-6)


def test_exported_model_leaves_out_what_only_training_needs(run_dir: str, exported: Path) -> None:
    weights = tf.train.load_checkpoint(str(exported / "variables" / "variables")).get_variable_to_shape_map()
    model = create_model(config_io.load(run_dir), INFO)
    needed = len(model.backbone.variables) + len(model.head.variables)
    assert sum(name.startswith("weights/") for name in weights) == needed < len(model.variables)


def test_export_refuses_a_directory_in_use_and_takes_an_empty_one(run_dir: str, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(UserError, match="used: exists already"):
        export(run_dir, str(tmp_path / "used"))
    with pytest.raises(UserError, match="file: exists already"):
        export(run_dir, str(tmp_path / "used" / "file"))
    (tmp_path / "empty").mkdir()
    assert export(run_dir, f"{tmp_path}/empty/", "last", compare=0).checkpoint.endswith(f"last/ckpt-{STEP}")
    assert (tmp_path / "empty" / "saved_model.pb").exists()


def test_a_failed_export_leaves_nothing(
    run_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=rf"found 'newest', allowed: last, best, .*last/ckpt-{STEP}$"):
        export(run_dir, str(tmp_path / "model"), "newest")
    with pytest.raises(UserError, match=r"^data.eval_scales: found '-1.0'"):
        export(run_dir, str(tmp_path / "model"), scales=[-1])

    def half_written(module: tf.Module, path: str, signatures: object) -> None:
        Path(path).mkdir()
        Path(path, "saved_model.pb").touch()
        raise OSError("no space left")

    monkeypatch.setattr(tf.saved_model, "save", half_written)
    with pytest.raises(OSError, match="no space"):
        export(run_dir, str(tmp_path / "model"), compare=0)
    assert not list(tmp_path.iterdir())


def test_predictor_takes_an_image_a_batch_or_a_path(predictor: Predictor, tmp_path: Path) -> None:
    assert predictor.info.class_names == CLASS_NAMES
    images = random_images(2, 20, 30)
    batch, single = predictor(images), predictor(images[1])
    assert batch.labels.shape == (2, 20, 30) and batch.labels.dtype == np.uint8
    assert batch.probabilities.shape == (2, 20, 30, 3) and batch.probabilities.dtype == np.float32
    assert single.labels.shape == (20, 30) and single.probabilities.shape == (20, 30, 3)
    np.testing.assert_allclose(single.probabilities, batch.probabilities[1], atol=1e-6)

    path = tmp_path / "image.png"
    save_image(path, images[1])
    for given in (path, str(path)):
        np.testing.assert_array_equal(predictor(given).probabilities, single.probabilities)


def test_predictor_of_a_run_equals_its_export_and_takes_other_values(
    run_dir: str, predictor: Predictor
) -> None:
    image = random_images(20, 30)
    of_run, exported = Predictor(run_dir, "best"), predictor(image)
    found = of_run(image)
    np.testing.assert_allclose(found.probabilities, exported.probabilities, atol=1e-5)
    np.testing.assert_array_equal(found.confidence, found.probabilities.max(-1))
    np.testing.assert_array_equal(found.overlay, overlay(image, found.labels, INFO.palette))
    assert found.overlay.shape == image.shape and (found.overlay != image).any()
    both = of_run(np.stack([image, image[::-1]]))
    first, second = both.split()
    np.testing.assert_array_equal(first.image, image)
    np.testing.assert_array_equal(second.labels, both.labels[1])

    windowed = Predictor(run_dir, window=(17, 17), overlap=0.5)
    model = create_model(config_io.load(run_dir), INFO)
    restore_model(run_dir, "best", model)
    _, expected = predict(model, tf.constant(image[None]), EVAL_SIZE, window=(17, 17), overlap=0.5)
    np.testing.assert_allclose(windowed(image).probabilities, expected[0], atol=1e-5)
    # The same weights, one prediction rule or another.
    assert of_run.fingerprint == Predictor(run_dir).fingerprint
    assert len({of_run.fingerprint, windowed.fingerprint, predictor.fingerprint}) == 3
    assert all(re.fullmatch("[0-9a-f]{64}", each.fingerprint) for each in (of_run, windowed, predictor))


def test_predictor_of_an_export_takes_no_values_of_a_run(exported: Path) -> None:
    for given in ({"checkpoint": "last"}, {"flip": True}, {"window": (17, 17)}):
        with pytest.raises(UserError, match=rf"^{next(iter(given))}: .*model is no run directory"):
            Predictor(exported, **given)


def test_exported_model_decodes_files_itself(exported: Path, predictor: Predictor) -> None:
    loaded = tf.saved_model.load(str(exported))
    encoded = loaded.signatures["encoded"]
    image = random_images(20, 30)
    smooth = np.asarray(Image.fromarray(image).resize((40, 24)))
    for picture, kind in ((image, "PNG"), (smooth, "JPEG")):
        content = io.BytesIO()
        Image.fromarray(picture).save(content, kind)
        found = encoded(encoded_images=tf.constant([content.getvalue()] * 2))
        expected = predictor(decode_image(content.getvalue(), "image"))
        assert found["labels"].shape == (2, *picture.shape[:2])
        # PNG says what the pixels are; two decoders of JPEG may round differently.
        tolerance = 1e-6 if kind == "PNG" else 0.05
        np.testing.assert_allclose(found["probabilities"][1], expected.probabilities, atol=tolerance)


def test_export_says_what_it_is_and_where_it_comes_from(run_dir: str, exported: Path) -> None:
    description = read_json(exported / "assets.extra" / "model.json")
    assert description == load_exported(exported).description
    config = Path(run_dir, "config.json").read_bytes()
    assert description["run"] == {
        "name": "run",
        "checkpoint": f"checkpoints/best/ckpt-{STEP}",
        "step": STEP,
        "backbone": "mobilenet_v1",
        "config_sha256": hashlib.sha256(config).hexdigest(),
    }
    assert description["format"] == "saved_model"
    assert description["pseudoseg_tf"] == pseudoseg_tf.__version__
    assert description["prediction"]["data.eval_size"] == list(EVAL_SIZE)


def test_tflite_predicts_what_evaluation_does_on_its_canvas(run_dir: str, tmp_path: Path) -> None:
    out = tmp_path / "model.tflite"
    # In a fresh process, on validation images that are not larger: four of five.
    found = export(run_dir, str(out), format="tflite", size=(33, 33), compare=9).agreement
    assert found is not None and found.images == 4
    assert found.largest_difference < 1e-4 and found.same_class > 0.99
    assert found.evaluated_miou == pytest.approx(found.miou, abs=0.01)
    assert [path.name for path in tmp_path.iterdir()] == ["model.tflite"]

    with zipfile.ZipFile(out) as archive:
        assert json.loads(archive.read("dataset.json"))["class_names"] == list(CLASS_NAMES)
        description = json.loads(archive.read("model.json"))
    assert description["format"] == "tflite" and description["input"]["largest_size"] == [33, 33]

    predictor = Predictor(out)
    assert predictor.info.class_names == CLASS_NAMES and predictor.info.palette == INFO.palette
    model = create_model(config_io.load(run_dir), INFO)
    restore_model(run_dir, "best", model)
    images = random_images(2, 20, 30)
    _, expected = predict(model, tf.constant(images), (33, 33))
    np.testing.assert_allclose(predictor(images).probabilities, expected, atol=1e-5)
    with pytest.raises(UserError, match=r"takes images of at most 33x33 \(height x width\), found 20x34"):
        predictor(random_images(20, 34))


@pytest.mark.parametrize(
    ("format", "out", "size"),
    [
        ("tflite", "model.tflite", (33, 49)),
        pytest.param("onnx", "model.onnx", None, marks=pytest.mark.slow),
    ],
)
def test_runs_of_sixteen_bits_are_exported_in_float32(
    run_dir: str, tmp_path: Path, format: Format, out: str, size: tuple[int, int] | None
) -> None:
    run = tmp_path / "run"
    shutil.copytree(run_dir, run)
    config = read_json(run / "config.json")
    config["config"]["runtime"]["precision"] = "bfloat16"
    write_json(run / "config.json", config)
    assert config_io.load(run).runtime.precision == "bfloat16"
    found = export(str(run), str(tmp_path / out), format=format, size=size, compare=2).agreement
    assert found is not None and found.largest_difference < 1e-4


def test_a_saved_model_of_another_precision(run_dir: str, tmp_path: Path) -> None:
    plain, short = tmp_path / "float32", tmp_path / "bfloat16"
    export(run_dir, str(plain), compare=0)
    found = export(run_dir, str(short), precision="bfloat16", compare=2).agreement
    assert found is not None and found.largest_difference < 1e-3
    for path, precision in ((plain, "float32"), (short, "bfloat16")):
        assert load_exported(path).description["prediction"]["runtime.precision"] == precision
    images = random_images(2, 20, 30)
    one, other = (Predictor(path)(images).probabilities for path in (plain, short))
    difference = np.abs(one - other).max()
    assert 1e-5 < difference < 0.05


@pytest.mark.parametrize(("name", "format"), [("model.onnx", "onnx"), ("model.tflite", "tflite")])
def test_a_saved_model_is_not_named_like_a_file(
    run_dir: str, tmp_path: Path, name: str, format: Format
) -> None:
    with pytest.raises(UserError, match=f"a directory; name another, or take --format={format}"):
        export(run_dir, str(tmp_path / name))
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_there_is_said_to_be_missing(run_dir: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.tflite: does not exist; give what"):
        load_exported(tmp_path / "absent.tflite")
    with pytest.raises(UserError, match=r"no saved_model\.pb here"):
        load_exported(tmp_path)
    (tmp_path / "config.json").write_bytes(Path(run_dir, "config.json").read_bytes())
    with pytest.raises(UserError, match=r"dataset\.json: missing, so the run directory is incomplete"):
        export(str(tmp_path), str(tmp_path / "out"), compare=0)


def test_precisions_that_a_format_has_not(run_dir: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--precision: found 'bfloat16', but onnx computes in float32"):
        export(run_dir, str(tmp_path / "model.onnx"), format="onnx", precision="bfloat16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "difference", "same_class"), [("tflite_float16", 0.5, 0.95), ("tflite_int8", 1.0, 0.8)]
)
def test_tflite_of_few_bits_stays_close(
    run_dir: str, tmp_path: Path, format: Format, difference: float, same_class: float
) -> None:
    out = str(tmp_path / "model.tflite")
    options = {"format": format, "size": (33, 49), "min_same_class": same_class, "calibration": 2}
    found = export(run_dir, out, **options).agreement
    assert found is not None and 1e-5 < found.largest_difference < difference
    assert same_class < found.same_class <= 1
    with pytest.raises(UserError, match=r"model\.tflite: exists already"):
        export(run_dir, out, **options)


@pytest.mark.slow
def test_onnx_predicts_what_evaluation_does(run_dir: str, tmp_path: Path) -> None:
    pytest.importorskip("tf2onnx")
    found = export(
        run_dir, str(tmp_path / "model.onnx"), format="onnx", scales=(0.5, 1.0), compare=9
    ).agreement
    assert found is not None and found.images == len(SIZES)
    assert found.largest_difference < 1e-4 and found.same_class > 0.999
    model = load_exported(tmp_path / "model.onnx")
    assert model.info.class_names == CLASS_NAMES
    assert model.description["prediction"]["data.eval_scales"] == [0.5, 1.0]


def test_an_export_unlike_evaluation_is_not_written(
    run_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worst = Agreement(3, 0.25, 0.95, 0.5, 0.6)
    # The package's attribute of that name is the function.
    module = importlib.import_module("pseudoseg_tf.export")
    monkeypatch.setattr(module, "compare_with_evaluation", lambda *_: worst)
    with pytest.raises(
        UserError, match=r"saved_model differs .* 95\.0000% .*mIoU 50\.00 \(evaluation 60\.00\)"
    ):
        export(run_dir, str(tmp_path / "model"))
    assert not list(tmp_path.iterdir())
    # Enough for who says so.
    module._check_agreement(worst, "saved_model", min_same_class=0.95)
    with pytest.raises(UserError, match=r"allowed: a difference of 1 and 95\.1%"):
        module._check_agreement(worst, "saved_model", min_same_class=0.951)


def test_a_network_without_finite_probabilities_is_not_exported(run_dir: str, tmp_path: Path) -> None:
    spoiled = tmp_path / "run"
    shutil.copytree(run_dir, spoiled)
    config, best = config_io.load(run_dir), spoiled / "checkpoints/best"
    model = create_model(config, INFO)
    model.head.decoder.logits.bias.assign(np.full(len(CLASS_NAMES), np.nan))
    saved = tf.train.Checkpoint(step=tf.Variable(STEP, dtype=tf.int64), model=model)
    tf.train.CheckpointManager(saved, str(best), max_to_keep=1).save(checkpoint_number=STEP)
    with pytest.raises(UserError, match=r"a probability is not finite, in the export or in evaluation"):
        export(str(spoiled), str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()


def test_a_checkpoint_cut_off_is_told(run_dir: str, tmp_path: Path) -> None:
    for path in Path(run_dir, "checkpoints/best").glob("ckpt-*"):
        shutil.copy(path, tmp_path)
    (data,) = tmp_path.glob("*.data-*")
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"ckpt-{STEP}: cannot be restored into this model"):
        export(run_dir, str(tmp_path / "model"), str(tmp_path / f"ckpt-{STEP}"), compare=0)


def test_a_fresh_process_that_cannot_load_the_export_is_named(run_dir: str, tmp_path: Path) -> None:
    config = config_io.load(run_dir)
    val = open_sources(config.data, "supervised").val
    with pytest.raises(UserError, match=r"absent: a fresh process cannot run it \(.*does not exist"):
        compare_with_evaluation(tmp_path / "absent", create_model(config, INFO), config.data, val)


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("model", {"format": "tf_lite"}, "--format: found 'tf_lite', must be one of saved_model, tflite,"),
        ("model", {"format": "onnx"}, "--out: found '.*model', must end in .onnx with --format=onnx"),
        ("model", {"size": (33, 33)}, "--size: saved_model takes images of any size"),
        ("m.tflite", {"format": "tflite", "size": (32, 33)}, "data.eval_size: found '32,33', must be 0,0"),
        ("m.tflite", {"format": "tflite", "window": (17, 17)}, "--window: tflite has no sliding windows"),
        ("m.onnx", {"format": "onnx", "flip": True}, "--flip: onnx has no mirrored passes"),
        ("m.tflite", {"format": "tflite", "size": (17, 17)}, "--size: all 5 validation images are larger"),
    ],
)
def test_export_refuses_what_a_format_cannot_do(
    run_dir: str, tmp_path: Path, out: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        export(run_dir, str(tmp_path / out), **options)
    assert not list(tmp_path.iterdir())


def test_export_without_the_data_says_how(run_dir: str, tmp_path: Path) -> None:
    moved = tmp_path / "run"
    shutil.copytree(run_dir, moved)
    written = read_json(moved / "config.json")
    written["config"]["data"]["images"] = str(tmp_path / "absent")
    write_json(moved / "config.json", written)
    with pytest.raises(UserError, match=r"absent is not a folder.*\(--compare=0 exports without comparing\)"):
        export(str(moved), str(tmp_path / "model"))


def test_images_to_compare_on_are_spread_and_small_enough(run_dir: str) -> None:
    data = config_io.load(run_dir).data
    val = open_sources(data, "supervised").val
    small = images_within(val, dataclasses.replace(data, eval_size=(33, 33)), 9)
    assert small.ids == ("1", "2", "4", "5")
    assert len(images_within(val, dataclasses.replace(data, eval_size=(0, 0)), 3)) == 3


def test_predictor_states_what_it_needs(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="uint8 values from 0 to 255, found float32"):
        predictor(np.zeros([4, 4, 3], np.float32))
    for shape in ([4, 4], [4, 4, 4], [1, 1, 4, 4, 3], [0, 4, 4, 3], [4, 0, 3]):
        with pytest.raises(ValueError, match=r"\[height, width, 3\].*found \["):
            predictor(np.zeros(shape, np.uint8))
    with pytest.raises(UserError, match=r"absent\.png: cannot be read"):
        predictor(tmp_path / "absent.png")
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"text\.jpg: neither a JPEG nor a PNG"):
        predictor(tmp_path / "text.jpg")


def test_predictor_refuses_other_directories(exported: Path, run_dir: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no saved_model\.pb here"):
        Predictor(Path(run_dir).parent)
    (tmp_path / "saved_model.pb").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"dataset\.json: cannot be read"):
        Predictor(tmp_path)
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra" / "dataset.json").write_bytes(
        (exported / "assets.extra" / "dataset.json").read_bytes()
    )
    with pytest.raises(UserError, match="cannot be loaded"):
        Predictor(tmp_path)


def test_exported_model_resizes_as_evaluation_does(run_dir: str, tmp_path: Path) -> None:
    resized_run = tmp_path / "run"
    shutil.copytree(run_dir, resized_run)
    written = read_json(resized_run / "config.json")
    written["config"]["data"] |= {"min_resize": 20, "max_resize": 33, "resize_factor": 8}
    write_json(resized_run / "config.json", written)
    config = config_io.load(resized_run)
    model = create_model(config, INFO)
    restore_model(str(resized_run), "best", model)
    exported = export(str(resized_run), str(tmp_path / "model"), compare=2)
    # On images that evaluation sees resized, and compared at their own size.
    assert exported.agreement is not None and exported.agreement.images == 2
    assert exported.agreement.largest_difference < 1e-5 and exported.agreement.same_class > 0.999
    predictor = Predictor(tmp_path / "model")

    val = open_sources(config.data, "supervised").val
    dataset = evaluation_dataset(val, dataclasses.replace(config.data, eval_batch=1))
    for index, batch in enumerate(dataset):
        _, evaluated = predict(model, batch["image"], EVAL_SIZE, batch["size"])
        height, width = batch["size"][0].numpy()
        assert height % 8 == width % 8 == 1
        # Evaluation resizes the labels, too; a user has none and wants the image's own size.
        expected = resize_plainly(evaluated[:, :height, :width].numpy(), SIZES[index])[0]
        found = predictor(decode_image(val.read(index).image, "image"))
        np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
        np.testing.assert_array_equal(found.labels, np.argmax(found.probabilities, -1))
    assert evaluate(str(resized_run), "best")["images"] == len(SIZES)

    for file, format in (("m.onnx", "onnx"), ("m.tflite", "tflite")):
        with pytest.raises(UserError, match=f"data.min_resize: {format} has no resizing of its input"):
            export(str(resized_run), str(tmp_path / file), format=format)
        assert not (tmp_path / file).exists()
