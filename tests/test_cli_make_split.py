"""pseudoseg-make-split as a user meets it: lists, report, mistakes."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pseudoseg_tf.config import DataConfig
from pseudoseg_tf.data.class_counts import count_pixels, table
from pseudoseg_tf.data.sources import open_labeled
from pseudoseg_tf.data.splits import class_balanced_draw, read_ids

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("background", "cat", "dog", "cow")


def make_split(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pseudoseg_tf.cli.make_split", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """20 masks of 4x5: every third shows two pixels of cat, every fifth three of dog; none shows a cow."""
    root = tmp_path_factory.mktemp("data")
    for name in ("images", "masks"):
        (root / name).mkdir()
    for number in range(20):
        mask = np.zeros((4, 5), np.uint8)
        mask[0, :2] = 1 if number % 3 == 0 else 0
        mask[1, :3] = 2 if number % 5 == 0 else 0
        mask[3] = 255
        Image.fromarray(mask).save(root / f"masks/p{number:02}.png")
        Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(root / f"images/p{number:02}.png")
    (root / "classes.txt").write_text("\n".join(NAMES))
    (root / "all.txt").write_text("".join(f"p{number:02}.png\n" for number in range(20)))
    return DataConfig(
        images=str(root / "images"),
        masks=str(root / "masks"),
        classes=str(root / "classes.txt"),
        labeled=str(root / "all.txt"),
    )


def overrides(data: DataConfig) -> list[str]:
    return [f"--set=data.{name}={getattr(data, name)}" for name in ("images", "masks", "classes", "labeled")]


class TestCounts:
    def test_pixels_of_each_record(self, data: DataConfig) -> None:
        pixels = count_pixels(open_labeled(data))
        assert pixels.dtype == np.int64
        # Of the 20 pixels 5 are ignored.
        assert pixels[:6].tolist() == [
            [10, 2, 3, 0],
            [15, 0, 0, 0],
            [15, 0, 0, 0],
            [13, 2, 0, 0],
            [15, 0, 0, 0],
            [12, 0, 3, 0],
        ]
        assert pixels.sum(axis=0).tolist() == [20 * 15 - 14 - 12, 14, 12, 0]

    def test_table(self) -> None:
        pool = np.array([[1000, 0], [2000, 7]])
        assert table(("sky", "a boat"), {"pool of 2": pool, "mine_1: 1": pool[:1]}).split("\n") == [
            "              pool of 2        mine_1: 1",
            "class    images  pixels   images  pixels",
            "sky           2   3,000        1   1,000",
            "a boat        1       7        0       0",
        ]

    def test_long_headings(self) -> None:
        assert table(("sky",), {"of many images: 1": np.array([[1]]), "x": np.array([[0]])}).split("\n") == [
            "        of many images: 1                x",
            "class   images     pixels   images  pixels",
            "sky          1          1        0       0",
        ]


class TestDraws:
    def test_lists_and_report(self, data: DataConfig, tmp_path: Path) -> None:
        done = make_split(
            *overrides(data),
            "--ratio=3/10",
            "--min_images_per_class=2",
            "--seed=5",
            f"--out={tmp_path}/new/mine",
        )
        assert (done.returncode, done.stderr) == (0, "")
        pool = open_labeled(data)
        pixels = count_pixels(pool)
        shown = {i: set(np.flatnonzero(row)) for i, row in zip(pool.ids, pixels, strict=True)}
        columns = {"pool of 20": pixels}
        for number, seed in enumerate((5, 6, 7), 1):
            ids = read_ids(tmp_path / f"new/mine_{number}.txt", "--out")
            assert ids == class_balanced_draw(pool.ids, shown, 6, seed, 2)
            assert all(sum(c in shown[i] for i in ids) >= 2 for c in (0, 1, 2))
            columns[f"mine_{number}: 6"] = pixels[[pool.ids.index(i) for i in ids]]
        lines = [f"{tmp_path}/new/mine_{k}.txt: 6 of 20 ids, seed {k + 4}\n" for k in (1, 2, 3)]
        assert done.stdout == table(NAMES, columns) + "\n" + "".join(lines)
        assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
            "mine_1.txt",
            "mine_2.txt",
            "mine_3.txt",
        ]

    def test_part_of_the_pool_is_rounded_up(self, data: DataConfig, tmp_path: Path) -> None:
        done = make_split(
            *overrides(data), "--ratio=1/7", "--draws=1", "--classes=cat", f"--out={tmp_path}/x"
        )
        assert done.returncode == 0
        assert len(read_ids(tmp_path / "x_1.txt", "--out")) == 3

    def test_only_the_classes_asked_for(self, data: DataConfig, tmp_path: Path) -> None:
        flags = [*overrides(data), "--count=2", "--draws=20", f"--out={tmp_path}/x"]
        assert make_split(*flags, "--min_images_per_class=2", "--classes=cat").returncode == 0
        cats = {f"p{number:02}" for number in range(0, 20, 3)}
        lists = [read_ids(tmp_path / f"x_{number}.txt", "--out") for number in range(1, 21)]
        assert all(set(ids) <= cats for ids in lists)
        # Not all of them have p00 or p15, which show dogs.
        assert not all(set(ids) & {"p00", "p15"} for ids in lists)

    def test_lists_that_are_there(self, data: DataConfig, tmp_path: Path) -> None:
        (tmp_path / "x_2.txt").write_text("mine\n")
        flags = [*overrides(data), "--count=8", f"--out={tmp_path}/x"]
        done = make_split(*flags)
        assert done.returncode == 2
        assert (
            done.stderr
            == f"error: --out: {tmp_path}/x_2.txt is there already; take another name, or give --overwrite\n"
        )
        assert [path.name for path in tmp_path.iterdir()] == ["x_2.txt"]
        assert make_split(*flags, "--overwrite").returncode == 0
        assert len(read_ids(tmp_path / "x_2.txt", "--out")) == 8

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (
                ["--count=6", "--min_images_per_class=5"],
                "class 'dog' is in 4 of 20 images, but each class must be in 5",
            ),
            (["--count=21"], "cannot draw 21 of 20 ids; the count must be 1 to 20"),
            (["--count=6", "--set=data.labeled=/nowhere/x"], "data.labeled: /nowhere/x: cannot be read"),
            (
                ["--count=6", "--classes=dgo"],
                "--classes: found 'dgo', which is not a class of the data set (did you mean",
            ),
        ],
    )
    def test_impossible_requests(
        self, data: DataConfig, tmp_path: Path, flags: Sequence[str], message: str
    ) -> None:
        done = make_split(*overrides(data), *flags, f"--out={tmp_path}/x")
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1
        assert not list(tmp_path.glob("x*"))

    def test_a_damaged_mask_leaves_no_list(self, data: DataConfig, tmp_path: Path) -> None:
        masks = tmp_path / "masks"
        shutil.copytree(data.masks, masks)
        content = (masks / "p13.png").read_bytes()
        (masks / "p13.png").write_bytes(content[: len(content) // 2])
        damaged = dataclasses.replace(data, masks=str(masks))
        done = make_split(*overrides(damaged), "--count=6", f"--out={tmp_path}/x")
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith(f"error: {masks}/p13.png: damaged (") and done.stderr.count("\n") == 1
        assert not list(tmp_path.glob("x*"))

    def test_hopeless_request(self, data: DataConfig, tmp_path: Path) -> None:
        # No image but p00 and p15 shows all classes.
        ids = [f"p{number:02}" for number in range(20) if number not in (0, 15)]
        (tmp_path / "pool.txt").write_text("\n".join(ids))
        pool = f"--set=data.labeled={tmp_path}/pool.txt"
        done = make_split(*overrides(data), pool, "--count=1", f"--out={tmp_path}/x")
        assert done.returncode == 2 and done.stdout == ""
        message = "none of 50,000 draws of 1 ids had 1 images of each of the 3 classes (rarest: 'dog')"
        assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1
        assert not list(tmp_path.glob("x*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "found none of them; give one of --ratio, --count and --named"),
        (["--ratio=1/8", "--count=3"], "found --ratio and --count; give one of"),
        (["--count=3"], "--out: missing; how the lists begin"),
        (["--count=0", "--out=OUT"], "flag --count=0: 0 is not a positive integer"),
        (["--count=x", "--out=OUT"], "flag --count=x:"),
        (["--draws=0", "--out=OUT"], "flag --draws=0:"),
        (["--seed=-1", "--out=OUT"], "flag --seed=-1:"),
        (["--min_images_per_class=-1", "--out=OUT"], "flag --min_images_per_class=-1:"),
        (["--overwrite=maybe", "--out=OUT"], "flag --overwrite=maybe:"),
        *(
            ([f"--ratio={ratio}", "--out=OUT"], f"--ratio: found '{ratio}', must be a fraction such as 1/16")
            for ratio in ("0.1", "0/4", "1/0", "5/4")
        ),
        (["--count=3", "--out=OUT", "--preset=voc"], "preset 'voc': unknown; nearest: voc12"),
        (
            ["--count=3", "--out=OUT", "--set=data.lables=x"],
            "data.lables: unknown key; nearest: data.labeled",
        ),
        (["--count=3", "--out=OUT"], "data.classes is empty"),
        (
            ["--named=1_16/1", "--out=OUT"],
            "--named: found '1_16/1', must be DATA_SET/NAME with one of pascal_voc_seg",
        ),
        (
            ["--named=coco_seg/1_16", "--out=OUT"],
            "--named: found 'coco_seg/1_16'; published splits of coco_seg: 1_512",
        ),
        (["--named=coco_seg", "--out=OUT"], "--named: found 'coco_seg'; published splits of coco_seg: 1_512"),
        (
            ["--named=coco_seg/1_32", "--out=OUT", "--seed=0"],
            "--seed: has no meaning with --named; leave it out",
        ),
        (["--named=coco_seg/1_32", "--out=OUT", "--classes=x"], "--classes: has no meaning with --named"),
        (
            ["--named=coco_seg/1_32", "--out=OUT", "--set=data.splits_dir=/nowhere/x"],
            "data.splits_dir: /nowhere/x is not a folder",
        ),
    ],
)
def test_a_mistake_is_one_line(flags: list[str], message: str, tmp_path: Path) -> None:
    done = make_split(*(flag.replace("OUT", str(tmp_path / "x")) for flag in flags))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_help_shows_examples_and_flags() -> None:
    done = make_split("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for part in (
        "--named=pascal_voc_seg/1_16/1",
        "\n  --min_images_per_class\n",
        "\n  --overwrite\n",
        "Appendix C",
    ):
        assert part in done.stdout


class TestNamedOfCityscapes:
    def test_needs_all_training_images(self, data: DataConfig, tmp_path: Path) -> None:
        done = make_split(*overrides(data), "--named=cityscapes_seg/1_30", f"--out={tmp_path}/x")
        assert done.returncode == 2
        assert done.stderr.startswith(
            "error: --named=cityscapes_seg/1_30: the splits of Cityscapes are drawn from the ids of its 2975 training"
        )
        assert "found 20 ids" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.needs_shared
class TestRealLists:
    @pytest.mark.parametrize(
        ("named", "more", "file"),
        [
            ("pascal_voc_seg/1_16/1", [], "voc/16_clean_3.txt"),
            ("1_2", ["--set=data.name=pascal_voc_seg/complete:1.0.0"], "voc/2_clean.txt"),
            ("coco_seg/1_512", [], "coco/512_all.txt"),
        ],
    )
    def test_named(self, shared_dir: Path, tmp_path: Path, named: str, more: list[str], file: str) -> None:
        flags = [f"--named={named}", f"--set=data.splits_dir={shared_dir}/splits", f"--out={tmp_path}/new/x"]
        done = make_split(*flags, *more)
        assert (done.returncode, done.stderr) == (0, "")
        expected = (shared_dir / "splits" / file).read_bytes()
        assert (tmp_path / "new/x.txt").read_bytes() == expected
        data_set = named.split("/1_")[0] if "/" in named else "pascal_voc_seg"
        name = named.removeprefix(f"{data_set}/")
        assert done.stdout == f"{tmp_path}/new/x.txt: {len(expected.splitlines())} ids of {data_set}/{name}\n"
        assert make_split(*flags, *more).returncode == 2

    def test_draws_of_the_voc_subset(self, shared_dir: Path, tmp_path: Path) -> None:
        root = shared_dir / "data/voc12_subset"
        data = DataConfig(
            images=str(root / "images"),
            masks=str(root / "masks"),
            classes=str(root / "classes.txt"),
            labeled=str(root / "train.txt"),
        )
        frequent = "background,cat,cow,dog,horse,person,sheep"
        done = make_split(
            *overrides(data),
            *("--ratio=1/8", "--min_images_per_class=5", f"--classes={frequent}", f"--out={tmp_path}/eighth"),
        )
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.split("\n")
        assert " ".join(lines[0].split()) == "pool of 437 eighth_1: 55 eighth_2: 55 eighth_3: 55"
        rows = {line.split()[0]: line.split()[1:] for line in lines[2:23]}
        assert rows["background"] == (
            ["433", "25,928,825", "54", "3,092,709", "54", "3,440,689", "55", "3,282,928"]
        )
        assert rows["cow"] == ["62", "1,061,183", "6", "169,801", "11", "135,742", "10", "200,473"]
        assert rows["train"] == ["0"] * 8
        for name in frequent.split(","):
            assert min(map(int, rows[name][2::2])) >= 5
        for number in (1, 2, 3):
            ids = read_ids(tmp_path / f"eighth_{number}.txt", "--out")
            assert len(ids) == 55 and set(ids) <= set((root / "train.txt").read_text().split())
