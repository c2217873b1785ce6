#!/usr/bin/env python3
"""Writes tests/golden/motion: what Ultralytics and OpenCV make of a camera that moves.

  pip install ultralytics==8.3.177 opencv-python==4.12.0.88 torch==2.6.0 safetensors
  python scripts/golden_motion.py [tests/golden/motion]

Every case is a short film of a drawn texture, seen by a camera that shifts, turns and zooms, with
noise and with two objects that move on their own. NAME.safetensors holds, for each frame k,
  frame_k    u8 (height, width, channels), 1 channel standing for three equal ones
  grey_k     u8, the halved grey picture that the estimator works on
  corners_k  f32 (n, 2), OpenCV's corners of it, best first
and, where both pictures of a pair have one size,
  points_k   f32 (n, 2), points of frame k-1, on corners, between them and near the edges
  flow_k     f32 (n, 2), where OpenCV finds them in frame k
  status_k   u8 (n), whether it does.
NAME.json holds the warps that ultralytics' GMC gives for the frames in turn, the identity where it
fails, as its tracker does it. Frames are handed over as they are: the estimator takes the first
channel for blue.
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import ultralytics
from safetensors.numpy import save_file
from ultralytics.trackers.utils.gmc import GMC

HERE = Path(__file__).resolve().parent.parent
MARGIN = 60  # texture around the first view, pixels
FEATURES = dict(maxCorners=1000, qualityLevel=0.01, minDistance=1, blockSize=3, k=0.04)
# Name: width, height, channels, and per frame (shift x, shift y, degrees, zoom, sigma of the noise),
# since the first frame.
FILMS = {
    "shift": (192, 144, 1, [(0, 0, 0, 1, 1), (5.5, -3.25, 0, 1, 1), (12, 2, 0, 1, 1)]),
    "turn": (161, 123, 1, [(0, 0, 0, 1, 2), (1, 2, 2.5, 1, 2), (3, -6, -4, 1, 2)]),
    "zoom": (120, 97, 3, [(0, 0, 0, 1, 3), (-2, 1, 0.5, 1.04, 3)]),
    "still": (150, 110, 1, [(0, 0, 0, 1, 0), (0, 0, 0, 1, 2)]),
}


def texture(random, width, height, channels):
    """Blobs and bars of many sizes."""
    canvas = np.zeros((height, width, channels), np.float32)
    for size in (4, 9, 20):
        noise = random.normal(0, 1, canvas.shape).astype(np.float32)
        blurred = cv2.GaussianBlur(noise, (0, 0), size).reshape(canvas.shape)
        canvas += blurred / blurred.std() * 18
    for _ in range(60):
        corner, size = random.integers(0, (width, height)), random.integers(4, 26, 2)
        (x, y), (w, h) = corner, size
        canvas[y:y + h, x:x + w] += random.uniform(-60, 60, channels)
    return canvas + 120


def view(canvas, width, height, pose, random, objects):
    """The picture that the camera takes, and objects before the scene."""
    x, y, degrees, zoom, sigma = pose
    center = (MARGIN + width / 2, MARGIN + height / 2)
    matrix = cv2.getRotationMatrix2D(center, degrees, zoom)
    matrix[:, 2] += (x - MARGIN, y - MARGIN)
    picture = cv2.warpAffine(canvas, matrix, (width, height), flags=cv2.INTER_CUBIC,
                             borderMode=cv2.BORDER_REFLECT).reshape(height, width, -1)
    for (left, upper), patch in objects:
        picture[upper:upper + patch.shape[0], left:left + patch.shape[1]] = patch
    picture = picture + random.normal(0, sigma, picture.shape)
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def film(name, random):
    width, height, channels, poses = FILMS[name]
    canvas = texture(random, width + 2 * MARGIN, height + 2 * MARGIN, channels)
    patches = [texture(random, 18, 20, channels) for _ in range(2)]
    frames = []
    for k, pose in enumerate(poses):
        places = [(10 + 19 * k, 38 - 13 * k), (width - 50 - 16 * k, height - 40 + 8 * k)]
        frames.append(view(canvas, width, height, pose, random, list(zip(places, patches))))
    return frames


def breaks(random):
    """A flat picture, a cut, another size, a size without a half, and small pictures."""
    rest = (0, 0, 0, 1, 1)
    one, two = (texture(random, 96 + 2 * MARGIN, 72 + 2 * MARGIN, 1) for _ in range(2))
    see = lambda canvas, pose=rest: view(canvas, 96, 72, pose, random, [])
    moved = (2, 1, 0, 1, 1)
    flat = np.full((72, 96, 1), 90, np.uint8)
    small = see(one)[:24, :30]
    return {
        "flat": [flat, flat, see(one), see(one, moved), flat, see(one), see(one, moved)],
        "cut": [see(one), see(two), see(two, moved)],
        "sizes": [see(one), see(one)[:60, :90], see(one, moved), see(one)[:1, :40], see(one)],
        "small": [small, see(one, moved)[:24, :30], see(one)[:2, :2]],
    }


def three_channels(frame):
    return frame if frame.shape[2] == 3 else np.repeat(frame, 3, axis=2)


def grey_of(frame):
    grey = cv2.cvtColor(three_channels(frame), cv2.COLOR_BGR2GRAY)
    if min(grey.shape) < 2:
        return None
    return cv2.resize(grey, (grey.shape[1] // 2, grey.shape[0] // 2))


def some_points(random, corners, width, height):
    anywhere = random.uniform((-2, -2), (width + 2, height + 2), (24, 2)).astype(np.float32)
    chosen = corners[:: max(1, len(corners) // 40)]
    return np.concatenate([chosen, anywhere, chosen[:8] + np.float32(0.37)])


def write(name, frames, folder, random):
    estimator, tensors, warps, before = GMC(method="sparseOptFlow", downscale=2), {}, [], None
    for k, frame in enumerate(frames):
        try:
            warp = estimator.apply(three_channels(frame))
        except Exception:  # as the tracker does it
            warp = np.eye(2, 3)
        warps.append(np.asarray(warp, np.float64).tolist())
        tensors[f"frame_{k}"] = np.ascontiguousarray(frame)
        grey = grey_of(frame)
        if grey is not None:
            corners = cv2.goodFeaturesToTrack(grey, mask=None, useHarrisDetector=False, **FEATURES)
            corners = np.zeros((0, 2), np.float32) if corners is None else corners.reshape(-1, 2)
            tensors |= {f"grey_{k}": grey, f"corners_{k}": corners}
            if before is not None and before[0].shape == grey.shape:
                points = some_points(random, before[1], grey.shape[1], grey.shape[0])
                found, status, _ = cv2.calcOpticalFlowPyrLK(before[0], grey, points[:, None], None)
                tensors |= {f"points_{k}": points, f"flow_{k}": found.reshape(-1, 2),
                            f"status_{k}": status.reshape(-1)}
            before = (grey, corners)
        else:
            before = None
    save_file(tensors, folder / f"{name}.safetensors")
    made_by = f"ultralytics {ultralytics.__version__} GMC sparseOptFlow, OpenCV {cv2.__version__}"
    case = {"made_by": made_by, "frames": len(frames), "warps": warps}
    (folder / f"{name}.json").write_text(json.dumps(case, indent=1) + "\n")


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "tests/golden/motion"
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(47)
    cases = {name: film(name, random) for name in FILMS} | breaks(random)
    for name, frames in cases.items():
        write(name, frames, folder, random)
