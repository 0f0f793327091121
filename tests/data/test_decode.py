"""Decoding: every kind of file that occurs, and every kind that must be refused."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pseudoseg_tf.data import decode
from pseudoseg_tf.data.specs import Color, DatasetInfo, MaskEncoding, Record, voc_palette
from pseudoseg_tf.errors import UserError

RGB = np.random.RandomState(0).randint(0, 256, (5, 7, 3)).astype(np.uint8)
GREY = RGB[..., 0]
IDS = (np.arange(35, dtype=np.uint8) % 4).reshape(5, 7)


def encoded(image: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, color_type: int, rows: bytes) -> bytes:
    """A PNG file from its parts; `rows` as the format has them, filter byte first."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()


def palette_png(labels: np.ndarray, **options: Any) -> bytes:
    image = Image.fromarray(labels).convert("L")
    image.putpalette([value for color in voc_palette(256) for value in color])
    assert image.mode == "P"
    return encoded(image, **options)


class TestImage:
    def test_rgb_png_is_exact(self) -> None:
        pixels = decode.decode_image(encoded(RGB), "a")
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, RGB)

    def test_jpeg_is_what_pillow_decodes(self) -> None:
        data = encoded(RGB, "JPEG", quality=90)
        expected = np.asarray(Image.open(io.BytesIO(data)))
        np.testing.assert_array_equal(decode.decode_image(data, "a"), expected)

    @pytest.mark.parametrize("kind", ["PNG", "JPEG"])
    def test_grey(self, kind: str) -> None:
        flat = np.full((5, 7), 90, np.uint8)
        pixels = decode.decode_image(encoded(flat, kind, **({"quality": 100} if kind == "JPEG" else {})), "a")
        np.testing.assert_array_equal(pixels, np.full((5, 7, 3), 90))

    def test_grey_with_alpha_and_rgb_with_alpha_drop_it(self) -> None:
        alpha = np.arange(35, dtype=np.uint8).reshape(5, 7)
        with_alpha = np.dstack([RGB, alpha])
        np.testing.assert_array_equal(decode.decode_image(encoded(with_alpha), "a"), RGB)
        grey_alpha = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)])
        np.testing.assert_array_equal(decode.decode_image(encoded(grey_alpha), "a"), np.dstack([GREY] * 3))

    @pytest.mark.parametrize("options", [{}, {"transparency": bytes([0, 128, 255])}, {"transparency": 1}])
    def test_palette_gives_colors(self, options: dict[str, Any]) -> None:
        expected = np.array(voc_palette(256), np.uint8)[IDS]
        np.testing.assert_array_equal(decode.decode_image(palette_png(IDS, **options), "a"), expected)

    def test_16_bit_keeps_the_high_byte(self) -> None:
        deep = np.array([[0, 255, 256], [65535, 0x8000, 0x7FFF]], np.uint16)
        pixels = decode.decode_image(encoded(deep), "a")
        np.testing.assert_array_equal(pixels[..., 0], [[0, 0, 1], [255, 128, 127]])
        np.testing.assert_array_equal(pixels, np.repeat(pixels[..., :1], 3, axis=-1))
        rgb = b"".join(b"\0" + deep[row].repeat(3).astype(">u2").tobytes() for row in range(2))
        np.testing.assert_array_equal(decode.decode_image(png(3, 2, 16, 2, rgb), "a"), pixels)

    def test_one_bit(self) -> None:
        pixels = decode.decode_image(encoded(Image.fromarray(IDS > 1)), "a")
        np.testing.assert_array_equal(pixels[..., 1], np.where(IDS > 1, 255, 0))

    def test_cmyk_jpeg(self) -> None:
        cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
        pixels = decode.decode_image(encoded(cyan, "JPEG", quality=100), "a").astype(int)
        assert np.abs(pixels - [0, 255, 255]).max() <= 3

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["PNG", "JPEG"])
    def test_exif_orientation_is_undone(self, kind: str, orientation: int) -> None:
        # Where the stored top-left and top-right corners belong, by the EXIF standard.
        corners = {
            1: "tl tr",
            2: "tr tl",
            3: "br bl",
            4: "bl br",
            5: "tl bl",
            6: "tr br",
            7: "br tr",
            8: "bl tl",
        }
        where = {"tl": (0, 0), "tr": (0, -1), "bl": (-1, 0), "br": (-1, -1)}
        stored = np.zeros((24, 32), np.uint8)
        stored[:8, :8], stored[:8, -8:] = 100, 200
        pixels = decode.decode_image(encoded(stored, kind, exif=exif(orientation)), "a")
        assert pixels.shape == ((24, 32, 3) if orientation < 5 else (32, 24, 3))
        top_left, top_right = (where[corner] for corner in corners[orientation].split())
        assert abs(int(pixels[top_left][0]) - 100) <= 2
        assert abs(int(pixels[top_right][0]) - 200) <= 2

    @pytest.mark.parametrize("content", [b"Exif\0\0garbage", exif(77)])
    def test_senseless_exif_is_passed_over(self, content: bytes) -> None:
        assert decode.decode_image(encoded(RGB, "JPEG", exif=content), "a").shape == (5, 7, 3)

    @pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "WEBP"])
    def test_other_formats_are_refused(self, kind: str) -> None:
        with pytest.raises(UserError, match=r"^image street: neither a JPEG nor a PNG file; convert"):
            decode.decode_image(encoded(RGB, kind), "street")

    def test_an_empty_file(self) -> None:
        with pytest.raises(UserError, match=r"^image a: the file is empty; replace it$"):
            decode.decode_image(b"", "a")

    @pytest.mark.parametrize("data", [b"\x89PNG", b"\xff\xd8", b"text"])
    def test_no_picture_at_all(self, data: bytes) -> None:
        with pytest.raises(UserError, match=r"^image a: neither"):
            decode.decode_image(data, "a")

    @pytest.mark.parametrize("kind", ["PNG", "JPEG"])
    def test_cut_off_file(self, kind: str) -> None:
        noise = np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8)
        data = encoded(noise, kind)
        with pytest.raises(UserError, match=r"^image a: damaged \(.+\); replace the file$"):
            decode.decode_image(data[: len(data) // 2], "a")

    @pytest.mark.parametrize("size", [(8193, 8192), (60000, 60000)])
    def test_huge_claims_are_refused_before_decoding(self, size: tuple[int, int]) -> None:
        with pytest.raises(UserError, match=rf"^image a: {size[0]}x{size[1]} pixels .* at most 67,108,864"):
            decode.decode_image(png(*size, 8, 2, b"\0"), "a")

    @settings(max_examples=300)
    @given(st.sampled_from(["PNG", "JPEG"]), st.data())
    def test_damage_gives_pixels_or_one_clear_error(self, kind: str, data: st.DataObject) -> None:
        content = bytearray(encoded(RGB, kind, exif=exif(6)))
        for _ in range(data.draw(st.integers(1, 4))):
            position = data.draw(st.integers(0, len(content) - 1))
            content[position] = data.draw(st.integers(0, 255))
        content = content[: data.draw(st.integers(1, len(content)))]
        try:
            pixels = decode.decode_image(bytes(content), "a")
        except UserError as error:
            assert str(error).startswith("image a: ") and "\n" not in str(error)
        else:
            assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8


class TestMask:
    @pytest.mark.parametrize("make", [encoded, palette_png])
    def test_values_are_ids_not_colors(self, make: Any) -> None:
        labels = IDS.copy()
        labels[0, 0] = 255
        decoded = decode.decode_mask(make(labels), "a", 4)
        assert decoded.dtype == np.uint8
        np.testing.assert_array_equal(decoded, labels)

    @pytest.mark.parametrize("depth", [1, 2, 4])
    @pytest.mark.parametrize("color_type", [0, 3])
    def test_narrow_pixels_keep_their_ids(self, color_type: int, depth: int) -> None:
        labels = np.arange(16, dtype=np.uint8).reshape(2, 8) % 2**depth
        if color_type == 3:
            data = palette_png(labels, bits=depth)
        else:
            bits = np.unpackbits(labels[..., None], axis=-1)[..., -depth:].reshape(2, -1)
            data = png(8, 2, depth, 0, b"".join(b"\0" + np.packbits(row).tobytes() for row in bits))
        np.testing.assert_array_equal(decode.decode_mask(data, "a", 16), labels)

    @pytest.mark.parametrize(
        ("image", "found"),
        [
            (Image.fromarray(RGB), "a color picture;"),
            (Image.fromarray(np.dstack([RGB, GREY])), "a color picture with alpha"),
            (Image.merge("LA", [Image.fromarray(GREY)] * 2), "grey with alpha"),
            (Image.fromarray(IDS.astype(np.uint16)), "16-bit values"),
        ],
    )
    def test_more_than_one_byte_a_pixel_is_refused(self, image: Image.Image, found: str) -> None:
        with pytest.raises(UserError, match=rf"^mask m: stored as {found}.*8-bit grey or palette PNG"):
            decode.decode_mask(encoded(image), "m", 4)

    def test_jpeg_is_refused(self) -> None:
        with pytest.raises(UserError, match=r"^mask m: a JPEG file"):
            decode.decode_mask(encoded(IDS, "JPEG"), "m", 4)

    def test_other_files_are_refused(self) -> None:
        with pytest.raises(UserError, match=r"^mask m: neither"):
            decode.decode_mask(b"II*\0", "m", 4)

    def test_cut_off_file(self) -> None:
        data = encoded(GREY)
        with pytest.raises(UserError, match=r"^mask m: damaged"):
            decode.decode_mask(data[:50], "m", 256)

    def test_ids_beyond_the_classes_are_named(self) -> None:
        with pytest.raises(UserError, match=r"^mask m: pixel values 0, 1, 2, 3; .* ids 0 to 2 and 255"):
            decode.decode_mask(encoded(IDS), "m", 3)

    @pytest.mark.parametrize(
        ("classes", "largest", "hint"), [(19, 33, True), (19, 34, False), (20, 33, False)]
    )
    def test_label_ids_of_cityscapes_are_recognized(self, classes: int, largest: int, hint: bool) -> None:
        labels = np.array([[0, 7, largest, 255]], np.uint8)
        with pytest.raises(UserError, match=r"pixel values 0, 7, 3[34], 255; allowed") as error:
            decode.decode_mask(encoded(labels), "m", classes)
        assert ("or name all classes (Cityscapes: take the labelTrainIds files" in str(error.value)) == hint

    @pytest.mark.parametrize(("ids", "hint"), [([0, 3, 255], True), ([0, 4], False), ([1, 3], False)])
    def test_one_id_more_than_names(self, ids: list[int], hint: bool) -> None:
        with pytest.raises(UserError, match=r"allowed are the class ids 0 to 2") as error:
            decode.decode_mask(encoded(np.array([ids], np.uint8)), "m", 3)
        assert ("(one id more than names: does data.classes lack one" in str(error.value)) == hint

    @pytest.mark.parametrize(("black", "white"), [(0, 1), (1, 0), (0, 3), (7, 200)])
    def test_black_and_white_by_palette(self, black: int, white: int) -> None:
        """Whichever index is which; indices of other colors are as in grey files."""
        indices = np.array([[black, white], [white, white]], np.uint8)
        image = Image.fromarray(indices, "P")
        palette = np.full((256, 3), 90, np.uint8)
        palette[black], palette[white] = 0, 255
        image.putpalette(palette.tobytes())
        found = decode.decode_mask(encoded(image), "m", 2, MaskEncoding(binary=True))
        np.testing.assert_array_equal(found, [[0, 1], [1, 1]])

    def test_other_palettes_of_binary_masks(self) -> None:
        image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
        image.putpalette([0, 0, 0, 128, 0, 0])
        found = decode.decode_mask(encoded(image), "m", 2, MaskEncoding(binary=True))
        np.testing.assert_array_equal(found, [[0, 1]])

    def test_many_wrong_values_stay_one_line(self) -> None:
        ramp = np.arange(255, dtype=np.uint8).reshape(5, 51)
        with pytest.raises(
            UserError, match=r"pixel values 0, 1, .* 11, \.\.\.; allowed .* \(so many come of JPEG"
        ):
            decode.decode_mask(encoded(ramp), "m", 3)
        with pytest.raises(UserError, match=r"11, \.\.\.; allowed [^(]* \(ignored\): .* name all classes$"):
            decode.decode_mask(encoded(np.arange(32, dtype=np.uint8)[np.newaxis]), "m", 3)

    def test_black_and_white_picture_is_refused_for_two_classes(self) -> None:
        black_and_white = np.where(IDS > 1, 255, 0).astype(np.uint8)
        with pytest.raises(
            UserError, match=r"^mask m: pixel values 0 and 255 alone.*object as 1.*binary_masks"
        ):
            decode.decode_mask(encoded(black_and_white), "m", 2)
        # With more classes a crowd region on background looks like this.
        np.testing.assert_array_equal(decode.decode_mask(encoded(black_and_white), "m", 3), black_and_white)
        # Indices of a palette are no grey levels.
        found = decode.decode_mask(palette_png(black_and_white), "m", 2)
        np.testing.assert_array_equal(found, black_and_white)

    @pytest.mark.parametrize("value", [0, 1, 255])
    def test_masks_of_one_value_are_fine(self, value: int) -> None:
        labels = np.full((3, 3), value, np.uint8)
        np.testing.assert_array_equal(decode.decode_mask(encoded(labels), "m", 2), labels)


def palette_png_of(indices: np.ndarray, colors: Sequence[Color]) -> bytes:
    image = Image.fromarray(indices)
    image.putpalette([value for color in colors for value in color])
    return encoded(image)


class TestColorMask:
    COLORS: ClassVar = {(0, 0, 0): 0, (128, 0, 0): 1, (128, 0, 1): 2, (224, 224, 192): 255}
    ENCODING = MaskEncoding(COLORS)

    def picture(self, labels: np.ndarray) -> np.ndarray:
        table = np.zeros((256, 3), np.uint8)
        table[list(self.COLORS.values())] = list(self.COLORS)
        return table[labels]

    def test_colors_become_ids(self) -> None:
        labels = np.array([[0, 1, 2], [255, 2, 1]], np.uint8)
        decoded = decode.decode_mask(encoded(self.picture(labels)), "m", 3, self.ENCODING)
        assert decoded.dtype == np.uint8
        np.testing.assert_array_equal(decoded, labels)

    @settings(max_examples=50)
    @given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=2, max_size=255, unique=True), st.data())
    def test_any_palette_round_trips(self, colors: list[Color], data: st.DataObject) -> None:
        ids = st.integers(0, len(colors) - 1)
        labels = np.array(data.draw(st.lists(ids, min_size=1, max_size=40)), np.uint8)[None]
        encoding = MaskEncoding({color: class_id for class_id, color in enumerate(colors)})
        mask = encoded(np.array(colors, np.uint8)[labels])
        np.testing.assert_array_equal(decode.decode_mask(mask, "m", len(colors), encoding), labels)

    def test_strange_color_is_named_with_place_and_nearest(self) -> None:
        picture = self.picture(np.zeros((4, 5), np.uint8))
        picture[2, 3] = (120, 10, 4)
        picture[3, 0] = (220, 220, 200)
        with pytest.raises(UserError) as error:
            decode.decode_mask(encoded(picture), "m", 3, self.ENCODING)
        assert str(error.value) == (
            "mask m: the color 120 10 4 at row 2, column 3 (2 of 20 pixels have such colors) is none of "
            "data.palette, nearest: 128 0 1 (class 2); add it there, as 'ignore' if it is no class, or save the mask "
            "without smoothing"
        )
        picture[2, 3] = 0
        with pytest.raises(UserError, match=r"220 220 200 at row 3, .* nearest: 224 224 192 \(ignored\);"):
            decode.decode_mask(encoded(picture), "m", 3, self.ENCODING)

    @pytest.mark.parametrize("make", [encoded, palette_png])
    def test_grey_and_palette_masks_hold_ids_all_the_same(self, make: Any) -> None:
        labels = np.array([[0, 1, 2], [255, 2, 1]], np.uint8)
        # The palette gives index 1 and 255 the colors of the encoding, index 2 one that is none of it.
        np.testing.assert_array_equal(decode.decode_mask(make(labels), "m", 3, self.ENCODING), labels)
        with pytest.raises(UserError, match=r"^mask m: pixel values 0, 1, 2, 3; allowed"):
            decode.decode_mask(make(IDS), "m", 3, self.ENCODING)

    def test_palette_in_another_order_is_refused(self) -> None:
        colors = [(128, 0, 0), (0, 0, 0)]
        with pytest.raises(
            UserError,
            match=r"^mask m: palette index 0 has the color 128 0 0, which data.palette gives to class id 1; save "
            r"the mask as RGB, or with class ids as palette indices$",
        ):
            decode.decode_mask(palette_png_of(np.eye(2, dtype=np.uint8), colors), "m", 3, self.ENCODING)
        # An index that is not used does not matter.
        ones = np.ones((2, 2), np.uint8)
        unused = palette_png_of(ones, [(128, 0, 0), (128, 0, 0)])
        np.testing.assert_array_equal(decode.decode_mask(unused, "m", 3, self.ENCODING), ones)

    def test_index_beyond_the_palette_of_the_file(self) -> None:
        colors = [(0, 0, 0), (128, 0, 0), (128, 0, 1)]
        with pytest.raises(UserError, match=r"^mask m: pixel values 3; allowed are the class ids 0 to 2 "):
            decode.decode_mask(palette_png_of(np.full((2, 2), 3, np.uint8), colors), "m", 3, self.ENCODING)

    @pytest.mark.parametrize(
        ("image", "found"),
        [
            (Image.fromarray(np.dstack([RGB, GREY])), "a color picture with alpha"),
            (Image.merge("LA", [Image.fromarray(GREY)] * 2), "grey with alpha"),
            (Image.fromarray(IDS.astype(np.uint16)), "16-bit values"),
        ],
    )
    def test_alpha_and_16_bits_stay_refused(self, image: Image.Image, found: str) -> None:
        with pytest.raises(
            UserError, match=rf"^mask m: stored as {found};.*, or as RGB in the colors of data.palette$"
        ):
            decode.decode_mask(encoded(image), "m", 4, self.ENCODING)

    def test_16_bit_colors_are_refused(self) -> None:
        deep = png(1, 1, 16, 2, b"\0" + bytes(6))
        with pytest.raises(UserError, match=r"^mask m: stored as 16-bit values;"):
            decode.decode_mask(deep, "m", 3, self.ENCODING)

    def test_without_a_palette_the_key_is_named(self) -> None:
        with pytest.raises(
            UserError, match=r"a color picture;.* or name a file of the classes' colors in data.p"
        ):
            decode.decode_mask(encoded(RGB), "m", 4)


class TestBinaryMask:
    ENCODING = MaskEncoding(binary=True)

    @pytest.mark.parametrize(
        "mask",
        [
            encoded(np.where(IDS > 1, 255, 0).astype(np.uint8)),
            encoded(Image.fromarray(IDS > 1)),
            palette_png_of((IDS > 1).astype(np.uint8), [(0, 0, 0), (255, 255, 255)]),
        ],
        ids=["0 and 255", "1 bit", "palette of two"],
    )
    def test_white_is_class_1(self, mask: bytes) -> None:
        decoded = decode.decode_mask(mask, "m", 2, self.ENCODING)
        assert decoded.dtype == np.uint8
        np.testing.assert_array_equal(decoded, IDS > 1)

    @pytest.mark.parametrize("value", [0, 255])
    def test_one_value(self, value: int) -> None:
        mask = encoded(np.full((2, 3), value, np.uint8))
        np.testing.assert_array_equal(
            decode.decode_mask(mask, "m", 2, self.ENCODING), np.full((2, 3), value == 255)
        )

    @pytest.mark.parametrize("values", [[0, 1, 255], [0, 128, 255], [2]])
    def test_grey_is_refused(self, values: list[int]) -> None:
        with pytest.raises(UserError) as error:
            decode.decode_mask(encoded(np.array([values], np.uint8)), "m", 2, self.ENCODING)
        assert str(error.value) == (
            f"mask m: pixel values {', '.join(map(str, values))}; with data.binary_masks=true they must be 0 and "
            "255: save the mask without smoothing, or class ids without data.binary_masks"
        )


class TestRecord:
    def test_mask_is_read_as_its_encoding_says(self) -> None:
        encoding = MaskEncoding({(0, 0, 0): 0, (255, 255, 255): 3})
        mask = encoded(np.dstack([np.where(IDS == 3, 255, 0).astype(np.uint8)] * 3))
        _, labels = decode.decode_record(Record("a", encoded(RGB), mask, None, encoding), 4)
        np.testing.assert_array_equal(labels, np.where(IDS == 3, 3, 0))

    def test_image_and_labels(self) -> None:
        image, labels = decode.decode_record(Record("a", encoded(RGB), encoded(IDS), None), 4)
        np.testing.assert_array_equal(image, RGB)
        np.testing.assert_array_equal(labels, IDS)

    def test_without_mask_all_pixels_are_ignored(self) -> None:
        _, labels = decode.decode_record(Record("a", encoded(RGB), None, None), 4)
        np.testing.assert_array_equal(labels, np.full((5, 7), 255))
        assert labels.dtype == np.uint8

    def test_sizes_must_agree(self) -> None:
        with pytest.raises(UserError, match=r"image a is 7x5 pixels .* mask a is 5x7; they must be equal"):
            decode.decode_record(Record("a", encoded(RGB), encoded(IDS.T), None), 4)


class TestCheckSizes:
    @staticmethod
    def check(image: bytes, mask: bytes) -> None:
        decode.check_sizes(io.BytesIO(image), "x.jpg", io.BytesIO(mask), "x.png")

    def test_equal(self) -> None:
        self.check(encoded(RGB, "JPEG"), encoded(IDS))

    def test_different(self) -> None:
        with pytest.raises(UserError, match=r"^x.jpg is 7x5 pixels .*, but x.png is 5x7; they must be equal"):
            self.check(encoded(RGB, "JPEG"), encoded(IDS.T))

    @pytest.mark.parametrize("kind", ["PNG", "JPEG"])
    def test_rotation_by_exif_counts(self, kind: str) -> None:
        rotated = encoded(RGB, kind, exif=exif(6))
        self.check(rotated, encoded(IDS.T))
        with pytest.raises(UserError, match=r"x.jpg is 5x7 .* after the rotation its EXIF data asks for,"):
            self.check(rotated, encoded(IDS))

    def test_pixels_are_not_read(self) -> None:
        mask = encoded(IDS)
        self.check(encoded(RGB, "JPEG"), mask[: mask.index(b"IDAT") + 8])

    def test_unreadable_file_is_named(self) -> None:
        with pytest.raises(UserError, match=r"^x.png: neither"):
            self.check(encoded(RGB, "JPEG"), b"no picture")
        with pytest.raises(UserError, match=r"^x.jpg: damaged"):
            self.check(encoded(RGB, "JPEG")[:10], encoded(IDS))


class TestDatasetInfo:
    def test_voc_colors(self) -> None:
        assert voc_palette(3) == ((0, 0, 0), (128, 0, 0), (0, 128, 0))
        assert voc_palette(21)[15] == (192, 128, 128)  # person
        assert voc_palette(256)[255] == (224, 224, 192)  # the border of VOC's own masks
        assert len(set(voc_palette(256))) == 256

    def test_json_round_trip(self) -> None:
        info = DatasetInfo(("background", "cat"), voc_palette(2), "pets")
        assert DatasetInfo.from_json(info.to_json()) == info
        assert info.num_classes == 2 and info.image_classes == ("cat",)

    def test_without_a_background_every_class_can_label_an_image(self) -> None:
        info = DatasetInfo(("road", "car"), voc_palette(2), "streets", has_background=False)
        assert info.image_classes == ("road", "car")
        assert info.to_json()["background"] is None and DatasetInfo.from_json(info.to_json()) == info

    def test_a_description_that_does_not_say_has_a_background(self) -> None:
        values = {"name": "pets", "class_names": ["background", "cat"], "palette": [[0, 0, 0], [1, 2, 3]]}
        assert DatasetInfo.from_json(values).has_background

    @pytest.mark.parametrize(
        "change",
        [
            {"palette": [[0, 0, 0]]},
            {"palette": [[0, 0], [1, 1]]},
            {"palette": [[0, 0, 256], [1, 2, 3]]},
            {"palette": [[0, 0, float("inf")], [1, 2, 3]]},
            {"palette": [[0, 0, 0]], "class_names": ["alone"]},
            {"palette": [[0, 0, 0]] * 256, "class_names": list("a" * 256)},
            {"class_names": None},
            {"palette": 3},
        ],
    )
    def test_damaged_json(self, change: dict[str, Any]) -> None:
        values = {"name": "pets", "class_names": ["background", "cat"], "palette": [[0, 0, 0], [1, 2, 3]]}
        with pytest.raises(UserError, match=r"data set description is damaged"):
            DatasetInfo.from_json(values | change)
        with pytest.raises(UserError, match=r"KeyError: 'name'"):
            DatasetInfo.from_json({key: value for key, value in values.items() if key != "name"})
