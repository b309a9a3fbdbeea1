"""What files of pictures hold beside gray values and colors: it is followed, told or refused."""

import struct

import numpy as np
import pytest
import torch
from PIL import Image

from torch_trf.datasets import LabeledImage, LabeledImages, SegmentationFolder, as_image, as_labels, read_batches

HEIGHT, WIDTH, CLASSES = 16, 24, 4
GRAY = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 256
COLORS = np.stack([GRAY, GRAY.T.reshape(HEIGHT, WIDTH), 255 - GRAY], -1).astype(np.uint8)
LABELS = (GRAY % CLASSES).astype(np.uint8)


@pytest.fixture
def read(tmp_path):
    """Reads one picture and its labels from files; gives the image, and what is told of it."""

    def function(image=None, labels=None, image_name="a.png", labels_name="a.png", label_map=None, **options):
        for part, picture, name, default in (
            ("images", image, image_name, COLORS),
            ("labels", labels, labels_name, LABELS),
        ):
            (tmp_path / part).mkdir()
            if isinstance(picture, bytes):
                (tmp_path / part / name).write_bytes(picture)
            else:
                picture = Image.fromarray(default) if picture is None else picture
                picture.save(tmp_path / part / name, **(options if picture in (image, labels) else {}))
        dataset = SegmentationFolder(tmp_path / "images", tmp_path / "labels")
        found = LabeledImages(dataset=dataset, num_classes=CLASSES, label_map=label_map)[0]
        if isinstance(found, ValueError):
            raise found
        return found

    return function


TURNED_BACK = {  # what a camera saves of an upright picture, by the orientation that it writes beside it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", range(1, 10))
@pytest.mark.parametrize(
    ("part", "ending"),
    [("image", "png"), ("image", "tif"), ("image", "webp"), ("labels", "png"), ("labels", "tif")],
)
def test_pictures_are_turned_upright(read, orientation, part, ending):
    upright = Image.fromarray(COLORS if part == "image" else LABELS)
    exif = Image.Exif()
    exif[0x0112] = orientation
    saved = upright.transpose(TURNED_BACK[orientation]) if orientation in TURNED_BACK else upright
    lossless = {"lossless": True, "exact": True} if ending == "webp" else {}
    found = read(**{part: saved, f"{part}_name": f"a.{ending}"}, exif=exif, **lossless)
    assert torch.equal(found.image, torch.from_numpy(COLORS).movedim(-1, 0))
    assert torch.equal(found.labels, torch.from_numpy(LABELS).to(torch.int64))
    if ending != "tif":  # which Pillow turns itself
        what = "images" if part == "image" else "label images"
        told = (f"{what} are turned upright, as their EXIF data say",) if orientation in TURNED_BACK else ()
        assert found.notes == told


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_images_of_16_bits_are_scaled(read, name):
    gray = np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
    found = read(Image.fromarray(gray), image_name=name)
    assert found.image.shape == (3, HEIGHT, WIDTH)
    torch.testing.assert_close(found.image[0], torch.from_numpy(gray.astype(np.float32) / 65535))
    assert found.notes == ("images have 16 bits: they are read as numbers from 0 to 1, of which 1 is 65,535",)


@pytest.mark.parametrize("order", "<>")
def test_either_order_of_bytes(order):
    picture = Image.frombytes(
        "I;16B" if order == ">" else "I;16", (WIDTH, HEIGHT), (GRAY * 257).astype(f"{order}u2").tobytes()
    )
    torch.testing.assert_close(as_image(picture)[1], torch.from_numpy(GRAY).to(torch.float32) / 255)
    assert as_labels(picture).tolist() == (GRAY * 257).tolist()


def test_16_bits_of_which_12_are_used_are_told(read):
    notes = read(Image.fromarray((GRAY * 16).astype(np.uint16))).notes
    assert (
        notes[1]
        == "images of 16 bits hold no number above 4,095, and so are nearly black: if white is less, scale them"
    )


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_images_of_32_bits_are_refused(read, dtype):
    with pytest.raises(
        ValueError, match=r"^image 0: .*a\.tif holds numbers of 32 bits \(mode .\), of which nothing tells"
    ):
        read(Image.fromarray(GRAY.astype(dtype)), image_name="a.tif")


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
def test_integers_whose_white_is_not_known_are_told(dtype):
    labeled = LabeledImages(
        dataset=[(torch.ones(3, 2, 2, dtype=dtype), torch.zeros(2, 2, dtype=torch.uint8))], num_classes=2
    )
    with pytest.warns(UserWarning, match=f"tensors of {dtype}, .* takes {torch.iinfo(dtype).max:,} for white"):
        list(read_batches(labeled, batch_size=1, num_workers=0))


def test_floats_of_labels_are_refused(read):
    with pytest.raises(ValueError, match=r"a\.tif holds no class numbers, but floating-point numbers"):
        read(labels=Image.fromarray(LABELS.astype(np.float32)), labels_name="a.tif")


def test_colors_of_labels_have_8_bits():
    for dtype in (np.uint16, np.int32, np.float32):
        with pytest.raises(ValueError, match="a label image has more than 8 bits a color, and 8 are read"):
            as_labels(Image.fromarray(GRAY.astype(dtype)), {"#ffffff": 0})


@pytest.mark.parametrize("part", ["image", "labels"])
@pytest.mark.parametrize("ending", ["tif", "gif", "png", "webp"])
def test_stacks_are_refused(read, part, ending):
    pages = [Image.fromarray(LABELS + page) for page in range(3)]
    stack = {part: pages[0], f"{part}_name": f"a.{ending}"}
    with pytest.raises(ValueError, match=rf"^image 0: .*a\.{ending} holds 3 pages, .*: save each page as a file"):
        read(**stack, save_all=True, append_images=pages[1:], **({"lossless": True} if ending == "webp" else {}))


def tiff(bands, bits=8, subfile_types=(0,)):
    """A TIFF with so many bands, and a page for each type, one behind another."""
    values = np.broadcast_to(COLORS[..., :1], (HEIGHT, WIDTH, bands)).astype(f"<u{bits // 8}").tobytes()
    lists = struct.pack(f"<{bands}H", *[bits] * bands) + bytes(2 * bands)
    file = b"II*\0" + struct.pack("<I", 8 + len(values) + len(lists)) + values + lists
    for page, kind in enumerate(subfile_types):
        long = [(254, kind), (256, WIDTH), (257, HEIGHT), (273, 8), (278, HEIGHT), (279, len(values))]
        short = [(259, 1), (262, 2 if bands > 2 else 1), (277, bands), (284, 1)]
        entries = [(tag, 4, 1, value) for tag, value in long] + [(tag, 3, 1, value) for tag, value in short]
        entries.append((258, 3, bands, 8 + len(values) if bands > 2 else bits))
        if bands > 3:
            entries.append((338, 3, bands - 3, 8 + len(values) + 2 * bands if bands > 5 else 0))
        directory = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
        following = len(file) + len(directory) + 6 if page + 1 < len(subfile_types) else 0
        file += struct.pack("<H", len(entries)) + directory + struct.pack("<I", following)
    return file


def test_previews_and_masks_are_no_pages(read):
    assert read(tiff(1, subfile_types=(0, 1, 4, 5)), image_name="a.tif").image[0].tolist() == COLORS[..., 0].tolist()


def test_pages_beside_previews_are_counted(read):
    with pytest.raises(ValueError, match=r"a\.tif holds 2 pages"):
        read(tiff(1, subfile_types=(0, 1, 2)), image_name="a.tif")


def test_bands_that_are_left_out_are_told(read):
    found = read(tiff(4), image_name="a.tif")
    assert found.image.shape == (3, HEIGHT, WIDTH)
    assert found.notes == ("images have 4 bands, of which the first 3 are read: a data set of your own can give all",)


def test_16_bits_a_color_are_told_or_refused(read, tmp_path):
    found = read(tiff(3, bits=16), image_name="a.tif")
    assert found.image.max() == 0
    assert found.notes == (
        "images have 16 bits a color, of which the upper 8 are read: if white is less than 65,535, scale them",
    )
    (tmp_path / "labels" / "a.png").unlink()
    (tmp_path / "labels" / "a.tif").write_bytes(tiff(3, bits=16))
    dataset = SegmentationFolder(tmp_path / "images", tmp_path / "labels")
    error = LabeledImages(dataset=dataset, num_classes=CLASSES, label_map={"#000000": 0})[0]
    assert str(error).endswith("labels/a.tif has more than 8 bits a color, and 8 are read")


def test_bands_that_cannot_be_read_are_counted(read):
    with pytest.raises(ValueError, match=r"a\.tif is not a whole picture: Pillow cannot read its 13 bands of 16 bits"):
        read(tiff(13, bits=16), image_name="a.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_told(read, mode):
    picture = Image.fromarray(COLORS).convert(mode)
    expected = as_image(picture)
    opaque = LabeledImages(dataset=[(picture, torch.from_numpy(LABELS))], num_classes=CLASSES)[0]
    assert isinstance(opaque, LabeledImage)
    assert opaque.notes == ()
    if mode == "P":
        found = read(picture, transparency=bytes(range(256)))
    else:
        picture.putalpha(Image.new("L", picture.size, 254))
        found = read(picture)
    assert torch.equal(found.image, expected)
    assert found.notes == (
        "images have an alpha channel that is not opaque everywhere: it is left out, the colors below it count",
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.jpg", {"quality": 100}),
        ("a.tif", {"compression": "jpeg"}),
        ("a.webp", {"quality": 100}),
        ("a.jp2", {"irreversible": True}),
    ],
)
def test_labels_whose_compression_changes_numbers_are_refused(read, name, options):
    with pytest.raises(ValueError, match=rf"labels/{name} is compressed as \w+ in a way that changes class numbers"):
        read(labels=Image.fromarray(LABELS), labels_name=name, label_map={0: 0}, **options)


def test_labels_in_jpeg_2000_without_loss_are_read(read):
    assert torch.equal(
        read(labels=Image.fromarray(LABELS), labels_name="a.jp2").labels, torch.from_numpy(LABELS).long()
    )


@pytest.mark.parametrize("white", [3, 15, 255])
def test_labels_that_pillow_would_scale_are_refused(read, tmp_path, white):
    pgm = f"P5 {WIDTH} {HEIGHT} {white}\n".encode() + LABELS.tobytes()
    if white == 255:
        assert read(labels=pgm, labels_name="a.pgm").labels.tolist() == LABELS.tolist()
        return
    with pytest.raises(
        ValueError, match=rf"labels/a\.pgm has gray values of other bits .* \(L;{white}\), which Pillow"
    ):
        read(labels=pgm, labels_name="a.pgm")
    named = {number * 255 // white: number for number in range(CLASSES)}
    dataset = SegmentationFolder(tmp_path / "images", tmp_path / "labels")
    found = LabeledImages(dataset=dataset, num_classes=CLASSES, label_map=named)[0]
    assert found.labels.tolist() == LABELS.tolist()


def test_transparency_of_labels_is_told(read):
    colors = np.stack([LABELS, LABELS, LABELS, 255 * LABELS], -1)
    found = read(labels=Image.fromarray(colors), label_map={f"#0{n}0{n}0{n}": n for n in range(CLASSES)})
    assert torch.equal(found.labels, torch.from_numpy(LABELS).long())
    assert found.notes == ("label images are transparent in places: the colors below count there, too",)


def test_photographs_with_a_preview_are_read(read):
    photograph, preview = Image.fromarray(COLORS), Image.fromarray(COLORS[::2, ::2])
    assert read(photograph, image_name="a.mpo", save_all=True, append_images=[preview]).notes == ()


def test_labels_in_webp_without_loss_are_read(read):
    labels = Image.fromarray(np.stack([LABELS, LABELS, LABELS], -1))
    label_map = {f"#0{number}0{number}0{number}": number for number in range(CLASSES)}
    found = read(labels=labels, labels_name="a.webp", label_map=label_map, lossless=True, exact=True)
    assert torch.equal(found.labels, torch.from_numpy(LABELS).to(torch.int64))


@pytest.mark.parametrize(("label_map", "told"), [(None, 1), ({f"#0{n}0000": n for n in range(4)}, 0)])
def test_palettes_that_differ_are_told(label_map, told, recwarn):
    palette = [value for number in range(CLASSES) for value in (number, 0, 0)]
    pairs = []
    for colors in (palette, [*palette, 9, 9, 9], palette[3:6] + palette[:3] + palette[6:]):
        labels = Image.fromarray(LABELS)
        labels.putpalette(colors)
        pairs.append((Image.fromarray(COLORS), labels))
    list(
        read_batches(
            LabeledImages(dataset=pairs, num_classes=CLASSES, label_map=label_map), batch_size=2, num_workers=0
        )
    )
    expected = ["palettes of label images differ: 0 is #000000 in image 0 and #010000 in image 2; "]
    assert [str(each.message).removesuffix("the numbers are taken as classes") for each in recwarn] == expected * told


def test_a_picture_that_would_take_all_memory_is_refused(read, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH // 3)
    with pytest.raises(
        ValueError, match=r"images/a\.png is not a whole picture: Image size \(384 pixels\) exceeds limit"
    ):
        read()


def test_the_checksums_of_a_png_are_looked_at(read, tmp_path):
    read()
    path = tmp_path / "images" / "a.png"
    contents = bytearray(path.read_bytes())
    contents[contents.index(b"IEND") - 6] ^= 1  # in the checksum of the pixels
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=r"images/a\.png is not a whole picture"):
        SegmentationFolder(tmp_path / "images", tmp_path / "labels")[0]
