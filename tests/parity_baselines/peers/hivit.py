"""HiViT: the official network (github.com/zhangxiaosong18/hivit, commit 2718339, `supervised/models/hivit.py`, and for the pyramid
`detection/mmdet/models/backbones/hivit.py`), run from a checkout.

    HIVIT_SOURCE=<checkout> python generate.py hivit

It takes square images of one size; for another, a network gets the same parameters with both tables of positions resized as the official
`load_pretrained` does it (bicubic, without antialiasing), and for a rectangle the pairs of positions are numbered here. The official detector
resizes its table by a factor with a tenth of a position added, against rounding, which shifts the samples a little; here it is by the size.
"""

import importlib.util
import logging
import os
import pathlib
import sys
import types
from functools import partial

import torch
from generate import Case
from torch import nn
from torch.nn import functional

SIDE = 14


def official(*place):
    """A module by its file: the packages around it need more than the network."""
    path = pathlib.Path(os.environ["HIVIT_SOURCE"]).joinpath(*place)
    spec = importlib.util.spec_from_file_location(f"official_{'_'.join(place)}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def backbone(**options):
    """The backbone of the official detector, with stand-ins for the registry, the logger and the loader of its framework."""
    trunk = official("detection", "models", "models_hivit.py")
    registry = types.SimpleNamespace(register_module=lambda: lambda cls: cls)
    stubs = {
        "models": {"HiViT": trunk.HiViT},
        "mmcv_custom": {"load_checkpoint": None},
        "mmdet": {},
        "mmdet.utils": {"get_root_logger": logging.getLogger},
        "mmdet.models": {},
        "mmdet.models.builder": {"BACKBONES": registry},
    }
    for name, contents in stubs.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(contents)
    source = official("detection", "mmdet", "models", "backbones", "hivit.py")

    class Sized(source.HiViT):
        def interpolate_pos_encoding(self, x, height, width):
            grid = (height // self.patch_size, width // self.patch_size)
            return self.absolute_pos_embed if grid == (SIDE, SIDE) else resize(self.absolute_pos_embed[0], grid)[None]

    return Sized(rpe=False, out_indices=["H", "M", options["depths"][-1] - 1, options["depths"][-1] - 1], **options)


def levels(x, model):
    return {f"feat{index}": feature for index, feature in enumerate(model(x))}


def resize(table, to):
    """Rows of a square table to those of another."""
    side = int(len(table) ** 0.5)
    table = table.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    return functional.interpolate(table, size=to, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)[0]


def pairs(height, width):
    """The row of the table [2 height - 1, 2 width - 1] for every pair of positions."""
    rows, columns = torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)
    down = rows[:, None] - rows[None] + height - 1
    return down * (2 * width - 1) + columns[:, None] - columns[None] + width - 1


def at_every_size(model):
    def forward(x):
        height, width = [extent // 16 for extent in x.shape[2:]]
        state = dict(model.named_parameters())
        if (height, width) != (SIDE, SIDE):
            for key, value in state.items():
                if key == "absolute_pos_embed":
                    state[key] = resize(value[0], (height, width))[None]
                if key.endswith("relative_position_bias_table"):
                    state[key] = resize(value, (2 * height - 1, 2 * width - 1))
            for key, _ in model.named_buffers():
                state[key] = pairs(height, width)
        return {"logits": torch.func.functional_call(model, state, (x,))}

    return forward


def mmpretrain(model):
    """mmpretrain's names, a package that is not run here."""
    names = {}
    for ours in model.state_dict():
        theirs = ours.replace("absolute_pos_embed", "pos_embed")
        names[theirs.replace("head.", "head.fc.") if ours.startswith("head.") else f"backbone.{theirs}"] = ours
    return names


def cases():
    source = official("supervised", "models", "hivit.py")
    norm = partial(nn.LayerNorm, eps=1e-6)
    tiny = source.HiViT(embed_dim=384, depths=[1, 1, 10], num_heads=6, norm_layer=norm)
    own = {key: None if key.endswith("relative_position_index") else key for key in tiny.state_dict()}
    spellings = {"the official files": own}
    yield Case("hivit_tiny", tiny, at_every_size(tiny), [[224, 224], [288, 288], [96, 160]], [64, 96], spellings=spellings)
    # As mmpretrain's classifier: another epsilon, and no norm behind the average.
    plain = source.HiViT(embed_dim=512, depths=[2, 2, 3], num_heads=8, rpe=False, patch_norm=False, num_classes=10)
    plain.fc_norm = nn.Identity()
    spellings = {"mmpretrain": mmpretrain(plain)}
    yield Case("hivit_plain", plain, at_every_size(plain), [[96, 160]], [32, 48], batch=1, spellings=spellings)
    # Of the detector, with norms on the levels, and as in the segmentor without.
    model = backbone(embed_dim=64, depths=[2, 2, 3], num_heads=4, with_fpn=True)
    yield Case("hivit_pyramid", model, partial(levels, model=model), [[224, 224], [96, 160]], [32, 48], batch=1)
    model = backbone(embed_dim=64, depths=[1, 2, 2], num_heads=4, with_fpn=True)
    model.fpn1, model.fpn2, model.fpn3, model.fpn4 = nn.Identity(), nn.Identity(), nn.Identity(), nn.MaxPool2d(2, 2)
    yield Case("hivit_pyramid_plain", model, partial(levels, model=model), [[96, 160]], batch=1)
