"""A sweep: what is searched, given up, gone on with and chosen, from made-up histories."""

import numpy as np
import pandas as pd
import pytest
import yaml

from cyborg.report.search import search_answers, search_figure
from cyborg.report.tables import ReportError
from cyborg.study.file import make_study, read_study, study_runs
from cyborg.study.grid import check_study
from cyborg.study.runner import STOP
from cyborg.study.sweep import check_sweep, search_settings, trial_runs
from cyborg.study.words import StudyError

pytest.importorskip("optuna", reason="pip install 'cyborg[sweep]'")


class Training:
    "Stands in for a Dask future: an epoch a look, best at an alpha of 0.3."

    trained = 0  # epochs, of all

    def __init__(self, run):
        self.run, self.rows, self.status = run, [], "finished"
        run.config.folder.mkdir(parents=True, exist_ok=True)
        (run.config.folder / "begun").open("a").write("x")

    def done(self):
        if (self.run.config.folder / STOP).is_file() or len(self.rows) == self.run.config.epochs:
            return True
        Training.trained += 1
        value = 0.9 - abs(self.run.config.alpha - 0.3) + 0.001 * self.run.seed
        self.rows.append({"epoch": len(self.rows) + 1, "val_accuracy": 0.5, "val_auc": value})
        pd.DataFrame(self.rows).to_csv(self.run.config.folder / "history.csv", index=False)
        return False

    def result(self):
        return None


@pytest.fixture
def sweeping(content):
    Training.trained = 0
    content["settings"] |= {"epochs": 6}
    return content | {"sweep": {"alpha": [0.0, 0.9], "trials": 12, "seeds": 2}}


def search(study, submit=Training, slots=2):
    return search_settings(study, submit, slots, lambda text: None, every=0.0)


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"alfa": [0.1, 0.9]}, "there is no key 'alfa' (did you mean 'alpha'?)"),
        ({"trials": 5}, "sweep: no setting may change"),
        ({"alpha": 0.5}, "alpha is 0.5, expected [low, high], log(low, high) or a list"),
        ({"alpha": [0.9, 0.1]}, "alpha is [0.9, 0.1], expected low below high"),
        ({"lr": "log(0, 1)"}, "expected low below high, both above 0"),
        ({"alpha": [0.1, 0.9], "trials": 1}, "trials is 1, expected 2 or more"),
        ({"alpha": [0.1, 0.9], "seed": 1}, "there is no key 'seed' (did you mean 'seeds'?)"),
        ({"alpha": [0.1, 0.9], "scenario": "cybor"}, "(did you mean 'cyborg'?)"),
        ({"size": [32, 64]}, "sweep changes size, which settings decides for every run"),
        (["alpha"], "sweep is ['alpha'] (list), expected settings with where they may go"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(content, sweep, message, tmp_path):
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(content | {"sweep": sweep}))
    with pytest.raises(StudyError) as error:
        read_study(tmp_path / "bad.yaml", tmp_path)
    assert message in str(error.value)


def test_a_value_that_no_run_can_have_is_refused_before_anything_runs(content, tmp_path):
    study = make_study(content | {"sweep": {"alpha": [0.5, 2.0]}}, runs=tmp_path)
    with pytest.raises(StudyError, match=r"sweep: alpha is 2.0, expected a number from 0 to 1"):
        check_sweep(study)
    study = make_study(content | {"sweep": {"distance": ["mse", "l3"]}}, runs=tmp_path)
    with pytest.raises(StudyError, match=r"sweep: distance is 'l3'"):
        check_study(study)


def test_the_best_point_on_validation_becomes_a_scenario_of_the_grid(sweeping, tmp_path):
    study = make_study(sweeping, runs=tmp_path)
    assert len(study_runs(study)) == 4
    found = search(study)
    assert abs(found.settings["alpha"] - 0.3) < 0.15
    again = make_study(sweeping, runs=tmp_path)  # as it is read the next time
    runs = [run for run in study_runs(again) if run.scenario == "cyborg-tuned"]
    assert [run.seed for run in runs] == [0, 1]
    assert {run.config.alpha for run in runs} == {found.settings["alpha"]}
    table = pd.read_csv(study.folder / "sweep" / "trials.csv")
    assert len(table) == 12
    first = table.iloc[0]  # the scenario as it stands, on two seeds
    assert first["as_it_stands"] and first["alpha"] == 0.5
    assert first["value"] == pytest.approx(0.7 + 0.0005)
    best = table.loc[table["value"].idxmax()]
    assert best["alpha"] == found.settings["alpha"] and best["trial"] == found.trial
    assert not list(study.folder.rglob("predictions.parquet"))  # no test image was looked at


def test_points_that_fall_behind_are_given_up(sweeping, tmp_path):
    search(make_study(sweeping, runs=tmp_path))
    table = pd.read_csv(tmp_path / "s" / "sweep" / "trials.csv")
    pruned = table[table["state"] == "pruned"]
    assert len(pruned) and (pruned["epochs"] < 6).all() and pruned["value"].isna().all()
    assert Training.trained < 12 * 2 * 6


def test_a_search_that_was_killed_goes_on_with_what_it_had_begun(sweeping, tmp_path):
    study, begun = make_study(sweeping, runs=tmp_path), []

    def killed(run):
        if len(begun) == 7:
            raise KeyboardInterrupt
        begun.append(run.config.name)
        return Training(run)

    with pytest.raises(KeyboardInterrupt):
        search(study, killed)
    found = search(make_study(sweeping, runs=tmp_path))
    table = pd.read_csv(study.folder / "sweep" / "trials.csv")
    assert sorted(table["trial"]) == list(range(12))
    assert set(table["state"]) <= {"complete", "pruned"}
    folder = study.folder / "sweep"
    assert (folder / "trial000-seed0" / "begun").read_text() == "x"  # done once
    assert (folder / "trial003-seed0" / "begun").read_text() == "xx"  # begun, then gone on with
    assert found.trial == table.loc[table["value"].idxmax(), "trial"]


def test_another_sweep_in_the_same_folder_is_refused_and_more_trials_are_not(sweeping, tmp_path):
    search(make_study(sweeping, runs=tmp_path))
    other = sweeping | {"sweep": sweeping["sweep"] | {"alpha": [0.2, 0.8]}}
    with pytest.raises(StudyError, match="holds another sweep"):
        search(make_study(other, runs=tmp_path))
    more = sweeping | {"sweep": sweeping["sweep"] | {"trials": 14}}
    search(make_study(more, runs=tmp_path))
    assert len(pd.read_csv(tmp_path / "s" / "sweep" / "trials.csv")) == 14


def test_trials_have_the_seeds_of_the_study_and_the_settings_of_the_scenario(sweeping, tmp_path):
    study = make_study(sweeping | {"seeds": [5, 9, 11]}, runs=tmp_path)
    runs = trial_runs(study, 3, {"alpha": 0.2})
    assert [run.config.seed for run in runs] == [5, 9]
    assert [run.config.name for run in runs] == ["trial003-seed5", "trial003-seed9"]
    assert {(run.config.alpha, run.config.epochs) for run in runs} == {(0.2, 6)}


def test_a_choice_on_one_seed_is_warned_of_in_the_report(sweeping, tmp_path):
    from cyborg.report.examples import made_up_tables

    one = sweeping | {"sweep": {"alpha": [0.0, 0.9], "trials": 6}}
    study = make_study(one, runs=tmp_path)
    search(study)
    tables = made_up_tables()._replace(folder=study.folder)
    [(title, lines)] = search_answers(tables)
    assert title == "Which settings does validation choose?"
    assert "above the scenario as it stands" in lines[0]
    assert "chosen on one seed" in lines[1] and "cannot be told from chance" in lines[1]
    assert "star" in list(search_figure(tables).data[0].marker.symbol)
    with pytest.raises(ReportError, match="did not search"):
        search_figure(made_up_tables()._replace(folder=tmp_path))
    assert np.isfinite(search_figure(tables).data[0].y).all()


def test_where_nothing_is_better_no_scenario_is_made_and_none_is_searched_for_again(
    sweeping, tmp_path
):
    best = sweeping | {"scenarios": ["classical", {"cyborg": {"alpha": 0.3}}]}
    study = make_study(best, runs=tmp_path)
    found = search(study)
    assert found.as_it_stands and found.settings == {"alpha": 0.3}
    assert study.searched and not study.tuned
    assert len(study_runs(make_study(best, runs=tmp_path))) == 4
