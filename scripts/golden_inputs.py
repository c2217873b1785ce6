#!/usr/bin/env python3
"""Noise and a crop of the sample portrait, and what transformers makes of them.

  pip install torch==2.6.0 transformers==4.52.4 pillow==11.2.1 numpy==1.26.4 safetensors
  python scripts/golden_inputs.py [tests/golden/backbones]

wav2vec2/golden.safetensors: the folder's own model on noise (CPU, f32).
preprocessing_synthetic: audio.safetensors, noise through Wav2Vec2's feature extractor, and
portrait_crop.png with its CLIP pixel values in clip_pixel_values.safetensors. Needs the ffmpeg program.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor, Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

HERE = Path(__file__).resolve().parent.parent
NORM = "encoder.pos_conv_embed.conv"
RENAMED = {f"{NORM}.weight_g": f"{NORM}.parametrizations.weight.original0",
           f"{NORM}.weight_v": f"{NORM}.parametrizations.weight.original1"}
SIDE = 48


def model_of(folder):
    """The model under the old key names, without the classifier head beside it."""
    model = Wav2Vec2Model(Wav2Vec2Config.from_json_file(folder / "config.json"))
    weights = load_file(folder / "model.safetensors")
    weights = {name.removeprefix("wav2vec2."): value.float() for name, value in weights.items()
               if name.startswith("wav2vec2.")}
    weights = {RENAMED.get(name, name): value for name, value in weights.items()}
    lacking, left = model.load_state_dict(weights, strict=False)
    assert set(lacking) <= {"masked_spec_embed"} and not left, (lacking, left)
    return model.eval()


def wav2vec2(folder, noise):
    model, tensors = model_of(folder), {}
    for samples in (400, 2000):
        sound = torch.from_numpy(noise.normal(0, 1, (1, samples)).astype(np.float32))
        with torch.no_grad():
            state = model(sound).last_hidden_state
        tensors |= {f"noise_{samples}.input_values": sound, f"noise_{samples}.last_hidden_state": state}
    save_file(tensors, folder / "golden.safetensors")


def normalised(folder, noise):
    extractor, tensors = Wav2Vec2FeatureExtractor(do_normalize=True), {}
    for name, samples, level in (("quiet", 3000, 0.002), ("loud", 1234, 0.3)):
        sound = noise.normal(level, level, samples).astype(np.float32)
        tensors[f"librosa16k.{name}"] = torch.from_numpy(sound)
        values = extractor(sound[None], sampling_rate=16000, return_tensors="pt").input_values
        tensors[f"wav2vec2_normalised.{name}"] = values.reshape(1, samples).contiguous()
    save_file(tensors, folder / "audio.safetensors")


def pixels(folder):
    png = folder / "portrait_crop.png"
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", str(HERE / "samples/portrait.mp4"), "-vf",
                    "crop=97:61:170:80", "-frames:v", "1", "-pix_fmt", "rgb24", str(png)], check=True)
    processor = CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    values = processor(Image.open(png).convert("RGB"), return_tensors="pt").pixel_values
    save_file({"pixel_values.portrait_crop": values}, folder / "clip_pixel_values.safetensors")


if __name__ == "__main__":
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "tests/golden/backbones"
    noise = np.random.default_rng(31)
    wav2vec2(root / "wav2vec2", noise)
    normalised(root / "preprocessing_synthetic", noise)
    pixels(root / "preprocessing_synthetic")
