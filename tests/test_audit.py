"""The audit against literal definitions, planted copies, planted giveaways and damaged files."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from cyborg.manifest import Manifest
from cyborg.measure import audit
from cyborg.measure.audit import (
    TRAITS,
    image_traits,
    jpeg_quality,
    near_duplicates,
    near_pairs,
    perceptual_hash,
    radial_spectrum,
    read_audit,
    shortcut_table,
    study_audit,
    trait_features,
    unrelated_distances,
    write_audit,
)

SIDE = 64


def some_pixels(seed, side=SIDE):
    """Noise of all scales, so that every frequency has power."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((side, side, 3))
    for cells in (4, 8, 16, 32):
        pixels += (
            rng.normal(0, 25, (cells, cells, 3)).repeat(side // cells, 0).repeat(side // cells, 1)
        )
    return np.clip(pixels + 128, 0, 255).astype(np.uint8)


def make_manifest(root, n=60, suffix=lambda label: ".png", **how) -> Manifest:
    """n images; every third is a test image of another generator."""
    rows = []
    for i in range(n):
        label = ("authentic", "synthetic")[i % 2]
        split = "test" if i % 3 == 0 else "train"
        source = "camera" if i % 2 == 0 else {"test": "new", "train": "old"}[split]
        name = f"{i}{suffix(label)}"
        Image.fromarray(some_pixels(i)).save(root / name, **how)
        rows.append([name, label, source, split, "", f"subject{i}"])
    columns = ["image", "label", "source", "split", "map", "subject"]
    return Manifest(pd.DataFrame(rows, columns=columns), root)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Manifest:
    return make_manifest(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def traits(manifest):
    return image_traits(manifest, SIDE)


# --- hashes -------------------------------------------------------------------------------------


def test_hash_is_the_signs_of_a_cosine_transform():
    pixels = some_pixels(0)
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    grey = grey.reshape(32, 2, 32, 2).mean(axis=(1, 3))
    at = np.arange(32) + 0.5
    bits = np.zeros((16, 16), bool)
    for u in range(16):
        for v in range(16):
            wave = np.outer(np.cos(np.pi * u * at / 32), np.cos(np.pi * v * at / 32))
            bits[u, v] = (u or v) and (grey * wave).sum() > 0
    assert (perceptual_hash(pixels[None])[0] == bits.ravel()).all()


def test_flat_image_has_no_bits_and_brightness_none_either():
    assert not perceptual_hash(np.full((1, 64, 64, 3), 77, np.uint8)).any()
    pixels = some_pixels(1) // 2
    brighter = pixels + np.uint8(60)
    assert (perceptual_hash(np.stack([pixels, brighter])).sum(axis=0) != 1).all()


@pytest.mark.parametrize("shape", [(64, 64, 3), (1, 16, 16, 3), (1, 64, 64)])
def test_hash_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="expected \\(B, S, S, 3\\)"):
        perceptual_hash(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("block", [1, 7, 2048])
def test_distances_are_counted_bits(block):
    rng = np.random.default_rng(0)
    a, b = rng.random((23, 256)) < 0.5, rng.random((11, 256)) < 0.5
    found = np.full((23, 11), -1)
    blocks = audit._distance_blocks(np.packbits(a, axis=1), np.packbits(b, axis=1), block)
    for i, j, distance in blocks:
        found[i : i + distance.shape[0], j : j + distance.shape[1]] = distance
    literal = [[sum(x != y for x, y in zip(p, q, strict=True)) for q in b] for p in a]
    assert (found == literal).all()
    pairs = near_pairs(a, b, 120)
    wanted = {(i, j, literal[i][j]) for i in range(23) for j in range(11) if literal[i][j] <= 120}
    assert set(pairs.itertuples(index=False, name=None)) == wanted
    assert pairs["distance"].is_monotonic_increasing


def test_no_images_no_pairs():
    assert not len(near_pairs(np.zeros((0, 256), bool), np.zeros((5, 256), bool), 10))


def test_copies_are_found_across_splits_only(manifest, tmp_path):
    rows = manifest.table.iloc[[1, 1, 1, 2, 2]].copy()
    rows["image"] = [f"copy{i}.jpg" for i in range(5)]
    rows["split"] = ["train", "val", "test", "train", "train"]  # the last two stay where they were
    for name, old in zip(rows["image"], manifest.table["image"].iloc[[1, 1, 1, 2, 2]], strict=True):
        Image.open(manifest.root / old).save(manifest.root / name, quality=60)
    with_copies = Manifest(pd.concat([manifest.table, rows]), manifest.root)
    found = near_duplicates(image_traits(with_copies, SIDE), limit=25)
    assert (found["split_a"] != found["split_b"]).all()
    pairs = {frozenset(pair) for pair in zip(found["image_a"], found["image_b"], strict=True)}
    inside, outside = {"1.png", "copy0.jpg"}, {"copy1.jpg", "copy2.jpg"}
    wanted = {frozenset({a, b}) for a in inside | outside for b in outside if a != b}
    assert pairs == wanted


def test_unrelated_pairs_have_other_subjects_and_splits(traits):
    table = traits.table.copy()
    assert unrelated_distances(traits).min() > 40
    twins = traits._replace(
        table=pd.concat([table, table.assign(split="val")], ignore_index=True),
        records=np.concatenate([traits.records, traits.records]),
    )
    assert unrelated_distances(twins).min() > 40  # twins share the subject
    nameless = twins._replace(table=twins.table.assign(subject=""))
    assert unrelated_distances(nameless).min() == 0
    assert not len(unrelated_distances(traits._replace(table=table.assign(split="train"))))


# --- spectrum and header ------------------------------------------------------------------------


@pytest.mark.parametrize("side", [64, 96, 101])
def test_spectrum_is_a_mean_over_rings(side):
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1, side + 1) / (side + 1))
    power = np.abs(np.fft.fft2((grey - grey.mean()) * np.outer(window, window))) ** 2
    rings = [[] for _ in range(32)]
    for i, fy in enumerate(np.fft.fftfreq(side)):
        for j in range(side // 2 + 1):  # the other half mirrors it
            ring = int(np.hypot(fy, np.fft.fftfreq(side)[j]) * 64 + 1e-9)
            if ring < 32:
                rings[ring].append(power[i, j])
    wanted = [np.log10(np.mean(ring)) for ring in rings]
    np.testing.assert_allclose(radial_spectrum(pixels), wanted, atol=1e-3)


def test_quality_of_every_setting():
    found = []
    for quality in range(5, 100, 10):
        file = io.BytesIO()
        Image.fromarray(some_pixels(0)).save(file, "JPEG", quality=quality)
        found.append(jpeg_quality(Image.open(file).quantization[0]))
    assert found == list(range(5, 100, 10))


def test_traits_of_known_files(tmp_path):
    picture = Image.fromarray(some_pixels(0)).resize((80, 64))
    picture.save(tmp_path / "a.jpg", quality=83, subsampling=0)
    picture.convert("L").save(tmp_path / "b.png")
    rows = [
        ["a.jpg", "authentic", "a", "train", "", ""],
        ["b.png", "synthetic", "b", "test", "", ""],
    ]
    table = pd.DataFrame(rows, columns=["image", "label", "source", "split", "map", "subject"])
    a, b = image_traits(Manifest(table, tmp_path), SIDE).records
    assert (a["kind"], a["width"], a["height"], a["quality"], a["sampling"]) == (
        "JPEG RGB", 80, 64, 83, 0,
    )  # fmt: skip
    assert (b["kind"], b["quality"], b["sampling"]) == ("PNG L", 0, -1)
    assert not b["tables"].any() and a["tables"].all()
    assert b["bytes"] == (tmp_path / "b.png").stat().st_size


def test_damaged_files_are_listed(manifest, tmp_path):
    good = (manifest.root / "0.png").read_bytes()
    damaged = {"cut.png": good[: len(good) // 2], "empty.png": b"", "text.png": b"no image"}
    for name, data in damaged.items():
        (manifest.root / name).write_bytes(data)
    lost = [*damaged, "gone.png"]
    rows = manifest.table.iloc[[0] * 4].assign(image=lost)
    found = image_traits(Manifest(pd.concat([rows, manifest.table]), manifest.root), SIDE)
    assert found.unreadable["image"].tolist() == lost
    assert found.unreadable["reason"].str.len().min() > 5
    assert found.table["image"].tolist() == manifest.table["image"].tolist()
    assert len(found.records) == len(manifest)
    none = image_traits(Manifest(rows, manifest.root), SIDE)
    assert (len(none.table), len(none.records), len(none.unreadable)) == (0, 0, 4)
    with pytest.raises(ValueError, match="0 training images of a class and 0 test"):
        shortcut_table(none, manifest.classes)


def test_size_is_checked(manifest):
    for size in (32, 64.0, "128"):
        with pytest.raises(ValueError, match="size is"):
            image_traits(manifest, size)


# --- what traits reach --------------------------------------------------------------------------


def test_table_is_a_plain_classifier(manifest, traits):
    """Trained on the training split alone, scored on the test split."""
    table = shortcut_table(traits)
    train, test = (traits.table["split"] == name for name in ("train", "test"))
    labels = traits.table["label"] == "synthetic"
    features = trait_features(traits.records, "spectrum").to_numpy()
    scaler = StandardScaler().fit(features[train])
    model = LogisticRegression(class_weight="balanced", max_iter=2000).fit(
        scaler.transform(features[train]), labels[train]
    )
    scores = model.decision_function(scaler.transform(features[test]))
    row = table[(table["trait"] == "spectrum") & (table["source"] == "new")]
    assert row["auc"].item() == pytest.approx(roc_auc_score(labels[test], scores))
    assert not row["seen"].item()
    assert row["low"].item() < row["auc"].item() < row["high"].item()


def test_nothing_to_learn_gives_chance(traits):
    """32 numbers and 40 training files: a fit judged on its own files would seem perfect."""
    table = shortcut_table(traits).set_index(["trait", "source"])["auc"]
    assert table["format", "new"] == table["size", "new"] == 0.5
    assert abs(table["spectrum", "train"] - 0.5) < 0.3
    assert set(table.index.get_level_values("trait")) == {*TRAITS, "all"}


@pytest.mark.parametrize(
    ("plant", "trait"),
    [
        (lambda i, fake: {"quality": 60 if fake else 90}, "jpeg"),
        (lambda i, fake: {"quality": 80, "size": 80 if fake else 64}, "size"),
        (lambda i, fake: {"quality": 80, "blur": fake}, "spectrum"),
        (lambda i, fake: {"suffix": ".png" if fake else ".bmp"}, "format"),
    ],
)
def test_planted_giveaways(tmp_path, plant, trait):
    rows = []
    for i in range(48):
        fake, how = i % 2 == 1, plant(i, i % 2 == 1)
        picture = Image.fromarray(some_pixels(i))
        if how.get("blur"):
            picture = picture.resize((48, 48)).resize((64, 64))
        picture = picture.resize((how.get("size", 64),) * 2)
        name = f"{i}{how.get('suffix', '.jpg')}"
        picture.save(tmp_path / name, **({"quality": how["quality"]} if "quality" in how else {}))
        label = ("authentic", "synthetic")[fake]
        rows.append([name, label, label, "test" if i % 3 else "train", "", ""])
    columns = ["image", "label", "source", "split", "map", "subject"]
    found = image_traits(Manifest(pd.DataFrame(rows, columns=columns), tmp_path), 64)
    train, fake = (found.table["split"] == "train").to_numpy(), np.arange(48) % 2 == 1
    scores = audit._trait_scores(found.records, trait, train, fake)
    assert roc_auc_score(fake[~train], scores[~train]) > 0.95
    assert roc_auc_score(fake[train], scores[train]) > 0.95


@pytest.mark.parametrize(
    "change",
    [{"split": "test"}, {"split": "train"}, {"label": "authentic"}],
    ids=["no training", "no test", "one class"],
)
def test_what_cannot_be_learned_is_refused(traits, change):
    with pytest.raises(ValueError, match="expected 2 and 1"):
        shortcut_table(traits._replace(table=traits.table.assign(**change)))


def test_three_classes_are_audited_without_shortcuts(manifest, tmp_path):
    table = manifest.table.head(12).assign(label=["authentic", "print", "replay"] * 4)
    found = study_audit(Manifest(table, manifest.root), SIDE, limit=20)
    texts = {finding.check: finding.text for finding in found.findings}
    assert "expected two" in texts["shortcuts not measured"]
    again = read_audit(write_audit(found, tmp_path / "audit"))
    assert not len(again.shortcuts) and list(again.shortcuts) == list(found.shortcuts)
    with pytest.raises(ValueError, match="expected two"):
        shortcut_table(image_traits(Manifest(table, manifest.root), SIDE))


# --- the whole ----------------------------------------------------------------------------------


def test_findings_say_what_and_how_much(tmp_path):
    leaky = make_manifest(tmp_path, 40, lambda label: ".png" if label == "authentic" else ".jpg")
    Image.open(leaky.root / "0.png").save(leaky.root / "twin.png", compress_level=1)
    twin = leaky.table.iloc[[0]].assign(image="twin.png", split="train", subject="other")
    (leaky.root / "cut.png").write_bytes((leaky.root / "2.png").read_bytes()[:200])
    cut = leaky.table.iloc[[0]].assign(image="cut.png", split="train", subject="third")
    leaky = Manifest(pd.concat([leaky.table, twin, cut]), leaky.root)
    found = study_audit(leaky, SIDE, limit=20)
    texts = {finding.check: finding for finding in found.findings}
    assert texts["near-copy"].examples == ("twin.png ~ 0.png",)
    assert texts["undecodable image"].count == 1 and "cut.png" in texts["undecodable image"].text
    assert "format 1.00" in texts["shortcut"].text
    assert "file giveaway" in texts  # of manifest.audit
    assert (found.distances["bits"].diff().dropna() >= 0).all()
    again = read_audit(write_audit(found, tmp_path / "a" / "b"))
    assert again.findings == found.findings
    for name in ("shortcuts", "duplicates", "distances", "unreadable"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(found, name), check_dtype=False)
    (tmp_path / "a" / "b" / "duplicates.csv").unlink()
    with pytest.raises(FileNotFoundError, match="no duplicates.csv"):
        read_audit(tmp_path / "a" / "b")


def test_nothing_found_says_nothing(manifest, tmp_path):
    found = study_audit(manifest, SIDE, limit=20)
    assert not {"near-copy", "undecodable image"} & {one.check for one in found.findings}
    assert not len(found.duplicates) and list(found.duplicates)[:2] == ["distance", "mirrored"]
    again = read_audit(write_audit(found, tmp_path / "audit"))  # empty tables too
    assert not len(again.duplicates) and not len(again.unreadable)
