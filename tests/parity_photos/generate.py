"""Writes the photos of parity_photos and photos.json, the pixels that OpenCV reads from them: python generate.py

Written with opencv-python-headless 4.11, Pillow 13 and tifffile. `cv2.imread(path, cv2.IMREAD_COLOR)` is what mmcv's default backend calls;
it applies the EXIF orientation.
"""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageFilter

FOLDER = Path(__file__).with_name("photos")
RANDOM = np.random.default_rng(5)


def picture(width, height, channels=3):
    noise = RANDOM.integers(0, 256, (height, width, channels)).astype(np.uint8)
    planes = [Image.fromarray(noise[..., c]).filter(ImageFilter.GaussianBlur(1.5)) for c in range(channels)]
    planes = [plane.point(lambda level: max(0, min(255, int((level - 128) * 3 + 128)))) for plane in planes]
    return Image.merge({1: "L", 3: "RGB", 4: "CMYK"}[channels], planes)


def jpegs():
    for width, height in [(1, 1), (7, 5), (33, 17), (50, 40)]:
        for sampling, name in enumerate(["444", "422", "420"]):
            for progressive in [False, True]:
                kind = "progressive" if progressive else "baseline"
                path = FOLDER / f"{name}_{kind}_{width}x{height}.jpg"
                picture(width, height).save(path, quality=[90, 75, 60][sampling], subsampling=sampling, progressive=progressive)
    picture(33, 17, 1).save(FOLDER / "grey.jpg", quality=80)
    picture(33, 17).save(FOLDER / "restart_markers.jpg", quality=70, restart_marker_blocks=2)
    picture(33, 17).save(FOLDER / "rgb.jpg", quality=80, keep_rgb=True)
    for sampling, name in enumerate(["444", "422", "420"]):
        picture(33, 17, 4).save(FOLDER / f"cmyk_{name}.jpg", quality=80, subsampling=sampling)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture(12, 7).save(FOLDER / f"orientation_{orientation}.jpg", quality=90, exif=exif)
    # Stray bytes before a marker, which libjpeg skips with a warning.
    plain = (FOLDER / "444_baseline_33x17.jpg").read_bytes()
    at = plain.index(b"\xff\xdb")
    (FOLDER / "stray_bytes.jpg").write_bytes(plain[:at] + b"\x00\x01\x02" + plain[at:])


def others():
    levels = RANDOM.integers(0, 65536, (7, 9, 3)).astype(np.uint16)
    cv2.imwrite(str(FOLDER / "colours_16.png"), levels)
    cv2.imwrite(str(FOLDER / "grey_16.png"), levels[..., 0])
    tifffile.imwrite(FOLDER / "colours_16.tif", levels)
    tifffile.imwrite(FOLDER / "grey_16.tif", levels[..., 1])
    rgba = RANDOM.integers(0, 256, (7, 9, 4)).astype(np.uint8)
    Image.fromarray(rgba, "RGBA").save(FOLDER / "transparent.png")
    Image.fromarray(rgba, "RGBA").save(FOLDER / "transparent.webp", lossless=True, exact=True)
    Image.fromarray(rgba[..., :2].copy(), "LA").save(FOLDER / "grey_transparent.png")
    Image.fromarray(rgba[..., 0] > 127).save(FOLDER / "bits.png")
    picture(9, 7).quantize(16).save(FOLDER / "palette.png", transparency=3)
    picture(9, 7).save(FOLDER / "colours.bmp")
    picture(9, 7).save(FOLDER / "colours.tif")


def alpha():
    random = np.random.default_rng(6)
    levels = [random.integers(0, 256, (7, 9, 4)).astype(np.uint8), random.integers(0, 65536, (7, 9, 4)).astype(np.uint16)]
    for data in levels:
        for kind in ["unassalpha", "assocalpha", "unspecified"]:
            tifffile.imwrite(FOLDER / f"{kind}_{data.itemsize * 8}.tif", data, photometric="rgb", extrasamples=[kind])


def main():
    FOLDER.mkdir(exist_ok=True)
    jpegs()
    others()
    alpha()
    photos = []
    for path in sorted(FOLDER.iterdir()):
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1]
        entry = {"name": path.name, "size": list(pixels.shape[:2]), "sha256": hashlib.sha256(pixels.tobytes()).hexdigest()}
        if path.name.startswith("cmyk"):
            entry["pixels"] = pixels.reshape(-1).tolist()
        photos.append(entry)
    path = Path(__file__).with_name("photos.json")
    path.write_text(json.dumps(photos, separators=(",", ":")) + "\n")
    total = sum(photo.stat().st_size for photo in FOLDER.iterdir())
    print(len(photos), "photos,", total, "bytes;", path.stat().st_size, "bytes of results")


if __name__ == "__main__":
    main()
