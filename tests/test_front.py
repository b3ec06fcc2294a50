"""What somebody at a Python prompt or in an editor meets: names, docstrings, speed."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
from fastcore.docments import docments
from test_house import modules, public

import cyborg
from cyborg.front import NAMES

PACKAGE = Path(cyborg.__file__).parent


def test_import_is_quick():
    """The best of five: a busy machine slows some of them down."""
    code = "import time; t = time.process_time(); import cyborg; print(time.process_time() - t)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True) for _ in range(5)]
    assert min(float(done.stdout) for done in runs) < 0.1


def test_the_first_names_are_where_they_are_said_to_be():
    wanted = {"cyborg_loss", "model_map", "make_network", "train", "load_run", "score", "predict"}
    assert wanted | {"agreement", "read_manifest", "read_tables"} <= NAMES.keys()
    assert 20 <= len(NAMES) <= 30
    assert sorted(dir(cyborg)) == sorted([*NAMES, "__version__"])
    for name, module in NAMES.items():
        assert name in public(modules()[module]), name
        assert f"`{name}`" in cyborg.__doc__, name


def test_the_map_of_the_package_names_every_module():
    for name in modules():
        assert f"`{name.partition('.')[0]}`" in cyborg.__doc__, name


def test_an_editor_finds_the_same_names():
    """It does not run `__getattr__`; what stands under TYPE_CHECKING it reads."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    [block] = [n for n in tree.body if isinstance(n, ast.If)]
    found = {a.name: n.module.removeprefix("cyborg.") for n in block.body for a in n.names}
    assert found == NAMES


def offered(name: str) -> list[tuple[str, object]]:
    "Public functions and classes of a module."
    module = importlib.import_module(f"cyborg.{name}")
    found = [(one, getattr(module, one)) for one in public(modules()[name])]
    kinds = (types.FunctionType, type)
    return [(n, f) for n, f in found if isinstance(f, kinds) and f.__module__ == module.__name__]


@pytest.mark.parametrize(
    "name", sorted({*modules()} - {"front"})
)  # loaded before its loader is there
def test_docstrings_say_what_comments_say(name):
    """Every parameter of every public function and class, and every comment beside one."""
    for one, found in offered(name):
        said = inspect.getdoc(found) or ""
        assert said, f"{one} has no docstring"
        if isinstance(found, type) and issubclass(found, Exception):
            continue
        for parameter in inspect.signature(found).parameters.values():
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                assert re.search(rf"(?m)^{parameter.name}( : |, |$)", said), f"{one}: {parameter}"
        for parameter, comment in docments(found, args_kwargs=True).items():
            if comment and parameter != "self":
                assert " ".join(comment.split()) in " ".join(said.split()), f"{one}: {parameter}"


@pytest.mark.parametrize("name", modules())
def test_dir_lists_what_a_module_offers(name):
    module = importlib.import_module(f"cyborg.{name}")
    assert sorted(dir(module)) == sorted(public(modules()[name]))


def test_a_line_of_the_source_stays_where_it_is():
    from cyborg import cyborg_loss

    lines = (PACKAGE / "loss.py").read_text().splitlines()
    number = cyborg_loss.__code__.co_firstlineno
    assert lines[number - 1] == "def cyborg_loss("


def test_help_shows_shape_unit_and_default():
    done = subprocess.run(
        [sys.executable, "-c", "import cyborg; help(cyborg.human_maps)"],
        capture_output=True,
        text=True,
    )
    page = " ".join(done.stdout.split())
    assert "sigma : float, default 5.0 Gaussian blur, pixels at that size; section 4.3" in page
    assert "their masks (A, H, W)" in page


def test_a_human_map_of_the_size_of_the_image_is_answered_by_the_call_that_resizes():
    import torch

    from cyborg import Output, cyborg_loss, resize_map

    output = Output(torch.zeros(2, 2), torch.rand(2, 3, 7, 7))
    given = (output, torch.rand(2, 3), torch.tensor([0, 1]))
    human, has_map = torch.rand(2, 224, 224), torch.tensor([True, True])
    with pytest.raises(ValueError, match=r"human has shape \(2, 224, 224\)") as refused:
        cyborg_loss(*given, human, has_map)
    call = str(refused.value).partition("; ")[2].removesuffix(" makes them so")
    mended = eval(call, {"torch": torch, "cyborg": cyborg, "human": human})
    assert torch.equal(mended, torch.from_numpy(resize_map(human, (7, 7))))
    assert cyborg_loss(*given, mended, has_map).saliency > 0
    with pytest.raises(ValueError, match="like the features$"):  # another number: no resizing helps
        cyborg_loss(*given, human[:1], has_map)
