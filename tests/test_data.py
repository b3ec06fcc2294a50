"""Decoding, the shared cache, data set and loader, under bad input and several processes."""

import errno
import io
import multiprocessing
import os
import pickle
import secrets
import signal
import sqlite3
import struct
import time
import warnings
import zlib
from collections import namedtuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageFile
from torchvision import transforms

from cyborg import cache as cache_module
from cyborg import data, pictures
from cyborg.cache import (
    CacheError,
    ImageError,
    cache_root,
    decode_image,
    open_cache,
    uncached_images,
)
from cyborg.data import Batch, EpochBatches, ImageDataset, make_loader
from cyborg.files import ManifestError
from cyborg.grids import open_maps
from cyborg.manifest import Manifest
from cyborg.saliency import human_map, resize_map, stroke_mask, unit_range, write_map

HALF = (0.5, 0.5, 0.5)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    "Smooth random colours (H, W, 3) uint8, so that compression and resizing change little"
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def manifest_of(
    root: Path, images: list[str], maps: list[str] | None = None, **columns
) -> Manifest:
    table = pd.DataFrame({"image": images, "map": maps or [""] * len(images)})
    table["label"] = [("authentic", "synthetic")[i % 2] for i in range(len(images))]
    table = table.assign(source="camera", split="train", subject="", **columns)
    return Manifest(table, root, ("authentic", "synthetic"))


@pytest.fixture
def images(tmp_path) -> Manifest:
    "41 PNG files of 16 x 16 noise, two thirds of them with a map of noise"
    rng = np.random.default_rng(1)
    for i in range(41):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(
            tmp_path / f"{i}.png"
        )
        Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(tmp_path / f"m{i}.png")
    maps = [f"m{i}.png" if i % 3 else "" for i in range(41)]
    return manifest_of(tmp_path, [f"{i}.png" for i in range(41)], maps)


def dataset_of(manifest: Manifest, size: int = 16, **options) -> ImageDataset:
    cache = open_cache(manifest, size, manifest.root / "cache")
    return ImageDataset(manifest, size, (4, 4), HALF, HALF, cache=cache, **options)


# decode_image


def test_resize_is_antialiased_bilinear(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    wanted = transforms.functional.resize(Image.fromarray(pixels), [20, 20])
    np.testing.assert_array_equal(decode_image(tmp_path / "a.png", 20), np.asarray(wanted))


def upright_by_hand(pixels: np.ndarray, orientation: int) -> np.ndarray:
    "What a viewer shows, from the EXIF standard's table: where row 0 and column 0 of the file are"
    return {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: pixels[::-1].transpose(1, 0, 2),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: pixels[:, ::-1].transpose(1, 0, 2),
    }[orientation]


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path, orientation, suffix):
    pixels = picture(28, 40)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    quality = {"lossless": True} if suffix == "webp" else {"quality": 95} if suffix == "jpg" else {}
    Image.fromarray(pixels).save(path, exif=exif, **quality)
    upright = upright_by_hand(pixels, orientation)
    wanted = np.asarray(Image.fromarray(upright).resize((16, 16), Image.Resampling.BILINEAR))
    difference = np.abs(decode_image(path, 16).astype(int) - wanted)
    assert difference.mean() <= 4 if suffix == "jpg" else difference.max() <= 1
    cache = open_cache(manifest_of(tmp_path, [path.name]), 16, tmp_path / "cache")
    assert tuple(cache.extent[0]) == upright.shape[:2]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "RGB", "RGBA", "LA", "YCbCr"])
def test_colour_modes(tmp_path, mode):
    pixels = np.full((8, 8, 3), 255, np.uint8)
    pixels[:4] = 0  # black above, white below: the same in every mode
    suffix = {"CMYK": "jpg", "YCbCr": "tif"}.get(mode, "png")
    image = Image.fromarray(pixels).convert(mode)
    image.save(tmp_path / f"a.{suffix}", **({"quality": 100} if suffix == "jpg" else {}))
    result = decode_image(tmp_path / f"a.{suffix}", 8)
    assert result.shape == (8, 8, 3)
    assert np.abs(result.astype(int) - pixels).max() <= 3


def test_grey_jpeg_with_scaled_decode(tmp_path):
    Image.fromarray(picture(400, 400)[..., 0]).save(tmp_path / "a.jpg", quality=95)
    result = decode_image(tmp_path / "a.jpg", 32)
    assert (result[..., 0] == result[..., 1]).all() and (result[..., 0] == result[..., 2]).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_keeps_its_range(tmp_path, suffix):
    deep = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(deep).save(tmp_path / f"a.{suffix}")
    wanted = np.rint(deep / 257).astype(int)
    np.testing.assert_array_equal(decode_image(tmp_path / f"a.{suffix}", 16)[..., 0], wanted)


def test_transparent_pixels_show_grey_and_not_what_is_behind(tmp_path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., 0] = 255  # red everywhere, also behind
    pixels[:2, :, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    result = decode_image(tmp_path / "a.png", 4)
    assert (result[:2] == (255, 0, 0)).all() and (result[2:] == (128, 128, 128)).all()
    palette = Image.fromarray(pixels[..., :3]).quantize(2)
    palette.save(tmp_path / "p.png", transparency=palette.getpixel((0, 0)))
    assert (decode_image(tmp_path / "p.png", 4) == (128, 128, 128)).all()


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_animation_gives_its_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black")]
    lossless = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **lossless)
    assert (decode_image(tmp_path / f"a.{suffix}", 8) == 255).all()


@pytest.mark.parametrize("side, size", [(1024, 64), (1023, 64), (129, 4)])
def test_scaled_decode_stays_near_the_full_one(tmp_path, side, size):
    rng = np.random.default_rng(0)
    noisy = picture(side, side) * 0.7 + rng.integers(0, 76, (side, side, 3))
    Image.fromarray(noisy.astype(np.uint8)).save(tmp_path / "a.jpg", quality=92)
    full = Image.open(tmp_path / "a.jpg").resize((size, size), Image.Resampling.BILINEAR)
    drafted = Image.open(tmp_path / "a.jpg")
    drafted.draft(None, (size * pictures._MARGIN, size * pictures._MARGIN))
    assert drafted.size[0] < side  # or this test would compare nothing
    difference = np.abs(decode_image(tmp_path / "a.jpg", size).astype(int) - np.asarray(full))
    assert difference.mean() < 1 and difference.max() <= 8


def bytes_of(image: Image.Image, form: str, **options) -> bytes:
    image.save(stream := io.BytesIO(), form, **options)
    return stream.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_truncated_files_are_refused(tmp_path, form, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = bytes_of(Image.fromarray(noise), form)
    path = tmp_path / "cut.img"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ImageError, match=r"cut\.img: ") as caught:
        decode_image(path, 16)
    assert caught.value.failures[0][0] == str(path)


def test_what_is_no_image_is_refused_by_path_and_reason(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "script.eps").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
    )
    Image.new("F", (4, 4)).save(tmp_path / "depth.tif")
    os.mkfifo(tmp_path / "pipe.png")
    reasons = {
        "empty.png": "0 bytes",
        "text.jpg": "not an image",
        "folder.png": "not a regular file",
        "script.eps": "not an image",
        "depth.tif": "32-bit",
        "pipe.png": "not a regular file",
        "absent.png": "No such file",
    }
    for name, reason in reasons.items():
        with pytest.raises(ImageError, match=f"{name}: .*{reason}"):
            decode_image(tmp_path / name, 8)


def test_decompression_bombs_are_refused(tmp_path):
    for side in (10_000, 20_000):  # PIL warns of the first and raises for the second
        small = bytes_of(Image.new("1", (1, 1)), "PNG")
        header = b"IHDR" + struct.pack(">II", side, side) + small[24:29]
        header += struct.pack(">I", zlib.crc32(header))
        (tmp_path / f"{side}.png").write_bytes(small[:12] + header + small[33:])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(ImageError, match=rf"{side}\.png.*(pixels, at most|Bomb)"):
                decode_image(tmp_path / f"{side}.png", 8)


def test_huge_files_are_refused_unread(tmp_path, monkeypatch):
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(pictures.MAX_BYTES + 1)  # sparse
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("was read"))
    with pytest.raises(ImageError, match="at most"):
        decode_image(tmp_path / "huge.png", 8)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "8"])
def test_size_is_checked(tmp_path, size):
    with pytest.raises(ValueError, match="size is .*, expected a whole number"):
        decode_image(tmp_path / "a.png", size)


# the cache


def test_cache_holds_what_decode_image_gives(images):
    cache = open_cache(images, 8, images.root / "cache")
    batch = cache.gather(np.arange(41))
    for name, square in zip(images.table["image"], batch, strict=True):
        np.testing.assert_array_equal(square, decode_image(images.root / name, 8))
    assert not cache.pixels.flags.writeable


def test_second_start_reads_no_file(images, monkeypatch):
    monkeypatch.setattr(cache_module, "_YOUNG", 0)  # these files were written a moment ago
    first = open_cache(images, 8, images.root / "cache")
    maps = open_maps(images, (4, 4), images.root / "cache")
    for name in ("content_hash", "file_bytes", "decode_square"):
        monkeypatch.setattr(cache_module, name, lambda *_: pytest.fail("a file was read"))
    monkeypatch.setattr(data, "read_map", lambda *_: pytest.fail("a file was read"))
    second = open_cache(images, 8, images.root / "cache")
    np.testing.assert_array_equal(second.gather(np.arange(41)), first.gather(np.arange(41)))
    np.testing.assert_array_equal(second.keys, first.keys)
    again = open_maps(images, (4, 4), images.root / "cache")
    np.testing.assert_array_equal(again.cells, maps.cells)


def test_young_files_are_hashed_again(tmp_path):
    Image.new("RGB", (4, 4), "white").save(tmp_path / "a.bmp")
    manifest = manifest_of(tmp_path, ["a.bmp"])
    before = (tmp_path / "a.bmp").stat()
    open_cache(manifest, 4, tmp_path / "cache")
    (index,) = (tmp_path / "cache").glob("*/index.sqlite")
    with sqlite3.connect(index) as db:
        assert db.execute("select count(*) from files").fetchone() == (0,)  # nothing remembered
    Image.new("RGB", (4, 4), "black").save(tmp_path / "a.bmp")  # same size in bytes
    os.utime(tmp_path / "a.bmp", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (open_cache(manifest, 4, tmp_path / "cache").gather([0]) == 0).all()


def test_replaced_file_is_decoded_again(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "_YOUNG", 0)
    manifest = manifest_of(tmp_path, ["a.png"])
    for colour, value in (("white", 255), ("black", 0), ("white", 255)):
        Image.new("RGB", (4, 4), colour).save(tmp_path / "a.png")
        cache = open_cache(manifest, 4, tmp_path / "cache")
        assert (cache.gather([0]) == value).all()
    assert len(cache.pixels) == 2  # white was still known


def test_same_bytes_are_kept_once_wherever_they_are(images, monkeypatch):
    open_cache(images, 8, images.root / "cache")
    other = images.root / "elsewhere"
    other.mkdir()
    for name in images.table["image"]:
        (other / name).write_bytes((images.root / name).read_bytes())
    monkeypatch.setattr(cache_module, "decode_square", lambda *_: pytest.fail("decoded again"))
    moved = open_cache(manifest_of(other, list(images.table["image"])), 8, images.root / "cache")
    assert len(moved.pixels) == 41


def test_sizes_do_not_mix(images):
    eight, four = (open_cache(images, size, images.root / "cache") for size in (8, 4))
    assert eight.gather([0]).shape == (1, 8, 8, 3) and four.gather([0]).shape == (1, 4, 4, 3)
    np.testing.assert_array_equal(four.gather([3])[0], decode_image(images.root / "3.png", 4))


def test_unknown_images_and_paths_out_of_the_root(images):
    cache = open_cache(images, 8, images.root / "cache")
    with pytest.raises(ValueError, match="first 'x.png'"):
        cache.find(["0.png", "x.png"])
    with pytest.raises(ManifestError):
        open_cache(manifest_of(images.root / "sub", ["../0.png"]), 8, images.root / "cache")


def test_pages_are_let_go_and_come_back(images, monkeypatch):
    monkeypatch.setattr(cache_module, "_RELEASE", 1000)
    cache = open_cache(images, 8, images.root / "cache")
    first = cache.gather(np.arange(41))
    np.testing.assert_array_equal(cache.gather(np.arange(41)), first)


def build(manifest: Manifest, others: int) -> None:
    "What one process does: wait for the others, then fill the cache"
    (manifest.root / f"ready{os.getpid()}").touch()
    while len(list(manifest.root.glob("ready*"))) <= others:
        time.sleep(0.001)
    open_cache(manifest, 8, manifest.root / "cache", threads=2)


def die_in_third_chunk(manifest: Manifest) -> None:
    "Be killed when the pixels of the third chunk are written and their entry is not"
    sync, calls = os.fsync, []

    def fsync(number):
        calls.append(number)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(number)

    os.fsync = fsync
    build(manifest, 0)


def run(target, *arguments) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    return process


def entered(manifest: Manifest) -> list[tuple]:
    (index,) = (manifest.root / "cache").glob("*/index.sqlite")
    with sqlite3.connect(index) as db:
        return db.execute("select key, row from images order by row").fetchall()


def check_complete(manifest: Manifest) -> None:
    "Every image once, without gaps, as decode_image gives it"
    cache = open_cache(manifest, 8, manifest.root / "cache")
    rows = [row for _, row in entered(manifest)]
    assert rows == list(range(41))
    assert cache.path.stat().st_size >= 41 * 8 * 8 * 3
    for name, square in zip(manifest.table["image"], cache.gather(np.arange(41)), strict=True):
        np.testing.assert_array_equal(square, decode_image(manifest.root / name, 8))


def test_two_processes_build_one_cache(images, monkeypatch):
    monkeypatch.setattr(cache_module, "DECODED_AT_ONCE", 4)
    processes = [run(build, images, 1) for _ in range(2)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    check_complete(images)


def test_killed_while_building(images, monkeypatch):
    monkeypatch.setattr(cache_module, "DECODED_AT_ONCE", 4)
    monkeypatch.setattr(secrets, "randbelow", lambda count: 0)  # the short chunk comes last
    process = run(die_in_third_chunk, images)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert len(entered(images)) == 8  # two chunks of four; the third is in the file only
    (file,) = (images.root / "cache").glob("*/pixels-8.u8")
    assert file.stat().st_size == 12 * 8 * 8 * 3
    with file.open("ab") as tail:
        tail.write(b"torn")
    check_complete(images)


def test_what_another_process_has_done_is_not_repeated(images, monkeypatch):
    calls = []

    def begin(count):
        calls.append(count)
        if len(calls) == 2:  # files are read, decoding is about to begin
            open_cache(images, 8, images.root / "cache")
            monkeypatch.setattr(
                cache_module, "decode_square", lambda *_: pytest.fail("decoded again")
            )
        return 0

    monkeypatch.setattr(secrets, "randbelow", begin)
    open_cache(images, 8, images.root / "cache")
    assert len(calls) == 4


def test_pixels_cut_off_or_lost_are_decoded_again(images):
    cache = open_cache(images, 8, images.root / "cache")
    os.truncate(cache.path, 5 * 8 * 8 * 3 + 7)
    check_complete(images)
    cache.path.unlink()
    check_complete(images)


def test_damaged_index_is_told(images):
    cache = open_cache(images, 8, images.root / "cache")
    (cache.path.parent / "index.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(CacheError, match="delete this folder"):
        open_cache(images, 8, images.root / "cache")


def test_full_disk_is_told_before_the_work(images, monkeypatch):
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(cache_module, "disk_usage", lambda _: Usage(10, 9, 100))
    monkeypatch.setattr(cache_module, "decode_square", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(CacheError, match=r"41 images of 8 px need 7,872 bytes, 100 are free"):
        open_cache(images, 8, images.root / "cache")


def test_disk_that_fills_up_in_the_middle(images, monkeypatch):
    monkeypatch.setattr(cache_module, "DECODED_AT_ONCE", 10)
    sync, calls = os.fsync, []

    def full(number):
        calls.append(number)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        sync(number)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CacheError, match="No space left on device.*stays valid"):
        open_cache(images, 8, images.root / "cache")
    monkeypatch.setattr(os, "fsync", sync)
    assert len(entered(images)) in (11, 20)  # two chunks, one of which may be the short one
    check_complete(images)


def test_folder_that_cannot_be_made(images):
    (images.root / "file").touch()
    with pytest.raises(CacheError, match="cache .* name another folder"):
        open_cache(images, 8, images.root / "file")


def test_file_that_changes_while_it_is_read_is_refused(images, monkeypatch):
    monkeypatch.setattr(cache_module, "content_hash", lambda path: f"{Path(path).stem:0>64}")
    cache = open_cache(images, 8, images.root / "cache")
    assert set(cache.refused.values()) == {"changed while it was read"}


def test_machine_faults_are_not_taken_for_bad_images(images, monkeypatch):
    def broken(path):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(cache_module, "content_hash", broken)
    with pytest.raises(OSError, match="Too many open files") as caught:
        open_cache(images, 8, images.root / "cache")
    assert not isinstance(caught.value, (CacheError, ImageError))


def test_filling_up_with_grey_is_refused(images, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ValueError, match="LOAD_TRUNCATED_IMAGES"):
        open_cache(images, 8, images.root / "cache")


def test_long_images_are_told(tmp_path):
    for name, width in (("a.png", 40), ("b.png", 20)):
        Image.new("RGB", (width, 20)).save(tmp_path / name)
    with pytest.warns(UserWarning, match=r"1 of 2 images .* first a.png \(40 x 20\)"):
        open_cache(manifest_of(tmp_path, ["a.png", "b.png"]), 8, tmp_path / "cache")


# maps


def test_maps_are_area_averages(images):
    maps = open_maps(images, (4, 4), images.root / "cache")
    for i, name in enumerate(images.table["map"]):
        if name:
            pixels = np.asarray(Image.open(images.root / name)) / 255
            wanted = pixels.reshape(4, 4, 4, 4).mean((1, 3))
            np.testing.assert_allclose(maps.cells[maps.slot[i]], wanted, atol=1e-6)
        else:
            assert maps.slot[i] == -1
    assert (maps.cells[-1] == 0).all()


@pytest.mark.parametrize("side", [7, 8, 10])
def test_maps_as_the_released_code_resizes_them(tmp_path, side):
    rng, names = np.random.default_rng(0), [f"m{i}.png" for i in range(5)]
    for name in names:  # strokes of three people, blurred
        strokes = np.stack([rng.uniform(40, 190, (4, 2)) for _ in range(3)])
        marks = [stroke_mask([stroke], (224, 224), 20) for stroke in strokes]
        write_map(tmp_path / name, human_map(np.stack(marks)))
        Image.fromarray(picture(224, 224)).save(tmp_path / name.replace("m", ""))
    manifest = manifest_of(tmp_path, [name.replace("m", "") for name in names], names)
    ours, averaged = (
        open_maps(manifest, (side, side), tmp_path / "cache", resize=resize)
        for resize in ("pil", "area")  # in one cache
    )
    steps = transforms.Compose([transforms.Resize((side, side)), transforms.ToTensor()])
    apart = []
    for slot, name in zip(ours.slot, names, strict=True):
        literal = steps(Image.open(tmp_path / name).convert("L"))[0].numpy()
        np.testing.assert_array_equal(ours.cells[slot], literal)
        apart.append(np.abs(unit_range(averaged.cells[slot]) - unit_range(literal)).max())
    assert np.mean(apart) > 0.03
    again = open_maps(manifest, (side, side), tmp_path / "cache", resize="pil")
    np.testing.assert_array_equal(again.cells, ours.cells)
    with pytest.raises(ValueError, match="resize is 'bilinear', expected one of area, pil"):
        open_maps(manifest, (side, side), tmp_path / "cache", resize="bilinear")


def test_uneven_grids_and_mirroring_commute():
    human = np.random.default_rng(0).random((3, 50, 37), dtype=np.float32)
    mirrored = resize_map(human[..., ::-1], (7, 5))
    np.testing.assert_allclose(mirrored, resize_map(human, (7, 5))[..., ::-1], atol=1e-6)


@pytest.mark.parametrize("side, fits", [((16, 16), 1), ((4, 4), 1), ((33, 32), 1), ((16, 12), 0)])
def test_map_must_have_the_shape_of_its_image(images, side, fits):
    noise = np.random.default_rng(0).integers(0, 256, side, dtype=np.uint8)
    Image.fromarray(noise).save(images.root / "m1.png")
    if fits:
        assert dataset_of(images)[1].has_map
    else:
        with pytest.raises(ImageError, match="map is 12 x 16 pixels, its image 1.png is 16 x 16"):
            dataset_of(images)


def test_map_belongs_to_the_upright_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(20, 40)).save(tmp_path / "a.jpg", exif=exif)  # upright: 40 high
    Image.fromarray(picture(40, 20)[..., 0]).save(tmp_path / "upright.png")
    Image.fromarray(picture(20, 40)[..., 0]).save(tmp_path / "lying.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert dataset_of(manifest_of(tmp_path, ["a.jpg"], ["upright.png"]))[0].has_map
        with pytest.raises(ImageError, match="map is 40 x 20 pixels, its image a.jpg is 20 x 40"):
            dataset_of(manifest_of(tmp_path, ["a.jpg"], ["lying.png"]))


def test_flat_maps_are_counted_as_no_map(images):
    Image.new("L", (16, 16), 0).save(images.root / "m1.png")
    Image.new("L", (16, 16), 255).save(images.root / "m2.png")
    with pytest.warns(UserWarning, match="2 maps flat"):
        dataset = dataset_of(images)
    assert dataset.flat_maps == 2
    batch = dataset.__getitems__([1, 2, 4])
    assert batch.has_map.tolist() == [False, False, True]
    assert (batch.human[:2] == 0).all()


def test_bad_maps_are_told_or_left_out(images):
    (images.root / "m1.png").write_bytes(b"")
    (images.root / "m2.png").unlink()
    (images.root / "m4.png").write_text("no map")
    with pytest.raises(ImageError) as caught:
        dataset_of(images)
    assert [name for name, _ in caught.value.failures] == ["m1.png", "m2.png", "m4.png"]
    with pytest.warns(UserWarning, match="3 maps left out"):
        dataset = dataset_of(images, on_error="exclude")
    assert len(dataset) == 41 and len(dataset.bad_maps) == 3
    assert dataset.__getitems__([1, 2, 4, 5]).has_map.tolist() == [False, False, False, True]


# the data set


def slow_batch(manifest: Manifest, rows: list[int], mirrored: list[bool]) -> Batch:
    "One image after the other, as torchvision does it"
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize(HALF, HALF)])
    fields = []
    for row, mirror in zip(rows, mirrored, strict=True):
        entry = manifest.table.iloc[row]
        image = steps(Image.open(manifest.root / entry["image"]))
        human = torch.zeros(16, 16)
        if entry["map"]:
            human = torch.from_numpy(np.asarray(Image.open(manifest.root / entry["map"])) / 255)
        if mirror:
            image, human = image.flip(-1), human.flip(-1)
        human = human.reshape(4, 4, 4, 4).mean((1, 3)).float()
        label = torch.tensor(manifest.classes.index(entry["label"]))
        fields.append((image, label, human, torch.tensor(bool(entry["map"])), torch.tensor(row)))
    return Batch(*(torch.stack(field) for field in zip(*fields, strict=True)))


@pytest.mark.parametrize("flip", [0.0, 0.5, 1.0])
def test_batch_equals_the_slow_one(images, flip):
    dataset = dataset_of(images, flip=flip, seed=3)
    dataset.set_epoch(2)
    rows = [5, 0, 40, 7, 5, 12, 9, 1]
    mirrored = data.flip_choices(41, flip, 3, 2)[rows].tolist()
    assert flip in (0, 1) or 0 < sum(mirrored) < len(rows)
    batch, wanted = dataset.__getitems__(rows), slow_batch(images, rows, mirrored)
    torch.testing.assert_close(batch.image, wanted.image, rtol=0, atol=0)
    torch.testing.assert_close(batch.human, wanted.human, rtol=0, atol=1e-6)
    for name in ("label", "has_map", "index"):
        assert torch.equal(getattr(batch, name), getattr(wanted, name)), name
    assert [field.dtype for field in batch] == [
        torch.float32, torch.int64, torch.float32, torch.bool, torch.int64,
    ]  # fmt: skip


def test_batches_own_their_memory(images):
    dataset = dataset_of(images)
    first = dataset.__getitems__([0, 1])
    for field in first:
        field.zero_()
    again = dataset.__getitems__([0, 1])
    assert again.image.abs().sum() > 0 and again.human.sum() > 0 and again.label.tolist() == [0, 1]


def test_one_item(images):
    item, batch = dataset_of(images)[-1], dataset_of(images).__getitems__([40])
    assert item.index == 40 and item.image.shape == (3, 16, 16) and item.human.shape == (4, 4)
    assert torch.equal(item.image, batch.image[0])
    with pytest.raises(IndexError, match="there are 41"):
        dataset_of(images)[41]


def spoil(manifest: Manifest) -> None:
    whole = (manifest.root / "3.png").read_bytes()
    (manifest.root / "3.png").write_bytes(whole[: len(whole) // 2])
    (manifest.root / "7.png").write_bytes(b"")
    (manifest.root / "9.png").unlink()


def test_training_names_all_bad_images_at_once(images):
    spoil(images)
    with pytest.raises(ImageError) as caught:
        dataset_of(images)
    text = str(caught.value)
    assert "3 files of 41 rows" in text and str(images.root) in text
    for name, reason in (("3.png", "damaged"), ("7.png", "0 bytes"), ("9.png", "No such file")):
        assert f"{name}: " in text and reason in text
    assert [name for name, _ in caught.value.failures] == ["3.png", "7.png", "9.png"]


def test_evaluation_excludes_and_lists(images):
    spoil(images)
    with pytest.warns(UserWarning, match="of 41 rows: 3 images excluded"):
        dataset = dataset_of(images, on_error="exclude")
    assert [name for name, _ in dataset.excluded] == ["3.png", "7.png", "9.png"]
    assert len(dataset) == len(dataset.manifest) == 38
    for i, name in enumerate(dataset.manifest.table["image"]):
        item, number = dataset[i], int(Path(name).stem)
        wanted = decode_image(images.root / name, 16) / 127.5 - 1
        np.testing.assert_allclose(item.image.permute(1, 2, 0), wanted, atol=1e-6)
        assert item.label == number % 2 and item.has_map == (number % 3 > 0)


def test_nothing_left_is_an_error(images):
    for name in images.table["image"]:
        (images.root / name).write_bytes(b"")
    with pytest.raises(ImageError, match="41 files of 41 rows"):
        dataset_of(images, on_error="exclude")


@pytest.mark.parametrize(
    "options, text",
    [
        ({"on_error": "ignore"}, "on_error is 'ignore'"),
        ({"flip": 1.5}, "flip is 1.5"),
        ({"flip": float("nan")}, "flip is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"mean": (0.5, 0.5)}, "mean is"),
        ({"std": (0.5, 0.5, 0.0)}, "std is .* above 0"),
        ({"map_size": (0, 4)}, "map_size is 0"),
        ({"size": 8}, "cache holds 16 px images .* expected 8 px"),
    ],
)
def test_arguments_are_checked(images, options, text):
    cache = open_cache(images, 16, images.root / "cache")
    settings = {"size": 16, "map_size": (4, 4), "mean": HALF, "std": HALF, "cache": cache}
    with pytest.raises(ValueError, match=text):
        ImageDataset(images, **(settings | options))


def test_a_cache_of_the_whole_manifest_serves_its_splits(images):
    table = images.table.assign(split=["val" if i % 4 == 0 else "train" for i in range(41)])
    whole = Manifest(table, images.root, images.classes)
    cache = open_cache(whole, 16, images.root / "cache")
    for split in ("train", "val"):
        part = whole.split(split)
        dataset = ImageDataset(part, 16, (4, 4), HALF, HALF, cache=cache)
        wanted = decode_image(images.root / part.table["image"][2], 16) / 127.5 - 1
        np.testing.assert_allclose(dataset[2].image.permute(1, 2, 0), wanted, atol=1e-6)


def test_default_cache_is_in_the_data_root(images, tmp_path, monkeypatch):
    monkeypatch.setenv("CYBORG_DATA", str(tmp_path / "data root"))
    dataset = ImageDataset(images, 16, (4, 4), HALF, HALF)
    assert dataset.cache.folder == tmp_path / "data root" / ".cache"


def test_a_read_only_data_folder_has_its_cache_beside_the_runs(
    images, tmp_path, monkeypatch, capsys
):
    def read_only(folder: Path) -> bool:
        return "runs" in folder.parts

    monkeypatch.setenv("CYBORG_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CYBORG_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(cache_module, "_writable", read_only)
    assert cache_root() == cache_root() == tmp_path / "runs" / ".cache"
    told = capsys.readouterr().out
    assert told.count("is read-only: decoded images are kept in") == told.count("CYBORG_CACHE") == 1
    monkeypatch.setattr(cache_module, "_writable", lambda _: False)
    with pytest.raises(CacheError, match="name a folder that can be in the environment variable"):
        cache_root()
    monkeypatch.setenv("CYBORG_CACHE", str(tmp_path / "named"))
    assert ImageDataset(images, 16, (4, 4), HALF, HALF).cache.folder == tmp_path / "named"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_folder_that_refuses_files_is_not_writable(tmp_path, monkeypatch, code):
    assert cache_module._writable(tmp_path / "new")

    def refuse(dir):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(cache_module, "TemporaryFile", refuse)
    assert not cache_module._writable(tmp_path / "new")


def test_what_is_not_cached_yet_is_counted_without_reading(images, tmp_path):
    assert uncached_images(images, 16, tmp_path) == len(images)
    for path in images.table["image"]:  # a file this young is not known again by its time
        os.utime(images.root / path, (1e9, 1e9))
    open_cache(images.split("train"), 16, tmp_path)
    n = len(images.split("train"))
    assert uncached_images(images, 16, tmp_path) in (len(images), len(images) - n)
    assert uncached_images(images, 17, tmp_path) == len(images)


def test_pickle_carries_no_pixels(images):
    dataset = dataset_of(images, flip=0.5)
    batch = dataset.__getitems__([1, 2, 3])
    assert len(pickle.dumps(dataset.cache)) < 41 * 16 * 16 * 3
    again = pickle.loads(pickle.dumps(dataset)).__getitems__([1, 2, 3])
    assert all(torch.equal(a, b) for a, b in zip(batch, again, strict=True))


def test_other_maps_take_the_place_of_the_human_ones(images):
    dataset = dataset_of(images, flip=1.0)
    wanted = 1 - dataset.human
    dataset.set_maps(wanted)
    batch = dataset.__getitems__([0, 1, 40])
    np.testing.assert_allclose(batch.human[1:], wanted[[1, 40]][..., ::-1])
    assert (batch.human[0] == 0).all() and not batch.has_map[0]
    np.testing.assert_array_equal(dataset.images[5], decode_image(images.root / "5.png", 16))
    for maps, text in (
        (wanted[:3], "shape"),
        (wanted + 1, "lies in"),
        (wanted * np.nan, "lies in"),
    ):
        with pytest.raises(ValueError, match=f"maps .*{text}"):
            dataset.set_maps(maps)


# the loader


def epochs(loader, count: int = 2) -> list[Batch]:
    batches = []
    for epoch in range(count):
        loader.set_epoch(epoch)
        batches += [Batch(*(field.clone() for field in batch)) for batch in loader]
    return batches


@pytest.mark.parametrize("workers, context", [(2, None), (1, "spawn")])
def test_workers_change_nothing(images, workers, context):
    dataset = dataset_of(images, flip=0.5, seed=7)
    alone = epochs(make_loader(dataset, 10, shuffle=True, seed=7))
    dataset.set_epoch(0)
    helped = epochs(
        make_loader(dataset, 10, shuffle=True, seed=7, workers=workers, context=context)
    )
    assert len(alone) == len(helped) == 8
    for a, b in zip(alone, helped, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    # Both epochs must differ in order and in flips, or a loader stuck in epoch 0 would pass.
    order = [torch.cat([batch.index for batch in alone[i : i + 4]]) for i in (0, 4)]
    assert not torch.equal(*order)
    pixels = [
        torch.cat([batch.image for batch in alone[i : i + 4]])[order[i // 4].argsort()]
        for i in (0, 4)
    ]
    assert 5 < (pixels[0] != pixels[1]).flatten(1).any(1).sum() < 36


def test_order_and_flips_do_not_depend_on_what_ran_before(images):
    dataset = dataset_of(images, flip=0.5)
    loader = make_loader(dataset, 10, shuffle=True, seed=1)
    straight = epochs(loader, 3)[-4:]
    torch.manual_seed(99)
    np.random.default_rng(5).random(3)
    resumed = make_loader(dataset_of(images, flip=0.5), 10, shuffle=True, seed=1)
    resumed.set_epoch(2)
    for a, b in zip(straight, resumed, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_loader_leaves_the_global_random_state_alone(images):
    loader = make_loader(dataset_of(images), 10, shuffle=True)
    before = torch.get_rng_state()
    list(loader)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("n", [2, 19, 20, 21, 39, 40, 41, 42, 1821])
@pytest.mark.parametrize("batch_size", [2, 20])
def test_no_training_batch_of_one(n, batch_size):
    batches = EpochBatches(n, batch_size, shuffle=True, seed=0)
    sizes = [len(rows) for rows in batches]
    assert len(batches) == len(sizes) and sum(sizes) == n
    assert min(sizes) >= 2 and max(sizes) <= batch_size + 1
    assert sorted(row for rows in batches for _, row in rows) == list(range(n))
    assert all(size == batch_size for size in sizes[:-1])


def test_evaluation_keeps_the_order_of_the_table(images):
    loader = make_loader(dataset_of(images), 20)
    assert torch.cat([batch.index for batch in loader]).tolist() == list(range(41))
    assert [len(batch.label) for batch in loader] == [20, 20, 1]
    assert len(loader) == 3


def test_seeds_give_different_orders(images):
    orders = {
        tuple(row for rows in EpochBatches(41, 10, True, s) for _, row in rows) for s in range(5)
    }
    assert len(orders) == 5


def test_loader_arguments_are_checked(images):
    dataset = dataset_of(images)
    for options, text in [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 1, "shuffle": True}, "batch_size is 1, .* at least 2"),
        ({"batch_size": 2, "workers": -1}, "workers is -1"),
        ({"batch_size": 2, "seed": 1.5}, "seed is 1.5"),
    ]:
        with pytest.raises(ValueError, match=text):
            make_loader(dataset, **options)
    one = dataset_of(manifest_of(images.root, ["0.png"]))
    assert len(make_loader(one, 20)) == 1
    with pytest.raises(ValueError, match="1 images, expected at least 2"):
        make_loader(one, 20, shuffle=True)


def test_accelerate_sees_the_same_batches(images):
    from accelerate import Accelerator
    from accelerate.data_loader import BatchSamplerShard

    dataset = dataset_of(images, flip=0.5)
    alone = epochs(make_loader(dataset, 10, shuffle=True))
    prepared = Accelerator(cpu=True).prepare(make_loader(dataset, 10, shuffle=True))
    for a, b in zip(alone, epochs(prepared), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    shards = [list(BatchSamplerShard(EpochBatches(41, 10, True), 2, i)) for i in range(2)]
    assert [[len(rows) for rows in shard] for shard in shards] == [[10, 10], [10, 11]]
