"""Swin Transformer: torchvision's for windows of 7, timm's for windows of other sizes.

The reference keys are those of the official repository; the networks below are seen through them.
"""

import re

import timm
import torch
import torchvision
from generate import Case
from torch import nn


def from_torchvision(key):
    """torchvision's key in the official spelling; None for a buffer."""
    if key.endswith("relative_position_index"):
        return None
    for pattern, official in [
        (r"features\.0\.0\.", "patch_embed.proj."),
        (r"features\.0\.2\.", "patch_embed.norm."),
        (r"mlp\.0\.", "mlp.fc1."),
        (r"mlp\.3\.", "mlp.fc2."),
    ]:
        key = re.sub(pattern, official, key)
    if match := re.fullmatch(r"features\.(\d+)\.(.*)", key):
        index, rest = int(match[1]), match[2]
        return f"layers.{index // 2}.blocks.{rest}" if index % 2 else f"layers.{index // 2 - 1}.downsample.{rest}"
    return key


def from_timm(key):
    """timm counts a merging to the stage behind it."""
    key = re.sub(r"layers\.(\d)\.downsample", lambda match: f"layers.{int(match[1]) - 1}.downsample", key)
    return key.replace("head.fc.", "head.")


def to_mmlab(key):
    """The official key as mmdetection spells it."""
    for official, theirs in [
        ("layers.", "stages."),
        ("attn.", "attn.w_msa."),
        ("mlp.fc1.", "ffn.layers.0.0."),
        ("mlp.fc2.", "ffn.layers.1."),
        ("patch_embed.proj.", "patch_embed.projection."),
    ]:
        key = key.replace(official, theirs)
    return key


class Renamed(nn.Module):
    """The parameters of a network under other names; the network itself is no submodule."""

    def __init__(self, net, name):
        super().__init__()
        self.__dict__["net"] = net.eval()
        for key, parameter in net.named_parameters():
            *path, last = name(key).split(".")
            owner = self
            for part in path:
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner._modules[part]
            owner.register_parameter(last, parameter)


class Pyramid(nn.Module):
    """torchvision's stages with a norm on each, as in the official detectors."""

    def __init__(self):
        super().__init__()
        self.features = torchvision.models.swin_t().features
        for level in range(4):
            self.add_module(f"norm{level}", nn.LayerNorm(96 << level))

    def forward(self, x):
        levels = {}
        for index, part in enumerate(self.features):
            x = part(x)
            if index % 2:
                levels[f"feat{index // 2}"] = getattr(self, f"norm{index // 2}")(x).permute(0, 3, 1, 2)
        return levels


class Unfolding(nn.Module):
    """Patch merging as OpenMMLab does it: `unfold`, norm, linear."""

    def __init__(self, channels):
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x):
        height, width = x.shape[1:3]
        x = nn.functional.pad(x.permute(0, 3, 1, 2), (0, width % 2, 0, height % 2))
        rows = nn.functional.unfold(x, 2, stride=2).transpose(1, 2)
        return self.reduction(self.norm(rows)).unflatten(1, ((height + 1) // 2, (width + 1) // 2))


def mmlab_pyramid():
    net = Pyramid()
    for stage in range(3):
        net.features[2 + 2 * stage] = Unfolding(96 << stage)
    return net


class Resampled(nn.Module):
    """timm's network for one image size and window, its tables resampled on the way from those stored, as the official repository does when it
    loads weights for another window."""

    def __init__(self, name, window, scaled):
        super().__init__()
        self.name, self.window, self.scaled = name, window, scaled
        self.stored = timm.create_model(name, window_size=window, img_size=32 * window)

    def forward(self, x):
        size = tuple(x.shape[2:])
        window = tuple(side // 32 for side in size) if self.scaled else self.window
        net = timm.create_model(self.name, window_size=window, img_size=size).eval()
        shapes = {key: parameter.shape for key, parameter in net.named_parameters()}
        windows = {key: module.window_size for key, module in net.named_modules() if hasattr(module, "relative_position_bias_table")}
        parameters = dict(self.stored.named_parameters())
        for key, table in parameters.items():
            if key.endswith("relative_position_bias_table") and shapes[key] != table.shape:
                sides = [2 * side - 1 for side in windows[key.rsplit(".", 1)[0]]]
                stored = 2 * self.window - 1
                table = table.T.unflatten(1, (stored, stored)).unsqueeze(0)
                table = nn.functional.interpolate(table, size=sides, mode="bicubic", align_corners=False)
                parameters[key] = table.squeeze(0).flatten(1).T
        return torch.func.functional_call(net, parameters, (x,))


def logits(model):
    return lambda x: {"logits": model.net(x)}


def cases():
    torch.manual_seed(0)
    net = torchvision.models.swin_t()
    model = Renamed(net, from_torchvision)
    spellings = {"torchvision": {key: from_torchvision(key) for key in net.state_dict()}}
    # 288x192 has maps that windows do not divide, 32x64 maps that are smaller than a window.
    yield Case("swin_t", model, logits(model), [[224, 224], [288, 192]], gradient_size=[32, 64], spellings=spellings)

    for name in ["swin_s", "swin_b"]:
        model = Renamed(getattr(torchvision.models, name)(), from_torchvision)
        yield Case(name, model, logits(model), [[224, 224]], batch=1)

    model = Renamed(Pyramid(), from_torchvision)
    # Odd sizes at every level.
    yield Case("swin_t_pyramid", model, lambda x: model.net(x), [[36, 44]], gradient_size=[36, 44], batch=1)

    unfolding = Renamed(mmlab_pyramid(), lambda key: to_mmlab(from_torchvision(key)))
    yield Case("swin_t_mmlab", unfolding, lambda x: unfolding.net(x), [[44, 36]], batch=1)

    net = Resampled("swin_tiny_patch4_window7_224", 7, True)
    scaled = Renamed(net, lambda key: from_timm(key.removeprefix("stored.")))
    yield Case("swin_t_scaled", scaled, logits(scaled), [[288, 288], [96, 160]], gradient_size=[64, 96], batch=1)

    net = Resampled("swin_tiny_patch4_window7_224", 4, False)
    shrinking = Renamed(net, lambda key: from_timm(key.removeprefix("stored.")))
    yield Case("swin_t_shrink", shrinking, logits(shrinking), [[64, 128]], batch=1)

    # With timm's own keys, which the test translates.
    plain = Renamed(timm.create_model("swin_tiny_patch4_window7_224"), lambda key: key)
    yield Case("swin_t_timm", plain, logits(plain), [[224, 224]], batch=1)

    base = Renamed(timm.create_model("swin_base_patch4_window12_384"), from_timm)
    yield Case("swin_b_384", base, logits(base), [[384, 384]], batch=1)
