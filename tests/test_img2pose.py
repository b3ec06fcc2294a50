"""img2pose: the published keys and shapes, the geometry against a literal version, files that
do not fit."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cyborg.models import WeightsError
from cyborg.prepare.img2pose import (
    REFERENCE_FILES,
    Img2Pose,
    Img2PoseNetwork,
    References,
    Regions,
    pose_faces,
    projected_points,
    read_references,
)

# Keys of the published file besides the ResNet-18 body, as torchvision named them then.
PUBLISHED = {
    "rpn.head.conv.weight": (256, 256, 3, 3),
    "rpn.head.conv.bias": (256,),
    "rpn.head.cls_logits.weight": (3, 256, 1, 1),
    "rpn.head.cls_logits.bias": (3,),
    "rpn.head.bbox_pred.weight": (12, 256, 1, 1),
    "rpn.head.bbox_pred.bias": (12,),
    "roi_heads.box_head.fc6.weight": (1024, 12544),
    "roi_heads.box_head.fc6.bias": (1024,),
    "roi_heads.box_head.fc7.weight": (1024, 1024),
    "roi_heads.box_head.fc7.bias": (1024,),
    "roi_heads.box_predictor.dof_pred.0.weight": (256, 1024),
    "roi_heads.box_predictor.dof_pred.0.bias": (256,),
    "roi_heads.box_predictor.dof_pred.1.weight": (256,),
    "roi_heads.box_predictor.dof_pred.1.bias": (256,),
    "roi_heads.box_predictor.dof_pred.1.running_mean": (256,),
    "roi_heads.box_predictor.dof_pred.1.running_var": (256,),
    "roi_heads.box_predictor.dof_pred.1.num_batches_tracked": (),
    "roi_heads.box_predictor.dof_pred.3.weight": (12, 256),
    "roi_heads.box_predictor.dof_pred.3.bias": (12,),
    "roi_heads.class_head.fc6.weight": (1024, 12544),
    "roi_heads.class_head.fc6.bias": (1024,),
    "roi_heads.class_head.fc7.weight": (1024, 1024),
    "roi_heads.class_head.fc7.bias": (1024,),
    "roi_heads.class_predictor.cls_score.weight": (2, 1024),
    "roi_heads.class_predictor.cls_score.bias": (2,),
}
for level, channels in enumerate((64, 128, 256, 512)):
    PUBLISHED[f"backbone.fpn.inner_blocks.{level}.weight"] = (256, channels, 1, 1)
    PUBLISHED[f"backbone.fpn.inner_blocks.{level}.bias"] = (256,)
    PUBLISHED[f"backbone.fpn.layer_blocks.{level}.weight"] = (256, 256, 3, 3)
    PUBLISHED[f"backbone.fpn.layer_blocks.{level}.bias"] = (256,)


def norm(name, channels):
    keys = ("weight", "bias", "running_mean", "running_var")  # frozen: no count of batches
    return {f"backbone.body.{name}.{key}": (channels,) for key in keys}


PUBLISHED |= {"backbone.body.conv1.weight": (64, 3, 7, 7)} | norm("bn1", 64)
for layer, (before, channels) in enumerate([(64, 64), (64, 128), (128, 256), (256, 512)], 1):
    for block in range(2):
        name = f"layer{layer}.{block}"
        for conv, width in ((1, channels if block else before), (2, channels)):
            PUBLISHED[f"backbone.body.{name}.conv{conv}.weight"] = (channels, width, 3, 3)
            PUBLISHED |= norm(f"{name}.bn{conv}", channels)
    if layer > 1:
        PUBLISHED[f"backbone.body.layer{layer}.0.downsample.0.weight"] = (channels, before, 1, 1)
        PUBLISHED |= norm(f"layer{layer}.0.downsample.1", channels)


def files(folder):
    "The files beside the weights."
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name, shape in zip(REFERENCE_FILES.values(), ((6,), (6,), (68, 3)), strict=True):
        np.save(folder / name, rng.random(shape))
    return folder


def test_the_published_file_is_taken_with_its_old_names(tmp_path):
    folder = files(tmp_path / "models")
    state = {f"module.{key}": torch.zeros(shape) for key, shape in PUBLISHED.items()}
    key = "module.backbone.fpn.inner_blocks.2.bias"
    state[key] = torch.arange(256.0)
    torch.save({"fpn_model": state, "optimizer": {"lr": 0.1}}, folder / "img2pose_v1.pth")
    found = Img2Pose(tmp_path)  # in a folder below
    own = found.network.state_dict()
    assert len(own) == len(PUBLISHED)
    assert own["backbone.fpn.inner_blocks.2.0.bias"].tolist() == list(range(256))
    state.pop(key)
    state["module.roi_heads.class_head.fc6.bias"] = torch.zeros(7)
    torch.save({"fpn_model": state}, folder / "img2pose_v1.pth")
    wanted = r"1 missing: backbone.fpn.inner_blocks.2.0.bias; 1 of another shape: .*is \(7,\)"
    with pytest.raises(WeightsError, match=wanted):
        Img2Pose(tmp_path)
    path = folder / "img2pose_v1.pth"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="img2pose_v1.pth: not a readable weights file"):
        Img2Pose(tmp_path)


def test_files_beside_the_weights(tmp_path):
    folder = files(tmp_path)
    assert read_references(folder).points.shape == (68, 3)
    np.save(folder / REFERENCE_FILES["mean"], np.zeros(5))
    with pytest.raises(WeightsError, match=r"has shape \(5,\), expected \(6,\), finite"):
        read_references(folder)
    np.save(folder / REFERENCE_FILES["mean"], np.array([{}]), allow_pickle=True)
    with pytest.raises(WeightsError, match="is not an array of NumPy"):
        read_references(folder)
    (folder / REFERENCE_FILES["std"]).unlink()
    with pytest.raises(WeightsError):
        read_references(folder)


def literal(box, pose, points, shape):
    "One region after the other, one point after the other."
    height, width = shape
    focal = width + height
    camera = np.array([[focal, 0, width // 2], [0, focal, height // 2], [0, 0, 1]])
    own = camera.copy().astype(float)
    own[0, 2] = box[0] + (box[2] - box[0]) // 2
    own[1, 2] = box[1] + (box[3] - box[1]) // 2
    size = (box[2] - box[0]) + (box[3] - box[1])
    shift = pose[3:].copy()
    shift[2] *= focal / size
    shift = np.linalg.inv(camera) @ (own @ shift)
    turn = np.linalg.inv(camera) @ own @ Rotation.from_rotvec(pose[:3]).as_matrix()
    turn = Rotation.from_rotvec(Rotation.from_matrix(turn).as_rotvec()).as_matrix()
    seen = []
    for point in points:
        x, y, z = camera @ (turn @ point + shift)
        seen.append([x / z, y / z])
    return seen


def test_projection_against_a_literal_version():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 300, (20, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(20, 200, (20, 2))], axis=1)
    poses = rng.normal(0, 0.4, (20, 6)) + [0, 0, 0, 0, 0, 4]
    points = rng.normal(0, 0.5, (68, 3))
    slow = [literal(box, pose, points, (431, 602)) for box, pose in zip(boxes, poses, strict=True)]
    np.testing.assert_allclose(projected_points(boxes, poses, points, (431, 602)), slow, atol=1e-6)


def test_faces_are_sorted_and_told_once():
    points = np.zeros((68, 3))
    points[:17, 0], points[:17, 1] = np.linspace(-1, 1, 17), 0.6
    points[36:48] = np.repeat([[-0.4, -0.6, 0], [0.4, -0.6, 0]], 6, axis=0)
    references = References(np.array([0, 0, 0, 0, 0, 3.0]), np.ones(6), points)
    boxes = [[100, 50, 140, 70], [20, 50, 60, 70], [101, 50, 141, 70], [5, 5, 5, 5]]
    regions = Regions(
        torch.tensor(boxes, dtype=torch.float32),
        torch.tensor([0.8, 0.95, 0.9, 0.99]),
        torch.zeros(4, 6),
        (100, 200),
    )
    faces = pose_faces(regions, references, (1, 1))
    assert [face.score for face in faces] == pytest.approx([0.95, 0.9])
    (x0, _, x1, _), (eye, *_) = faces[0].box, faces[0].points
    assert x0 < 40 < x1 and eye[0] < 40 and np.isfinite(faces[0].points).all()
    assert pose_faces(regions, references, (1, 1), threshold=0.999) == []


def test_it_runs_from_a_picture_to_faces():
    torch.manual_seed(0)
    network = Img2PoseNetwork(shortest=64, longest=100).eval()
    torch.nn.init.constant_(network.roi_heads.class_predictor.cls_score.bias, 0)
    with torch.inference_mode():
        regions = network(torch.rand(3, 80, 200))
    assert regions.shape == (40, 100)
    references = References(np.array([0, 0, 0, 0, 0, 4.0]), np.ones(6) * 0.1, np.eye(68, 3))
    faces = pose_faces(regions, references, (2, 2), threshold=0.01)
    assert faces and all(np.isfinite(face.box).all() for face in faces)
