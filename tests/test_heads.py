"""Cells in the place of what a network pools: identities, literal versions, gradients, refusals."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from cyborg.cam import MAPS, class_map, maps_of, min_max, model_map
from cyborg.epoch import differentiable_twice
from cyborg.heads import Attending, attention_weights, ending_of, spread
from cyborg.loss import cyborg_loss
from cyborg.models import SpreadNetwork, make_network
from cyborg.settings import run_config
from cyborg.trial import check_step

# A norm after the mean, a convolution, an MLP with a product, tokens, a class token, a head that
# attends, channels last.
ARCHS = {
    "test_convnext": "maps",
    "mobilenetv3_small_050": "maps",
    "ghostnet_050": "maps",
    "caformer_s18": "maps",
    "swin_tiny_patch4_window7_224": "channels_last",
    "test_vit2": "tokens",
    "test_vit": "",
    "test_vit3": "",
    "pit_ti_224": "",
    "resnet50_clip": "",
}
TINY = ("test_convnext", "mobilenetv3_small_050", "test_vit2", "test_vit", "test_vit3")


def noisy(arch: str, **options) -> tuple[SpreadNetwork, torch.Tensor]:
    "A random network in which what is seen reaches the last layer, and two pictures for it."
    network = make_network(arch, weights="none", **options)
    generator = torch.Generator().manual_seed(1)
    for name, p in network.named_parameters():
        one = p.ndim == 1 and not name.endswith("weight")  # scales of layers, and biases: a ReLU
        if one or p is network.last.weight:  # of nothing but zeros has no derivative
            p.data = torch.randn(p.shape, generator=generator) * 0.3
        elif p.ndim > 1:  # drawn as small as timm draws them, they say less than the biases
            p.data = torch.randn(p.shape, generator=generator) / p[0].numel() ** 0.5
    images = torch.randn(2, 3, network.size, network.size, generator=generator)
    images[0, :, :, : network.size // 2] *= 0.1  # a mean over noise is that of any noise
    images[1, :, network.size // 2 :] += 3
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # statistics of what comes, or nothing is left of it
    with torch.no_grad():
        network.backbone.train()(images)
    return network.eval(), images


@pytest.mark.parametrize("arch", ARCHS)
def test_mean_of_the_map_plus_bias_is_the_logit_that_timm_computes(arch):
    network, images = noisy(arch)
    assert network.ending.layout == ARCHS[arch]
    with torch.inference_mode():
        output, theirs = network(images), network.backbone(images)
        maps = torch.einsum("bnhw,cn->bchw", output.features, network.head_weight)
    assert tuple(maps.shape[2:]) == network.map_size
    assert maps.std((2, 3)).min() > 1e-4 * theirs.abs().max()  # flat ones would do as well
    assert theirs.std(0).max() > 1e-3 * theirs.abs().max()  # and so would a network without a say
    torch.testing.assert_close(output.logits, theirs, rtol=1e-4, atol=1e-5)
    logits = maps.mean((2, 3)) + network.head_bias
    torch.testing.assert_close(logits, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arch", ["mobilenetv3_small_050", "test_convnext"])
def test_training_and_networks_of_one_logit(arch):
    network, images = noisy(arch, one_logit=True, size=96)
    images = F.interpolate(images, 96)
    output = network.train()(images)
    assert output.logits.shape == (2, 2)
    assert torch.equal(output.logits[:, 0], -output.logits[:, 1])
    logits = output.features.mean((2, 3)) @ network.head_weight.T + network.head_bias
    torch.testing.assert_close(logits, output.logits, rtol=1e-4, atol=1e-5)


def test_norm_after_the_mean_literally():
    "ConvNeXt's head, cell by cell: centred by its own mean, divided by the pooled vector's sigma."
    network, images = noisy("test_convnext", size=64)
    with torch.no_grad():
        features = network.backbone.forward_features(images)
        norm, found = network.backbone.head.norm, network(images).features
    pooled = features.mean((2, 3))
    for b in range(2):
        sigma = (pooled[b].var(correction=0) + norm.eps).sqrt()
        for y in range(features.shape[2]):
            for x in range(features.shape[3]):
                cell = features[b, :, y, x]
                literal = (cell - cell.mean()) / sigma * norm.weight + norm.bias
                torch.testing.assert_close(found[b, :, y, x], literal, rtol=1e-4, atol=1e-5)


def test_convolution_after_the_mean_literally():
    "MobileNetV3's head: a cell passes the hard swish by the pooled value's gate."
    network, images = noisy("mobilenetv3_small_050", size=96)
    with torch.no_grad():
        features = network.backbone.forward_features(images)
        found, conv = network(images).features, network.backbone.conv_head
        value = conv(features.mean((2, 3), keepdim=True))
        gate = (value + 3).clamp(0, 6) / 6
        literal = conv(features) * gate
    torch.testing.assert_close(found, literal, rtol=1e-4, atol=1e-5)


def test_class_token_literally():
    "The last block by hand, for the class token, its attention replaced by one cell's share."
    network, images = noisy("test_vit", size=48)
    backbone, block = network.backbone, network.backbone.blocks[-1]
    with torch.no_grad():
        output = network(images)
        tokens = backbone.norm_pre(backbone._pos_embed(backbone.patch_embed(images)))
        for one in backbone.blocks[:-1]:
            tokens = one(tokens)
        qkv = block.attn.qkv(block.norm1(tokens)).unflatten(2, (3, block.attn.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = block.attn.q_norm(q), block.attn.k_norm(k)
        a = (q[:, :, :1] * block.attn.scale @ k.mT).softmax(-1)[:, :, 0]  # (B, heads, 10)
        n, head_size = 9, v.shape[-1]
        torch.testing.assert_close(output.weights.flatten(2), a[..., 1:])

        def sums(share: torch.Tensor) -> torch.Tensor:  # (B, N) of (B, heads, d)
            flat = share.reshape(2, block.attn.num_heads * head_size)
            return tokens[:, 0] + block.ls1(block.attn.proj(block.attn.norm(flat)))

        def normed(norm: nn.LayerNorm, x, whole):  # with the whole's sigma
            sigma = (whole.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()
            return (x - x.mean(-1, keepdim=True)) / sigma * norm.weight + norm.bias

        evenly = a[..., 0, None] * v[:, :, 0]
        whole = sums((a[..., None] * v).sum(2))
        hidden = block.mlp.fc1(normed(block.norm2, whole, whole))
        gate = F.gelu(hidden) / hidden
        whole_out = whole + block.ls2(block.mlp.fc2(gate * hidden))
        for x in range(n):
            at = sums(n * a[..., 1 + x, None] * v[:, :, 1 + x] + evenly)
            mlp = block.mlp.fc2(gate * block.mlp.fc1(normed(block.norm2, at, whole)))
            literal = normed(backbone.norm, at + block.ls2(mlp), whole_out)
            found = output.features[:, :, x // 3, x % 3]
            torch.testing.assert_close(found, literal, rtol=1e-3, atol=1e-4)
        patch = backbone.forward_features(images)[:, 1:]
    torch.testing.assert_close(output.tokens.flatten(2).mT, patch, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arch", ["test_convnext", "test_vit", "test_vit3", "test_vit2"])
def test_cells_lie_where_the_picture_has_them(arch):
    network, images = noisy(arch)
    half, order = network.size // 2, []
    with torch.no_grad():
        before = class_map(network(images), network.head_weight, "true", torch.tensor([0, 0]))
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            changed = images.clone()
            part = changed[:, :, row * half :, column * half :][:, :, :half, :half]
            part.copy_(torch.randn(part.shape, generator=torch.Generator().manual_seed(2)))
            after = class_map(network(changed), network.head_weight, "true", torch.tensor([0, 0]))
            apart = (after - before).abs().sum(0)[None]
            order.append(int(F.adaptive_avg_pool2d(apart, 2).argmax()))
    assert order == [0, 1, 2, 3]


class Tail(nn.Module):
    "One of each kind of function."

    def __init__(self):
        super().__init__()
        self.bn, self.ln, self.rms = nn.BatchNorm1d(6), nn.LayerNorm(6), nn.RMSNorm(6)
        self.fc, self.drop = nn.Linear(6, 12), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.rms(self.ln(torch.tanh(self.bn(x)))) + 1
        a, b = F.gelu(self.fc(x)).chunk(2, 1)
        return self.drop(F.leaky_relu(a * torch.sigmoid(b) - 0.1, inplace=True))


@pytest.mark.parametrize("training", [True, False])
def test_every_rule_keeps_the_mean(training):
    torch.manual_seed(0)
    tail, cells = Tail().double().train(training), torch.randn(7, 4, 6).double()
    before = tail.bn.running_mean.clone()
    whole, found = spread(tail, cells)
    torch.testing.assert_close(found.mean(0), whole)
    if training:  # statistics are counted once
        expected = 0.9 * before + 0.1 * cells.mean(0).mean(0)
        torch.testing.assert_close(tail.bn.running_mean, expected)
        assert ((found == 0).all(0) == (whole == 0)).all() and (whole == 0).any()
    else:
        torch.testing.assert_close(whole, tail(cells.mean(0)))


def test_a_tail_of_linear_parts_is_applied_to_each_cell():
    "Where nothing bends, spreading is what a class activation map has always been."
    torch.manual_seed(0)
    tail, cells = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 3)).eval(), torch.randn(4, 2, 5)
    assert torch.allclose(spread(tail, cells).cells, torch.stack([tail(c) for c in cells]))


@pytest.mark.parametrize("mask", [None, "added", "bool"])
def test_attention_weights_are_those_of_torch(mask):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 1, 4), torch.randn(2, 3, 5, 4), torch.eye(5).expand(2, 3, 5, 5)
    given = {None: None, "added": torch.randn(2, 3, 1, 5), "bool": torch.rand(2, 3, 1, 5) > 0.4}
    theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=given[mask], scale=0.7)
    ours = attention_weights(Attending(q, k, v, given[mask], 0.7))
    torch.testing.assert_close(ours, theirs[:, :, 0])


def loss_of(network, images, kind: str = "cam") -> torch.Tensor:
    "The CYBORG loss of a map of any kind."
    images = images.clone().requires_grad_(MAPS[kind].of_images)
    with differentiable_twice():
        output = network(images)
    labels, human = torch.tensor([0, 1]), torch.eye(network.map_size[0]).expand(2, -1, -1)
    maps = model_map(output, network.head_weight, kind, "true", labels, images)
    if kind == "cam":
        everyone = torch.tensor([True, True])
        return cyborg_loss(output, network.head_weight, labels, human, everyone, 0.5, "true").total
    apart = (min_max(maps) - human.to(maps.dtype)).square().mean()
    return F.cross_entropy(output.logits, labels) + apart


CASES = [(arch, "cam") for arch in TINY] + [
    ("test_vit", "attention_gradient"),
    ("test_vit3", "attention_gradient"),
    ("test_vit", "token_cam"),
]


@pytest.mark.parametrize(("arch", "kind"), CASES)
def test_gradients_of_the_loss_against_finite_differences(arch, kind):
    network, images = noisy(arch, size=64)
    network, images = network.double(), F.interpolate(images, 64).double()
    generator = torch.Generator().manual_seed(3)
    parameters = [p for p in network.parameters() if p.requires_grad]
    step = [torch.randn(p.shape, generator=generator).double() for p in parameters]
    step = [s / s.norm() for s in step]
    gradients = torch.autograd.grad(loss_of(network, images, kind), parameters, allow_unused=True)
    ours = sum((g * s).sum() for g, s in zip(gradients, step, strict=True) if g is not None)
    # Small for the bends of a ReLU; larger where kernels round their exp.
    sides, length = [], 1e-4 if "vit" in arch else 1e-6
    for sign in (1, -1):
        moved = copy.deepcopy(network)
        for p, s in zip(moved.parameters(), step, strict=True):
            p.data += sign * length * s
        sides.append(float(loss_of(moved, images, kind).detach()))
    literal = (sides[0] - sides[1]) / (2 * length)
    assert float(ours) == pytest.approx(literal, rel=1e-4)
    assert abs(literal) > 1e-5


def test_fused_attention_is_not_differentiated_twice():
    "A guidance by the gradient of images: the kernel that can is chosen by the run itself."
    network, images = noisy("test_vit", size=48)
    config = run_config({"manifest": "m.csv", "guidance": "rrr", "arch": "test_vit", "size": 48})
    check_step(network, config)  # as before the first step of a run
    seen = images.clone().requires_grad_()
    with pytest.raises(RuntimeError, match="derivative for .*flash_attention"):
        maps = model_map(network(seen), network.head_weight, "input_gradient", images=seen)
        maps.sum().backward()


def test_what_each_family_has():
    names = {arch: maps_of(make_network(arch, weights="none", size=96)) for arch in TINY}
    plain = ["cam", "gradcam", "hirescam", "layercam", "input_gradient", "squared_gradient"]
    assert names["test_convnext"] == names["test_vit2"] == plain
    assert names["test_vit3"] == [*plain, "attention_gradient"]
    assert names["test_vit"] == [*plain, "attention_gradient", "token_cam"]


def test_half_precision_keeps_the_identity_roughly():
    for arch in TINY:
        network, images = noisy(arch)
        with torch.autocast("cpu", torch.bfloat16):
            output = network(images)
        logits = output.features.float().mean((2, 3)) @ network.head_weight.T + network.head_bias
        torch.testing.assert_close(logits, output.logits.float(), rtol=0.05, atol=0.05)
        class_map(output, network.head_weight).square().mean().backward()


def test_a_head_that_takes_the_largest_is_refused():
    assert ending_of(timm.create_model("test_convnext", num_classes=2, global_pool="max")) is None
