#!/usr/bin/env bash
# Checks and measures meptr on a machine with an NVIDIA GPU. Builds nothing: it takes
# target/cuda/gpu-check.tar.xz, which `scripts/build-cuda.sh --checks` makes anywhere.
#
#   scripts/gpu-check.sh            everything (an earlier state, with fewer tests: 220 s on an H200)
#   scripts/gpu-check.sh --quick    small models and few repeats, to see that it runs
#
# Ends with the table of times and the steps that failed, also when it is stopped.
#
# GPU_CHECK_DEVICE   the device [cuda:0]; `cpu` for a trial where no GPU is
# GPU_CHECK_SECONDS  when to have ended; steps that do not fit any more fail [580]
# GPU_CHECK_OUT      folder for what it writes [target/cuda/gpu-check]
# GPU_CHECK_VIDEO    what predictions are timed on [samples/portrait.mp4]
set -uo pipefail
cd "$(dirname "$0")/.."

device=${GPU_CHECK_DEVICE:-cuda:0}
out=${GPU_CHECK_OUT:-target/cuda/gpu-check}
quick=()
[ "${1:-}" = --quick ] && quick=(--quick)
failed=()
deadline=${GPU_CHECK_SECONDS:-580}
mkdir -p "$out"
out=$(cd "$out" && pwd)
# What an earlier run left must not pass for this one's.
rm -rf "$out"/{tests,bin,stubs,full,videos} "$out"/*.{json,jsonl,txt}

say() { printf '\n== %s (%s s)\n' "$1" "$SECONDS"; }
step() { # NAME SECONDS COMMAND..
    local name=$1 limit=$2
    local left=$((deadline - SECONDS))
    shift 2
    if [ "$left" -gt 0 ]; then
        timeout -k 10 "$((limit < left ? limit : left))" "$@" && return
    fi
    failed+=("$name")
    return 1
}

unpack() {
    local archive=target/cuda/gpu-check.tar.xz
    python3 - "$archive" "$out" <<'PY' || tar -xJf "$archive" -C "$out"
import sys, tarfile
tarfile.open(sys.argv[1]).extractall(sys.argv[2])
PY
}

# cuBLAS and cuRAND come with the CUDA wheels of PyTorch or with an installed toolkit.
libraries() {
    python3 - <<'PY' 2>/dev/null
import glob, os, site, sysconfig
folders = {sysconfig.get_paths()["purelib"], *site.getsitepackages()}
found = [p for f in folders for p in glob.glob(os.path.join(f, "nvidia", "*", "lib"))]
print(":".join(sorted(found)))
PY
}

finish() {
    local status=$?
    trap - EXIT INT TERM
    # The table goes without times of one side, or of both.
    touch "$out"/{meptr,torch}.jsonl
    gpu_check table "$out/meptr.jsonl" "$out/torch.jsonl" | tee "$out/table.txt"
    say done
    [ "$status" -eq 0 ] || failed+=("stopped with status $status")
    if [ ${#failed[@]} -gt 0 ]; then
        printf 'FAILED: %s\n' "${failed[@]}"
        exit 1
    fi
}

say "what is here: $(date -u +%Y-%m-%d)"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null ||
    echo "no nvidia-smi"
unpack || { echo "gpu-check: run scripts/build-cuda.sh --checks first" >&2; exit 2; }
found=$(libraries)
for folder in /usr/local/cuda/lib64 /usr/local/cuda/targets/x86_64-linux/lib; do
    [ -d "$folder" ] && found=$found:$folder
done
LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$found
LD_LIBRARY_PATH=${LD_LIBRARY_PATH%:}
has_ffmpeg=yes
if LD_LIBRARY_PATH=$LD_LIBRARY_PATH ldd "$out/bin/meptr" | grep -E 'lib(av|sw).*not found'; then
    has_ffmpeg=no
    echo "FFmpeg is not here: stand-ins take its place, and no video is predicted"
    LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$out/stubs
fi
export LD_LIBRARY_PATH PATH=$out/bin:$PATH RUST_BACKTRACE=0
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Golden tests that decode nothing, by their modules.
modules=(
    core_tests:golden_models extract_tests:backbones extract_tests:preprocessing
    extract_tests:golden_detect extract_tests:golden_bodies extract_tests:golden_speech
    train_tests:golden_traces train_tests:golden_full_runs
)
say "golden data on $device"
export MEPTR_TEST_DEVICE=$device
for module in "${modules[@]}"; do
    echo "-- $module"
    # One test after another: they share the device's one queue of work.
    # In a crate's folder, above which a test finds the repository's reference data.
    step "golden $module" 120 env --chdir=meptr-extract "$out/tests/${module%:*}" \
        --test-threads=1 "${module#*:}::"
done

say "backbones on $device against the processor"
step compare 150 gpu_check compare "$device" "${quick[@]}"

say "demo prediction"
video=samples/portrait.mp4
if [ $has_ffmpeg = no ]; then
    failed+=("predictions: FFmpeg's libraries are missing")
elif step predict 120 meptr predict --device "$device" --format json --output "$out/device.json" "$video"
then
    step predict-cpu 120 meptr predict --device cpu --format json --output "$out/cpu.json" "$video"
    step predict-same 60 python3 - "$out/device.json" "$out/cpu.json" <<'PY'
import json, sys
a, b = (json.load(open(path))["videos"][0]["predictions"][0] for path in sys.argv[1:])
numbers = lambda row: [e["probability"] for e in row["emotions"]] + [t["score"] for t in row["traits"]]
off = max(abs(x - y) for x, y in zip(numbers(a), numbers(b)))
print(f"probabilities and scores off by {off:.1e}")
sys.exit(off > 1e-3)
PY
    if [ ${#quick[@]} -eq 0 ]; then
        timed=${GPU_CHECK_VIDEO:-$video}
        step weights 120 meptr weights init --preset full --seed 1 "$out/full"
        for precision in f32 bf16; do
            [ "$device" = cpu ] && [ $precision = bf16 ] && continue
            step "predict-$precision" 120 meptr predict --device "$device" --precision $precision \
                --weights "$out/full" --format json --output "$out/full-$precision.json" "$timed" "$timed" &&
                step "times-$precision" 30 python3 - "$out/full-$precision.json" "$precision" <<'PY'
import json, sys
for video in json.load(open(sys.argv[1]))["videos"]:
    steps = ", ".join(f"{step['name']} {step['seconds']:.2f} s" for step in video["steps"])
    print(f"full size, {sys.argv[2]}: {steps}")
PY
        done
        # A folder of videos, decoded by as many workers as the processor has pairs of cores.
        mkdir -p "$out/videos"
        for number in $(seq 48); do cp "$timed" "$out/videos/$number.mp4"; done
        workers=$(yes "$device" | head -n "$((($(nproc) + 1) / 2))" | paste -sd,)
        start=$(date +%s.%N)
        step predict-folder 120 meptr predict --device "$workers" --weights "$out/full" \
            --format json --output "$out/folder.json" "$out/videos" &&
            step times-folder 30 python3 - "$out/folder.json" "$(date +%s.%N)" "$start" <<'PY'
import json, sys
videos = json.load(open(sys.argv[1]))["videos"]
seconds = float(sys.argv[2]) - float(sys.argv[3])
print(f"a folder of {len(videos)} videos, from process start: {seconds:.1f} s")
PY
    fi
fi

say "times"
step measure 150 gpu_check measure "$device" "${quick[@]}" > "$out/meptr.jsonl"
if python3 -c 'import torch' 2>/dev/null; then
    step torch 150 python3 scripts/gpu_check.py "$device" "${quick[@]}" > "$out/torch.jsonl"
else
    echo "no PyTorch here to compare with"
fi

exit 0 # what failed is told by `finish`
