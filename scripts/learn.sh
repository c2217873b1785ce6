#!/usr/bin/env bash
# The learning experiment: makes synthetic corpora, extracts their features with the demo backbones, trains
# the three stages for several seeds, stage 3 with each kind of objective, and prints a table of scores on
# visible and hidden labels (Markdown; see docs/LEARNING.md).
#
#   scripts/learn.sh OUT [VIDEOS] [SEEDS..]      for example: scripts/learn.sh target/learn 400 1 2 3
#
# What is there already is not made again, so it can be interrupted.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?name a folder to write to}
videos=${2:-400}
shift $(($# < 2 ? $# : 2))
seeds=("$@")
[ ${#seeds[@]} -gt 0 ] || seeds=(1 2 3)
command -v python3 >/dev/null || { echo "learn: install python3, which prints the table" >&2; exit 2; }
cargo build --release --locked --workspace --bins >&2
meptr=$PWD/target/release/meptr

mkdir -p "$out"
cp configs/synthetic.toml "$out/"
cd "$out"
[ -e corpora/traits.toml ] || "$meptr" synth corpora --videos "$videos" --seed 1
"$meptr" extract corpora/emotions.toml --store store --weights demo
"$meptr" extract corpora/traits.toml --store store --weights demo

train() { # STAGE RUN OPTIONS..
    local stage=$1 run=$2
    shift 2
    if [ ! -e "$run/bundle/manifest.json" ]; then
        local resume=()
        [ ! -e "$run/config.toml" ] || resume=(--resume)
        "$meptr" train "$stage" --out "$run" "$@" "${resume[@]}" >"$run.txt"
    fi
    for corpus in emotions traits hidden/emotions hidden/traits; do
        local scores="$run/scores-${corpus//\//-}.json"
        [ -e "$scores" ] || "$meptr" evaluate --weights "$run/bundle" --store store --corpus "corpora/$corpus.toml" --format json >"$scores"
    done
}

mkdir -p runs
for seed in "${seeds[@]}"; do
    train all "runs/seed-$seed" --config synthetic.toml --seed "$seed"
    for kind in published fixed; do
        train stage3 "runs/seed-$seed-$kind" --from "runs/seed-$seed" --seed "$seed" --set "stage3.objective=$kind"
    done
done
python3 "$OLDPWD/scripts/learning_table.py" "${seeds[@]}"
