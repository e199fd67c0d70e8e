"""One peer model at a time, run on request: a line of JSON in, a line of JSON out.

Requests: {"setup": {"model", "side", "batch", "threads", "train"}} answers {"ok": true} or {"error": text}; {"run": true} answers
{"wall": seconds, "cpu": seconds}. The first answer, before any request, names the versions.
"""

import json
import os
import sys
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch
import torchvision
from torchvision.models import VisionTransformer


def deit_s(side):
    """The architecture of DeiT-S, for images of any side that 16 divides."""
    return VisionTransformer(side, 16, num_layers=12, num_heads=6, hidden_dim=384, mlp_dim=1536)


MODELS = {
    "resnet50": lambda side: torchvision.models.resnet50(),
    "deit_s": deit_s,
    "convnext_t": lambda side: torchvision.models.convnext_tiny(),
    "swin_t": lambda side: torchvision.models.swin_t(),
}


def prepare(model, side, batch, threads, train):
    """A function that runs one forward pass, or one forward and backward pass."""
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    network = MODELS[model](side).train(train)
    images = torch.randn(batch, 3, side, side)
    labels = torch.arange(batch) % 1000

    def forward():
        with torch.inference_mode():
            network(images)

    def step():
        network.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(network(images), labels).backward()

    return step if train else forward


def main():
    work = None
    print(json.dumps({"torch": torch.__version__, "torchvision": torchvision.__version__, "models": sorted(MODELS)}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "setup" in request:
                work = None
                work = prepare(**request["setup"])
                answer = {"ok": True}
            else:
                wall, cpu = time.perf_counter(), time.process_time()
                work()
                answer = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        except Exception as error:  # whatever the peer cannot do becomes a row that says so
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


main()
