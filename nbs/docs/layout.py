"""Where things lie: the repository, the pages, and links from one to the other."""

import os
import re
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
_ELSEWHERE = os.environ.get("CYBORG_PAGES")  # a folder for all that is made, as tests want it
MADE = Path(_ELSEWHERE or ROOT / "_proc")
STAGE = MADE / "docs"  # what mkdocs reads
SITE = MADE / "site" if _ELSEWHERE else ROOT / "_docs"
EXECUTED = MADE / "executed"  # copies and their stamps; data and runs that they show, too
# Files of the repository that are pages as they stand, and where.
AS_THEY_STAND = {
    "README.md": "index.md",
    "data/README.md": "guides/manifest.md",
    "CONTRIBUTING.md": "about/contributing.md",
    "CHANGELOG.md": "about/changes.md",
    "experiments/demo/README.md": "about/demo.md",
    "experiments/real_faces/README.md": "about/real_faces.md",
    "experiments/real_faces/PROTOCOL.md": "about/real_faces_protocol.md",
    "experiments/frozen_faces/README.md": "about/frozen_faces.md",
    "experiments/frozen_faces/PROTOCOL.md": "about/frozen_faces_protocol.md",
}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")


def page_of(path: PurePosixPath) -> str:
    "The page that shows a file of the repository; empty: none does."
    name = path.as_posix()
    if name in AS_THEY_STAND:
        return AS_THEY_STAND[name]
    if path.is_relative_to("nbs/docs/pages"):
        return path.relative_to("nbs/docs/pages").as_posix()
    if path.is_relative_to("nbs/images"):
        return path.relative_to("nbs").as_posix()
    if path.suffix == ".ipynb" and path.is_relative_to("nbs"):
        return notebook_page(path)
    return ""


def module_of(path: PurePosixPath) -> str:
    "The module a notebook exports: of nbs/lib/measure/00_corners.ipynb, measure.corners."
    wing = path.relative_to("nbs/lib").parent.parts
    return ".".join([*wing, path.stem.partition("_")[2]])


def notebook_page(path: PurePosixPath) -> str:
    "The page of a notebook: reference/cam.md of a module, notebooks/train.md of one to use."
    if path.is_relative_to("nbs/lib"):
        return f"reference/{module_of(path)}.md"
    return f"notebooks/{path.stem}.md"


def linked(
    text: str,  # Markdown
    name: str,  # of the file that it stands in, from the root of the repository
    page: str,  # that it becomes
) -> str:
    "Markdown whose links lead to the pages that show a file; where none does, words stay."
    base = PurePosixPath(name).parent

    def mend(match: re.Match) -> str:
        picture, words, target = match.groups()
        path, mark, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:") or not path:
            return match.group()
        there = PurePosixPath(os.path.normpath(base / path))
        shown = page_of(there)
        if not (ROOT / there).exists():
            raise FileNotFoundError(f"{name} links to {target}, which is not there")
        if shown:
            return f"{picture}[{words}]({os.path.relpath(shown, Path(page).parent)}{mark}{anchor})"
        return words if f"`{there.name}" in words else f"{words} (`{there}`)"

    return LINK.sub(mend, text)
