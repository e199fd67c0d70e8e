"""Writes photometric.json, which parity_photometric compares with: python generate.py

Runs `PhotoMetricDistortion` of mmsegmentation 1.2.2 and mmdetection 3.3.0 on OpenCV 4.11, on a processor with AVX2. Only the sources of
the two packages are needed (`pip install --no-deps mmsegmentation==1.2.2 mmdet==3.3.0`): the class is cut out of its file, because
importing the package would ask for torch. `mmcv.bgr2hsv` and `mmcv.hsv2bgr` are `cv2.cvtColor`.
"""

import ast
import hashlib
import importlib.util
import json
import types
from pathlib import Path

import cv2
import numpy as np

DRAWS = 2000


def transform(package):
    """The class of a package, unchanged."""
    path = Path(importlib.util.find_spec(package).origin).parent / "datasets/transforms/transforms.py"
    tree = ast.parse(path.read_text())
    (node,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "PhotoMetricDistortion"]
    node.decorator_list = []
    mmcv = types.SimpleNamespace(
        bgr2hsv=lambda image: cv2.cvtColor(image, cv2.COLOR_BGR2HSV), hsv2bgr=lambda image: cv2.cvtColor(image, cv2.COLOR_HSV2BGR)
    )
    names = {"BaseTransform": object, "cache_randomness": lambda f: f, "np": np, "random": np.random, "mmcv": mmcv}
    exec("from typing import Sequence\nfrom numbers import Number", names)
    exec(compile(ast.Module([node], []), str(path), "exec"), names)
    return names["PhotoMetricDistortion"]()


def dark_photo():
    """40 rows of 100 columns: three blocks of 32, and 4 columns that OpenCV rounds. RGB."""
    y, x = np.mgrid[0:40, 0:100].astype(np.int64)
    return np.stack([18 + (x * x * 7 + y * 13) % 41, 14 + (x * 31 + y * y * 3) % 37, 9 + (x * y + 5 * x) % 29], -1).astype(np.uint8)


def statistics(image):
    """Means of brightness, saturation (0 to 255) and hue (0 to 360) of an RGB image, in float64."""
    r, g, b = np.moveaxis(image.astype(np.float64), -1, 0)
    high, low = np.maximum(np.maximum(r, g), b), np.minimum(np.minimum(r, g), b)
    spread = high - low
    saturation = 255 * spread / np.maximum(high, 1)
    safe = np.maximum(spread, 1e-3)
    hue = np.select([high == r, high == g], [60 * (g - b) / safe, 60 * (b - r) / safe + 120], 60 * (r - g) / safe + 240)
    hue = np.where(spread < 1e-3, 0, hue % 360)
    return [high.mean(), saturation.mean(), hue.mean()]


def draws(package):
    distort = transform(package)
    photo = np.ascontiguousarray(dark_photo()[:, :, ::-1])
    np.random.seed(20)
    rows = [statistics(distort.transform({"img": photo.copy()})["img"][:, :, ::-1]) for _ in range(DRAWS)]
    names = ["brightness", "saturation", "hue"]
    return {name: np.round(column, 3).tolist() for name, column in zip(names, np.array(rows).T)}


def distorted_pixels():
    """mmdetection's pixels for given draws: brightness, contrast, mode, saturation, hue and the order of the channels."""
    distort = transform("mmdet")
    photo = np.ascontiguousarray(dark_photo()[:1, :12, ::-1]) * 4
    cases = []
    for case in [(25.5, 1.4, 1, 1.45, -17.0, [2, 1, 0]), (-31.0, 0.6, 0, 0.55, 16.5, [1, 2, 0]), (0.0, 1.0, 1, 1.0, 0.0, [0, 1, 2])]:
        brightness, contrast, mode, saturation, hue, swap = case
        # The order of the channels is one of BGR.
        flags = (mode, 1, 1, 1, 1, 1, brightness, contrast, saturation, hue, np.array([2, 1, 0])[np.array(swap)][::-1])
        distort._random_flags = lambda flags=flags: flags
        pixels = distort.transform({"img": photo.copy()})["img"][:, :, ::-1]
        cases.append({"case": [brightness, contrast, mode, saturation, hue, swap], "pixels": pixels.reshape(-1).astype(float).round(5).tolist()})
    return cases


def all_colours():
    """Hashes of all conversions. Rows of 256 columns are whole blocks, rows of 16 are rounded."""
    first, second = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8), indexing="ij")
    hashes = {name: hashlib.sha256() for name in ["rgb_to_hsv", "hsv_to_rgb_whole_blocks", "hsv_to_rgb_rest"]}
    for value in range(256):
        colours = np.stack([np.full_like(first, value), first, second], -1)
        hashes["rgb_to_hsv"].update(cv2.cvtColor(colours, cv2.COLOR_RGB2HSV).tobytes())
        if value < 180:
            hashes["hsv_to_rgb_whole_blocks"].update(cv2.cvtColor(colours, cv2.COLOR_HSV2RGB).tobytes())
            hashes["hsv_to_rgb_rest"].update(cv2.cvtColor(colours.reshape(-1, 16, 3), cv2.COLOR_HSV2RGB).tobytes())
    return {name: digest.hexdigest() for name, digest in hashes.items()}


def main():
    contents = {
        "opencv": cv2.__version__,
        "all_colours": all_colours(),
        "mmdetection_pixels": distorted_pixels(),
        "mmsegmentation": draws("mmseg"),
        "mmdetection": draws("mmdet"),
    }
    path = Path(__file__).with_name("photometric.json")
    path.write_text(json.dumps(contents, separators=(",", ":")) + "\n")
    print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
