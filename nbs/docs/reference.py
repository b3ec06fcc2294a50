"""What the source says of a name: signature, parameters with shape and unit, who uses it."""

import ast
import html
import io
import tokenize
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cyborg.docstrings import arguments_of


class Parameter(NamedTuple):
    "A parameter, a field, or what is returned."

    name: str  # "returns" for what is returned
    kind: str  # its type as it is written; empty: none is
    default: str  # as it is written; empty: none
    meaning: str  # shape, range, unit: the comment on its line


class Name(NamedTuple):
    "A public function or class."

    name: str
    module: str  # "measure.corners"
    kind: str  # function or class
    signature: str  # without types, which stand in the table
    summary: str  # the first paragraph of its docstring
    parameters: list[Parameter]
    methods: list["Name"]
    words: frozenset[str]  # names that its source mentions


def comments(source: str) -> dict[int, str]:
    "The comment of each line."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}


def written(node: ast.AST | None) -> str:
    "An expression as text; empty for none."
    return ast.unparse(node) if node is not None else ""


def parameters_of(
    node: ast.FunctionDef | ast.AsyncFunctionDef,
    told: dict[int, str],  # of `comments`
) -> list[Parameter]:
    "Parameters of a function and what it returns, but not `self`."
    found = []
    for stars, one, default in arguments_of(node):
        line = max(one.end_lineno, default.end_lineno if default is not None else 0)
        meaning = "" if line == node.lineno else told.get(line, "")
        found.append(Parameter(stars + one.arg, written(one.annotation), written(default), meaning))
    if node.returns is not None and written(node.returns) != "None":
        meaning = told.get(node.returns.end_lineno, "")
        found.append(Parameter("returns", written(node.returns), "", meaning))
    return found


def fields_of(
    node: ast.ClassDef,
    told: dict[int, str],  # of `comments`
) -> list[Parameter]:
    "The annotated fields of a named tuple or data class."
    return [
        Parameter(
            one.target.id,
            written(one.annotation),
            written(one.value),
            told.get(one.end_lineno, ""),
        )
        for one in node.body
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
    ]


def signature(name: str, parameters: Iterable[Parameter]) -> str:
    "A call with names and defaults."
    parts = [
        f"{p.name}={p.default}" if p.default else p.name for p in parameters if p.name != "returns"
    ]
    line = f"{name}({', '.join(parts)})"
    return line if len(line) <= 88 else f"{name}(\n    " + ",\n    ".join(parts) + ",\n)"


def summary(node: ast.AST) -> str:
    "The first paragraph of a docstring."
    return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())


def name_of(
    node: ast.AST,  # a function or class
    module: str,  # "cam"
    told: dict[int, str],  # of `comments`
) -> Name:
    "What the source says of a function or class."
    words = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    words |= {one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)}
    words = frozenset(words - {node.name})
    if not isinstance(node, ast.ClassDef):
        found = parameters_of(node, told)
        call = signature(node.name, found)
        return Name(node.name, module, "function", call, summary(node), found, [], words)
    inside = [one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
    start = [one for one in inside if one.name == "__init__"]
    found = parameters_of(start[0], told) if start else fields_of(node, told)
    public = [one for one in inside if not one.name.startswith("_")]
    methods = [name_of(one, module, told) for one in public]
    call = signature(node.name, found)
    return Name(node.name, module, "class", call, summary(node), found, methods, words)


def names_in(
    source: str,  # of a module or of a cell
    module: str,  # "cam"
) -> list[Name]:
    "Functions and classes of a source, in its order."
    told = comments(source)
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return [name_of(one, module, told) for one in ast.parse(source).body if isinstance(one, kinds)]


def public_names(path: Path) -> list[str]:
    "`__all__` of an exported module."
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and written(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


def read_reference(package: Path) -> dict[str, Name]:
    "All public functions and classes of a package, by name; no name stands twice in this one."
    found = {}
    for path in sorted(package.rglob("*.py")):
        module = ".".join(path.relative_to(package).with_suffix("").parts)
        public = set(public_names(path))
        told = names_in(path.read_text(encoding="utf-8"), module) if public else []
        found |= {one.name: one for one in told if one.name in public}
    return found


def users(names: dict[str, Name]) -> dict[str, list[str]]:
    "Of each public name the public names whose source mentions it."
    found = {name: [] for name in names}
    for one in names.values():
        for word in sorted(one.words & names.keys()):
            found[word].append(one.name)
    return found


def code(text: str) -> str:
    "Text as HTML code."
    return f"<code>{html.escape(text)}</code>" if text else ""


def prose(text: str) -> str:
    "A comment as HTML: `words` between backticks are code."
    parts = text.split("`")
    return "".join(code(part) if i % 2 else html.escape(part) for i, part in enumerate(parts))


def table(parameters: Iterable[Parameter]) -> str:
    "Parameters as an HTML table; empty where there are none."
    rows = [
        f'<tr class="{"returns" if p.name == "returns" else ""}"><td>'
        + (f"<em>{p.name}</em>" if p.name == "returns" else code(p.name))
        + f"</td><td>{code(p.kind)}</td><td>{code(p.default)}</td><td>{prose(p.meaning)}</td></tr>"
        for p in parameters
    ]
    head = "<tr><th></th><th>Type</th><th>Default</th><th>Meaning, shape, unit</th></tr>"
    return (
        f'<table class="parameters"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'
        * bool(rows)
    )
