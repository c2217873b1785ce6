#!/usr/bin/env python3
"""Writes what Ultralytics sees in our own clips with a small YOLOv8 of random weights.

  pip install ultralytics==8.3.177 opencv-python==4.12.0.88 torch==2.6.0 torchvision==0.21.0
  python scripts/golden_bodies.py [tests/golden]

The network and its weights are yolo/yolov8_w0125_nc1. Needs the ffmpeg program. Pictures are handed
over as RGB, which Ultralytics takes for BGR, as in the reference.

yolo/own_pictures_golden.{json,safetensors}: raw output and boxes of frames of our clips.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import ultralytics
from safetensors.torch import load_file, save_file
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel, yaml_model_load

HERE = Path(__file__).resolve().parent.parent
PORTRAIT, TWO_PEOPLE = "samples/portrait.mp4", "tests/fixtures/two_people.mp4"
PICTURES = [(PORTRAIT, 20), (TWO_PEOPLE, 15)]
WEIGHTS = "yolov8_w0125_nc1"


def frames_of(clip):
    """All frames, RGB, as the ffmpeg program shows them."""
    command = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(HERE / clip), "-an", "-vsync",
               "passthrough", "-pix_fmt", "rgb24", "-c:v", "ppm", "-f", "image2pipe", "-"]
    data, frames = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout, []
    while data:
        _, size, _, data = data.split(b"\n", 3)
        width, height = map(int, size.split())
        frames.append(np.frombuffer(data[:width * height * 3], np.uint8).reshape(height, width, 3))
        data = data[width * height * 3:]
    return frames


def network(case):
    """A new YOLO, whose tracker has seen nothing."""
    config = case["config"]
    layers = yaml_model_load("yolov8n.yaml")
    layers["scales"] = {"n": [config[name] for name in
                              ("depth_multiple", "width_multiple", "max_channels")]}
    model = DetectionModel(layers, ch=3, nc=config["nc"], verbose=False)
    weights = load_file(HERE / f"tests/golden/yolo/{WEIGHTS}.safetensors")
    lacking, left = model.load_state_dict(weights, strict=False)
    assert all(".dfl." in name for name in lacking) and not left, (lacking, left)
    yolo = YOLO("yolov8n.yaml", verbose=False)
    yolo.model = model.eval()
    return yolo


def boxes_of(result):
    rows = zip(result.boxes.xyxy.tolist(), result.boxes.conf.tolist(), result.boxes.cls.tolist())
    return [{"xyxy": box, "conf": score, "cls": int(kind)} for box, score, kind in rows]


def pictures(root, case, clips):
    images, tensors = {}, {}
    for clip, number in PICTURES:
        picture, raw = clips[clip][number], []
        yolo = network(case)
        hook = yolo.model.register_forward_hook(lambda _, given, found: raw.append(
            (given[0].shape, found[0].clone())))  # suppression changes it in place
        result = yolo.predict(picture, imgsz=640, conf=0.01, iou=0.5, verbose=False)[0]
        hook.remove()
        shape, output = raw[-1]
        name = f"{Path(clip).stem}_{number}"
        tensors[f"{name}.output"] = output
        images[name] = {
            "clip": clip, "frame": number, "original_size_wh": list(picture.shape[1::-1]),
            "network_input_hw": list(shape[2:]), "minimal_rectangle": True,
            "boxes": boxes_of(result)}
        print(name, list(shape), len(images[name]["boxes"]), "boxes")
    save_file(tensors, root / "yolo/own_pictures_golden.safetensors")
    own = {"made_by": f"ultralytics {ultralytics.__version__}, torch {torch.__version__}",
           "config": case["config"], "weights": WEIGHTS, "images": images}
    (root / "yolo/own_pictures_golden.json").write_text(json.dumps(own, indent=1) + "\n")


if __name__ == "__main__":
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "tests/golden"
    case = json.loads((HERE / f"tests/golden/yolo/{WEIGHTS}_golden.json").read_text())
    clips = {clip: frames_of(clip) for clip in (PORTRAIT, TWO_PEOPLE)}
    pictures(root, case, clips)
