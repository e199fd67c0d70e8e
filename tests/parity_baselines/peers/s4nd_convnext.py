"""S4ND-ConvNeXt: the official code as VMamba measured it, run from a copy outside of this project.

    S4_SOURCE=<folder analyze/convnexts4nd of github.com/MzeroMiko/VMamba, commit 2ed52ea> python generate.py s4nd_convnext

That folder is a fork of github.com/state-spaces/s4 which differs in one `int()`. Besides torch and timm it needs einops, omegaconf,
hydra-core, scipy and rich. Its CUDA extension is not needed: without it the code falls back to its own plain PyTorch Cauchy kernel.
pytorch-lightning, of which only a decorator that restricts logging is imported, is replaced by a stand-in.

A state space kernel of the official code changes its `C` the first time it runs, and notes so in the buffer `l_kernel`. A trained checkpoint
has that behind it, and so have these networks: `l_kernel` is set, and the weights made of their names are the changed `C`.
"""

import copy
import os
import sys
import types

import safetensors.torch
import torch

from generate import HERE, Case


def official():
    """The official module `convnext_timm`."""
    source = os.environ.get("S4_SOURCE")
    if not source:
        raise SystemExit("S4_SOURCE must name the folder analyze/convnexts4nd of VMamba's repository")
    lightning = types.ModuleType("pytorch_lightning")
    lightning.utilities = types.ModuleType("pytorch_lightning.utilities")
    lightning.utilities.rank_zero_only = lambda function: function
    sys.modules.setdefault("pytorch_lightning", lightning)
    sys.modules.setdefault("pytorch_lightning.utilities", lightning.utilities)
    sys.path.insert(0, source)
    import convnext_timm

    return convnext_timm


def trained(model):
    """Marks every kernel as one whose `C` belongs to its length already."""
    for module in model.modules():
        if hasattr(module, "l_kernel"):
            module.l_kernel.fill_(module.l_max)
    return model.eval()


def layers():
    """Single layers as they start, where the state space does much: with weights made of names it is nearly at rest.

    Entries: `<name>/<key of the state dict>`, `<name>/kernel<axis>`, and `<name>/x<i>`, `<name>/y<i>` for maps of several sizes, channels
    last. The dense layer has the average over 4x4 positions behind it, as in the stem. Results are computed in double precision: those of
    the official code in single precision are off by up to 1.4e-4, because eigenvalues start next to the imaginary axis.
    """
    from src.models.sequence.modules.s4nd import S4ND

    torch.manual_seed(0)
    options = dict(d_state=64, dt_min=0.1, dt_max=1.0, lr=0.001, n_ssm=1, verbose=False, linear=True, return_state=False)
    tensors = {}
    for name, lengths, outputs, init, sizes in [
        ("depthwise", [7, 14], None, "fourier", [[7, 14], [12, 20], [3, 1], [1, 9]]),
        ("long", [56, 33], None, "fourier", [[24, 20]]),
        ("legs", [16, 5], None, "legs", [[10, 10]]),
        ("dense", [16, 16], 4, "fourier", [[24, 28], [9, 7]]),
    ]:
        layer = S4ND(3, l_max=lengths, init=init, out_channels=outputs, **options).eval()
        with torch.no_grad():
            layer(torch.zeros(1, 3, 4, 4))  # Changes `C`.
            for key, value in layer.state_dict().items():
                if value.is_floating_point():
                    tensors[f"{name}/{key}"] = value
            layer.double()
            for axis, kernel in enumerate(layer.kernel):
                del kernel.omega, kernel.z  # Kept in single precision.
                tensors[f"{name}/kernel{axis}"] = kernel(L=lengths[axis])[0].transpose(0, 1)
            for index, size in enumerate(sizes):
                x = torch.randn(2, 3, *size)
                y = layer(x.double())
                if outputs is not None:
                    y = torch.nn.functional.avg_pool2d(y, 4)
                tensors[f"{name}/x{index}"], tensors[f"{name}/y{index}"] = x.permute(0, 2, 3, 1), y.permute(0, 2, 3, 1)
    tensors = {key: value.float().contiguous() for key, value in tensors.items()}
    safetensors.torch.save_file(tensors, HERE / "fixtures" / "s4nd_layers.safetensors")


def network(module, depths, dims, img_size, stem_l_max, d_state=64, downsample_type="patch", **others):
    """The arguments of `convnext_tiny_s4nd`, with other sizes."""
    layer = dict(
        _name_="s4nd", d_state=d_state, channels=1, bidirectional=True, final_act=None, weight_norm=False, dropout=0, init="fourier",
        rank=1, trank=1, dt_min=0.1, dt_max=1.0, lr=0.001, n_ssm=1, deterministic=False, verbose=False, linear=True, return_state=False,
        contract_version=0,
    )  # fmt: skip
    return module.ConvNeXt(
        depths=depths, dims=dims, img_size=img_size, patch_size=4, stem_channels=32, stem_type="new_s4nd_patch", stem_l_max=stem_l_max,
        downsample_type=downsample_type, downsample_act=False, downsample_glu=True, layer=layer, stem_layer=dict(init="fourier"),
        stage_layers=[dict() for _ in dims], **others,
    )  # fmt: skip


def logits(model):
    return lambda x: {"logits": model.forward_head(model.forward_features(x))}


def features(model):
    def forward(x):
        x, outputs = model.stem(x, 1), {}
        for level, stage in enumerate(model.stages):
            x = stage(x, 1)
            outputs[f"feat{level}"] = x
        return outputs

    return forward


def cases():
    module = official()
    layers()
    tiny = trained(module.convnext_tiny_s4nd())
    yield Case("s4nd_convnext_tiny", tiny, logits(tiny), [[224, 224], [256, 160]], batch=1)
    small = dict(depths=(1, 2, 1, 1), dims=(8, 12, 16, 24), d_state=16, img_size=(64, 96), stem_l_max=[16, 16])
    for downsample, batch in [("patch", 1), ("s4nd", 2)]:
        model = trained(network(module, **small, downsample_type=downsample, ls_init_value=0.5, num_classes=10))
        yield Case(f"s4nd_convnext_small_{downsample}", model, logits(model), [[64, 96], [96, 128], [75, 61]], [64, 96], batch)
    backbone = copy.deepcopy(model)
    backbone.head = torch.nn.Identity()
    yield Case("s4nd_convnext_pyramid", backbone, features(backbone), [[64, 96], [101, 83]], [64, 96], batch=1)
