"""Classical training and CYBORG look at the same test images: the picture of the README.

    python experiments/demo/picture.py runs/demo-classical runs/demo-cyborg picture.html
    chromium --headless --screenshot=picture.png --window-size=1320,760 picture.html

Both run folders are what `make train` leaves.
"""

from pathlib import Path

import torch
from fastcore.script import call_parse

from cyborg.cam import model_saliency
from cyborg.data import ImageDataset
from cyborg.manifest import Manifest, read_manifest
from cyborg.overlays import sample_grid, sample_rows, sample_titles
from cyborg.predictions import read_predictions
from cyborg.training import load_run

SOURCES = ("studio", "street", "iris (seen)", "glint", "teeth", "nose", "ear")


@call_parse
def main(
    classical: str,  # run folder
    cyborg: str,  # run folder
    to: Path,  # .html file
):
    "Write one image a source with its human map and the model saliency of both runs."
    runs = [load_run(folder) for folder in (classical, cyborg)]
    images = read_manifest(runs[0].config.manifest, root=runs[0].config.root or None)
    table = read_predictions(cyborg)
    wanted = [name.removesuffix(" (seen)") for name in SOURCES]
    table = table.iloc[sample_rows(table, per_source=1)].set_index("source").loc[wanted]
    table = table.reset_index()
    chosen = Manifest(table[list(images.table.columns)], images.root, images.classes)
    network = runs[0].network
    sample = ImageDataset(chosen, network.size, network.map_size, network.mean, network.std)
    batch = sample.__getitems__(range(len(sample)))
    with torch.inference_mode():
        saliency = {
            f"{run.config.scenario} CAM": model_saliency(run.network, run.network(batch.image))
            for run in runs
        }
    saliency = {name: maps.numpy() for name, maps in saliency.items()}
    titles = [name.split("<br>")[0] for name in sample_titles(table.assign(source=list(SOURCES)))]
    figure = sample_grid(
        sample.images, sample.human, saliency, titles, columns=len(SOURCES), title="Where they look"
    )
    figure.update_layout(width=1300)
    figure.update_layout(margin_b=20)
    figure.write_html(to, include_plotlyjs=True, config={"displayModeBar": False})
