"""The real-face experiment: its geometry by hand values, its files from made-up faces, and the
real data's own rows where that data is at hand."""

import importlib.util
import json
import os
import sys
from dataclasses import fields
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cyborg.findings import validate
from cyborg.manifest import read_manifest
from cyborg.predictions import NOTE
from cyborg.saliency import read_map
from cyborg.settings import PRESETS, RunConfig

ROOT = Path(__file__).resolve().parents[1]
REAL = Path(os.environ.get("CYBORG_FACES") or ROOT.parent / "shared" / "data" / "faces")
needs_faces = pytest.mark.skipif(
    not (REAL / "faces.csv").is_file(),
    reason=f"needs the face images: CYBORG_FACES is not set and {REAL} holds no faces.csv",
)


def load(name):
    path = ROOT / "experiments" / "real_faces" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"real_faces_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


prepare, run, results = load("prepare"), load("run"), load("results")
FRONTAL = {  # on a 128 pixel picture: eyes 40 apart, mouth 40 below them
    "left_eye": np.array([44.0, 50.0]),
    "right_eye": np.array([84.0, 50.0]),
    "nose": np.array([64.0, 74.0]),
    "mouth": np.array([64.0, 90.0]),
}


def centroid(mask):
    y, x = np.nonzero(mask)
    return np.array([x.mean() + 0.5, y.mean() + 0.5])


# --- geometry --------------------------------------------------------------------------------


def test_regions_sit_on_their_landmarks():
    masks = prepare.face_regions(FRONTAL, 128)
    assert tuple(masks) == ("left_eye", "right_eye", "nose", "mouth")
    for name in ("left_eye", "right_eye", "mouth"):
        np.testing.assert_allclose(centroid(masks[name]), FRONTAL[name], atol=0.01)
    np.testing.assert_allclose(centroid(masks["nose"]), [64, 68], atol=0.01)  # 1/4 up the bridge
    x = np.nonzero(masks["left_eye"].any(0))[0]
    y = np.nonzero(masks["left_eye"].any(1))[0]
    assert (x[0], x[-1]) == (31, 56)  # 44 -+ 0.32 * 40: pixel middles from 31.5 to 56.5
    assert (y[0], y[-1]) == (41, 58)  # 50 -+ 0.22 * 40: from 41.5 to 58.5


def test_left_is_left_as_seen_in_the_picture():
    masks = prepare.face_regions(FRONTAL, 128)
    assert masks["left_eye"][50, 44] and not masks["left_eye"][:, 64:].any()
    assert masks["right_eye"][50, 84] and not masks["right_eye"][:, :64].any()
    row = pd.Series({"eye_imgleft_x": 90, "eye_imgleft_y": 100, "eye_imgright_x": 160})
    row = pd.concat([row, pd.Series({"eye_imgright_y": 102, "nose_x": 1, "nose_y": 2})])
    row = pd.concat([row, pd.Series({"mouth_x": 3, "mouth_y": 4})])
    points = prepare.landmarks(row, 128)
    np.testing.assert_array_equal(points["left_eye"], [45, 50])
    np.testing.assert_array_equal(points["right_eye"], [80, 51])
    np.testing.assert_array_equal(points["mouth"], [1.5, 2])


def test_a_mirrored_face_has_mirrored_regions():
    swap = {"left_eye": "right_eye", "right_eye": "left_eye", "nose": "nose", "mouth": "mouth"}
    tilted = FRONTAL | {"right_eye": np.array([80.0, 60.0]), "mouth": np.array([58.0, 92.0])}
    mirrored = {swap[name]: np.array([128 - x, y]) for name, (x, y) in tilted.items()}
    masks, other = prepare.face_regions(tilted, 128), prepare.face_regions(mirrored, 128)
    for name in masks:
        np.testing.assert_array_equal(masks[name], other[swap[name]][:, ::-1])


def test_regions_turn_with_the_head_and_keep_their_size_when_it_looks_aside():
    lying = {name: np.array([128 - y, x]) for name, (x, y) in FRONTAL.items()}  # a quarter turn
    masks, turned = prepare.face_regions(FRONTAL, 128), prepare.face_regions(lying, 128)
    np.testing.assert_array_equal(turned["mouth"], np.rot90(masks["mouth"], -1))
    slant = np.array([0.6, 0.8])
    mouth = prepare.face_ellipse(np.array([64.0, 64.0]), (20, 5), slant, 128)
    for step, inside in ((19, True), (-19, True), (21, False)):
        x, y = (64 + step * slant).astype(int)
        assert mouth[y, x] == inside
    x, y = (64 + 7 * np.array([-0.8, 0.6])).astype(int)  # across
    assert not mouth[y, x] and mouth.sum() == pytest.approx(np.pi * 20 * 5, rel=0.02)
    aside = FRONTAL | {"right_eye": np.array([54.0, 50.0])}
    assert prepare.face_scale(FRONTAL) == 40
    assert prepare.face_scale(aside) == pytest.approx(0.9 * np.hypot(15, 40))


def test_gaze_follows_the_face():
    dot = np.zeros((256, 256), np.float32)
    dot[99:102, 89:92] = 1  # around x, y = 90.5, 100.5
    gaze = prepare.Gaze(dot, {k: v * 2 for k, v in FRONTAL.items()})
    gaze.points["left_eye"] = np.array([90.5, 100.5])
    for target in (FRONTAL, {k: v + [7, -9] for k, v in FRONTAL.items()}):
        warped = prepare.warp_gaze(gaze, target, 128)
        assert warped.shape == (128, 128) and warped.max() == 1 and warped.dtype == np.float32
        y, x = np.nonzero(warped > 0.5)
        np.testing.assert_allclose([x.mean() + 0.5, y.mean() + 0.5], target["left_eye"], atol=0.6)


def test_parts_of_a_composite():
    assert prepare.parts("left_eye|nose") == ("left_eye", "nose")
    with pytest.raises(ValueError, match=r"names \['ear'\], expected some of \('left_eye'"):
        prepare.parts("mouth|ear")


# --- files, from made-up faces ---------------------------------------------------------------


def texture(rng):
    "A picture with corners to find, 256 x 256."
    small = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((256, 256), Image.Resampling.NEAREST)).copy()


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    "A faces folder with ten images a training source and two of each other one."
    folder, rng = tmp_path_factory.mktemp("data") / "faces", np.random.default_rng(0)
    fakes = prepare.COUNTERPARTS
    reals = {name for names in fakes.values() for name in names.split("|")}
    training = {name for chosen in prepare.SETS.values() for name in chosen.training}
    rows, boxes = [], []
    for source in sorted(reals | set(fakes)):
        label = "synthetic" if source in fakes else "authentic"
        for i in range(10 if source in training else 2):
            path = f"{label}/{source}/{i}.jpg"
            region = "left_eye|mouth" if source == "composite_ciplab" else ""
            rows.append({"path": path, "label": label, "source": source, "region": region})
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(texture(rng)).save(folder / path, quality=75)
            if source != "cyborg_repo":
                points = [96, 122, 160, 122, 128, 165, 128, 195]
                names = [f"{prefix}_{axis}" for prefix in prepare.POINTS.values() for axis in "xy"]
                box = {"face_x0": 45, "face_y0": 68, "face_x1": 210, "face_y1": 233}
                boxes.append({"path": path, **box, **dict(zip(names, points, strict=True))})
    pd.DataFrame(rows).to_csv(folder / "faces.csv", index=False)
    pd.DataFrame(boxes).to_csv(folder / "boxes.csv", index=False)
    original = np.asarray(Image.open(folder / "authentic/photo_ciplab/3.jpg")).copy()
    original[90:210, 80:180] = 128  # the face exchanged, the photograph moved a little
    Image.fromarray(np.roll(original, (4, -3), (0, 1))).save(
        folder / "synthetic/composite_ciplab/7.jpg", quality=75
    )
    osie = folder.parent / "human_maps" / "osie"
    osie.mkdir(parents=True)
    crop = {"crop": "a.jpg", "face_x0": 45, "face_y0": 68, "face_x1": 210, "face_y1": 233}
    pd.DataFrame([crop]).to_csv(osie / "crops.csv", index=False)
    fixation = {"crop": "a.jpg", "x": 128.5, "y": 165.5, "duration_ms": 200}
    pd.DataFrame([fixation]).to_csv(osie / "crop_fixations.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def prepared(made_up, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    prepare.prepare(faces=made_up, out=out, size=64)
    return out


@pytest.mark.parametrize("name", list(prepare.SETS))
def test_manifests_pass_their_own_validation(prepared, name):
    manifest = read_manifest(prepared / f"{name}.csv", root=prepared)
    # Every generator of these tests is unseen, on purpose.
    assert {found.check for found in validate(manifest)} <= {"nothing seen"}
    table, chosen = manifest.table, prepare.SETS[name]
    assert set(table.source[table.split != "test"]) == set(chosen.training)
    counts = table[table.split != "test"].groupby(["source", "split"]).size().unstack()
    assert counts.train.between(7, 9).all() and (counts.train + counts.val == 10).all()
    fake = table[(table.split == "test") & (table.label == "synthetic")]
    assert dict(zip(fake.source, fake.counterpart, strict=True)) == {
        source: names for source, names in prepare.COUNTERPARTS.items()
        if source not in chosen.training
    }  # fmt: skip
    assert set(fake.source[fake.exposure == "seen"]) == set(chosen.seen)
    assert set(fake.source[fake.exposure == "apart"]) == {"cyborg_repo"}
    rest = table.drop(fake.index)
    assert (rest.counterpart == "").all() and (rest.exposure == "").all()


def test_all_images_are_alike_in_kind_and_every_map_is_its_image_s_size(prepared):
    table = read_manifest(prepared / "composites.csv", root=prepared).table
    kinds = set()
    for path in table.image:
        with Image.open(prepared / path) as image:
            kinds.add((image.format, image.mode, image.size))
    assert kinds == {("PNG", "RGB", (64, 64))}
    for path in table["map"][table["map"] != ""].iloc[::10]:
        map_ = read_map(prepared / path)
        assert map_.shape == (64, 64) and map_.min() == 0 and map_.max() == 1


def test_which_map_an_image_gets(prepared):
    kinds = {}
    for name in prepare.SETS:
        table = read_manifest(prepared / f"{name}.csv", root=prepared).table
        table["kind"] = table["map"].str.split("/").str[1]
        kinds[name] = table.groupby("source").kind.agg(set).to_dict()
    assert kinds["composites"]["composite_ciplab"] == {"regions"}
    assert kinds["composites"]["photo_ciplab"] == {"gaze"}
    assert kinds["composites"]["ffhq_lago"] == {"landmarks"}
    assert kinds["ffhq140k"]["stylegan_140k"] == {"landmarks"}
    assert kinds["ffhq140k"]["composite_ciplab"] == {"regions"}
    table = read_manifest(prepared / "composites.csv", root=prepared).table
    assert (table["map"][table.source == "cyborg_repo"] == "").all()
    region = read_map(prepared / "maps/regions/synthetic/composite_ciplab/0.png")
    assert region[30, 24] > 0.9 and region[48, 32] > 0.9  # left eye and mouth, exchanged
    assert region[30, 40] < 0.1 and region[38, 32] < 0.2  # right eye and nose, not


def test_a_composite_and_its_photograph_are_one_subject(prepared):
    table = read_manifest(prepared / "composites.csv", root=prepared).table
    shared = table[table.subject.duplicated(keep=False)]
    assert sorted(shared.image) == [
        "images/authentic/photo_ciplab/3.png",
        "images/synthetic/composite_ciplab/7.png",
    ]
    assert shared.split.nunique() == 1


def test_the_same_input_gives_the_same_manifest(prepared, made_up, tmp_path):
    prepare.prepare(faces=made_up, out=tmp_path, size=64)
    assert (tmp_path / "composites.csv").read_bytes() == (prepared / "composites.csv").read_bytes()


def test_bad_input_is_named(tmp_path, monkeypatch, made_up):
    monkeypatch.delenv("CYBORG_FACES", raising=False)
    with pytest.raises(ValueError, match="pass --faces FOLDER or set CYBORG_FACES"):
        prepare.faces_folder()
    with pytest.raises(FileNotFoundError, match="holds no faces.csv and no boxes.csv"):
        prepare.faces_folder(tmp_path)
    with pytest.raises(ValueError, match="size is 224, expected 32 to 160"):
        prepare.prepare(faces=made_up, out=tmp_path, size=224)
    with pytest.raises(ValueError, match="maps is 'eyes', expected gaze or landmarks"):
        prepare.prepare(faces=made_up, out=tmp_path, maps="eyes")
    faces, boxes = pd.read_csv(made_up / "faces.csv"), pd.read_csv(made_up / "boxes.csv")
    faces.to_csv(tmp_path / "faces.csv", index=False)
    boxes.drop(columns="mouth_y").to_csv(tmp_path / "boxes.csv", index=False)
    with pytest.raises(ValueError, match=r"boxes.csv lacks the columns \['mouth_y'\]"):
        prepare.read_faces(tmp_path)
    boxes.to_csv(tmp_path / "boxes.csv", index=False)
    with pytest.raises(FileNotFoundError, match=f"{len(faces)} images of faces.csv are missing"):
        prepare.read_faces(tmp_path)
    faces.replace("progan_lago", "new_gan").to_csv(tmp_path / "faces.csv", index=False)
    with pytest.raises(ValueError, match=r"without a counterpart .*\['new_gan'\]"):
        prepare.read_faces(tmp_path)


# --- runs and their results ------------------------------------------------------------------

A = run.FaceRun("composites", "resnet50", "classical", 0)
B = A._replace(scenario="cyborg")


def test_a_run_s_name_and_command(tmp_path):
    assert run.parse_name(A.name) == A and A.name == "composites--resnet50--classical--s0"
    assert run.parse_name("executed") is None and run.parse_name("a--b--c--d") is None
    settings = run.parameters(B, tmp_path, tmp_path / "runs", {"epochs": 3, "precision": "auto"})
    assert settings["alpha"] == 0.5 and settings["weights"] == "none"
    assert settings["manifest"] == str(tmp_path / "composites.csv")
    words = run.command(settings, tmp_path / "out.ipynb")
    assert words[:3] == [sys.executable, "-m", "papermill"]
    given = {words[i + 1]: (words[i], words[i + 2]) for i in range(5, len(words) - 1, 3)}
    assert given["weights"] == (
        "-r",
        "none",
    )  # -p would read null, yes, 1e-3 as what they look like
    assert given["epochs"] == ("-p", "3") and given["alpha"] == ("-p", "0.5")


def test_another_setting_is_refused_before_anything_runs(tmp_path, prepared):
    folder = tmp_path / A.name
    folder.mkdir()
    settings = run.parameters(A, prepared, tmp_path, {"epochs": 3}) | {"runs": "/elsewhere"}
    digest = read_manifest(prepared / "composites.csv", root=prepared).digest
    record = {"settings": settings, "provenance": {"manifest_digest": digest}}
    (folder / "config.json").write_text(json.dumps(record))
    assert list(run.plan(tmp_path, prepared, [A, B], {"epochs": 3})) == [A, B]
    with pytest.raises(ValueError, match="1 runs .*s0: epochs is 3, wanted 5"):
        run.plan(tmp_path, prepared, [A, B], {"epochs": 5})
    with pytest.raises(ValueError, match="distance is None, wanted 'l2'"):
        run.plan(tmp_path, prepared, [A, B], {"epochs": 3, "distance": "l2"})
    record["provenance"]["manifest_digest"] = "0" * 64
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="s0: the manifest has changed"):
        run.plan(tmp_path, prepared, [A, B], {"epochs": 3})


def test_names_and_assignments_on_the_command_line():
    assert run.known("scenarios", "cyborg, mean", run.SCENARIOS) == ["cyborg", "mean"]
    with pytest.raises(ValueError, match=r"scenarios is \['cyborgs'\], expected some of"):
        run.known("scenarios", "cyborgs", run.SCENARIOS)
    given = run.assignments("lr_step=5, lr=1e-3,distance=l2,one_logit=true")
    assert given == {"lr_step": 5, "lr": 0.001, "distance": "l2", "one_logit": True}
    with pytest.raises(ValueError, match="expected NAME=VALUE, not 'epochs'"):
        run.assignments("epochs")
    assert run.SCENARIOS["inverted"] == {"alpha": 0.5, "maps": "inverted"}


def test_no_preset_decides_anything(tmp_path, prepared, monkeypatch):
    wanted = {}
    monkeypatch.setattr(run, "execute_all", lambda todo, settings, *rest: wanted.update(settings))
    run.main(data=prepared, runs=tmp_path, archs="resnet50", seeds=2, also="batch_size=4")
    names = {one.name for one in wanted}
    assert len(names) == 8 and "ffhq140k--resnet50--cyborg--s1" in names
    for settings in wanted.values():
        assert set(PRESETS["quick"]) <= set(settings) and settings["batch_size"] == 4
        assert set(settings) <= {field.name for field in fields(RunConfig)}
        RunConfig(**settings)
    with pytest.raises(FileNotFoundError, match="no manifest in .*: run prepare.py first"):
        run.main(data=tmp_path / "absent", runs=tmp_path)


def predictions(scores):
    "A table of predictions; `scores` by source, authentic ones first."
    kinds = {"p": ("authentic", "", ""), "q": ("authentic", "", "")}
    kinds |= {"easy": ("synthetic", "p", "unseen"), "even": ("synthetic", "p|q", "unseen")}
    kinds |= {"known": ("synthetic", "p", "seen"), "few": ("synthetic", "p", "apart")}
    rows = [
        {"image": f"{source}{i}", "label": kinds[source][0], "source": source, "split": "test",
         "map": "", "subject": "", "counterpart": kinds[source][1], "exposure": kinds[source][2],
         "logit_0": 0.0, "logit_1": float(np.log(score / (1 - score))), "score": score,
         "predicted": "synthetic" if score > 0.5 else "authentic",
         "cc": 0.25 if kinds[source][0] == "authentic" else np.nan}
        for source, values in scores.items()
        for i, score in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_results_are_read_from_run_folders(tmp_path):
    base = {"p": [0.2, 0.4], "q": [0.6, 0.8], "known": [0.9, 0.9], "few": [0.1, 0.1]}
    for one, scores in {
        A: {"easy": [0.9, 0.9], "even": [0.5]},  # 1.0; above p, below q: 0.5
        A._replace(seed=1): {"easy": [0.3, 0.3], "even": [0.5]},  # 0.5; 0.5
        B: {"easy": [0.9, 0.9], "even": [0.9]},  # 1.0; 1.0
    }.items():
        (tmp_path / one.name).mkdir()
        table = pa.Table.from_pandas(predictions(base | scores))
        note = {"classes": ["authentic", "synthetic"]}
        table = table.replace_schema_metadata({NOTE: json.dumps(note)})
        pq.write_table(table, tmp_path / one.name / "predictions.parquet")
    (tmp_path / B._replace(seed=1).name).mkdir()  # unfinished
    (tmp_path / B.name / "config.json").write_text('{"provenance": {"code_digest": "c0de"}}')
    text = run.write_results(tmp_path)
    results = pd.read_csv(tmp_path / "results.csv")
    value = results.set_index(["scenario", "seed", "measure"]).value
    assert value["classical", 0, "AUC even"] == 0.5 and value["classical", 0, "AUC few"] == 0
    assert value["classical", 0, "macro AUC unseen"] == 0.75
    assert value["classical", 0, "macro AUC seen"] == 1
    assert value["classical", 0, "agreement CC authentic"] == 0.25
    assert len(results[results.measure == "macro AUC unseen"]) == 3
    lines = [line for line in text.splitlines() if line.startswith("| macro AUC unseen")]
    assert lines[0] == "| macro AUC unseen | 0.625 ± 0.177 (2) | 1.000 (1) |"
    assert lines[1] == "| macro AUC unseen | 0.250 (1) |"  # only seed 0 has both
    assert text.startswith("Beware: made by several versions of the code, unknown (2 runs), c0de")
    assert (tmp_path / "results.md").read_text() == text


def test_the_protocol_counts_unseen_sources_only(tmp_path):
    base = {"p": [0.2, 0.4], "q": [0.6, 0.8], "few": [0.1, 0.1]}
    better = {"easy": [0.9, 0.9], "even": [0.9]}  # 1, 1
    worse = {"easy": [0.3, 0.3], "even": [0.5]}  # 0.5, 0.5
    rows = []
    for scenario, seed in product(("classical", "cyborg", "inverted"), (0, 1)):
        folder = tmp_path / f"{scenario}{seed}"
        folder.mkdir()
        known = {"known": [0.9, 0.9] if seed else [0.1, 0.1]}  # of no account
        scores = better if scenario == "cyborg" else worse
        table = pa.Table.from_pandas(predictions(base | known | scores))
        note = {NOTE: json.dumps({"classes": ["authentic", "synthetic"]})}
        pq.write_table(table.replace_schema_metadata(note), folder / "predictions.parquet")
        rows.append({"scenario": scenario, "seed": seed, "folder": folder})
    runs = pd.DataFrame(rows)
    found = results.run_rows(runs)
    aucs = found[found["measure"] == "macro AUC"].set_index(["scenario", "seed"])["value"]
    assert set(results.test_predictions(runs["folder"][0])["source"]) == {"p", "q", "easy", "even"}
    assert aucs["classical"].tolist() == [0.5, 0.5] and aucs["cyborg"].tolist() == [1, 1]
    table = results.compared(results.pairs_of(results.PRIMARY), found, runs)
    assert table["comparison"].tolist() == ["cyborg − classical", "cyborg − inverted"]
    assert table["difference"].tolist() == [0.5, 0.5]
    assert (table["detectable"] >= 0).all()
    assert table["p_holm"].tolist() == [1.0, 1.0]  # two pairs: no p below 0.5


def test_no_run_yet(tmp_path):
    assert run.write_results(tmp_path) == "" and run.collect(tmp_path / "absent").empty


def test_one_failure_stops_nothing_else(tmp_path, monkeypatch, prepared):
    script = (
        "import sys, pathlib; name = sys.argv[1]; print('working')\n"
        "if name.endswith('s1'): sys.exit('no such network')\n"
        "pathlib.Path(sys.argv[2], name).mkdir(); pathlib.Path(sys.argv[2], name, "
        "'predictions.parquet').touch()"
    )
    words = [sys.executable, "-c", script]
    monkeypatch.setattr(run, "command", lambda s, out: [*words, s["name"], s["runs"]])
    grid = [A, A._replace(seed=1), B]
    settings = run.plan(tmp_path, prepared, grid, {})
    failures = run.execute_all(grid, settings, tmp_path, tmp_path, jobs=2)
    assert [run.finished(tmp_path / one.name) for one in grid] == [True, False, True]
    assert len(failures) == 1 and "s1 ended with 1" in failures[0]
    assert "no such network" in failures[0]


# --- the real data ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    return prepare.read_faces(REAL)


@needs_faces
def test_real_rows_have_left_eyes_on_the_left_and_regions_inside_the_face_box(real):
    rows = real[real.region != ""].iloc[::5]
    assert len(rows) > 100
    for _, row in rows.iterrows():
        masks = prepare.face_regions(prepare.landmarks(row, 256), 256)
        centres = {name: centroid(mask) for name, mask in masks.items() if mask.any()}
        assert centres["left_eye"][0] < centres["right_eye"][0]
        assert centres["mouth"][1] > centres["nose"][1] - 10
        for name in prepare.parts(row.region):
            x, y = centres[name]
            assert row.face_x0 - 10 < x < row.face_x1 + 10, (row.path, name)
            assert row.face_y0 - 10 < y < row.face_y1 + 10, (row.path, name)


@needs_faces
@pytest.mark.parametrize("name", list(prepare.SETS))
def test_real_splits(real, name):
    real = real.assign(subject=real.path)
    table = prepare.face_table(real, name, "gaze")
    chosen = prepare.SETS[name]
    assert len(table) == len(real) and table.image.is_unique
    assert set(table.source[table.split != "test"]) == set(chosen.training)
    counts = table[table.split != "test"].groupby(["source", "split"]).size().unstack()
    np.testing.assert_allclose(counts.train / counts.sum(axis=1), 0.8, atol=0.01)
    test = table[table.split == "test"]
    authentic = set(test.source[test.label == "authentic"])
    for names in test.counterpart[test.label == "synthetic"].unique():
        assert set(names.split("|")) <= authentic, names
    unseen = test.source[test.exposure == "unseen"].unique()
    assert len(unseen) == {"composites": 8, "ffhq140k": 9}[name]


@needs_faces
def test_real_composites_find_their_photographs(real):
    pairs = {("easy_94_0001", "real_00858"), ("hard_184_0011", "real_01044")}
    pairs |= {("easy_216_1100", "real_00159")}
    stem = real.path.map(lambda path: Path(path).stem)
    known = real[stem.isin({name for pair in pairs for name in pair})]
    others = real[real.source.isin(("photo_ciplab", "composite_ciplab"))].drop(known.index)
    rows = pd.concat([known, others.iloc[::40]])
    found = stem[rows.index].groupby(prepare.shared_photographs(rows, REAL)).agg(sorted)
    assert {tuple(names) for names in found if len(names) > 1} == pairs


@needs_faces
def test_mean_gaze_lies_between_the_eyes_and_the_mouth(real):
    folder = REAL.parent / "human_maps"
    if not (folder / "osie" / "crops.csv").is_file():
        pytest.skip(f"needs the gaze data: {folder} holds no osie/crops.csv")
    gaze = prepare.mean_gaze(folder, real)
    y, x = np.unravel_index(gaze.map.argmax(), gaze.map.shape)
    assert gaze.points["left_eye"][0] < x < gaze.points["right_eye"][0]
    assert gaze.points["left_eye"][1] < y < gaze.points["mouth"][1]
    total = gaze.map.sum()
    face = gaze.map[68:233, 45:210].sum()
    assert face / total > 0.85


def test_a_minified_module_is_read_without_running_it():
    path = ROOT / "experiments" / "frozen_faces" / "inception.py"
    spec = importlib.util.spec_from_file_location("inception", path)
    inception = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(inception)
    wrapped = "function(){{module.exports=a()}}({{1:[function(a,n,i){{n.exports={}}},{{}}]}})"
    value = '{a:{min:-.5,b_1:[null,!0,!1,.25]},name:"x:y"}'
    expected = {"a": {"min": -0.5, "b_1": [None, True, False, 0.25]}, "name": "x:y"}
    assert inception.exported(wrapped.format(value)) == expected
    assert inception.exported(wrapped.format('"AAEC"')) == "AAEC"
