"""Prints the table of scripts/learn.sh from the scores in runs/: mean and range over the seeds, on the test splits.

Emotions are visible in the first corpus and hidden in the second, traits the other way round.
"""

import csv
import json
import pathlib
import statistics
import sys

SEEDS = sys.argv[1:]
# Label, visible corpus, hidden corpus, task and score.
COLUMNS = [
    ("mUAR", "emotions", "hidden-traits", "emotion", "muar"),
    ("mF1", "emotions", "hidden-traits", "emotion", "mf1"),
    ("mACC", "traits", "hidden-emotions", "personality", "macc"),
    ("CCC", "traits", "hidden-emotions", "personality", "ccc"),
]


def scores_of(run, corpus):
    report = json.loads(pathlib.Path(f"runs/{run}/scores-{corpus}.json").read_text())
    return {(one["stage"], one["model"]): one for one in report["models"]}


def cell(values):
    values = [value for value in values if value is not None]
    if not values:
        return ""
    mean = statistics.mean(values)
    return f"{mean:.3f}" if len(values) == 1 else f"{mean:.3f} ({min(values):.3f}-{max(values):.3f})"


def row(name, run_of, stage, model):
    cells = []
    for place in (1, 2):
        for column in COLUMNS:
            found = [scores_of(run_of(seed), column[place]).get((stage, model), {}) for seed in SEEDS]
            cells.append(cell([(one.get(column[3]) or {}).get(column[4]) for one in found]))
    print(f"| {name} | " + " | ".join(cells) + " |")


def labels(path, names):
    with open(path, newline="") as file:
        return [[float(line[name]) for name in names] for line in csv.DictReader(file)]


def chance():
    """The traits' means on the train split, and balanced accuracy of a guess; concordance of a constant is 0."""
    traits = ["openness", "conscientiousness", "extraversion", "agreeableness", "non-neuroticism"]
    train = labels("corpora/traits/train.csv", traits)
    means = [statistics.mean(column) for column in zip(*train)]
    cells = []
    for test in ("corpora/traits/test.csv", "corpora/hidden/emotions/test.csv"):
        errors = [abs(value - mean) for line in labels(test, traits) for value, mean in zip(line, means)]
        cells += ["0.500", "", f"{1 - statistics.mean(errors):.3f}", "0.000"]
    print("| chance | " + " | ".join(cells) + " |")


names = [column[0] for column in COLUMNS]
print("| model | " + " | ".join([f"{name}, visible" for name in names] + [f"{name}, hidden" for name in names]) + " |")
print("| --- " * 9 + "|")
chance()
for stage in ("stage1", "stage2"):
    for modality in ("body", "face", "scene", "audio", "text"):
        row(f"{stage} {modality}", lambda seed: f"seed-{seed}", stage, modality)
row("stage 3, `supervised`", lambda seed: f"seed-{seed}", "stage3", "fusion")
for kind in ("published", "fixed"):
    row(f"stage 3, `{kind}`", lambda seed: f"seed-{seed}-{kind}", "stage3", "fusion")
