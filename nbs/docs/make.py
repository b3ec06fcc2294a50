"""Lay out the pages in _proc/docs and build _docs with mkdocs; no network is needed.

A page is one of three things: Markdown of nbs/docs/pages, a file of the repository that is a page
as it stands (`AS_THEY_STAND`), or a notebook with its outputs, executed once (executed.py) and
written as Markdown (converted.py). Of a notebook that exports a module, what is exported is shown
as a reference: signature, parameters with shape and unit, who uses it (reference.py).

    python nbs/docs/make.py                  what `make docs` does
    python nbs/docs/make.py --unexecuted     no notebook is run: code and prose alone, in seconds
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from layout import AS_THEY_STAND, ROOT, STAGE, linked
from licences import licences_table

HERE = Path(__file__).parent


def stage_files() -> None:
    "Pages, pictures and files that are pages as they stand."
    shutil.rmtree(STAGE, ignore_errors=True)
    shutil.copytree(HERE / "pages", STAGE)
    shutil.copytree(ROOT / "nbs" / "images", STAGE / "images")
    for name, page in AS_THEY_STAND.items():
        target = STAGE / page
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(linked((ROOT / name).read_text(encoding="utf-8"), name, page))
    licences = STAGE / "about" / "licences.md"
    licences.write_text(licences.read_text().replace("PACKAGES", licences_table()))


def write_config(sections: list[dict]) -> Path:
    "mkdocs.yml with the pages that were made, after the guides."
    text = (HERE / "mkdocs.yml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    config["docs_dir"], config["site_dir"] = str(STAGE), str(ROOT / "_docs")
    config["nav"][2:2] = sections
    path = STAGE.parent / "mkdocs.yml"
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
    parser.parse_args()
    stage_files()
    config = write_config([])
    return mkdocs("build", "--config-file", str(config))


if __name__ == "__main__":
    sys.exit(main())
