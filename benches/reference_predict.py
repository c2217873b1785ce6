"""What a user of the Python stack runs today for one video: the reference's pipeline rebuilt from transformers, mediapipe and ultralytics.

    reference_predict.py BUNDLE VIDEO TRANSCRIPT THREADS

Frame choice, detectors on every chosen frame, CLIP crop by crop, Wav2Vec2 and BERT once, as the reference does it. The heads and the fusion model
(about 0.2 s) are left out, in favour of this side. The body detector has generated weights. Prints the seconds of each step as JSON.
"""

import json
import os
import subprocess
import sys
import time

START = time.perf_counter()
BUNDLE, VIDEO, TRANSCRIPT, THREADS = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(THREADS)
os.environ["HF_HUB_OFFLINE"] = "1"

import cv2  # noqa: E402
import mediapipe  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from PIL import Image  # noqa: E402
from ultralytics import YOLO  # noqa: E402

torch.set_num_threads(THREADS)
torch.manual_seed(0)
transformers.logging.set_verbosity_error()
seconds = {"imports": time.perf_counter() - START}


def timed(name, work):
    start = time.perf_counter()
    result = work()
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
    return result


def load():
    return (
        transformers.CLIPVisionModelWithProjection.from_pretrained(f"{BUNDLE}/clip").eval(),
        transformers.CLIPImageProcessor.from_pretrained(f"{BUNDLE}/clip"),
        transformers.Wav2Vec2Model.from_pretrained(f"{BUNDLE}/wav2vec2").eval(),
        transformers.BertModel.from_pretrained(f"{BUNDLE}/bert", add_pooling_layer=False).eval(),
        transformers.PreTrainedTokenizerFast(tokenizer_file=f"{BUNDLE}/bert/tokenizer.json"),
        mediapipe.solutions.face_detection.FaceDetection(model_selection=1, min_detection_confidence=0.6),
        YOLO("yolov8n.yaml"),
    )


def frames():
    video = cv2.VideoCapture(VIDEO)
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    chosen = set(np.linspace(0, count - 1, 30).astype(int).tolist()) if count > 30 else set(range(count))
    found, index = [], 0
    while True:
        is_there, picture = video.read()
        if not is_there:
            return found
        if index in chosen:
            found.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
        index += 1


def sound():
    command = ["ffmpeg", "-v", "error", "-i", VIDEO, "-ac", "1", "-ar", "16000", "-f", "f32le", "-"]
    return np.frombuffer(subprocess.run(command, check=True, capture_output=True).stdout, np.float32)


def faces_of(picture):
    height, width, _ = picture.shape
    boxes = []
    for one in detector.process(picture).detections or []:
        box = one.location_data.relative_bounding_box
        left, top = max(int(box.xmin * width), 0), max(int(box.ymin * height), 0)
        right, bottom = min(int((box.xmin + box.width) * width), width), min(int((box.ymin + box.height) * height), height)
        boxes.append((left, top, right, bottom))
    return boxes


def bodies_of(picture):
    found = bodies.track(picture, persist=True, conf=0.01, iou=0.5, imgsz=640, device="cpu", verbose=False)
    return [tuple(int(value) for value in box) for box in found[0].boxes.xyxy.tolist()]


def crops_of(picture, faces, people):
    whole = (0, 0, picture.shape[1], picture.shape[0])
    if not faces:
        largest = max(people, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]), default=whole)
        return [whole, largest, largest]
    crops = [whole]
    for left, top, right, bottom in faces:
        x, y = (left + right) / 2, (top + bottom) / 2
        inside = [box for box in people if box[0] <= x <= box[2] and box[1] <= y <= box[3]]
        crops += [(left, top, right, bottom), *inside[:1]]
    return crops


def embed(picture, box):
    left, top, right, bottom = box
    crop = Image.fromarray(picture[top:bottom, left:right])
    return clip(**processor(images=crop, return_tensors="pt")).image_embeds


with torch.inference_mode():
    clip, processor, wav2vec2, bert, tokenizer, detector, bodies = timed("loading", load)
    pictures = timed("decoding", frames)
    crops = []
    for picture in pictures:
        faces = timed("faces", lambda: faces_of(picture))
        people = timed("bodies", lambda: bodies_of(picture))
        crops += [(picture, box) for box in crops_of(picture, faces, people) if box[2] > box[0] and box[3] > box[1]]
    timed("clip", lambda: [embed(picture, box) for picture, box in crops])
    samples = timed("sound", sound)
    normal = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
    timed("wav2vec2", lambda: wav2vec2(torch.from_numpy(normal)[None]))
    words = tokenizer(open(TRANSCRIPT).read(), truncation=True, max_length=512, return_tensors="pt", return_token_type_ids=False)
    timed("bert", lambda: bert(**words))
seconds["in all"] = time.perf_counter() - START
print(json.dumps({"crops": len(crops), "seconds": seconds}))
