"""The peers, run on request: a line of JSON in, a line of JSON out.

Requests: {"setup": {"model", "work", "size", "batch", "threads"}} answers {"ok": true}; {"run": model} answers
{"wall": seconds, "cpu": seconds}; {"memory": model} runs it twice and answers {"before": bytes, "peak": bytes}; {"clear": true} forgets
all models. Whatever a peer cannot do is {"error": text}. The first answer, before any request, names versions and models.
"""

import json
import os
import sys
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch
import torchvision
from torch import nn
from torch.nn.functional import cross_entropy, interpolate
from torchvision.models import VisionTransformer


def deit_s(size):
    """The architecture of DeiT-S, for square images of any side that 16 divides."""
    height, width = size
    if height != width:
        raise ValueError("DeiT-S takes square images")
    return VisionTransformer(height, 16, num_layers=12, num_heads=6, hidden_dim=384, mlp_dim=1536)


class SwinPyramid(nn.Module):
    """Features of Swin-T's four stages, channels first, each through a norm of its own."""

    channels = [96, 192, 384, 768]

    def __init__(self):
        super().__init__()
        self.body = torchvision.models.swin_t().features
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for channels in self.channels)

    def forward(self, x):
        features = []
        for index, stage in enumerate(self.body):
            x = stage(x)
            if index % 2:  # odd ones are blocks, even ones the stem and the mergers
                features.append(self.norms[index // 2](x).permute(0, 3, 1, 2).contiguous())
        return features


def conv_bn_relu(inputs, outputs, kernel):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class UperNet(nn.Module):
    """Pyramid pooling on the last feature, a top-down pyramid, all levels fused at stride 4 (Xiao et al., 2018)."""

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
    """Mask R-CNN on ResNet-50 that keeps the images' size and works on 1000 proposals and 100 objects.

    Random weights score low, so every score counts; and their proposals lie on one another, so that without the two settings of the
    RPN a dozen would be left.
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


CLASSIFIERS = {
    "resnet50": lambda size: torchvision.models.resnet50(),
    "deit_s": deit_s,
    "convnext_t": lambda size: torchvision.models.convnext_tiny(),
    "swin_t": lambda size: torchvision.models.swin_t(),
}
MODELS = {
    "forward": CLASSIFIERS,
    "train": CLASSIFIERS,
    "segment": {"swin_t": lambda size: UperNet(SwinPyramid())},
    "detect": {"resnet50": mask_rcnn},
}


def prepare(model, work, size, batch, threads):
    """A function that runs the model once."""
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    network = MODELS[work][model](size).train(work == "train")
    images = torch.randn(batch, 3, *size)
    labels = torch.arange(batch) % 1000
    if work == "detect":
        images = list(images)

    def forward():
        with torch.inference_mode():
            network(images)

    def step():
        network.zero_grad(set_to_none=True)
        cross_entropy(network(images), labels).backward()

    return step if work == "train" else forward


def resident(field):
    """Bytes of a line of this process's status; `VmHWM` is the peak."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def answer(prepared, request):
    if "setup" in request:
        prepared[request["setup"]["model"]] = prepare(**request["setup"])
        return {"ok": True}
    if "memory" in request:
        before = resident("VmRSS")
        for _ in range(2):
            prepared[request["memory"]]()
        return {"before": before, "peak": resident("VmHWM")}
    if "clear" in request:
        prepared.clear()
        return {"ok": True}
    wall, cpu = time.perf_counter(), time.process_time()
    prepared[request["run"]]()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def main():
    models = {work: sorted(models) for work, models in MODELS.items()}
    print(json.dumps({"torch": torch.__version__, "torchvision": torchvision.__version__, "models": models}), flush=True)
    prepared = {}
    for line in sys.stdin:
        try:
            reply = answer(prepared, json.loads(line))
        except Exception as error:  # whatever a peer cannot do becomes a row that says so
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


main()
