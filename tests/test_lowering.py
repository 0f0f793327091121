"""Training as StableHLO: what the other machine is given, and what becomes of what it gives back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.lowered_records import collect
from benchmarks.lowering import configuration, draw_examples, lower, make_state, recorded
from pseudoseg_tf import config_io
from pseudoseg_tf.assembly import create_strategy
from pseudoseg_tf.comparison import Run, last_and_best, read_lines
from pseudoseg_tf.data import pipeline
from pseudoseg_tf.data.geometry import GeometryDraws, weak_view
from pseudoseg_tf.data.sources import open_sources
from pseudoseg_tf.evaluate import evaluate
from pseudoseg_tf.presets import preset
from tests.folder import draw_folder, small_config


@pytest.fixture
def run(tmp_path: Path) -> Run:
    draw_folder(tmp_path / "data")
    default = config_io.flatten(preset("folder"))
    wanted = config_io.flatten(small_config(tmp_path / "data", steps=4))
    changed = {key: value for key, value in wanted.items() if value != default[key]}
    return Run("unlabeled", 3, "folder", tuple(f"{key}={config_io.as_text(v)}" for key, v in changed.items()))


def test_views_of_the_draws_are_those_of_the_pipeline(run: Run) -> None:
    config = configuration(run)
    sources = open_sources(config.data, config.train.mode)
    batches = pipeline.training_dataset(sources, config.data, "unlabeled", 0).take(4).as_numpy_iterator()
    draws = {
        name: draw_examples(source, config.data, name, 4)
        for name, source in (("labeled", sources.labeled), ("unlabeled", sources.unlabeled))
    }
    for step, batch in enumerate(batches):
        for name, source in (("labeled", sources.labeled), ("unlabeled", sources.unlabeled)):
            drawn = {key: value[step] for key, value in draws[name].items()}
            ids = [source.ids[index] for index in drawn["record"]]
            assert ids == pipeline.example_ids(source, config.data, name, step)
            for position, index in enumerate(drawn["record"]):
                image, labels, _ = pipeline._decoded(source, int(index), pipeline.decoder("none"))
                geometry = GeometryDraws(*(drawn[key][position] for key in GeometryDraws._fields))
                view, mask, valid = weak_view(image, labels, geometry, config.data.crop_size)
                np.testing.assert_array_equal(view, batch[name]["image"][position])
                np.testing.assert_array_equal(mask, batch[name]["labels"][position])
                np.testing.assert_array_equal(valid, batch[name]["valid"][position])
            for key in {"jitter", "order", "cutout_center"} & drawn.keys():
                np.testing.assert_array_equal(drawn[key], batch[name][key])


def test_recorded_lists_the_variables_in_order() -> None:
    with recorded() as made:
        first, second = tf.Variable(1.0), tf.Variable([2.0])
    tf.Variable(3.0)
    assert [each is variable for each, variable in zip(made, (first, second), strict=True)] == [True, True]


def test_what_comes_back_becomes_a_run(run: Run, tmp_path: Path) -> None:
    config = configuration(run)
    sources = open_sources(config.data, config.train.mode)
    state, trainer, model, _ = make_state(config, sources, create_strategy(config.runtime))
    assert {id(variable) for variable in model.variables} <= {id(variable) for variable in state}
    names = trainer.interval_variables
    assert set(names) >= {"steps", "loss/total", "loss/consistency"}
    members = [index for index, each in enumerate(state) if each is model.variables[0]]
    value = np.full(model.variables[0].shape, 0.25, np.float32)
    back = tmp_path / "back"
    back.mkdir()
    np.savez(back / "model-0.npz", **{str(members[0]): value})

    confusion = np.diag([6, 0, 2])
    confusion[0, 1] = 2
    bins = np.zeros([15, 3])
    bins[14] = 10, 8, 9.5
    sums = {"steps": 2, "loss/total": 5.0, "pseudo/confusion": confusion.tolist()}
    sums["pseudo/calibration_sums"] = bins.tolist()
    evaluation = {"confusion": confusion.tolist(), "calibration": bins.tolist(), "images": 2}
    entry = {"step": 4, "seconds_per_step": 0.1, "sums": sums, "evaluation": evaluation}
    head = {"device": "some device", "peak_device_mb": 7.4}
    written = {"config": config_io.to_dict(config), "preset": run.preset}
    out = tmp_path / "made"
    assert collect(written, [head, entry], back, out) == 4

    last, _ = last_and_best(out)
    assert last["miou"] == pytest.approx((6 / 8 + 0 / 2 + 2 / 2) / 3)
    assert last["ece"] == pytest.approx(0.15)
    (line,) = read_lines(out / "training.jsonl")
    assert line["loss/total"] == 2.5 and line["pseudo/pixel_accuracy"] == 0.8 and line["step"] == 4
    assert json.loads((out / "device.json").read_text()) == head
    assert evaluate(str(out))["step"] == 4


@pytest.mark.slow
def test_a_row_is_lowered_once_for_all_seeds(run: Run, tmp_path: Path) -> None:
    runs = [run, Run(run.row, 4, run.preset, run.overrides)]
    lower(runs, tmp_path / "lowered")
    (program,) = (tmp_path / "lowered" / "programs").iterdir()
    described = json.loads((program / "program.json").read_text())
    assert (program / "step.stablehlo").read_bytes()[:4] == b"ML\xefR"
    (evaluation,) = (tmp_path / "lowered" / "evaluations").iterdir()
    canvases = json.loads((evaluation / "evaluation.json").read_text())
    assert {(evaluation / name).read_bytes()[:4] for name in canvases} == {b"ML\xefR"}
    states = []
    for each in runs:
        files = json.loads((tmp_path / "lowered/runs" / f"{each.row}-seed{each.seed}/run.json").read_text())[
            "files"
        ]
        assert len(files["state"]) == len(described["state"])
        arrays = {
            key: np.load(tmp_path / "lowered/arrays" / name, allow_pickle=False)["value"]
            for key, name in files["state"].items()
        }
        for index, (shape, dtype) in enumerate(described["state"]):
            assert list(arrays[str(index)].shape) == shape and arrays[str(index)].dtype == dtype
        states.append(arrays)
    differing = [key for key in states[0] if not np.array_equal(states[0][key], states[1][key])]
    assert differing and all(int(index) not in described["interval"].values() for index in differing)
