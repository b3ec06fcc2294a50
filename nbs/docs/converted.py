"""A notebook with its outputs as a page of Markdown, its figures as files beside it."""

import ast
import base64
import html
import io
import json
import os
import re
from pathlib import Path, PurePosixPath

import nbformat
from latex2mathml.converter import convert
from layout import EXECUTED, ROOT, linked, module_of, notebook_page
from PIL import Image
from reference import Name, fields_of, names_in, public_names, table, written
from reference import comments as comments_of

LARGE = 300_000  # bytes of a picture that is shown as it is
INLINE = re.compile(r"(?<![\[`\w])`([A-Za-z_]\w*)`(?![`\]])")
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
FORMULA = re.compile(r"(\$\$?)(?!\s)([^$\n]+?)(?<!\s)\1(?!\d)")
BAR = re.compile(r"\d+%\|.*\| \d+/\d+")  # of progress
FOLDED = re.compile(r"<style.*?</style>", re.DOTALL)


class Site:
    "What pages share: the public names, who uses them, and the folder that mkdocs reads."

    def __init__(
        self,
        folder: Path,
        names: dict[str, Name],  # of `read_reference`
        users: dict[str, list[str]],
    ):
        self.folder, self.names, self.users = folder, names, users

    def link(self, name: str, page: str) -> str:
        "A public name as a link to its place."
        told = self.names[name]
        there = os.path.relpath(f"reference/{told.module}.md", Path(page).parent)
        return f"[`{name}`]({there}#{name})"

    def with_links(self, text: str, page: str) -> str:
        "Markdown in which public names between backticks are links, but for headings and code."

        def one(match: re.Match) -> str:
            return self.link(match[1], page) if match[1] in self.names else match.group()

        lines, fenced = [], False
        for line in text.split("\n"):
            fenced ^= line.lstrip().startswith("```")
            lines.append(line if fenced or line.startswith("#") else INLINE.sub(one, line))
        return "\n".join(lines)


def smaller(content: bytes) -> bytes:
    "A picture as JPEG, at most 1600 pixels wide."
    picture, stream = Image.open(io.BytesIO(content)).convert("RGB"), io.BytesIO()
    picture.thumbnail((1600, 1600))
    picture.save(stream, "JPEG", quality=88, subsampling=0)
    return stream.getvalue()


def with_formulas(text: str) -> str:
    "Markdown whose formulas are MathML, which browsers draw themselves; code stays as it is."
    fenced, lines = False, []
    for line in text.split("\n"):
        fenced ^= line.lstrip().startswith("```")
        parts = line.split("`")  # every other one is code
        if not fenced and "$" in line:
            parts[::2] = [FORMULA.sub(formula, part) for part in parts[::2]]
        lines.append("`".join(parts))
    return "\n".join(lines)


def formula(match: re.Match) -> str:
    "LaTeX as MathML."
    kind = "block" if match[1] == "$$" else "inline"
    return convert(match[2], display=kind).replace("*", "&#x2217;").replace("_", "&#95;")


def directives(source: str) -> dict[str, str]:
    "The `#|` lines at the head of a cell."
    found = {}
    for line in source.splitlines():
        if not line.startswith("#|"):
            break
        word, _, rest = line[2:].strip().partition(" ")
        found[word.rstrip(":")] = rest
    return found


def without_directives(source: str) -> str:
    "A cell as it is read."
    lines = source.splitlines()
    while lines and lines[0].startswith("#|"):
        lines.pop(0)
    return "\n".join(lines).strip("\n")


def opening_of(
    source: str,  # of the first cell of a notebook
) -> tuple[str, str, str]:  # title, subtitle (may be empty), and what follows
    "What a notebook begins with."
    title, _, rest = source.strip().partition("\n")
    first, _, body = rest.strip().partition("\n")
    if not first.startswith("> "):
        return title.removeprefix("# "), "", rest.strip()
    return title.removeprefix("# "), first.removeprefix("> "), body.strip()


def without_places(text: str) -> str:
    "What was shown, without the folders of the machine that made these pages."
    for folder in (EXECUTED, ROOT):
        text = text.replace(f"{folder.as_posix()}/", "")
    return text


def joined(outputs: list[dict]) -> list[dict]:
    "Outputs of a cell; what was printed one after the other is one output."
    found: list[dict] = []
    for told in outputs:
        if found and told["output_type"] == found[-1]["output_type"] == "stream":
            found[-1] = found[-1] | {"text": found[-1]["text"] + "".join(told["text"])}
        else:
            found.append(told | ({"text": "".join(told["text"])} if "text" in told else {}))
    return found


def imports_only(source: str) -> bool:
    "Whether a cell does nothing but import."
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a magic of IPython
        return False
    return all(isinstance(node, ast.Import | ast.ImportFrom) for node in body)


def fence(source: str, kind: str = "python") -> str:
    "A block of code, or of what was printed."
    ticks = "```" if "```" not in source else "`````"
    return f"{ticks}{kind}\n{source}\n{ticks}"


def indented(text: str) -> str:
    "Markdown inside a fold."
    return "\n".join(f"    {line}" if line else "" for line in text.split("\n"))


def fold(title: str, text: str) -> str:
    "Text that is shown on a click."
    return f'??? quote "{title}"\n\n{indented(text)}'


class Page:
    "One notebook on its way to Markdown."

    def __init__(
        self,
        site: Site,
        path: Path,  # of the source
    ):
        self.site, self.path = site, PurePosixPath(path.relative_to(ROOT).as_posix())
        self.name = notebook_page(self.path)
        self.module = module_of(self.path) if self.path.is_relative_to("nbs/lib") else ""
        self.public = set()
        if self.module:
            exported = ROOT / "cyborg" / f"{self.module.replace('.', '/')}.py"
            self.public = set(public_names(exported))
        self.count = 0

    def beside(self, suffix: str) -> tuple[Path, str]:
        "A new file for an output, and how the page names it."
        self.count += 1
        name = f"figures/{Path(self.name).stem}-{self.count}{suffix}"
        path = self.site.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path, os.path.relpath(name, Path(self.name).parent)

    def figure(self, told: dict) -> str:
        "A plotly figure: its data in a file that the page asks for when it comes into view."
        path, source = self.beside(".js")
        text = json.dumps(told, separators=(",", ":")).replace("</", "<\\/")
        path.write_text(f"figures.add({json.dumps(path.stem)},{text})", encoding="utf-8")
        height = told.get("layout", {}).get("height") or 450
        place = f'id="{path.stem}" data-source="{source}" style="height:{height}px"'
        return f'<div class="figure" {place}></div>'

    def output(self, told: dict) -> str:
        "One output as Markdown or HTML; empty where there is nothing to see."
        if told["output_type"] == "stream":
            text = without_places(ANSI.sub("", told["text"])).rstrip()
            return fence(text, "{ .text .output }") if text.strip() else ""
        if told["output_type"] == "error":
            return fence(f"{told['ename']}: {told['evalue']}", "{ .text .output }")
        data = told["data"]
        if "application/vnd.plotly.v1+json" in data:
            return self.figure(data["application/vnd.plotly.v1+json"])
        if "application/vnd.jupyter.widget-view+json" in data:
            if BAR.search("".join(data.get("text/plain", ""))):
                return ""
            return '<p class="widget">Controls and a picture, which live in JupyterLab.</p>'
        for kind, suffix in (("image/png", ".png"), ("image/jpeg", ".jpg")):
            if kind in data:
                content = base64.b64decode("".join(data[kind]))
                if len(content) > LARGE:
                    content, suffix = smaller(content), ".jpg"
                path, source = self.beside(suffix)
                path.write_bytes(content)
                return f'<img class="output" alt="what the cell shows" src="{source}">'
        for kind in ("image/svg+xml", "text/html"):
            if kind in data:
                text = without_places(FOLDED.sub("", "".join(data[kind])))
                text = "\n".join(line for line in text.splitlines() if line.strip())
                return f'<div class="output">\n{text}\n</div>'
        if "text/markdown" in data:
            return "".join(data["text/markdown"])
        text = without_places("".join(data.get("text/plain", "")))
        return fence(text, "{ .text .output }") if text else ""

    def entry(self, told: Name, level: int = 3, owner: str = "") -> str:
        "A public function or class: heading, call, summary, parameters, who uses it."
        full = f"{owner}.{told.name}" if owner else told.name
        parts = [f"{'#' * level} `{full}` {{ #{full} .name }}"]
        kind = "class " if told.kind == "class" else ""
        parts.append(fence(kind + told.signature.replace(told.name, full, 1)))
        parts.append(self.site.with_links(told.summary, self.name))
        parts.append(table(told.parameters))
        if not owner:
            uses = sorted(told.words & self.site.names.keys() - {told.name})
            for title, names in (("Uses", uses), ("Used by", self.site.users[told.name])):
                if names:
                    links = ", ".join(self.site.link(name, self.name) for name in names[:12])
                    parts.append(f"*{title}* {links}" + (", …" if len(names) > 12 else ""))
        parts += [self.entry(one, level + 1, full) for one in told.methods]
        return "\n\n".join(part for part in parts if part)

    def exported(self, source: str) -> str:
        "An exported cell: entries of its public functions and classes, its source folded."
        tree = ast.parse(source)
        if imports_only(source):
            return ""
        told = [one for one in names_in(source, self.module) if one.name in self.public]
        parts = [self.entry(self.site.names.get(one.name, one)) for one in told]
        assigned = (n for n in tree.body if isinstance(n, ast.Assign | ast.AnnAssign))
        targets = (t for n in assigned for t in getattr(n, "targets", [getattr(n, "target", None)]))
        constants = [written(t) for t in targets if written(t) in self.public]
        parts += [f"### `{name}` {{ #{name} .name }}" for name in constants]
        if constants and not told:
            return "\n\n".join([*parts, fence(source)])
        inside = ", ".join(getattr(node, "name", "") for node in tree.body if hasattr(node, "name"))
        title = "Source" if told else f"Inside the module: {inside}" if inside else "Inside it"
        return "\n\n".join([*parts, fold(title, fence(source))])

    def parameters(self, source: str) -> str:
        "The parameter cell of a notebook to use, as a table."
        node = ast.ClassDef("x", [], [], ast.parse(source).body, [])
        return table(fields_of(node, comments_of(source)))

    def code(self, cell: dict) -> str:
        "A code cell and what it showed."
        told, source = directives(cell["source"]), without_directives(cell["source"])
        if told.keys() & {"hide", "default_exp"} or "nbdev_export" in source or not source:
            return ""
        if "parameters" in cell["metadata"].get("tags", []):
            return self.parameters(source)
        if "injected-parameters" in cell["metadata"].get("tags", []):
            given = without_places(source.removeprefix("# Parameters\n"))
            return "These pages were made with:\n\n" + fence(given)
        if source == "before = dict(globals())":
            return ""
        if not self.module and imports_only(source):
            return fold("Imports", fence(source))
        head = self.exported(source) if told.keys() & {"export", "exporti"} else fence(source)
        outputs = (self.output(one) for one in joined(cell.get("outputs", [])))
        return "\n\n".join([part for part in (head, *outputs) if part])

    def contents(self) -> str:
        "The public functions and classes of the module, a line each."
        names = [one for one in self.site.names.values() if one.module == self.module]
        if not names:
            return ""
        rows = [f"| [`{one.name}`](#{one.name}) | {one.summary} |" for one in names]
        return "\n".join(["| name | what it is |", "|---|---|", *rows])

    def prose(self, text: str) -> str:
        "A cell of Markdown, with links to pages and names."
        text = with_formulas(linked(text, str(self.path), self.name))
        return self.site.with_links(text, self.name)

    def opening(self, source: str) -> str:
        "The first cell: title and subtitle, and of a module what it holds."
        title, subtitle, body = opening_of(source)
        body = self.prose(body)
        lead = f'<p class="subtitle">{html.escape(subtitle)}</p>' if subtitle else ""
        where = f"`cyborg.{self.module}`, written in `{self.path}`" if self.module else ""
        title = f"# {title if self.module else self.path.name}"
        return "\n\n".join(part for part in (title, lead, where, body, self.contents()) if part)

    def markdown(self, notebook: dict) -> str:
        "The whole page."
        parts = [self.opening(notebook["cells"][0]["source"])]
        for cell in notebook["cells"][1:]:
            if cell["cell_type"] == "code":
                parts.append(self.code(cell))
            else:
                parts.append(self.prose(cell["source"]))
        return "\n\n".join(part for part in parts if part) + "\n"


def write_page(
    site: Site,
    path: Path,  # of the notebook's source
    copy: Path,  # executed, or the source itself
) -> None:
    "Write the page of a notebook into the folder that mkdocs reads."
    page = Page(site, path)
    target = site.folder / page.name
    target.parent.mkdir(parents=True, exist_ok=True)
    notebook = nbformat.read(copy, 4)
    target.write_text(page.markdown(notebook), encoding="utf-8")
