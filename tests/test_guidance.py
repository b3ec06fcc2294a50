"""Guidance terms and model maps against slow literal versions, properties, and whole runs."""

import json
import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from test_training import same_run, settings, write_faces
from torch.nn.functional import conv2d, cross_entropy

from cyborg.cam import (
    class_map,
    gradient_map,
    input_gradient,
    model_map,
    squared_gradient,
    weighted_map,
)
from cyborg.data import Batch
from cyborg.epoch import batch_loss
from cyborg.guidance import (
    GUIDANCES,
    LEVELS,
    Case,
    _positive_part,
    blurred,
    guided_loss,
    imputation,
    pyramid,
    res_threshold,
    time_weights,
)
from cyborg.loss import DISTANCES, cyborg_loss, dynamic_alpha
from cyborg.models import Output, attended, attention_rollout, make_network
from cyborg.others.quirks import QUIRKS
from cyborg.runs import differing
from cyborg.settings import RunConfig, SettingsError, run_config
from cyborg.training import load_run, train


def random_case(seed: int = 0, images: int = 3, cells: tuple[int, int] = (5, 4)) -> Case:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(images, *cells, generator=generator, dtype=torch.float64)  # noqa: E731
    human = draw().clamp(min=0)  # a good part is exactly 0: nobody looked there
    return Case(draw(), human, "mse", draw(), imputation().double())


def scaled(cells: list[list[float]]) -> list[list[float]]:
    low, high = min(map(min, cells)), max(map(max, cells))
    return [[(v - low) / (high - low) for v in row] for row in cells]


def every(cells: list[list[float]]) -> list[float]:
    return [v for row in cells for v in row]


def literal_rrr(squared, human, *_):
    h = scaled(human)
    return sum((1 - b) ** 2 * a for a, b in zip(every(squared), every(h), strict=True))


def literal_rrr_gradcam(maps, human, *_):
    m, h = every(scaled(maps)), every(scaled(human))
    return sum(((1 - b) * a) ** 2 for a, b in zip(m, h, strict=True))


def literal_energy(maps, human, *_):
    inside = outside = 0.0
    for a, b in zip(every(maps), every(scaled(human)), strict=True):
        inside += max(a, 0) * b
        outside += max(a, 0) * (1 - b)
    return outside / (inside + outside)


def literal_gradia(maps, human, *_):
    m, h = every(scaled(maps)), every(scaled(human))
    return sum(abs(a - b) for a, b in zip(m, h, strict=True)) / len(m)


def literal_hint(maps, human, *_):
    m, h = every(scaled(maps)), every(human)
    total, pairs = 0.0, 0
    for i in range(len(m)):
        for j in range(len(m)):
            if h[i] > h[j]:
                pairs += 1
                if m[i] < m[j]:
                    total += m[j] - m[i]
    return total / pairs


def literal_blur(human):
    h, (rows, columns) = scaled(human), (len(human), len(human[0]))
    mirror = lambda i, n: -i if i < 0 else 2 * (n - 1) - i if i >= n else i  # noqa: E731
    line, out = (0.25, 0.5, 0.25), [[0.0] * columns for _ in range(rows)]
    for y in range(rows):
        for x in range(columns):
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    value = h[mirror(y + dy, rows)][mirror(x + dx, columns)]
                    out[y][x] += line[dy + 1] * line[dx + 1] * value
    return out


def literal_res(maps, human, imputed):
    m, h = every(scaled(maps)), every(scaled(human))
    marked = [i for i, b in enumerate(h) if b >= 0.5]
    out = [i for i, b in enumerate(h) if b < 0.05]
    best, a = Fraction(0), 0.0
    # just above each ruled-out cell, then at each marked one; a later one must be better
    for v in [m[i] + 1e-4 for i in out] + [m[i] for i in marked]:
        kept = Fraction(sum(v <= m[j] for j in marked), len(marked))
        kept += Fraction(sum(v > m[j] for j in out), len(out))
        if kept > best:
            best, a = kept, v
    off = [abs(math.tanh(5 * (m[i] - a)) - 1) for i in marked]
    off += [abs(math.tanh(5 * (m[i] - a)) + 1) for i in out]
    near = [abs(p - q) for p, q in zip(m, every(imputed), strict=True)]
    return max(0.0, sum(off) / len(off)) + sum(near) / len(near)


def literal_res_g(maps, human, *_):
    blur = literal_blur(human)
    return literal_res(maps, human, [[v / max(every(blur)) for v in row] for row in blur])


def literal_res_l(maps, human, *_):
    return literal_res(maps, human, scaled(literal_blur(human)))  # before any step


def literal_entropy(maps):
    m = every(scaled(maps))
    p = [v / (sum(m) + 1e-10) + 1e-10 for v in m]
    return -sum(v * math.log(v) for v in p)


def literal_mse(a, b):
    return sum((x - y) ** 2 for x, y in zip(every(a), every(b), strict=True)) / len(every(a))


def literal_divisive(maps, human, false):
    inverted = [[1 - v for v in row] for row in scaled(human)]
    first = literal_mse(scaled(maps), scaled(human))
    return (first + literal_mse(scaled(false), inverted)) / 2


def literal_divisive_difference(maps, human, false):
    difference = [
        [a - b for a, b in zip(r, s, strict=True)] for r, s in zip(maps, false, strict=True)
    ]
    return literal_mse(scaled(difference), scaled(human))


def literal_divisive_contrast(maps, human, false):
    h = every(scaled(human))
    apart = [abs(a - b) for a, b in zip(every(scaled(maps)), every(scaled(false)), strict=True)]
    return 1 - sum(q * d for q, d in zip(h, apart, strict=True)) / sum(h)


def literal_positive(cells):
    v = every(cells)
    mean = sum(v) / len(v)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in v) / len(v)) + 1e-5
    return [[max(0.0, (x - mean) / deviation) for x in row] for row in cells]


def literal_halved(cells):
    "TensorFlow's SAME convolution with stride 2: the padding before is the smaller half."
    rows, columns = len(cells), len(cells[0])
    height, width = -(-rows // 2), -(-columns // 2)
    top = ((height - 1) * 2 + 5 - rows) // 2
    left = ((width - 1) * 2 + 5 - columns) // 2
    line, out = (1, 4, 6, 4, 1), [[0.0] * width for _ in range(height)]
    for y in range(height):
        for x in range(width):
            for i in range(5):
                for j in range(5):
                    r, c = 2 * y - top + i, 2 * x - left + j
                    if 0 <= r < rows and 0 <= c < columns:
                        out[y][x] += line[i] * line[j] * cells[r][c] / 256
    return out


def literal_harmonisation(maps, human, *_):
    a, b = literal_positive(maps), literal_positive(human)
    up = (max(every(a)) + 1e-6) / (max(every(b)) + 1e-6)
    b, levels = [[v * up for v in row] for row in b], []
    while True:
        levels.append(literal_mse(a, b))
        if len(levels) == LEVELS or len(a) == len(a[0]) == 1:
            return sum(levels) / len(levels)
        a, b = literal_halved(a), literal_halved(b)


def literal_hoax(height, width):
    "Cells taken one by one: the one nearest to the border, then to a corner, then to the start."
    left = [(y, x) for y in range(height) for x in range(width)]
    off = lambda i, n: abs(2 * i - (n - 1)) / (n - 1)  # noqa: E731
    where = lambda c: (off(c[0], height), off(c[1], width))  # noqa: E731
    rank = lambda c: (max(where(c)), sum(v**2 for v in where(c)))  # noqa: E731
    taken = []
    while len(taken) < round(4 * height * width / 7):
        taken.append(max(left, key=lambda c: (rank(c), -left.index(c))))
        left.remove(taken[-1])
    return [[float((y, x) in taken) for x in range(width)] for y in range(height)]


LITERAL = {
    "cyborg": lambda m, h, *_: literal_mse(scaled(m), scaled(h)),
    "rrr": literal_rrr,
    "rrr_gradcam": literal_rrr_gradcam,
    "hint": literal_hint,
    "gradia": literal_gradia,
    "res_g": literal_res_g,
    "res_l": literal_res_l,
    "energy": literal_energy,
    "fmmce": lambda m, *_: literal_entropy(m),
    "droid": lambda m, *_: math.log(1 + literal_entropy(m)),
    "hbcam": lambda m, h, *_: (literal_entropy(m) - literal_entropy(h)) ** 2,
    "droid_cyborg": lambda m, h, *_: (
        literal_mse(scaled(m), scaled(h)) + math.log(1 + literal_entropy(m))
    ),
    "divisive": literal_divisive,
    "divisive_difference": literal_divisive_difference,
    "divisive_contrast": literal_divisive_contrast,
    "harmonisation": literal_harmonisation,
    "sham": lambda m, *_: literal_mse(scaled(m), literal_hoax(len(m), len(m[0]))),
    "attention": lambda m, h, *_: np.mean(
        [abs(a - b) for a, b in zip(np.ravel(m), np.ravel(h), strict=True)]
    ),
}


@pytest.mark.parametrize("name", GUIDANCES)
@pytest.mark.parametrize("cells", [(5, 4), (8, 8)], ids=str)
def test_term_equals_its_literal_version(name, cells):
    case = random_case(1, cells=cells)
    ours = GUIDANCES[name].term(case)
    for k in range(len(ours)):
        literal = LITERAL[name](*(t[k].tolist() for t in (case.maps, case.human, case.false_maps)))
        assert ours[k].item() == pytest.approx(literal, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", GUIDANCES)
def test_term_has_right_gradients_and_finite_ones_where_maps_are_flat(name, monkeypatch):
    case = random_case(2, images=2, cells=(3, 4))
    term = lambda maps: GUIDANCES[name].term(case._replace(maps=maps))  # noqa: E731
    maps, held = case.maps.clone().requires_grad_(), {}
    # RES holds its threshold fixed, and harmonisation the human map's scale: a finite difference
    # is an oracle only for a threshold that stays, and none for harmonisation.
    with monkeypatch.context() as patch:
        once = lambda *given: held.setdefault("a", res_threshold(*given))  # noqa: E731
        patch.setattr("cyborg.guidance.res_threshold", once)
        if name != "harmonisation":
            assert torch.autograd.gradcheck(term, maps)
    for value in (0.0, 3.0, -1.0):
        flat = torch.full_like(case.maps, value).requires_grad_()
        loss = GUIDANCES[name].term(case._replace(maps=flat, false_maps=-flat)).sum()
        assert loss.isfinite()
        (gradient,) = torch.autograd.grad(loss, flat)
        assert gradient.isfinite().all()


def test_res_threshold_lies_just_above_a_ruled_out_cell_where_many_are_as_good():
    "Maps that half agree, as in training: hardly any threshold lies at a marked cell."
    generator = torch.Generator().manual_seed(0)
    people = torch.rand(100, 49, generator=generator) ** 4
    model = 0.6 * people + 0.4 * torch.rand(100, 49, generator=generator)
    marked, ruled_out = people >= 0.5, people < 0.05
    a = res_threshold(model, marked, ruled_out)
    apart = a[:, None] - model
    on_marked = (marked & (apart == 0)).any(1)
    above_ruled_out = (ruled_out & ((apart - 1e-4).abs() < 1e-6)).any(1)
    assert (on_marked | above_ruled_out).all() and on_marked.sum() <= 10
    half = res_threshold(model.half(), marked, ruled_out)  # 1e-4 is lost in half precision
    assert half.dtype == torch.float32 and (half - a).abs().median() < 1e-3


@pytest.mark.parametrize("name", sorted(set(GUIDANCES) - {"rrr", "energy", "attention"}))
def test_scale_and_offset_of_the_model_map_do_not_matter(name):
    case = random_case(3)
    changed = case._replace(maps=3 * case.maps + 7, false_maps=3 * case.false_maps + 7)
    ours, theirs = (GUIDANCES[name].term(c) for c in (case, changed))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_harmonisation_moves_the_model_and_not_the_target():
    "Its gradient is that of the distance from a target whose scale is held fixed."
    case = random_case(5, images=1)
    people = _positive_part(case.human)
    target = people / people.max() * _positive_part(case.maps).max()

    def from_fixed(maps):
        both = zip(pyramid(_positive_part(maps)), pyramid(target), strict=True)
        return torch.stack([(a - b).square().mean() for a, b in both]).mean()

    maps = case.maps.clone().requires_grad_()
    (ours,) = torch.autograd.grad(GUIDANCES["harmonisation"].term(case._replace(maps=maps)), maps)
    (theirs,) = torch.autograd.grad(from_fixed(maps), maps)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert torch.autograd.gradcheck(from_fixed, maps)


def test_energy_cares_for_the_sign_and_not_for_the_distribution_inside():
    case = random_case(4)
    energy = GUIDANCES["energy"].term
    torch.testing.assert_close(energy(case), energy(case._replace(maps=case.maps * 9)))
    box = torch.zeros(1, 4, 4)
    box[0, :2] = 1
    for inside in ([5.0] + [0.0] * 7, [1.0] * 8):
        maps = torch.full((1, 4, 4), -2.0)
        maps[0, :2] = torch.tensor(inside).view(2, 4)
        assert energy(Case(maps, box, "mse")).item() == pytest.approx(0)


def test_pyramid_has_the_published_levels_and_no_more_than_the_map_allows():
    assert [level.shape[-1] for level in pyramid(torch.zeros(1, 64, 64))] == [64, 32, 16, 8, 4]
    assert [level.shape[-2:] for level in pyramid(torch.zeros(1, 3, 5))] == [
        (3, 5),
        (2, 3),
        (1, 2),
        (1, 1),
    ]


def small_output(seed: int = 0, classes: int = 2):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(4, 6, 5, 5, generator=generator, dtype=torch.float64)
    weight = torch.randn(classes, 6, generator=generator, dtype=torch.float64)
    human = torch.rand(4, 5, 5, generator=generator, dtype=torch.float64)
    output = Output(features.mean((2, 3)) @ weight.T, features)
    return output, weight, torch.arange(4) % classes, human


def test_cyborg_by_name_is_the_cyborg_loss_bit_for_bit():
    output, weight, labels, human = small_output()
    some = torch.tensor([True, False, True, True])
    human[2] = 0.3  # flat
    for which in ("pred", "true", "difference"):
        for distance in ("mse", "l2", "kl"):
            given = (output, weight, labels, human, some, 0.3, which, distance)
            for a, b in zip(cyborg_loss(*given), guided_loss(*given), strict=True):
                assert torch.equal(a, b)


def test_images_without_a_map_count_only_where_no_map_is_needed():
    output, weight, labels, human = small_output()
    nobody = torch.zeros(4, dtype=torch.bool)
    for name, guidance in GUIDANCES.items():
        if guidance.kind != "cam" or name == "res_l":
            continue
        parts = guided_loss(output, weight, labels, human, nobody, guidance=name)
        assert (parts.saliency > 0) == (not guidance.needs_map), name
        assert parts.n_maps == (0 if guidance.needs_map else 4)


def test_publication_fixes_the_class():
    output, weight, labels, human = small_output()
    everyone = torch.ones(4, dtype=torch.bool)
    wrong = 1 - output.logits.argmax(1)  # labels that are never predicted
    hint = guided_loss(output, weight, wrong, human, everyone, guidance="hint").saliency
    maps = class_map(output, weight, "true", wrong)
    assert hint.item() == pytest.approx(GUIDANCES["hint"].term(Case(maps, human, "")).mean().item())


def test_divisive_needs_two_classes():
    output, weight, labels, human = small_output(classes=3)
    with pytest.raises(ValueError, match="for two classes, got 3"):
        guided_loss(output, weight, labels, human, torch.ones(4) > 0, guidance="divisive")


def test_dynamic_alpha_has_no_gradient_and_weights_the_parts():
    output, weight, labels, human = small_output()
    weight.requires_grad_()
    given = (output._replace(logits=output.features.mean((2, 3)) @ weight.T), weight, labels, human)
    everyone = torch.ones(4, dtype=torch.bool)
    parts = guided_loss(*given, everyone, None)
    alpha = dynamic_alpha(parts.classification, parts.saliency)
    expected = (parts.classification / (parts.classification + parts.saliency)).item()
    assert alpha.item() == pytest.approx(expected)
    (ours,) = torch.autograd.grad(parts.total, weight, retain_graph=True)
    ce, s = (torch.autograd.grad(p, weight, retain_graph=True)[0] for p in parts[1:3])
    torch.testing.assert_close(ours, alpha * ce + (1 - alpha) * s)


def test_time_weights_are_the_longest_minus_ones_own_over_the_mean():
    seconds = [2.0, 7.5, 4.0, 7.5]
    left = [7.5 - s for s in seconds]
    literal = [v / (sum(left) / 4) for v in left]
    assert time_weights(torch.tensor(seconds)).tolist() == pytest.approx(literal)
    assert time_weights(torch.tensor([math.nan, math.nan])).tolist() == [1.0, 1.0]


@pytest.fixture(scope="module")
def network():
    return make_network("resnet18", size=40, weights="none")


def test_weighted_maps_equal_a_loop_over_feature_maps():
    generator = torch.Generator().manual_seed(0)
    features, gradient = torch.randn(2, 1, 4, 3, 2, generator=generator, dtype=torch.float64)
    for y in range(3):
        for x in range(2):
            grad = hires = layer = 0.0
            for n in range(4):
                f, g = features[0, n, y, x].item(), gradient[0, n, y, x].item()
                grad += gradient[0, n].mean().item() * f
                hires += g * f
                layer += max(g, 0) * f
            wanted = {"gradcam": max(grad, 0), "hirescam": hires, "layercam": max(layer, 0)}
            for kind, literal in wanted.items():
                ours = weighted_map(features, gradient, kind)
                assert ours[0, y, x].item() == pytest.approx(literal)


@pytest.mark.parametrize("kind", ["gradcam", "hirescam", "layercam"])
@pytest.mark.parametrize("which", ["pred", "true", "difference"])
def test_closed_forms_equal_autograd(network, kind, which):
    images = torch.randn(3, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    labels, output = torch.tensor([1, 0, 1]), network(images)
    chosen = output.logits.argmax(1) if which != "true" else labels
    own, other = (output.logits.gather(1, c[:, None])[:, 0] for c in (chosen, 1 - chosen))
    score = own - other if which == "difference" else own
    theirs = gradient_map(score, output.features, kind)
    ours = model_map(output, network.head_weight, kind, which, labels)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_image_gradients_equal_a_loop_over_pixels(network):
    images = torch.randn(
        2, 3, 40, 40, generator=torch.Generator().manual_seed(1), requires_grad=True
    )
    logits = network(images).logits
    labels = torch.tensor([0, 1])
    score = logits.gather(1, labels[:, None])[:, 0]
    ours = input_gradient(score, images, (2, 2))
    squared = squared_gradient(logits, images, (2, 2))
    for k in range(2):
        (g,) = torch.autograd.grad(logits[k, labels[k]], images, retain_graph=True)
        (r,) = torch.autograd.grad(logits[k].log_softmax(0).sum(), images, retain_graph=True)
        for y in range(2):
            for x in range(2):
                cell = np.s_[k, :, 20 * y : 20 * y + 20, 20 * x : 20 * x + 20]
                literal = g[cell].abs().max(0).values.mean().item()
                assert ours[k, y, x].item() == pytest.approx(literal, rel=1e-4)
                assert squared[k, y, x].item() == pytest.approx(
                    r[cell].square().sum().item(), rel=1e-4
                )


def test_rrr_pulls_the_gradient_away_from_a_shortcut():
    "A linear model with two redundant pixels: RRR alone moves the weight to the one allowed."
    weight = torch.tensor([1.0, 1.0], requires_grad=True)
    human = torch.tensor([[[1.0, 0.0]]])
    for _ in range(50):
        images = torch.ones(1, 3, 1, 2, requires_grad=True)
        z = (images[:, 0, 0] * weight).sum(1)
        squared = squared_gradient(torch.stack([-z, z], 1), images, (1, 2))
        loss = GUIDANCES["rrr"].term(Case(squared, human, "")).sum()
        (gradient,) = torch.autograd.grad(loss, weight)
        with torch.no_grad():
            weight -= 0.02 * gradient
    assert weight[1].abs() < 0.1 * weight[0].abs()


def test_rollout_equals_a_loop_over_blocks_and_rows_sum_to_one():
    generator = torch.Generator().manual_seed(0)
    attentions = [torch.randn(2, 3, 5, 5, generator=generator).softmax(-1) for _ in range(3)]
    ours = attention_rollout(attentions, (2, 2))
    for k in range(2):
        rolled = np.eye(5)
        for attention in attentions:
            mean = sum(attention[k, head].numpy() for head in range(3)) / 3
            rolled = (0.5 * mean + 0.5 * np.eye(5)) @ rolled
        np.testing.assert_allclose(rolled.sum(1), 1, rtol=1e-5)
        np.testing.assert_allclose(ours[k].flatten(), rolled[0, 1:], rtol=1e-5)


def test_attended_refuses_a_network_without_blocks(network):
    with pytest.raises(ValueError, match="backbone is a ResNet, expected a timm VisionTransformer"):
        attended(network.backbone, torch.zeros(1, 3, 40, 40))


# Whole runs


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    path = write_faces(tmp_path_factory.mktemp("faces"))
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.assign(seconds=[str(2 + i % 5) for i in range(len(table))]).to_csv(path, index=False)
    return path


def short(faces, folder, **changes) -> dict:
    tiny = {"arch": "test_resnet", "size": 48, "epochs": 1, "flip": 0.0, "batch_size": 8}
    return settings(faces, folder, **tiny, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance": "rrr", "alpha": 0.9},
        {"guidance": "hint", "map_kind": "layercam", "precision": "bf16"},
        {"guidance": "harmonisation", "precision": "bf16"},
        {"guidance": "divisive", "weighting": "dynamic", "one_logit": True},
        {"guidance": "droid_cyborg", "weighting": "time"},
    ],
    ids=lambda c: "-".join(map(str, c.values())),
)
def test_a_run_trains_with_it(faces, tmp_path, changes):
    folder = train(run_config(short(faces, tmp_path, **changes)))
    run = load_run(folder)
    row = run.history.iloc[0]
    assert np.isfinite(row.to_numpy(float)).all()
    assert row["train_saliency"] > 0
    assert row["val_saliency"] > 0
    assert run.config.guidance == changes["guidance"]
    if changes.get("weighting") != "dynamic":
        alpha = changes.get("alpha", 0.5)
        blended = alpha * row["train_classification"] + (1 - alpha) * row["train_saliency"]
        assert row["train_loss"] == pytest.approx(blended)


def test_learnt_imputation_moves_is_resumed_and_stays_out_of_the_network(faces, tmp_path):
    asked = short(faces, tmp_path, guidance="res_l", alpha=0.1, lr=0.1) | {"epochs": 2}
    whole = train(run_config(asked | {"name": "whole"}))

    class Stop(Exception):
        pass

    def stop(rows):
        if len(rows) == 1:
            raise Stop

    with pytest.raises(Stop):
        train(run_config(asked | {"name": "stopped"}), callbacks=[stop])
    same_run(whole, train(run_config(asked | {"name": "stopped"})))
    state = torch.load(whole / "last" / "checkpoint.pt", weights_only=True)["network"]
    assert not torch.equal(state["imputation.kernel"], imputation().kernel.detach())
    assert not hasattr(load_run(whole).network, "imputation")


def settings_of_the_loss():
    "Every guidance with every class, distance and weighting, and the released loss, at all alphas."
    for guidance, known in GUIDANCES.items():
        given = {"guidance": guidance, "distance": "l2"}
        given |= {"attention": "regression"} if guidance == "attention" else {}
        yield from ({**given, "alpha": alpha} for alpha in (0.0, 0.5, 1.0))
        yield {**given, "weighting": "dynamic"}
        yield from (
            {**given, "which": which} for which in ("true", "difference") if not known.which
        )
    yield from ({"distance": name, "alpha": alpha} for name in DISTANCES for alpha in (0.0, 0.5))
    yield from ({"map_kind": kind} for kind in ("gradcam", "hirescam", "layercam"))
    yield from ({"quirks": name, "alpha": 1.0} for name in (*QUIRKS, "released", "hook,score"))
    yield {"weighting": "time", "detach_weight": True}


@pytest.mark.parametrize("mapped", [[1, 0, 1, 0, 1], [0] * 5], ids=["some", "none"])
def test_no_loss_makes_nan_of_images_without_maps_or_of_flat_ones(mapped):
    "Image 0 has a flat model map, image 2 a flat human one, 1 and 3 have none; gradients, too."
    draw = lambda seed, *shape: torch.randn(shape, generator=torch.Generator().manual_seed(seed))  # noqa: E731
    pixels, human = draw(0, 5, 3, 8, 8), draw(1, 5, 2, 2).abs()
    pixels[0], human[1:4] = 0, 0
    labels, has_map = torch.tensor([0, 1, 0, 1, 1]), torch.tensor(mapped) > 0
    classical = 0
    for given in settings_of_the_loss():
        config, images = RunConfig("m.csv", **given), pixels.clone().requires_grad_()
        kernel, weight = (draw(*how).requires_grad_() for how in ((2, 4, 3, 4, 4), (3, 2, 4)))
        features = conv2d(images, kernel, stride=4).tanh()
        attention = features.mean(1).sigmoid() if config.attention != "none" else None
        output = Output(features.mean((2, 3)) @ weight.T, features, attention)
        network = SimpleNamespace(head_weight=weight, imputation=imputation())
        batch = Batch(images, labels, human, has_map, torch.arange(5))
        times = torch.tensor([0.0, 1, 2, 1, 1]) if config.weighting == "time" else None
        parts = batch_loss(network, output, batch, config, times)
        plain = cross_entropy(output.logits, labels)
        theirs = torch.autograd.grad(plain, (kernel, weight), retain_graph=True)
        parts.total.backward()
        for value in (parts.total, parts.saliency, kernel.grad, weight.grad):
            assert value.isfinite().all(), given
        if config.alpha == 1:  # the released script has no saliency part there
            assert parts.total.item() == plain.item(), given
            torch.testing.assert_close((kernel.grad, weight.grad), theirs)
            classical += 1
    assert classical == len(GUIDANCES) + len(QUIRKS) + 2


def test_classical_training_ignores_the_guidance():
    output, weight, labels, human = small_output()
    network = SimpleNamespace(head_weight=weight)
    batch = Batch(torch.zeros(0), labels, human, torch.ones(4) > 0, torch.arange(4))
    plain, guided = (
        batch_loss(network, output, batch, RunConfig("m.csv", alpha=1.0, **more))
        for more in ({}, {"guidance": "rrr", "weighting": "dynamic"})
    )
    assert all(torch.equal(a, b) for a, b in zip(plain, guided, strict=True))


@pytest.mark.parametrize(
    ("weighting", "ce", "maps"),
    [("time", 2, 2), ("time_classification", 2, 1), ("time_saliency", 1, 2)],
)
def test_time_weighs_the_parts_that_are_named(weighting, ce, maps):
    output, weight, labels, human = small_output()
    network = SimpleNamespace(head_weight=weight)
    batch = Batch(torch.zeros(0), labels, human, torch.ones(4) > 0, torch.arange(4))
    plain = batch_loss(network, output, batch, RunConfig("m.csv"))
    twice = torch.full((4,), 2.0)
    ours = batch_loss(network, output, batch, RunConfig("m.csv", weighting=weighting), twice)
    assert (ours.classification / plain.classification).item() == pytest.approx(ce)
    assert (ours.saliency / plain.saliency).item() == pytest.approx(maps)


def test_wrong_guidance_is_refused_by_name():
    for wrong, message in (
        ({"guidance": "grada"}, "did you mean 'gradia'"),
        ({"map_kind": "gradcams"}, "did you mean 'gradcam'"),
        ({"weighting": "dynamc"}, "did you mean 'dynamic'"),
        ({"guidance": "rrr", "map_kind": "cam"}, "looks at squared_gradient"),
        ({"map_kind": "squared_gradient"}, "looks at a map of one class"),
        ({"guidance": "energy", "which": "difference"}, "takes the map of the true class"),
    ):
        with pytest.raises(SettingsError, match=message):
            RunConfig("m.csv", **wrong)


def test_weights_by_time_without_times_leave_no_folder(faces, tmp_path):
    table = pd.read_csv(faces, dtype=str, keep_default_na=False).drop(columns="seconds")
    table.to_csv(faces.with_name("untimed.csv"), index=False)
    asked = short(faces.with_name("untimed.csv"), tmp_path, weighting="time")
    with pytest.raises(SettingsError, match="needs a column seconds"):
        train(run_config(asked))
    assert list(tmp_path.iterdir()) == []


def test_a_run_made_before_a_setting_existed_is_the_same_run_at_its_default():
    new = {"settings": vars(RunConfig("m.csv")).copy(), "provenance": {"manifest_digest": "1"}}
    old = json.loads(json.dumps(new))
    del old["settings"]["guidance"]
    assert differing(old, new) == []
    new["settings"]["guidance"] = "hint"
    assert differing(old, new) == ["guidance: 'cyborg', now 'hint'"]


def test_blur_of_an_empty_map_is_empty():
    assert blurred(torch.zeros(1, 4, 4)).abs().sum() == 0
