"""The pages that `make docs` builds: complete, linked, without a network, and true to the code."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from browser import BEYOND, chromium, needs_browser, open_page

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "nbs" / "docs"
sys.path.insert(0, str(DOCS))
pytest.importorskip("mkdocs", reason="needs the extra docs: pip install 'cyborg[docs]'")
pytest.importorskip("material", reason="needs the extra docs: pip install 'cyborg[docs]'")
WIDTHS = [390, 1000, 1400, 1920]


class Read(HTMLParser):
    "Links, anchors and what a page loads."

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.loaded, self.anchors = set(), set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        told = dict(attributes)
        self.anchors |= {told[key] for key in ("id", "name") if told.get(key)}
        if tag == "a" and told.get("href"):
            self.links.add(told["href"])
        self.loaded |= {told[k] for k in ("src", "data-source") if told.get(k)}
        if tag == "link" and told.get("href") and told.get("rel") != "canonical":
            self.loaded.add(told["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    "The pages, one notebook with figures executed, as make lays them out."
    folder = tmp_path_factory.mktemp("pages")
    command = [sys.executable, str(DOCS / "make.py"), "--only", "11_cam", "--jobs", "1"]
    done = subprocess.run(
        command,
        env=os.environ | {"CYBORG_PAGES": str(folder), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "WARNING" not in done.stdout
    return folder / "site"


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Read]:
    return {path: Read(path) for path in site.rglob("*.html")}


def faults(pages: dict[Path, Read]) -> list[str]:
    "Links to what is not there."
    found = []
    for path, page in pages.items():
        for link in page.links | page.loaded:
            target, _, anchor = link.partition("#")
            if "://" in link or link.startswith(("mailto:", "data:", "javascript:")):
                continue
            there = (path.parent / unquote(target)).resolve() if target else path
            there = there / "index.html" if there.is_dir() else there
            if not there.exists():
                found.append(f"{path.name}: {link}")
            elif anchor and there in pages and unquote(anchor) not in pages[there].anchors:
                found.append(f"{path.name}: {link} has no such anchor")
    return found


def test_no_link_leads_nowhere(pages):
    assert len(pages) > 100
    assert sum(len(page.links) for page in pages.values()) > 10_000
    written = {path: page for path, page in pages.items() if path.name != "404.html"}
    assert faults(written) == []


def test_a_dead_link_is_noticed(tmp_path):
    page = tmp_path / "a.html"
    page.write_text('<p id="x"><a href="#x">x</a><a href="#y">y</a><a href="b.html">b</a></p>')
    assert sorted(faults({page: Read(page)})) == [
        "a.html: #y has no such anchor",
        "a.html: b.html",
    ]


def test_a_page_that_links_to_nothing_stops_the_build():
    from layout import linked

    text = (
        "[a](first_run.md) ![b](../../../images/explore.jpg) [c](../../../lib/12_loss.ipynb#blend)"
    )
    name, page = "nbs/docs/pages/guides/x.md", "guides/x.md"
    assert linked(text, name, page) == (
        "[a](first_run.md) ![b](../images/explore.jpg) [c](../reference/loss.md#blend)"
    )
    with pytest.raises(FileNotFoundError, match=r"x.md links to gone.md, which is not there"):
        linked("[a](gone.md)", name, page)


def test_nothing_is_fetched(site, pages):
    outside = {one for page in pages.values() for one in page.loaded if "://" in one}
    assert outside == set()
    for path in [*site.rglob("assets/*.css"), *site.rglob("stylesheets/*.css")]:
        assert not re.findall(r"url\(['\"]?https?:", path.read_text(encoding="utf-8")), path


def test_every_public_name_has_a_place_with_its_parameters(pages, site):
    from reference import read_reference

    names = read_reference(ROOT / "cyborg")
    for name, told in names.items():
        assert name in pages[site / "reference" / f"{told.module}.html"].anchors, name
    text = (site / "reference" / "loss.html").read_text(encoding="utf-8")
    assert "(B, C)" in text and 'class="parameters"' in text


def test_reference_of_a_source():
    from reference import names_in, table

    source = """
def one(
    map: np.ndarray,  # (h, w) in [0, 1]
    *,
    sigma: float = 5.0,  # blur, `pixels`
    **more,
) -> np.ndarray | None:  # (h, w)
    "A map & its blur."
    return two(map)


class Two(NamedTuple):
    "Two fields."

    a: int  # how many
    b: str = ""  # a name
"""
    one, two = names_in(source, "room")
    assert one.signature == "one(map, sigma=5.0, **more)"
    assert [tuple(p) for p in one.parameters] == [
        ("map", "np.ndarray", "", "(h, w) in [0, 1]"),
        ("sigma", "float", "5.0", "blur, `pixels`"),
        ("**more", "", "", ""),
        ("returns", "np.ndarray | None", "", "(h, w)"),
    ]
    assert "two" in one.words and one.summary == "A map & its blur."
    assert [p.meaning for p in two.parameters] == ["how many", "a name"]
    assert "blur, <code>pixels</code>" in table(one.parameters)


def test_what_a_cell_shows_names_no_folder_and_no_bar(tmp_path):
    import converted
    from layout import EXECUTED, ROOT

    line = {"output_type": "stream", "name": "stdout", "text": f"kept in {EXECUTED}/runs/a\n"}
    more = {"output_type": "stream", "name": "stderr", "text": [f"of {ROOT}/data\n"]}
    shown = {"text/plain": f"'{ROOT}/nbs'"}
    value = {"output_type": "execute_result", "data": shown, "metadata": {}, "execution_count": 1}
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}
    bar = {"output_type": "display_data", "data": widget | {"text/plain": "steps: 50%|##  | 1/2"}}
    panel = {"output_type": "display_data", "data": widget | {"text/plain": "VBox(children=())"}}
    cell = {"cell_type": "code", "source": "go()", "metadata": {}}
    cell["outputs"] = [line, more, value, more, bar, panel]
    text = converted.Page(converted.Site(tmp_path, {}, {}), ROOT / "nbs/study.ipynb").code(cell)
    blocks = re.findall(r"output \}\n(.*?)\n```", text, re.DOTALL)
    assert blocks == ["kept in runs/a\nof data", "'nbs'", "of data"]
    assert text.count("Controls and a picture") == 1


def test_a_copy_is_made_anew_only_where_its_source_changed(tmp_path, monkeypatch):
    import executed

    house, package = tmp_path / "nbs" / "lib", tmp_path / "cyborg"
    for folder in (house, package):
        folder.mkdir(parents=True)
    (package / "b.py").write_text("x = 1\n")
    (package / "a.py").write_text("from .b import x\n")
    (package / "c.py").write_text("y = 1\n")
    path = house / "00_a.ipynb"
    cell = {"cell_type": "code", "source": ["from cyborg.a import x"]}
    path.write_text(f'{{"cells": [{str(cell).replace(chr(39), chr(34))}]}}')
    monkeypatch.setattr(executed, "ROOT", tmp_path)
    before = executed.stamp(path)
    (package / "c.py").write_text("y = 2\n")  # nobody imports it
    assert executed.stamp(path) == before
    (package / "b.py").write_text("x = 2\n")  # imported by what is imported
    assert executed.stamp(path) != before


# What is typed on a page.

SHELL = re.compile(r"```sh\n(.*?)```", re.DOTALL)
TYPED = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data" / "README.md"]
TYPED += sorted((DOCS / "pages").rglob("*.md"))


def lines_typed() -> list[tuple[str, str]]:
    found = []
    for path in TYPED:
        for block in SHELL.findall(path.read_text(encoding="utf-8")):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(path.name, line.split("  #")[0].strip()) for line in lines]
    return [(name, line) for name, line in found if line and not line.startswith("#")]


def parameters(notebook: Path) -> set[str]:
    import nbformat

    cells = nbformat.read(notebook, 4).cells
    [cell] = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    return set(re.findall(r"^(\w+):", cell.source, re.MULTILINE))


def test_what_a_page_types_is_there():
    from configparser import ConfigParser

    parser = ConfigParser(delimiters=["="], interpolation=None)
    parser.read(ROOT / "settings.ini")
    commands = set(re.findall(r"([\w-]+)=", parser["DEFAULT"]["console_scripts"]))
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    typed = lines_typed()
    assert len(typed) > 30
    for page, line in typed:
        words = line.split()
        if words[0] == "make":
            assert words[1] in targets, (page, line)
        elif words[0] == "papermill":
            for notebook in [word for word in words if word.startswith("nbs/")]:
                given = set(re.findall(r" -p (\w+)", line))
                assert given <= parameters(ROOT / notebook), (page, line)
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file(), (page, line)
        elif words[0].startswith("cyborg"):
            assert words[0] in commands, (page, line)
        for name in re.findall(r"nbs/studies/\w+\.yaml", line):
            assert (ROOT / name).is_file(), (page, line)


def test_scripts_named_in_prose_are_there():
    for path in TYPED:
        for name in re.findall(r"`python ([\w/]+\.py)", path.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), (path.name, name)


def test_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.encode()) < 6_000
    assert len(re.findall(r"^\d\. \[", text, re.MULTILINE)) == 5


def test_workflow_publishes_what_make_docs_builds():
    told = yaml.safe_load((ROOT / ".github" / "workflows" / "pages.yml").read_text())
    steps = told["jobs"]["build"]["steps"]
    assert {"run": "make docs"} in steps
    assert steps[-1]["with"] == {"path": "_docs"}


# In a browser, from the disk.


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    with chromium() as found:
        yield found


@needs_browser
@pytest.mark.parametrize("width", WIDTHS)
def test_every_kind_of_page_fits(browser, site, width):
    page, errors = open_page(browser)
    asked = []
    page.on("request", lambda one: asked.append(one.url) if one.url.startswith("http") else None)
    page.set_viewport_size({"width": width, "height": 900})
    kinds = ["index", "guides/own_images", "notebooks/train", "about/licences"]
    for name in [*kinds, "reference/index", "reference/names", "reference/loss"]:
        page.goto((site / f"{name}.html").as_uri())
        assert page.evaluate(BEYOND, "html") == [], name
    page.goto((site / "reference" / "cam.html").as_uri())
    assert page.locator("div.figure").count()
    for figure in page.locator("div.figure").all():
        figure.scroll_into_view_if_needed()
        figure.locator(".js-plotly-plot").first.wait_for(timeout=60_000)
    assert page.evaluate(BEYOND, "html") == []
    assert errors == [] and asked == []
    page.close()


@needs_browser
def test_search_finds_without_a_server(browser, site):
    page, errors = open_page(browser)
    page.goto((site / "index.html").as_uri())
    page.click(".md-search__input")
    page.keyboard.type("sample_grid", delay=20)
    page.wait_for_selector(".md-search-result__item", timeout=30_000)
    assert "overlays" in page.inner_text(".md-search-result__list")
    assert errors == []
    page.close()
