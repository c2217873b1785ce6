#!/usr/bin/env python3
"""Synthetic pictures, and what Pillow and the processor's rules make of them.

    golden_resize.py [tests/golden/backbones/preprocessing_synthetic]

Each case is `picture.NAME` (height, width, 3), u8, and the resized, cut picture `cut.NAME`, u8,
by Pillow's bicubic; sizes are in clip_input.json. Needs numpy 2.4, safetensors and pillow 11.2
(12.0 gives the same; 13.0 swaps the two passes of tall pictures, which changes pixels).
"""
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

CUT = 40
SIZES = [(53, 40), (40, 40), (7, 9), (1, 1), (200, 61), (61, 200), (300, 1), (1, 300), (41, 39)]


def picture(noise, width, height):
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x * (0.2 + 0.1 * c)) * 90 + np.cos(y * 0.31 + c) * 60 + 128 for c in range(3)]
    grain = noise.integers(-60, 60, (height, width, 3))
    blocks = ((x // 5 + y // 3) % 2 * 255)[..., None]
    half = (x > width // 2)[..., None]
    return np.where(half, np.stack(waves, -1) + grain, blocks).clip(0, 255).astype(np.uint8)


def cut(pixels, shorter):
    height, width = pixels.shape[:2]
    longer = int(shorter * max(width, height) / min(width, height))
    size = (shorter, longer) if width <= height else (longer, shorter)
    resized = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    canvas = np.zeros((CUT, CUT, 3), np.uint8)
    top, left = (resized.shape[0] - CUT) // 2, (resized.shape[1] - CUT) // 2
    for y in range(CUT):
        for x in range(CUT):
            if 0 <= y + top < resized.shape[0] and 0 <= x + left < resized.shape[1]:
                canvas[y, x] = resized[y + top, x + left]
    return canvas


if __name__ == "__main__":
    here = Path(__file__).resolve().parent.parent / "tests/golden/backbones"
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else here / "preprocessing_synthetic"
    folder.mkdir(parents=True, exist_ok=True)
    noise, tensors, cases = np.random.default_rng(11), {}, {}
    for width, height in SIZES:
        for shorter in (CUT, CUT - 9):
            name = f"{width}x{height}_to_{shorter}"
            tensors[f"picture.{name}"] = picture(noise, width, height)
            tensors[f"cut.{name}"] = cut(tensors[f"picture.{name}"], shorter)
            cases[name] = {"size": {"shortest_edge": shorter}, "crop_size": CUT}
    save_file(tensors, folder / "clip_input.safetensors")
    (folder / "clip_input.json").write_text(json.dumps(cases, indent=1) + "\n")
