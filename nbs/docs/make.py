"""Lay out the pages in _proc/docs and build _docs with mkdocs; no network is needed.

A page is one of three things: Markdown of nbs/docs/pages, a file of the repository that is a page
as it stands (`AS_THEY_STAND`), or a notebook with its outputs, executed once (executed.py) and
written as Markdown (converted.py). Of a notebook that exports a module, what is exported is shown
as a reference: signature, parameters with shape and unit, who uses it (reference.py).

    python nbs/docs/make.py                  what `make docs` does
    python nbs/docs/make.py --unexecuted     no notebook is run: code and prose alone, in seconds
    python nbs/docs/make.py --only 12_loss   that notebook is run, the others are not
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

import nbformat
import yaml
from converted import Site, opening_of, write_page
from executed import execute_all
from layout import AS_THEY_STAND, MADE, ROOT, SITE, STAGE, linked, notebook_page
from licences import licences_table
from plotly.offline import get_plotlyjs
from reference import read_reference, users

HERE = Path(__file__).parent


def fill(
    page: str,
    word: str,  # that begins the comment which stands for it
    text: str,
) -> None:
    "Put text into a page, where a comment stands for it."
    path = STAGE / page
    before, found, after = path.read_text(encoding="utf-8").partition(f"<!-- {word}")
    if not found:
        raise ValueError(f"{page} has no {word}")
    path.write_text(before + text + after.partition("-->")[2], encoding="utf-8")


def stage_files() -> None:
    "Pages, pictures and files that are pages as they stand."
    shutil.rmtree(STAGE, ignore_errors=True)
    shutil.copytree(HERE / "pages", STAGE)
    for path in STAGE.rglob("*.md"):
        page = path.relative_to(STAGE).as_posix()
        text = path.read_text(encoding="utf-8")
        path.write_text(linked(text, f"nbs/docs/pages/{page}", page), encoding="utf-8")
    shutil.copytree(ROOT / "nbs" / "images", STAGE / "images")
    for name, page in AS_THEY_STAND.items():
        target = STAGE / page
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(linked((ROOT / name).read_text(encoding="utf-8"), name, page))
    fill("about/licences.md", "packages", licences_table())
    draws = (ROOT / "cyborg" / "static" / "figure.js").read_text(encoding="utf-8")
    draws = draws[: draws.index("// As a widget")].replace("export function", "function")
    opening = "const load_plotly = () => window.Plotly;"
    host = f"const hostOfFigures = () => {{ {opening}\n{draws}\nreturn {{ hosted }}; }};\n"
    script = STAGE / "assets" / "figures.js"
    script.write_text(host + script.read_text(encoding="utf-8"), encoding="utf-8")
    (STAGE / "assets" / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")


def title_of(path: Path) -> tuple[str, str]:
    "Title and subtitle of a notebook."
    title, subtitle, _ = opening_of(nbformat.read(path, 4).cells[0].source)
    return title, subtitle


def listed(paths: list[Path], page: str) -> str:
    "Notebooks as a table of links, with their subtitles."
    rows = ["| name | what it is about |", "|---|---|"]
    for path in paths:
        there = notebook_page(PurePosixPath(path.relative_to(ROOT).as_posix()))
        name = Path(there).stem
        rows.append(
            f"| [`{name}`]({os.path.relpath(there, Path(page).parent)}) | {title_of(path)[1]} |"
        )
    return "\n".join(rows)


def notebooks_section() -> dict:
    "Pages of the notebooks to use, and the one that lists them."
    order = ["train", "study", "report", "workbench", "explore_maps", "explore_runs", "prepare"]
    order += ["annotate", "human_study", "autoencoder"]
    paths = sorted(
        (ROOT / "nbs").glob("*.ipynb"),
        key=lambda path: (order.index(path.stem) if path.stem in order else 99, path.stem),
    )
    page = "notebooks/index.md"
    fill(page, "listed", listed(paths, page))
    return {"Notebooks": [page, *({path.stem: f"notebooks/{path.stem}.md"} for path in paths)]}


def all_names(site: Site) -> str:
    "Every public function and class by name."
    page = "reference/names.md"
    rows = ["# All names", "", "| name | module | what it is |", "|---|---|---|"]
    for name, told in sorted(site.names.items(), key=lambda pair: pair[0].lower()):
        rows.append(f"| {site.link(name, page)} | `{told.module}` | {told.summary} |")
    return "\n".join(rows) + "\n"


def reference_section(site: Site) -> dict:
    "Pages of the modules by wing, and those that list them."
    library, page = ROOT / "nbs" / "lib", "reference/index.md"
    wings = {"": sorted(library.glob("*.ipynb"))}
    wings |= {w.name: sorted(w.glob("*.ipynb")) for w in sorted(library.iterdir()) if w.is_dir()}
    text, nav = "", [page, {"All names": "reference/names.md"}]
    for wing, paths in wings.items():
        title = f"cyborg.{wing}" if wing else "cyborg"
        text += f"## {title}\n\n{listed(paths, page)}\n\n"
        pages = [notebook_page(PurePosixPath(p.relative_to(ROOT).as_posix())) for p in paths]
        nav.append({title: [{Path(p).stem.rpartition(".")[2]: p} for p in pages]})
    fill(page, "listed", text)
    (STAGE / "reference" / "names.md").write_text(all_names(site))
    return {"Reference": nav}


def write_config(sections: list[dict]) -> Path:
    "mkdocs.yml with the pages that were made, after the guides."
    text = (HERE / "mkdocs.yml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    config["docs_dir"], config["site_dir"] = str(STAGE), str(SITE)
    config["nav"][2:2] = sections
    path = MADE / "mkdocs.yml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def mkdocs(*arguments: str) -> int:
    "Run mkdocs and print what it warns of, which ends it: it is strict."
    command = [sys.executable, "-m", "mkdocs", *arguments]
    done = subprocess.run(
        command,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    told = [line for line in done.stdout.splitlines() if not line.startswith("INFO")]
    print(*told, sep="\n", end="\n" if told else "")
    return done.returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="notebooks at a time")
    parser.add_argument("--unexecuted", action="store_true", help="run no notebook")
    parser.add_argument("--only", nargs="*", default=[], help="run these library notebooks alone")
    given = parser.parse_args()
    stage_files()
    copies = {path: path for path in (ROOT / "nbs").rglob("*.ipynb")}
    if not given.unexecuted:
        done = list(execute_all(given.jobs, given.only))
        failed = [one for one in done if one.error]
        for one in failed:
            print(f"{one.path.relative_to(ROOT)}: {one.error}", file=sys.stderr)
        if failed:
            return 1
        copies |= {one.path: one.copy for one in done}
    names = read_reference(ROOT / "cyborg")
    site = Site(STAGE, names, users(names))
    for path, copy in sorted(copies.items()):
        write_page(site, path, copy)
    config = write_config([notebooks_section(), reference_section(site)])
    return mkdocs("build", "--config-file", str(config))


if __name__ == "__main__":
    sys.exit(main())
