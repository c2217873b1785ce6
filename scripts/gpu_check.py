#!/usr/bin/env python3
"""Times PyTorch (eager) on what `gpu_check measure` times, with models of the same sizes.

Prints one line of JSON a case: {"case", "precision", "seconds"}. Weights are random. Needs torch;
a case whose model needs `transformers` is left out where that is missing.

    python3 scripts/gpu_check.py cuda:0 [--quick] [--case stage3-epoch]

`--case stage3-epoch` leaves out everything but the training.
"""

import json
import sys
import time

import torch
from torch import nn

DEVICE = sys.argv[1]
QUICK = "--quick" in sys.argv
TRAINING_ALONE = sys.argv[-2:] == ["--case", "stage3-epoch"]
BATCH, STEPS = 32, 2 if QUICK else 64
WIDTHS = {"body": 2048, "face": 1024, "scene": 1536, "audio": 512, "text": 512}


def report(case, precision, run, scale=1.0):
    def timed():
        start = time.perf_counter()
        run()
        if DEVICE != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    least, budget = (1, 0.0) if QUICK else (5, 2.0)
    timed()
    times, start = [], time.perf_counter()
    while len(times) < least or (time.perf_counter() - start < budget and len(times) < 50):
        times.append(timed())
    seconds = sorted(times)[len(times) // 2] * scale
    print(json.dumps({"case": case, "precision": precision, "seconds": seconds}), flush=True)


def rates(precision, dtype):
    side, numbers = (512, 1 << 20) if QUICK else (8192, 1 << 29)
    matrix = torch.rand(side, side, device=DEVICE, dtype=dtype)
    report("matmul", precision, lambda: matrix @ matrix)
    long = torch.zeros(numbers, device=DEVICE, dtype=dtype)
    report("copy", precision, lambda: long.clone())


def backbones(precision, dtype):
    from transformers import (
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
        Wav2Vec2Config,
        Wav2Vec2Model,
        WhisperConfig,
        WhisperModel,
    )

    def ready(model):
        return model.to(DEVICE, dtype).eval()

    def rand(*shape):
        return torch.rand(*shape, device=DEVICE, dtype=dtype)

    clip = ready(CLIPVisionModelWithProjection(CLIPVisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=2 if QUICK else 12,
        num_attention_heads=12, patch_size=32, projection_dim=512)))
    for count in [2] if QUICK else [30, 960]:
        pictures = rand(count, 3, 224, 224)
        report(f"clip-{count}", precision, lambda: clip(pictures))
    del clip

    wav2vec2 = ready(Wav2Vec2Model(Wav2Vec2Config(
        hidden_size=1024, num_hidden_layers=1 if QUICK else 12, num_attention_heads=16,
        intermediate_size=4096, feat_extract_norm="layer", conv_bias=True,
        do_stable_layer_norm=True, apply_spec_augment=False)))
    counts, length = ([1], 2) if QUICK else ([1, 16], 15)
    for count in counts:
        sound = rand(count, length * 16000)
        report(f"wav2vec2-{count}", precision, lambda: wav2vec2(sound))
    del wav2vec2

    layers = (1, 1, 2000) if QUICK else (32, 4, 51866)
    whisper = ready(WhisperModel(WhisperConfig(
        d_model=1280, num_mel_bins=128, encoder_layers=layers[0], encoder_attention_heads=20,
        encoder_ffn_dim=5120, decoder_layers=layers[1], decoder_attention_heads=20,
        decoder_ffn_dim=5120, vocab_size=layers[2], pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=3)))
    features = rand(1, 128, 3000)
    report("whisper-encoder", precision, lambda: whisper.encoder(features))
    heard = whisper.encoder(features).last_hidden_state

    def write():
        past = None
        for token in range(64):
            out = whisper.decoder(
                input_ids=torch.tensor([[token]], device=DEVICE), encoder_hidden_states=heard,
                past_key_values=past, use_cache=True)
            past = out.past_key_values
            logits = out.last_hidden_state[:, -1] @ whisper.decoder.embed_tokens.weight.T
            logits.float().cpu()  # our decoder chooses tokens on the host, too

    report("whisper-decoder", precision, write)


class Fusion(nn.Module):
    """Stage 3 at its published size."""

    def __init__(self, width=256, heads=8, dropout=0.2):
        super().__init__()
        self.first = nn.ModuleDict({name: nn.Sequential(
            nn.Linear(size, width), nn.ReLU(), nn.Dropout(dropout), nn.LayerNorm(width))
            for name, size in WIDTHS.items()})
        self.adapter = nn.ModuleDict({name: nn.Sequential(
            nn.Linear(width, width // 2), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(width // 2, width)) for name in WIDTHS})
        self.norm = nn.ModuleDict({name: nn.LayerNorm(width) for name in WIDTHS})
        self.graph = nn.Linear(width, width, bias=False)
        self.score = nn.Parameter(torch.randn(2 * width, 1) * 0.05)
        self.dropout = nn.Dropout(dropout)
        self.queries = nn.Parameter(torch.randn(2, 1, 1, width))
        self.attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.from_logits, self.from_traits = nn.Linear(7, width), nn.Linear(5, width)
        self.emotion, self.traits = nn.Linear(width, 7), nn.Linear(width, 5)
        self.guides = nn.Parameter(torch.randn(7, width))

    def forward(self, vectors, logits, traits):
        nodes = []
        for name, vector in vectors.items():
            x = self.first[name](vector)
            nodes.append(self.norm[name](x + self.adapter[name](x)))
        nodes = self.graph(torch.stack(nodes, 1))
        width = nodes.shape[-1]
        pairs = nodes @ self.score[:width] + (nodes @ self.score[width:]).transpose(1, 2)
        weights = torch.softmax(nn.functional.leaky_relu(pairs, 0.2), -1)
        context = self.dropout(weights) @ nodes
        rows = context.shape[0]
        read = [self.attention(query.expand(rows, 1, -1), context, context)[0][:, 0]
                for query in self.queries]
        emotion = read[0] + self.from_logits(logits.mean(0))
        trait = read[1] + self.from_traits(traits.mean(0))
        cosine = nn.functional.cosine_similarity(emotion[:, None], self.guides[None], dim=-1)
        return (self.emotion(emotion) + cosine) / 2, torch.sigmoid(self.traits(trait))


def training():
    """One epoch of the semi-supervised objective, as the reference computes it: a gradient for
    each component, weights balanced by their norms, then a step of Adam."""
    model = Fusion().to(DEVICE).train()
    parameters = list(model.parameters())
    adam = torch.optim.Adam(parameters, lr=1e-4, weight_decay=1e-5)
    vectors = {name: torch.rand(BATCH, size, device=DEVICE) for name, size in WIDTHS.items()}
    logits = torch.rand(5, BATCH, 7, device=DEVICE)
    traits = torch.rand(5, BATCH, 5, device=DEVICE)
    half = BATCH // 2
    classes = torch.randint(7, (half,), device=DEVICE)
    truth = torch.rand(BATCH - half, 5, device=DEVICE)
    weight = torch.tensor([1.0, 1.0, 0.4, 0.4], device=DEVICE)

    def epoch():
        nonlocal weight
        for _ in range(STEPS):
            emotion, scores = model(vectors, logits, traits)
            losses = [nn.functional.cross_entropy(emotion[:half], classes),
                      nn.functional.l1_loss(scores[half:], truth)]
            probability, guess = emotion[half:].detach().softmax(-1).max(-1)
            sure = probability > 0.6
            if sure.any():
                losses.append(nn.functional.cross_entropy(emotion[half:][sure], guess[sure]))
            own = scores[:half]
            sure = (own.detach() > 0.6) | (own.detach() < 0.4)
            if sure.any():
                losses.append(nn.functional.binary_cross_entropy(
                    own[sure], (own.detach()[sure] > 0.5).float()))
            norms = []
            for loss in losses:
                gradients = torch.autograd.grad(
                    loss, parameters, retain_graph=True, allow_unused=True)
                norms.append(torch.sqrt(sum(
                    (g ** 2).sum() for g in gradients if g is not None)))
            pulls = weight[:len(losses)] * torch.stack(norms)
            step = 0.005 * torch.sign(pulls - pulls.mean()) * torch.stack(norms)
            weight = torch.cat([(weight[:len(losses)] - step).clamp(min=0.001),
                                weight[len(losses):]]).detach()
            total = sum(w * loss for w, loss in zip(weight, losses))
            adam.zero_grad()
            total.backward()
            adam.step()
            total.item()

    report("stage3-epoch", "f32", epoch, scale=64 / STEPS)


def main():
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    print(f"torch {torch.__version__}", file=sys.stderr)
    kinds = [("f32", torch.float32)] + ([] if DEVICE == "cpu" else [("bf16", torch.bfloat16)])
    for precision, dtype in [] if TRAINING_ALONE else kinds:
        with torch.no_grad():
            rates(precision, dtype)
            try:
                backbones(precision, dtype)
            except ImportError as error:
                print(f"left out: {error}", file=sys.stderr)
    training()


main()
