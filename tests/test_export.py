"""Export and Predictor: what the SavedModel computes, who can load it, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pseudoseg_tf import config_io
from pseudoseg_tf.checkpoint import restore_model
from pseudoseg_tf.data.decode import decode_image
from pseudoseg_tf.data.pipeline import evaluation_dataset
from pseudoseg_tf.data.sources import open_sources
from pseudoseg_tf.data.specs import DatasetInfo, voc_palette
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.evaluate import evaluate
from pseudoseg_tf.export import export
from pseudoseg_tf.files import read_json, write_json
from pseudoseg_tf.inference import Predictor, predict
from pseudoseg_tf.train import create_model
from pseudoseg_tf.visualize import save_image
from tests.tiny import CLASS_NAMES, SIZES, STEP, make_run, random_images, resize_plainly

INFO = DatasetInfo(CLASS_NAMES, voc_palette(len(CLASS_NAMES)), "tiny")

EVAL_SIZE = (33, 49)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_run(tmp_path_factory.mktemp("export"), EVAL_SIZE)


@pytest.fixture(scope="module")
def exported(run_dir: str) -> Path:
    out = Path(run_dir, "deep", "model")
    assert export(run_dir, str(out)).endswith(f"best/ckpt-{STEP}")
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
    export(run_dir, str(tmp_path / "model"), **options)
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


def test_exported_model_loads_without_this_package(
    exported: Path, predictor: Predictor, tmp_path: Path
) -> None:
    images = random_images(2, 20, 30)
    np.save(tmp_path / "images.npy", images)
    program = """
import sys
for absent in ("pseudoseg_tf", "tf_keras", "keras", "orbit"):
    sys.modules[absent] = None
import numpy as np, tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
output = serve(images=tf.constant(np.load(sys.argv[2] + "/images.npy", allow_pickle=False)))
assert output["labels"].dtype == tf.uint8 and output["probabilities"].dtype == tf.float32
np.save(sys.argv[2] + "/probabilities.npy", output["probabilities"])
"""
    subprocess.run([sys.executable, "-c", program, exported, tmp_path], check=True, cwd=tmp_path)
    np.testing.assert_allclose(
        np.load(tmp_path / "probabilities.npy", allow_pickle=False),
        predictor(images).probabilities,
        atol=1e-6,
    )


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
    assert export(run_dir, f"{tmp_path}/empty/", "last").endswith(f"last/ckpt-{STEP}")
    assert (tmp_path / "empty" / "saved_model.pb").exists()


def test_a_failed_export_leaves_nothing(
    run_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="found 'newest', allowed: last, best"):
        export(run_dir, str(tmp_path / "model"), "newest")
    with pytest.raises(UserError, match=r"^data.eval_scales: found '-1.0'"):
        export(run_dir, str(tmp_path / "model"), scales=[-1])

    def half_written(module: tf.Module, path: str, signatures: object) -> None:
        Path(path).mkdir()
        Path(path, "saved_model.pb").touch()
        raise OSError("no space left")

    monkeypatch.setattr(tf.saved_model, "save", half_written)
    with pytest.raises(OSError, match="no space"):
        export(run_dir, str(tmp_path / "model"))
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
    for path in (run_dir, tmp_path / "absent"):
        with pytest.raises(UserError, match=r"no saved_model\.pb here"):
            Predictor(path)
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
    export(str(resized_run), str(tmp_path / "model"))
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
