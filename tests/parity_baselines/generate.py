"""Writes the fixtures of tests/parity_baselines: what public implementations of the comparison backbones compute.

    python generate.py [FAMILY ...]          needs torch, torchvision, timm, numpy, safetensors

Weights and inputs are made of their names by a formula (see `values`) that tests/src/formula.rs repeats, so that networks of full size are
compared and only their results are stored. `peers/<family>.py` has `cases()`, which yields a Case each.
"""

import importlib
import json
import pathlib
import sys

import numpy as np
import safetensors.numpy
import timm
import torch
import torchvision

HERE = pathlib.Path(__file__).parent
MASK = (1 << 64) - 1


def fnv1a(name):
    """64-bit FNV-1a of a name."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = ((state ^ byte) * 0x100000001B3) & MASK
    return state


def values(name, shape, deviation=1.0, mean=0.0):
    """Uniform numbers of the given mean and deviation: SplitMix64 of the hash of the name plus the index."""
    count = int(np.prod(shape, dtype=np.int64))
    with np.errstate(over="ignore"):
        z = np.uint64(fnv1a(name)) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    unit = (z >> np.uint64(11)).astype(np.float64) / float(1 << 53)
    return (mean + (2.0 * unit - 1.0) * (np.sqrt(3.0) * deviation)).astype(np.float32).reshape(shape)


def parameter(key, shape):
    """The value of a parameter or buffer: scales near 1, shifts near 0, weights of deviation 1 / sqrt(fan in)."""
    if len(shape) <= 1:
        if key.endswith(("weight", "running_var", "gamma", "gamma1", "gamma2", "gamma3")):
            return values(key, shape, 0.2, 1.0)
        return values(key, shape, 0.1)
    return values(key, shape, np.sqrt(1.0 / int(np.prod(shape[1:], dtype=np.int64))))


def fill(model, constant=()):
    """Gives every float entry of the state dict its value; entries whose key ends with one of `constant` stay. Returns key -> shape."""
    state, shapes = model.state_dict(), {}
    for key, tensor in state.items():
        if tensor.is_floating_point() and not key.endswith(tuple(constant)):
            shapes[key] = list(tensor.shape)
            state[key] = torch.from_numpy(parameter(key, list(tensor.shape)))
    model.load_state_dict(state)
    return shapes


class Case:
    """One network at some image sizes.

    `forward(x)` of a case returns a dict of named outputs, such as {"logits": ...} or {"feat0": ..., "feat1": ...}.
    """

    def __init__(self, name, model, forward, sizes, gradient_size=None, batch=2, spellings=None, constant=(), vanishing=()):
        self.name, self.model, self.forward, self.sizes = name, model.eval(), forward, sizes
        self.gradient_size, self.batch = gradient_size, batch
        #: Other names of the same parameters: {"torchvision": {their key: our reference's key}}.
        self.spellings = spellings or {}
        self.constant = constant
        #: Ends of the keys whose gradient is zero but for rounding, such as a shift ahead of a softmax or of a batch norm in training.
        self.vanishing = tuple(vanishing)


def image(batch, size):
    return torch.from_numpy(values(f"x.{size[0]}x{size[1]}", [batch, 3, *size]))


def run(case):
    shapes = fill(case.model, case.constant)
    tensors = {}
    for size in case.sizes:
        with torch.no_grad():
            for output, value in case.forward(image(case.batch, size)).items():
                tensors[f"{output}.{size[0]}x{size[1]}"] = value.contiguous().numpy()
    if case.gradient_size:
        x = image(case.batch, case.gradient_size).requires_grad_()
        loss = 0.0
        for output, value in case.forward(x).items():
            loss = loss + (value * torch.from_numpy(values(f"grad.{output}", list(value.shape)))).sum()
        loss.backward()
        tensors["dx"] = x.grad.numpy()
        for key, parameter_ in case.model.named_parameters():
            if parameter_.grad is not None and key in shapes and not key.endswith(case.vanishing):
                tensors[f"g.{key}"] = projections(key, parameter_.grad.double().numpy())
    folder = HERE / "fixtures"
    folder.mkdir(exist_ok=True)
    safetensors.numpy.save_file(tensors, folder / f"{case.name}.safetensors")
    manifest = {
        "name": case.name,
        "batch": case.batch,
        "sizes": case.sizes,
        "gradient_size": case.gradient_size,
        "parameters": sum(p.numel() for p in case.model.parameters()),
        "keys": shapes,
        "spellings": case.spellings,
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__, "timm": timm.__version__, "numpy": np.__version__},
    }
    (folder / f"{case.name}.json").write_text(json.dumps(manifest, indent=1) + "\n")
    print(f"{case.name}: {len(tensors)} tensors, {sum(t.nbytes for t in tensors.values()) / 1e3:.0f} kB")


def projections(key, gradient):
    """A gradient in three numbers: its products with two vectors of unit deviation, and its norm."""
    along = [float((gradient * values(f"{name}.{key}", gradient.shape)).sum()) for name in ("first", "second")]
    return np.array([*along, float(np.sqrt((gradient**2).sum()))])


if __name__ == "__main__":
    sys.path[:0] = [str(HERE / "peers"), str(HERE)]
    # The families import this file's names from `generate`.
    sys.modules["generate"] = sys.modules["__main__"]
    families = sys.argv[1:] or sorted(path.stem for path in (HERE / "peers").glob("*.py"))
    for family in families:
        for case in importlib.import_module(family).cases():
            run(case)
