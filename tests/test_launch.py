"""The papermill command as people and machines type it, and the parameters notebooks are given.

Most runs only prepare the notebook (--prepare-only writes it with its parameters and starts no
kernel); a few run one. The source notebook is compared byte for byte after each.
"""

import ast
import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import nbformat
import papermill
import pytest

from cyborg.commands import announced_output, check_command
from cyborg.parameters import parameters_since
from cyborg.terminal import _REFUSALS

ROOT = Path(__file__).parents[1]
PARAMETERS = 'arch: str = "resnet18"  # network\nepochs: int = 3  # passes over the training set'


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to start from, a notebook in another one, no activated environment."""
    for name in ("here and now", "their notebooks"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here and now")
    monkeypatch.setenv("CYBORG_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    return tmp_path


@pytest.fixture
def source(place):
    return write_notebook(place / "their notebooks" / "a run.ipynb", "print(arch, epochs)")


def write_notebook(path: Path, *cells: str, before: str = "import sys") -> Path:
    """A notebook: one cell, the parameter cell, then `cells`."""
    code = [nbformat.v4.new_code_cell(text) for text in (before, PARAMETERS, *cells)]
    code[1].metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "display_name": "python3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=code, metadata={"kernelspec": kernel})
    nbformat.write(notebook, path)
    return path


def run(*command, **options) -> subprocess.CompletedProcess:
    options = {"capture_output": True, "text": True, "timeout": 600, **options}
    options |= {} if "input" in options else {"stdin": options.get("stdin", subprocess.DEVNULL)}
    return subprocess.run([str(word) for word in command], check=False, **options)


def at_terminal(*command) -> subprocess.CompletedProcess:
    """Run with all three streams on a pseudo-terminal."""
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [str(word) for word in command], stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    said = b""
    with contextlib.suppress(OSError):  # the terminal's other end is gone
        while piece := os.read(master, 4096):
            said += piece
    os.close(master)
    return subprocess.CompletedProcess(command, child.wait(), "", said.decode())


def from_open_pipe(*command) -> subprocess.CompletedProcess:
    """Run with standard input a pipe into which nobody ever writes, as many job runners do."""
    reading, writing = os.pipe()
    try:
        return run(*command, stdin=reading)
    finally:
        os.close(reading)
        os.close(writing)


def without(redirection: str):
    """Run with streams closed."""
    return lambda *command: run("sh", "-c", f'"$0" "$@" {redirection}', *command)


CALLERS = {
    "terminal": at_terminal,
    "output piped, input null": run,
    "open pipe": from_open_pipe,
    "no stdin": without("<&-"),
    "no streams": without("<&- >&- 2>&-"),
}


def executed(place: Path) -> list[Path]:
    return sorted((place / "runs").rglob("*"))[1:]  # without the folder `executed` itself


@pytest.mark.parametrize("caller", CALLERS)
def test_as_typed(place, source, caller):
    bytes_before = source.read_bytes()
    name = os.path.relpath(source)
    done = CALLERS[caller](check_command(), name, "-p", "arch", "resnet50", "--prepare-only")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    [output] = executed(place)
    assert re.fullmatch(r"a run-\d{8}-\d{6}\.ipynb", output.name)
    assert 'arch = "resnet50"' in output.read_text().replace("\\", "")
    if caller != "no streams":
        lines = [line for line in done.stderr.splitlines() if "no output path" in line]
        assert lines == [f"papermill: no output path given, writing to {output}"]
    assert source.read_bytes() == bytes_before
    assert list(source.parent.iterdir()) == [source]
    assert list(Path.cwd().iterdir()) == []


def test_another_notebook_piped_in_is_not_read(place, source):
    """papermill alone takes it from the pipe and writes it over the one that was named."""
    other = write_notebook(place / "other.ipynb", "print('sesame')")
    bytes_before = source.read_bytes()
    done = run(check_command(), source, "--prepare-only", input=other.read_text())
    assert done.returncode == 0, done.stderr
    assert "sesame" not in executed(place)[0].read_text()
    assert source.read_bytes() == bytes_before


@pytest.mark.parametrize("caller", ["terminal", "open pipe"])
def test_runs_in_this_python(place, caller):
    """Also where a folder is named like the package, as beside a clone."""
    Path("cyborg").mkdir()
    show = (
        "import json, os, cyborg\nprint(json.dumps([sys.executable, os.getcwd(), cyborg.__file__]))"
    )
    source = write_notebook(place / "show.ipynb", show, "print(arch, epochs)")
    done = CALLERS[caller](check_command(), source, "-p", "arch", "resnet50")
    assert done.returncode == 0, done.stderr
    [output] = executed(place)
    cells = nbformat.read(output, as_version=4).cells
    python, folder, package = json.loads(cells[-2].outputs[0].text)
    assert Path(python).parent == Path(sys.executable).parent
    assert folder == str(Path.cwd())
    assert package == str(ROOT / "cyborg" / "__init__.py")
    assert cells[-1].outputs[0].text == "resnet50 3\n"


def test_two_processes_never_reserve_one_file(tmp_path):
    """Many at once, all in one second."""
    code = (
        "import sys; from datetime import datetime; from pathlib import Path\n"
        "from cyborg.commands import new_output\n"
        "for _ in range(200): print(new_output('n.ipynb', Path(sys.argv[1]), datetime(2024, 1, 1)))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    names = [name for child in started for name in child.communicate()[0].split("\n") if name]
    assert len(names) == len(set(names)) == len(list(tmp_path.iterdir())) == 400


def alike(place: Path, *arguments, **options) -> subprocess.CompletedProcess:
    """Ours, after comparing with papermill's own: only the program's name and times may differ."""
    with ThreadPoolExecutor(2) as pool:
        commands = [check_command()], [sys.executable, "-m", "papermill"]
        ours, theirs = pool.map(lambda words: run(*words, *arguments, **options), commands)
    for name in ("returncode", "stdout", "stderr"):
        here, there = (str(getattr(done, name)) for done in (ours, theirs))
        there = there.replace("python -m papermill", "papermill").replace(
            "__main__.py", "papermill"
        )
        assert re.sub(r"\s+|\d+\.\d+", "", here) == re.sub(r"\s+|\d+\.\d+", "", there), name
    assert not (place / "runs").exists()
    return ours


def test_options_pass_through(place, source):
    assert alike(place, "--version").stdout.startswith(papermill.__version__)
    page = alike(place, "--help-notebook", source).stdout
    assert re.search(r'arch: str \(default "resnet18"\) +network', page.replace("\n", " "))


def test_errors_pass_through(place, source):
    assert alike(place, source, "--no-such-option").returncode == 2
    assert alike(place).returncode == 2


def test_pipes_pass_through(place, source):
    text = source.read_text()
    bytes_before = source.read_bytes()
    printed = alike(place, "--prepare-only", input=text).stdout
    assert "resnet18" in nbformat.reads(printed, as_version=4).cells[1].source
    assert "resnet18" in alike(place, source, "-", "--prepare-only").stdout
    done = run(check_command(), "copy.ipynb", "--prepare-only", input=text)
    assert done.returncode == 0, done.stderr
    assert "resnet18" in Path("copy.ipynb").read_text()
    assert source.read_bytes() == bytes_before
    assert not (place / "runs").exists()


def test_two_paths_pass_through(place, source):
    bytes_before = source.read_bytes()
    for caller in (at_terminal, from_open_pipe):
        done = caller(check_command(), source, "named.ipynb", "--prepare-only", "-p", "epochs", "9")
        assert done.returncode == 0, done.stderr
        assert "no output path" not in done.stderr
        assert "epochs = 9" in Path("named.ipynb").read_text()
    assert source.read_bytes() == bytes_before
    assert not (place / "runs").exists()


def test_missing_notebook(place):
    done = at_terminal(check_command(), "nbs/trian.ipynb")
    assert done.returncode == 2
    assert "there is no notebook 'nbs/trian.ipynb' in" in " ".join(done.stderr.split())
    assert not (place / "runs").exists()


def test_failing_notebook_keeps_its_copy(place):
    source = write_notebook(place / "fails.ipynb", "raise RuntimeError('planted')")
    bytes_before = source.read_bytes()
    done = from_open_pipe(check_command(), source)
    assert done.returncode == 1
    assert "RuntimeError: planted" in done.stderr
    assert "planted" in executed(place)[0].read_text()
    assert source.read_bytes() == bytes_before


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(click.ClickException) as refused:
        announced_output("run.ipynb", tmp_path / "file" / "executed")
    assert f"cannot write into {tmp_path}/file/executed (Not a directory)" in refused.value.message
    assert "CYBORG_RUNS" in refused.value.message


# Parameters, through papermill itself and the way JupyterLab runs cells.

IMPORTS = "from pathlib import Path\nfrom cyborg.parameters import parameters_since"
BEFORE = f"{IMPORTS}\nbefore = dict(globals())"
AFTER = "settings = parameters_since(before, globals())"


def execute(tmp_path: Path, parameters: dict, **options):
    source = write_notebook(
        tmp_path / "run.ipynb", AFTER, "print(sorted(settings.items()))", before=BEFORE
    )
    return papermill.execute_notebook(source, None, parameters, progress_bar=False, **options)


def test_known_parameters_are_given(tmp_path):
    given = {
        "epochs": 5,
        "PAPERMILL_OUTPUT_PATH": "x",
        "PAPERMILL_INPUT_PATH": "y",
    }  # --inject-paths
    notebook = execute(tmp_path, given)
    assert notebook.cells[-1].outputs[0].text == "[('arch', 'resnet18'), ('epochs', 5)]\n"


def test_unknown_parameters_are_refused(tmp_path):
    """A misspelt one, one named like an import, one that looks private: all in one message."""
    with pytest.raises(papermill.PapermillExecutionError) as refused:
        execute(tmp_path, {"archh": "resnet50", "Path": "here", "_lr": 0.1, "epochs": 5})
    assert refused.value.ename == "ValueError"
    assert refused.value.evalue.split("\n") == [
        "unknown parameter 'Path', known are arch, epochs",
        "unknown parameter '_lr', known are arch, epochs",
        "unknown parameter 'archh' (did you mean 'arch'?)",
    ]


def test_unknown_parameter_is_refused_before_a_kernel_starts(place):
    source = write_notebook(place / "run.ipynb", AFTER, "print('went on')", before=BEFORE)
    done = run(check_command(), source, "-p", "epoch", "5")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "papermill: unknown parameter 'epoch' (did you mean 'epochs'?)\n"
    assert not (place / "runs").exists()


def test_a_notebook_of_ours_is_seen_at_work(place):
    """Its lines on standard output, and where its copy is; with -q nothing at all."""
    source = write_notebook(place / "run.ipynb", AFTER, "print('boils', epochs)", before=BEFORE)
    done = run(check_command(), source, "-p", "epochs", "5")
    assert done.returncode == 0, done.stderr
    [output] = executed(place)
    assert done.stdout == f"boils 5\nexecuted notebook:  {output}\n"
    assert done.stderr == f"papermill: no output path given, writing to {output}\n"
    quiet = run(check_command(), source, "named.ipynb", "-q")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert "boils 3" in Path("named.ipynb").read_text()


def test_what_a_kernel_logs_of_itself_is_not_shown(place):
    """As the interrupt that papermill sends it at its end, where it is still at work."""
    code = "get_ipython().kernel.log.error('KeyboardInterrupt caught in kernel.')"
    source = write_notebook(place / "run.ipynb", AFTER, code, before=BEFORE)
    done = run(check_command(), source, "named.ipynb")
    assert (done.returncode, done.stderr) == (0, "")


def test_papermills_own_switches_win(place):
    source = write_notebook(place / "run.ipynb", AFTER, "print('boils')", before=BEFORE)
    words = ["out.ipynb", "--progress-bar", "--log-level", "INFO", "--stdout-file", "said.txt"]
    done = run(check_command(), source, *words)
    assert done.returncode == 0, done.stderr
    assert "Executing:" in done.stderr and "Input Notebook:" in done.stderr
    assert Path("said.txt").read_text() == "boils\n"
    assert done.stdout == "executed notebook:  out.ipynb\n"


def test_errors_of_the_package_are_refusals():
    """All but the one that ends a training."""
    package = ROOT / "cyborg"
    code = [ast.parse(path.read_text(encoding="utf-8")) for path in package.rglob("*.py")]
    classes = [n.name for tree in code for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
    own = {name for name in classes if name.endswith("Error")} - {"DivergedError"}
    assert own == _REFUSALS - {"FileExistsError", "FileNotFoundError", "PermissionError"}


REFUSING = "class SettingsError(ValueError): pass\nraise SettingsError({!r})"


def test_a_refusal_of_the_kernel_is_one_line_and_leaves_nothing(place):
    code = REFUSING.format("alpha is 2; name=X or overwrite=True")
    source = write_notebook(place / "run.ipynb", AFTER, code, before=BEFORE)
    done = run(check_command(), source, "out.ipynb")
    assert done.returncode == 2
    assert done.stderr == "papermill: alpha is 2; -p name X or -p overwrite True\n"
    assert not Path("out.ipynb").exists()


def test_what_stops_a_run_that_was_under_way_keeps_its_notebook(place):
    code = "print('epoch   1 of 2: loss 0.1')\n" + REFUSING.format("no image any more")
    source = write_notebook(place / "run.ipynb", AFTER, code, before=BEFORE)
    done = run(check_command(), source, "out.ipynb")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "no image any more" in done.stderr
    assert "epoch   1 of 2" in Path("out.ipynb").read_text()


def test_open_notebook_can_be_run_again(tmp_path):
    """Cells in the order of someone at work: all, the check again, all again, then with a slip."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    later = "history = [1, 2]; n = 3"
    cells = [BEFORE, PARAMETERS, AFTER, later, "epochs = 7", AFTER + "; print(settings['epochs'])"]
    cells += [BEFORE, PARAMETERS, AFTER, later, BEFORE, PARAMETERS, "epoch = 7", AFTER]
    nodes = [nbformat.v4.new_code_cell(text) for text in cells]
    notebook = nbformat.v4.new_notebook(cells=nodes)
    with pytest.raises(CellExecutionError, match="unknown parameter 'epoch'"):
        NotebookClient(notebook, kernel_name="python3").execute()
    assert nodes[5].outputs[0].text == "7\n"
    assert [node.execution_count for node in nodes][-1] == len(cells)


PARAMETER_CELLS = [
    pytest.param(path, "".join(cell["source"]), id=path.stem)
    for path in sorted((ROOT / "nbs").glob("*.ipynb"))
    for cell in json.loads(path.read_text())["cells"]
    if "parameters" in cell["metadata"].get("tags", [])
]


@pytest.mark.parametrize(("path", "code"), PARAMETER_CELLS)
def test_help_page_is_complete(path, code):
    """papermill reads line by line and gives up on some; all must be there, typed and explained."""
    assigned = [line for line in ast.parse(code).body if isinstance(line, ast.AnnAssign)]
    names = [line.target.id for line in assigned]
    page = papermill.inspect_notebook(path)
    assert list(page) == names
    assert [name for name in names if page[name]["inferred_type_name"] == "None"] == []
    assert [name for name in names if not page[name]["help"]] == []


def parameters_of(path: Path, code: str, **given) -> dict:
    """What a notebook's first cell after its parameters makes of values put in between."""
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in cells]
    place = sources.index(code)
    assert "before = dict(globals())" in sources[:place]
    check = ast.parse(sources[place + 1]).body[0]
    assert ast.unparse(check).endswith("parameters_since(before, globals())")
    namespace = {"parameters_since": parameters_since, "In": ["", code]}
    exec("before = dict(globals())", namespace)
    exec(code, namespace)
    namespace.update(given)
    exec(ast.unparse(check), namespace)
    return namespace


@pytest.mark.parametrize(("path", "code"), PARAMETER_CELLS)
def test_every_notebook_checks_names_and_types(path, code):
    """Text for a truth value, as -r and `-p overwrite false` bring it, is never taken as true."""
    plain = parameters_of(path, code)
    assigned = {a.target.id: ast.unparse(a.annotation) for a in ast.parse(code).body}
    name = next(iter(assigned))
    with pytest.raises(ValueError, match=f"unknown parameter '{name}x' .did you mean '{name}'"):
        parameters_of(path, code, **{f"{name}x": plain[name]})
    texts = {"bool": "false", "int": "3", "float": "1e-1", "str": "007"}
    given = {name: texts[kind] for name, kind in assigned.items() if kind in texts}
    found = parameters_of(path, code, **given)
    values = {"bool": False, "int": 3, "float": 0.1, "str": "007"}
    assert {name: found[name] for name in given} == {n: values[assigned[n]] for n in given}
    for name, kind in assigned.items():
        with pytest.raises(ValueError, match=rf"^{name} is .*, expected"):
            parameters_of(path, code, **{name: 7 if kind == "str" else "no"})


def test_none_is_a_value_where_it_is_the_default():
    code = "alpha: float = None\nmomentum: float = 0.9"
    path = ROOT / "nbs" / "train.ipynb"
    train = next(param.values[1] for param in PARAMETER_CELLS if param.id == "train")
    assert parameters_of(path, train, alpha=None)["alpha"] is None
    namespace = {"__annotations__": {"alpha": float, "momentum": float}, "In": [code]}
    taken = parameters_since({}, namespace | {"alpha": "None", "momentum": 1})
    assert taken == {"alpha": None, "momentum": 1.0}
    with pytest.raises(ValueError, match="momentum is None .NoneType., expected a finite number"):
        parameters_since({}, namespace | {"alpha": 0.5, "momentum": None})


@pytest.mark.parametrize(
    ("given", "epochs"),
    [(("-p", "epochs", "5"), 5), (("-r", "epochs", "5"), 5), (("-y", "{epochs: 5}"), 5)],
)
def test_every_way_of_papermill_is_typed(tmp_path, given, epochs):
    """papermill's own command and ours write the same cell; what is text comes as it was typed."""
    source = write_notebook(tmp_path / "run.ipynb", AFTER)
    runs = {}
    for command in ([sys.executable, "-m", "papermill"], [sys.executable, str(check_command())]):
        out = tmp_path / f"{len(command)}.ipynb"
        done = subprocess.run(
            [*command, str(source), str(out), "--prepare-only", *given, "-p", "arch", "007"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        cells = nbformat.read(out, as_version=4).cells
        namespace = {"In": [cell.source for cell in cells]}
        for cell in cells:
            if set(cell.metadata.get("tags", [])) & {"parameters", "injected-parameters"}:
                exec(cell.source, namespace)
        runs[len(command)] = namespace
    assert parameters_since({}, runs[2]) == {"arch": "007", "epochs": epochs}
    with pytest.raises(
        ValueError, match=r"arch is 7 \(int\), expected text; -r in the place of -p"
    ):
        parameters_since({}, runs[3])
