"""The plan of the package: which module may import which, what is public, how long a module is."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cyborg"

# A module imports only what stands before it here, a wing besides only what WINGS lets it see.
CORRIDOR = [
    *(
        "docstrings",
        "front",
        "files",
        "parameters",
        "pictures",
        "manifest",
        "findings",
        "classes",
        "saliency",
        "marks",
        "portrait",
        "demo",
    ),
    *("cache", "grids", "others.quirks", "data", "heads", "models", "cam", "loss", "guidance"),
    "forward",
    *("others.released", "others.attention", "others.cnndetection"),
    "measure.corners",
    *(
        "settings",
        "tuning",
        "epoch",
        "runs",
        "predictions",
        "measure.auc",
        "figures",
        "overlays",
        "tracking",
        "trial",
        "launch",
        "training",
    ),
    *("evaluation", "widgets"),
]
ROOMS = {
    "measure": "corners auc statistics bootstrap errors audit groups pools folds confusion "
    "measures compare robustness honesty",
    "people": "formats gaze tables turns store annotations exchange ceiling crowd progress "
    "server answers analysis detection granularity brush queue",
    "prepare": "crop landmarks quality segmentation img2pose importers mentor sources",
    "others": "quirks released attention cnndetection scorers frozen",
    "study": "runner jobs words questions splits space file fewer sweep elsewhere grid further "
    "collect run",
    "report": "tables examples printed differences enough fairness pooling protocols "
    "search attribution panels limits frozen lies headline export page",
    "explore": "views tiles maps picture curves studies scoring choice regions desk "
    "atlas gallery roster digest visitor annotators recipe workbench widget",
}
WINGS = {  # a wing: the wings it sees
    "measure": (),
    "people": ("measure",),
    "prepare": ("people",),
    "others": ("measure", "prepare"),
    "study": ("measure", "people", "others"),
    "report": ("measure", "others", "prepare"),
    "explore": ("measure", "people", "others", "study", "prepare", "report"),
}
FREE = {"commands", "terminal"}  # entry points, which import what they start


def modules() -> dict[str, Path]:
    paths = [p for p in PACKAGE.rglob("*.py") if not p.name.startswith("_")]
    return {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in paths}


def imports_of(name: str, path: Path, known: set[str]) -> set[str]:
    "Modules of the package that one imports, inside functions, too."
    place, found = ["cyborg", *name.split(".")], set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = place[: -node.level] if node.level else []
            parts = [*base, *(node.module or "").split(".")] if node.module else base
            for alias in node.names:
                both = (".".join(parts[1:]), ".".join([*parts[1:], alias.name]))
                found |= {one for one in both if parts[:1] == ["cyborg"] and one in known}
        if isinstance(node, ast.Import):
            found |= {a.name.partition(".")[2] for a in node.names} & known
    return found


def may_import(name: str, other: str) -> bool:
    if name in FREE:
        return True
    if name in CORRIDOR:
        return other in CORRIDOR and CORRIDOR.index(other) < CORRIDOR.index(name)
    if other in CORRIDOR:
        return True
    (wing, room), (seen, of) = name.split("."), (*other.split("."), "")[:2]
    if wing == seen:
        rooms = ROOMS[wing].split()
        return rooms.index(of) < rooms.index(room)
    return seen in WINGS[wing]


def public(path: Path) -> list[str]:
    "The names in a module's `__all__`."
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


def test_every_module_has_its_place():
    planned = {*CORRIDOR, *FREE} | {f"{w}.{r}" for w, rooms in ROOMS.items() for r in rooms.split()}
    assert planned == {*modules()}


def test_the_table_itself_has_no_way_round():
    "A wing that sees another is not seen by it, over no number of steps."
    below: dict[str, set[str]] = {wing: {*seen} for wing, seen in WINGS.items()}
    for _ in WINGS:
        below = {w: s.union(*(below[one] for one in s)) for w, s in below.items()}
    assert not [wing for wing, seen in below.items() if wing in seen]


@pytest.mark.parametrize("name", modules())
def test_modules_import_downwards(name):
    found = imports_of(name, modules()[name], {*modules()})
    wrong = sorted(other for other in found if not may_import(name, other))
    assert not wrong, f"{name} imports {wrong}"


def test_no_module_imports_itself_by_a_way_round():
    "Not even an entry point, which may import what it starts."
    below = {name: imports_of(name, path, {*modules()}) for name, path in modules().items()}
    for _ in below:
        below = {name: seen.union(*(below[one] for one in seen)) for name, seen in below.items()}
        if any(name in seen for name, seen in below.items()):
            break
    assert not [name for name, seen in below.items() if name in seen]


def test_what_the_rule_refuses():
    assert may_import("report.page", "report.tables") and may_import("report.page", "figures")
    assert not may_import("report.tables", "report.page")
    assert not may_import("manifest", "data") and not may_import("data", "measure.measures")
    assert not may_import("measure.audit", "study.file")


def test_no_public_name_twice():
    places: dict[str, list[str]] = {}
    for name, path in modules().items():
        for one in public(path):
            places.setdefault(one, []).append(name)
    assert {n: p for n, p in places.items() if len(p) > 1} == {}


def test_the_door_is_no_wider_than_it_must_be():
    "Public is what another wing, a notebook to use or a user asks for; see exporti."
    assert sum(len(public(path)) for path in modules().values()) <= 628


def test_nothing_private_is_imported():
    "A name that another module needs has no underscore."
    found = []
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (
                node.level or (node.module or "")[:6] == "cyborg"
            ):
                found += [
                    f"{name}: {a.name}" for a in node.names if a.name[:1] == "_" != a.name[1:2]
                ]
    assert not found, found


def test_no_module_is_a_hall():
    lines = {
        name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()
    }
    assert {name: n for name, n in lines.items() if n > 800} == {}


def test_modules_that_share_a_name_are_few():
    names = Counter(name.rpartition(".")[2] for name in modules())
    assert {name for name, n in names.items() if n > 1} <= {"tables", "frozen"}


LIGHT = "settings manifest predictions runs explore.maps explore.curves explore.studies "
LIGHT += "explore.workbench"


def test_who_only_looks_does_not_wait_for_torch():
    "Settings are refused, and results looked at, without what only a network needs."
    lines = [f"import cyborg.{room}" for room in LIGHT.split()]
    lines += [
        "from cyborg.settings import preset_config",
        "preset_config('quick', {'manifest': 'm'})",
    ]
    lines += ["import sys; print([n for n in ('torch', 'timm', 'accelerate') if n in sys.modules])"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
