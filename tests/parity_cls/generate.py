"""Writes resize.json, numbers of Pillow and torchvision that parity_cls compares with: python generate.py

Written with Pillow 13 and torchvision 0.29. The pictures are formulas, so that only results are stored: a hash of all bytes, which says
whether they are equal, and a few pixels, which say how far off they are.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.transforms import v2 as transforms
from torchvision.transforms import InterpolationMode


def picture(width, height):
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    channels = [(x * x * 7 + y * 13) % 256, (x * 31 + y * y * 3 + x * y) % 251, ((x // 5 + y // 7) % 2) * 255]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def summary(image):
    a = np.asarray(image)
    pixels = a.reshape(-1, 3)[:: max(1, a.shape[0] * a.shape[1] // 31)]
    return {"size": [a.shape[0], a.shape[1]], "sha256": hashlib.sha256(a.tobytes()).hexdigest(), "pixels": pixels.ravel().tolist()}


def main():
    resize = []
    for source, size in [((40, 30), (13, 17)), ((23, 31), (50, 41)), ((33, 20), (33, 9)), ((20, 33), (7, 33)), ((5, 3), (16, 24)), ((61, 47), (60, 48))]:
        image = picture(*source).resize(size, Image.BICUBIC)
        resize.append({"source": list(source), **summary(image)})
    evaluate = []
    for source, side in [((75, 50), 32), ((50, 77), 32), ((41, 41), 29), ((97, 64), 28), ((9, 200), 16)]:
        resized = int((256 / 224) * side)
        pipeline = transforms.Compose([transforms.Resize(resized, interpolation=InterpolationMode.BICUBIC), transforms.CenterCrop(side)])
        evaluate.append({"source": list(source), "side": side, **summary(pipeline(picture(*source)))})
    path = Path(__file__).with_name("resize.json")
    path.write_text(json.dumps({"resize": resize, "evaluate": evaluate}, separators=(",", ":")) + "\n")
    print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
