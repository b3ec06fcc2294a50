"""Whatever a file holds, it is read, or an error of this package names it."""

import importlib
import inspect
import pkgutil
import re

import pytest
from bad_input import DAMAGES, READERS, Reader, campaign, verdict

import cyborg

# Read files of others only through what is in the table, or read none.
NOT_TRIED = {
    "people.server.open_page": "makes a page of a manifest and a store",
    "others.attention.read_attention": "models.read_state_dict, of a large network",
    "others.cnndetection.read_cnndetection": "models.read_state_dict, of a large network",
    "prepare.crop.open_photographs": "manifest.read_manifest, or a folder's names",
    "prepare.crop.read_photographs": "a folder's names",
    "cache.open_cache": "pictures.decode_square, into a store of its own",
    "grids.open_maps": "saliency.read_map",
    "heads.read_ending": "a network in memory",
    "explore.tiles.read_rows": "people.ceiling.annotation_rows, kept",
    "explore.choice.read_choice": "no file, but what a page asks for",
    "people.turns.open_trial": "a trial of a store in memory",
    "predictions.read_means": "predictions.read_mean_maps",
    "commands.open_missing_streams": "no file",
    "findings.read_checked": "a damaged stamp is none: the files are checked anew",
    "manifest.read_folders": "a folder's names",
    "files.read_json": "training.load_run, of config.json",
    "models.load_exactly": "tensors",
    "models.load_named_weights": "models.read_state_dict",
    "models.load_weights": "tensors",
    "predictions.open_predictions": "predictions.read_predictions",
    "study.file.read_places": "a study, and its manifests by manifest.read_manifest",
    "pictures.open_picture": "pictures.read_picture",
    "others.released.load_released": "models.read_state_dict, of a large network",
    "report.tables.read_tables": "a study folder: tests/test_report.py",
    "others.frozen.read_frozen": "read_predictions; what is damaged is listed as a problem",
    "explore.scoring.open_run": "training.load_run",
    "explore.scoring.open_runs": "training.load_run",
    "runs.read_checkpoint": "training.load_state",
    "runs.read_history": "training.load_run",
}


def public_readers() -> set[str]:
    "Every function of the package that is named like a reader of files."
    found = set()
    for module in pkgutil.walk_packages(cyborg.__path__, "cyborg."):
        if module.ispkg or "._" in module.name:
            continue
        loaded = importlib.import_module(module.name)
        for name, value in vars(loaded).items():
            own = getattr(value, "__module__", "") == loaded.__name__
            if own and inspect.isfunction(value) and name.startswith(("read_", "load_", "open_")):
                found.add(f"{module.name.partition('.')[2]}.{name}")
    return found


def test_every_reader_is_tried_or_excused():
    tried = {name.split(" ")[0] for name in READERS}
    assert sorted(public_readers() - tried - {*NOT_TRIED}) == []
    assert sorted({*NOT_TRIED} - public_readers()) == []
    assert sorted({*NOT_TRIED} & tried) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_named(name, tmp_path):
    reader = READERS[name]
    path = reader.make(tmp_path)
    file, good = path / reader.damaged, verdict(reader, path)
    assert good.verdict == "read", good.text
    data, wrong = file.read_bytes(), []
    few = ("empty", "half", "noise", "latin-1", "a page", "an archive")
    for damage in few if reader.slow else DAMAGES:
        damaged = DAMAGES[damage]
        file.write_bytes(damaged(data))
        told = verdict(reader, path)
        if told.verdict == "wrong":
            wrong.append(f"{damage}: {told.text}")
        if told.verdict == "read" and damage in ("mark", "utf-16"):
            same = [re.sub("0x[0-9a-f]+", "", repr(one.value)) for one in (told, good)]
            assert same[0] == same[1], f"{damage}: read as another thing"
    file.unlink()
    for what in ("missing", "a folder"):
        told = verdict(reader, path)
        fits = told.verdict == "told" or (what == "missing" and reader.optional)
        wrong += [] if fits else [f"{what}: {told.text}"]
        file.mkdir(exist_ok=True)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "error", [KeyError("x"), ValueError("no path"), RecursionError(), SystemExit("a")]
)
def test_the_harness_sees_an_error_that_is_not_ours(error, tmp_path):
    def read(path):
        raise error

    assert verdict(Reader(None, read), tmp_path / "a.csv").verdict == "wrong"


def test_the_harness_wants_the_path(tmp_path):
    from cyborg.files import ManifestError, reading

    def read(path, named):
        with reading(named, "a table"):
            raise KeyError("x")

    path = tmp_path / "a.csv"
    assert verdict(Reader(None, lambda p: read(p, p)), path).verdict == "told"
    assert verdict(Reader(None, lambda p: read(p, "another.csv")), path).verdict == "wrong"
    with pytest.raises(ManifestError, match=r"a.csv is damaged, or is not a table"):
        read(path, path)


@pytest.mark.filterwarnings("ignore")
def test_damages_at_random_are_told_or_harmless(tmp_path):
    """`benchmarks/campaign_bad.py` tries more of them."""
    quick = [name for name in READERS if not READERS[name].slow]
    found = campaign(tmp_path, 100, 1, [name for name in quick if "mentor" not in name])
    assert found[found["verdict"] == "wrong"].to_dict("records") == []
    assert (found["verdict"] == "told").sum() > 50
