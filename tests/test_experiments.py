"""The experiments as data: what each states can be run, under every budget, and the table of all is up to date."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from pseudoseg_tf import budgets
from pseudoseg_tf.budgets import configuration, full, on_cpu, run_of, smoke
from pseudoseg_tf.config_io import flatten
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.experiment_catalog import experiment_names, load_experiment, rows_of
from pseudoseg_tf.experiment_report import overview
from pseudoseg_tf.experiments.definition import Experiment, Row
from pseudoseg_tf.folder_comparison import TooFewImagesError, draw_lists

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = {name: load_experiment(name) for name in experiment_names()}
ROWS = [(name, row) for name, experiment in EXPERIMENTS.items() for row in experiment.rows]


def ids(value: object) -> str:
    return value.name if isinstance(value, Row) else str(value)


def smoke_configuration(name: str, row: Row) -> dict:
    return flatten(configuration(row, smoke(row, EXPERIMENTS[name])))


def test_every_file_is_an_experiment() -> None:
    files = {path.stem for path in (ROOT / "experiments").glob("*.py")}
    assert set(experiment_names()) == files - {"__init__", "definition"}
    assert experiment_names()[:2] == ["table01", "table02"]
    assert all(isinstance(experiment, Experiment) for experiment in EXPERIMENTS.values())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_rows_have_names_of_their_own_and_sources(name: str) -> None:
    experiment = EXPERIMENTS[name]
    names = [row.name for row in experiment.rows]
    assert len(set(names)) == len(names) > 0
    assert not any(re.search(r"[\s,]", row_name) for row_name in names)
    assert experiment.sources
    assert set(experiment.varies) <= set(
        flatten(configuration(experiment.rows[0], experiment.rows[0].overrides))
    )


@pytest.mark.parametrize(("name", "row"), ROWS, ids=ids)
def test_the_paper_s_configuration_is_valid(name: str, row: Row) -> None:
    config = configuration(row, full(row))
    assert config.train.steps == {"table07": 90000}.get(name, 200000 if row.preset == "coco" else 30000)
    assert (config.data.batch_labeled, config.data.batch_unlabeled) == (64, 64)
    assert config.init.weights.startswith("zoo/")
    assert row.paper is None or 0 < row.paper < 100
    assert configuration(row, full(row, accumulate=8)).train.accumulate == 8


@pytest.mark.parametrize(("name", "row"), ROWS, ids=ids)
def test_smoke_is_tiny_and_keeps_what_the_row_varies(name: str, row: Row) -> None:
    experiment = EXPERIMENTS[name]
    paper, small = flatten(configuration(row, full(row))), smoke_configuration(name, row)
    assert small["train.steps"] == 2
    assert small["data.crop_size"] == [33, 33] or small["data.crop_size"] == (33, 33)
    assert small["data.name"] == "shapes_seg"
    assert small["init.weights"] == ""
    for key in {*experiment.varies, "train.mode", "pseudo.gamma", "pseudo.normalize"}:
        assert small[key] == paper[key], key


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if EXPERIMENTS[name].varies])
def test_rows_of_an_ablation_differ_under_smoke(name: str) -> None:
    experiment = EXPERIMENTS[name]
    by_row = {row.name: smoke_configuration(name, row) for row in experiment.rows}
    for key in experiment.varies:
        if key not in ("model.multi_grid", "pseudo.gamma"):
            wanted = {str(flatten(configuration(row, full(row)))[key]) for row in experiment.rows}
            assert len({str(values[key]) for values in by_row.values()}) == len(wanted) > 1


def test_numbers_of_the_paper() -> None:
    """Those whose source is an author, digit by digit."""
    paper = {row.name: row.paper for row in EXPERIMENTS["fig03"].rows}
    splits = ("1_32", "1_64", "1_128", "1_256", "1_512")
    assert [paper[f"coco-supervised-{split}"] for split in splits] == [42.24, 37.8, 33.6, 27.96, 22.94]
    assert [paper[f"coco-unlabeled-{split}"] for split in splits] == [43.64, 41.75, 39.11, 37.11, 29.78]
    assert {row.name: row.paper for row in EXPERIMENTS["table05"].rows}["fused-1_4"] == 73.79
    assert EXPERIMENTS["table01"].rows[1].paper == 73.23


def test_equal_configurations_are_one_run() -> None:
    figure, table = EXPERIMENTS["fig03"], EXPERIMENTS["table05"]
    in_figure = next(row for row in figure.rows if row.name == "voc-unlabeled-1_16/1")
    in_table = next(row for row in table.rows if row.name == "fused-1_16/1")
    other = next(row for row in table.rows if row.name == "sgc-1_16/1")
    assert run_of(in_figure, full(in_figure), 0).row == run_of(in_table, full(in_table), 0).row
    assert run_of(other, full(other), 0).row != run_of(in_table, full(in_table), 0).row
    assert run_of(in_table, full(in_table), 0).row.startswith("unlabeled-1_16-1-")


def test_names_of_runs_go_by_what_is_not_the_default() -> None:
    row = EXPERIMENTS["fig05d"].rows[0]
    name = run_of(row, full(row), 0).row
    assert run_of(row, (*full(row), "train.keep=2", "runtime.input_servers="), 0).row == name
    assert run_of(row, (*full(row), "train.keep=3"), 0).row != name


def test_self_training_is_no_supervised_run() -> None:
    rows = {row.name: row for row in EXPERIMENTS["table06"].rows}
    runs = {name: run_of(row, smoke(row, EXPERIMENTS["table06"]), 0) for name, row in rows.items()}
    assert runs["supervised"].program == "train"
    assert runs["self-training"].program == "self_train"
    assert runs["self-training"].row.startswith("self_train-")
    assert runs["self-training"].scored("out") == runs["self-training"].directory("out") / "student"
    assert runs["supervised"].scored("out") == runs["supervised"].directory("out")


def test_zoo_elsewhere() -> None:
    row = EXPERIMENTS["table01"].rows[1]
    assert "init.weights=/weights/zoo/resnet_v1_101/model.ckpt" in full(row, "/weights/zoo")
    assert len(full(row, "/weights/zoo")) == len(row.overrides)


def test_another_backbone_brings_all_that_is_its_own() -> None:
    resnet = EXPERIMENTS["table01"].rows[0]
    network = configuration(resnet, full(resnet, "w", backbone="xception_65"))
    assert network.model.backbone == "xception_65" and network.model.multi_grid == (1, 1, 1)
    assert network.init.weights == "w/xception_65/model.ckpt" and network.train.weight_decay == 4e-5
    xception = EXPERIMENTS["fig05d"].rows[0]
    assert configuration(xception, full(xception, backbone="xception_65")) == configuration(
        xception, full(xception)
    )


def test_rows_by_name() -> None:
    experiment = EXPERIMENTS["fig05d"]
    assert [row.name for row in rows_of(experiment, ["T-0.7", "T-0.1"])] == ["T-0.1", "T-0.7"]
    assert rows_of(experiment, []) == experiment.rows
    with pytest.raises(UserError, match=r"--only: found 'T-0.6'; nearest: T-0"):
        rows_of(experiment, ["T-0.6"])


def test_unknown_experiment_names_the_nearest() -> None:
    with pytest.raises(UserError, match="experiment 'table5': unknown; nearest: table05; known: table01"):
        load_experiment("table5")


def test_readme_is_up_to_date() -> None:
    written = (ROOT / "experiments/README.md").read_text(encoding="utf-8")
    assert written == overview(EXPERIMENTS.items()) + "\n", (
        "pseudoseg-experiment overview > experiments/README.md"
    )


def test_readme_says_not_run_where_there_is_no_result() -> None:
    text = overview([("fig03", EXPERIMENTS["fig03"])])
    assert "| coco-supervised-1_32 | 42.24 | not run |" in text
    assert "| voc-supervised-1_2 | unknown | not run |" in text
    ran = Experiment("T", (Row("r", "voc12", (), paper=1.0, ours=2.345),), (), ("s",))
    assert "| r | 1.00 | 2.35 | `pseudoseg-experiment run t --only=r --budget=full` |" in overview(
        [("t", ran)]
    )


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """A folder of 40 training images of two classes and four more."""
    import numpy as np
    from PIL import Image

    (tmp_path / "masks").mkdir()
    for index in range(40):
        mask = np.zeros((8, 8), np.uint8)
        mask[:4] = 1 + index % 2
        mask[0, 0] = 255
        Image.fromarray(mask).save(tmp_path / f"masks/{index}.png")
    lists = {"train": range(40), "val": range(44, 46), "aug_extra": range(40, 44)}
    for name, numbers in lists.items():
        (tmp_path / f"{name}.txt").write_text("".join(f"{number}\n" for number in numbers))
    (tmp_path / "classes.txt").write_text("background\ncat\ndog\n")
    return tmp_path


def on_animals(row: Row, name: str, animals: Path) -> tuple[str, ...]:
    return on_cpu(row, EXPERIMENTS[name], animals, animals / "lists", "w.npz", steps=10, evaluations=2)


def test_cpu_budget_labels_the_same_part_of_the_folder(animals: Path) -> None:
    rows = {row.name: row for row in EXPERIMENTS["fig03"].rows}
    config = configuration(rows["voc-unlabeled-1_4"], on_animals(rows["voc-unlabeled-1_4"], "fig03", animals))
    labeled = Path(config.data.labeled).read_text().split()
    unlabeled = Path(config.data.unlabeled).read_text().split()
    assert Path(config.data.labeled) == animals / "lists/1_4/labeled.txt"
    assert len(labeled) == 10 and len(unlabeled) == 34
    assert sorted({*labeled, *unlabeled}, key=int) == [str(number) for number in range(44)]
    assert (config.data.source, config.train.steps, config.train.evaluate_every) == ("folder", 10, 5)
    assert (config.model.backbone, config.init.weights) == ("mobilenet_v1", "w.npz")


def test_cpu_budget_draws_differ_and_repeat(animals: Path) -> None:
    drawn = []
    for draw in (1, 2, 2):
        row = next(row for row in EXPERIMENTS["table08"].rows if row.name == f"unlabeled-1_16/{draw}")
        drawn.append(Path(configuration(row, on_animals(row, "table08", animals)).data.labeled).read_text())
    assert drawn[0] != drawn[1] == drawn[2]


def test_cpu_budget_keeps_what_is_compared(animals: Path) -> None:
    for name, row_name, key, value in (
        ("cutout", "half-side-50", "data.cutout", 50),
        ("fig05d", "T-0.1", "pseudo.temperature", 0.1),
        ("fig05f", "supervised-resnet50", "model.backbone", "resnet_v1_50_beta"),
    ):
        row = next(row for row in EXPERIMENTS[name].rows if row.name == row_name)
        assert flatten(configuration(row, on_animals(row, name, animals)))[key] == value


def test_additional_images_may_be_all_there_are(animals: Path) -> None:
    """Those of the training list are in the lists once."""
    row = next(row for row in EXPERIMENTS["table08"].rows if row.name == "unlabeled-1_16/1")
    before = Path(configuration(row, on_animals(row, "table08", animals)).data.unlabeled).read_text()
    (animals / "aug_extra.txt").write_text("".join(f"{number}\n" for number in range(44)))
    budgets._lists.cache_clear()
    assert Path(configuration(row, on_animals(row, "table08", animals)).data.unlabeled).read_text() == before


def test_lists_of_file_names_draw_the_same(animals: Path) -> None:
    row = next(row for row in EXPERIMENTS["table08"].rows if row.name == "unlabeled-1_16/1")
    drawn = Path(configuration(row, on_animals(row, "table08", animals)).data.labeled).read_text().split()
    named = animals / "named"
    named.mkdir()
    for name in ("masks", "classes.txt", "val.txt", "aug_extra.txt"):
        (named / name).symlink_to(animals / name)
    (named / "train.txt").write_text("".join(f"{number}.jpg\n" for number in range(40)))
    again = Path(configuration(row, on_animals(row, "table08", named)).data.labeled).read_text().split()
    assert again == [f"{record_id}.jpg" for record_id in drawn]


def test_lists_of_earlier_runs_are_not_replaced(animals: Path) -> None:
    row = next(row for row in EXPERIMENTS["table08"].rows if row.name == "unlabeled-1_16/1")
    on_animals(row, "table08", animals)
    (animals / "train.txt").write_text("".join(f"{number}\n" for number in reversed(range(40))))
    budgets._lists.cache_clear()
    with pytest.raises(UserError, match=r"labeled.txt: runs here had other lists than .* gives now; take"):
        on_animals(row, "table08", animals)


def test_cpu_budget_says_how_many_images_it_takes(animals: Path) -> None:
    (animals / "train.txt").write_text("".join(f"{number}\n" for number in range(9)))
    row = next(row for row in EXPERIMENTS["table08"].rows if row.name == "unlabeled-1_16/1")
    with pytest.raises(
        TooFewImagesError, match=r"train.txt: 9 images are too few to draw 1/16 of them; it takes 16$"
    ):
        on_animals(row, "table08", animals)


def test_cpu_budget_refuses_a_split_that_the_folder_is_too_small_for(animals: Path) -> None:
    row = next(row for row in EXPERIMENTS["fig03"].rows if row.name == "coco-supervised-1_512")
    with pytest.raises(TooFewImagesError, match=r"--data: .*train.txt: 40 images are too few to draw 1/512"):
        on_animals(row, "fig03", animals)


@pytest.mark.needs_shared
def test_lists_of_the_learning_curve_stay_as_they_were(shared_dir: Path, tmp_path: Path) -> None:
    """benchmarks/RESULTS.md was measured with these."""
    frequent = ("background", "cat", "cow", "dog", "horse", "person", "sheep")
    draw_lists(shared_dir / "data/voc12_subset", tmp_path, 8, frequent=frequent)
    sums = {
        "labeled": "d2f5afb5835e9199772c486930d8ea21ed9b635ecd54095336cf81a60fc90647",
        "unlabeled": "36b826aa59c8191fcb08da676e318b38f06ed0dfdb2f61769ef39d9eb11b5377",
    }
    for name, expected in sums.items():
        assert hashlib.sha256((tmp_path / f"{name}.txt").read_bytes()).hexdigest() == expected


def test_draw_refuses_a_class_that_is_not_there(animals: Path) -> None:
    with pytest.raises(UserError, match="does not name 'horse', which each draw must show"):
        draw_lists(animals, animals / "lists", 2, frequent=("cat", "horse"))


def test_cpu_budget_needs_a_mask_of_every_training_image(animals: Path) -> None:
    (animals / "masks/7.png").unlink()
    row = EXPERIMENTS["gamma"].rows[0]
    with pytest.raises(UserError, match=r"--data: .*7\.png cannot be read"):
        on_animals(row, "gamma", animals)
