"""Times meptr against what a user would run instead, alternating, in one run, and prints tables of ratios in Markdown.

    compare.py --meptr PROGRAM --time-backbones PROGRAM --bundle DIR --video FILE --transcript FILE
               [--threads N] [--rounds N] [--cases a,b,..] [--skip-predict] [--skip-start-up] [--skip-folder] [--json FILE]

A ratio is our time over theirs in the same round; below 1 we are faster. Given are the median and the range of the rounds' ratios.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
CASES = (
    "clip-1 clip-30 clip-90 bert-50 bert-512 wav2vec2-5 wav2vec2-15 wav2vec2-60 whisper-encoder yolo-1 yolo-30 face-1 face-30"
    " clip-30@bf16 bert-512@bf16 wav2vec2-15@bf16"
).split()
# Copies of the video in the folder that is timed.
VIDEOS = 6
# Multiplications and additions of one run of a case at the published sizes, in GFLOP, rounded.
GFLOP = {
    "clip-1": 8.2, "clip-30": 247.0, "clip-90": 741.0, "bert-50": 2.2, "bert-512": 26.6,
    "wav2vec2-5": 107.0, "wav2vec2-15": 341.0, "wav2vec2-60": 1690.0, "whisper-encoder": 344.0, "yolo-1": 5.2, "yolo-30": 157.0,
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("meptr", "time-backbones", "bundle", "video", "transcript"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", type=lambda text: [case for case in text.split(",") if case], default=CASES)
    parser.add_argument("--skip-predict", action="store_true")
    parser.add_argument("--skip-start-up", action="store_true")
    parser.add_argument("--skip-folder", action="store_true")
    parser.add_argument("--json", help="file for every figure")
    return parser.parse_args()


class PyTorch:
    """The other side of the backbones, one process for the whole run."""

    def __init__(self, given):
        command = [sys.executable, HERE / "pytorch_side.py", given.bundle, str(given.threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def seconds(self, case, repeats):
        self.process.stdin.write(json.dumps({"case": case, "repeats": repeats}) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)["seconds"]
        raise SystemExit(f"PyTorch's side ended at {case}")


def our_seconds(given, case, repeats):
    command = [given.time_backbones, given.bundle, case, str(repeats)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=our_environment(given))
    return [json.loads(line)["seconds"] for line in done.stdout.splitlines() if line.startswith("{")]


def our_environment(given):
    return os.environ | {"RAYON_NUM_THREADS": str(given.threads)}


def whole(command, environment):
    """Wall seconds from process start to its end, its peak memory in MB, its output and its seconds of processor time."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{command[0]} failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1024, output, usage.ru_utime + usage.ru_stime


def spread(values, digits=2):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def backbones(given, figures):
    theirs = PyTorch(given)
    rate = 0.0
    for _ in range(3):
        rate = max(rate, 2 * 2048**3 / min(theirs.seconds("matmul", 10)) / 1e9)
    our_rate = 2 * 2048**3 / min(our_seconds(given, "matmul", 20)) / 1e9
    figures["matmul"] = {"theirs": rate, "ours": our_rate}
    print(f"Square f32 matmul, best: {our_rate:.0f} GFLOP/s (meptr), {rate:.0f} GFLOP/s (PyTorch).\n")
    print("| case | meptr, s | PyTorch, s | ratio | share of PyTorch's matmul rate |\n| --- | --- | --- | --- | --- |")
    for case in given.cases:
        repeats = 1 if case.endswith(("-90", "-60")) else 3
        ours, others = [], []
        for _ in range(given.rounds):
            ours.append(min(our_seconds(given, case, repeats)))
            others.append(min(theirs.seconds(case, repeats)))
        ratios = [one / other for one, other in zip(ours, others)]
        figures[case] = {"ours": ours, "theirs": others}
        work = GFLOP.get(case.partition("@")[0])
        share = f"{work / min(ours) / rate:.0%}" if work else ""
        print(f"| {case} | {spread(ours, 3)} | {spread(others, 3)} | {spread(ratios)} | {share} |", flush=True)
    theirs.process.stdin.close()


def predict(given, figures):
    threads = ["--threads", str(given.threads)]
    ours = [given.meptr, "predict", "--weights", given.bundle, "--transcript-file", given.transcript, "--format", "json", *threads, given.video]
    other = [sys.executable, HERE / "reference_predict.py", given.bundle, given.video, given.transcript, str(given.threads)]
    rows = {"ours": [], "theirs": []}
    for _ in range(given.rounds):
        rows["ours"].append(whole(ours, our_environment(given)))
        rows["theirs"].append(whole(other, dict(os.environ)))
    figures["predict"] = {side: [list(row[:2]) for row in found] for side, found in rows.items()}
    print(f"\n`predict`, from process start, {pathlib.Path(given.video).name}:\n")
    print("| | meptr | Python | ratio |\n| --- | --- | --- | --- |")
    for place, (what, digits) in enumerate((("wall, s", 2), ("peak memory, MB", 0))):
        mine, yours = ([row[place] for row in rows[side]] for side in ("ours", "theirs"))
        ratios = [one / two for one, two in zip(mine, yours)]
        print(f"| {what} | {spread(mine, digits)} | {spread(yours, digits)} | {spread(ratios)} |")
    report = json.loads(rows["ours"][-1][2])["videos"][0]
    print("\nSteps of the last round, meptr: " + ", ".join(f"{step['name']} {step['seconds']:.2f}" for step in report["steps"]))
    line = [line for line in rows["theirs"][-1][2].decode().splitlines() if line.startswith("{")][-1]
    print("Steps of the last round, Python: " + ", ".join(f"{name} {took:.2f}" for name, took in json.loads(line)["seconds"].items()))


def folder(given, figures):
    """Some videos at a time. All steps share the cores, so what limits a folder is how busy they are."""
    took = []
    with tempfile.TemporaryDirectory() as place:
        videos = [pathlib.Path(place, f"{number}.mp4") for number in range(VIDEOS)]
        for video in videos:
            video.symlink_to(pathlib.Path(given.video).resolve())
        command = [given.meptr, "predict", "--weights", given.bundle, "--format", "json", "--threads", str(given.threads), *videos]
        for _ in range(given.rounds):
            took.append(whole(command, our_environment(given)))
    figures["folder"] = [[wall, memory, busy] for wall, memory, _, busy in took]
    print(f"\n{VIDEOS} videos in one call: {spread([wall for wall, *_ in took])} s, peak memory {spread([row[1] for row in took], 0)} MB, "
          f"cores busy {spread([busy / wall / given.threads for wall, _, _, busy in took])} of the time from process start.")


def start_up(given, figures):
    took = [whole([given.meptr, "--help"], None)[0] for _ in range(10)]
    demo = [whole([given.meptr, "predict", "--weights", "demo", "--format", "json", "samples/portrait.mp4"], None) for _ in range(5)]
    figures["start-up"] = {"help": took, "demo": [list(one[:2]) for one in demo]}
    print(f"\n`meptr --help`: {spread(took, 3)} s. `meptr predict --weights demo samples/portrait.mp4`: {spread([one[0] for one in demo])} s.")


def main():
    given = arguments()
    figures = {"threads": given.threads, "machine": platform.processor() or platform.machine()}
    print(f"{platform.platform()}, {given.threads} threads, {given.rounds} rounds, load {os.getloadavg()[0]:.1f} at the start.\n")
    if given.cases:
        backbones(given, figures)
    if not given.skip_start_up:
        start_up(given, figures)
    if not given.skip_predict:
        predict(given, figures)
    if not given.skip_folder:
        folder(given, figures)
    if given.json:
        pathlib.Path(given.json).write_text(json.dumps(figures, indent=1))


main()
