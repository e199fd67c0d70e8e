"""XCiT: timm's Xcit, and the pyramid of the official detectors behind its blocks (their layers, written out; names as in their files)."""

import timm
import torch
from generate import Case
from torch import nn


def logits(model):
    """Gradients are those of training, with the statistics of the batch in every batch norm."""

    def forward(x):
        model.train(torch.is_grad_enabled())
        return {"logits": model(x)}

    return forward


def with_pyramid(model, dim, indices):
    model.prune_intermediate_layers(len(model.blocks), prune_norm=True)
    model.fpn1 = nn.Sequential(
        nn.ConvTranspose2d(dim, dim, 2, 2), nn.BatchNorm2d(dim), nn.GELU(), nn.ConvTranspose2d(dim, dim, 2, 2)
    )
    model.fpn2 = nn.Sequential(nn.ConvTranspose2d(dim, dim, 2, 2))
    model.fpn3 = nn.Identity()
    model.fpn4 = nn.MaxPool2d(2, 2)

    def forward(x):
        model.train(torch.is_grad_enabled())
        maps = model.forward_intermediates(x, indices, intermediates_only=True)
        layers = [model.fpn1, model.fpn2, model.fpn3, model.fpn4]
        return {f"feat{level}": layer(feature) for level, (layer, feature) in enumerate(zip(layers, maps, strict=True))}

    return forward


def official_names(model):
    names = {key.replace("pos_embed.", "pos_embeder."): key for key in model.state_dict() if not key.endswith("num_batches_tracked")}
    return {"the official repository": names}


def cases():
    model = timm.create_model("xcit_small_12_p16_224", num_classes=100)
    backbones = {f"backbone.{key}".replace("backbone.head.", "head.fc."): key for key in model.state_dict() if "num_batches" not in key}
    sizes = [[224, 224], [288, 288], [75, 130]]
    spellings, vanishing = {"mmpretrain": backbones}, ["attn.k.bias"]
    yield Case("xcit_small_12", model, logits(model), sizes, gradient_size=[64, 96], spellings=spellings, vanishing=vanishing)
    model = timm.create_model("xcit_small_24_p16_224")
    yield Case("xcit_small_24", model, logits(model), [[96, 64]])
    model = timm.create_model("xcit_medium_24_p16_224", num_classes=50)
    yield Case("xcit_medium_24", model, logits(model), [[224, 160]])
    # The class token alone normalised, and narrower.
    options = {"patch_size": 16, "embed_dim": 64, "depth": 4, "num_heads": 4, "tokens_norm": False, "num_classes": 10, "cls_attn_layers": 1}
    model = timm.models.xcit.Xcit(**options)
    # Not of batch 1: PyTorch 2.15's backward of a batch norm is wrong there when the gradient comes transposed (two sums over the same
    # values, the shifts of the last norm and of the positions, differ in float64, too).
    yield Case("xcit_cls_norm", model, logits(model), [[64, 96]], gradient_size=[48, 64], vanishing=vanishing)
    model = timm.models.xcit.Xcit(patch_size=16, embed_dim=32, depth=5, num_heads=4)
    forward = with_pyramid(model, 32, [0, 2, 3, 4])
    # The second of an odd number of positions, which the coarsest level halves.
    sizes, spellings = [[64, 96], [48, 75]], official_names(model)
    yield Case("xcit_pyramid", model, forward, sizes, gradient_size=[64, 96], batch=1, spellings=spellings, vanishing=["fpn1.0.bias"])
