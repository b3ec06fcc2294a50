"""The manifest under bad input: what is refused, what only warns, and what the messages say."""

import errno
import hashlib
import itertools
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import cyborg
from cyborg import findings as findings_module
from cyborg import manifest as manifest_module
from cyborg.files import (
    DamagedError,
    ManifestError,
    atomic_path,
    content_hash,
    data_root,
    name_fault,
    over_files,
    read_json,
    require_bool,
    runs_root,
    safe_path,
    sweep_parts,
)
from cyborg.findings import CHECKED, audit, validate, validate_once, validate_run
from cyborg.manifest import (
    CLASSES,
    COLUMNS,
    SPLITS,
    Manifest,
    default_classes,
    group_split,
    positive_class,
    read_folders,
    read_manifest,
    read_released,
    read_table,
    with_protocol,
    write_manifest,
)


@pytest.fixture(autouse=True)
def no_roots(monkeypatch):
    for name in ("CYBORG_DATA", "CYBORG_RUNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def small(tmp_path):
    """Five images with maps of each class in each split, alike in kind, different in bytes."""
    rows = []
    for i, (split, label, _) in enumerate(itertools.product(SPLITS, CLASSES, range(5))):
        rows.append([f"{split}/{i}.png", label, "toy", split, f"maps/{i}.png", f"{i:04d}"])
        for name in (rows[-1][0], rows[-1][4]):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            Image.new("L", (4, 4), i).save(tmp_path / name)
    return Manifest(pd.DataFrame(rows, columns=COLUMNS), tmp_path)


def changed(manifest, row, **values):
    table = manifest.table.copy()
    for name, value in values.items():
        table.loc[row, name] = value
    return Manifest(table, manifest.root, manifest.classes)


def checks(findings):
    return {finding.check: finding.count for finding in findings}


# ---- files and folders


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "./",
        "..",
        "../a",
        "a/..",
        "a/../b",
        "a/.. /b",
        "a/.../b",
        "/a",
        "//a/b",
        "\\a",
        "a\\..\\b",
    ]
    + ["C:a", "c:/a", "..\\a", "a\0b", "\\\\host\\a"],
)
def test_unsafe_names_are_refused(name):
    with pytest.raises(ManifestError, match="wanted one relative to"):
        safe_path("/data", name)
    row = ["a.png", "authentic", "s", "train", "a_map.png", ""]
    for column in (0, 4) if name else (0,):  # an empty map is none
        table = pd.DataFrame([[*row[:column], name, *row[column + 1 :]]], columns=COLUMNS)
        (found,) = manifest_module.lexical_findings(Manifest(table, "/data"))
        assert (found.check, found.refuse, found.count) == ("unsafe path", True, 1)


@pytest.mark.parametrize(
    "name", ["a", "a/b.png", "./a", "a//b", "..a", "a..", ".hidden/a", "a b/ü.png", "12:30.png"]
)
def test_odd_but_safe_names_stay_below_the_root(name):
    path = safe_path("/data", name)
    assert os.path.normpath(path).startswith("/data/")


def test_linked_folders_below_the_root_are_allowed(small, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("disk")
    (small.root / "train").rename(elsewhere / "train")
    (small.root / "train").symlink_to(elsewhere / "train")
    assert validate(small) == []


def test_atomic_path_on_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_text("old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)  # where a full network disk often tells
    with pytest.raises(OSError, match="No space left"), atomic_path(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_atomic_path_survives_ctrl_c_and_keeps_the_suffix(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "new/a.npz") as temporary:
        assert temporary.suffix == ".npz" and temporary.name.startswith(".")
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert list((tmp_path / "new").iterdir()) == []


def test_two_writers_never_share_a_temporary_file(tmp_path):
    with atomic_path(tmp_path / "a") as one, atomic_path(tmp_path / "a") as two:
        assert one != two
        one.write_text("1")
        two.write_text("2")
    assert (tmp_path / "a").read_text() == "1"  # the outer block ends last


def test_atomic_path_where_nothing_was_written(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a"):
        pass


HOLDING = """
import sys, time
from cyborg.manifest import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_writer_left_goes_and_what_a_live_one_writes_stays(tmp_path):
    command = [sys.executable, "-c", HOLDING, str(tmp_path / "a.csv")]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        assert all(writer.stdout.readline() == b"writing\n" for writer in writers)
        killed = next(tmp_path.glob(f".a.*-{writers[0].pid}-*.part.csv"))
        writers[0].kill()
        writers[0].wait()
        with atomic_path(tmp_path / "b.csv") as temporary:  # the first write here sweeps
            temporary.write_text("whole")
        assert not killed.exists() and len(list(tmp_path.glob(f".a.*-{writers[1].pid}-*"))) == 1
        sweep_parts(tmp_path, ["a"])  # as the holder of a lock, who knows that nobody writes it
        assert [path.name for path in tmp_path.iterdir()] == ["b.csv"]
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()


def test_a_temporary_file_of_another_machine_goes_after_a_day(tmp_path):
    names = [".a.0123abcd-1-0123456789ab.part.npz", ".a.0123456789ab.part"]  # the old form, too
    others = [".hidden", ".a.part", "a.0123456789ab.part", ".a.0123456789ab.partial"]
    for name in (*names, *others):
        (tmp_path / name).touch()
    sweep_parts(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*names, *others}
    for path in tmp_path.iterdir():
        os.utime(path, (time.time() - 90_000,) * 2)
    sweep_parts(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(others)


def test_atomic_path_of_a_very_long_name(tmp_path):
    with atomic_path(tmp_path / ("x" * 250 + ".csv")) as temporary:
        temporary.write_text("1")


def test_atomic_path_of_a_long_name_of_wide_letters(tmp_path):
    with atomic_path(tmp_path / ("ゾ" * 80 + ".csv")) as temporary:  # 244 bytes of 255
        temporary.write_text("x")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "name",
    ["..", ".", "", " ", "...", "-", "a/b", "/a", "a\\b", "C:a", ".git", "a.", "a ", " a", "CON"]
    + ["lpt1.txt", "a\0", "a\nb", "\u200b", "\u3164", "\u00a0", "a\u202eb", "a*", "x" * 201],
)
def test_a_name_that_may_be_another_folder_or_none_is_refused(name):
    assert name_fault(name)


@pytest.mark.parametrize(
    "name", ["run", "faces-resnet50.a1_in1k-cyborg-seed0", "a (2)", "ゾウ", "comma"]
)
def test_a_plain_name_is_taken(name):
    assert name_fault(name) == ""


@pytest.mark.parametrize("value", ["false", "False", "", 0, 1, None])
def test_only_a_truth_value_may_throw_files_away(value):
    with pytest.raises(ValueError, match=r"overwrite is .*, expected True or False"):
        require_bool(overwrite=value)
    require_bool(overwrite=np.bool_(True))


def test_damaged_json_is_told_with_its_path(tmp_path):
    path = tmp_path / "a.json"
    for content in (b"", b"{", b"\xff\xfe\x00", b"\x89PNG", b"[]", b"3", b"[" * 99_999):
        path.write_bytes(content)
        with pytest.raises(DamagedError, match=r"a\.json is damaged.*nothing was changed; do this"):
            read_json(path, "do this")
    path.write_text('{"a": [1]}', encoding="utf-16")
    assert read_json(path, "") == {"a": [1]}


def test_roots(tmp_path, monkeypatch):
    checkout = Path(cyborg.__file__).resolve().parent.parent
    assert data_root() == (
        checkout / "data" if (checkout / "settings.ini").is_file() else Path("data").resolve()
    )
    monkeypatch.setattr(cyborg, "__file__", str(tmp_path / "site/cyborg/__init__.py"))
    monkeypatch.chdir(tmp_path)
    assert runs_root() == tmp_path.resolve() / "runs"
    monkeypatch.setenv("CYBORG_RUNS", "")
    assert runs_root() == tmp_path.resolve() / "runs"
    monkeypatch.setenv("CYBORG_DATA", str(tmp_path / "env"))
    assert data_root() == tmp_path.resolve() / "env"
    assert data_root("arg") == tmp_path.resolve() / "arg"


def test_content_hash_of_more_than_one_piece(tmp_path):
    data = random.Random(0).randbytes((1 << 20) + 5)
    (tmp_path / "a").write_bytes(data)
    assert content_hash(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_over_files_keeps_the_order():
    names = [str(i) for i in range(2000)]
    assert over_files(int, names, "numbers") == list(range(2000))
    assert over_files(int, [], "nothing") == []


def test_import_is_light():
    code = "import sys; import cyborg.manifest; print('torch' in sys.modules, 'cv2' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False"] * 2


# ---- reading and writing


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_round_trip(small, tmp_path, suffix):
    small = Manifest(small.table.assign(note='a "b", c\n'), small.root)
    small = changed(small, 0, subject="0012", map="", source="NA")
    path = write_manifest(small, tmp_path / f"out/manifest{suffix}")
    again = read_manifest(path, root=small.root)
    pd.testing.assert_frame_equal(again.table, small.table)
    assert again.digest == small.digest
    assert again.table.loc[0, ["subject", "map", "source"]].tolist() == ["0012", "", "NA"]


def test_parquet_with_numbers_nulls_and_categories_reads_as_text(small, tmp_path):
    table = small.table.assign(
        subject=range(30), map=None, label=small.table["label"].astype("category")
    )
    table.to_parquet(tmp_path / "m.parquet")
    manifest = read_manifest(tmp_path / "m.parquet")
    assert manifest.table["subject"].tolist() == [str(i) for i in range(30)]
    assert set(manifest.table["map"]) == {""}
    assert all(isinstance(value, str) for value in manifest.table.to_numpy().ravel())
    assert np.array_equal(manifest.labels, small.labels)


def test_parquet_with_a_left_over_index(small, tmp_path):
    small.table[::2].to_parquet(tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet").table.index.equals(pd.RangeIndex(15))


def test_root_is_argument_then_environment_then_folder(small, tmp_path, monkeypatch):
    path = write_manifest(small, tmp_path / "lists/m.csv")
    assert read_manifest(path).root == (tmp_path / "lists").resolve()
    monkeypatch.setenv("CYBORG_DATA", str(tmp_path))
    assert read_manifest(path).root == tmp_path.resolve()
    assert read_manifest(path, root=tmp_path / "x").root == tmp_path.resolve() / "x"


HEADER = ",".join(COLUMNS) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "m.csv is empty"),
        (HEADER.encode(), "m.csv has no rows"),
        (b"image,label,source,split,map\na,b,c,d,e\n", "lacks the column 'subject'; wanted"),
        (b"Image,label,source,split,map,subject\n1,2,3,4,5,6\n", "'image' .did you mean 'Image'"),
        (b"image;label;source;split;map;subject\n", "no rows|lacks the column"),
        ((HEADER + "a,authentic,s,train,,,9\n").encode(), "more fields than its header"),
        ((HEADER + "a,authentic,s,train,,\nb,authentic,s,train,,,9\n").encode(), "line 3"),
        ((HEADER + "\xe4,authentic,s,train,,\n").encode("latin-1"), "no readable .csv"),
        ((HEADER + "a,authentic,s,train\n").encode() + b"\x00\xff", "no readable .csv"),
        ((HEADER + "a,authentic,s,trian,,\n").encode(), "'trian' in 1 .did you mean 'train'"),
        ((HEADER + "a,athentic,s,train,,\n").encode(), "'athentic' in 1 .did you mean 'authentic'"),
        ((HEADER + "../a,authentic,s,train,,\n").encode(), "'../a' climbs out"),
        ((HEADER + "a,authentic,s,train,/m,\n").encode(), "'/m' is absolute"),
        ((HEADER + "a,authentic,,train,,\n").encode(), "no source: 1 images: a"),
    ],
)
def test_bad_csv(tmp_path, text, message):
    (tmp_path / "m.csv").write_bytes(text)
    with pytest.raises(ManifestError, match=message):
        read_manifest(tmp_path / "m.csv")


def test_all_faults_of_the_letters_come_at_once(tmp_path):
    (tmp_path / "m.csv").write_text(HEADER + "../a,athentic,,trian,,\n")
    with pytest.raises(ManifestError, match=r"4 reason\(s\)") as caught:
        read_manifest(tmp_path / "m.csv")
    assert len(caught.value.findings) == 4


def test_other_bad_files(tmp_path):
    (tmp_path / "m.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ManifestError, match="m.parquet is no readable"):
        read_manifest(tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match="must end in .csv or .parquet"):
        read_manifest(tmp_path / "m.xlsx")
    with pytest.raises(FileNotFoundError, match=r"there is no .*none.csv; data/README"):
        read_manifest(tmp_path / "none.csv")


def test_byte_order_mark_and_short_rows(tmp_path):
    (tmp_path / "m.csv").write_bytes(b"\xef\xbb\xbf" + (HEADER + "a,authentic,s,train\n").encode())
    assert read_manifest(tmp_path / "m.csv").table.loc[0].tolist() == [
        "a",
        "authentic",
        "s",
        "train",
        "",
        "",
    ]


def test_writing_elsewhere_than_csv_or_parquet_is_refused(small, tmp_path):
    with pytest.raises(ValueError, match="must end in .csv or .parquet"):
        write_manifest(small, tmp_path / "m.txt")


def test_digest_depends_on_every_cell_but_not_on_the_root(small):
    digests = {changed(small, 3, **{name: "x"}).digest for name in COLUMNS} | {small.digest}
    assert len(digests) == len(COLUMNS) + 1
    assert Manifest(small.table.assign(note=""), small.root).digest != small.digest
    assert Manifest(small.table, "/else").digest == small.digest
    assert Manifest(small.table[::-1], small.root).digest != small.digest


def test_digest_is_the_same_on_every_machine():
    row = ["a.png", "authentic", "s", "train", "", "0012"]
    text = 'authentic\nsynthetic\n"image","label","source","split","map","subject"\n'
    text += ",".join(f'"{value}"' for value in row) + "\n"
    manifest = Manifest(pd.DataFrame([row], columns=COLUMNS), "/data")
    assert manifest.digest == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("classes", ["synthetic", ("a", "a"), ("a", "")])
def test_bad_classes(small, classes):
    with pytest.raises(ValueError, match="classes must be different names"):
        Manifest(small.table, small.root, classes)


# ---- which class is the positive one


AUTHENTIC = ["real", "Genuine", "bona fide", "bona_fide", "LIVE", "original", "pristine", "0_real"]
SYNTHETIC = ["fake", "AI-generated", "ai generated", "attack", "Spoof", "morph", "1 fake", "GAN"]


@pytest.mark.parametrize("authentic", AUTHENTIC)
@pytest.mark.parametrize("synthetic", SYNTHETIC)
def test_of_two_known_words_the_synthetic_one_is_positive(authentic, synthetic):
    for labels in ([authentic, synthetic], [synthetic, authentic]):
        assert default_classes(pd.Series(labels)) == (authentic, synthetic)


OURS_IN_OTHER_LETTERS = [("Authentic", "Synthetic"), ("authentic", "SYNTHETIC ")]
OURS_IN_OTHER_LETTERS += [("authentic", "inauthentic"), ("non-synthetic", "synthetic")]


@pytest.mark.parametrize("labels", OURS_IN_OTHER_LETTERS)
def test_what_is_near_our_words_and_has_a_meaning_is_no_misspelling(labels):
    for order in (labels, labels[::-1]):
        assert default_classes(pd.Series(order)) == labels


@pytest.mark.parametrize("labels", [[0, 1], [False, True], [0.0, 1.0]])
def test_labels_that_are_no_text_are_read_as_text(labels):
    with pytest.raises(ManifestError, match="say it with synthetic='(1|True|1.0)'"):
        default_classes(pd.Series(labels))
    assert default_classes(pd.Series(["real", None, "fake"])) == ("", "fake", "real")


UNKNOWN = [
    ("0", "1"),
    ("cat", "dog"),
    ("gan", "diffusion"),
    ("real", "live"),
    ("real", "stylegan2"),
]
UNKNOWN += [
    ("fake", "printed"),
    ("not real", "not fake"),
    ("True", "False"),
    ("bona fide", "bonafide"),
]


@pytest.mark.parametrize("labels", UNKNOWN)
def test_any_other_two_labels_are_asked_for_and_then_decided(labels):
    with pytest.raises(ManifestError, match="synthetic='.*' or .* by a column `synthetic`"):
        default_classes(pd.Series(labels))
    assert default_classes(pd.Series(labels), labels[0]) == labels[::-1]
    assert default_classes(pd.Series(labels), labels[1]) == labels


def labelled(folder, *labels, **columns):
    "A manifest file of an image a label."
    table = pd.DataFrame({"image": [f"{i}.png" for i in range(len(labels))], "label": labels})
    table = table.assign(source="s", split="train", map="", subject="", **columns)
    table.to_csv(folder / "m.csv", index=False)
    return folder / "m.csv"


def test_the_setting_wins_over_known_words_and_must_be_a_label(tmp_path):
    path = labelled(tmp_path, "fake", "real", "fake")
    assert read_manifest(path).labels.tolist() == [1, 0, 1]
    turned = read_manifest(path, synthetic="real")
    assert turned.classes == ("fake", "real") and turned.labels.tolist() == [0, 1, 0]
    assert positive_class(turned, "real") == "synthetic (label 'real'), by the setting synthetic"
    with pytest.raises(ManifestError, match="synthetic is 'fakes', no label .did you mean 'fake'"):
        read_manifest(path, synthetic="fakes")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_order_that_was_stated_is_written_with_the_manifest(tmp_path, suffix):
    path = labelled(tmp_path, "0", "1", "1")
    with pytest.raises(ManifestError, match=r"m.csv: labels are '0' and '1'"):
        read_manifest(path)
    manifest = read_manifest(path, synthetic="0")
    again = read_manifest(write_manifest(manifest, tmp_path / f"again{suffix}"))
    assert again.classes == manifest.classes == ("1", "0")
    assert positive_class(again) == "synthetic (label '0'), by the manifest's column synthetic"
    with pytest.raises(ManifestError, match="synthetic is '1', but the column .* marks '0'"):
        read_manifest(tmp_path / f"again{suffix}", synthetic="1")


@pytest.mark.parametrize(
    "said", [[True, False, False], [1, 0, 0], [1.0, 0, 0], ["Yes", "no", "NO"]]
)
def test_a_column_of_the_manifest_says_it(tmp_path, said):
    manifest = read_manifest(labelled(tmp_path, "cat", "dog", "dog", synthetic=said))
    assert manifest.classes == ("dog", "cat")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (["true", "false", "true"], "true for some images labelled 'dog', and false for others"),
        (["true", "true", "true"], "true for both labels, cat and dog; expected true for one"),
        (["false", "false", "false"], "false for both labels"),
        (["true", "", "false"], "column synthetic is '' in row 1, expected true or false"),
    ],
)
def test_a_column_that_contradicts_itself_is_refused(tmp_path, said, message):
    with pytest.raises(ManifestError, match=f"m.csv: column synthetic is {message}|{message}"):
        read_manifest(labelled(tmp_path, "cat", "dog", "dog", synthetic=said))


def test_of_three_classes_none_is_positive_unless_one_is_stated(tmp_path):
    path = labelled(tmp_path, "real", "gan", "printed")
    manifest = read_manifest(path)
    assert manifest.classes == ("gan", "printed", "real")
    assert positive_class(manifest) == "none, since there are 3 classes"
    assert read_manifest(path, synthetic="gan").classes == ("printed", "real", "gan")
    marked = labelled(tmp_path, "real", "gan", "printed", synthetic=["no", "yes", "yes"])
    assert read_manifest(marked).classes == ("gan", "printed", "real")


def test_labels_that_differ_in_blanks_and_hyphens_are_no_two_classes(tmp_path):
    with pytest.raises(ManifestError, match="differ only in case, blanks, hyphens"):
        read_manifest(labelled(tmp_path, "bona fide", "bona-fide", "attack"))


def test_folders_of_known_words_are_ours_and_others_are_asked_for(tmp_path):
    touch(tmp_path / "a", "train/nature/1.png", "train/ai/1.png", "train/ai/2.png")
    manifest = read_folders(tmp_path / "a")
    assert manifest.table["label"].tolist() == ["synthetic", "synthetic", "authentic"]
    assert manifest.table["source"].tolist() == ["ai", "ai", "nature"]
    assert read_folders(tmp_path / "a", synthetic="nature").classes == ("ai", "nature")
    assert read_folders(tmp_path / "a", classes=("nature", "ai")).labels.tolist() == [1, 1, 0]
    touch(tmp_path / "b", "train/cam/1.png", "train/glow/1.png")
    with pytest.raises(ManifestError, match=r"folder .*b: labels are 'cam' and 'glow'"):
        read_folders(tmp_path / "b")
    assert read_folders(tmp_path / "b", synthetic="cam").labels.tolist() == [1, 0]


# ---- columns and rows that stand twice


TWICE = ["label,label", "label,Label", "label,label ", "label,LABEL,class"]


@pytest.mark.parametrize("columns", TWICE)
def test_a_column_that_stands_twice_is_refused_by_name_wherever_a_table_is_read(tmp_path, columns):
    row = ["a.png", "cam", "train", "", "", *["authentic"] * len(columns.split(","))]
    text = f"image,source,split,map,subject,{columns}\n{','.join(row)}\n"
    (tmp_path / "m.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    for read in (read_manifest, read_table):
        with pytest.raises(ManifestError, match="m.csv has 2 columns named alike, 'label', '"):
            read(tmp_path / "m.csv")
    table = pa.table([[value] for value in row], text.splitlines()[0].split(","))
    pq.write_table(table, tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match="m.parquet has 2 columns named alike, 'label', '"):
        read_table(tmp_path / "m.parquet")


def test_columns_of_a_table_in_memory_are_looked_at_too(small):
    with pytest.raises(ManifestError, match="manifest has 2 columns named alike, 'label', 'Label'"):
        Manifest(small.table.assign(Label="x"), small.root)


def test_a_list_without_a_header_may_repeat_itself(tmp_path):
    (tmp_path / "list.csv").write_text("train,0_real,/train.png\ntest,Fake,/Test\n")
    assert read_released(tmp_path / "list.csv", tmp_path).labels.tolist() == [0, 1]
    (tmp_path / "list.csv").write_text("a,a,a\n")
    assert read_table(tmp_path / "list.csv", header=None).shape == (1, 3)


def test_an_image_of_two_labels_is_refused_on_reading(tmp_path):
    path = labelled(tmp_path, "real", "fake", "fake")
    table = pd.read_csv(path, keep_default_na=False)
    table.loc[2, "image"] = "./0.png"
    table.to_csv(path, index=False)
    with pytest.raises(
        ManifestError, match="two labels: 1 images have rows of different labels: 0"
    ):
        read_manifest(path)


def test_a_class_column_may_say_more_than_the_label_but_nothing_else(tmp_path):
    path = labelled(tmp_path, "real", "fake", **{"class": ["camera", "stylegan2"]})
    assert read_manifest(path).table["class"].tolist() == ["camera", "stylegan2"]
    path = labelled(tmp_path, "real", "fake", **{"class": ["genuine", "genuine"]})
    with pytest.raises(ManifestError, match="1 images have a label and another class: 1.png"):
        read_manifest(path)


# ---- audit


def test_a_clean_manifest_has_no_finding(small):
    assert audit(small) == [] == validate(small)


def test_every_fault_in_one_error_with_counts(small):
    table = small.table.copy()
    table.loc[0, "image"] = "train/none.png"
    table.loc[1, "map"] = "maps/none.png"
    table.loc[2, "label"] = "sythetic"
    table.loc[3, "image"], table.loc[6, "map"] = "../3.png", "../6.png"
    table.loc[4, "image"] = "./train//5.png"  # row 5 names it too
    table.loc[table["split"] == "test", "split"] = "val"
    (small.root / "val/10.png").write_bytes((small.root / "train/6.png").read_bytes())
    table.loc[11, "subject"] = "0007"
    broken = Manifest(table, small.root, CLASSES)
    with pytest.raises(ManifestError) as caught:
        validate(broken)
    assert checks(f for f in caught.value.findings if f.refuse) == {
        "unknown label": 1,
        "unsafe path": 2,
        "two labels": 1,
        "duplicate row": 1,
        "empty split": 1,
        "missing image": 1,
        "missing map": 1,
        "shared image": 1,
    }
    assert checks(f for f in caught.value.findings if not f.refuse)["shared subject"] == 1
    assert [f.refuse for f in caught.value.findings] == [True] * 8 + [False]
    message = str(caught.value)
    assert message.count("\n- ") == 8 and "shared subject" not in message
    assert "train/6.png = val/10.png" in message and "train/none.png" in message
    assert "maps/none.png" in message and "'../3.png' climbs out" in message


def test_empty_manifest(small):
    nothing = Manifest(small.table[:0], small.root)
    with pytest.raises(ManifestError, match="no rows: the manifest is empty"):
        validate(nothing)
    assert nothing.labels.shape == (0,)


def test_needed_splits(small):
    part = Manifest(small.table[small.table["split"] != "test"], small.root)
    with pytest.raises(ManifestError, match="empty split: 1 splits without images: test"):
        validate(part)
    assert validate(part, needed=("train", "val")) == []


def test_a_class_missing_from_one_split(small):
    table = small.table[(small.table["split"] != "val") | (small.table["label"] == "authentic")]
    with pytest.raises(
        ManifestError, match="empty class: 1 classes without images: synthetic in val"
    ):
        validate(Manifest(table, small.root))


def test_one_class_only(small):
    with pytest.raises(ManifestError, match="wanted two or more: face"):
        validate(Manifest(small.table.assign(label="face"), small.root))


def test_classes_that_differ_in_case_only(small):
    twins = Manifest(small.table.assign(label=["Cat", "cat ", "dog"] * 10), small.root)
    assert checks(audit(twins, hashes=False))["unknown label"] == 2


def test_same_bytes_within_a_split_are_no_leak(small):
    (small.root / "train/1.png").write_bytes((small.root / "train/0.png").read_bytes())
    assert validate(small) == []


def test_same_size_other_middle_is_no_leak(small):
    for name, middle in (("train/0.png", b"1"), ("val/10.png", b"2")):
        (small.root / name).write_bytes(b"x" * 9000 + middle + b"x" * 9000)
    assert "shared image" not in checks(audit(small))
    (small.root / "val/10.png").write_bytes((small.root / "train/0.png").read_bytes())
    assert checks(audit(small))["shared image"] == 1


def test_only_possible_copies_are_read_whole(small, monkeypatch):
    read = []
    monkeypatch.setattr(
        findings_module, "content_hash", lambda path: read.append(path) or content_hash(path)
    )
    (small.root / "val/10.png").write_bytes((small.root / "train/0.png").read_bytes())
    for name, tail in (("train/1.png", b"1"), ("val/11.png", b"2")):
        (small.root / name).write_bytes(b"x" * 9000 + tail)
    audit(small)
    assert sorted(Path(path).name for path in read) == ["0.png", "10.png"]


def test_audit_without_hashes_opens_nothing(small, monkeypatch):
    monkeypatch.setattr(Path, "open", lambda *_, **__: pytest.fail("opened"))
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    assert audit(small, hashes=False) == []


def test_leaks_agree_with_a_literal_comparison(small):
    rng = np.random.default_rng(0)
    for name in small.table["image"]:  # few different contents: many copies
        (small.root / name).write_bytes(bytes([rng.integers(4)]) * int(rng.integers(1, 4)))
    splits: dict[bytes, set] = {}
    for name, split in small.table[["image", "split"]].to_numpy():
        splits.setdefault((small.root / name).read_bytes(), set()).add(split)
    assert checks(audit(small))["shared image"] == sum(len(names) > 1 for names in splits.values())


def test_empty_files_warn_and_are_no_copies_of_each_other(small):
    for name in ("train/0.png", "val/10.png", "maps/3.png"):
        (small.root / name).write_bytes(b"")
    assert checks(validate(small)) == {"empty image": 2, "empty map": 1}


def test_a_folder_is_no_image(small):
    (small.root / "train/0.png").unlink()
    (small.root / "train/0.png").mkdir()
    assert checks(audit(small)) == {"missing image": 1}


def test_files_that_cannot_be_opened(small, monkeypatch):
    (small.root / "val/10.png").write_bytes((small.root / "train/0.png").read_bytes())
    honest = Path.open

    def locked(path, *rest, **options):
        if path.name == "10.png":
            raise PermissionError(13, "Permission denied", str(path))
        return honest(path, *rest, **options)

    monkeypatch.setattr(Path, "open", locked)
    assert checks(audit(small))["unreadable image"] == 1


def test_the_root_that_was_meant_is_offered(small, tmp_path):
    good = tmp_path / "disk/good"
    for name in small.table["image"]:
        (good / name).parent.mkdir(parents=True, exist_ok=True)
        (small.root / name).rename(good / name)
    (tmp_path / "disk/bad/train").mkdir(parents=True)
    (tmp_path / "disk/bad/train/0.png").touch()  # one file alone does not make a root
    for root in (good / "train", good / "none", tmp_path / "disk"):
        with pytest.raises(ManifestError, match=f"found under {good}: give that as root"):
            validate(Manifest(small.table, root))


def test_a_relative_root_is_made_absolute(small, monkeypatch):
    monkeypatch.chdir(small.root)
    relative = Manifest(small.table, ".")
    monkeypatch.chdir("/")
    assert validate(relative) == []


def test_counterparts(small):
    typo = Manifest(small.table.assign(counterpart="toy|tpy"), small.root)
    with pytest.raises(
        ManifestError, match="unknown counterpart: 10 rows.*'tpy' in 10 .did you mean 'toy'"
    ):
        validate(typo)
    names = ["toy", "toy|toy", ""] * 10  # a row may be without
    assert validate(Manifest(small.table.assign(counterpart=names), small.root)) == []


# ---- file giveaways


def literal_guess(trait, label):
    """One file at a time: the class that most of the other files with its trait have."""
    hits = {name: [] for name in sorted(set(label))}
    for i, (own, truth) in enumerate(zip(trait, label, strict=True)):
        rates = {}
        for name in hits:
            others = [t for j, t in enumerate(trait) if j != i and label[j] == name]
            rates[name] = sum(t == own for t in others) / max(len(others), 1)
        best = [name for name, rate in rates.items() if rate == max(rates.values())]
        hits[truth].append((truth in best) / len(best))
    return np.mean([np.mean(h) for h in hits.values()])


@pytest.mark.parametrize("seed", range(8))
def test_guess_agrees_with_a_literal_one(seed):
    rng = np.random.default_rng(seed)
    label = [*"abc"[: 2 + seed % 2], *rng.choice([*"abc"[: 2 + seed % 2]], 30)]
    trait = list(rng.choice([".png", ".jpg", ".bmp"], len(label)))
    assert findings_module.guess_from(pd.Series(trait), pd.Series(label)) == pytest.approx(
        literal_guess(trait, label)
    )


def test_unrelated_traits_give_no_warning():
    rng = np.random.default_rng(0)
    rows = [
        [f"{i}.{rng.choice(['png', 'jpg'])}", CLASSES[i % 2], "s", "val", "", ""]
        for i in range(400)
    ]
    assert (
        findings_module._giveaway_findings(
            Manifest(pd.DataFrame(rows, columns=COLUMNS), "/x"), False
        )
        == []
    )


@pytest.mark.parametrize(
    ("what", "options"), [("format", {"format": "bmp"}), ("size", {}), ("mode", {})]
)
def test_kinds_of_file_that_tell_the_label(small, what, options):
    for name in small.table.loc[small.table["label"] == "synthetic", "image"]:
        image = Image.open(small.root / name).convert("RGB" if what == "mode" else "L")
        image = image.resize((4, 5)) if what == "size" else image
        image.save(small.root / name, **options)
    (warning,) = validate(small)
    assert warning.check == "file giveaway" and warning.count == 3
    assert warning.examples[0] == f"test: {what} alone guesses 1.00 (chance 0.50)"


# ---- group_split


@pytest.mark.parametrize("seed", range(5))
def test_group_split_keeps_groups_whole_and_fractions_close(seed):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {"subject": rng.integers(0, 300, 3000).astype(str), "image": np.arange(3000).astype(str)}
    )
    table["label"] = rng.choice(CLASSES, 3000, p=[0.8, 0.2])
    split = group_split(table, {"train": 0.5, "val": 0.2, "test": 0.3}, seed=seed)
    assert (split.groupby(table["subject"]).nunique() == 1).all()
    shares = split.value_counts(normalize=True)
    assert shares[["train", "val", "test"]].to_numpy() == pytest.approx([0.5, 0.2, 0.3], abs=0.02)


def test_group_split_is_balanced_over_labels_and_blind_to_row_order():
    table = pd.DataFrame({"subject": "", "image": np.arange(2000).astype(str), "label": CLASSES[0]})
    table.loc[:99, "label"] = CLASSES[1]
    split = group_split(table)
    assert split[:100].value_counts().to_dict() == {"train": 70, "val": 15, "test": 15}
    shuffled = table.sample(frac=1, random_state=1)
    assert group_split(shuffled).sort_index().equals(split)


def test_group_split_is_the_same_on_every_machine():
    table = pd.DataFrame({"subject": [*"abcdefgh"], "image": [*"abcdefgh"], "label": "x"})
    again = subprocess.check_output(
        [
            sys.executable,
            "-c",
            "import pandas as pd; from cyborg.manifest import group_split as g\n"
            "t = [*'abcdefgh']; print(*g(pd.DataFrame({'subject': t, 'image': t, 'label': 'x'})))",
        ],
        text=True,
        env=os.environ | {"PYTHONHASHSEED": "7"},
    )
    assert again.split() == group_split(table).tolist()


def test_group_split_of_a_few_groups_cuts_where_their_middles_lie():
    table = pd.DataFrame({"subject": [*"abc"], "image": [*"abc"], "label": "x"})
    assert sorted(group_split(table)) == ["train", "train", "val"]  # middles at 1/6, 3/6, 5/6


def test_group_split_seeds_differ():
    table = pd.DataFrame({"subject": "", "image": np.arange(100).astype(str), "label": "x"})
    assert len({tuple(group_split(table, seed=seed)) for seed in range(10)}) == 10


@pytest.mark.parametrize(
    "fractions", [{"train": 1.2, "val": -0.2}, {"train": 0.5}, {"training": 1.0}]
)
def test_group_split_bad_fractions(fractions, small):
    with pytest.raises(ValueError, match="fractions must be positive"):
        group_split(small.table, fractions)


# ---- folders


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_folders_without_splits_keep_nothing_twice(tmp_path):
    touch(tmp_path, *[f"{label}/{i}.PNG" for label in ("cat", "dog", "0_x") for i in range(40)])
    touch(tmp_path, "cat/._1.png", "cat/notes.txt", ".hidden/1.png", "cat/.thumbs/1.png")
    manifest = read_folders(tmp_path)
    assert len(manifest) == 120 and manifest.classes == ("0_x", "cat", "dog")
    counts = manifest.table.groupby("label")["split"].value_counts().unstack()
    assert counts[["train", "val", "test"]].to_numpy().tolist() == [[28, 6, 6]] * 3
    assert manifest.table["image"].is_unique


def test_folders_named_much_like_the_two_classes_need_classes(tmp_path):
    touch(tmp_path, "train/synthetic1/1.png", "train/synthetic2/1.png")
    with pytest.raises(ManifestError, match="did you mean 'synthetic'"):
        read_folders(tmp_path)
    names = ("synthetic1", "synthetic2")
    assert read_folders(tmp_path, classes=names).labels.tolist() == [0, 1]


def test_folders_with_links(tmp_path, tmp_path_factory):
    disk = tmp_path_factory.mktemp("disk")
    touch(disk, "a.png")
    touch(tmp_path, "train/real/cam/b.png")
    (tmp_path / "train/fake").symlink_to(disk)
    (disk / "circle").symlink_to(tmp_path / "train")
    (tmp_path / "train/real/cam/gone.png").symlink_to(disk / "gone.png")
    names = read_folders(tmp_path).table["image"].tolist()
    assert "train/fake/a.png" in names and len(names) < 9
    assert "train/real/cam/gone.png" in names  # validate then says that it is missing


@pytest.mark.parametrize(
    "names", [[], ["a.png"], ["train/a.png"], ["train/real/a.png", "other/real/a.png"]]
)
def test_folders_of_another_layout(tmp_path, names):
    touch(tmp_path, *names)
    with pytest.raises(ManifestError, match="must hold <split>/<label>/ or <label>/"):
        read_folders(tmp_path)


def test_no_such_folder(tmp_path):
    with pytest.raises(ManifestError, match="no folder"):
        read_folders(tmp_path / "none")


def test_maps_by_whole_name_never_by_base_name_of_another_split(tmp_path):
    touch(
        tmp_path,
        "train/real/1.jpg",
        "val/real/1.jpg",
        "maps/train/real/1.png",
        "maps/train/real/9.png",
    )
    for maps in ("maps", tmp_path / "maps"):
        table = read_folders(tmp_path, maps=maps).table
        assert table["map"].tolist() == ["maps/train/real/1.png", ""]


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ("../x", "must lie below root"),
        (".", "must lie below root"),
        ("none", "there is no maps folder"),
        ("other", "none of the 1 maps"),
    ],
)
def test_bad_maps_folder(tmp_path, maps, message):
    touch(tmp_path / "root", "train/real/1.jpg", "other/train/real/2.png")
    with pytest.raises(ManifestError, match=message):
        read_folders(tmp_path / "root", maps=maps)


def test_maps_folder_below_a_linked_root(tmp_path):
    touch(tmp_path / "real", "train/real/1.jpg", "maps/train/real/1.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    table = read_folders(tmp_path / "link", maps=tmp_path / "link/maps").table
    assert table["map"].tolist() == ["maps/train/real/1.png"]


def test_two_images_of_one_base_name(tmp_path):
    touch(tmp_path, "train/real/1.jpg", "train/fake/1.jpg", "maps/1.png")
    with pytest.raises(ManifestError, match="not told apart by train/fake/1.jpg, train/real/1.jpg"):
        read_folders(tmp_path, maps="maps")


def test_empty_maps_folder(tmp_path):
    touch(tmp_path, "train/real/1.jpg")
    (tmp_path / "maps").mkdir()
    with pytest.raises(ManifestError, match="none of the 0 maps"):
        read_folders(tmp_path, maps="maps")


def test_two_maps_of_one_image(tmp_path):
    touch(tmp_path, "train/real/1.jpg", "maps/train/real/1.png", "maps/train/real/1.bmp")
    with pytest.raises(ManifestError, match="not told apart by maps/train/real/1.bmp"):
        read_folders(tmp_path, maps="maps")


# ---- released lists


def test_released_with_live_spoof_and_saliency_column(tmp_path):
    (tmp_path / "l.csv").write_text("Train,Live,/a/1.png,/maps/1.png\nTest,Spoof,/b/2.png,\n")
    table = read_released(tmp_path / "l.csv", tmp_path).table
    assert table["label"].tolist() == ["authentic", "synthetic"]
    assert table["split"].tolist() == ["train", "val"]
    assert table["map"].tolist() == ["maps/1.png", ""]
    assert table["source"].tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="in its fourth column"):
        read_released(tmp_path / "l.csv", tmp_path, maps="maps")


def test_released_maps_by_base_name(tmp_path):
    touch(tmp_path, "train/heatmaps/p1_3_real.png")
    text = "train,Real,/train/original_data/0_real/p1_3_real.png\n"
    (tmp_path / "l.csv").write_text(text + "test,Real,/val/0_real/04408d239.jpg\n")
    table = read_released(tmp_path / "l.csv", tmp_path, maps="train/heatmaps").table
    assert table["map"].tolist() == ["train/heatmaps/p1_3_real.png", ""]


def test_several_released_lists(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text(f"test,Real,/test/0_real/{name}_aligned/1.png\n")
    lists = [tmp_path / "a.csv", tmp_path / "b.csv"]
    table = read_released(lists, tmp_path, test="test").table
    assert table["source"].tolist() == ["a_aligned", "b_aligned"]
    assert table["split"].tolist() == ["test"] * 2


@pytest.mark.parametrize(
    ("name", "subject"),
    [("val/0_real/04408d239.jpg", "04408"), ("val/1_fake/FW9_04240d48.png", "04240")]
    + [("val/1_fake/synth_face_0205.jpg", ""), ("train/x/1_fake/p1_12_fake.png", "")],
)
def test_released_subjects(tmp_path, name, subject):
    (tmp_path / "l.csv").write_text(f"train,Real,/{name}\n")
    assert read_released(tmp_path / "l.csv", tmp_path).table["subject"][0] == subject


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train,Rael,/a.png\n", "unknown label: 1 rows.*did you mean 'real'"),
        ("tran,Real,/a.png\n", "unknown split: 1 rows.*did you mean 'train'"),
        ("train,Real\n", "has 2 columns"),
        ("Real;/a.png\n", "has 1 columns"),
        ("train,Real,/../a.png\n", "climbs out"),
        ("", "is empty"),
    ],
)
def test_bad_released_lists(tmp_path, text, message):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(ManifestError, match=message):
        read_released(tmp_path / "l.csv", tmp_path)


def test_released_root_given_twice(tmp_path):
    touch(tmp_path, "train/original_data/0_real/p1_1_real.png")
    (tmp_path / "l.csv").write_text("train,Real,/train/original_data/0_real/p1_1_real.png\n")
    doubled = read_released(tmp_path / "l.csv", tmp_path / "train/original_data")
    with pytest.raises(ManifestError, match=f"found under {tmp_path.resolve()}: give that as root"):
        validate(doubled)


# ---- size


def test_a_large_manifest_is_read_and_checked_in_seconds(tmp_path):

    n = 100_000
    table = pd.DataFrame(
        {"image": [f"test/gan/{i:06d}.png" for i in range(n)], "label": "synthetic"}
    )
    table = table.assign(source="gan", split="test", map="", subject="")
    path = write_manifest(Manifest(table, tmp_path), tmp_path / "m.csv")
    start = time.perf_counter()
    read_manifest(path)
    assert (
        time.perf_counter() - start < 3
    )  # 0.2 s on one slow core; a loop over rows takes many times that


PAPER = pd.DataFrame(
    [
        ["a", "authentic", "FRGC", "train", "", "", ""],
        ["b", "synthetic", "StyleGAN2 of training", "train", "", "", ""],
        ["c", "authentic", "FFHQ", "test", "", "", ""],
        ["d", "authentic", "CelebA-HQ", "test", "", "", ""],
        ["e", "synthetic", "StyleGAN2", "test", "", "", ""],
        ["f", "synthetic", "ProGAN", "test", "", "", ""],
    ],
    columns=["image", "label", "source", "split", "map", "subject", "counterpart"],
)


def test_a_generator_seen_under_another_name_is_seen_where_the_manifest_says_so():
    plain = Manifest(PAPER, Path())
    assert plain.seen == ("FRGC", "StyleGAN2 of training")
    for word in ("yes", " TRUE ", "1"):
        said = PAPER.assign(seen=["", "", "", "", word, "no"])
        assert Manifest(said, Path()).seen == ("FRGC", "StyleGAN2", "StyleGAN2 of training")


def unread(manifest: Manifest) -> set[str]:
    return set(checks(audit(manifest, hashes=False)))


def test_a_protocol_that_nobody_stated_is_a_warning_before_training():
    plain = unread(Manifest(PAPER, Path()))
    assert {"no counterparts", "nothing seen"} <= plain
    pairs = {"StyleGAN2": "FFHQ", "ProGAN": "CelebA-HQ|FFHQ"}
    stated = with_protocol(Manifest(PAPER, Path()), ["StyleGAN2"], pairs)
    assert not {"no counterparts", "nothing seen"} & unread(stated)
    assert stated.table["counterpart"].tolist()[4:] == ["FFHQ", "CelebA-HQ|FFHQ"]


@pytest.mark.parametrize(
    ("seen", "check"),
    [(["perhaps"] * 6, "unknown word in seen"), (["", "yes", "", "", "no", "yes"], "")],
)
def test_the_column_seen_holds_yes_and_no(seen, check):
    assert ("unknown word in seen" in unread(Manifest(PAPER.assign(seen=seen), Path()))) is bool(
        check
    )


def test_a_source_is_seen_or_not():
    twice = pd.concat([PAPER.assign(seen="yes"), PAPER.assign(seen="no", image=list("ghijkl"))])
    assert "contradiction in seen" in unread(Manifest(twice, Path()))


@pytest.mark.parametrize("stated", [(["StyleGan2"], {}), ([], {"ProGAN": "FFHQ|Celeba-HQ"})])
def test_a_protocol_names_sources_of_the_test(stated):
    with pytest.raises(ManifestError, match="is no source of a test image .did you mean"):
        with_protocol(Manifest(PAPER, Path()), *stated)


def test_a_folder_in_the_place_of_a_manifest_is_told_with_the_command(tmp_path):
    with pytest.raises(ManifestError, match=f"cyborg-import folders {tmp_path} -o"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("error", "free"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 5_000_000),
        (RuntimeError("PytorchStreamWriter failed writing file data/3"), 1000),
    ],
)
def test_a_full_disk_names_the_file_and_the_room(error, free, tmp_path, monkeypatch):
    (tmp_path / "a.pt").write_text("before")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, free))
    words = rf"No space left .*a\.pt was not written, {free / 1e6:.1f} MB are free"
    with pytest.raises(OSError, match=words) as told, atomic_path(tmp_path / "a.pt") as temporary:
        temporary.write_text("half")
        raise error
    assert told.value.errno == errno.ENOSPC and told.value.__cause__ is error
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]
    assert (tmp_path / "a.pt").read_text() == "before"


def test_another_error_of_a_writer_stays_itself(tmp_path):
    with pytest.raises(RuntimeError, match="another"), atomic_path(tmp_path / "a.pt"):
        raise RuntimeError("another")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"score": "1"}, "reserved column: 1 columns.*: score"),
        ({"cc": "1", "logit_1": "0"}, "reserved column: 2 columns.*: cc, logit_1"),
        ({"source": "pooled"}, "reserved source: 1 sources.*: pooled"),
        ({"Score": "1", "LOGIT_0 ": "0"}, "reserved column: 2 columns.*: Score, LOGIT_0"),
        ({"source": "Macro "}, "reserved source: 1 sources.*: Macro"),
        ({"source": "a|b"}, r"reserved source: 1 sources hold a \|"),
    ],
)
def test_what_later_stages_write_is_refused_before_training(tmp_path, changes, told):
    rows = [[f"{i}.png", CLASSES[i % 2], "s", SPLITS[i // 2], "", ""] for i in range(6)]
    table = pd.DataFrame(rows, columns=COLUMNS)
    for name in table["image"]:
        (tmp_path / name).write_bytes(name.encode())
    assert not any(found.refuse for found in audit(Manifest(table, tmp_path), hashes=False))
    with pytest.raises(ManifestError, match=told):
        validate(Manifest(table.assign(**changes), tmp_path), hashes=False)


# --- checked once, for many runs ----------------------------------------------------------------


def some_images(folder: Path, n: int = 6) -> Manifest:
    "Pictures of both classes in all splits, each of its own bytes."
    rows = []
    for split in SPLITS:
        for label in CLASSES:
            for i in range(n):
                name = f"{split}/{label}_{i}.png"
                (folder / split).mkdir(parents=True, exist_ok=True)
                Image.new("L", (4, 4), len(rows)).save(folder / name)
                rows.append([name, label, "toy", split, "", ""])
    return Manifest(pd.DataFrame(rows, columns=COLUMNS), folder)


@pytest.fixture
def stamped(tmp_path, monkeypatch):
    "A manifest that was checked, and the number of checks since."
    manifest, calls = some_images(tmp_path / "faces"), []
    validate_once(manifest, tmp_path / "checked")
    audit = findings_module.audit
    monkeypatch.setattr(findings_module, "audit", lambda *a, **k: calls.append(1) or audit(*a, **k))
    monkeypatch.setenv(CHECKED, str(tmp_path / "checked"))
    return manifest, calls


def test_a_run_takes_a_fresh_stamp_and_finds_the_same(stamped, monkeypatch):
    manifest, calls = stamped
    found = validate_run(manifest)
    assert calls == []
    monkeypatch.delenv(CHECKED)
    assert validate_run(manifest) == found and calls == [1]


@pytest.mark.parametrize("change", ["longer", "later", "gone", "new", "row", "label", "stamp"])
def test_a_stamp_is_refused_when_anything_has_changed(change, stamped, tmp_path):
    manifest, calls = stamped
    file = manifest.root / manifest.table["image"][3]
    if change == "longer":
        file.write_bytes(file.read_bytes() + b" ")
    if change == "later":
        os.utime(file, ns=(1, 1))
    if change == "new":
        (file.parent / "new.png").write_bytes(file.read_bytes())
    if change == "row":
        manifest = Manifest(manifest.table.iloc[:-1], manifest.root)
    if change == "label":
        manifest = Manifest(manifest.table.assign(source="other"), manifest.root)
    if change == "stamp":
        (stamp,) = (tmp_path / "checked").iterdir()
        stamp.write_text(stamp.read_text()[:-40])
    if change == "gone":
        file.unlink()
        with pytest.raises(ManifestError, match="missing image: 1 of 36"):
            validate_run(manifest)
        return
    validate_run(manifest)
    assert calls == [1]


def test_a_file_that_no_run_looks_at_is_noticed_when_the_study_starts(
    stamped, tmp_path, monkeypatch
):
    manifest, calls = stamped
    monkeypatch.setattr(findings_module, "_GLANCE", 1)
    validate_once(manifest, tmp_path / "checked")
    calls.clear()
    file = manifest.root / manifest.table["image"][3]
    with file.open("r+b") as opened:  # in place: its folder does not change
        opened.write(b"0")
    assert validate_run(manifest) is not None and calls == []
    validate_once(manifest, tmp_path / "checked")
    assert calls == [1]
