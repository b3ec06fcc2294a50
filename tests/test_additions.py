"""The examples of the page on additions, run from outside the package: each works in a run."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cyborg.cam import MAPS, model_map
from cyborg.demo import make_demo
from cyborg.guidance import GUIDANCES, guided_loss
from cyborg.models import FAMILIES, make_network
from cyborg.others.frozen import SCORERS, make_scorer
from cyborg.prepare.sources import MAP_SOURCES, drawn_by, map_manifest
from cyborg.report.examples import made_up_tables
from cyborg.report.page import Page
from cyborg.saliency import read_map
from cyborg.settings import run_config
from cyborg.study.file import make_study, study_runs
from cyborg.training import load_run, train

PAGE = Path(__file__).parents[1] / "nbs" / "docs" / "pages" / "guides" / "extend.md"
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
DICTS = (GUIDANCES, MAPS, FAMILIES, MAP_SOURCES, SCORERS)


@pytest.fixture(scope="module")
def added():
    "The names of all examples; the package is as before afterwards."
    before, names = [dict(one) for one in DICTS], {}
    for example in EXAMPLES:
        exec(compile(example, PAGE.name, "exec"), names)
    yield names
    for one, was in zip(DICTS, before, strict=True):
        one.clear()
        one.update(was)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("additions") / "demo", n=40, size=64, workers=1)


def test_every_dict_has_an_example(added):
    assert len(EXAMPLES) == 6
    for one, name in zip(DICTS, ("outside", "power", "norm", "dark", "brightness"), strict=True):
        assert list(one)[-1] == name


def test_a_run_with_a_guidance_a_map_and_a_family_of_ones_own(added, demo, tmp_path):
    given = {"manifest": str(demo.root / "manifest.csv"), "runs": str(tmp_path), "name": "toy"}
    given["root"] = str(demo.root)
    given |= {"arch": "convnext_atto", "weights": "none", "size": 64, "epochs": 1, "batch_size": 8}
    given |= {"guidance": "outside", "map_kind": "power", "alpha": 0.5, "device": "cpu"}
    run = load_run(train(run_config(given)))
    assert type(run.network).__name__ == "NormThenLinear"
    assert np.isfinite(run.history["train_saliency"]).all()
    record = json.loads((tmp_path / "toy" / "config.json").read_text())
    assert record["settings"]["guidance"] == "outside"


def test_the_guidance_is_what_it_says(added):
    network = make_network("test_resnet", size=64, weights="none")
    output = network(torch.rand(2, 3, 64, 64))
    power = model_map(output, network.head_weight, "power", "true", torch.tensor([0, 1]))
    assert torch.equal(power, output.features.float().square().mean(1))
    human = torch.zeros(2, *network.map_size)
    human[:, 0, 0] = 1
    has_map, labels = torch.tensor([True, True]), torch.tensor([0, 1])
    parts = guided_loss(
        output, network.head_weight, labels, human, has_map, guidance="outside", kind="power"
    )
    unmarked = (power * (1 - human)).mean((1, 2))
    assert float(parts.saliency) == pytest.approx(float(unmarked.mean()), rel=1e-5)


def test_a_scenario_is_a_line_in_a_study(added, demo, tmp_path):
    place = {"manifest": str(demo.root / "manifest.csv"), "root": str(demo.root)}
    content = {"name": "toy", "networks": ["test_resnet"], "seeds": 1, "data": {"faces": place}}
    content["scenarios"] = [{"outside": {"guidance": "outside", "alpha": 0.5}}]
    (run,) = study_runs(make_study(content, runs=tmp_path))
    assert run.config.guidance == "outside"


def test_a_source_of_maps(added, demo):
    mapped = map_manifest(demo, drawn_by("", "dark"), "dark", column="dark")
    row = mapped.manifest.table.iloc[0]
    assert row["dark"] and read_map(demo.root / row["dark"]).max() > 0


def test_a_figure_of_the_report(added):
    page = Page(made_up_tables())
    figure = page.add(*added["part"])
    rows = page.tables.measures.query("measure == 'auc'")
    assert sum(len(trace.y) for trace in figure.data) == len(rows)


def test_a_detector_of_others(added, tmp_path):
    (tmp_path / "weights").touch()
    scorer = make_scorer({"kind": "brightness", "path": str(tmp_path / "weights")})
    grey = np.stack([np.full((32, 32, 3), value, np.uint8) for value in (0, 128, 255)])
    assert np.all(np.diff(scorer(grey)) > 0)
    assert isinstance(pd.Series(scorer(grey)).sum(), float)
