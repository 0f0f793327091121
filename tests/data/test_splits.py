"""List files, class names and colors, image-level labels and the class-balanced draw."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pseudoseg_tf.data import splits
from pseudoseg_tf.data.specs import MaskEncoding
from pseudoseg_tf.data.text import (
    canonical_id,
    nearest_hint,
    read_class_names,
    read_image_labels,
    read_lines,
    read_palette,
)
from pseudoseg_tf.errors import UserError

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the content to list.txt."""

    def write(content: str | bytes) -> Path:
        path = tmp_path / "list.txt"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


class TestReadLines:
    def test_bom_and_windows_line_ends(self, write: Write) -> None:
        assert read_lines(write(b"\xef\xbb\xbfa\r\n b \r\n\r\n\xc3\xa9"), "k") == ["a", "b", "", "é"]

    def test_empty_path(self) -> None:
        with pytest.raises(UserError, match=r"^data.val is empty; it must name a text file"):
            read_lines("", "data.val")

    def test_missing_file_and_folder(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"^data.val: .*nothing.txt: cannot be read \(No such file"):
            read_lines(tmp_path / "nothing.txt", "data.val")
        with pytest.raises(UserError, match=r"^data.val: .* cannot be read"):
            read_lines(tmp_path, "data.val")

    @pytest.mark.parametrize("content", [b"\xff\xd8\xff\xe0", b"a\0b"])
    def test_not_text(self, write: Write, content: bytes) -> None:
        with pytest.raises(UserError, match=r"^data.val: .*list.txt(, line 1: not UTF-8| holds NUL)"):
            read_lines(write(content), "data.val")


class TestIds:
    def test_ids_stay_as_written_and_in_order(self, write: Write) -> None:
        assert splits.read_ids(write("b\n\na.JPG\nsub/c\n"), "k") == ["b", "a.JPG", "sub/c"]

    def test_written_lists_read_back(self, tmp_path: Path) -> None:
        path = tmp_path / "ids.txt"
        splits.write_ids(path, ["b", "sub/a"])
        assert path.read_bytes() == b"b\nsub/a\n"
        assert splits.read_ids(path, "k") == ["b", "sub/a"]
        assert list(tmp_path.iterdir()) == [path]

    def test_unwritable(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match=r"cannot be written"):
            splits.write_ids(tmp_path / "file" / "ids.txt", ["a"])

    @pytest.mark.parametrize("content", ["", "\n \n"])
    def test_empty(self, write: Write, content: str) -> None:
        with pytest.raises(UserError, match=r"^data.val: .*list.txt holds no ids"):
            splits.read_ids(write(content), "data.val")

    @pytest.mark.parametrize("bad", ["../a", "x/../../a", "/etc/passwd", ".."])
    def test_outside_the_folder(self, write: Write, bad: str) -> None:
        with pytest.raises(UserError, match=rf"holds '{bad}'; ids are paths in the image folder"):
            splits.read_ids(write(f"ok\n{bad}\n"), "data.val")

    @pytest.mark.parametrize("content", ["a\nb\na\n", "a\na.jpg\n", "./a\na\n", "s/a\ns//a\n"])
    def test_repeated(self, write: Write, content: str) -> None:
        with pytest.raises(UserError, match=r"list.txt repeats 1 id \('(s/)?a'\); each id may stand once"):
            splits.read_ids(write(content), "data.val")

    @pytest.mark.parametrize(
        ("text", "expected"),
        [("a.jpg", "a"), ("a.PNG", "a"), ("s/./a.jpeg", "s/a"), ("scan.v1", "scan.v1"), ("a.tif", "a.tif")],
    )
    def test_canonical(self, text: str, expected: str) -> None:
        assert canonical_id(text) == expected

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("train", ("train", "")),
            ("train[:20]+val[50%:]", ("train[:20]+val[50%:]", "")),
            ("train:1_16/1", ("train", "1_16/1")),
            ("train[:20]:a/b.txt", ("train[:20]", "a/b.txt")),
            ("voc/train-*,voc/0[0-3]:my:list.txt", ("voc/train-*,voc/0[0-3]", "my:list.txt")),
            ("gs://bucket/train-*", ("gs://bucket/train-*", "")),
            ("gs://bucket/train-*:list.txt", ("gs://bucket/train-*", "list.txt")),
            ("train:", ("train:", "")),
            ("", ("", "")),
        ],
    )
    def test_list_in_a_base(self, value: str, expected: tuple[str, str]) -> None:
        assert splits.split_list(value) == expected

    def test_disjoint(self) -> None:
        splits.check_disjoint(["a"], "data.labeled", ["b"], "data.val")
        with pytest.raises(
            UserError, match=r"^data.labeled and data.val share 4 ids \('1', '2', '3', \.\.\.\)"
        ):
            splits.check_disjoint(list("01234"), "data.labeled", list("43215"), "data.val")

    def test_common(self) -> None:
        assert splits.common_ids(["c", "a", "b"], ["b", "c"]) == ["c", "b"]


class TestClassNames:
    def test_line_is_id(self, write: Write) -> None:
        assert read_class_names(write("background\r\ncat\r\n\r\n")) == ("background", "cat")

    @pytest.mark.parametrize("content", ["", "background\n"])
    def test_too_few(self, write: Write, content: str) -> None:
        with pytest.raises(UserError, match=r"^data.classes: .*list.txt holds \d names; it needs 2 to 255"):
            read_class_names(write(content))

    def test_too_many(self, write: Write) -> None:
        assert len(read_class_names(write("\n".join(map(str, range(255)))))) == 255
        with pytest.raises(UserError, match=r"holds 256 names"):
            read_class_names(write("\n".join(map(str, range(256)))))

    def test_repeated(self, write: Write) -> None:
        with pytest.raises(UserError, match=r"names 'cat' in lines 2 and 4"):
            read_class_names(write("background\ncat\ndog\ncat\n"))

    def test_blank_line_between(self, write: Write) -> None:
        with pytest.raises(UserError, match=r"line 2 is blank"):
            read_class_names(write("background\n\ncat\n"))


class TestPalette:
    def test_names_colors_and_encoding(self, write: Write) -> None:
        palette = read_palette(write("road 128 64 128\r\n\r\nignore 0 0 0\r\ntraffic light\t250 170  30\r\n"))
        assert palette.class_names == ("road", "traffic light")
        assert palette.colors == ((128, 64, 128), (250, 170, 30))
        assert palette.ignore == (0, 0, 0)
        assert palette.encoding() == MaskEncoding({(128, 64, 128): 0, (250, 170, 30): 1, (0, 0, 0): 255})

    def test_no_color_is_ignored_unless_named(self, write: Write) -> None:
        palette = read_palette(write("a 0 0 0\nb 255 255 255"), ("a", "b"))
        assert palette.ignore is None
        assert palette.encoding() == MaskEncoding({(0, 0, 0): 0, (255, 255, 255): 1})

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("a 0 0 0\nb 1 2\n", "line 2 is 'b 1 2'; it needs a class name and three numbers from 0 to 255"),
            ("a 0 0 0\n1 2 3\n", "line 2 is '1 2 3'; it needs a class name"),
            ("a 0 0 0\nb 1 2 256\n", "line 2 is 'b 1 2 256'; it needs a class name and three numbers from 0"),
            ("a 0 0 -1\n", "line 1 is 'a 0 0 -1'; it needs"),
            ("a 0 0 1.5\n", "line 1 is 'a 0 0 1.5'; it needs"),
            ("a,0,0,0\n", "line 1 is 'a,0,0,0'; it needs"),
            ("a 0 0 0\n\na 0 0 1\n", "line 3 names 'a' again; each class needs a line of its own"),
            ("a 0 0 0\nb 0 0 0\n", "line 2 gives 'b' the color of 'a'; each class needs its own"),
            ("a 0 0 0\nb 0 0 9\nignore 0 0 9", "line 3 gives 'ignore' the color of 'b'; each class needs"),
            ("a 0 0 0\nignore 0 0 1\n", "names 1 classes; it needs 2 to 255"),
            ("", "names 0 classes; it needs 2 to 255"),
            ("".join(f"c{k} 0 0 {k}\n" for k in range(256)), "names 256 classes; it needs 2 to 255"),
        ],
    )
    def test_mistakes(self, write: Write, content: str, message: str) -> None:
        with pytest.raises(UserError) as error:
            read_palette(write(content))
        assert str(error.value).startswith("data.palette: ") and message in str(error.value)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (
                ("b", "a"),
                "names 'a' for class id 0, data.classes 'b'; both list the same names in the same order",
            ),
            (("a", "c"), "names 'b' for class id 1, data.classes 'c'; both list"),
            (
                ("a", "b", "c"),
                "colors 2 classes, data.classes names 3; both list the same names in the same order",
            ),
        ],
    )
    def test_other_classes(self, write: Write, names: tuple[str, ...], message: str) -> None:
        with pytest.raises(UserError, match=re.escape(message)):
            read_palette(write("a 0 0 0\nb 1 1 1\n"), names)


class TestImageLabels:
    NAMES = ("cat", "dog", "cow, brown")

    def test_rows(self, write: Write) -> None:
        path = write('a.jpg,dog\r\n\r\nb, cat , dog\nc\nd,"cow, brown",\n')
        labels = read_image_labels(path, self.NAMES)
        assert {key: row.tolist() for key, row in labels.items()} == {
            "a": [0, 1, 0],
            "b": [1, 1, 0],
            "c": [0, 0, 0],
            "d": [0, 0, 1],
        }
        assert labels["a"].dtype == np.float32

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("a,cat\nb,dgo\n", r"line 2 names 'dgo', .*\(did you mean 'dog'\?\)"),
            ("a,background\n", "line 1 names 'background', which is not a class of data.classes other than"),
            (",cat\n", "line 1 has no id"),
            ("a,cat\na.png,dog\n", "line 2 repeats the id 'a'"),
            ("a," + "x" * 200_000, "line 1 is not a CSV row"),
        ],
    )
    def test_bad_rows(self, write: Write, content: str, message: str) -> None:
        with pytest.raises(UserError, match=rf"^data.image_labels: .*list.txt {message}"):
            read_image_labels(write(content), self.NAMES)

    def test_hint(self) -> None:
        assert nearest_hint("2007_00063", ["2007_000063", "2008_1"]) == " (did you mean '2007_000063'?)"
        assert nearest_hint("zebra", ["cat"]) == ""


class TestDraw:
    # Class 0 everywhere, class 1 in every second image, class 2 in every tenth.
    IDS = tuple(f"i{k:03}" for k in range(60))
    CLASSES: Mapping[str, set[int]] = MappingProxyType(
        {name: {0} | {c for c, n in ((1, 2), (2, 10)) if k % n == 0} for k, name in enumerate(IDS)}
    )

    @settings(max_examples=50)
    @given(seed=st.integers(0, 2**32 - 1), count=st.integers(12, 60))
    def test_every_class_is_there_often_enough(self, seed: int, count: int) -> None:
        drawn = splits.class_balanced_draw(self.IDS, self.CLASSES, count, seed, 2)
        assert len(drawn) == count and drawn == sorted(set(drawn))
        for class_id in range(3):
            assert sum(class_id in self.CLASSES[name] for name in drawn) >= 2

    def test_same_seed_same_ids_forever(self) -> None:
        drawn = splits.class_balanced_draw(self.IDS, self.CLASSES, 6, 1, 1)
        assert drawn == splits.class_balanced_draw(self.IDS, self.CLASSES, 6, 1, 1)
        assert drawn != splits.class_balanced_draw(self.IDS, self.CLASSES, 6, 2, 1)
        # The stream is numpy's frozen one: these ids do not change with numpy.
        assert drawn == ["i002", "i039", "i041", "i044", "i048", "i050"]

    def test_uniform_over_the_sets_that_qualify(self) -> None:
        # Pairs of a, b, c, d that show class 1: all but the pair c, d.
        classes = {"a": {1}, "b": {1}, "c": set[int](), "d": set[int]()}
        pairs = [tuple(splits.class_balanced_draw("abcd", classes, 2, seed, 1)) for seed in range(1000)]
        counts = {pair: pairs.count(pair) for pair in set(pairs)}
        assert set(counts) == {("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")}
        # Binomial(1000, 1/5) has a deviation of 12.6.
        assert all(abs(count - 200) < 64 for count in counts.values())

    def test_whole_pool(self) -> None:
        assert splits.class_balanced_draw(self.IDS, self.CLASSES, 60, 0, 6) == list(self.IDS)

    @pytest.mark.parametrize("count", [0, 61])
    def test_count_out_of_range(self, count: int) -> None:
        with pytest.raises(UserError, match=rf"cannot draw {count} of 60 ids; the count must be 1 to 60"):
            splits.class_balanced_draw(self.IDS, self.CLASSES, count, 0, 0)

    def test_more_images_of_a_class_than_images(self) -> None:
        with pytest.raises(UserError, match=r"cannot draw 2 of 60 ids; the count must be 3 to 60"):
            splits.class_balanced_draw(self.IDS, self.CLASSES, 2, 0, 3)

    def test_class_too_rare_in_the_pool(self) -> None:
        with pytest.raises(UserError, match=r"class 2 is in 6 of 60 images, but each class must be in 7"):
            splits.class_balanced_draw(self.IDS, self.CLASSES, 30, 0, 7)

    def test_messages_name_classes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        names = ("background", "cat", "dog")
        with pytest.raises(UserError, match=r"class 'dog' is in 6 of 60 images"):
            splits.class_balanced_draw(self.IDS, self.CLASSES, 30, 0, 7, names)
        monkeypatch.setattr(splits, "_MAX_DRAWS", 50)
        with pytest.raises(UserError, match=r"of each of the 3 classes \(rarest: 'dog'\)"):
            splits.class_balanced_draw(self.IDS, self.CLASSES, 6, 0, 6, names)

    def test_hopeless_draw(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(splits, "_MAX_DRAWS", 50)
        with pytest.raises(
            UserError, match=r"none of 50 draws of 6 ids had 6 images of each of the 3 classes "
        ):
            splits.class_balanced_draw(self.IDS, self.CLASSES, 6, 0, 6)
