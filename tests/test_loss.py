"""The CYBORG loss against a loop over images, finite differences, and libraries."""

import math

import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy, pearsonr

from cyborg.cam import min_max
from cyborg.loss import DEFINITIONS, DISTANCES, cc_distance, cyborg_loss, js, kl_distance
from cyborg.models import Output


def literal_released_loss(features, weight, bias, labels, human, alpha):
    "The released training step, image by image and cell by cell, in plain Python arithmetic."
    images, maps, cells = len(features), features.shape[1], features[0, 0].numel()
    cross_entropy, squares = 0.0, 0.0
    for k in range(images):
        logits = []
        for c in range(len(weight)):
            logit = bias[c]
            for n in range(maps):
                logit = logit + weight[c, n] * features[k, n].sum() / cells
            logits.append(logit)
        exponentials = [torch.exp(z) for z in logits]
        cross_entropy = cross_entropy - torch.log(exponentials[labels[k]] / sum(exponentials))
        predicted = max(range(len(weight)), key=lambda c: logits[c].item())
        cam = sum(weight[predicted, n] * features[k, n] for n in range(maps))
        cam = (cam - cam.min()) / (cam.max() - cam.min())
        squares = squares + ((cam - human[k]) ** 2).sum()
    classification, saliency = cross_entropy / images, squares / (images * cells)
    return alpha * classification + (1 - alpha) * saliency, classification, saliency


def random_case(seed, images=4, maps=6, classes=2, side=7):
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(images, maps, side, side, generator=generator, dtype=torch.float64)
    weight = torch.randn(classes, maps, generator=generator, dtype=torch.float64)
    bias = torch.randn(classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (images,), generator=generator)
    human = min_max(torch.rand(images, side, side, generator=generator, dtype=torch.float64))
    return [t.requires_grad_() for t in (features, weight, bias)], labels, human


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "shape", [{}, {"classes": 5}, {"images": 1}, {"side": 10, "maps": 3}], ids=str
)
@pytest.mark.parametrize("alpha", [0.5, 0.0, 0.9])
def test_released_definition_equals_the_literal_loop_and_its_gradients(seed, shape, alpha):
    (features, weight, bias), labels, human = random_case(seed, **shape)
    literal = literal_released_loss(features, weight, bias, labels, human, alpha)
    gradients = torch.autograd.grad(literal[0], (features, weight, bias), allow_unused=True)
    output = Output(features.mean((2, 3)) @ weight.T + bias, features)
    everyone = torch.ones(len(labels), dtype=bool)
    parts = cyborg_loss(output, weight, labels, human, everyone, alpha, definition="released")
    ours = torch.autograd.grad(parts.total, (features, weight, bias), allow_unused=True)
    for a, b in zip(literal, (parts.total, parts.classification, parts.saliency), strict=True):
        assert a.item() == pytest.approx(b.item(), abs=1e-10)
    for a, b in zip(gradients, ours, strict=True):
        a = torch.zeros_like(b) if a is None else a  # alpha 0 and the bias
        torch.testing.assert_close(b, a, rtol=0, atol=1e-10)


def test_printed_definition_takes_the_true_class_and_the_norm():
    (features, weight, bias), labels, human = random_case(0)
    output = Output(features.mean((2, 3)) @ weight.T + bias, features)
    everyone = torch.ones(4, dtype=bool)
    norms = []
    for k in range(4):
        cam = torch.einsum("n,nhw->hw", weight[labels[k]], features[k])
        norms.append(torch.linalg.norm(human[k] - min_max(cam[None])[0]).item())
    parts = cyborg_loss(output, weight, labels, human, everyone, definition="printed")
    assert parts.saliency.item() == pytest.approx(sum(norms) / 4)
    assert set(DEFINITIONS) == {"released", "printed"}


def test_images_without_a_map_count_only_in_the_classification_part():
    (features, weight, bias), labels, human = random_case(1)
    output = Output(features.mean((2, 3)) @ weight.T + bias, features)
    some = torch.tensor([True, False, True, False])
    parts = cyborg_loss(output, weight, labels, human, some)
    nonsense = human.clone()
    nonsense[~some] = torch.rand(2, 7, 7, dtype=torch.float64) * 9
    again = cyborg_loss(output, weight, labels, nonsense, some)
    assert parts.total.item() == again.total.item()
    assert parts.n_maps == 2
    # A batch's saliency part is the mean over all its images of what each contributes.
    each = [
        cyborg_loss(
            Output(output.logits[k : k + 1], features[k : k + 1]),
            weight,
            labels[k : k + 1],
            human[k : k + 1],
            some[k : k + 1],
        ).saliency.item()
        for k in range(4)
    ]
    assert each[1] == each[3] == 0
    assert parts.saliency.item() == pytest.approx(sum(each) / 4)


def test_a_batch_without_any_map_is_plain_cross_entropy_scaled():
    (features, weight, bias), labels, human = random_case(2)
    output = Output(features.mean((2, 3)) @ weight.T + bias, features)
    parts = cyborg_loss(output, weight, labels, human, torch.zeros(4, dtype=bool), alpha=0.3)
    assert parts.total.item() == pytest.approx(0.3 * parts.classification.item())
    (gradient,) = torch.autograd.grad(parts.total, features)
    assert gradient.isfinite().all()


def test_flat_maps_are_counted_and_never_nan():
    features = torch.zeros(3, 2, 2, 2, requires_grad=True)
    weight = torch.ones(2, 2, requires_grad=True)
    output = Output(features.mean((2, 3)) @ weight.T, features)
    human = torch.zeros(3, 2, 2)
    human[0, 0, 0] = 1
    parts = cyborg_loss(output, weight, torch.tensor([0, 1, 0]), human, torch.tensor([True] * 3))
    parts.total.backward()
    assert parts.flat_model == 1
    assert parts.flat_human == 2
    assert features.grad.isfinite().all()
    assert weight.grad.isfinite().all()


def test_scale_and_offset_of_either_map_do_not_matter():
    (features, weight, bias), labels, human = random_case(3)
    logits = features.mean((2, 3)) @ weight.T + bias
    everyone = torch.ones(4, dtype=bool)
    a = cyborg_loss(Output(logits, features), weight, labels, human, everyone).saliency
    b = cyborg_loss(Output(logits, 3 * features + 7), weight, labels, human / 4, everyone).saliency
    assert a.item() == pytest.approx(b.item())


def test_detached_weight_leaves_the_saliency_part_out_of_the_head():
    (features, weight, bias), labels, human = random_case(4)
    output = Output(features.mean((2, 3)) @ weight.T + bias, features)
    everyone = torch.ones(4, dtype=bool)
    free = cyborg_loss(output, weight, labels, human, everyone, alpha=0.0).total
    assert torch.autograd.grad(free, weight, retain_graph=True)[0].abs().sum() > 0
    held = cyborg_loss(output, weight.detach(), labels, human, everyone, alpha=0.0).total
    assert torch.autograd.grad(held, weight)[0].abs().sum() == 0


@pytest.mark.parametrize("name", DISTANCES)
def test_distances_are_zero_on_equal_maps_and_have_right_gradients(name):
    generator = torch.Generator().manual_seed(0)
    human, model = min_max(torch.rand(2, 5, 4, 3, generator=generator, dtype=torch.float64))
    human, model = human.abs().clamp(0.05, 0.95), model.clamp(0.05, 0.95)
    human, model = human[None], model[None]
    distance = DISTANCES[name]
    human, model = human.flatten(1, 2), model.flatten(1, 2)
    assert distance(human, human).abs().max() < 1e-6
    assert (distance(model, human) > 1e-3).all()
    model.requires_grad_()
    assert torch.autograd.gradcheck(lambda m: distance(m, human), model)


def test_distances_agree_with_scipy():
    generator = torch.Generator().manual_seed(1)
    human, model = torch.rand(2, 1, 6, 6, generator=generator, dtype=torch.float64)
    p, q = human.flatten().numpy(), model.flatten().numpy()
    assert kl_distance(model, human).item() == pytest.approx(entropy(p, q), rel=1e-4)
    assert js(model, human).item() == pytest.approx(jensenshannon(p, q) ** 2, rel=1e-4)
    assert cc_distance(model, human).item() == pytest.approx(1 - pearsonr(p, q)[0], rel=1e-6)


def test_loss_is_never_computed_in_half_precision():
    features = torch.rand(2, 3, 2, 2).bfloat16()
    logits = torch.tensor([[0.001, 0.0], [0.0, 0.0]]).bfloat16()
    parts = cyborg_loss(
        Output(logits, features),
        torch.rand(2, 3),
        torch.tensor([0, 1]),
        torch.rand(2, 2, 2),
        torch.tensor([True, True]),
    )
    assert parts.total.dtype == torch.float32
    expected = (math.log(2) + math.log(1 + math.exp(-logits[0, 0].item()))) / 2
    assert parts.classification.item() == pytest.approx(expected, rel=1e-5)
