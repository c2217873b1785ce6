"""Times epochs of stage 3 in PyTorch: the fusion model and the semi-supervised objective (meptr-core/src/models/fusion, meptr-train/src/loss), at the published sizes.

    pytorch_stage3.py ROWS EPOCHS THREADS

Rows are seeded noise, two thirds with emotion labels and one third with trait labels, as in the union of the published corpora. Gradient norms
and the weights' update are in closed form, which is faster than the second differentiation of the original. Prints the seconds of each epoch as JSON.
"""

import json
import os
import sys
import time

ROWS, EPOCHS, THREADS = (int(value) for value in sys.argv[1:4])
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(THREADS)

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

torch.set_num_threads(THREADS)
torch.manual_seed(0)
WIDTHS = {"body": 2048, "face": 1024, "scene": 1536, "audio": 512, "text": 512}
HIDDEN, HEADS, DROPOUT, BATCH = 256, 8, 0.2, 32


class Adapter(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(HIDDEN, HIDDEN // 2), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN // 2, HIDDEN)
        )
        self.norm = nn.LayerNorm(HIDDEN)

    def forward(self, x):
        return self.norm(x + self.body(x))


class GraphAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.score = nn.Parameter(torch.randn(2 * HIDDEN, 1) * 0.05)

    def forward(self, x):
        h = self.weight(x)
        left, right = h @ self.score[:HIDDEN], h @ self.score[HIDDEN:]
        weights = torch.softmax(F.leaky_relu(left + right.transpose(1, 2), 0.2), dim=-1)
        return F.dropout(weights, DROPOUT, self.training) @ h


class Fusion(nn.Module):
    def __init__(self):
        super().__init__()
        self.projectors = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Linear(width, HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT), nn.LayerNorm(HIDDEN), Adapter()
                )
                for name, width in WIDTHS.items()
            }
        )
        self.graph = GraphAttention()
        self.queries = nn.ParameterList([nn.Parameter(torch.randn(1, 1, HIDDEN)) for _ in range(2)])
        self.attention = nn.MultiheadAttention(HIDDEN, HEADS, dropout=DROPOUT, batch_first=True)
        self.predict = nn.ModuleList([nn.Linear(7, HIDDEN), nn.Linear(5, HIDDEN)])
        self.heads = nn.ModuleList([nn.Linear(HIDDEN, 7), nn.Linear(HIDDEN, 5)])
        self.guides = nn.Parameter(torch.randn(7, HIDDEN))

    def forward(self, vectors, logits, scores):
        nodes = torch.stack([self.projectors[name](vector) for name, vector in vectors.items()], dim=1)
        context = self.graph(nodes)
        emotion, personality = (
            self.attention(query.expand(len(context), -1, -1), context, context)[0].squeeze(1) for query in self.queries
        )
        emotion = emotion + self.predict[0](logits.mean(1))
        personality = personality + self.predict[1](scores.mean(1))
        guided = F.cosine_similarity(emotion.unsqueeze(1), self.guides.unsqueeze(0), dim=-1)
        return (self.heads[0](emotion) + guided) / 2, torch.sigmoid(self.heads[1](personality))


def ccc_loss(prediction, truth):
    p, t = prediction.flatten(), truth.flatten()
    covariance = ((p - p.mean()) * (t - t.mean())).sum() / (len(p) - 1)
    return 1 - 2 * covariance / (p.var() + t.var() + (p.mean() - t.mean()) ** 2)


def components(logits, scores, emotion, traits):
    found = {}
    has_emotion, has_traits = ~emotion.isnan().any(1), ~traits.isnan().any(1)
    if has_emotion.any():
        found["emo_sup"] = F.cross_entropy(logits[has_emotion], emotion[has_emotion].argmax(1))
    if has_traits.any():
        found["per_sup"] = ccc_loss(scores[has_traits], traits[has_traits])
    if (~has_emotion).any():
        chosen = logits[~has_emotion]
        best, label = torch.softmax(chosen, 1).max(1)
        if (best > 0.6).any():
            found["emo_ssl"] = F.cross_entropy(chosen[best > 0.6], label[best > 0.6])
    if (~has_traits).any():
        chosen = scores[~has_traits]
        sure = (chosen > 0.6) | (chosen < 0.4)
        if sure.any():
            clamped = chosen.clamp(1e-6, 1 - 1e-6)
            found["per_ssl"] = F.binary_cross_entropy(clamped, (chosen > 0.5).float(), reduction="none")[sure].mean()
    return found


class Wallet:
    def __init__(self, names, start, rate, alpha):
        self.weights, self.first = dict.fromkeys(names, start), {}
        self.budget, self.rate, self.alpha = start * len(names), rate, alpha

    def balance(self, losses, norms):
        active = [name for name in self.weights if name in losses]
        if not active:
            return
        values = {name: losses[name].item() for name in active}
        for name in active:
            self.first.setdefault(name, values[name])
        weighted = {name: self.weights[name] * norms[name] for name in active}
        ratios = {name: values[name] / self.first[name] for name in active}
        mean, mean_ratio = sum(weighted.values()) / len(active), sum(ratios.values()) / len(active)
        for name in active:
            target = mean * (ratios[name] / mean_ratio) ** self.alpha
            sign = (weighted[name] > target) - (weighted[name] < target)
            self.weights[name] = max(self.weights[name] - self.rate * sign * norms[name], 0.001)
        scale = self.budget / sum(self.weights[name] for name in active)
        for name in active:
            self.weights[name] *= scale


def epoch(model, optimiser, wallets, data):
    model.train()
    parameters = list(model.parameters())
    for rows in torch.randperm(ROWS).split(BATCH):
        vectors = {name: vector[rows] for name, vector in data["vectors"].items()}
        outputs = model(vectors, data["logits"][rows], data["scores"][rows])
        losses = components(*outputs, data["emotion"][rows], data["traits"][rows])
        gradients, norms = {}, {}
        for name, loss in losses.items():
            gradients[name] = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            there = [gradient for gradient in gradients[name] if gradient is not None]
            norms[name] = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(one) for one in there])).item()
        weights = {}
        for wallet in wallets:
            wallet.balance(losses, norms)
            weights |= wallet.weights
        for place, parameter in enumerate(parameters):
            parts = [weights[name] * found[place] for name, found in gradients.items() if found[place] is not None]
            parameter.grad = sum(parts) if parts else None
        optimiser.step()


def main():
    emotion = (torch.rand(ROWS, 7) < 0.3).float()
    traits = torch.rand(ROWS, 5)
    is_first = torch.arange(ROWS) < ROWS * 2 // 3
    emotion[~is_first], traits[is_first] = float("nan"), float("nan")
    data = {
        "vectors": {name: torch.randn(ROWS, width) for name, width in WIDTHS.items()},
        "logits": torch.randn(ROWS, 5, 7),
        "scores": torch.rand(ROWS, 5, 5),
        "emotion": emotion,
        "traits": traits,
    }
    model = Fusion()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4, weight_decay=1e-5)
    wallets = [Wallet(["emo_sup", "per_sup"], 1.0, 0.005, 1.0), Wallet(["emo_ssl", "per_ssl"], 0.4, 0.01, 1.5)]
    seconds = []
    for _ in range(EPOCHS):
        start = time.perf_counter()
        epoch(model, optimiser, wallets, data)
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"rows": ROWS, "seconds": seconds, "parameters": sum(one.numel() for one in model.parameters())}))


main()
