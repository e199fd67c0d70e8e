"""DeiT: timm's VisionTransformer, with the neck of mmsegmentation's UperNet DeiT + MLN written out, and torchvision's spelling of the keys."""

import timm
import torch
import torchvision
from generate import Case
from torch import nn
from torch.nn import functional


def resampled(model, size, antialias):
    """The tokens of an image of this size with their positions: `bicubic` without antialiasing is what the original DeiT, mmsegmentation
    and mmpretrain do, with antialiasing is timm's."""
    side, grid = model.patch_embed.grid_size[0], [extent // 16 for extent in size]
    table = model.pos_embed
    if grid == [side, side]:
        return table
    patches = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    patches = functional.interpolate(patches, size=grid, mode="bicubic", align_corners=False, antialias=antialias)
    return torch.cat([table[:, :1], patches.flatten(2).transpose(1, 2)], 1)


def tokens(model, x, antialias=False):
    patches = model.patch_embed.proj(x).flatten(2).transpose(1, 2)
    return torch.cat([model.cls_token.expand(len(x), -1, -1), patches], 1) + resampled(model, x.shape[2:], antialias)


def classified(model):
    """timm's blocks, norm and head behind positions without antialiasing."""

    def forward(x):
        return {"logits": model.forward_head(model.norm(model.blocks(tokens(model, x))))}

    return forward


class ConvModule(nn.Module):
    """The keys of mmcv's ConvModule without norm and activation."""

    def __init__(self, inputs, outputs, kernel):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)

    def forward(self, x):
        return self.conv(x)


def with_neck(model, dim, channels, final_norm):
    model.reset_classifier(0)
    if not final_norm:
        model.norm = nn.Identity()
    model.neck = nn.Module()
    model.neck.lateral_convs = nn.ModuleList(ConvModule(dim, channels, 1) for _ in range(4))
    model.neck.convs = nn.ModuleList(ConvModule(channels, channels, 3) for _ in range(4))

    def forward(x):
        grid = [extent // 16 for extent in x.shape[2:]]
        state, levels = tokens(model, x), {}
        for index, block in enumerate(model.blocks):
            state = block(state)
            if index == len(model.blocks) - 1:
                state = model.norm(state)
            if index in (2, 5, 8, 11):
                level = len(levels)
                feature = state[:, 1:].transpose(1, 2).reshape(len(x), dim, *grid)
                feature = model.neck.lateral_convs[level](feature)
                feature = functional.interpolate(feature, scale_factor=[4, 2, 1, 0.5][level], mode="bilinear", align_corners=False)
                levels[f"feat{level}"] = model.neck.convs[level](feature)
        return levels

    return forward


def torchvision_keys(dim, heads):
    """torchvision's names in the order of its state dict beside timm's in the order of theirs."""
    model = torchvision.models.VisionTransformer(224, 16, 12, heads, dim, 4 * dim)
    blocks = {
        "ln_1": "norm1",
        "self_attention.in_proj_": "attn.qkv.",
        "self_attention.out_proj": "attn.proj",
        "ln_2": "norm2",
        "mlp.0": "mlp.fc1",
        "mlp.3": "mlp.fc2",
        "encoder.layers.encoder_layer_": "blocks.",
        "encoder.ln": "norm",
        "encoder.pos_embedding": "pos_embed",
        "class_token": "cls_token",
        "conv_proj": "patch_embed.proj",
        "heads.head": "head",
    }
    names = {}
    for theirs in model.state_dict():
        ours = theirs
        for old, new in blocks.items():
            ours = ours.replace(old, new)
        names[theirs] = ours
    # As torchvision's released files have them.
    old = {key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): ours for key, ours in names.items()}
    return {"torchvision": names, "torchvision before 0.12": old}


def openmmlab_keys(model, attention):
    """mmsegmentation has PyTorch's attention, mmpretrain its own; these packages are not run here."""
    names = {}
    for ours in model.state_dict():
        theirs = ours.replace("blocks.", "layers.").replace("patch_embed.proj", "patch_embed.projection")
        theirs = theirs.replace("mlp.fc1", "ffn.layers.0.0").replace("mlp.fc2", "ffn.layers.1")
        theirs = theirs.replace("norm1", "ln1").replace("norm2", "ln2")
        if attention:
            theirs = theirs.replace("attn.qkv.", "attn.attn.in_proj_").replace("attn.proj", "attn.attn.out_proj")
        if theirs.startswith("norm."):
            theirs = theirs.replace("norm", "ln1")
        names[theirs.replace("head.", "head.layers.head.") if ours.startswith("head") else f"backbone.{theirs}"] = ours
    return names


def small(**options):
    return timm.create_model("deit_small_patch16_224", **options)


def cases():
    model = small(num_classes=100)
    spellings = torchvision_keys(384, 6) | {"mmpretrain": openmmlab_keys(model, False)}
    sizes = [[224, 224], [288, 288], [96, 160]]
    yield Case("deit_small", model, classified(model), sizes, gradient_size=[64, 96], spellings=spellings)
    model = small(num_classes=100, dynamic_img_size=True)
    yield Case("deit_small_antialiased", model, lambda x, model=model: {"logits": model(x)}, [[384, 256], [96, 160]])
    model = timm.create_model("deit_base_patch16_224")
    yield Case("deit_base", model, lambda x, model=model: {"logits": model(x)}, [[224, 224]], spellings=torchvision_keys(768, 12))
    model = timm.create_model("deit_tiny_patch16_224")
    forward = with_neck(model, 192, 48, False)
    backbone = {key.replace("backbone.neck", "neck"): ours for key, ours in openmmlab_keys(model, True).items()}
    yield Case("deit_tiny_mln", model, forward, [[64, 96]], gradient_size=[64, 96], batch=1, spellings={"mmsegmentation": backbone})
    # Of an odd number of patches, which the coarsest level halves.
    model = timm.create_model("deit_tiny_patch16_224")
    yield Case("deit_tiny_ln_mln", model, with_neck(model, 192, 32, True), [[48, 80]], batch=1)
