"""Which planted bugs do the tests see? `python benchmarks/mutants.py --module training --n 12`

For each bug the module is changed in a copy of the tree, its tests are run, and the bug is a
survivor when they pass. Bugs with a name stand in `NAMED`; the others are drawn from the module's
syntax tree: an operator, a comparison, a number, a truth value or an argument is changed. Results
are kept in a file, so that starting again goes on with what is left; a seed always draws the same
bugs.
"""
# ruff: noqa: E501  a bug is easier to compare with its line in one line

import argparse
import ast
import copy
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = {  # module -> test files beside test_<module>.py
    "training": ["guidance", "released"],
    "loss": ["guidance"],
    "cam": ["guidance"],
    "data": [],
    "evaluation": [],
    "statistics": [],
    "study": [],
    "manifest": [],
    "saliency": [],
    "annotation": [],
    "crop": [],
    "guidance": [],
    "released": [],
}
# module -> name -> (text, text in its place); the text stands once in the module
NAMED = {
    "training": {
        "momentum 0": ("momentum=config.momentum", "momentum=0.0"),
        "weight decay 0": ('"weight_decay": config.weight_decay}', '"weight_decay": 0.0}'),
        "validation mirrored": (
            'flip=config.flip if split == "train" else 0.0',
            "flip=config.flip",
        ),
        "last weights saved as best": (
            "if best_epoch(state.history, config.ties) == state.epoch - 1:",
            "if True:",
        ),
        "epoch means by batch": (
            "row = [parts.total * n, parts.classification * n, parts.saliency * n]",
            "n = n * 0 + 1\n        row = [parts.total * n, parts.classification * n, parts.saliency * n]",
        ),
        "seed of initial weights ignored": (
            "first = (config.arch, n_classes, config.size, weights, config.seed)",
            "first = (config.arch, n_classes, config.size, weights, 0)",
        ),
        "seed of control maps ignored": (
            "control_maps(dataset.human, config.maps, dataset.manifest.labels, config.seed)",
            "control_maps(dataset.human, config.maps, dataset.manifest.labels, 0)",
        ),
        "detach_weight ignored": (
            "weight = network.head_weight.detach() if config.detach_weight else network.head_weight",
            "weight = network.head_weight",
        ),
        "optimiser not resumed": (
            '    state.optimizer.load_state_dict(content["optimizer"])\n',
            "",
        ),
        "processes weighted alike": (
            "part = n * accelerator.num_processes / len(whole.label)",
            "part = 1.0",
        ),
        "batch norm of each process": (
            "if accelerator.num_processes > 1 else nullcontext()",
            "if False else nullcontext()",
        ),
        "dynamic alpha of each process": ("if accelerator.num_processes == 1 or", "if True or"),
        "schedule never steps": ("            self.scheduler.step()\n", "            pass\n"),
        "ties ignored": ('if ties == "first":', "if False:"),
        "no second derivative": (
            "differentiable_twice() if by_image else nullcontext(),\n            ):",
            "nullcontext(),\n            ):",
        ),
    },
    "loss": {
        "0 times NaN": ("if isinstance(alpha, float | int) and alpha == 1:", "if False:"),
        "dynamic alpha with gradient": (
            "ce, s = classification.detach(), saliency.detach()",
            "ce, s = classification, saliency",
        ),
    },
    "released": {
        "true class for the predicted": (
            "maps = class_map(output, weight)\n",
            'maps = class_map(output, weight, "true", labels)\n',
        ),
        "0 times NaN": ("elif alpha == 1:", "elif False:"),
        "score of the first logit": (
            "return logits[:, 1].sigmoid()",
            "return logits[:, 0].sigmoid()",
        ),
        "score by softmax": ("return logits[:, 1].sigmoid()", "return logits.softmax(1)[:, 1]"),
        "hook after ReLU": (
            "last.register_forward_hook(lambda *given: seen.append(given[-1]))",
            "last.register_forward_hook(lambda *given: seen.append(given[-1].relu()))",
        ),
    },
    "statistics": {
        "widen without sqrt(R/(R-1))": (
            "np.sqrt(runs / (runs - 1)) * t.isf",
            "1.0 * t.isf",
        ),
    },
    "study": {
        "seeds not handed on": ('"arch": network, "seed": seed}', '"arch": network, "seed": 0}'),
        "another baseline": (
            'return "classical" if "classical" in study.scenarios',
            'return "cyborg" if "cyborg" in study.scenarios',
        ),
        "data of a scenario ignored": (
            "source = _stand_ins(given, study).get(data, data)\n        decided",
            "source = data\n        decided",
        ),
        "sd of a population": ("values.std():.3f", "values.std(ddof=0):.3f"),
    },
}
COMPARED = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq}
COMPARED |= {ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot}
COMPARED |= {ast.IsNot: ast.Is}
COMPUTED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
COMPUTED |= {ast.FloorDiv: ast.Div, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}


def places(tree: ast.Module) -> list[ast.AST]:
    "Nodes that can be changed, inside functions and not in texts, annotations or defaults."
    found = []
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for statement in function.body:
                raised = [n for n in ast.walk(statement) if isinstance(n, ast.Raise)]
                words = {id(n) for error in raised for n in ast.walk(error)}
                found += [n for n in ast.walk(statement) if id(n) not in words and changes(n)]
    return list({id(node): node for node in found}.values())


def changes(node: ast.AST) -> list:
    "What a node could become."
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARED:
        return [lambda n: setattr(n, "ops", [COMPARED[type(n.ops[0])](), *n.ops[1:]])]
    if isinstance(node, ast.BinOp) and type(node.op) in COMPUTED:
        return [lambda n: setattr(n, "op", COMPUTED[type(n.op)]())]
    if isinstance(node, ast.BoolOp):
        other = ast.Or if isinstance(node.op, ast.And) else ast.And
        return [lambda n: setattr(n, "op", other())]
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        return [lambda n: setattr(n, "value", not n.value)]
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        more = [lambda n: setattr(n, "value", -n.value)] if node.value else []
        return [lambda n: setattr(n, "value", n.value + 1), *more]
    if isinstance(node, ast.Call) and node.keywords and all(k.arg for k in node.keywords):
        return [lambda n: n.keywords.pop()]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return [lambda n: setattr(n, "op", ast.UAdd())]
    return []


def drawn(source: str, n: int, seed: int) -> dict[str, str]:  # what was changed -> new source
    "Bugs drawn from a module's syntax tree."
    tree, rng, found = ast.parse(source), random.Random(seed), {}
    nodes = places(tree)
    for index in rng.sample(range(len(nodes)), min(n, len(nodes))):
        changed = copy.deepcopy(tree)
        node = places(changed)[index]
        before = ast.unparse(node)
        rng.choice(changes(node))(node)
        line = f"line {node.lineno}: {before[:70]} -> {ast.unparse(node)[:70]}"
        found[line] = ast.unparse(ast.fix_missing_locations(changed))
    return found


def named(module: str, source: str) -> dict[str, str]:
    "Bugs with a name; one whose text is gone ends the script, because it would test nothing."
    found = {}
    for name, (old, new) in NAMED.get(module, {}).items():
        if source.count(old) != 1:
            raise SystemExit(
                f"{module}: {name}: its text stands {source.count(old)} times, not once"
            )
        found[name] = source.replace(old, new)
    return found


def verdict(module: str, source: str, tests: list[str], timeout: float, words: str) -> str:
    "seen, survived, or timeout, which says nothing: what the tests say of a changed module."
    with tempfile.TemporaryDirectory(prefix="mutant-") as temporary:
        tree = Path(temporary)
        for name in ("cyborg", "tests", "nbs"):
            ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
            shutil.copytree(ROOT / name, tree / name, ignore=ignored)
        for name in ("settings.ini", "ruff.toml"):
            shutil.copy(ROOT / name, tree)
        (tree / "cyborg" / f"{module}.py").write_text(source)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
        command += ["-k", words] if words else []
        environment = {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                ["env", *(f"{k}={v}" for k, v in environment.items()), *command],
                cwd=tree,
                capture_output=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            return "timeout"
        if done.returncode not in (0, 1):  # no test was found, or pytest itself failed
            return "seen" if b"rror" in done.stdout else f"pytest ended with {done.returncode}"
        return "seen" if done.returncode else "survived"


def main() -> None:
    "Plant, test, list."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--module", choices=TESTS, required=True)
    parser.add_argument("--n", type=int, default=12, help="drawn bugs, beside the named ones")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other bugs")
    parser.add_argument("--timeout", type=float, default=600, help="seconds a bug")
    parser.add_argument("--minutes", type=float, default=60, help="after which no bug is begun")
    parser.add_argument("-k", default="", help="pytest's -k: some tests of the module only")
    parser.add_argument("--kept", default="", help="file of results; empty: beside the temporaries")
    given = parser.parse_args()
    source = (ROOT / "cyborg" / f"{given.module}.py").read_text()
    tests = [f"tests/test_{name}.py" for name in (given.module, *TESTS[given.module])]
    kept = Path(given.kept or Path(tempfile.gettempdir()) / f"mutants-{given.module}.json")
    results = json.loads(kept.read_text()) if kept.is_file() else {}
    bugs, start = named(given.module, source) | drawn(source, given.n, given.seed), time.monotonic()
    for name, changed in bugs.items():
        if name not in results and time.monotonic() - start < 60 * given.minutes:
            results[name] = verdict(given.module, changed, tests, given.timeout, given.k)
            kept.write_text(json.dumps(results, indent=1))
            print(f"{results[name]:9} {name}", flush=True)
    told = [results.get(name, "not tried") for name in bugs]
    survivors = [name for name in bugs if results.get(name) == "survived"]
    print(
        f"{given.module}: {told.count('survived')} of {len(told)} survived, "
        f"{told.count('timeout')} took too long, {told.count('not tried')} not tried; kept in {kept}"
    )
    print(*survivors, sep="\n")
    raise SystemExit(bool(survivors))


if __name__ == "__main__":
    main()
