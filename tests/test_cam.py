"""Class activation maps against a literal loop, finite differences, and the grad-cam package."""

import pytest
import torch

from cyborg.cam import class_activation, class_map, class_weight, grad_cam, is_flat_map, min_max
from cyborg.models import Output, make_network


@pytest.fixture
def random_output():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 5, 4, 2, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    return Output(features.mean((2, 3)) @ weight.T, features), weight


def test_class_activation_is_the_weighted_sum(random_output):
    output, weight = random_output
    maps = class_activation(output.features, weight)
    for b in range(3):
        for c in range(3):
            for y in range(4):
                for x in range(2):
                    literal = sum(weight[c, n] * output.features[b, n, y, x] for n in range(5))
                    assert maps[b, c, y, x].item() == pytest.approx(literal.item())
    chosen = class_activation(output.features, weight, torch.tensor([2, 0, 1]))
    assert torch.allclose(chosen, torch.stack([maps[0, 2], maps[1, 0], maps[2, 1]]))


def test_which_picks_the_class(random_output):
    output, weight = random_output
    predicted, labels = output.logits.argmax(1), torch.tensor([0, 1, 2])
    every = class_activation(output.features, weight)
    images = torch.arange(3)
    assert torch.allclose(class_map(output, weight), every[images, predicted])
    assert torch.allclose(class_map(output, weight, "true", labels), every[images, labels])
    with pytest.raises(ValueError, match="needs labels"):
        class_map(output, weight, "true")


def test_difference_of_two_classes_is_the_map_of_the_logit_difference():
    weight = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    chosen = class_weight(weight, logits, which="difference")
    assert chosen.tolist() == [[3.0, 6.0], [-3.0, -6.0]]
    # A shift common to both classes changes no decision, and no map.
    assert torch.equal(chosen, class_weight(weight + 5, logits, which="difference"))


def test_half_precision_features_are_summed_in_float32():
    features = torch.full((1, 4096, 1, 2), 1.0, dtype=torch.bfloat16)
    features[0, 0, 0, 1] = 2.0
    output = Output(torch.zeros(1, 2, dtype=torch.bfloat16), features)
    maps = class_map(output, torch.ones(2, 4096))
    assert maps.dtype == torch.float32
    assert maps.flatten().tolist() == [4096.0, 4097.0]  # bf16 cannot tell the two apart


def test_min_max_gradient_is_right_and_zero_for_flat_maps():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(min_max, maps)
    flat = torch.full((1, 3, 3), 7.0, requires_grad=True)
    min_max(flat).square().sum().backward()
    assert flat.grad.abs().sum() == 0


def test_is_flat_is_relative():
    maps = torch.stack([torch.full((2, 2), v) for v in (0.0, 1e6, 1e-9)])
    assert is_flat_map(maps).all()
    maps[1, 0, 0] += 0.25  # rounding of a large map
    maps[2, 0, 0] *= 2  # a small map with a peak
    assert is_flat_map(maps).tolist() == [True, True, False]


def test_grad_cam_equals_the_positive_part_of_the_cam():
    network = make_network("resnet18", size=64, weights="none")
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        output = network(images)
    for classes in (torch.tensor([0, 0, 0]), torch.tensor([1, 1, 1])):
        with torch.no_grad():
            positive = class_activation(output.features, network.head_weight, classes).relu()
        # Enlarging by four and more leaves the corner cells as they are.
        corners = grad_cam(network, images, classes)[:, [[0], [-1]], [0, -1]]
        torch.testing.assert_close(corners, min_max(positive), rtol=0, atol=1e-3)


def test_grad_cam_restores_mode_and_gradients():
    network = make_network("resnet18", size=64, weights="none").train()
    statistics = network.backbone.bn1.running_mean.clone()
    grad_cam(network, torch.randn(2, 3, 64, 64), torch.tensor([0, 1]))
    assert network.training
    assert torch.equal(network.backbone.bn1.running_mean, statistics)
    assert all(p.grad is None for p in network.parameters())
    assert not any(m._forward_hooks for m in network.modules())
