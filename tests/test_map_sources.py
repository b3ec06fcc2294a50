"""Map sources: RISE and a teacher's CAM against literal versions, maps in a manifest, a kill in the
middle, granularity, gaze, what is refused, and a student of a teacher."""

import itertools
import json
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cyborg.data import ImageDataset
from cyborg.demo import make_demo
from cyborg.files import ManifestError
from cyborg.manifest import Manifest, read_manifest
from cyborg.models import make_network
from cyborg.people.gaze import read_fixations
from cyborg.prepare.sources import (
    MapSource,
    gaze_maps,
    granular_map,
    map_manifest,
    rise,
    rise_map,
    rise_masks,
    teacher_maps,
    teacher_saliency,
)
from cyborg.saliency import is_flat, read_map, unit_range
from cyborg.settings import preset_config
from cyborg.training import Run, load_run, train


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("sources") / "demo", n=64, size=64)


@pytest.fixture(scope="module")
def settings(demo, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    where = {"manifest": str(demo.root / "manifest.csv"), "root": str(demo.root)}
    return {**where, "runs": str(runs), "size": 64, "epochs": 1, "batch_size": 16, "device": "cpu"}


@pytest.fixture(scope="module")
def teacher(settings):
    return load_run(train(preset_config("quick", {**settings, "name": "teacher"})))


@pytest.fixture
def own(demo, tmp_path):
    """A copy of the training images that a test may spoil: 6 rows."""
    shutil.copytree(demo.root, tmp_path / "own")
    rows = demo.table[demo.table["split"] == "train"].iloc[:6]
    return Manifest(rows, tmp_path / "own", demo.classes)


def constant(maps, name="toy", **settings):
    """A source that gives the same few maps, and counts how often it is asked."""
    asked = []

    def draw(part):
        asked.extend(part.table["image"])
        return [maps] * len(part)

    return MapSource(name, settings, draw, batch_size=2), asked


# RISE


def literal_masks(n, size, seed, cells, share):
    """Section 3.2 pixel by pixel; the draws are taken from the generator in the same order."""
    generator = torch.Generator().manual_seed(seed)
    step = -(-size // cells)
    grid = (torch.rand(n, 1, cells, cells, generator=generator) < share)[:, 0].double()
    shift = torch.randint(step, (2, n, 1), generator=generator)
    masks = np.zeros((n, size, size))
    for i, y, x in itertools.product(range(n), range(size), range(size)):
        total = 0.0
        # where this pixel lies in the enlarged grid, in cells of the small one, centre to centre
        v = (y + int(shift[0, i]) + 0.5) / ((cells + 1) * step) * cells - 0.5
        u = (x + int(shift[1, i]) + 0.5) / ((cells + 1) * step) * cells - 0.5
        v, u = max(v, 0), max(u, 0)
        for row, column in itertools.product((int(v), int(v) + 1), (int(u), int(u) + 1)):
            weight = (1 - abs(v - row)) * (1 - abs(u - column))
            total += weight * grid[i, min(row, cells - 1), min(column, cells - 1)].item()
        masks[i, y, x] = total
    return masks


@pytest.mark.parametrize("size, cells", [(12, 3), (13, 4)])  # 13 is no multiple
def test_masks_are_those_of_the_paper(size, cells):
    mine = rise_masks(5, size, torch.Generator().manual_seed(3), cells, 0.4)
    np.testing.assert_allclose(mine.numpy(), literal_masks(5, size, 3, cells, 0.4), atol=1e-5)


def test_rise_is_the_sum_of_section_3_1():
    """A loop over images and masks, with a network whose answer depends on class and picture."""
    network = make_network("test_resnet", 2, 64, "none", seed=1)
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(2, 3, 64, 64, generator=generator), torch.tensor([1, 0])
    mine = teacher_saliency(network, images, labels, "rise", masks=9, cells=4, share=0.3, seed=5)
    masks = rise_masks(9, 64, torch.Generator().manual_seed(5), 4, 0.3)
    for image, label, map in zip(images, labels, mine, strict=True):
        total = torch.zeros(64, 64, dtype=torch.float64)
        for mask in masks:
            with torch.inference_mode():
                score = network((image * mask)[None]).logits.softmax(1)[0, label]
            total += score.double() * mask.double()
        np.testing.assert_allclose(map, total / (0.3 * 9), rtol=1e-4)


def test_rise_finds_the_only_cell_that_counts():
    """An image of two grey values; the score is the brightness of one place."""

    def predict(images):
        seen = images[:, 0, 4:8, 16:20].mean((1, 2))
        return torch.stack([1 - seen, seen], 1)

    images = torch.full((2, 3, 24, 24), 0.5)
    maps = rise(predict, images, torch.tensor([1, 0]), masks=4000, cells=6)
    y, x = divmod(int(maps[0].argmax()), 24)
    assert 3 <= y <= 8 and 15 <= x <= 20
    assert is_flat(maps.numpy()).sum() == 0
    y, x = divmod(int(maps[1].argmin()), 24)  # for the other class that place speaks against
    assert 3 <= y <= 8 and 15 <= x <= 20


def test_rise_does_not_depend_on_batches():
    predict = lambda images: images.mean((2, 3))[:, :2].sigmoid()  # noqa: E731
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 1])
    whole = rise(predict, images, labels, 100, batch_size=1000)
    small = rise(predict, images, labels, 100, batch_size=3)
    alone = torch.cat([rise(predict, images[i : i + 1], labels[i : i + 1], 100) for i in range(3)])
    np.testing.assert_allclose(whole, small, rtol=1e-5)
    np.testing.assert_allclose(whole, alone, rtol=1e-5)
    assert not np.allclose(whole, rise(predict, images, labels, 100, seed=1))
    generator = torch.Generator().manual_seed(0)  # drawn 64 at a time
    masks = torch.cat([rise_masks(n, 16, generator) for n in (64, 36)])
    scores = torch.stack([predict(image * masks[:, None]) for image in images])  # (3, 100, 2)
    scores = torch.stack([score[:, label] for score, label in zip(scores, labels, strict=True)])
    np.testing.assert_allclose(whole, rise_map(scores, masks), rtol=1e-5)
    halves = torch.tensor([[[1.0, 0.0]], [[0.5, 1.0]]])
    given = rise_map(torch.tensor([[0.8, 0.2]]), halves, share=0.25)
    np.testing.assert_allclose(given, [[[0.9 / 0.5, 0.2 / 0.5]]], rtol=1e-6)


@pytest.mark.parametrize("wrong", [{"cells": 0}, {"cells": 20}, {"share": 0.0}, {"share": 1.0}])
def test_rise_refuses(wrong):
    with pytest.raises(ValueError, match="expected 1 to 16 cells and a share"):
        rise_masks(2, 16, torch.Generator(), **wrong)


# Teachers


def test_the_map_is_of_the_true_class(teacher, demo):
    """By a loop over feature maps, of one row at a time, the label's row of the last layer."""
    rows = Manifest(demo.table[demo.table["split"] == "train"][::7], demo.root, demo.classes)
    drawn = teacher_maps(teacher, size=64).maps(rows)
    net = teacher.network
    data = ImageDataset(rows, net.size, net.map_size, net.mean, net.std)
    assert len(set(rows.labels)) == 2
    for i, map in enumerate(drawn):
        output = net(data[i].image[None])
        weight = net.backbone.fc.weight[rows.labels[i]].tolist()
        cam = sum(w * f for w, f in zip(weight, output.features[0], strict=True))
        # enlarged bilinearly, from cell centre to cell centre
        cells, side = cam.shape[0], 64
        place = np.clip((np.arange(side) + 0.5) * cells / side - 0.5, 0, cells - 1)
        wide = np.stack([np.interp(place, range(cells), row) for row in cam.detach().numpy()])
        large = np.stack([np.interp(place, range(cells), column) for column in wide.T], 1)
        np.testing.assert_allclose(map, large, atol=1e-4)


def test_predicted_class_and_other_order_of_classes(teacher, demo):
    rows = Manifest(demo.table[:8], demo.root, demo.classes)
    turned = Manifest(rows.table, rows.root, demo.classes[::-1])
    np.testing.assert_allclose(
        teacher_maps(teacher).maps(rows), teacher_maps(teacher).maps(turned), atol=1e-5
    )
    flipped = rows.table["label"].map(dict(zip(demo.classes, demo.classes[::-1], strict=True)))
    liar = Manifest(rows.table.assign(label=flipped), demo.root, demo.classes)
    assert not np.allclose(teacher_maps(teacher).maps(rows)[0], teacher_maps(teacher).maps(liar)[0])
    pred = [teacher_maps(teacher, "rise", "pred", masks=8).maps(m)[0] for m in (rows, liar)]
    np.testing.assert_allclose(*pred, atol=1e-6)  # looks at no label


@pytest.mark.parametrize("kind", ["hirescam", "layercam", "input_gradient", "squared_gradient"])
def test_every_kind_draws(teacher, own, kind):
    done = map_manifest(own, teacher_maps(teacher, kind), kind)
    maps = [read_map(own.root / name) for name in done.manifest.table["map"] if name]
    assert maps and all(m.min() == 0 and m.max() == 1 for m in maps)
    assert set(done.manifest.table["map_source"]) <= {f"{kind} of teacher", ""}
    assert not any(p.requires_grad and p.grad is not None for p in teacher.network.parameters())


def test_teachers_that_do_not_fit(teacher, own, tmp_path):
    prints = Manifest(own.table.assign(label="print"), own.root, ("print", "screen"))
    with pytest.raises(ValueError, match=r"trained on classes \('authentic', 'synthetic'\), the m"):
        map_manifest(prints, teacher_maps(teacher), "x")
    with pytest.raises(FileNotFoundError, match="is not a trained run: it has no config.json"):
        teacher_maps(tmp_path)
    with pytest.raises(ValueError, match="kind is 'Rise' .did you mean 'rise'"):
        teacher_maps(teacher, "Rise")
    with pytest.raises(ValueError, match="which is 'difference', expected one of .'true', 'pred'"):
        teacher_maps(teacher, "rise", "difference")
    with pytest.raises(ValueError, match="has no option 'mask', expected .'masks', 'cells'"):
        teacher_maps(teacher, "rise", mask=3)


def test_a_diverged_teacher(teacher, own):
    network = make_network("test_resnet", 2, 64, "none")
    torch.nn.init.constant_(network.backbone.fc.weight, float("nan"))
    broken = Run(*teacher[:1], network, *teacher[2:])
    with pytest.raises(ValueError, match="none of 6 images got a map from cam of teacher.*NaN"):
        map_manifest(own, teacher_maps(broken), "nan")


def test_a_student(teacher, settings, demo):
    """A teacher's manifest trains a student that sees the teacher's maps, and people's no more."""
    done = map_manifest(demo, teacher_maps(teacher), "taught", ("train", "val"))
    given = {**settings, "manifest": str(done.path), "name": "student"}
    student = load_run(train(preset_config("quick", given)))
    assert student.history["train_saliency"][0] > 0
    assert student.record["provenance"]["manifest_digest"] == done.manifest.digest
    net, rows = student.network, done.manifest.split("train")
    data = ImageDataset(rows, net.size, net.map_size, net.mean, net.std)
    people = ImageDataset(demo.split("train"), net.size, net.map_size, net.mean, net.std)
    assert data.has_map.mean() > 0.9 and not np.allclose(data.human, people.human)


# Maps in a manifest


def test_other_splits_and_columns_stay(demo):
    source, asked = constant(np.eye(8))
    done = map_manifest(demo, source, "val", "val").manifest.table
    val = demo.table["split"] == "val"
    assert sorted(asked) == sorted(demo.table["image"][val])
    assert (done["map"][~val] == demo.table["map"][~val]).all()
    assert (done["map_source"] == np.where(val, "toy", "")).all()
    beside = map_manifest(demo, constant(np.eye(8))[0], "beside", column="toy").manifest.table
    assert (beside["map"] == demo.table["map"]).all()
    assert (beside["toy_source"] == np.where(demo.table["split"] == "train", "toy", "")).all()


def test_keep_fills_only_what_is_empty(own):
    table = own.table.assign(map=own.table["map"].where(own.table.index % 2 == 0, ""))
    given = Manifest(table, own.root, own.classes)
    empty = table["map"] == ""
    assert 0 < empty.sum() < 6
    source, asked = constant(np.eye(8))
    done = map_manifest(given, source, "kept", keep=True).manifest.table
    assert sorted(asked) == sorted(table["image"][empty])
    assert (done["map"][~empty] == table["map"][~empty]).all() and (done["map"] != "").all()
    with pytest.raises(ValueError, match="all of split train have one, which keep leaves"):
        map_manifest(Manifest(done, own.root, own.classes), source, "again", keep=True)


class Killed(BaseException):
    pass


def test_goes_on_after_a_kill(own):
    """Killed in the third of three batches: the next run draws that one only, and ends the same."""
    source, asked = constant(np.eye(8))

    def dies(part):
        if len(asked) >= 4:
            raise Killed
        return source.maps(part)

    with pytest.raises(Killed):
        map_manifest(own, source._replace(maps=dies), "maps")
    assert not (own.root / "maps/manifest.csv").exists()  # the demo's own folder maps is beside
    assert len(asked) == 4
    done = map_manifest(own, source, "maps")
    assert len(asked) == 6 and len(set(asked)) == 6
    whole = map_manifest(own, constant(np.eye(8))[0], "whole").manifest.table
    strip = lambda column: column.str.split("/").str[1:].tolist()  # noqa: E731
    assert strip(done.manifest.table["map"]) == strip(whole["map"])
    map_manifest(own, source, "maps")
    assert len(asked) == 6
    lost, changed = done.manifest.table["map"][0], own.table["image"][1]
    (own.root / lost).unlink()
    Image.new("RGB", (64, 64), "red").save(own.root / changed)
    map_manifest(own, source, "maps")
    assert asked[6:] == [own.table["image"][0], changed]
    relabelled = own.table.assign(label=own.table["label"].replace("synthetic", "authentic"))
    map_manifest(Manifest(relabelled, own.root, own.classes), source, "maps")
    assert set(asked[8:]) == set(own.table["image"][own.table["label"] == "synthetic"])


def test_other_settings_are_refused(own):
    map_manifest(own, constant(np.eye(8), seed=0)[0], "a")
    with pytest.raises(ValueError, match="seed was 0, is 1; choose another folder, or overwrite"):
        map_manifest(own, constant(np.eye(8), seed=1)[0], "a")
    with pytest.raises(ValueError, match="granularity was 'fine', is 'box'"):
        map_manifest(own, constant(np.eye(8), seed=0)[0], "a", granularity="box")
    done = map_manifest(own, constant(np.ones((8, 8)).cumsum(1), seed=1)[0], "a", overwrite=True)
    assert read_map(own.root / done.manifest.table["map"][0])[0].max() == 1


def test_images_without_a_map_are_listed(own, teacher):
    (own.root / own.table["image"][2]).unlink()
    (own.root / own.table["image"][4]).write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="2 of 6 images got no map, see .*missing.csv; first"):
        done = map_manifest(own, teacher_maps(teacher), "cam")
    assert done.missing["image"].tolist() == own.table["image"][[2, 4]].tolist()
    assert "No such file" in done.missing["reason"][0]
    assert "not an image" in done.missing["reason"][1]
    assert (done.manifest.table["map"] == "").tolist() == [i in (2, 4) for i in range(6)]
    assert pd.read_csv(own.root / "cam/missing.csv").equals(done.missing)


def test_a_folder_that_is_none(own):
    with pytest.raises(ManifestError, match="climbs out"):
        map_manifest(own, constant(np.eye(8))[0], "../elsewhere")
    (own.root / "spoilt").mkdir()
    (own.root / "spoilt/maps.sqlite").write_bytes(b"something else entirely" * 9)
    with pytest.raises(ValueError, match=r"maps\.sqlite holds no results"):
        map_manifest(own, constant(np.eye(8))[0], "spoilt")
    strangers = own.root / "theirs" / "maps"
    strangers.mkdir(parents=True)
    (strangers / "a.png").write_bytes(b"not ours")
    with pytest.raises(FileExistsError, match="theirs holds maps and no maps.sqlite"):
        map_manifest(own, constant(np.eye(8))[0], "theirs")
    with pytest.raises(FileExistsError, match="theirs holds maps and no maps.sqlite"):
        map_manifest(own, constant(np.eye(8))[0], "theirs", overwrite=True)
    assert [p.name for p in strangers.parent.rglob("*")] == ["maps", "a.png"]
    for column in ("image", "label", "source", "split", "subject"):
        with pytest.raises(ValueError, match=f"column is '{column}', expected map or a name besid"):
            map_manifest(own, constant(np.eye(8))[0], "x", column=column)
    with pytest.raises(ValueError, match="split must be one of"):
        map_manifest(own, constant(np.eye(8))[0], "x", "training")
    with pytest.raises(ValueError, match="toy gave 1 maps for 2 images"):
        map_manifest(own, MapSource("toy", {}, lambda part: [np.eye(4)], 2), "x")


def test_maps_have_the_pictures_proportions(tmp_path, teacher):
    """A picture that lies on its side by its EXIF, and one that is wide, read back by training."""
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (90, 60), "grey").save(tmp_path / "a.jpg", exif=exif)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (60, 90, 3), np.uint8)).save(tmp_path / "b.png")
    rows = [(n, "authentic", "s", "train", "", "") for n in ("a.jpg", "b.png")]
    table = pd.DataFrame(rows, columns=["image", "label", "source", "split", "map", "subject"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = map_manifest(Manifest(table, tmp_path), teacher_maps(teacher), "cam").manifest
    shapes = [read_map(tmp_path / name).shape for name in done.table["map"] if name]
    assert shapes[-1] == (149, 224) and (shapes[0] if len(shapes) > 1 else (224, 149)) == (224, 149)
    net = teacher.network
    data = ImageDataset(done, net.size, net.map_size, net.mean, net.std)
    assert not data.bad_maps and data.has_map[1]


# Granularity


def test_granularity_by_hand():
    """Every cell of a hull or box asked one by one."""
    from scipy.ndimage import label as labelled
    from scipy.spatial import Delaunay

    rng = np.random.default_rng(1)
    map = np.zeros((24, 24))
    for y, x in ((5, 5), (6, 7), (9, 6), (8, 4), (17, 15), (18, 19), (21, 17)):
        map[y - 1 : y + 2, x - 1 : x + 2] = rng.uniform(0.6, 1, (3, 3))
    map[0, 20] = 0.3  # below the level
    map[5, 5] = 1.0
    patches, count = labelled(map >= 0.5, np.ones((3, 3)))
    hull, box = np.zeros((24, 24), bool), np.zeros((24, 24), bool)
    for number in range(1, count + 1):
        points = np.argwhere(patches == number)
        inside = Delaunay(points)
        (top, left), (bottom, right) = points.min(0), points.max(0)
        for y, x in itertools.product(range(24), range(24)):
            hull[y, x] |= inside.find_simplex((y, x)) >= 0
            box[y, x] |= top <= y <= bottom and left <= x <= right
    assert (granular_map(map, "box") > 0).tolist() == box.tolist()
    mine = granular_map(map, "area") > 0
    # cells that an edge of the hull only grazes may count, none inside may be missing
    assert (mine | ~hull).all() and (mine & ~hull).sum() <= 0.1 * hull.sum()
    assert (granular_map(map, "fine") == unit_range(map)).all()


def test_granularity_in_a_manifest(own):
    dot = np.zeros((224, 224))
    dot[50:70, 100:102] = dot[68:70, 100:140] = 1  # an L
    fine = map_manifest(own, constant(dot)[0], "fine").manifest.table["map"][0]
    coarse = map_manifest(own, constant(dot)[0], "box", granularity="box").manifest.table
    assert coarse["map_source"][0] == "toy, box"
    fine, coarse = read_map(own.root / fine), read_map(own.root / coarse["map"][0])
    assert fine[55, 130] == 0 and coarse[60, 120] > 0.9
    assert 0 < coarse[46, 120] < 0.5  # blurred by 5 pixels, as human maps are
    with pytest.raises(ValueError, match="level is 2, expected a share"):
        map_manifest(own, constant(dot)[0], "x", level=2)
    with pytest.raises(ValueError, match="filled everywhere by granularity 'box'"):
        map_manifest(own, constant(np.eye(8))[0], "y", granularity="box")


# Gaze


def table_of(rows):
    return pd.DataFrame(rows, columns=["image", "subject", "x", "y", "duration"])


def test_gaze_is_blurred_dwell_time(own):
    image = own.table["image"][0]
    gaze = table_of([(image, "a", 10.5, 20.5, 300), (image, "b", 50.5, 20.5, 100)])
    with pytest.warns(UserWarning, match="5 of 6"):
        done = map_manifest(own, gaze_maps(gaze, own, sigma=2), "gaze")
    y, x = np.mgrid[:64, :64]
    by_hand = 3 * np.exp(-((x - 10) ** 2 + (y - 20) ** 2) / 8)
    by_hand += np.exp(-((x - 50) ** 2 + (y - 20) ** 2) / 8)
    mine = read_map(own.root / done.manifest.table["map"][0])
    np.testing.assert_allclose(mine, by_hand / by_hand.max(), atol=0.01)
    with pytest.warns(UserWarning, match="5 of 6"):
        alike = map_manifest(own, gaze_maps(gaze, own, sigma=2, timed=False), "alike")
    assert read_map(own.root / alike.manifest.table["map"][0])[20, 50] == 1


def test_gaze_finds_its_pictures(own, tmp_path):
    images = own.table["image"].tolist()
    stem, name = images[0].rsplit("/", 1)[-1].split(".")[0], images[1].rsplit("/", 1)[-1]
    lines = ["crop,subject,order,x,y,duration_ms", f"{stem},0,0,9,9,100", f"{name},0,1,9,9,100"]
    lines += [f"{images[2]},0,2,9,9,100", "portrait 7,0,3,9,9,100", "nobody,0,4,9,9,100"]
    (tmp_path / "gaze.csv").write_text("\n".join(lines))
    gaze = read_fixations(tmp_path / "gaze.csv")
    source = gaze_maps(gaze, own, 3, names={"portrait 7": images[3]})
    with pytest.warns(UserWarning, match="2 of 6"):
        done = map_manifest(own, source, "gaze")
    assert done.missing["image"].tolist() == images[4:]
    json.dumps(source.settings)
    twins = own.table.assign(image=[f"{i}/same.png" for i in range(6)])
    with pytest.raises(ValueError, match=r"fixations on 'same' fit 0/same.png and 1/same.png"):
        gaze_maps(gaze.assign(image="same"), Manifest(twins, own.root), 3)
    with pytest.raises(ValueError, match="names leads to 'x.png', which is no image"):
        gaze_maps(gaze, own, 3, names={"portrait 7": "x.png"})
    with pytest.raises(ValueError, match=r"lacks the columns \['x', 'y'\]"):
        gaze_maps(gaze.drop(columns=["x", "y"]), own, 3)


def test_gaze_outside_and_in_another_frame(own):
    images = own.table["image"].tolist()
    gaze = table_of([(images[0], "a", 12, 12, 1), (images[1], "a", 99, 5, 1)])
    with pytest.warns(UserWarning, match="5 of 6"):
        done = map_manifest(own, gaze_maps(gaze, own, 1, frame=(32, 32)), "gaze")
    assert done.missing["reason"][0] == "none of its 1 fixations lies inside"
    assert read_map(own.root / done.manifest.table["map"][0]).shape == (32, 32)
    with pytest.raises(ValueError, match=r"proportions of the frame \(32, 40\)"):
        map_manifest(own, gaze_maps(gaze, own, 1, frame=(32, 40)), "wide")
    assert read_manifest(done.path, own.root).digest == done.manifest.digest
