"""Gaze: what the columns of each tracker mean, units that nobody stated, damaged numbers, and the
way from a table of fixations to the maps of a manifest."""

import io
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cyborg.manifest import Manifest, read_manifest, write_manifest
from cyborg.marks import AnnotationError
from cyborg.people.gaze import fixation_maps, read_fixation_files, read_fixations
from cyborg.prepare.sources import gaze_maps, map_manifest
from cyborg.saliency import read_map

ROOT = Path(__file__).parents[1]
OSIE = ROOT.parent / "shared" / "data" / "human_maps" / "osie" / "crop_fixations.csv"
HEAD = "image,subject,x,y,duration\n"


def gaze(tmp_path, text, name="gaze.csv", encoding="utf-8", **options):
    (tmp_path / name).write_bytes(text.encode(encoding))
    return read_fixations(tmp_path / name, **options)


def rows(*places, duration=200):
    return HEAD + "".join(f"a.png,1,{x},{y},{duration}\n" for x, y in places)


def peak(fixations, shape):
    [(_, human)] = fixation_maps(fixations, shape, 2.0)
    return tuple(int(i) for i in np.unravel_index(human.argmax(), human.shape))


# --- units -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "places",
    [
        [(0.3, 0.7), (0.5, 0.5)],
        [(0.1, 0.2), (0.5, 1.2), (-0.1, 0.4), (0.3, 0.3)],  # shares, some beside the picture
        [(0.1, 0.2)] * 30 + [(700, 300)],  # an artefact among shares
        [(-5, 2), (3, -4), (6, -1), (-8, 3), (12, 7)],  # degrees from the middle
    ],
)
def test_numbers_that_need_not_be_pixels_are_asked_about(tmp_path, places):
    with pytest.raises(AnnotationError, match=r"gaze.csv: x from .*pixels, shares .* or degrees"):
        gaze(tmp_path, rows(*places))
    assert len(gaze(tmp_path, rows(*places), unit="pixels")) == len(places)


MANY = [(30.5, 60), (35, 61), (40, 62), (45, 63), (50, 64)]


def test_per_cent_by_header_or_setting_is_a_share_of_the_picture(tmp_path):
    for head in ("x [%],y [%]", "x (%),y (%)", "x_percent,y_pct"):
        table = gaze(tmp_path, f"image,subject,{head},duration\na.png,1,25,75,200\n")
        assert peak(table, (400, 800)) == (300, 200)
    stated = gaze(tmp_path, rows((25, 75)), unit="percent", shown=(0, 50, 100, 100))
    assert peak(stated, (400, 800)) == (200, 200)
    with pytest.raises(AnnotationError, match="unit is share, wanted 0 to 1"):
        gaze(tmp_path, rows((700, 75)), unit="percent")


def test_numbers_to_100_on_a_large_picture_are_asked_about(tmp_path):
    table = gaze(tmp_path, rows(*MANY))
    assert len(list(fixation_maps(table, (100, 200), 2.0))) == 1
    for shape in ((400, 300), (2000, 3000)):
        with pytest.raises(AnnotationError, match="pixels, per cent, or degrees"):
            list(fixation_maps(table, shape, 2.0))
    stated = gaze(tmp_path, rows(*MANY), unit="pixels")
    assert len(list(fixation_maps(stated, (400, 300), 2.0))) == 1
    corner = gaze(tmp_path, rows(*[(x / 20, y / 20) for x, y in MANY]))
    with pytest.raises(AnnotationError, match="pixels, per cent, or degrees"):
        list(fixation_maps(corner, (100, 200), 2.0))
    Image.new("L", (300, 400)).save(tmp_path / "a.png")
    own = dict(image="a.png", label="real", source="s", split="train", map="", subject="")
    manifest = Manifest(pd.DataFrame([own]), tmp_path)
    with pytest.raises(AnnotationError, match="pixels, per cent, or degrees"):
        gaze_maps(table, manifest, 2.0).maps(manifest)


def test_an_axis_in_shares_beside_one_in_pixels_is_asked_about(tmp_path):
    for places in ([(0.3, 50), (0.5, 60.5)], [(50, 0.3), (60.5, 0.7)]):
        with pytest.raises(AnnotationError, match="pixels, shares of the picture, or degrees"):
            gaze(tmp_path, rows(*places))


@pytest.mark.parametrize("head", ["x [deg],y [deg]", "x (mm),y (mm)", "x_deg,y_deg"])
def test_a_unit_that_is_no_place_on_the_picture_is_refused(tmp_path, head):
    text = f"image,subject,{head},duration\na.png,1,25,75,200\n"
    with pytest.raises(AnnotationError, match="is in '(deg|mm)'; say unit"):
        gaze(tmp_path, text)
    assert len(gaze(tmp_path, text, unit="pixels")) == 1
    with pytest.raises(AnnotationError, match="are in different units"):
        gaze(tmp_path, "image,subject,x [px],y [%],duration\na.png,1,25,75,200\n")


def test_where_y_of_x_norm_starts_is_asked_unless_pupil_labs_wrote_it(tmp_path):
    text = "image,subject,x_norm,y_norm{},duration\na.png,1,0.25,0.75{},200\n"
    with pytest.raises(AnnotationError, match="start at the top, or at the bottom"):
        gaze(tmp_path, text.format("", ""))
    assert gaze(tmp_path, text.format("", ""), origin="top")["y"].tolist() == [0.75]
    assert gaze(tmp_path, text.format(",on_surf", ",True"))["y"].tolist() == [0.25]


def test_shares_and_pixels_of_one_place_give_one_map(tmp_path):
    share = gaze(tmp_path, rows((0.25, 0.75)), unit="share")
    assert peak(share, (40, 80)) == (30, 20)
    assert peak(gaze(tmp_path, rows((20, 30))), (40, 80)) == (30, 20)
    assert peak(gaze(tmp_path, rows((0.25, 0.75)), unit="share", origin="bottom"), (40, 80)) == (
        10,
        20,
    )
    with pytest.raises(AnnotationError, match="unit is share, wanted 0 to 1; got x from 25"):
        gaze(tmp_path, rows((25, 75)), unit="share")
    lost = pd.DataFrame(share.to_dict("list"))  # its unit is not known any more
    with pytest.raises(AnnotationError, match="pixels, shares of the picture"):
        list(fixation_maps(lost, (40, 80), 2.0))


def test_where_the_picture_lay_on_the_screen_is_one_setting(tmp_path):
    on_screen = rows((560 + 200, 140 + 600))
    assert peak(gaze(tmp_path, on_screen, shown=(560, 140, 1360, 940)), (40, 80)) == (30, 20)
    upwards = rows((560 + 200, 940 - 600))
    assert peak(gaze(tmp_path, upwards, shown=(560, 940, 1360, 140)), (40, 80)) == (30, 20)
    with pytest.raises(AnnotationError, match="pixels need shown"):
        gaze(tmp_path, on_screen, origin="bottom")
    with pytest.raises(AnnotationError, match="wanted left < right"):
        gaze(tmp_path, on_screen, shown=(560, 140, 560, 940))


def test_durations_are_milliseconds_or_asked_about(tmp_path):
    seconds = HEAD + "a,1,50,60,0.2\na,1,70,80,0.35\n"
    with pytest.raises(AnnotationError, match="milliseconds or seconds"):
        gaze(tmp_path, seconds)
    assert gaze(tmp_path, seconds, time="s")["duration"].tolist() == [200, 350]
    named = seconds.replace("duration", "duration [s]")
    assert gaze(tmp_path, named)["duration"].tolist() == [200, 350]
    assert gaze(tmp_path, rows((50, 60), (50, 60), duration=1))["duration"].tolist() == [1, 1]
    with pytest.raises(AnnotationError, match="duration number 1 is -5, below 0"):
        gaze(tmp_path, HEAD + "a,1,50,60,200\na,1,50,60,-5\n")


# --- trackers ----------------------------------------------------------------------------------

TOBII = "Presented Media name\tParticipant name\tEye movement type\tEye movement type index\t"
TOBII += "Gaze event duration [ms]\tFixation point X [DACS px]\tFixation point Y [DACS px]\t"
TOBII += "Fixation point X [MCS px]\tFixation point Y [MCS px]\n"
TOBII += "a.png\tP1\tFixation\t1\t200\t900\t500\t50\t60\n" * 12
TOBII += "a.png\tP1\tSaccade\t1\t30\t\t\t\t\n" + "a.png\tP1\tFixation\t2\t100\t9\t5\t70\t80\n" * 6
EYELINK = (
    "RECORDING_SESSION_LABEL\tCURRENT_FIX_X\tCURRENT_FIX_Y\tCURRENT_FIX_DURATION\timage\tx\ty\n"
)
EYELINK += "P1\t50\t60\t200\ta.png\t1\t1\nP1\t70\t80\t100\ta.png\t1\t1\n"
SMI = "## [BeGaze]\nStimulus\tParticipant\tCategory\tFixation Position X [px]\t"
SMI += (
    "Fixation Position Y [px]\tEvent Duration [ms]\na.png\tP1\tVisual Intake\t50,0\t60,0\t200,0\n"
)
SMI += "a.png\tP1\tSaccade\t-\t-\t30,0\na.png\tP1\tFixation\t70,0\t80,0\t100,0\n"
OGAMA = "SubjectName;TrialImage;PosX;PosY;Length\nP1;a.png;50;60;200\nP1;a.png;70;80;100\n"
CLOUD = "recording id,fixation x [px],fixation y [px],duration [ms],image\n"
CLOUD += "P1,50,60,200,a.png\nP1,70,80,100,a.png\n"


@pytest.mark.filterwarnings("ignore:.*counted on the screen")
@pytest.mark.parametrize(
    ("text", "name", "encoding"),
    [
        (TOBII, "t.tsv", "utf-16"),
        (TOBII, "t.tsv", "utf-8-sig"),
        (EYELINK, "e.xls", "utf-8"),
        (SMI, "s.txt", "utf-8"),
        (OGAMA, "o.csv", "utf-16-le"),
        (CLOUD, "c.csv", "utf-8"),
    ],
)
def test_the_tables_of_known_trackers_are_read_alike(tmp_path, text, name, encoding):
    table = gaze(tmp_path, text, name, encoding)
    assert table.values.tolist() == [["a.png", "P1", 50, 60, 200], ["a.png", "P1", 70, 80, 100]]
    assert table.attrs["unit"] == "pixels"


@pytest.mark.filterwarnings("ignore:.*counted on the screen")
def test_pupil_counts_from_the_bottom_and_gazepoint_in_seconds(tmp_path):
    pupil = "image,subject,norm_pos_x,norm_pos_y,duration\na.png,1,0.25,0.75,200\n"
    assert gaze(tmp_path, pupil).values.tolist() == [["a.png", "1", 0.25, 0.25, 200]]
    point = "MEDIA_NAME,USER,FPOGX,FPOGY,FPOGD,FPOGID,FPOGV\na.png,1,0.25,0.75,0.1,1,1\n"
    point += "a.png,1,0.25,0.75,0.2,1,1\na.png,1,0.9,0.9,0.3,2,0\n"
    table = gaze(tmp_path, point)
    assert table.values.tolist() == [["a.png", "1", 0.25, 0.75, 200]]
    assert table.attrs["unit"] == "share"
    norm = TOBII.replace("MCS px", "MCS norm").replace("\t50\t60", "\t0.5\t0.6")
    assert gaze(tmp_path, norm.replace("\t70\t80", "\t0.7\t0.8")).attrs["unit"] == "pixels"  # DACS


def test_micro_and_nanoseconds_become_milliseconds_and_are_never_guessed(tmp_path):
    text = HEAD + "a,1,50,60,250000\na,1,70,80,350000\n"
    for unit in ("[us]", "[\u00b5s]", "[\u03bcs]"):
        named = text.replace("duration", f"duration {unit}")
        assert gaze(tmp_path, named)["duration"].tolist() == pytest.approx([250, 350])
    with pytest.raises(AnnotationError, match="milliseconds or seconds"):
        gaze(tmp_path, text)
    with pytest.raises(AnnotationError, match="durations are in 'frames'"):
        gaze(tmp_path, text.replace("duration", "duration [frames]"))


def test_pixels_of_the_screen_are_told(tmp_path):
    with pytest.warns(UserWarning, match="'PosX' is counted on the screen .*say where it lay"):
        gaze(tmp_path, OGAMA)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gaze(tmp_path, TOBII)  # of the picture (MCS)
        gaze(tmp_path, OGAMA, shown=(0, 0, 100, 100))


def test_columns_of_any_name_can_be_stated(tmp_path):
    text = "Bild;VP;GX;GY\na.png;1;50,5;60\n"
    names = {"image": "Bild", "subject": "VP", "x": "GX", "y": "GY"}
    assert gaze(tmp_path, text, columns=names).values.tolist() == [["a.png", "1", 50.5, 60, 1]]
    for given, message in (
        ({}, r"no column for \['x', 'y'\].*got \['Bild', 'VP', 'GX', 'GY'\].*say which"),
        (names | {"image": "Bld"}, "has no column 'Bld' .did you mean 'Bild'"),
        ({"x": "GX"}, "names x alone"),
        ({"z": "GX"}, "columns names 'z'"),
    ):
        with pytest.raises(AnnotationError, match=message):
            gaze(tmp_path, text, columns=given)
    with pytest.raises(AnnotationError, match="names the column 'x' twice"):
        gaze(tmp_path, "image,subject,x,x,y\na,1,5,6,7\n")


# --- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["inf", "1e300", "-1e9", "abc", '"1,234.5"'])
def test_numbers_that_are_no_places_are_refused_with_file_and_row(tmp_path, bad):
    with pytest.raises(AnnotationError, match="gaze.csv(, row 1)?: x is"):
        gaze(tmp_path, rows((50, 60), (bad, 60)))


def test_rows_without_a_place_or_picture_are_left_out_with_a_word(tmp_path):
    text = rows((50, 60), ("", 60), (".", "-"), ("nan", 7)) + ",1,50,60,200\n"
    with pytest.warns(
        UserWarning, match=r"1 fixations read, left out 3 .row 1 .*; 1 .row 4 has no"
    ):
        table = gaze(tmp_path, text)
    assert len(table) == 1
    assert [row["count"] for row in table.attrs["imported"]] == [1, 3, 1]
    with pytest.raises(AnnotationError, match="no fixations could be read"):
        gaze(tmp_path, rows(("", "")))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"x,y", bytes(range(256)) * 9, "image,é\n1,2\n".encode("latin-1"), b"\0" * 99,
        b"PK\3\4 no archive", b"word\nword\n", HEAD.encode() + b"a,1,5,6,7,8\n", b'x,"y\n1,"2\n',
    ],
)  # fmt: skip
def test_files_that_are_no_tables_are_refused_by_name(tmp_path, data):
    for name in ("x.csv", "x.tsv", "x.parquet", "x.zip"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(AnnotationError, match=name):
            read_fixations(tmp_path / name)
    with pytest.raises(AnnotationError, match="there is no file .*nowhere.csv"):
        read_fixations(tmp_path / "nowhere.csv")


def test_an_archive_of_files_with_blanks_and_utf16_is_read(tmp_path):
    table = "Fixation Index;FixationPointX;FixationPointY\n1;3,5;4\n2;30;40\n"
    with zipfile.ZipFile(tmp_path / "g.zip", "w") as archive:
        archive.writestr("F/00_my face_SA.csv", table.encode("utf-16"))
        archive.writestr("__MACOSX/F/._00_my face_SA.csv", b"\0\5")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = read_fixation_files(tmp_path / "g.zip").values.tolist()
    assert found == [["my face", "00", 3.5, 4, 1], ["my face", "00", 30, 40, 1]]


# --- maps --------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path):
    names = ["x/a.png", "x/b.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (80, 40)).save(tmp_path / name)
    columns = {"image": names, "label": ["authentic", "synthetic"], "split": "train"}
    columns |= {"source": "s", "map": "", "subject": ""}
    return Manifest(pd.DataFrame(columns), tmp_path, ("authentic", "synthetic"))


def test_fixations_outside_and_on_other_pictures_are_told(own, tmp_path):
    table = gaze(tmp_path, rows((20, 30), (90, 30), (20, -3)) + "c.png,1,5,6,200\n")
    with pytest.warns(UserWarning, match="1 of 2 pictures fit no image .*first 'c.png'"):
        source = gaze_maps(table, own, 2)
    with pytest.warns(UserWarning, match="2 of 3 fixations lie outside their pictures"):
        done = map_manifest(own, source, "gaze")
    human = read_map(own.root / done.manifest.table["map"][0])
    assert np.unravel_index(human.argmax(), human.shape) == (30, 20)
    with pytest.warns(UserWarning, match="2 of 4 fixations lie outside"):
        list(fixation_maps(table, (40, 80), 2.0))


def test_shares_become_pixels_of_each_picture(own, tmp_path):
    table = gaze(tmp_path, rows((0.25, 0.75)), unit="share")
    with pytest.warns(UserWarning, match="1 of 2 images got no map"):
        done = map_manifest(own, gaze_maps(table, own, 2), "gaze")
    human = read_map(own.root / done.manifest.table["map"][0])
    assert np.unravel_index(human.argmax(), human.shape) == (30, 20)
    with pytest.raises(AnnotationError, match="pixels, shares of the picture"):
        gaze_maps(pd.DataFrame(table.to_dict("list")), own, 2)  # its unit is lost


def test_two_names_of_one_picture_are_refused(own, tmp_path):
    table = gaze(tmp_path, rows((20, 30)) + "a,1,5,6,200\n")
    with pytest.raises(AnnotationError, match="'a' and 'a.png' both fit x/a.png; give names"):
        gaze_maps(table, own, 2)


def test_gaze_becomes_maps_in_annotate(own, tmp_path, monkeypatch):
    """annotate.ipynb without a hand on it: a table of Tobii in, a manifest with its map out."""
    monkeypatch.setenv("CYBORG_DATA", str(tmp_path / "data"))
    (tmp_path / "t.tsv").write_bytes(TOBII.encode("utf-16"))
    given = {"manifest": str(write_manifest(own, tmp_path / "m.csv")), "root": str(own.root)}
    given |= {"gaze": str(tmp_path / "t.tsv"), "gaze_sigma": "3", "folder": "looked"}
    words = [word for name, value in given.items() for word in ("-p", name, value)]
    words += ["-y", "{gaze_options: {shown: [0, 0, 160, 120]}}"]
    notebook = str(ROOT / "nbs" / "annotate.ipynb")
    done = subprocess.run(
        [sys.executable, "-c", "from cyborg.commands import papermill; papermill()", notebook]
        + [str(tmp_path / "out.ipynb"), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    table = read_manifest(tmp_path / "looked" / "manifest.csv", root=own.root).table
    assert (table["map"] != "").tolist() == [True, False]
    human = read_map(own.root / table["map"][0])
    assert np.unravel_index(human.argmax(), human.shape) == (20, 25)  # 60 of 120, 50 of 160


@pytest.mark.skipif(not OSIE.is_file(), reason="the real gaze is not here")
def test_real_gaze_in_shares_gives_the_maps_of_its_pixels(tmp_path):
    pixels = read_fixations(OSIE)
    table = pd.read_csv(OSIE)
    shares = table.assign(x=table["x"] / 256, y=1 - table["y"] / 256)
    text = io.StringIO()
    shares.rename(columns={"x": "norm_pos_x", "y": "norm_pos_y"}).to_csv(text, sep=";", decimal=",")
    with pytest.warns(UserWarning, match="counted on the screen"):
        back = gaze(tmp_path, text.getvalue(), encoding="utf-16", columns={"image": "crop"})
    wanted = dict(fixation_maps(pixels, (256, 256), 10.0))
    came = dict(fixation_maps(back, (256, 256), 10.0))
    assert len(wanted) == 108 and list(came) == list(wanted)
    assert max(np.abs(came[name] - wanted[name]).max() for name in wanted) < 0.02


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("image,file,subject,x,y", "2 columns for image, 'image', 'file'; say which with columns"),
        ("image,subject,observer,x,y", "2 columns for subject, 'subject', 'observer'"),
        ("image,subject,x,fix_x,y", "2 columns for x, 'x', 'fix_x'"),
        ("image,subject,x,y,X ", "names the column 'x' twice"),
    ],
)
def test_two_columns_of_one_meaning_are_asked_about(tmp_path, header, told):
    text = f"{header}\na.png,b,40,50,60\n"
    with pytest.raises(AnnotationError, match=told):
        gaze(tmp_path, text)
    if "file" in header:
        stated = gaze(tmp_path, text.replace("b,40", "b.png,c"), columns={"image": "file"})
        assert stated["image"].tolist() == ["b.png"]


def test_durations_are_not_lost_under_another_name(tmp_path):
    text = HEAD.replace("duration", "fixation_duration_ms") + "a,1,50,60,200\na,1,50,60,5\n"
    assert gaze(tmp_path, text)["duration"].tolist() == [200, 5]
    text = text.replace("fixation_duration_ms", "FixDur")
    with pytest.raises(AnnotationError, match="gaze.csv may hold durations in 'FixDur'"):
        gaze(tmp_path, text)
    assert gaze(tmp_path, text, columns={"duration": "FixDur"})["duration"].tolist() == [200, 5]
