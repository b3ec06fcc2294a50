"""Build the manifests, images and human maps of the real-face experiment.

    python experiments/real_faces/prepare.py --faces FOLDER --out FOLDER

See README.md beside this file for what is compared with what, and why.
"""

import os
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from fastcore.script import call_parse
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from tqdm.auto import tqdm

from cyborg.files import atomic_path, data_root
from cyborg.findings import validate
from cyborg.manifest import Manifest, group_split, read_manifest, write_manifest
from cyborg.pictures import read_picture
from cyborg.prepare.landmarks import REGIONS, face_ellipse, face_regions, face_scale
from cyborg.saliency import fixation_map, region_map, unit_range, write_map

# --- what is trained on, tested on and compared with what -------------------------------------

POINTS = {
    "left_eye": "eye_imgleft",
    "right_eye": "eye_imgright",
    "nose": "nose",
    "mouth": "mouth",
}  # region -> prefix of its columns in boxes.csv
BOX_SIDE = 256  # boxes.csv counts in pixels of a 256 x 256 image
LARGEST = 160  # above it, images reduced with different filters are told apart by their spectrum
SIGMA = (
    5 / 224
)  # blur of every map as a share of the side: 5 pixels of a 224 pixel face, section 4.3


class FaceSet(NamedTuple):
    """One of the two experiments: what it trains on; everything else is its test."""

    training: tuple[str, ...]  # sources of train and val
    seen: tuple[str, ...]  # test sources made by a generator that was trained on
    maps: str  # default kind of map for training images: "gaze" or "landmarks"


SETS = {
    "composites": FaceSet(
        training=(
            "ffhq_dinablachman",
            "photo_ciplab",
            "stylegan2_dinablachman",
            "composite_ciplab",
        ),
        seen=("stylegan2_lago",),
        maps="gaze",
    ),
    "ffhq140k": FaceSet(
        training=("ffhq_140k", "stylegan_140k"),
        seen=("stylegan_lago",),
        maps="landmarks",
    ),
}

COUNTERPARTS = {  # synthetic source -> the authentic sources it is compared with (README says why)
    "composite_ciplab": "photo_ciplab",
    "cyborg_repo": "ffhq_bozzo|ffhq_xrv0",
    "progan_lago": "celebahq_roeishc",
    "stablediffusion21_sdfd": "ffhq_roeishc",
    "stylegan2_dinablachman": "ffhq_dinablachman",
    "stylegan2_lago": "ffhq_lago",
    "stylegan3_bozzo": "ffhq_bozzo|ffhq_xrv0",
    "stylegan3_sklinderton": "ffhq_bozzo|ffhq_xrv0",
    "stylegan_140k": "ffhq_140k",
    "stylegan_lago": "ffhq_lago",
    "unlabelled_a_roeishc": "ffhq_roeishc",
    "unlabelled_b_roeishc": "celebahq_roeishc|ffhq_roeishc",
}
APART = ("cyborg_repo",)  # ten images of unnamed generators: reported, not averaged


# --- reading ---------------------------------------------------------------------------------


def faces_folder(
    folder: Path | None = None,  # None: the environment variable CYBORG_FACES
) -> Path:
    "The folder that holds `faces.csv`, `boxes.csv` and the images."
    folder = folder or os.environ.get("CYBORG_FACES")
    if not folder:
        raise ValueError("no faces folder given: pass --faces FOLDER or set CYBORG_FACES")
    folder = Path(folder).expanduser().resolve()
    missing = [name for name in ("faces.csv", "boxes.csv") if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} holds no {' and no '.join(missing)}")
    return folder


def read_faces(
    folder: Path,  # the `faces` folder
) -> (
    pd.DataFrame
):  # a row an image: path, label, source, region, columns of boxes.csv (NaN if none)
    "The image list joined with its landmarks, checked against the files and the known sources."
    table = pd.read_csv(folder / "faces.csv", dtype=str, keep_default_na=False)
    boxes = pd.read_csv(folder / "boxes.csv")
    points = [f"{prefix}_{axis}" for prefix in POINTS.values() for axis in "xy"]
    for name, frame, wanted in (
        ("faces.csv", table, ["path", "label", "source", "region"]),
        ("boxes.csv", boxes, ["path", "face_x0", "face_y0", "face_x1", "face_y1", *points]),
    ):
        if absent := sorted(set(wanted) - set(frame.columns)):
            raise ValueError(f"{folder / name} lacks the columns {absent}, has {[*frame.columns]}")
    synthetic = set(table.source[table.label == "synthetic"])
    if unknown := sorted(synthetic - set(COUNTERPARTS)):
        raise ValueError(f"synthetic sources without a counterpart in COUNTERPARTS: {unknown}")
    if lost := [p for p in table.path if not (folder / p).is_file()]:
        raise FileNotFoundError(f"{len(lost)} images of faces.csv are missing, first: {lost[:3]}")
    return table.merge(boxes, on="path", how="left", validate="one_to_one")


# --- landmarks, regions and gaze -> maps -----------------------------------------------------


def landmarks(
    row: pd.Series,  # one row of `read_faces`
    size: int,  # side S of the wanted image, pixels
) -> dict[str, np.ndarray]:  # region -> (2,) x, y in pixels of an S x S image
    "Landmarks of one face, counted in pixels from the outer upper left corner."
    return {
        region: np.array([row[f"{prefix}_x"], row[f"{prefix}_y"]], float) * size / BOX_SIDE
        for region, prefix in POINTS.items()
    }


class Gaze(NamedTuple):
    """Mean gaze on a face, and where that face's parts lie."""

    map: np.ndarray  # (256, 256) float32 in [0, 1]
    points: dict[str, np.ndarray]  # region -> (2,) x, y in its pixels


def mean_gaze(
    folder: Path,  # the gaze data: holds osie/crops.csv and osie/crop_fixations.csv
    table: pd.DataFrame,  # of `read_faces`: tells where landmarks lie inside a face box
) -> Gaze:
    """Fixations on 108 photographed faces (OSIE, free viewing), laid over each other by face box.

    Every fixation counts the same, as every annotation does in section 4.3.
    """
    crops = pd.read_csv(folder / "osie" / "crops.csv")
    fixations = pd.read_csv(folder / "osie" / "crop_fixations.csv")
    box = ["face_x0", "face_y0", "face_x1", "face_y1"]
    fixations = fixations.merge(crops[["crop", *box]], on="crop", validate="many_to_one")
    boxed = table.dropna(subset=box)
    x0, y0, x1, y1 = boxed[box].mean()  # the face box of the mean face, pixels of 256 x 256
    x = (fixations.x - fixations.face_x0) / (fixations.face_x1 - fixations.face_x0) * (x1 - x0) + x0
    y = (fixations.y - fixations.face_y0) / (fixations.face_y1 - fixations.face_y0) * (y1 - y0) + y0
    gaze = fixation_map(x.to_numpy(), y.to_numpy(), (BOX_SIDE, BOX_SIDE), sigma=SIGMA * BOX_SIDE)
    return Gaze(gaze, landmarks(boxed.mean(numeric_only=True), BOX_SIDE))


def warp_gaze(
    gaze: Gaze,
    points: dict[str, np.ndarray],  # region -> (2,) x, y in pixels of an S x S image
    size: int,  # side S, pixels
) -> np.ndarray:  # (S, S) float32 in [0, 1]
    "The mean gaze map on one face: the affine map that takes eyes and mouth to eyes and mouth."
    corners = ("left_eye", "right_eye", "mouth")
    source = np.float32([gaze.points[name] for name in corners]) - 0.5  # OpenCV counts from
    target = np.float32([points[name] for name in corners]) - 0.5  # the middle of the first pixel
    warp = cv2.getAffineTransform(source, target)
    return unit_range(cv2.warpAffine(gaze.map, warp, (size, size), flags=cv2.INTER_LINEAR))


def parts(
    region: str,  # region column of faces.csv, for example "left_eye|nose"
) -> tuple[str, ...]:
    "The exchanged parts of a composite; refuses names that are not `REGIONS`."
    names = tuple(region.split("|"))
    if unknown := sorted(set(names) - set(REGIONS)):
        raise ValueError(f"region {region!r} names {unknown}, expected some of {REGIONS}")
    return names


def face_maps(
    row: pd.Series,  # one row of `read_faces` with landmarks
    gaze: Gaze,
    size: int,  # side S, pixels
) -> dict[str, np.ndarray]:  # kind -> (S, S) float32 in [0, 1]
    "All maps of one face: `landmarks` (all parts), `gaze`, and `regions` (exchanged parts)."
    points = landmarks(row, size)
    regions = face_regions(points, size)
    maps = {
        "landmarks": region_map(regions, REGIONS, sigma=SIGMA * size),
        "gaze": warp_gaze(gaze, points, size),
    }
    if row.region:
        maps["regions"] = region_map(regions, parts(row.region), sigma=SIGMA * size)
    return maps


# --- images that show one photograph ---------------------------------------------------------


def outer_features(
    row: pd.Series,  # one row of `read_faces` with landmarks
    folder: Path,  # the `faces` folder
) -> tuple[np.ndarray, np.ndarray]:  # (k, 2) x, y and (k, 32) uint8 ORB descriptors
    "Features of the picture around the face: what a composite keeps of its photograph."
    points = landmarks(row, BOX_SIDE)
    middle = (points["left_eye"] + points["right_eye"]) / 4 + points["mouth"] / 2
    around = np.full((BOX_SIDE, BOX_SIDE), 255, np.uint8)
    around[
        face_ellipse(middle, (1.15 * face_scale(points),) * 2, np.array([1.0, 0.0]), BOX_SIDE)
    ] = 0
    grey = np.asarray(Image.fromarray(read_picture(folder / row.path)).convert("L"))
    keys, descriptors = cv2.ORB_create(400, fastThreshold=10).detectAndCompute(grey, around)
    if descriptors is None:
        return np.zeros((0, 2), np.float32), np.zeros((0, 32), np.uint8)
    return np.float32([key.pt for key in keys]), descriptors


def likely_pairs(
    thumbnails: np.ndarray,  # (n, 24, 24, 3)
    neighbours: int = 12,
) -> np.ndarray:  # (m, 2) index pairs, first < second
    "Each picture with its most correlated ones over shifts of up to 3 of 24 pixels."
    n = len(thumbnails)

    def unit(patch: np.ndarray) -> np.ndarray:
        flat = patch.reshape(n, -1).astype(np.float32)
        flat = flat - flat.mean(1, keepdims=True)
        return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)

    still = unit(thumbnails[:, 3:-3, 3:-3])
    best = np.full((n, n), -1, np.float32)
    for dy in range(7):
        for dx in range(7):
            best = np.maximum(best, unit(thumbnails[:, dy : dy + 18, dx : dx + 18]) @ still.T)
    best = np.maximum(best, best.T)
    np.fill_diagonal(best, -1)
    nearest = np.argpartition(-best, min(neighbours, n - 1) - 1, axis=1)[:, :neighbours]
    pairs = np.stack([np.repeat(np.arange(n), nearest.shape[1]), nearest.ravel()], axis=1)
    return np.unique(np.sort(pairs, axis=1), axis=0)


def matching_features(
    a: tuple[np.ndarray, np.ndarray],  # `outer_features` of one picture
    b: tuple[np.ndarray, np.ndarray],  # of another
) -> int:
    "Features of `a` that one similarity transform lays on their like in `b`."
    if min(len(a[0]), len(b[0])) < 8:
        return 0
    matches = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(a[1], b[1])
    matches = [m for m in matches if m.distance < 48]  # of 256 bits
    if len(matches) < 8:
        return 0
    source = np.float32([a[0][m.queryIdx] for m in matches])
    target = np.float32([b[0][m.trainIdx] for m in matches])
    cv2.setRNGSeed(0)
    _, inliers = cv2.estimateAffinePartial2D(source, target, ransacReprojThreshold=3)
    return 0 if inliers is None else int(inliers.sum())


def shared_photographs(
    rows: pd.DataFrame,  # rows of `read_faces` with landmarks
    folder: Path,  # the `faces` folder
    least: int = 25,  # matching features: unrelated FFHQ photographs reach 12, true pairs 38
) -> np.ndarray:  # (n,) int, group of each row
    """Groups of pictures that show one photograph, as a composite and its unaltered original do.

    File names do not tell: equal numbers belong to different people.
    """
    thumbnails = [
        cv2.resize(read_picture(folder / path)[..., ::-1], (24, 24), interpolation=cv2.INTER_AREA)
        for path in rows.path
    ]
    features = [outer_features(row, folder) for _, row in rows.iterrows()]
    pairs = likely_pairs(np.stack(thumbnails))
    same = [
        (i, j)
        for i, j in tqdm(pairs, desc="shared photographs", unit="pair", mininterval=2)
        if matching_features(features[i], features[j]) >= least
    ]
    i, j = np.array(same, int).reshape(-1, 2).T
    graph = coo_matrix((np.ones(len(i)), (i, j)), shape=(len(rows), len(rows)))
    return connected_components(graph, directed=False)[1]


# --- writing ---------------------------------------------------------------------------------


def image_name(
    path: str,  # path column of faces.csv
) -> str:  # images/<label>/<source>/<name>.png
    "Where an image lies under the output folder."
    return f"images/{Path(path).with_suffix('.png').as_posix()}"


def map_name(
    path: str,  # path column of faces.csv
    kind: str,  # "landmarks", "gaze" or "regions"
) -> str:  # maps/<kind>/<label>/<source>/<name>.png
    "Where a map lies under the output folder."
    return f"maps/{kind}/{Path(path).with_suffix('.png').as_posix()}"


def write_image(
    source: Path,  # the original file
    target: Path,  # PNG to write
    size: int,  # side S, pixels
) -> None:
    "Reduce an image once with Lanczos and write it as PNG, so that all files are alike in kind."
    target.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(read_picture(source))
    with atomic_path(target) as temporary:
        small = image.resize((size, size), Image.Resampling.LANCZOS)
        small.save(temporary, format="PNG")


def write_files(
    table: pd.DataFrame,  # of `read_faces`
    folder: Path,  # the `faces` folder
    out: Path,
    gaze: Gaze,
    size: int,  # side S, pixels
) -> None:
    "Write every image and every map; images without landmarks get no map."
    rows = [row for _, row in table.iterrows()]
    for row in tqdm(rows, desc="images and maps", unit="image", mininterval=2):
        write_image(folder / row.path, out / image_name(row.path), size)
        if np.isnan(row.eye_imgleft_x):
            continue
        for kind, map_ in face_maps(row, gaze, size).items():
            target = out / map_name(row.path, kind)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_map(target, map_)


def split_sources(
    table: pd.DataFrame,  # with the columns image, source and subject
    training: tuple[str, ...],  # sources of train and val
    seed: int = 0,
) -> pd.Series:  # split of each row
    "80 % train, 20 % val of each training source, whole subjects together; all others are test."
    if absent := sorted(set(training) - set(table.source)):
        raise ValueError(f"no image of the training sources {absent}")
    chosen = table[table.source.isin(training)]
    shares = {"train": 0.8, "val": 0.2}
    split = group_split(chosen, shares, seed=seed, stratify="source")
    return split.reindex(table.index).fillna("test")


def face_table(
    table: pd.DataFrame,  # of `read_faces`, with a column subject
    name: str,  # a key of SETS
    maps: str,  # "gaze" or "landmarks": maps of training images that are no composites
    seed: int = 0,
) -> pd.DataFrame:  # the manifest's table
    "One manifest's rows; `exposure` says whether a test source's generator was trained on."
    chosen = SETS[name]
    table = table.assign(image=table.path.map(image_name))
    split = split_sources(table, chosen.training, seed)
    test = split == "test"
    fake = table.label == "synthetic"
    kind = pd.Series(maps, index=table.index).mask(test, "landmarks")
    kind = kind.mask(table.region != "", "regions")  # what was exchanged is known, in any split
    has_map = table.eye_imgleft_x.notna()
    exposure = table.source.map(
        lambda s: "apart" if s in APART else "seen" if s in chosen.seen else "unseen"
    )
    return pd.DataFrame(
        {
            "image": table.image,
            "label": table.label,
            "source": table.source,
            "split": split,
            "map": [
                map_name(p, k) if has else ""
                for p, k, has in zip(table.path, kind, has_map, strict=True)
            ],
            "subject": table.subject,
            "counterpart": table.source.map(COUNTERPARTS).where(test & fake, ""),
            "exposure": exposure.where(test & fake, ""),
            "region": table.region,
        }
    )


def subjects(
    table: pd.DataFrame,  # of `read_faces`
    folder: Path,  # the `faces` folder
) -> pd.Series:  # a name each row; equal where two pictures show one photograph
    "Each image its own subject, except composites and photographs that show one photograph."
    names = table.source + "/" + table.path.map(lambda p: Path(p).stem)
    rows = table[table.source.isin(("composite_ciplab", "photo_ciplab"))]
    first = pd.Series(shared_photographs(rows, folder), index=rows.index)
    names[rows.index] = names[rows.index].groupby(first).transform("first")
    return names


@call_parse
def prepare(
    faces: Path = None,  # the `faces` folder (default: $CYBORG_FACES)
    out: Path = None,  # where to write (default: real_faces in the data root)
    gaze: Path = None,  # the `human_maps` folder (default: beside the faces folder)
    size: int = 128,  # side of the written images and maps, pixels, 32 to 160
    maps: str = None,  # gaze or landmarks, for training images without region (default: by set)
    seed: int = 0,  # of the split into train and val
) -> None:
    "Write images, maps and the manifests `composites.csv` and `ffhq140k.csv`."
    if not 32 <= size <= LARGEST:
        raise ValueError(
            f"size is {size}, expected 32 to {LARGEST}: in larger images the *_140k sources are "
            "told from all others by the filter they were reduced with"
        )
    if maps not in (None, "gaze", "landmarks"):
        raise ValueError(f"maps is {maps!r}, expected gaze or landmarks")
    folder = faces_folder(faces)
    out = Path(out).resolve() if out else data_root() / "real_faces"
    cv2.setNumThreads(1)
    table = read_faces(folder)
    table["subject"] = subjects(table, folder)
    write_files(table, folder, out, mean_gaze(gaze or folder.parent / "human_maps", table), size)
    for name, chosen in SETS.items():
        rows = face_table(table, name, maps or chosen.maps, seed)
        path = out / (f"{name}-{maps}.csv" if maps else f"{name}.csv")
        write_manifest(Manifest(rows, out, ("authentic", "synthetic")), path)
        for finding in validate(read_manifest(path, root=out)):
            print(f"{path.name}: {finding.text}")
        print(path)
        print(rows.groupby(["split", "label", "source"]).size().to_string())
