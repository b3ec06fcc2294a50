"""The demo set with maps from every source that `nbs/studies/systems.yaml` asks for.

    python experiments/systems/prepare.py

Writes <data>/demo/systems.csv: the demo's manifest and the columns segmentation (face regions from
CenterFace's landmarks), teacher and rise (maps of a network trained here) and seconds (how long
annotators took); in <data>/demo/systems two trained networks, which the study tests as frozen ones,
and the encoder of an autoencoder that learnt the human maps. What is there is not made again.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from cyborg.demo import make_demo
from cyborg.manifest import SPLITS, Manifest, write_manifest
from cyborg.prepare.crop import CenterFace
from cyborg.prepare.mentor import MentorConfig, train_autoencoder
from cyborg.prepare.segmentation import landmark_map
from cyborg.prepare.sources import map_manifest, picture_maps, teacher_maps
from cyborg.settings import preset_config
from cyborg.training import train

NETWORK = {"arch": "test_resnet", "weights": "none", "size": 160}
MASKS = {"masks": 16, "cells": 5}  # of RISE; thousands as published, which is hours here


class FaceRegions:
    "Face regions from the landmarks of the face that is found."

    def __init__(self):
        self.detector = CenterFace()

    def __call__(self, pixels: np.ndarray, row: dict) -> np.ndarray:
        faces = self.detector(pixels)
        if not faces:
            raise ValueError("no face found")
        return landmark_map(faces[0].points, len(pixels))


def annotation_seconds(demo: Manifest) -> pd.Series:
    "Mean time of an image's annotators, seconds, on the rows of the manifest."
    answers = pd.read_parquet(demo.root / "annotations.parquet")
    last = lambda strokes: max((float(stroke[-1]) for stroke in strokes), default=0)  # noqa: E731
    mean = answers.assign(seconds=answers["times"].map(last)).groupby("image")["seconds"].mean()
    return demo.table["image"].map(mean)


def main() -> None:
    demo = make_demo()
    base = {"manifest": str(demo.root / "manifest.csv"), "root": str(demo.root)}
    own = demo.root / "systems"
    regions = picture_maps("segmentation", FaceRegions(), {"maps": "CenterFace"})
    where = {"splits": SPLITS, "column": "segmentation"}
    manifest = map_manifest(demo, regions, "systems/segmentation", **where).manifest
    settings = {**base, **NETWORK, "runs": str(own), "epochs": 6, "lr_step": 5}
    one, other = (
        train(preset_config("quick", settings | {"name": f"teacher{seed}", "seed": seed}))
        for seed in (1, 2)
    )
    sources = {"teacher": teacher_maps(one), "rise": teacher_maps(one, "rise", **MASKS)}
    for column, source in sources.items():
        folder = f"systems/{column}"
        manifest = map_manifest(manifest, source, folder, "train", column).manifest
    mentor = MentorConfig(**base, **NETWORK, runs=str(own), name="mentor", epochs=3, batch_size=20)
    encoder = train_autoencoder(mentor) / "encoder.safetensors"
    print(f"frozen:   {one}, {other}")
    table = manifest.table.assign(seconds=annotation_seconds(demo).to_numpy())
    path = demo.root / "systems.csv"
    write_manifest(Manifest(table, demo.root, demo.classes), path)
    print(f"manifest: {path}\nencoder:  {Path(encoder).resolve()}")


if __name__ == "__main__":
    main()
