"""Published label splits: the right ids in the right order, from a directory, the cache or the network."""

from __future__ import annotations

import hashlib
import http.client
import http.server
import io
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pseudoseg_tf.data import split_catalog
from pseudoseg_tf.data.split_catalog import named_ids, split_names
from pseudoseg_tf.errors import UserError

CONTENT = b"b\nsub/a\n"
PATHS = b"JPEGImages/2007_1.jpg SegmentationClass/2007_1.png\nJPEGImages/2007_0.jpg SegmentationClass/2007_0.png\n"


def no_ids() -> Sequence[str]:
    raise AssertionError("asked for the ids of the base split")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def publish(monkeypatch: pytest.MonkeyPatch, url: str, content: bytes = CONTENT) -> None:
    """Makes `tiny/half` a published list of that content."""
    published = split_catalog._List("tiny/half_list.txt", url, sha256(content))
    monkeypatch.setattr(split_catalog, "_LISTS", {"tiny": {"half": published}})


def ids(splits_dir: Path | str = "") -> list[str]:
    return named_ids("tiny", "half", str(splits_dir), no_ids, "data.labeled=x")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the list is kept once fetched."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/pseudoseg_tf/splits/tiny/half_list.txt"


class Server(http.server.BaseHTTPRequestHandler):
    """Answers with the files of its server, in `files`, and counts the requests in `asked`."""

    files: dict[str, bytes]
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        content = self.files.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[type[Server]]:
    """A server of /list on this machine; its `url` is that of the list."""
    handler = type("Handler", (Server,), {"files": {"/list": CONTENT}, "asked": []})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as http_server:
        handler.url = f"http://127.0.0.1:{http_server.server_port}/list"  # type: ignore[attr-defined]
        thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield handler
        http_server.shutdown()
        thread.join()


class TestNames:
    def test_of_each_data_set(self) -> None:
        assert split_catalog.data_sets() == ("pascal_voc_seg", "coco_seg", "cityscapes_seg")
        voc = ("1_16/1", "1_16/2", "1_16/3", "1_8", "1_4", "1_2", "unimatch_1_2")
        assert split_names("pascal_voc_seg") == voc
        assert split_names("coco_seg") == ("1_512", "1_256", "1_128", "1_64", "1_32")
        assert split_names("cityscapes_seg") == ("1_30", "1_8", "1_4")
        assert split_names("shapes_seg") == ()

    def test_urls_are_those_of_one_commit(self) -> None:
        lists = [entry for lists in split_catalog._LISTS.values() for entry in lists.values()]
        assert len(lists) == len({entry.sha256 for entry in lists}) == 12
        for entry in lists:
            _, _, host, owner, _, commit = entry.url.split("/")[:6]
            assert host == "raw.githubusercontent.com" and owner in ("googleinterns", "LiheYoung")
            assert len(bytes.fromhex(commit)) == 20


class TestDirectory:
    @pytest.mark.parametrize("place", ["tiny/half_list.txt", "half_list.txt"])
    def test_both_places(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
        publish(monkeypatch, "https://nowhere.invalid/a/b/c")
        (tmp_path / "tiny").mkdir()
        (tmp_path / place).write_bytes(CONTENT)
        assert ids(tmp_path) == ["b", "sub/a"]

    def test_lines_of_paths(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        publish(monkeypatch, "https://nowhere.invalid/a/b/c", PATHS)
        (tmp_path / "half_list.txt").write_bytes(PATHS)
        assert ids(tmp_path) == ["2007_1", "2007_0"]

    def test_mistakes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        publish(monkeypatch, "https://nowhere.invalid/a/b/c")
        with pytest.raises(
            UserError, match=rf"^data.splits_dir: {tmp_path} holds neither tiny/half_list.txt nor"
        ):
            ids(tmp_path)
        with pytest.raises(UserError, match=r"^data.splits_dir: /nowhere/x is not a folder; give the one"):
            ids("/nowhere/x")
        (tmp_path / "half_list.txt").write_bytes(b"other")
        expected = (
            rf"^data.splits_dir: {tmp_path}/half_list.txt: SHA-256 is {sha256(b'other')}, expected "
            rf"{sha256(CONTENT)}; take the file as published"
        )
        with pytest.raises(UserError, match=expected):
            ids(tmp_path)


class TestNetwork:
    def test_fetched_once_and_kept(
        self, server: Any, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        publish(monkeypatch, server.url)
        assert ids() == ids() == ["b", "sub/a"]
        assert server.asked == ["/list"]
        assert cache.read_bytes() == CONTENT
        assert list(cache.parent.iterdir()) == [cache]
        assert capsys.readouterr().err == f"fetching {server.url}\n"

    def test_damaged_cache(self, server: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        publish(monkeypatch, server.url)
        cache.parent.mkdir(parents=True)
        cache.write_bytes(b"other")
        with pytest.raises(
            UserError, match=rf"^{cache}: SHA-256 is {sha256(b'other')}, .*; delete this file"
        ):
            ids()
        assert server.asked == []

    def test_another_file_than_published(
        self, server: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish(monkeypatch, server.url)
        server.files["/list"] = b"other"
        found, expected = sha256(b"other"), sha256(CONTENT)
        with pytest.raises(
            UserError, match=rf"^{server.url}: SHA-256 is {found}, expected {expected}; try again"
        ):
            ids()
        assert not cache.exists()

    def test_endless_answer(self, server: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        publish(monkeypatch, server.url)
        monkeypatch.setattr(split_catalog, "_MAX_BYTES", 3)
        with pytest.raises(UserError, match=rf"^{server.url}: more than 0 MiB, which is no list"):
            ids()
        assert not cache.exists()

    def test_not_there(self, server: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        publish(monkeypatch, server.url.replace("/list", "/owner/name/list"))
        with pytest.raises(
            UserError, match=r"list: cannot be fetched \(Not Found\); .* tiny/half_list.txt of gi"
        ):
            ids()
        assert not cache.exists()

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (urllib.error.URLError(OSError(-2, "Name or service not known")), "Name or service not known"),
            (TimeoutError("timed out"), r"\(timed out\)"),
            (http.client.IncompleteRead(b""), "IncompleteRead"),
        ],
    )
    def test_offline(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
    ) -> None:
        def refuse(url: str, timeout: float) -> None:
            assert timeout == 30.0
            raise error

        publish(monkeypatch, "https://raw.githubusercontent.com/owner/name/commit/half.txt")
        monkeypatch.setattr(urllib.request, "urlopen", refuse)
        with pytest.raises(UserError, match=reason) as found:
            ids()
        assert "\n" not in str(found.value)
        assert (
            "set data.splits_dir to a folder that holds tiny/half_list.txt of github.com/owner/name"
            in str(found.value)
        )

    def test_cache_that_cannot_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        publish(monkeypatch, "https://nowhere.invalid/a/b/c")
        monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(CONTENT))
        assert ids() == ["b", "sub/a"]


class TestCityscapes:
    NAMES = tuple(f"train/city/city_{number:06}_000019" for number in range(2975))

    def test_rule(self, monkeypatch: pytest.MonkeyPatch) -> None:
        listed = "".join(f"{name}\n" for name in self.NAMES)
        monkeypatch.setattr(split_catalog, "_CITYSCAPES_SHA256", sha256(listed.encode()))
        order = np.random.RandomState(12345).permutation(2975)
        for name, count in (("1_30", 100), ("1_8", 372), ("1_4", 744)):
            # The order of the records does not matter.
            found = named_ids("cityscapes_seg", name, "", lambda: self.NAMES[::-1], "data.labeled=x")
            assert found == [self.NAMES[index] for index in order[:count]]

    @pytest.mark.parametrize("names", [NAMES, NAMES[:3]])
    def test_other_images(self, names: Sequence[str]) -> None:
        with pytest.raises(
            UserError,
            match=rf"^data.labeled=x: the splits of Cityscapes .* found {len(names)} ids \(SHA-256 ",
        ):
            named_ids("cityscapes_seg", "1_8", "", lambda: names, "data.labeled=x")


# The sums of the lists in their order, one id a line: those of the files, except for unimatch_1_2, whose lines
# hold more than ids.
SIZES_AND_SUMS = {
    "pascal_voc_seg/1_16/1": (92, "a2a472eb74fcf8f3ec462d1151f98f68bfcbded3fbfd08c08a49b2d9d7a51ca5"),
    "pascal_voc_seg/1_16/2": (92, "d9a31f5d479024a4bec996f9f4059ddf4877ba18383e282aa3a403b8e31e485e"),
    "pascal_voc_seg/1_16/3": (92, "0fec5a3639a87837aea30609d25d5a45b3234e875be887c314d1808a3c9b9786"),
    "pascal_voc_seg/1_8": (183, "7d364bb88766ba220e68e01eb066d94e714349209af73608eaf8940ca2cdedc9"),
    "pascal_voc_seg/1_4": (366, "4b58843de93dc6927e66a6ae10e0dd257f70ddc370c0875a42a79419290d745a"),
    "pascal_voc_seg/1_2": (732, "5fef6d10440f157ddd4408bf72401f27c72faf4d0f5f61b26d916ad0a96a40cb"),
    "coco_seg/1_512": (232, "fb9d176965ae8b1f8848ae944b947eebfa5fcd1948e4b3e4761aae1eff8f0a17"),
    "coco_seg/1_256": (463, "ee7dccf67b1440e3b09ba56ada3f39010d62fc133888ebcef6e6b2e799006941"),
    "coco_seg/1_128": (925, "7619a4e8bddbde7066c16e36e97eefa2bc3077b24b06994a3647907beec91138"),
    "coco_seg/1_64": (1849, "82890b4d98e8aab261a3d88100fcf2f0dff1314bd2d04afc7c5dcdd5eaf23754"),
    "coco_seg/1_32": (3697, "550f36b5eace9b69b7e5d0f0f65a417768d5143146817fa85c36e1e066a238cc"),
    "cityscapes_seg/1_30": (100, "499b5416a967c6c28903da321aa181efb9c528dd9252ba6f723f5692fba6a752"),
    "cityscapes_seg/1_8": (372, "841a5a666f062a845fde5814af50442c4aaf606afc01504a6205ce8901762224"),
    "cityscapes_seg/1_4": (744, "f4c855ba82b00124fdabc84c853547fef2d605614d811d9970dedbba8c096d32"),
}


@pytest.mark.needs_shared
class TestAsPublished:
    @pytest.mark.parametrize("full_name", SIZES_AND_SUMS)
    def test_ids_in_their_order(self, shared_dir: Path, full_name: str) -> None:
        data_set, _, name = full_name.partition("/")
        splits = shared_dir / "splits"
        names = (splits / "cityscapes/all_train_sorted.txt").read_text().split()
        found = named_ids(data_set, name, str(splits), lambda: names, "data.labeled=x")
        count, expected = SIZES_AND_SUMS[full_name]
        assert len(found) == len(set(found)) == count
        assert sha256("".join(f"{record_id}\n" for record_id in found).encode()) == expected

    def test_the_other_half_of_voc(self, shared_dir: Path) -> None:
        splits = str(shared_dir / "splits")
        other = named_ids("pascal_voc_seg", "unimatch_1_2", splits, no_ids, "data.labeled=x")
        ours = named_ids("pascal_voc_seg", "1_2", splits, no_ids, "data.labeled=x")
        train = (shared_dir / "splits/voc/official_train.txt").read_text().split()
        assert other[:2] == ["2010_001195", "2007_007021"]
        assert len(set(other)) == 732 and set(other) <= set(train)
        assert len(set(other) & set(ours)) == 371

    def test_every_list_is_in_its_base_split(self, shared_dir: Path) -> None:
        splits = shared_dir / "splits"
        train_aug = set((splits / "voc/official_train_aug.txt").read_text().split())
        for name in split_names("pascal_voc_seg"):
            assert set(named_ids("pascal_voc_seg", name, str(splits), no_ids, "data.labeled=x")) <= train_aug

    def test_directly_in_the_folder(self, shared_dir: Path) -> None:
        coco = shared_dir / "splits/coco"
        assert len(named_ids("coco_seg", "1_512", str(coco), no_ids, "data.labeled=x")) == 232
