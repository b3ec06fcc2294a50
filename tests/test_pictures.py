"""One reader of pictures: people see what the network sees, and what is no picture is refused"""

import base64
import io
import os
import re
import struct
import subprocess
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, TiffImagePlugin

from cyborg import pictures
from cyborg.cache import ImageError, decode_image
from cyborg.explore.picture import framed
from cyborg.findings import _file_traits
from cyborg.measure.audit import _record, perceptual_hash
from cyborg.others.attention import read_templates
from cyborg.people.crowd import _encode, fitted
from cyborg.people.store import stored_size
from cyborg.pictures import PictureError, decode_square, picture_size, read_picture
from cyborg.saliency import read_map
from cyborg.widgets import picture_url

ROOT = Path(__file__).parents[1]
SIDE = 64


def from_url(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


def page(path: Path) -> np.ndarray:
    "What the page of a study sends; a JPEG."
    _encode(path, path.with_name("sent.jpg"), SIDE, False)
    return np.asarray(Image.open(path.with_name("sent.jpg")))


SEEN = {  # how people and programs see a picture of SIDE x SIDE, exactly
    "crop": read_picture,
    "brush": lambda path: from_url(picture_url(path)[0]),
    "explorer": lambda path: framed(path, SIDE).pixels,
}
GIVEN = {  # likewise, where somebody else has opened it
    "brush": lambda image: from_url(picture_url(image)[0]),
    "page": lambda image: np.asarray(fitted(image, SIDE)),
}


def face() -> Image.Image:
    "Smooth colours, no two corners alike."
    y, x = np.mgrid[:SIDE, :SIDE] / (SIDE - 1) * 250
    return Image.fromarray(np.stack([x, y, 250 - (x + y) / 2], -1).astype(np.uint8))


def clear(image: Image.Image) -> Image.Image:
    "With an upper left that is transparent, a lower right that is half so."
    alpha = np.full((SIDE, SIDE), 255, np.uint8)
    alpha[:20, :20], alpha[40:, 40:] = 0, 128
    image.putalpha(Image.fromarray(alpha))
    return image


def deep(kind: str) -> Image.Image:
    values = np.linspace(0, 65535, SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint16)
    return Image.fromarray(values.astype(kind))


def grey() -> Image.Image:
    return face().convert("L")


def few() -> Image.Image:
    return face().quantize(16)


WRITTEN = {  # name of the case -> image, suffix and options: every mode that Pillow writes
    "1": (lambda: face().convert("1"), "png", {}),
    "1 tif": (lambda: face().convert("1"), "tif", {}),
    "L": (grey, "png", {}),
    "L jpg": (grey, "jpg", {}),
    "L one value transparent": (grey, "png", {"transparency": 120}),
    "LA": (lambda: clear(grey()), "png", {}),
    "LA tif": (lambda: clear(grey()), "tif", {}),
    "P": (few, "png", {}),
    "P gif": (few, "gif", {}),
    "P one colour transparent": (few, "png", {"transparency": 3}),
    "P each colour half transparent": (few, "png", {"transparency": bytes(range(0, 256, 16))}),
    "P gif transparent": (few, "gif", {"transparency": 3}),
    "PA": (lambda: clear(face()).convert("PA"), "tif", {}),
    "RGB": (face, "png", {}),
    "RGB jpg": (face, "jpg", {"quality": 95}),
    "RGB webp": (face, "webp", {"lossless": True}),
    "RGB bmp": (face, "bmp", {}),
    "RGB ppm": (face, "ppm", {}),
    "RGB jp2": (face, "jp2", {}),
    "RGB tif": (face, "tif", {"compression": "tiff_lzw"}),
    "RGB one colour transparent": (face, "png", {"transparency": (0, 0, 250)}),
    "RGBA": (lambda: clear(face()), "png", {}),
    "RGBA webp": (lambda: clear(face()), "webp", {"lossless": True}),
    "RGBA tif": (lambda: clear(face()), "tif", {}),
    "RGBX": (lambda: face().convert("RGBX"), "tif", {}),
    "CMYK jpg": (lambda: face().convert("CMYK"), "jpg", {"quality": 95}),
    "CMYK tif": (lambda: face().convert("CMYK"), "tif", {}),
    "YCbCr": (lambda: face().convert("YCbCr"), "jpg", {"quality": 95}),
    "YCbCr tif": (lambda: face().convert("YCbCr"), "tif", {}),
    "LAB": (lambda: face().convert("LAB"), "tif", {}),
    "I;16": (lambda: deep("<u2"), "png", {}),
    "I;16 tif": (lambda: deep("<u2"), "tif", {}),
    "I;16B": (lambda: deep(">u2"), "tif", {}),
    "I;16 pgm": (lambda: deep("<u2"), "pgm", {}),
    "I;16 jp2": (lambda: deep("<u2"), "jp2", {}),
}
TURNED = ("png", "jpg", "webp", "tif")


def written(folder: Path, case: str, orientation: int = 1) -> Path:
    image, suffix, options = WRITTEN[case]
    path = folder / f"face.{suffix}"
    if orientation > 1:
        options = options | {"exif": Image.Exif()}
        options["exif"][0x0112] = orientation
    image().save(path, **options)
    return path


def assert_seen_alike(path: Path, given: bool = True) -> np.ndarray:
    trained = decode_image(path, SIDE)
    for name, see in SEEN.items():
        np.testing.assert_array_equal(see(path), trained, err_msg=name)
    for name, see in GIVEN.items() if given else ():
        np.testing.assert_array_equal(see(Image.open(path)), trained, err_msg=name)
    np.testing.assert_array_equal(decode_square(path.read_bytes(), SIDE).pixels, trained)
    assert np.abs(page(path).astype(int) - trained).mean() < 6
    record = _record(str(path), SIDE)
    np.testing.assert_array_equal(record["hash"][0], np.packbits(perceptual_hash(trained[None])[0]))
    assert picture_size(path) == stored_size(str(path)) == (SIDE, SIDE)
    return trained


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", WRITTEN)
def test_people_see_the_pixels_of_training_in_every_mode(tmp_path, case):
    trained = assert_seen_alike(written(tmp_path, case))
    if "trans" in case or case in ("LA", "LA tif", "PA", "RGBA", "RGBA webp", "RGBA tif"):
        return  # below
    image = WRITTEN[case][0]()
    if image.mode.startswith("I;16"):
        np.testing.assert_array_equal(trained[..., 1], np.rint(np.asarray(image) / 257))
    else:
        lossy = WRITTEN[case][1] in ("jpg", "jp2")
        difference = np.abs(trained - np.asarray(image.convert("RGB")).astype(float))
        assert difference.mean() < 4 if lossy else difference.max() <= 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("case", [case for case in WRITTEN if WRITTEN[case][1] in TURNED])
def test_people_see_the_pixels_of_training_held_in_every_way(tmp_path, case, orientation):
    flat = decode_image(written(tmp_path, case), SIDE)
    turned = assert_seen_alike(written(tmp_path, case, orientation))
    image = Image.fromarray(flat).transpose(pictures._UPRIGHT[orientation])
    assert np.abs(turned - np.asarray(image).astype(float)).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", TURNED)
def test_the_size_of_a_picture_is_that_of_its_pixels(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"wide.{suffix}"
    Image.new("RGB", (9, 4)).save(path, exif=exif)
    assert picture_size(path) == read_picture(path).shape[1::-1]
    assert picture_size(path) == ((4, 9) if orientation > 4 else (9, 4))


def test_transparent_pixels_show_the_grey_of_training_and_never_what_is_behind(tmp_path):
    path = written(tmp_path, "RGBA")
    for see in SEEN.values():
        assert (see(path)[:20, :20] == 128).all()
        np.testing.assert_allclose(
            see(path)[40:, 40:], (np.asarray(face())[40:, 40:] + 128.0) / 2, atol=2
        )


@pytest.mark.parametrize(("mode", "suffix"), [("I", "tif"), ("F", "tif"), ("F", "pfm")])
def test_pixels_without_a_white_are_refused_by_all(tmp_path, mode, suffix):
    path = tmp_path / f"depth.{suffix}"
    Image.new(mode, (SIDE, SIDE)).save(path)
    for read in (lambda path: decode_image(path, SIDE), *list(SEEN.values())[:2], page):
        with pytest.raises(PictureError, match=rf"depth\.{suffix}: 32-bit pixels \(mode {mode}\)"):
            read(path)


# What a picture carries besides its pixels


def chunk(kind: bytes, body: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + check


def png_with(*chunks: bytes, last: bool = False, image: Image.Image | None = None) -> bytes:
    (image or face()).save(file := io.BytesIO(), "PNG")
    data = file.getvalue()
    at = data.index(b"IEND" if last else b"IDAT") - 4
    return data[:at] + b"".join(chunks) + data[at:]


BIG = zlib.compress(b'{"node": 1}' * 150_000)
BOMB = zlib.compress(bytes(50 << 20), 9)  # 50 MB of text in 50 kB
TEXTS = {
    "zTXt": [chunk(b"zTXt", b"workflow\0\0" + BIG)],
    "iTXt": [chunk(b"iTXt", b"workflow\0\1\0\0\0" + BIG)],
    "iTXt unpacked": [chunk(b"iTXt", b"workflow\0\0\0\0\0" + bytes(2_000_000))],
    "tEXt": [chunk(b"tEXt", b"prompt\0" + b"x" * 3_000_000)],
    "iCCP": [chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(1_200_000)))],
    "iCCP of an unknown method": [chunk(b"iCCP", b"icc\0\7abc")],
    "many zTXt": [chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"x" * 1_000_000))] * 80,
    "many zTXt that could turn": [
        chunk(b"zTXt", b"XML:com.adobe.xmp\0\0" + zlib.compress(b"x" * 1_000_000))
    ]
    * 80,
    "a bomb": [chunk(b"zTXt", b"workflow\0\0" + BOMB)],
    "a bomb that could turn": [chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB)],
    "no zlib": [chunk(b"zTXt", b"XML:com.adobe.xmp\0\0abc")],
    "a text with a wrong checksum": [chunk(b"tEXt", b"prompt\0abc")[:-1] + b"!"],
    "a date with a wrong checksum": [chunk(b"tIME", bytes(7))[:-1] + b"!"],
    "EXIF with a wrong checksum": [chunk(b"eXIf", bytes(7))[:-1] + b"!"],
    "a short resolution": [chunk(b"pHYs", b"abc")],
    "a private chunk": [chunk(b"caBX", bytes(3_000_000))],
}


@pytest.mark.parametrize("last", [False, True], ids=["before the pixels", "after them"])
@pytest.mark.parametrize("name", TEXTS)
def test_what_a_png_carries_besides_says_nothing_against_its_pixels(tmp_path, name, last):
    path = tmp_path / "made.png"
    path.write_bytes(png_with(*TEXTS[name], last=last))
    np.testing.assert_array_equal(assert_seen_alike(path, given=False), np.asarray(face()))
    path.write_bytes(png_with(*TEXTS[name], last=last, image=grey()))
    np.testing.assert_allclose(read_map(path), np.asarray(grey()) / 255, atol=1e-6)
    assert _file_traits(str(path)) == ("PNG", "L", f"{SIDE} x {SIDE}", "False")


def test_texts_of_a_png_are_not_unpacked_into_memory(monkeypatch):
    sizes = []
    real = Image.open

    def measured(file, formats):
        sizes.append(len(file.getvalue()))
        return real(file, formats=formats)

    monkeypatch.setattr(Image, "open", measured)
    for texts in TEXTS.values():
        pictures.read_picture(png_with(*texts))
    assert max(sizes) < 100_000


def test_texts_of_a_png_cost_no_more_time_than_one_of_them(monkeypatch):
    unpacked, real = [], zlib.decompressobj

    class Counting:
        def decompress(self, data, limit):
            found = real().decompress(data, limit)
            unpacked.append(len(found))
            return found

    monkeypatch.setattr(pictures.zlib, "decompressobj", Counting)
    for bomb in (BOMB, zlib.compress(b"x" * 1_000_000)):
        texts = [chunk(b"zTXt", b"XML:com.adobe.xmp\0\0" + bomb)] * 300
        unpacked.clear()
        assert len(pictures._bare_png(png_with(*texts))) < 30_000
        assert sum(unpacked) < 3 << 20


def test_an_orientation_hidden_in_a_text_of_a_png_is_obeyed():
    wanted = np.rot90(np.asarray(face()), -1)
    xmp = b'<x tiff:Orientation="6"/>'
    exif = Image.Exif()
    exif[0x0112] = 6
    code = exif.tobytes()
    profile = b"\nexif\n%8d\n%s\n" % (len(code), code.hex().encode())
    for body in (
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)),
        chunk(b"eXIf", code.removeprefix(b"Exif\0\0")),
    ):
        for last in (False, True):
            np.testing.assert_array_equal(pictures.read_picture(png_with(body, last=last)), wanted)


BROKEN = {
    "short": b"\0\x08\0\x02\x01\x12\0\x03",
    "no entries where they should be": b"II*\0\xff\xff\xff\x7f",
    "an orientation elsewhere": b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x05\0\0\0\1\0\0\xff\xff",
    "an orientation in words": b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04six\0\0\0\0\0",
    "orientation 9": b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0\0\0\0\0",
    "orientation 0": b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\0\0\0\0\0\0\0",
    "noise": bytes(range(256)),
}


def with_exif(suffix: str, exif: bytes) -> bytes:
    if suffix == "png":
        return png_with(chunk(b"eXIf", exif))
    file, lossless = io.BytesIO(), {"lossless": True} if suffix == "webp" else {"quality": 95}
    exif = b"Exif\0\0" + exif if suffix == "jpg" else exif
    face().save(file, {"jpg": "JPEG", "webp": "WEBP"}[suffix], exif=exif, **lossless)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize("exif", BROKEN)
def test_broken_exif_says_nothing_against_the_pixels(tmp_path, suffix, exif):
    path = tmp_path / f"phone.{suffix}"
    path.write_bytes(with_exif(suffix, BROKEN[exif]))
    trained = decode_image(path, SIDE)
    for read in (read_picture, lambda path: from_url(picture_url(path)[0])):
        np.testing.assert_array_equal(read(path), trained)
    assert np.abs(trained - np.asarray(face()).astype(float)).mean() < 2
    assert picture_size(path) == (SIDE, SIDE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tag", [34665, 34853, 40965], ids=["EXIF", "GPS", "interoperability"])
@pytest.mark.parametrize("place", [6, 2**31 - 1, 2**32 - 1])
def test_broken_exif_of_a_tiff_says_nothing_against_the_pixels(tmp_path, tag, place):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[tag], info.tagtype[tag] = 1 << 30, 4
    face().save(file := io.BytesIO(), "TIFF", tiffinfo=info)
    entry = struct.pack("<HHI", tag, 4, 1)
    data = file.getvalue().replace(
        entry + struct.pack("<I", 1 << 30), entry + struct.pack("<I", place)
    )
    assert data != file.getvalue()
    (tmp_path / "scan.tif").write_bytes(data)
    trained = assert_seen_alike(tmp_path / "scan.tif", given=False)
    np.testing.assert_array_equal(trained, np.asarray(face()))


# What is refused


def eps() -> bytes:
    face().save(file := io.BytesIO(), "EPS")
    return file.getvalue()


STRANGERS = {
    "EPS": eps(),
    "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 4, 4, 8, 3) + bytes(14) + bytes(48),
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"/>',
    "SVG in XML": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(512),
    "PDF": b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n",
    "FITS": b"SIMPLE  =                    T".ljust(2880),
    "GRIB": b"GRIB\0\0\0\1" + bytes(64),
    "BUFR": b"BUFR\0\0\0\4" + bytes(64),
    "WMF": b"\xd7\xcd\xc6\x9a\0\0" + bytes(60),
    "ICO": b"\0\0\1\0\1\0\4\4\0\0\1\0\x20\0" + bytes(64),
    "HEIC": b"\0\0\0\x18ftypheic" + bytes(64),
    "a pickle": b"\x80\4\x95\0\0\0\0\0\0\0\0.",
}
REFUSING = {
    "training": lambda path: decode_image(path, 8),
    "crop": read_picture,
    "map": read_map,
    "brush": picture_url,
    "page": page,
    "explorer": lambda path: framed(path, 8),
    "explorer, cropped": lambda path: framed(path, 8, lambda *_: []),
    "size": picture_size,
    "templates": lambda path: read_templates(
        path.rename(path.with_name("template0.png")).parent, (4, 4)
    ),
}


@pytest.fixture
def no_program(monkeypatch):
    "Whoever starts a program, or looks for one, fails."

    def started(*arguments, **_):
        pytest.fail(f"a program was started: {arguments}")

    monkeypatch.setenv("PATH", "")
    for owner, name in (
        *((subprocess, name) for name in ("Popen", "run", "call", "check_call", "check_output")),
        *(
            (os, name)
            for name in ("system", "popen", "posix_spawn", "posix_spawnp", "execv", "fork")
        ),
    ):
        monkeypatch.setattr(owner, name, started)


@pytest.mark.parametrize("reader", REFUSING)
@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_stranger_with_the_name_of_a_picture_is_refused_by_its_path(
    tmp_path, no_program, stranger, reader
):
    for path in (tmp_path / "face.png", tmp_path / "face.jpg"):
        path.write_bytes(STRANGERS[stranger])
        place = re.escape(str(path if reader != "templates" else tmp_path / "template0.png"))
        with pytest.raises(PictureError, match=f"^{place}.*not an image in one of"):
            REFUSING[reader](path)


def test_the_audits_count_a_stranger_as_unreadable(tmp_path, no_program):
    path = tmp_path / "face.png"
    for data in STRANGERS.values():
        path.write_bytes(data)
        assert set(_file_traits(str(path))) == {"unreadable"}
        assert "not an image" in _record(str(path), 64)
        assert stored_size(str(path)).startswith(f"{path}: not an image")


def test_the_message_says_what_came():
    for stranger, words in {"EPS": "PostScript", "PSD": "Photoshop", "HEIC": "heic"}.items():
        with pytest.raises(PictureError, match=words):
            pictures.read_picture(STRANGERS[stranger], "upload")
    with pytest.raises(PictureError, match="upload: .* begins with b'GIF87'"):
        pictures.read_picture(b"GIF87", "upload")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000"])
def test_a_truncated_picture_is_refused_by_every_reader(tmp_path, form):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file := io.BytesIO(), form)
    path = tmp_path / "cut.png"
    path.write_bytes(file.getvalue()[: len(file.getvalue()) // 2])
    for name in ("training", "crop", "map", "brush", "page", "explorer"):
        with pytest.raises(PictureError, match=re.escape(str(path))):
            REFUSING[name](path)


def test_no_reader_makes_up_what_is_missing(tmp_path, monkeypatch):
    path = written(tmp_path, "RGB")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for name in ("training", "crop", "map", "brush", "page", "explorer", "size"):
        with pytest.raises(ValueError, match="LOAD_TRUNCATED_IMAGES is True"):
            REFUSING[name](path)


def test_one_limit_of_size_holds_for_every_reader(tmp_path, monkeypatch):
    path = written(tmp_path, "L")
    monkeypatch.setattr(pictures, "MAX_PIXELS", SIDE * SIDE - 1)
    for name in ("training", "crop", "map", "brush", "page", "explorer", "size"):
        with pytest.raises(PictureError, match=rf"{SIDE} x {SIDE} pixels, at most {SIDE**2 - 1}"):
            REFUSING[name](path)
    monkeypatch.setattr(pictures, "MAX_PIXELS", SIDE * SIDE)
    assert picture_size(path) == (SIDE, SIDE)


@pytest.mark.parametrize("strict", [False, True])
def test_a_bomb_is_refused_in_our_words(tmp_path, strict):
    data = bytearray(png_with())
    data[16:24] = struct.pack(">II", 30_000, 30_000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    (tmp_path / "bomb.png").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore")
        for name in ("training", "crop", "map", "brush", "page", "size"):
            with pytest.raises(PictureError, match=r"bomb\.png.*(pixels|Bomb)"):
                REFUSING[name](tmp_path / "bomb.png")


def test_what_is_no_file_is_refused_by_every_reader(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    reasons = {
        "absent": "No such file",
        "empty": "0 bytes",
        "folder": "not a reg",
        "pipe": "not a reg",
    }
    for name in ("training", "crop", "map", "brush", "page", "explorer", "size"):
        for stem, reason in reasons.items():
            with pytest.raises(ImageError, match=rf"{stem}\.png.*{reason}") as caught:
                REFUSING[name](tmp_path / f"{stem}.png")
            assert caught.value.failures[0][0] == str(tmp_path / f"{stem}.png")


# The source itself


def test_pictures_are_opened_in_one_place():
    "Elsewhere only what was encoded a line before, with its format."
    files = [*(ROOT / "cyborg").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    files += [*(ROOT / "experiments").rglob("*.py")]
    files.remove(ROOT / "benchmarks" / "literal.py")  # the released loop reads as it was released
    found = []
    for path in files:
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.search(
                r"Image\.open\((?!.*formats=)|cv2\.imread\(|exif_transpose|ImageOps", line
            ):
                found.append(f"{path.relative_to(ROOT)}: {line.strip()}")
            if re.search(r"\bLOAD_TRUNCATED_IMAGES\s*=|imageio|read_image\(|decode_jpeg\(", line):
                found.append(f"{path.relative_to(ROOT)}: {line.strip()}")
    assert not found, "use cyborg.pictures: " + "; ".join(found)
    assert not {"EPS", "PSD", "PDF", "FITS", "GRIB", "BUFR", "HDF5", "WMF"} & {*pictures.FORMATS}
