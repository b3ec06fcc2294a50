"""Maps against slow, literal versions of their definitions, against pysaliency, and bad input."""

import importlib.util
import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from cyborg import saliency
from cyborg.saliency import (
    CONTROL_KINDS,
    RunningMean,
    agreement,
    auc_judd,
    cc,
    control_maps,
    degrees_to_pixels,
    fixation_map,
    human_map,
    iou_top,
    is_flat,
    kl,
    nss,
    pointing_game,
    read_map,
    region_map,
    resize_map,
    sim,
    stroke_mask,
    unit_range,
    write_map,
)

METRICS = {"cc": cc, "sim": sim, "kl": kl, "iou": iou_top, "pointing": pointing_game}


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_import_is_light():
    heavy = "torch", "plotly", "pandas", "cv2", "sklearn", "matplotlib"
    code = f"import sys, cyborg.saliency; print([m for m in {heavy} if m in sys.modules])"
    root = Path(saliency.__file__).parents[1]
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "[]"


# --- unit_range, is_flat


def test_unit_range_is_per_map(rng):
    maps = rng.normal(size=(2, 3, 5, 4)) * 10.0 ** rng.integers(-6, 6, (2, 3, 1, 1))
    scaled = unit_range(maps)
    assert scaled.dtype == np.float32
    for i in np.ndindex(2, 3):
        expected = (maps[i] - maps[i].min()) / (maps[i].max() - maps[i].min())
        np.testing.assert_allclose(scaled[i], expected, atol=1e-6)
        assert scaled[i].min() == 0 and scaled[i].max() == 1


def test_unit_range_keeps_its_argument(rng):
    maps = rng.random((2, 3, 3)).astype(np.float32)
    before = maps.copy()
    unit_range(maps)
    np.testing.assert_array_equal(maps, before)


@pytest.mark.parametrize("value", [0, 1, -3.5, 1e-30, 1e30])
def test_constant_maps_are_flat_zeros(value):
    maps = np.full((2, 3, 3), value, np.float32)
    assert is_flat(maps).all() and not unit_range(maps).any()


def test_noise_of_rounding_is_not_blown_up():
    blurred = saliency._blur(np.full((40, 40), 1 / 3, np.float32).astype(float), 5)
    assert np.ptp(blurred) < 1e-12 and not unit_range(blurred).any()
    third = np.float32(1 / 3)
    assert is_flat([[third, np.nextafter(third, np.float32(1))]])
    assert not is_flat(np.float32([[1, 1 + 1e-5]]))  # small, but more than rounding


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float16, np.float64])
def test_unit_range_of_every_kind_of_number(dtype):
    np.testing.assert_array_equal(unit_range(np.array([[0, 1]], dtype)), [[0, 1]])


def test_empty_batch():
    assert unit_range(np.zeros((0, 7, 7))).shape == (0, 7, 7)
    assert is_flat(np.zeros((0, 7, 7))).shape == (0,)
    assert all(
        v.shape == (0,) for v in agreement(np.zeros((0, 7, 7)), np.zeros((0, 7, 7))).values()
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    maps = np.zeros((3, 2, 2))
    maps[1, 0, 1] = bad
    for function in (unit_range, is_flat, lambda m: resize_map(m, (1, 1))):
        with pytest.raises(ValueError, match="maps holds NaN or infinite"):
            function(maps)


@pytest.mark.parametrize("maps", [np.zeros(3), 1.0, np.zeros((2, 0, 3)), np.zeros((2, 3, 0))])
def test_shapes_that_are_no_maps(maps):
    with pytest.raises(ValueError, match=r"maps has shape .* expected \(..., H, W\)"):
        unit_range(maps)


def test_dtypes_that_are_no_maps():
    with pytest.raises(TypeError, match="maps has dtype complex128"):
        unit_range(np.zeros((2, 2), complex))
    with pytest.raises(TypeError, match="maps has dtype <U1"):
        unit_range([["a", "b"]])


# --- human_map


def literal_human_map(masks, correct, sigma):
    "Section 4.3 word by word: sum the correct ones, blur with a mirrored border, scale."
    total = np.zeros(masks.shape[1:])
    for mask, right in zip(masks, correct, strict=True):
        if right:
            total += mask
    radius = int(4 * sigma + 0.5)
    kernel = np.array([np.exp(-(k**2) / (2 * sigma**2)) for k in range(-radius, radius + 1)])
    kernel /= kernel.sum()
    padded = np.pad(total, radius, mode="symmetric")
    blurred = np.zeros_like(total)
    for i in range(total.shape[0]):
        for j in range(total.shape[1]):
            window = padded[i : i + 2 * radius + 1, j : j + 2 * radius + 1]
            blurred[i, j] = kernel @ window @ kernel
    return (blurred - blurred.min()) / (blurred.max() - blurred.min())


@pytest.mark.parametrize("sigma", [1.0, 2.3, 5.0])
def test_human_map_is_section_4_3(rng, sigma):
    masks = rng.random((5, 24, 30)) < rng.random((5, 1, 1)) * 0.3
    masks[:, :3, :4] = True  # up to the border
    correct = np.array([1, 0, 1, 1, 0], bool)
    expected = literal_human_map(masks, correct, sigma)
    np.testing.assert_allclose(human_map(masks, correct, sigma), expected, atol=1e-6)


def test_sigma_is_five_pixels_unless_told(rng):
    masks = rng.random((3, 20, 20)) < 0.2
    np.testing.assert_array_equal(human_map(masks), human_map(masks, np.ones(3), 5.0))
    assert not np.allclose(human_map(masks), human_map(masks, sigma=4.0), atol=0.01)


def test_wrong_answers_leave_no_trace(rng):
    masks = rng.random((6, 16, 16)) < 0.2
    correct = np.array([1, 1, 0, 1, 0, 1], bool)
    np.testing.assert_array_equal(human_map(masks, correct), human_map(masks[correct]))


def test_human_map_mirrors_with_its_masks(rng):
    masks = rng.random((3, 18, 22)) < 0.1
    np.testing.assert_allclose(human_map(masks[..., ::-1]), human_map(masks)[:, ::-1], atol=1e-6)


def test_annotators_count_alike():
    "One who painted much does not weigh more at a pixel than one who painted little."
    masks = np.zeros((2, 1, 8), bool)
    masks[0, 0, :6] = True
    masks[1, 0, 7] = True
    np.testing.assert_array_equal(human_map(masks, sigma=0)[0], [1, 1, 1, 1, 1, 1, 0, 1])


def test_maps_without_information_are_zeros():
    assert not human_map(np.zeros((0, 5, 5), bool)).any()
    assert not human_map(np.zeros((3, 5, 5), bool)).any()
    assert not human_map(np.ones((3, 50, 50), bool)).any()  # all of it marked: nothing said


@pytest.mark.parametrize(
    ("masks", "keywords", "message"),
    [
        (np.zeros((4, 4), bool), {}, r"masks has shape \(4, 4\), expected \(A, H, W\)"),
        (np.full((1, 2, 2), 0.5), {}, "masks holds values other than 0 and 1"),
        (np.full((1, 2, 2), np.nan), {}, "masks holds values other than 0 and 1"),
        (np.zeros((2, 2, 2), bool), {"correct": [True]}, r"correct .* expected bool \(2,\)"),
        (np.zeros((2, 2, 2), bool), {"correct": [0, 2]}, "correct is int64"),
        (np.zeros((2, 2, 2), bool), {"sigma": -1}, "sigma is -1"),
        (np.zeros((2, 2, 2), bool), {"sigma": np.nan}, "sigma is nan"),
    ],
)
def test_human_map_refuses(masks, keywords, message):
    with pytest.raises(ValueError, match=message):
        human_map(masks, **keywords)


# --- strokes, polygons, regions


def literal_stroke_mask(strokes, shape, radius):
    mask = np.zeros(shape, bool)
    for i, j in np.ndindex(shape):
        centre = np.array([j + 0.5, i + 0.5])
        for stroke in strokes:
            points = np.asarray(stroke, float)
            pairs = (
                zip(points[:-1], points[1:], strict=True) if len(points) > 1 else [points[[0, 0]]]
            )
            for a, b in pairs:
                along = b - a
                share = (
                    0.0
                    if not along.any()
                    else np.clip((centre - a) @ along / (along @ along), 0, 1)
                )
                mask[i, j] |= np.hypot(*(centre - a - share * along)) <= radius
    return mask


@pytest.mark.parametrize("radius", [0.6, 2.0, 3.7])
def test_strokes_are_a_distance_to_a_line(rng, radius):
    strokes = [rng.uniform(-6, 30, (n, 2)) for n in (1, 2, 5)]  # partly outside, long and short
    strokes.append(np.repeat(rng.uniform(5, 15, (1, 2)), 3, axis=0))  # a brush that did not move
    expected = literal_stroke_mask(strokes, (20, 26), radius)
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(stroke_mask(strokes, (20, 26), radius), expected)


def test_a_large_brush_and_many_points_stay_small_in_memory(rng):
    assert stroke_mask([[[-90.0, 5.0]]], (10, 10), 200).all()
    path = np.cumsum(rng.normal(0, 0.3, (20_000, 2)), axis=0) % 256  # jumps across the picture too
    tracemalloc.start()
    mask = stroke_mask([path], (256, 256), 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.05 < mask.mean() < 0.9 and peak < 200e6


def test_cutting_into_chunks_changes_nothing(rng):
    path = rng.uniform(0, 300, (40, 2))
    whole = stroke_mask([path], (300, 300), 3)
    parts = [stroke_mask([path[i : i + 2]], (300, 300), 3) for i in range(39)]
    np.testing.assert_array_equal(whole, np.any(parts, axis=0))


def test_every_piece_is_drawn_and_the_rim_belongs_to_the_brush():
    dots = [[[50 * i + 25.5, 50 * j + 25.5]] for i, j in np.ndindex(20, 20)]
    one = stroke_mask(dots[:1], (1000, 1000), 20)
    assert one[25, 5] and one[25, 45] and not one[25, 4]  # centres exactly 20 away are in
    assert stroke_mask(dots, (1000, 1000), 20).sum() == 400 * one.sum()  # several chunks
    thirds = stroke_mask([[(2.5, 3.5), (12.5, 3.5)]], (8, 20), 3)  # cut where rounding begins
    assert thirds[0, 2:13].all() and thirds[6, 2:13].all()


@pytest.mark.parametrize("radius", [0, -1, np.nan, np.inf])
def test_radius_refused(radius):
    with pytest.raises(ValueError, match="radius is"):
        stroke_mask([[[1, 1]]], (4, 4), radius)


@pytest.mark.parametrize("shape", [(4,), (0, 4), (4.0, 4.0), (-1, 3), (1, 2, 3), 5])
def test_shape_refused(shape):
    with pytest.raises(ValueError, match="shape is .* expected two whole numbers"):
        stroke_mask([], shape, 1)


@pytest.mark.parametrize(
    "stroke", [np.zeros((0, 2)), [[1, 2, 3]], [1, 2], [[1, np.nan]], [[1, 1e12]], [[np.inf, 0]]]
)
def test_strokes_refused(stroke):
    with pytest.raises(ValueError, match="stroke 0 has"):
        stroke_mask([stroke], (4, 4), 1)


def literal_inside(points, x, y):
    inside = False
    for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if (ay <= y) != (by <= y) and x >= ax + (y - ay) * (bx - ax) / (by - ay):
            inside = not inside
    return inside


def test_polygons_are_even_odd(rng):
    for n in (3, 4, 7):  # random ones cross themselves
        points = rng.uniform(-4, 24, (n, 2))
        expected = [
            [literal_inside(points, j + 0.5, i + 0.5) for j in range(20)] for i in range(15)
        ]
        got = saliency._polygon_mask(points, (15, 20))
        np.testing.assert_array_equal(got, expected)


def test_neighbours_share_an_edge_and_no_pixel():
    left, right = [(0, 0), (4, 0), (7, 9), (0, 9)], [(4, 0), (10, 0), (10, 9), (7, 9)]
    masks = [saliency._polygon_mask(np.array(p, float), (9, 10)).astype(int) for p in (left, right)]
    np.testing.assert_array_equal(sum(masks), np.ones((9, 10)))


def test_a_box_covers_as_many_pixels_as_its_area():
    covered = region_map({"box": (2, 1, 7, 4)}, ["box"], sigma=0, shape=(8, 9))
    assert covered.sum() == 5 * 3 and covered[1:4, 2:7].all()


def test_region_of_masks_boxes_and_polygons_agree():
    mask = np.zeros((8, 9), bool)
    mask[1:4, 2:7] = True
    same = {"mask": mask, "box": (2, 1, 7, 4), "polygon": [(2, 1), (7, 1), (7, 4), (2, 4)]}
    maps = [region_map(same, [name], sigma=1.5) for name in same]
    np.testing.assert_array_equal(maps[0], maps[1])
    np.testing.assert_array_equal(maps[0], maps[2])
    np.testing.assert_array_equal(maps[0], human_map(mask[None], sigma=1.5))


def test_the_largest_weight_counts_where_regions_overlap():
    regions = {"skin": (0, 0, 4, 1), "eye": (1, 0, 2, 1)}
    for names, weights in ((["skin", "eye"], [1, 2]), (["eye", "skin"], [2, 1])):
        got = region_map(regions, names, sigma=0, weights=weights, shape=(1, 5))
        np.testing.assert_array_equal(got, [[0.5, 1, 0.5, 0.5, 0]])


def test_no_region_no_map():
    assert not region_map({"a": np.ones((3, 3), bool)}, []).any()


@pytest.mark.parametrize(
    ("regions", "keywords", "message"),
    [
        ({"a": np.ones((3, 4), int)}, {"shape": (3, 4)}, "region 'a' is int64 of shape"),
        ({"a": np.ones((3, 4), bool)}, {"shape": (4, 3)}, r"region 'a' is bool of shape \(3, 4\)"),
        ({"a": (3, 1, 2, 4)}, {"shape": (5, 5)}, "a box x0 < x1"),
        ({"a": (0, 0, np.nan, 4)}, {"shape": (5, 5)}, "region 'a'"),
        ({"a": [(0, 0), (1, 1)]}, {"shape": (5, 5)}, "P >= 3"),
        ({"a": (0, 0, 2, 2)}, {}, "shape is missing"),
        ({"a": np.ones((3, 4), bool)}, {"weights": [1, 2]}, "expected 1 finite numbers"),
        ({"a": np.ones((3, 4), bool)}, {"weights": [-1]}, "weights is"),
        ({"b": np.ones((3, 4), bool)}, {}, r"no region 'a', there are \['b'\]"),
    ],
)
def test_regions_refused(regions, keywords, message):
    with pytest.raises(ValueError, match=message):
        region_map(regions, ["a"], **keywords)


def test_one_string_is_no_list_of_names():
    with pytest.raises(TypeError, match="names is the string 'nose'"):
        region_map({"nose": np.ones((2, 2), bool)}, "nose")


# --- gaze


def test_fixations_are_counted_where_they_fall(rng):
    x, y, time = rng.uniform(-3, 15, 60), rng.uniform(-3, 12, 60), rng.uniform(50, 600, 60)
    for weight in (None, time):
        cells = np.zeros((9, 12))
        for k in range(60):
            if 0 <= x[k] < 12 and 0 <= y[k] < 9:
                cells[int(y[k]), int(x[k])] += 1 if weight is None else weight[k]
        got = fixation_map(x, y, (9, 12), 0, weight)
        np.testing.assert_allclose(got, cells / cells.max(), atol=1e-6)
        blurred = fixation_map(x, y, (9, 12), 1.5, weight)
        np.testing.assert_allclose(blurred, unit_range(saliency._blur(cells, 1.5)), atol=1e-6)


def test_nobody_looked():
    assert not fixation_map([], [], (4, 4), 1).any()
    assert not fixation_map([-1, 9], [1, 1], (4, 4), 1).any()


@pytest.mark.parametrize(
    ("x", "y", "duration", "message"),
    [
        ([1, 2], [1], None, "have shapes"),
        ([1], [1], [1, 2], "have shapes"),
        ([1, np.nan, np.inf], [1, 1, 1], None, "2 of 3 fixations"),
        ([1], [1], [-5], "1 of 1 fixations"),
    ],
)
def test_fixations_refused(x, y, duration, message):
    with pytest.raises(ValueError, match=message):
        fixation_map(x, y, (4, 4), 1, duration)


def test_degrees_to_pixels():
    # a 1 m tall screen of 1000 pixels seen from 1 m: one degree is 17.453 pixels at its centre
    assert degrees_to_pixels(1, 1.0, 0.001) == pytest.approx(17.4533, abs=1e-3)
    np.testing.assert_allclose(degrees_to_pixels(np.array([0, 90]), 500, 1), [0, 1000])
    for arguments in (
        (-1, 1, 1),
        (180, 1, 1),
        (np.nan, 1, 1),
        (1, 0, 1),
        (1, 1, -2),
        (1, 1, np.nan),
    ):
        with pytest.raises(ValueError, match="expected"):
            degrees_to_pixels(*arguments)


# --- resize_map


def literal_area(values, size):
    "The integral over each cell, by cutting every pixel into size[0] x size[1] parts."
    fine = np.repeat(np.repeat(values, size[0], axis=0), size[1], axis=1)
    height, width = values.shape
    return fine.reshape(size[0], height, size[1], width).mean(axis=(1, 3))


@pytest.mark.parametrize("size", [(7, 7), (1, 1), (5, 9), (13, 4), (20, 31)])
def test_reducing_is_the_integral_over_each_cell(rng, size):
    values = rng.random((20, 31))
    got = resize_map(values, size)
    np.testing.assert_allclose(got, literal_area(values, size), atol=1e-6)
    assert got.mean() == pytest.approx(values.mean(), abs=1e-6)


@pytest.mark.parametrize(
    ("before", "after"), [((224, 224), (7, 7)), ((299, 299), (10, 10)), ((64, 96), (15, 13))]
)
def test_reducing_agrees_with_opencv(rng, before, after):
    values = rng.random(before).astype(np.float32)
    expected = cv2.resize(values, after[::-1], interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(resize_map(values, after), expected, atol=1e-5)


@pytest.mark.parametrize("after", [(14, 14), (224, 224), (10, 33)])
def test_enlarging_agrees_with_opencv(rng, after):
    values = rng.random((7, 9)).astype(np.float32)
    expected = cv2.resize(values, after[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(resize_map(values, after), expected, atol=1e-5)


def test_resize_takes_leading_axes_and_each_axis_by_itself(rng):
    maps = rng.random((2, 3, 10, 4))
    got = resize_map(maps, (5, 8))  # rows fewer, columns more
    rows = resize_map(maps, (5, 4))
    np.testing.assert_allclose(got, resize_map(rows, (5, 8)), atol=1e-6)
    np.testing.assert_array_equal(got[1, 2], resize_map(maps[1, 2], (5, 8)))
    np.testing.assert_array_equal(resize_map(maps, (10, 4)), maps.astype(np.float32))


def test_resize_stays_in_range():
    for size in ((3, 3), (7, 5), (50, 41)):
        assert (resize_map(np.ones((17, 19), np.float32), size) == 1).all()


def test_a_cached_weight_is_not_spoilt(rng):
    maps = rng.random((8, 8))
    first = resize_map(maps, (3, 3))
    first[:] = 9
    assert resize_map(maps, (3, 3)).max() < 1


@pytest.mark.parametrize("size", [(0, 3), (3,), (2.5, 3), (-1, 1), 7])
def test_size_refused(size):
    with pytest.raises(ValueError, match="size is"):
        resize_map(np.zeros((4, 4)), size)


# --- files


def saved(tmp_path, image, name="map.png", **keywords):
    image.save(tmp_path / name, **keywords)
    return tmp_path / name


GREY = np.array([[0, 51, 102], [153, 204, 255]], np.uint8)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_grey_pictures_of_every_kind_are_read(tmp_path, mode):
    path = saved(tmp_path, Image.fromarray(GREY).convert(mode))
    with Image.open(path) as image:
        assert image.mode == mode
    got = read_map(path)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, GREY / 255, atol=1e-7)


def test_bilevel_and_16_bit_pictures_use_their_own_range(tmp_path):
    np.testing.assert_array_equal(
        read_map(saved(tmp_path, Image.fromarray(GREY > 100))), GREY > 100
    )
    deep = np.array([[0, 13107, 65535]], np.uint16)
    for name in ("deep.png", "deep.tif"):
        path = saved(tmp_path, Image.fromarray(deep), name)
        np.testing.assert_allclose(read_map(path), [[0, 0.2, 1]], atol=1e-7)


def test_values_are_not_stretched(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.uint8([[51, 102]])))
    np.testing.assert_allclose(read_map(path), [[0.2, 0.4]], atol=1e-7)


def test_a_grey_jpeg_in_three_channels_is_read(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.full((16, 16, 3), 90, np.uint8)), "map.jpg")
    np.testing.assert_allclose(read_map(path), np.full((16, 16), 90 / 255), atol=1e-6)


def test_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    path = saved(tmp_path, Image.fromarray(GREY), "map.png", exif=exif)
    np.testing.assert_allclose(read_map(path), np.rot90(GREY, -1) / 255, atol=1e-7)


def coloured(channel=1):
    values = np.repeat(GREY[..., None], 3, axis=2)
    values[1, 2, channel] = 254  # one step in one pixel
    return Image.fromarray(values)


def indexed():
    "A segmentation: region numbers with a colour each."
    image = Image.fromarray(GREY // 51).convert("P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9, 255, 255, 255])
    return image


def see_through():
    return Image.fromarray(np.dstack([GREY, GREY, GREY, 255 - GREY // 51]))


@pytest.mark.parametrize(
    ("image", "keywords", "message"),
    [
        (coloured(), {}, "it has colour, expected greyscale"),
        (coloured(0), {}, "it has colour"),
        (coloured(2), {}, "it has colour"),
        (indexed(), {}, "it has colour"),
        (see_through(), {}, "it has transparent pixels"),
        (see_through().convert("LA"), {}, "it has transparent pixels"),
        (Image.fromarray(GREY), {"transparency": 51}, "it has transparent pixels"),
    ],
)
def test_pictures_that_say_more_than_grey_are_refused(tmp_path, image, keywords, message):
    path = saved(tmp_path, image, **keywords)
    with pytest.raises(ValueError, match=f"map.png is no map: {message}"):
        read_map(path)


def test_other_modes_and_frames_are_refused(tmp_path):
    for mode, name in (("CMYK", "a.jpg"), ("F", "a.tif"), ("I", "b.tif")):
        path = saved(tmp_path, Image.fromarray(GREY).convert(mode), name)
        with pytest.raises(ValueError, match=f"{name} is no map: it is stored as {mode}"):
            read_map(path)
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    path = saved(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="a.gif is no map: it has 2 frames"):
        read_map(path)


def claim_size(path, width, height):
    "Rewrite the size in the header of a PNG, with a right checksum."
    import struct
    import zlib

    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9500, 14_000, 60_000])
def test_decompression_bombs_are_refused_before_decoding(tmp_path, side):
    path = saved(tmp_path, Image.fromarray(GREY))
    claim_size(path, side, side)
    with pytest.raises(ValueError, match="map.png is no map: .*pixels"):
        read_map(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="map.png is no map: .*pixels"):
            read_map(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["map.png", "map.jpg", "map.tif", "map.gif", "map.bmp"])
def test_files_cut_anywhere_name_the_path(tmp_path, rng, name):
    noise = Image.fromarray(rng.integers(0, 256, (12, 12), dtype=np.uint8))
    data = saved(tmp_path, noise, name).read_bytes()
    path = tmp_path / f"cut_{name}"
    refused = 0
    for length in range(0, len(data), max(1, len(data) // 150)):
        path.write_bytes(data[:length])
        try:
            read_map(path)  # an end mark may be missing without harm
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 50 or refused > 0.8 * len(data)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["map.png", "map.jpg", "map.tif", "map.gif"])
def test_damaged_bytes_raise_nothing_but_value_errors(tmp_path, rng, name):
    noise = Image.fromarray(rng.integers(0, 256, (12, 12), dtype=np.uint8))
    data = np.frombuffer(saved(tmp_path, noise, name).read_bytes(), np.uint8)
    path = tmp_path / f"damaged_{name}"
    for _ in range(120):
        damaged = data.copy()
        damaged[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
        path.write_bytes(damaged.tobytes())
        try:
            got = read_map(path)
            assert got.dtype == np.float32 and got.min() >= 0 and got.max() <= 1
        except ValueError as error:
            assert str(path) in str(error)


def test_no_file_and_no_picture(tmp_path):
    with pytest.raises(ValueError, match="gone.png is no map: No such file"):
        read_map(tmp_path / "gone.png")
    with pytest.raises(ValueError, match="is no map"):
        read_map(tmp_path)  # a folder
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ValueError, match="text.png is no map"):
        read_map(tmp_path / "text.png")


def test_written_maps_come_back(tmp_path, rng):
    values = rng.random((9, 11)).astype(np.float32)
    path = write_map(tmp_path / "map.png", values)
    np.testing.assert_allclose(read_map(path), values, atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(read_map(write_map(path, GREY / 255)), GREY / np.float32(255))
    with Image.open(path) as image:
        assert image.mode == "L" and image.format == "PNG"


def test_a_write_that_fails_leaves_the_old_map(tmp_path, monkeypatch):
    path = write_map(tmp_path / "map.png", np.eye(3))
    before = path.read_bytes()

    def full(self, file, **_):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        write_map(path, np.zeros((3, 3)))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("map.jpg", np.zeros((2, 2)), "expected a name ending in .png"),
        ("map.png", np.zeros((1, 2, 2)), r"map has shape \(1, 2, 2\)"),
        ("map.png", np.full((2, 2), 1.5), "values 1.5 to 1.5"),
        ("map.png", np.full((2, 2), -0.1), "values -0.1"),
        ("map.png", np.full((2, 2), np.nan), "map holds NaN"),
    ],
)
def test_maps_refused_for_writing(tmp_path, name, values, message):
    with pytest.raises(ValueError, match=message):
        write_map(tmp_path / name, values)
    assert not list(tmp_path.iterdir())


# --- RunningMean


def test_running_mean_is_the_mean_however_it_is_fed(rng):
    maps = rng.random((50, 3, 4)).astype(np.float32)
    keys = rng.choice(["a|real", "b|fake", "c"], 50)
    whole, parts, one, two = (RunningMean() for _ in range(4))
    whole.update(maps, keys)
    for i in range(0, 50, 7):
        parts.update(maps[i : i + 7], list(keys[i : i + 7]))
    one.update(maps[:20], keys[:20])
    two.update(maps[20:], keys[20:])
    assert one.merge(two) is one
    for means in (whole, parts, one):
        assert set(means.keys) == {"a|real", "b|fake", "c"}
        for key in means.keys:
            assert means.count(key) == (keys == key).sum()
            expected = maps[keys == key].mean(axis=0, dtype=np.float64)
            np.testing.assert_allclose(means.mean(key), expected, atol=1e-7)
    assert two.count("c") == (keys[20:] == "c").sum()  # the other is left as it is


def test_a_merged_mean_shares_nothing():
    one, two = RunningMean(), RunningMean()
    two.update([[[1.0]]], ["a"])
    one.merge(two).update([[[0.0]]], ["a"])
    assert two.mean("a") == 1 and one.mean("a") == 0.5
    one.merge(one)
    assert one.count("a") == 4 and one.mean("a") == 0.5


def test_sums_do_not_drift():
    "In float32 a sum of 0.1 is off in the third digit after a million."
    means = RunningMean()
    for _ in range(100):
        means.update(np.full((10_000, 1, 1), 0.1, np.float32), ["a"] * 10_000)
    assert means.mean("a")[0, 0] == np.float32(0.1)


def test_a_bad_batch_changes_nothing():
    means = RunningMean()
    means.update(np.ones((2, 2, 2)), ["a", "b"])
    bad = np.ones((2, 2, 2))
    bad[1, 0, 0] = np.nan
    for maps, keys, error, message in (
        (bad, ["a", "new"], ValueError, "NaN"),
        (
            np.ones((2, 3, 2)),
            ["a", "new"],
            ValueError,
            r"maps are \(3, 2\), those before were \(2, 2\)",
        ),
        (np.ones((2, 2, 2)), ["a"], ValueError, r"expected \(B, h, w\) and B"),
        (np.ones((2, 2)), ["a", "b"], ValueError, r"expected \(B, h, w\) and B"),
        (np.ones((2, 2, 2)), ["a", 3], TypeError, "key 3 is int, expected str"),
    ):
        with pytest.raises(error, match=message):
            means.update(maps, keys)
    assert means.keys == ("a", "b") and means.count("a") == 1
    means.update(np.zeros((0, 5, 5)), [])  # nothing came
    other = RunningMean()
    other.update(np.ones((1, 7, 7)), ["new"])
    with pytest.raises(ValueError, match="those before were"):
        means.merge(other)
    assert means.keys == ("a", "b")


def test_running_mean_as_a_file(tmp_path, rng):
    means = RunningMean()
    means.update(rng.random((6, 2, 3)), ["a|b", "ü", "a|b", "c", "c", "c"])
    path = means.save(tmp_path / "m.npz")
    again = RunningMean.load(path)
    assert again.keys == means.keys
    for key in means.keys:
        assert again.count(key) == means.count(key)
        np.testing.assert_array_equal(again.mean(key), means.mean(key))
    again.update(rng.random((1, 2, 3)), ["d"])  # goes on
    assert list(tmp_path.iterdir()) == [path]
    assert RunningMean.load(RunningMean().save(path)).keys == ()
    with pytest.raises(ValueError, match="ending in .npz"):
        means.save(tmp_path / "m.npy")


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    means = RunningMean()
    means.update(np.ones((1, 2, 2)), ["a"])
    path = means.save(tmp_path / "m.npz")
    before = path.read_bytes()

    def full(file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        means.save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def write_parts(path, **parts):
    good = {"keys": np.array(["a"]), "counts": np.array([1]), "sums": np.ones((1, 2, 2))}
    np.savez(path, **(good | parts))


@pytest.mark.parametrize(
    "parts",
    [
        {"keys": np.array([{}], dtype=object)},  # would be unpickled
        {"keys": np.array([1])},
        {"keys": np.array(["a", "b"])},
        {"counts": np.array([0])},
        {"counts": np.array([1.0])},
        {"sums": np.ones((1, 2))},
        {"sums": np.full((1, 2, 2), np.nan)},
        {"keys": np.array(["a", "a"]), "counts": np.array([1, 1]), "sums": np.ones((2, 2, 2))},
    ],
)
def test_files_with_other_content_are_refused(tmp_path, parts):
    write_parts(tmp_path / "m.npz", **parts)
    with pytest.raises(ValueError, match="m.npz holds no running mean"):
        RunningMean.load(tmp_path / "m.npz")


def test_damaged_mean_files_name_the_path(tmp_path, rng):
    path = tmp_path / "m.npz"
    write_parts(path)
    RunningMean.load(path)
    data = path.read_bytes()
    for length in range(0, len(data), 31):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="m.npz holds no running mean"):
            RunningMean.load(path)
    for _ in range(100):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            RunningMean.load(path)
        except ValueError as error:
            assert str(path) in str(error)
    np.save(tmp_path / "array.npy", np.ones(3))
    (tmp_path / "array.npy").rename(path)
    with pytest.raises(ValueError, match="holds no running mean"):
        RunningMean.load(path)
    with pytest.raises(FileNotFoundError, match="gone.npz"):
        RunningMean.load(tmp_path / "gone.npz")


# --- agreement


def from_pysaliency(name):
    "One file of pysaliency by itself: its package imports what newer setuptools no longer have."
    pytest.importorskip("numba")
    spec = importlib.util.find_spec("pysaliency")
    if spec is None:
        pytest.skip("pysaliency is not installed")
    file = Path(spec.origin).parent / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"pysaliency_{name}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pairs(rng):
    p = rng.random((20, 7, 9)) ** rng.uniform(0.3, 6, (20, 1, 1))
    q = unit_range(rng.random((20, 7, 9)) ** 3).astype(float)
    return p, q


@pytest.mark.filterwarnings("ignore:divide by zero")  # theirs, at log(0)
def test_cc_sim_kl_agree_with_pysaliency(pairs):
    oracle = from_pysaliency("metrics")
    p, q = pairs
    p[:5] = unit_range(p[:5])  # exact zeros, where KL needs its epsilon
    for ours, theirs in ((cc, oracle.CC), (sim, oracle.SIM), (kl, oracle.MIT_KLDiv)):
        expected = [theirs(a, b) for a, b in zip(p, q, strict=True)]
        np.testing.assert_allclose(ours(p, q), expected, rtol=1e-9, atol=1e-12)


def test_nss_agrees_with_pysaliency(pairs, rng):
    oracle = from_pysaliency("metrics")
    for p in pairs[0]:
        y, x = rng.integers(0, 7, 12), rng.integers(0, 9, 12)
        counts = np.zeros((7, 9))
        np.add.at(counts, (y, x), 1)
        assert nss(p, counts) == pytest.approx(oracle.NSS(p, x, y).mean(), abs=1e-12)


@pytest.mark.parametrize("levels", [4, 1000])  # with and without many equal values
def test_auc_judd_agrees_with_pysaliency(rng, monkeypatch, levels):
    oracle = from_pysaliency("numba_utils")
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)  # its name before NumPy 2
    p = rng.integers(0, levels, (40, 6, 8)) / levels
    fixated = rng.random((40, 6, 8)) < rng.uniform(0.05, 0.6, (40, 1, 1))
    expected = [
        oracle.general_roc_numba(a[f], a[~f], judd=1)[0] for a, f in zip(p, fixated, strict=True)
    ]
    np.testing.assert_allclose(auc_judd(p, fixated), expected, atol=1e-12)


def test_auc_judd_reversed_and_thresholds(rng):
    p = rng.permutation(60).reshape(6, 10) / 60
    fixated = p > 0.8
    assert auc_judd(p, fixated) == 1
    hits = fixated.sum()
    # every other cell lies on the first, straight piece of the curve
    assert auc_judd(1 - p, fixated) == pytest.approx(0.5 / hits)


@pytest.mark.parametrize("name", METRICS)
def test_flat_maps_have_no_answer(name, rng):
    metric, good = METRICS[name], rng.random((4, 5))
    for flat in (np.zeros((4, 5)), np.full((4, 5), 0.7), np.full((4, 5), 0.1, np.float32)):
        assert np.isnan(metric(flat, good))
        assert np.isnan(metric(good, flat))
        assert np.isnan(metric(flat, flat))
    stack = np.stack([good, np.zeros((4, 5)), good])
    np.testing.assert_array_equal(np.isnan(metric(stack, stack)), [False, True, False])


@pytest.mark.parametrize("metric", [nss, auc_judd])
def test_fixation_metrics_without_an_answer(metric, rng):
    p = rng.random((4, 5))
    some = np.zeros((4, 5), int)
    some[1, 1] = 3
    assert np.isnan(metric(p, np.zeros((4, 5))))
    assert np.isnan(metric(np.ones((4, 5)), some))
    assert np.isfinite(metric(p, some))
    assert np.isnan(auc_judd(p, np.ones((4, 5))))
    assert nss(p, np.ones((4, 5))) == pytest.approx(0, abs=1e-12)  # looked everywhere: chance


@pytest.mark.parametrize("metric", [*METRICS.values(), nss, auc_judd])
def test_leading_axes_are_one_map_after_the_other(metric, rng):
    p, q = rng.random((2, 3, 5, 6)), (rng.random((2, 3, 5, 6)) > 0.7).astype(float)
    got = metric(p, q)
    assert got.shape == (2, 3) and got.dtype == np.float64
    for i in np.ndindex(2, 3):
        assert got[i] == metric(p[i], q[i])
    np.testing.assert_array_equal(metric(p, q[0, 0])[1, 2], metric(p[1, 2], q[0, 0]))
    np.testing.assert_array_equal(metric(p[0, 0], q)[1, 2], metric(p[0, 0], q[1, 2]))


@pytest.mark.parametrize("metric", [*METRICS.values(), nss, auc_judd])
def test_pairs_refused(metric):
    good = np.eye(3)
    with pytest.raises(ValueError, match=r"has shape \(3, 4\), expected \(..., h, w\) like p"):
        metric(good, np.ones((3, 4)))
    with pytest.raises(ValueError, match="p has values down to -1"):
        metric(-good, good)
    with pytest.raises(ValueError, match="holds NaN"):
        metric(good, good * np.nan)


def test_equal_and_opposite_maps(rng):
    p = unit_range(rng.random((5, 7, 7)))
    same = agreement(p, p)
    for name, value in {"cc": 1, "sim": 1, "kl": 0, "iou": 1, "pointing": 1}.items():
        np.testing.assert_allclose(same[name], value, atol=1e-9)
    np.testing.assert_allclose(cc(p, 1 - p), -1, atol=1e-6)
    np.testing.assert_allclose(cc(p, 5 * p + 3), 1, atol=1e-9)


def test_kl_is_of_the_human_map_from_the_model():
    model, person = np.array([[1.0, 3.0]]), np.array([[0.0, 1.0]])
    assert kl(model, person) == pytest.approx(np.log(4 / 3))  # what the model spends elsewhere
    assert kl(person, model) > 8  # a model that is zero where people are not


def literal_top(values, count):
    flat = list(values.ravel())
    return {i for i, _ in sorted(enumerate(flat), key=lambda item: (-item[1], item[0]))[:count]}


@pytest.mark.parametrize("top", [0.001, 0.2, 0.5, 1.0])
def test_iou_takes_exactly_its_share_with_ties_in_reading_order(rng, top):
    p, q = rng.integers(0, 4, (2, 30, 7, 7)) / 4  # many equal values
    count = max(1, round(49 * top + 1e-9))
    expected = []
    for a, b in zip(p, q, strict=True):
        a, b = literal_top(a, count), literal_top(b, count)
        assert len(a) == len(b) == count
        expected.append(len(a & b) / len(a | b))
    np.testing.assert_allclose(iou_top(p, q, top), expected)


def test_share_and_threshold_refused():
    for share in (0, -0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="top is"):
            iou_top(np.eye(2), np.eye(2), share)
        with pytest.raises(ValueError, match="threshold is"):
            pointing_game(np.eye(2), np.eye(2), share)


def test_pointing_game_in_a_region(rng):
    q = np.zeros((9, 12))
    q[4, 4], q[4, 5] = 1.0, 0.5  # the region: two cells
    for (i, j), hit in {(4, 4): 1, (4, 5): 1, (4, 3): 0, (5, 4): 0}.items():
        p = rng.random((9, 12)) * 0.5
        p[i, j] = 1
        assert pointing_game(p, q) == hit
        assert pointing_game(p, q, tolerance=1) == 1
    p = np.zeros((9, 12))
    p[2, 2] = 1  # 2 rows and 2 columns away: 2.83 cells
    assert pointing_game(p, q, tolerance=2.8) == 0 and pointing_game(p, q, tolerance=2.9) == 1
    assert pointing_game(q, q * 0.3) == 1  # half of q's own range, not of [0, 1]
    assert pointing_game(p, q * 0.3 + 0.6) == 0


def test_agreement_of_a_batch(pairs):
    p, q = unit_range(pairs[0]), unit_range(pairs[1])
    got = agreement(p, q)
    assert list(got) == ["cc", "sim", "kl", "iou", "pointing"]
    for name, values in got.items():
        np.testing.assert_array_equal(values, METRICS[name](p, q))
    with pytest.raises(ValueError, match=r"p has shape \(20, 7, 9\), q \(20, 9, 7\)"):
        agreement(p, q.transpose(0, 2, 1))
    with pytest.raises(ValueError, match=r"expected one \(B, h, w\)"):
        agreement(p[0], q[0])


# --- controls


@pytest.fixture
def numbered(rng):
    "Thirty different maps, five of them flat, and a class for each."
    maps = unit_range(rng.random((30, 5, 6)))
    maps[[0, 7, 8, 20, 29]] = 0
    return maps, np.where(np.arange(30) % 3 == 0, "authentic", "synthetic")


def origin(control, maps):
    "Which map each row of the control is."
    return np.array([np.flatnonzero((maps == row).all(axis=(1, 2)))[0] for row in control])


@pytest.mark.parametrize("kind", CONTROL_KINDS)
def test_controls_keep_absent_maps_absent_and_repeat_by_seed(numbered, kind):
    maps, labels = numbered
    before = maps.copy()
    control = control_maps(maps, kind, labels, seed=3)
    assert control.dtype == np.float32 and control.shape == maps.shape
    np.testing.assert_array_equal(maps, before)
    np.testing.assert_array_equal(is_flat(maps), ~control.any(axis=(1, 2)))
    np.testing.assert_array_equal(control, control_maps(maps, kind, labels, seed=3))
    assert control.min() >= 0 and control.max() == 1
    other = control_maps(maps, kind, labels, seed=4)
    random = kind in ("shuffled", "other_class", "noise")
    assert np.array_equal(control, other) != random


def test_shuffled_never_leaves_a_map_in_its_place(rng):
    for n in (2, 3, 4, 9):
        maps = unit_range(rng.random((n, 4, 4)))
        firsts = set()
        for seed in range(60):
            rows = origin(control_maps(maps, "shuffled", seed=seed), maps)
            assert sorted(rows) == list(range(n)) and (rows != np.arange(n)).all()
            firsts.add(rows[0])
        assert firsts == set(range(1, n))  # every other place is reached


def test_shuffled_spreads_only_the_maps_there_are(numbered):
    maps, _ = numbered
    here = ~is_flat(maps)
    rows = origin(control_maps(maps, "shuffled")[here], maps)
    assert sorted(rows) == list(np.flatnonzero(here))


def test_one_map_cannot_be_shuffled():
    maps = np.zeros((3, 2, 2))
    maps[1, 0, 0] = 1
    with pytest.raises(ValueError, match="shuffled needs two maps that are not flat, got 1"):
        control_maps(maps, "shuffled")


def test_other_class_takes_from_another_class(numbered):
    maps, labels = numbered
    here = ~is_flat(maps)
    rows = origin(control_maps(maps, "other_class", labels)[here], maps)
    assert (labels[rows] != labels[here]).all()
    three = np.arange(30) % 3
    rows = origin(control_maps(maps, "other_class", three)[here], maps)
    assert (three[rows] != three[here]).all() and len(set(three[rows])) == 3
    with pytest.raises(ValueError, match="all are of '1'"):
        control_maps(maps, "other_class", np.ones(30, int))
    with pytest.raises(ValueError, match=r"labels has shape \(29,\), expected \(30,\)"):
        control_maps(maps, "other_class", labels[1:])


def test_inverted_mean_and_centre(numbered):
    maps, _ = numbered
    here = ~is_flat(maps)
    np.testing.assert_allclose(control_maps(maps, "inverted")[here], 1 - maps[here], atol=1e-6)
    mean = unit_range(maps[here].mean(axis=0))
    np.testing.assert_allclose(control_maps(maps, "mean")[here], [mean] * here.sum(), atol=1e-6)
    wide = unit_range(np.random.default_rng(0).random((2, 9, 41)))
    centre = control_maps(wide, "centre")[0]
    assert np.unravel_index(centre.argmax(), centre.shape) == (4, 20)
    np.testing.assert_allclose(centre, centre[::-1, ::-1], atol=1e-6)
    raw = centre * (1 - np.exp(-8 * ((4 / 9) ** 2 + (20 / 41) ** 2))) + np.exp(
        -8 * ((4 / 9) ** 2 + (20 / 41) ** 2)
    )
    assert raw[4, 30] == pytest.approx(np.exp(-((10 / 41) ** 2) / (2 * 0.25**2)), abs=1e-6)


def test_box_is_the_bounding_box_of_the_top_half(rng):
    maps = unit_range(rng.random((20, 9, 8)) ** 8)
    for got, one in zip(control_maps(maps, "box"), maps, strict=True):
        rows, columns = np.nonzero(one >= 0.5)
        expected = np.zeros((9, 8))
        expected[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = 1
        np.testing.assert_array_equal(got, expected)


def test_noise_is_smooth_and_its_own_for_each_image():
    maps = unit_range(np.random.default_rng(1).random((3, 28, 28)))
    noise = control_maps(maps, "noise")
    assert abs(cc(noise[0], noise[1])) < 0.9 and abs(cc(noise[0], maps[0])) < 0.5
    assert np.abs(np.diff(noise, axis=1)).max() < 0.3  # neighbours are alike


def test_controls_scale_what_they_get_and_refuse_the_rest(numbered):
    maps, _ = numbered
    np.testing.assert_allclose(
        control_maps(maps * 3 + 1, "inverted"), control_maps(maps, "inverted"), atol=1e-5
    )
    assert not control_maps(np.zeros((4, 3, 3)), "shuffled").any()  # nobody annotated
    with pytest.raises(
        ValueError, match="kind is 'inverse', expected one of .* nearest 'inverted'"
    ):
        control_maps(maps, "inverse")
    with pytest.raises(ValueError, match=r"maps has shape \(5, 6\), expected \(n, h, w\)"):
        control_maps(maps[1], "inverted")
