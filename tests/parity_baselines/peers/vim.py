"""Vim: the official VisionMamba (github.com/hustvl/Vim, commit dd0358a, timm's PatchEmbed of its own), run from a checkout.

    VIM_SOURCE=<checkout> python generate.py vim         needs einops as well

The official modules run as they are. What they call from compiled extensions that exist for NVIDIA GPUs alone is stood in for by the plain
PyTorch below: the norm with the residual (mamba_ssm's triton code), and convolution, projections and scan of one direction
(`mamba_inner_fn_no_out_proj`). transformers, which only the official text generation uses, is not needed.

The official network takes images of one size; for another, a network of that size gets the same parameters, with the table of positions
resized as the official fine-tuning does (bicubic, without antialiasing), and the class token's position in the middle left as it is.

The backbone is `seg/backbone/vim.py` of the same checkout, with the options of its UperNet; its synchronised batch norm, which is for GPUs, is
an ordinary one.
"""

import functools
import importlib.util
import os
import pathlib
import sys
import types

import torch
from generate import Case
from torch import nn
from torch.nn import functional


def scan(u, step, a, b, c, d):
    """The selective scan, state by state: `u`, `step` [batch, channels, length]; `a` [channels, n]; `b`, `c` [batch, n, length]."""
    state, outputs = u.new_zeros(*u.shape[:2], a.shape[1]), []
    for t in range(u.shape[2]):
        now = step[:, :, t, None]
        state = torch.exp(now * a) * state + now * u[:, :, t, None] * b[:, None, :, t]
        outputs.append((state * c[:, None, :, t]).sum(-1))
    return torch.stack(outputs, 2) + d[:, None] * u


def inner(xz, conv_weight, conv_bias, x_proj, dt_proj, a, b, c, d, delta_bias, delta_softplus):
    """Stands in for `mamba_inner_fn_no_out_proj`."""
    assert b is None and c is None and delta_softplus
    x, z = xz.chunk(2, 1)
    width = conv_weight.shape[2]
    x = functional.silu(functional.conv1d(functional.pad(x, (width - 1, 0)), conv_weight, conv_bias, groups=x.shape[1]))
    rank, states = dt_proj.shape[1], a.shape[1]
    low, b, c = torch.einsum("fc,bcl->bfl", x_proj, x).split([rank, states, states], 1)
    step = functional.softplus(torch.einsum("cr,brl->bcl", dt_proj, low) + delta_bias[:, None])
    return scan(x, step, a, b, c, d) * functional.silu(z)


class RMSNorm(nn.Module):
    def __init__(self, size, eps=1e-5, device=None, dtype=None):
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(size)), None, eps


def rms_norm(x, weight, bias, residual=None, prenorm=False, residual_in_fp32=False, eps=1e-6):
    """Stands in for `rms_norm_fn`: the norm of the sum, and the sum."""
    assert bias is None
    total = x if residual is None else x + residual
    normed = total * torch.rsqrt(total.square().mean(-1, keepdim=True) + eps) * weight
    return (normed, total) if prenorm else normed


def official():
    """The official module `models_mamba` with stand-ins for what cannot run here."""
    source = pathlib.Path(os.environ["VIM_SOURCE"])
    package = source / "mamba-1p1p1" / "mamba_ssm"

    def stub(name, **contents):
        module = types.ModuleType(name)
        vars(module).update(contents)
        sys.modules[name] = module

    # Packages by their folders, so that their own `__init__`, which loads the extensions, does not run.
    for name, folder in [("mamba_ssm", package), ("mamba_ssm.modules", package / "modules")]:
        stub(name, __path__=[str(folder)])
    for name in ("mamba_ssm.ops", "mamba_ssm.ops.triton", "mamba_ssm.utils"):
        stub(name, __path__=[])
    scans = dict.fromkeys(["selective_scan_fn", "mamba_inner_fn", "bimamba_inner_fn"])
    stub("mamba_ssm.ops.selective_scan_interface", mamba_inner_fn_no_out_proj=inner, **scans)
    # Names that the official module expects to import, of which this network calls none.
    stub("causal_conv1d", causal_conv1d_fn=None, causal_conv1d_update=None)
    stub("mamba_ssm.ops.triton.selective_state_update", selective_state_update=None)
    stub("mamba_ssm.ops.triton.layer_norm", RMSNorm=RMSNorm, rms_norm_fn=rms_norm, layer_norm_fn=None)
    stub("mamba_ssm.utils.generation", GenerationMixin=object)
    stub("mamba_ssm.utils.hf", load_config_hf=None, load_state_dict_hf=None)
    sys.path.insert(0, str(source / "vim"))
    return importlib.import_module("models_mamba")


def segmentor(models, **options):
    """The backbone of the official segmentor, with stand-ins for the registry, the logger and the loader of its framework."""
    source = pathlib.Path(os.environ["VIM_SOURCE"])
    registry = types.SimpleNamespace(register_module=lambda: lambda cls: cls)
    stubs = {
        "mmcv_custom": {"load_checkpoint": None},
        "mmseg": {},
        "mmseg.utils": {"get_root_logger": None},
        "mmseg.models": {},
        "mmseg.models.builder": {"BACKBONES": registry},
        "utils": {"interpolate_pos_embed": None},
        # Where the official backbone looks for what timm has moved.
        "timm.models.layers": vars(importlib.import_module("timm.layers")),
    }
    for name, contents in stubs.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update({key: value for key, value in contents.items() if not key.startswith("__")})

    class Earlier(models.VisionMamba):
        """The arguments in the order of the version that the backbone was written for."""

        def __init__(self, img_size, patch_size, stride, depth, embed_dim, in_chans, num_classes, **others):
            sizes = {"img_size": img_size, "patch_size": patch_size, "stride": stride, "depth": depth, "embed_dim": embed_dim}
            super().__init__(**sizes, channels=in_chans, num_classes=num_classes, **others)

    later, models.VisionMamba = models.VisionMamba, Earlier
    spec = importlib.util.spec_from_file_location("official_vim_seg", source / "seg" / "backbone" / "vim.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    models.VisionMamba = later
    nn.SyncBatchNorm = nn.BatchNorm2d
    return module.VisionMambaSeg(
        rms_norm=True,
        residual_in_fp32=True,
        fused_add_norm=True,
        if_abs_pos_embed=True,
        if_rope=True,
        if_rope_residual=True,
        bimamba_type="v2",
        final_pool_type="all",
        if_cls_token=True,
        **options,
    )


def levels(x, model):
    # Gradients with the statistics of the batch.
    model.train(torch.is_grad_enabled())
    return {f"feat{index}": feature for index, feature in enumerate(model(x))}


def resized(table, side, grid):
    """The table [1, side * side + 1, dim] for another grid."""
    middle = side * side // 2
    patches = torch.cat([table[:, :middle], table[:, middle + 1 :]], 1).reshape(1, side, side, -1).permute(0, 3, 1, 2)
    patches = functional.interpolate(patches, size=grid, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    half = patches.shape[1] // 2
    return torch.cat([patches[:, :half], table[:, middle : middle + 1], patches[:, half:]], 1)


def at_every_size(create, model):
    side = model.patch_embed.grid_size[0]

    def forward(x):
        size = tuple(x.shape[2:])
        other = create(img_size=size).eval()
        grid = other.patch_embed.grid_size
        state = dict(model.named_parameters())
        if tuple(grid) != (side, side):
            state["pos_embed"] = resized(state["pos_embed"], side, grid)
        return {"logits": torch.func.functional_call(other, state, (x,))}

    return forward


def cases():
    models = official()
    small = models.vim_small_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2
    model = small()
    detector = {"a model with a backbone": {f"backbone.{key}": key for key in model.state_dict()}}
    yield Case("vim_small", model, at_every_size(small, model), [[224, 224], [288, 288], [96, 160]], [64, 96], spellings=detector)
    tiny = models.vim_tiny_patch16_stride8_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2
    model = tiny()
    yield Case("vim_tiny_stride8", model, at_every_size(tiny, model), [[224, 224], [104, 72]], batch=1)
    model = segmentor(models, img_size=96, embed_dim=32, depth=6, out_indices=[1, 2, 4, 5], drop_path_rate=0.0)
    # Not used by it.
    del model.norm_f
    forward = functools.partial(levels, model=model)
    constant = ["rope.freqs_cos", "rope.freqs_sin"]
    yield Case("vim_pyramid", model, forward, [[96, 96]], [96, 96], batch=1, constant=constant, vanishing=["fpn1.0.bias"])
