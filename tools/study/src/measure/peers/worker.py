"""Runs the peers on request: reads a line of JSON, writes a line of JSON.

{"setup": {"model", "work", "size", "batch", "threads", "device", "precision", "update"}} loads a model and answers {"ok": true}. "device"
is PyTorch's name; "precision" is "float32", "tf32" (float32 with products on TF32 tensor cores) or "bf16" (autocast); "update" adds a
step of AdamW to a training step. {"run": model, "times": n} runs a model n times and answers {"wall": seconds, "cpu": seconds} of all runs
together. {"memory": model} runs a model twice and answers {"before": bytes, "peak": bytes}: of the process on the CPU; on a GPU of PyTorch's
allocator, with "allocated", the peak without the allocator's reserve. {"clear": true} unloads all models. A failure answers {"error": text}.
The first line, before any request, names versions, GPU and models.

The optional argument is the folder `classification/models` of the official VMamba repository; its model becomes a peer as well.
"""

import contextlib
import gc
import json
import os
import sys
import time
import types

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch
import torchvision
from torch import nn
from torch.nn.functional import cross_entropy, interpolate
from torchvision.models import VisionTransformer


def deit_s(size):
    """The architecture of DeiT-S for square images; 16 must divide the side."""
    height, width = size
    if height != width:
        raise ValueError("DeiT-S takes square images")
    return VisionTransformer(height, 16, num_layers=12, num_heads=6, hidden_dim=384, mlp_dim=1536)


class SwinPyramid(nn.Module):
    """Feature pyramid of Swin-T: the outputs of the four stages, channels first, each with its own LayerNorm."""

    channels = [96, 192, 384, 768]

    def __init__(self):
        super().__init__()
        self.body = torchvision.models.swin_t().features
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for channels in self.channels)

    def forward(self, x):
        features = []
        for index, stage in enumerate(self.body):
            x = stage(x)
            if index % 2:  # odd entries are blocks; even entries are the stem and patch merging
                features.append(self.norms[index // 2](x).permute(0, 3, 1, 2).contiguous())
        return features


def conv_bn_relu(inputs, outputs, kernel):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class UperNet(nn.Module):
    """Pyramid pooling on the last level, top-down pathway, all levels fused at stride 4 (Xiao et al., 2018)."""

    scales = [1, 2, 3, 6]

    def __init__(self, backbone, classes=150, width=512):
        super().__init__()
        self.backbone = backbone
        *finer, last = backbone.channels
        self.pools = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(s), conv_bn_relu(last, width, 1)) for s in self.scales)
        self.bottleneck = conv_bn_relu(last + len(self.scales) * width, width, 3)
        self.laterals = nn.ModuleList(conv_bn_relu(channels, width, 1) for channels in finer)
        self.smooth = nn.ModuleList(conv_bn_relu(width, width, 3) for _ in finer)
        self.fuse = conv_bn_relu((len(finer) + 1) * width, width, 3)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, images):
        def enlarge(x, like):
            return interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)

        *finer, last = self.backbone(images)
        levels = [lateral(x) for lateral, x in zip(self.laterals, finer)]
        levels.append(self.bottleneck(torch.cat([last] + [enlarge(pool(last), last) for pool in self.pools], 1)))
        for index in reversed(range(len(finer))):
            levels[index] = levels[index] + enlarge(levels[index + 1], levels[index])
        levels = [smooth(x) for smooth, x in zip(self.smooth, levels)] + levels[-1:]
        return self.classify(self.fuse(torch.cat([levels[0]] + [enlarge(x, levels[0]) for x in levels[1:]], 1)))


def mask_rcnn(size):
    """Mask R-CNN on ResNet-50 at the given image size, with 1000 proposals and 100 detections.

    Random weights give low scores and overlapping proposals: the score threshold is 0, and the RPN keeps overlapping boxes; otherwise
    about a dozen proposals would remain.
    """
    return torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        min_size=min(size),
        max_size=max(size),
        box_score_thresh=0.0,
        rpn_nms_thresh=1.0,
        rpn_pre_nms_top_n_test=4000,
    )


def stand_in(name, **contents):
    """Registers a stand-in module with the names that the official model imports."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
    vars(sys.modules[name]).update(contents)


class DropPath(nn.Module):
    """Stochastic depth: drops a residual branch for whole images in training."""

    def __init__(self, drop_prob=0.0):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x):
        if not self.training or self.drop_prob == 0.0:
            return x
        keep = 1.0 - self.drop_prob
        return x * x.new_empty([len(x)] + [1] * (x.ndim - 1)).bernoulli_(keep) / keep


def official_vmamba_tiny_s1l8(size):
    """The official model with the kernels that are installed: Triton's routes; the CUDA scan, or its PyTorch reference without it."""
    for name, contents in {
        "timm.models.layers": {"DropPath": DropPath, "trunc_normal_": nn.init.trunc_normal_},
        "fvcore.nn": dict.fromkeys(["FlopCountAnalysis", "flop_count_str", "flop_count", "parameter_count"]),
    }.items():
        try:
            __import__(name)
        except ImportError:
            stand_in(name, **contents)
    if sys.argv[1] not in sys.path:
        sys.path.insert(0, sys.argv[1])
    # Needed by another form of the operator only, which has further dependencies.
    stand_in("mamba2.ssd_minimal", selective_scan_chunk_fn=None)
    from vmamba import VSSM

    return VSSM(
        depths=[2, 2, 8, 2],
        dims=96,
        num_classes=1000,
        drop_path_rate=0.2,
        ssm_d_state=1,
        ssm_ratio=1.0,
        ssm_dt_rank="auto",
        ssm_act_layer="silu",
        ssm_conv=3,
        ssm_conv_bias=False,
        ssm_drop_rate=0.0,
        ssm_init="v0",
        forward_type="v05_noz",
        mlp_ratio=4.0,
        mlp_act_layer="gelu",
        mlp_drop_rate=0.0,
        gmlp=False,
        patch_norm=True,
        norm_layer="ln2d",
        downsample_version="v3",
        patchembed_version="v2",
    )


CLASSIFIERS = {
    "resnet50": lambda size: torchvision.models.resnet50(),
    "deit_s": deit_s,
    "convnext_t": lambda size: torchvision.models.convnext_tiny(),
    "swin_t": lambda size: torchvision.models.swin_t(),
}
if len(sys.argv) > 1:
    CLASSIFIERS["official_vmamba_tiny_s1l8"] = official_vmamba_tiny_s1l8
MODELS = {
    "forward": CLASSIFIERS,
    "train": CLASSIFIERS,
    "segment": {"swin_t": lambda size: UperNet(SwinPyramid())},
    "detect": {"resnet50": mask_rcnn},
}


class Prepared:
    """A model with its input on a device."""

    def __init__(self, model, work, size, batch, threads, device="cpu", precision="float32", update=False):
        torch.manual_seed(0)
        torch.set_num_threads(threads)
        # A process-wide setting; models that run in turns have the same precision.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        self.device = torch.device(device)
        self.training, self.mixed = work == "train", precision == "bf16"
        self.network = MODELS[work][model](size).train(self.training).to(self.device)
        images = torch.randn(batch, 3, *size).to(self.device)
        self.images = list(images) if work == "detect" else images
        self.labels = (torch.arange(batch) % 1000).to(self.device)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, weight_decay=0.05) if update else None

    def precision(self):
        return torch.autocast(self.device.type, torch.bfloat16) if self.mixed else contextlib.nullcontext()

    def run(self):
        if not self.training:
            with torch.inference_mode(), self.precision():
                self.network(self.images)
            return
        self.network.zero_grad(set_to_none=True)
        with self.precision():
            loss = cross_entropy(self.network(self.images), self.labels)
        loss.backward()
        if self.optimizer:
            self.optimizer.step()

    def wait(self):
        """Waits until the device is idle."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def timed(self, times):
        self.wait()
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(times):
            self.run()
        self.wait()
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}

    def memory(self):
        if self.device.type == "cuda":
            before = torch.cuda.memory_reserved(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.timed(2)
            peak, allocated = torch.cuda.max_memory_reserved(self.device), torch.cuda.max_memory_allocated(self.device)
            return {"before": before, "peak": peak, "allocated": allocated}
        before = resident("VmRSS")
        self.timed(2)
        return {"before": before, "peak": resident("VmHWM")}


def resident(field):
    """Bytes in a field of this process's status: `VmRSS`, the current size, or `VmHWM`, the peak."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def forget(prepared):
    prepared.clear()
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def answer(prepared, request):
    if "setup" in request:
        prepared[request["setup"]["model"]] = Prepared(**request["setup"])
        return {"ok": True}
    if "memory" in request:
        return prepared[request["memory"]].memory()
    if "clear" in request:
        forget(prepared)
        return {"ok": True}
    return prepared[request["run"]].timed(request.get("times", 1))


def main():
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    hello = {"torch": torch.__version__, "torchvision": torchvision.__version__, "gpu": gpu}
    hello["models"] = {work: sorted(models) for work, models in MODELS.items()}
    # Keeps prints of the models out of the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps(hello), file=answers, flush=True)
    prepared = {}
    for line in sys.stdin:
        try:
            reply = answer(prepared, json.loads(line))
        except Exception as error:  # the caller reports the failure in the peer's row
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=answers, flush=True)


main()
