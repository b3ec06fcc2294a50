"""Train image classifiers that look where people look.

The names below are loaded when they are asked for; `dir(cyborg)` lists them, `help` explains each.

- images: `read_manifest`, `Manifest`, `validate`, `make_demo`
- maps: `human_maps`, `model_map`, `agreement`, `resize_map`
- networks and losses: `make_network`, `Output`, `cyborg_loss`, `guided_loss`
- runs: `RunConfig`, `preset_config`, `train`, `load_run`
- tests: `predict`, `read_predictions`, `auc_table`, `score`
- studies: `read_study`, `collect`, `read_tables`, `MapExplorer`

The modules: `files`, `pictures`, `manifest`, `classes`, `findings`, `saliency`, `marks`, `portrait`, `demo`,
`cache`, `data`, `grids`, `heads`, `models`, `cam`, `loss`, `guidance`, `forward`, `settings`,
`epoch`, `runs`, `tracking`, `trial`, `launch`, `training`, `tuning`, `predictions`, `evaluation`,
`figures`, `overlays`, `widgets`, `commands`, `terminal`, `parameters`, `front`, `docstrings`; and in packages
of their own what is measured (`measure`), studies (`study`, `report`, `explore`), people
(`people`), the way from photographs to a manifest (`prepare`) and systems of others (`others`).
"""

import sys

from cyborg.front import NAMES, Explaining, Moved, loaded

__version__ = "0.1.0"
TYPE_CHECKING = False  # as in `typing`, which takes long to load
if TYPE_CHECKING:  # for editors, which do not run `__getattr__`
    from cyborg.cam import model_map as model_map
    from cyborg.demo import make_demo as make_demo
    from cyborg.evaluation import predict as predict
    from cyborg.explore.maps import MapExplorer as MapExplorer
    from cyborg.explore.scoring import score as score
    from cyborg.findings import validate as validate
    from cyborg.guidance import guided_loss as guided_loss
    from cyborg.loss import cyborg_loss as cyborg_loss
    from cyborg.manifest import Manifest as Manifest, read_manifest as read_manifest
    from cyborg.marks import human_maps as human_maps
    from cyborg.measure.auc import auc_table as auc_table
    from cyborg.models import Output as Output, make_network as make_network
    from cyborg.predictions import read_predictions as read_predictions
    from cyborg.report.tables import read_tables as read_tables
    from cyborg.saliency import agreement as agreement, resize_map as resize_map
    from cyborg.settings import RunConfig as RunConfig, preset_config as preset_config
    from cyborg.study.collect import collect as collect
    from cyborg.study.file import read_study as read_study
    from cyborg.training import load_run as load_run, train as train
sys.meta_path.insert(0, Explaining)
sys.meta_path.append(Moved())


def __getattr__(name: str) -> object:
    return loaded(name)


def __dir__() -> list[str]:
    return [*NAMES, "__version__"]
