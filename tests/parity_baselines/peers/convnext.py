"""ConvNeXt: timm's with the official keys, and torchvision's as a second witness."""

import re

import timm
import torch
import torchvision

from generate import Case

#: Names inside a block: official, timm, torchvision, mmpretrain.
BLOCK = [
    ("dwconv", "conv_dw", "block.0", "depthwise_conv"),
    ("norm", "norm", "block.2", "norm"),
    ("pwconv1", "mlp.fc1", "block.3", "pointwise_conv1"),
    ("pwconv2", "mlp.fc2", "block.5", "pointwise_conv2"),
    ("gamma", "gamma", "layer_scale", "gamma"),
]


def official(key):
    """The official key for one of timm."""
    key = key.replace("head.norm.", "norm.").replace("head.fc.", "head.")
    key = re.sub(r"^stem\.", "downsample_layers.0.", key)
    key = re.sub(r"^stages\.(\d+)\.downsample\.", r"downsample_layers.\1.", key)
    key = re.sub(r"^stages\.(\d+)\.blocks\.", r"stages.\1.", key)
    for ours, theirs, _, _ in BLOCK:
        key = key.replace(f".{theirs}", f".{ours}") if key.startswith("stages.") else key
    return key


def in_torchvision(key):
    """torchvision's key for an official one."""
    if found := re.match(r"stages\.(\d+)\.(\d+)\.(\w+)(.*)", key):
        stage, block, name, rest = found.groups()
        return f"features.{2 * int(stage) + 1}.{block}.{[row[2] for row in BLOCK if row[0] == name][0]}{rest}"
    key = re.sub(r"^downsample_layers\.(\d+)\.", lambda found: f"features.{2 * int(found[1])}.", key)
    return re.sub(r"^norm\.", "classifier.0.", re.sub(r"^head\.", "classifier.2.", key))


def in_mmpretrain(key):
    """mmpretrain's key for an official one."""
    if found := re.match(r"(stages\.\d+\.\d+)\.(\w+)(.*)", key):
        stage, name, rest = found.groups()
        return f"backbone.{stage}.{[row[3] for row in BLOCK if row[0] == name][0]}{rest}"
    if key.startswith("head."):
        return key.replace("head.", "head.fc.")
    return "backbone." + key.replace("norm.", "norm3.") if key.startswith("norm.") else "backbone." + key


class Official(torch.nn.Module):
    """A model of timm under the official keys; with `norms`, those of the published detectors on every level, else the classifier."""

    def __init__(self, name, norms):
        super().__init__()
        self.inner = timm.create_model(name, num_classes=0 if norms else 1000)
        self.norms = None
        if norms:
            self.inner.head = torch.nn.Identity()
            widths = [info["num_chs"] for info in self.inner.feature_info]
            self.norms = torch.nn.ModuleDict({f"norm{level}": torch.nn.LayerNorm(width, eps=1e-6) for level, width in enumerate(widths)})

    def named(self, entries):
        parts = ((key.removeprefix("inner."), value) for key, value in entries)
        return {key.removeprefix("norms.") if key.startswith("norms.") else official(key): value for key, value in parts}

    def state_dict(self):
        return self.named(super().state_dict().items())

    def named_parameters(self, *args, **kwargs):
        return iter(self.named(super().named_parameters(*args, **kwargs)).items())

    def load_state_dict(self, state):
        with torch.no_grad():
            for key, tensor in self.state_dict().items():
                tensor.copy_(state[key])

    def forward(self, x):
        if not self.norms:
            return {"logits": self.inner(x)}
        x, levels = self.inner.stem(x), {}
        for level, stage in enumerate(self.inner.stages):
            x = stage(x)
            levels[f"feat{level}"] = self.norms[f"norm{level}"](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return levels


def classifier(name, sizes, gradient_size=None):
    model, witness = Official(name, norms=False), torchvision.models.get_model(name).eval()

    def forward(x):
        out = model(x)
        state = {in_torchvision(key): tensor for key, tensor in model.state_dict().items()}
        shapes = witness.state_dict()
        witness.load_state_dict({key: tensor.reshape(shapes[key].shape) for key, tensor in state.items()})
        with torch.no_grad():
            torch.testing.assert_close(witness(x), out["logits"].detach(), rtol=1e-4, atol=1e-4)
        return out

    keys = list(model.state_dict())
    timm_keys = {key: official(key) for key in model.inner.state_dict()}
    names = {"timm": timm_keys, "torchvision": {in_torchvision(key): key for key in keys}, "mmpretrain": {in_mmpretrain(key): key for key in keys}}
    return Case(name, model, forward, sizes, gradient_size=gradient_size, spellings=names if gradient_size else None)


def cases():
    torch.manual_seed(0)
    yield classifier("convnext_tiny", [[224, 224], [288, 250]], [32, 40])
    yield classifier("convnext_base", [[64, 96]])
    model = Official("convnext_tiny", norms=True)
    yield Case("convnext_tiny_pyramid", model, model.forward, [[43, 75]], gradient_size=[43, 75])
