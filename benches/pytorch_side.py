"""Times PyTorch's side of the comparison: one JSON request a line on stdin, one answer a line on stdout.

Weights and sizes are those of the bundle given as the first argument; inputs are seeded noise. The second argument is the number of threads.
"""

import json
import os
import sys
import time

THREADS = int(sys.argv[2])
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(THREADS)
os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402  (after the thread settings)
import transformers  # noqa: E402

BUNDLE = sys.argv[1]
torch.set_num_threads(THREADS)
torch.manual_seed(0)
transformers.logging.set_verbosity_error()
models = {}


def model(name, make):
    if name not in models:
        models[name] = make()
    return models[name]


def clip():
    return transformers.CLIPVisionModelWithProjection.from_pretrained(f"{BUNDLE}/clip").eval()


def bert():
    return transformers.BertModel.from_pretrained(f"{BUNDLE}/bert", add_pooling_layer=False).eval()


def wav2vec2():
    return transformers.Wav2Vec2Model.from_pretrained(f"{BUNDLE}/wav2vec2").eval()


def whisper():
    """Whisper small: 12 layers of width 768."""
    config = transformers.WhisperConfig(
        d_model=768, encoder_layers=12, encoder_attention_heads=12, encoder_ffn_dim=3072, decoder_layers=1
    )
    return transformers.WhisperModel(config).encoder.eval()


def yolo():
    from ultralytics.nn.tasks import DetectionModel

    return DetectionModel("yolov8n.yaml", verbose=False).eval().fuse(verbose=False)


def face():
    """MediaPipe's own full-range model on TFLite with XNNPACK, one picture a call, as MediaPipe runs it."""
    import mediapipe
    import numpy
    from mediapipe.python.solutions import face_detection

    detector = face_detection.FaceDetection(model_selection=1, min_detection_confidence=0.6)
    picture = numpy.random.default_rng(0).integers(0, 256, (720, 1280, 3), dtype=numpy.uint8)
    return lambda count: [detector.process(picture) for _ in range(count)]


def step(case):
    """The work of a case, as a function without arguments."""
    case, _, precision = case.partition("@")
    if precision == "bf16":
        exact = step(case)

        def rounded():
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return exact()

        return rounded
    name, _, size = case.partition("-")
    size = int(size) if size.isdigit() else 0
    if name == "clip":
        pixels = torch.randn(size, 3, 224, 224)
        return lambda: model(name, clip)(pixel_values=pixels).image_embeds
    if name == "bert":
        tokens = torch.randint(1000, 20000, (1, size))
        return lambda: model(name, bert)(input_ids=tokens).last_hidden_state
    if name == "wav2vec2":
        samples = torch.randn(1, 16000 * size)
        return lambda: model(name, wav2vec2)(samples).last_hidden_state
    if name == "whisper":
        mel = torch.randn(1, 80, 3000)
        return lambda: model(name, whisper)(mel).last_hidden_state
    if name == "yolo":
        # One picture a call would be what the reference does; a batch is kinder to PyTorch.
        pictures = torch.rand(size, 3, 384, 640)
        return lambda: model(name, yolo)(pictures)
    if name == "face":
        return lambda: model(name, face)(size)
    if name == "matmul":
        a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
        return lambda: a @ b
    raise SystemExit(f"no such case: {case}")


def main():
    steps = {}
    for line in sys.stdin:
        request = json.loads(line)
        case = request["case"]
        if case not in steps:
            steps[case] = step(case)
            with torch.inference_mode():
                steps[case]()  # loads, and warms caches up
        seconds = []
        with torch.inference_mode():
            for _ in range(request["repeats"]):
                start = time.perf_counter()
                steps[case]()
                seconds.append(time.perf_counter() - start)
        print(json.dumps({"case": case, "seconds": seconds}), flush=True)


main()
