"""Sets of other people become manifests that say what their users have to know."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from cyborg.commands import import_command
from cyborg.files import ManifestError
from cyborg.findings import audit
from cyborg.manifest import read_manifest
from cyborg.prepare.importers import (
    IMPORTERS,
    Imported,
    ai_face,
    deepfakebench,
    folders,
    genimage,
    und_wacv_2023,
    viser,
    write_imported,
)

LAYOUT = Path(__file__).parents[2] / "shared" / "tools" / "released_layout.py"


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


LISTS = {
    "original": [
        "train,Real,/train/original_data/0_real/p1_7_real.png",
        "train,Synthetic,/train/original_data/1_fake/p1_7_fake.png",
        "test,Real,//val/0_real/04408d239.jpg",
        "test,Synthetic,//val/1_fake/FW9_04240d48.png",
        "test,Synthetic,//val/1_fake/synth_face_0003.jpg",
    ],
    "large_dataset_7x": [
        "train,Real,/train/7x_data/0_real/p1_7_real.png",
        "train,Real,/train/7x_data/0_real/04408d240.jpg",
        "train,Synthetic,/train/7x_data/1_fake/synth_face_0003.jpg",
        "test,Real,//val/0_real/04408d239.jpg",
        "test,Synthetic,//val/1_fake/FW9_04240d48.png",
        "test,Synthetic,//val/1_fake/synth_face_0003.jpg",
    ],
    "celeba-hq": ["test,Real,/test/0_real/celeba-hq_real_aligned/1.jpg"],
    "ffhq": ["test,Real,/test/0_real/ffhq_aligned/1.png"],
    "progan": ["test,Synthetic,/test/1_fake/progan_aligned/1.png"],
    "stargan": ["test,Synthetic,/test/1_fake/stargan_aligned/1.png"],
    "stylegan1": ["test,Synthetic,/test/1_fake/stylegan1-0.5_aligned/000000/1.png"],
    "stylegan2": ["test,Synthetic,/test/1_fake/stylegan2-0.5_aligned/000000/1.png"],
    "stylegan-ada": ["test,Synthetic,/test/1_fake/stylegan-ada-0.5_aligned/1.png"],
    "stylegan3": ["test,Synthetic,/test/1_fake/stylegan3-0.5_aligned/1.png"],
}


@pytest.fixture
def release(tmp_path) -> Path:
    """A release with one image a test list; its root has csvs/ beside it."""
    root = tmp_path / "root"
    for name, rows in LISTS.items():
        touch(tmp_path, f"csvs/{name}.csv")
        (tmp_path / f"csvs/{name}.csv").write_text("".join(f"{row}\n" for row in rows))
        touch(root, *[row.split(",")[2] for row in rows])
    touch(root, "train/heatmaps/p1_7_real.png", "train/heatmaps/p1_7_fake.png")
    return root


def test_the_paper_s_protocol_is_in_its_manifest(release):
    faces = und_wacv_2023(str(release)).manifests[""].table.query("split == 'test'")
    held_against = faces.set_index("source")["counterpart"].to_dict()
    celeba, ffhq = ["ProGAN", "StarGANv2"], ["StyleGAN", "StyleGAN2", "StyleGAN2-ADA", "StyleGAN3"]
    assert held_against == (
        dict.fromkeys(["CelebA-HQ", "FFHQ"], "")
        | dict.fromkeys(celeba, "CelebA-HQ")
        | dict.fromkeys(ffhq, "FFHQ")
    )
    assert faces.loc[faces["seen"] == "yes", "source"].tolist() == ["StyleGAN2"]


def test_scenario_2_has_its_own_training_images_and_the_same_test(release):
    imported = und_wacv_2023(str(release))
    one, two = (imported.manifests[name].table for name in ("", "large"))
    assert one["split"].value_counts().to_dict() == {"test": 8, "val": 3, "train": 2}
    assert two.query("split == 'train'")["source"].tolist() == ["FRGC", "FRGC", "StyleGAN2"]
    rows = (table.query("split == 'test'").reset_index(drop=True) for table in (one, two))
    pd.testing.assert_frame_equal(*rows)


def test_training_images_have_their_maps_and_no_others_do(release):
    imported = und_wacv_2023(str(release))
    maps = {name: m.table["map"].tolist() for name, m in imported.manifests.items()}
    both = ["train/heatmaps/p1_7_real.png", "train/heatmaps/p1_7_fake.png"]
    assert maps == {"": [*both, *[""] * 11], "large": [both[0], *[""] * 13]}
    assert (
        "original: 2 of 2 training images have a human map under train/heatmaps" in imported.notes
    )


def test_the_leaks_of_the_release_are_counted(release):
    notes = und_wacv_2023(str(release)).notes
    assert "large: 1 of 3 file names of train are also file names of val" in notes
    assert "large: 1 of 1 subjects of train are also subjects of val" in notes
    assert not [note for note in notes if note.startswith("original") and "also" in note]


def test_what_names_do_not_tell_is_said(release):
    imported = und_wacv_2023(str(release))
    sources = imported.manifests[""].table["source"].tolist()
    assert sources[:5] == ["FRGC", "SREFI or StyleGAN2", "FRGC", "SREFI", "StyleGAN2"]
    assert any("1 training images are of SREFI or StyleGAN2" in note for note in imported.notes)


def test_the_manifest_passes_the_audit_without_a_word_on_its_protocol(release):
    found = audit(und_wacv_2023(str(release)).manifests[""], hashes=False)
    assert [f.check for f in found if f.refuse] == []
    assert not {"no counterparts", "nothing seen"} & {f.check for f in found}


def test_missing_lists_are_said(release):
    (release.parent / "csvs/stylegan3.csv").unlink()
    imported = und_wacv_2023(str(release))
    assert "no list of StyleGAN3" in imported.notes
    assert "StyleGAN3" not in set(imported.manifests[""].table["source"])


def test_a_generator_whose_counterpart_is_missing_is_held_against_nobody_else(release):
    (release.parent / "csvs/celeba-hq.csv").unlink()
    imported = und_wacv_2023(str(release))
    left = "left out: 1 images of ProGAN, which are held against CelebA-HQ, and there are none"
    assert left in imported.notes
    assert not {"ProGAN", "StarGANv2"} & set(imported.manifests[""].table["source"])


def test_an_unknown_test_folder_is_counted_and_kept(release):
    touch(release, "test/1_fake/diffusion/1.png")
    new = release.parent / "csvs/new.csv"
    new.write_text("test,Synthetic,/test/1_fake/diffusion/1.png\n")
    imported = und_wacv_2023(str(release))
    assert any("unknown test folder diffusion (1 images)" in note for note in imported.notes)
    assert "diffusion" in set(imported.manifests[""].table["source"])


def test_a_list_of_another_layout_is_refused_by_name(release):
    (release.parent / "csvs/mine.csv").write_text("train,Real,/mine/a.png\n")
    with pytest.raises(ManifestError, match=r"mine\.csv is no list of UND WACV 2023 CYBORG.*mine"):
        und_wacv_2023(str(release))


def test_two_lists_of_the_same_training_images_are_refused(release):
    again = release.parent / "csvs/original (1).csv"
    again.write_text((release.parent / "csvs/original.csv").read_text())
    with pytest.raises(ManifestError, match="second list of the original training images"):
        und_wacv_2023(str(release))


def test_a_copy_with_holes_is_refused_and_may_be_taken(release):
    (release / "train/original_data/0_real/p1_7_real.png").unlink()
    touch(release, "train/original_data/0_real/p2_7_real.png")
    path = release.parent / "csvs/original.csv"
    path.write_text(path.read_text() + "train,Real,/train/original_data/0_real/p2_7_real.png\n")
    with pytest.raises(ManifestError, match=r"1 of 2 files of FRGC in train, such as .*p1_7_real"):
        und_wacv_2023(str(release))
    imported = und_wacv_2023(str(release), skip_missing=True)
    assert any("1 of 2 files of FRGC in train" in note for note in imported.notes)


def test_a_source_that_was_not_copied_is_left_out_and_said(release):
    (release / "test/1_fake/stylegan3-0.5_aligned/1.png").unlink()
    imported = und_wacv_2023(str(release))
    assert any("1 of 1 files of StyleGAN3 in test" in note for note in imported.notes)
    assert "StyleGAN3" not in set(imported.manifests[""].table["source"])


def test_files_of_a_mac_are_no_lists(release):
    touch(release.parent, "csvs/._original.csv")
    assert len(und_wacv_2023(str(release)).manifests) == 2


def test_without_lists_their_folder_is_asked_for(tmp_path):
    with pytest.raises(ManifestError, match="give their folder with --csvs"):
        und_wacv_2023(str(tmp_path))


@pytest.mark.skipif(not LAYOUT.is_file(), reason="no copy of the released lists")
def test_the_released_lists_come_in_as_they_are(tmp_path):
    make = [sys.executable, str(LAYOUT), str(tmp_path), "--share", "0.002", "--size", "8"]
    subprocess.run(make, check=True, capture_output=True)
    imported = und_wacv_2023(str(tmp_path / "root"))
    for manifest in imported.manifests.values():
        assert [f.text for f in audit(manifest, hashes=False) if f.refuse] == []
    faces = imported.manifests[""].table
    assert set(faces.query("split == 'val'")["source"]) == {"FRGC", "SREFI", "StyleGAN2"}
    assert faces.query("split == 'train'")["map"].ne("").all()


def bench(folder: Path, **changes) -> Path:
    """A list of DeepfakeBench with its frames on disk."""
    videos = {
        ("FF-real", "train"): {f"{i:03}": ("FF-real", [f"real\\{i}.png"]) for i in range(20)},
        ("FF-real", "test"): {"900": ("FF-real", ["real\\900.png"])},
        ("FF-DF", "train"): {f"{i:03}_1": ("FF-DF", [f"./fake/{i}.png"]) for i in range(20)},
        ("FF-DF", "test"): {"900_1": ("FF-DF", ["fake/900.png"])},
    } | changes.pop("videos", {})
    content: dict = {}
    for (kind, split), found in videos.items():
        entries = {name: {"label": label, "frames": f} for name, (label, f) in found.items()}
        content.setdefault(kind, {})[split] = {"c23": entries} if changes.get("levels") else entries
        for _, frames in found.values():
            touch(folder, *[frame.replace("\\", "/") for frame in frames])
    path = folder / "list.json"
    path.write_text(json.dumps({"FF-DF": content}))
    return path


def test_deepfakebench_videos_stay_together_and_validation_is_drawn(tmp_path):
    imported = deepfakebench(str(bench(tmp_path)), root=str(tmp_path))
    table = imported.manifests[""].table
    assert table["split"].value_counts().to_dict() == {"train": 34, "val": 6, "test": 2}
    assert table.loc[table["image"] == "real/900.png", "label"].tolist() == ["authentic"]
    assert set(table["source"]) == {"FF-real", "FF-DF"}
    assert "validation: 6 of 40 training images, drawn by subject" in imported.notes


def test_validation_that_is_the_test_is_left_out_and_said(tmp_path):
    doubled = {("FF-real", "val"): {"900": ("FF-real", ["real\\900.png"])}}
    imported = deepfakebench(str(bench(tmp_path, videos=doubled)), root=str(tmp_path))
    assert imported.notes[0] == "1 of 1 images of val are images of test: left out of val"
    assert imported.manifests[""].table["image"].is_unique


def test_a_compression_is_chosen_where_there_are_several(tmp_path):
    path = bench(tmp_path, levels=True)
    with pytest.raises(ManifestError, match=r"has compressions \['c23'\]; choose one with --comp"):
        deepfakebench(str(path), root=str(tmp_path))
    assert len(deepfakebench(str(path), root=str(tmp_path), compression="c23").manifests[""]) == 42


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "holds a list, wanted a dict"),
        ("{", "is no readable JSON file"),
        ('{"a": 1}', "lacks 'labels'"),
        ('{"a": {"x": {"train": {"v": {"label": "odd", "frames": []}}}}}', "neither real nor fake"),
        ('{"a": {"x": {"later": {}}}}', "'later' is none of"),
        ('{"a": {"x": {"train": {"v": {"label": "FF-real"}}}}}', "compressions"),
    ],
)
def test_another_json_is_refused_by_name(tmp_path, text, words):
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(ManifestError, match=words) as caught:
        deepfakebench(str(path), root=str(tmp_path))
    assert str(path) in str(caught.value)


def test_viser_has_a_column_a_kind_of_map(tmp_path):
    entries = [
        {
            "irisImageLink": f"{i}.png",
            "label": ("Live", "Spoof")[i % 2],
            "attackType": ("Live", "Contact Lens")[i % 2],
            "saliencyMaps": {"Gaze": f"Gaze/{i}_blended.png"}
            | ({"Hand": "Hand/0.png"} if not i else {}),
        }
        for i in range(40)
    ]
    (tmp_path / "v.json").write_text(json.dumps(entries))
    imported = viser(str(tmp_path / "v.json"), kind="Gaze")
    table = imported.manifests[""].table.set_index("image")
    assert table.loc["3.png", ["label", "source", "map", "Hand"]].tolist() == [
        "synthetic",
        "Contact Lens",
        "Gaze/3_blended.png",
        "",
    ]
    assert "1 of 40 images have Hand" in imported.notes
    assert table.groupby("split")["source"].nunique().to_dict() == {"train": 2, "val": 2, "test": 2}


def test_genimage_is_tested_on_its_val_and_each_generator_against_its_own_photographs(tmp_path):
    names = [
        f"{gen}/{inner}{split}/{kind}/{i}.JPEG"
        for gen, inner in (("Midjourney", "imagenet_midjourney/"), ("VQDM", ""))
        for split in ("train", "val")
        for kind in ("ai", "nature")
        for i in range(20)
    ]
    touch(tmp_path, *names)
    table = genimage(str(tmp_path)).manifests[""].table
    test = table.query("split == 'test'")
    assert test.groupby("source")["counterpart"].first().to_dict() == {
        "Midjourney": "Midjourney nature",
        "Midjourney nature": "",
        "VQDM": "VQDM nature",
        "VQDM nature": "",
    }
    assert set(test["image"].str.contains("/val/")) == {True}
    assert table["split"].value_counts().to_dict() == {"test": 80, "train": 72, "val": 8}


def test_ai_face_attributes_become_words(tmp_path):
    rows = [
        "Image Path,Ground Truth Gender,Ground Truth Age,Ground Truth Race,Target",
        f"{tmp_path.name}/AttGAN/1.png,1,2,0,1",
        "FFHQ/2.png,0.0,0,9,0",
    ]
    (tmp_path / "test.csv").write_text("\n".join(rows))
    touch(tmp_path, "AttGAN/1.png", "FFHQ/2.png")
    imported = ai_face(str(tmp_path / "test.csv"), root=str(tmp_path))
    table = imported.manifests[""].table
    assert table[["label", "sex", "age", "race"]].to_numpy().tolist() == [
        ["synthetic", "male", "senior", "Asian"],
        ["authentic", "female", "young", ""],
    ]
    assert "1 images without a known race" in imported.notes
    assert "no training images: this manifest can only be tested on" in imported.notes


def run(monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["cyborg-import", *words])
    import_command()


def test_the_command_writes_manifests_that_are_read_back(release, tmp_path, monkeypatch, capsys):
    out = tmp_path / "faces.csv"
    run(monkeypatch, "und-wacv-2023", str(release), "-o", str(out))
    assert (
        f"papermill nbs/train.ipynb -p manifest {out} -p root {release}" in capsys.readouterr().out
    )
    assert len(read_manifest(out, release)) == 13
    assert read_manifest(tmp_path / "faces_large.csv", release).seen == ("FRGC", "StyleGAN2")


def test_the_command_writes_over_nothing(release, tmp_path, monkeypatch):
    out = tmp_path / "faces_large.csv"
    out.write_text("mine")
    with pytest.raises(SystemExit, match=r"faces_large\.csv is there; give another name"):
        run(monkeypatch, "und-wacv-2023", str(release), "-o", str(tmp_path / "faces.csv"))
    assert out.read_text() == "mine"
    assert not (tmp_path / "faces.csv").exists()
    words = ["-o", str(tmp_path / "faces.csv"), "--overwrite"]
    run(monkeypatch, "und-wacv-2023", str(release), *words)
    assert out.read_text() != "mine"


def test_a_misspelt_kind_is_refused_with_the_nearest(monkeypatch):
    with pytest.raises(SystemExit, match="did you mean 'genimage'"):
        run(monkeypatch, "gen-image", "x", "-o", "y")


def test_faults_are_one_line_and_no_traceback(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="^cyborg-import: root .* is no folder"):
        run(monkeypatch, "folders", str(tmp_path / "none"), "-o", str(tmp_path / "a.csv"))


@pytest.mark.parametrize("kind", IMPORTERS)
def test_every_option_is_explained(kind, monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, kind, "--help")
    assert ended.value.code == 0
    assert "None" not in capsys.readouterr().out


def test_another_suffix_is_refused_before_anything_is_written(tmp_path):
    touch(tmp_path, "ADM/train/ai/1.png", "ADM/train/nature/1.png")
    with pytest.raises(ValueError, match=r"must end in \.csv or \.parquet"):
        write_imported(Imported(genimage(str(tmp_path)).manifests, []), tmp_path / "faces.txt")


def test_folders_of_unknown_names_ask_which_is_positive_and_the_manifest_says_it(tmp_path):
    for label in ("0", "1"):
        for i in range(20):
            path = tmp_path / "faces" / label / f"{label}{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4), i).save(path)
    with pytest.raises(ManifestError, match="labels are '0' and '1'.* synthetic="):
        folders(str(tmp_path / "faces"))
    found = folders(str(tmp_path / "faces"), synthetic="0")
    assert "positive class: synthetic (label '0'), by the setting synthetic" in found.notes
    [path] = write_imported(found, tmp_path / "m.csv")
    assert read_manifest(path, tmp_path / "faces").classes == ("1", "0")
