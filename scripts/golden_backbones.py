#!/usr/bin/env python3
"""Small CLIP and Wav2Vec2 models with what they compute, by a second, independent implementation.

    golden_backbones.py write [tests/golden/backbones]   writes the folders of CASES
    golden_backbones.py check FOLDER                     compares with a folder made by PyTorch

Plain NumPy in f64, written from the architectures' definitions and checked against folders made
with transformers 4.52 (`check`), so that variants which those lack have a reference too.
Needs numpy 2.4 and safetensors 0.6. Weights follow the rule in meptr-core/src/weights/generate.rs.
"""
import json
import math
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

M64 = (1 << 64) - 1
erf = np.vectorize(math.erf, otypes=[np.float64])


def generated(name, shape, seed):
    base = 0xCBF29CE484222325
    for byte in name.encode():
        base = ((base ^ byte) * 0x100000001B3) & M64
    base ^= (seed * 0x9E3779B97F4A7C15) & M64
    count = int(np.prod(shape))
    with np.errstate(over="ignore"):
        z = np.uint64(base) + np.arange(count, dtype=np.uint64) * np.uint64(0xD1342543DE82EF95)
        z += np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    level = (z >> np.uint64(54)).astype(np.int64) - 512
    last = name.rsplit(".", 1)[-1]
    if last == "weight_g" or (last == "weight" and len(shape) == 1):
        values = 1 + (level >> 1) / 1024
    else:
        scale = 0.0625
        if len(shape) >= 2:
            scale = 2.0 ** round(math.log2(math.sqrt(3 / (count / shape[0]))))
        values = (2 * level + 1) / 1024 * scale
    return values.reshape(shape)


class Weights:
    """Looks names up; makes the tensor first when there is a seed."""

    def __init__(self, tensors=None, seed=None):
        self.tensors, self.seed = tensors or {}, seed

    def __call__(self, name, *shape):
        if name not in self.tensors and self.seed is not None:
            self.tensors[name] = generated(name, shape, self.seed)
        return self.tensors[name].astype(np.float64)

    def linear(self, x, name, outputs):
        return x @ self(f"{name}.weight", outputs, x.shape[-1]).T + self(f"{name}.bias", outputs)

    def norm(self, x, name, eps):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
        width = x.shape[-1]
        return x * self(f"{name}.weight", width) + self(f"{name}.bias", width)


def activation(name, x):
    if name == "quick_gelu":
        return x / (1 + np.exp(-1.702 * x))
    assert name == "gelu", name
    return x * (1 + erf(x / math.sqrt(2))) / 2


def attention(w, x, name, heads):
    time, width = x.shape
    split = lambda part: w.linear(x, f"{name}.{part}_proj", width).reshape(time, heads, -1)
    q, k, v = (split(part) for part in "qkv")
    scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(width // heads)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    read = np.einsum("hqk,khd->qhd", scores / scores.sum(-1, keepdims=True), v)
    return w.linear(read.reshape(time, width), f"{name}.out_proj", width)


def layer(w, x, name, names, config, before):
    attend, norm1, inner, outer, norm2 = (f"{name}.{part}" for part in names)
    eps, heads = config["layer_norm_eps"], config["num_attention_heads"]

    def feed(y):
        y = activation(config["hidden_act"], w.linear(y, inner, config["intermediate_size"]))
        return w.linear(y, outer, x.shape[-1])

    if before:
        x = x + attention(w, w.norm(x, norm1, eps), attend, heads)
        return x + feed(w.norm(x, norm2, eps))
    x = w.norm(x + attention(w, x, attend, heads), norm1, eps)
    return w.norm(x + feed(x), norm2, eps)


def clip(w, config, pixels):
    vision = config["vision_config"]
    width, side, eps = vision["hidden_size"], vision["patch_size"], vision["layer_norm_eps"]
    names = ["self_attn", "layer_norm1", "mlp.fc1", "mlp.fc2", "layer_norm2"]
    across = vision["image_size"] // side
    kernel = w("vision_model.embeddings.patch_embedding.weight", width, 3, side, side)
    features = []
    for picture in pixels.astype(np.float64):
        patches = [
            np.einsum("ocyx,cyx->o", kernel, picture[:, y : y + side, x : x + side])
            for y in range(0, across * side, side)
            for x in range(0, across * side, side)
        ]
        x = np.stack([w("vision_model.embeddings.class_embedding", width), *patches])
        x = x + w("vision_model.embeddings.position_embedding.weight", len(x), width)
        x = w.norm(x, "vision_model.pre_layrnorm", eps)
        for index in range(vision["num_hidden_layers"]):
            x = layer(w, x, f"vision_model.encoder.layers.{index}", names, vision, True)
        x = w.norm(x[0], "vision_model.post_layernorm", eps)
        features.append(w("visual_projection.weight", config["projection_dim"], width) @ x)
    return np.stack(features)


def convolution(x, kernel, stride):
    """x (channels, time), kernel (outputs, channels, width)."""
    width = kernel.shape[2]
    starts = range(0, x.shape[1] - width + 1, stride)
    return np.stack([np.einsum("oiw,iw->o", kernel, x[:, s : s + width]) for s in starts], 1)


def wav2vec2(w, config, clip):
    x = clip.astype(np.float64)[None]
    by_layer, act = config["feat_extract_norm"] == "layer", config["feat_extract_activation"]
    for index, outputs in enumerate(config["conv_dim"]):
        name = f"wav2vec2.feature_extractor.conv_layers.{index}"
        kernel = w(f"{name}.conv.weight", outputs, x.shape[0], config["conv_kernel"][index])
        x = convolution(x, kernel, config["conv_stride"][index])
        if config["conv_bias"]:
            x = x + w(f"{name}.conv.bias", outputs)[:, None]
        if by_layer:
            x = w.norm(x.T, f"{name}.layer_norm", 1e-5).T
        elif index == 0:
            x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
            x = x * w(f"{name}.layer_norm.weight", outputs)[:, None]
            x = x + w(f"{name}.layer_norm.bias", outputs)[:, None]
        x = activation(act, x)
    width, eps = config["hidden_size"], config["layer_norm_eps"]
    x = w.norm(x.T, "wav2vec2.feature_projection.layer_norm", eps)
    x = w.linear(x, "wav2vec2.feature_projection.projection", width)
    x = x + activation(act, positions(w, config, x))
    if not config["do_stable_layer_norm"]:
        x = w.norm(x, "wav2vec2.encoder.layer_norm", eps)
    names = ["attention", "layer_norm", "feed_forward.intermediate_dense"]
    names += ["feed_forward.output_dense", "final_layer_norm"]
    for index in range(config["num_hidden_layers"]):
        name = f"wav2vec2.encoder.layers.{index}"
        x = layer(w, x, name, names, config, config["do_stable_layer_norm"])
    if config["do_stable_layer_norm"]:
        x = w.norm(x, "wav2vec2.encoder.layer_norm", eps)
    return x


def positions(w, config, x):
    name, (time, width) = "wav2vec2.encoder.pos_conv_embed.conv", x.shape
    groups, kernel = config["num_conv_pos_embedding_groups"], config["num_conv_pos_embeddings"]
    channels = width // groups
    v = w(f"{name}.weight_v", width, channels, kernel)
    kernels = v * w(f"{name}.weight_g", 1, 1, kernel) / np.sqrt((v**2).sum((0, 1), keepdims=True))
    padded = np.pad(x.T, ((0, 0), (kernel // 2, kernel // 2)))
    parts = [
        convolution(padded[g * channels : (g + 1) * channels], part, 1)
        for g, part in enumerate(np.split(kernels, groups))
    ]
    return np.concatenate(parts)[:, :time].T + w(f"{name}.bias", width)


def wav2vec2_case(**options):
    return {
        "model_type": "wav2vec2", "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 48, "hidden_act": "gelu",
        "layer_norm_eps": 1e-5, "feat_extract_activation": "gelu", "conv_dim": [16, 24, 16],
        "conv_kernel": [10, 3, 2], "conv_stride": [5, 2, 2], "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4, **options,
    }


CASES = {
    "clip_synthetic": (21, {
        "model_type": "clip", "projection_dim": 24, "vision_config": {
            "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 3, "num_channels": 3, "image_size": 35, "patch_size": 8,
            "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
        },
    }),
    "wav2vec2_group_plain": (22, wav2vec2_case(
        feat_extract_norm="group", do_stable_layer_norm=False, conv_bias=False)),
    "wav2vec2_group_stable_bias": (23, wav2vec2_case(
        feat_extract_norm="group", do_stable_layer_norm=True, conv_bias=True,
        num_conv_pos_embeddings=5)),
    "wav2vec2_layer_plain": (24, wav2vec2_case(
        feat_extract_norm="layer", do_stable_layer_norm=False, conv_bias=False)),
}


def write(root):
    noise = np.random.default_rng(7)
    for name, (seed, config) in CASES.items():
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        w, golden = Weights(seed=seed), {}
        if config["model_type"] == "clip":
            size = config["vision_config"]["image_size"]
            pixels = noise.uniform(-1.8, 2.1, (3, 3, size, size)).astype(np.float16)
            golden = {"pixel_values": pixels, "image_features": clip(w, config, pixels)}
        else:
            for samples in (48, 1000, 3333):
                sound = noise.normal(0.2, 1, samples).astype(np.float16)
                golden[f"clip_{samples}.input_values"] = sound[None]
                state = wav2vec2(w, config, sound)[None]
                golden[f"clip_{samples}.last_hidden_state"] = state
        exact = {k: v.astype(np.float16) for k, v in w.tensors.items()}
        assert all((exact[k] == v).all() for k, v in w.tensors.items())
        save_file(exact, folder / "model.safetensors")
        singles = {k: v if v.dtype == np.float16 else v.astype(np.float32) for k, v in golden.items()}
        save_file(singles, folder / "golden.safetensors")
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def check(folder):
    config = json.loads((folder / "config.json").read_text())
    w = Weights({k: v for k, v in load_file(folder / "model.safetensors").items()})
    golden = load_file(folder / "golden.safetensors")
    if config["model_type"] == "clip":
        shared = load_file(folder.parent / "preprocessing" / "clip_pixel_values.safetensors")
        order = json.loads((folder / "golden.json").read_text())["order"]
        pixels = np.concatenate([shared[f"pixel_values.{name}"] for name in order])
        print("image_features", abs(clip(w, config, pixels) - golden["image_features"]).max())
    for name, values in golden.items():
        if name.endswith(".input_values"):
            state = golden[name.replace("input_values", "last_hidden_state")]
            print(name, abs(wav2vec2(w, config, values[0]) - state[0]).max())


if __name__ == "__main__":
    here = Path(__file__).resolve().parent.parent / "tests" / "golden" / "backbones"
    command, folder = sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else here
    {"write": write, "check": check}[command](folder)
