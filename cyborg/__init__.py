"""Train image classifiers that look where people look.

The names below are loaded when they are asked for; `dir(cyborg)` lists them, `help` explains each.

- images: `read_manifest`, `Manifest`, `validate`, `make_demo`
- maps: `human_maps`, `model_map`, `agreement`, `resize_map`
- networks and losses: `make_network`, `Output`, `cyborg_loss`, `guided_loss`
- runs: `RunConfig`, `preset_config`, `train`, `load_run`
- tests: `predict`, `read_predictions`, `auc_table`, `score`
- studies: `read_study`, `collect`, `read_tables`, `MapExplorer`

The modules: `files`, `pictures`, `manifest`, `findings`, `saliency`, `marks`, `portrait`, `demo`, `cache`, `grids`, `data`,
`models`, `cam`, `loss`, `guidance`, `settings`, `epoch`, `runs`, `trial`, `training`, `predictions`,
`evaluation`, `figures`, `overlays`, `widgets`, `commands`, `terminal`, `front`, `docstrings`; and in packages of their own what is
measured (`measure`), studies (`study`, `report`, `explore`), people (`people`), the way from
photographs to a manifest (`prepare`) and systems of others (`others`).
"""

import sys

from cyborg.front import NAMES, Explaining, Moved, loaded

__version__ = "0.1.0"
sys.meta_path.insert(0, Explaining)
sys.meta_path.append(Moved())


def __getattr__(name: str) -> object:
    return loaded(name)


def __dir__() -> list[str]:
    return [*NAMES, "__version__"]
