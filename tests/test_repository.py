"""The repository as a whole: generated code, clean notebooks, one source of settings."""

import ast
import importlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from importlib.util import find_spec
from pathlib import Path

import pytest

import cyborg

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "nbs").rglob("*.ipynb"))


def settings() -> ConfigParser:
    parser = ConfigParser(delimiters=["="], interpolation=None)
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


def tracked() -> list[Path]:
    """Files git knows; a copy without .git has none to check."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name]


def run_python(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of the project in which nbdev may write."""
    folder = tmp_path_factory.mktemp("copy") / "project"
    shutil.copytree(
        ROOT / "nbs", folder / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints")
    )
    for name in ("settings.ini", "setup.py", "README.md"):
        shutil.copy2(ROOT / name, folder / name)
    (folder / "cyborg").mkdir()
    return folder


def package(folder: Path) -> dict[str, str]:
    top = folder / "cyborg"
    paths = [p for p in top.rglob("*.py") if p.name != "__init__.py"]  # those are written by hand
    return {p.relative_to(top).as_posix(): p.read_text(encoding="utf-8") for p in paths}


def test_package_is_a_fresh_export(copy):
    """cyborg/ is what the notebooks say: nothing edited by hand, forgotten or left over."""
    run_python("from nbdev.doclinks import nbdev_export; nbdev_export()", copy)
    fresh, here = package(copy), package(ROOT)
    assert sorted(here) == sorted(fresh), "run nbdev_export"
    changed = [name for name in fresh if fresh[name] != here[name]]
    assert not changed, f"run nbdev_export: {changed} differ from the notebooks"


def test_notebooks_are_clean(copy):
    run_python("from nbdev.clean import nbdev_clean; nbdev_clean()", copy)
    there = {p: copy / p.relative_to(ROOT) for p in NOTEBOOKS}
    changed = [p.name for p, other in there.items() if p.read_bytes() != other.read_bytes()]
    assert not changed, f"run nbdev_clean: it would change {changed}"


@pytest.mark.parametrize(
    "path", NOTEBOOKS, ids=lambda path: path.relative_to(ROOT / "nbs").with_suffix("").as_posix()
)
def test_notebook_holds_no_output(path):
    """Outputs would bury a change in pictures; every executed copy is under runs/."""
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)


def test_top_level():
    wanted = {"nbs", "cyborg", "tests", "data", "settings.ini", "setup.py", "README.md", "LICENSE"}
    wanted |= {"CHANGELOG.md", "CONTRIBUTING.md", "MANIFEST.in", "Makefile"}
    wanted |= {".ci", ".gitignore", "ruff.toml"}
    allowed = wanted | {"experiments", "benchmarks", ".github"}  # GitHub reads workflows only there
    here = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert wanted <= here, f"missing: {sorted(wanted - here)}"
    assert here <= allowed, f"not expected at the top level: {sorted(here - allowed)}"


def test_data_and_runs_are_not_tracked():
    here = {path.relative_to(ROOT).as_posix() for path in tracked()}
    assert {name for name in here if name.startswith("data/")} == {"data/README.md"}
    assert not {name for name in here if name.startswith(("runs/", "studies/"))}


# Homes of people and machines. Written with one-letter classes, lest this file find itself.
PRIVATE = re.compile(
    r"/hom[e]/\w|/Use[r]s/\w|/roo[t]\b|/wor[k]/|[A-Z]:\\+Use[r]s"
    r"|\b10(?:\.\d{1,3}){3}\b|\b192\.16[8]\.|\b172\.(?:1[6-9]|2\d|3[01])\.\d+\.\d+"
    r"|[\w-]\.(?:interna[l]|intrane[t]|cor[p]|la[n])\b"
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/hom" + "e/ann/data", True),
        ("C:\\\\Use" + "rs\\\\ann", True),
        ("http://pypi.cor" + "p/simple", True),
        ("10.1.2" + ".3", True),
        ("https://cvrl.nd.edu/", False),
        ("torch 2.10.0 in ~/runs, 127.0.0.1, /homepage/, planet", False),
    ],
)
def test_private_pattern(text, found):
    assert bool(PRIVATE.search(text)) is found


def test_no_private_names_are_tracked():
    found = []
    for path in tracked():
        if path.exists() and path.suffix not in {".png", ".jpg"}:
            text = path.read_text(encoding="utf-8")
            found += [f"{path.relative_to(ROOT)}: {hit.group()}" for hit in PRIVATE.finditer(text)]
    assert not found, found


def test_version_has_one_source():
    version = settings()["version"]
    assert cyborg.__version__ == version, "run nbdev_export"
    assert importlib.metadata.version("cyborg") == version, "run make venv"


def test_setup_holds_no_settings():
    """Whatever setup.py passes on comes from settings.ini: no literal but markup and file names."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    [call] = [
        n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "setup"
    ]
    literal = {k.arg for k in call.keywords if isinstance(k.value, ast.Constant)}
    assert literal <= {"long_description_content_type"}
    for key in ("lib_name", "version", "min_python", "requirements", "console_scripts"):
        assert f'settings["{key}"]' in ast.unparse(tree).replace("'", '"'), key


def test_installed_requirements_are_those_of_settings():
    """An environment made from an older settings.ini is noticed."""
    wanted = {re.split(r"[<>=!~]", word)[0].lower() for word in settings()["requirements"].split()}
    installed = importlib.metadata.requires("cyborg")
    names = {
        re.split(r"[<>=!~; ]", line)[0].lower() for line in installed if "extra ==" not in line
    }
    assert names == wanted, "run make venv"


def test_both_opencv_packages_agree():
    """grad-cam brings the headless one beside ours; both install the same cv2 folder."""
    import cv2

    names = ("opencv-python", "opencv-python-headless")
    versions = {importlib.metadata.version(name) for name in names}
    assert len(versions) == 1, f"opencv-python and opencv-python-headless differ: {versions}"
    [version] = versions
    assert version.startswith(cv2.__version__)


def test_papermill_command_is_ours():
    from cyborg.commands import check_command

    assert check_command().parent == Path(sys.executable).parent


@pytest.mark.parametrize("arguments", [("check",), ("format", "--check")], ids=" ".join)
def test_ruff(arguments):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *arguments, "--no-cache", "nbs", "tests", "setup.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_light_modules_stay_light():
    """Reading a manifest or a map, or starting papermill, must not wait for torch."""
    code = (
        "import sys, cyborg.manifest, cyborg.saliency, cyborg.commands, cyborg.study.runner\n"
        "print([name for name in ('torch', 'timm', 'plotly', 'papermill') if name in sys.modules])"
    )
    assert run_python(code, ROOT).strip() == "[]"


def test_the_reader_of_pictures_brings_neither_pandas_nor_the_package():
    code = (
        "import sys, cyborg.pictures; print(sorted({'torch', 'pandas', 'scipy'} & {*sys.modules}))"
    )
    code += "; print([name for name in sys.modules if name.startswith('cyborg.p')])"
    code += "; print({name for name in sys.modules if name.startswith('cyborg.')})"
    heavy, pictures, every = run_python(code, ROOT).split("\n")[:3]
    assert (heavy, pictures) == ("[]", "['cyborg.pictures']")
    # what writes docstrings is there where a module is compiled
    assert ast.literal_eval(every) <= {"cyborg.front", "cyborg.pictures", "cyborg.docstrings"}


def taken(path: Path) -> set[tuple[str, str]]:
    "Modules of the package that a script imports from, and the names it takes."
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    froms = [n for n in nodes if isinstance(n, ast.ImportFrom) and not n.level]
    own = [n for n in froms if (n.module or "").split(".")[0] == "cyborg"]
    return {(node.module, alias.name) for node in own for alias in node.names}


def test_scripts_take_what_is_there():
    "Nothing else notices where a name has moved away from under a benchmark or an experiment."
    folders = [ROOT / name for name in ("benchmarks", "experiments", "nbs/docs")]
    scripts = [path for folder in folders for path in folder.rglob("*.py")]
    lost = []
    for module, name in sorted(set().union(*map(taken, scripts))):
        found, full = importlib.import_module(module), f"{module}.{name}"
        there = hasattr(found, name) or hasattr(found, "__path__") and find_spec(full)
        lost += [] if there else [full]
    assert len(scripts) > 20 and lost == []
