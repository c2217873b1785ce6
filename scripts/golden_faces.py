#!/usr/bin/env python3
"""Writes tests/golden/blazeface and tests/golden/faces: what MediaPipe sees in our own clips.

  pip install mediapipe==0.10.21 tflite-runtime==2.14.0 safetensors
  python scripts/golden_faces.py [tests/golden]

Made with these, the numpy 1.26.4 and OpenCV 4.11.0.86 that come with MediaPipe, and the ffmpeg
program 5.1.9. Frames are taken from samples/portrait.mp4 and tests/fixtures/two_people.mp4.

blazeface/golden_RANGE.safetensors: per picture the letterboxed bytes (OpenCV), the raw regressors
and scores (TFLite interpreter, model files of the mediapipe wheel), and the anchors.
blazeface/golden_boxes_RANGE.json: the detections of mp.solutions.face_detection, and, computed here
from the raw outputs in f64, all proposals of score 0.1 and more and what merging makes of them.
faces/two_people.json: full-range detections on every frame, bodies that were made up, and the
crops that follow from both by the rules of the reference, as hashes.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import cv2
import mediapipe
import numpy as np
from safetensors.numpy import save_file
from tflite_runtime.interpreter import Interpreter

HERE = Path(__file__).resolve().parent.parent
PORTRAIT, TWO_PEOPLE = "samples/portrait.mp4", "tests/fixtures/two_people.mp4"
VERSION = f"mediapipe {mediapipe.__version__} face_detection"
# Name: model_selection, file in the wheel, side of the input, threshold, grids (cells, anchors).
MODELS = {
    "full_range": (1, "face_detection_full_range_sparse", 192, 0.6, [(48, 1)]),
    "short_range": (0, "face_detection_short_range", 128, 0.5, [(16, 2), (8, 6)]),
}
PICTURES = {
    "full_range": [(PORTRAIT, 20), (PORTRAIT, 180), (TWO_PEOPLE, 15)],
    "short_range": [(PORTRAIT, 100), (TWO_PEOPLE, 15)],
}
NOTE = (
    "lower_threshold_case is computed from the raw outputs with the described decoding and "
    "weighted NMS at threshold 0.1; it is not a MediaPipe output"
)
# Made up: around the left person, around the right one and over the edge, and across both.
BODIES = [[8.25, -4.0, 352.75, 366.5], [371.5, 60.9, 741.0, 358.0], [200.0, 20.0, 600.5, 340.0]]


def frames_of(clip):
    """All frames, RGB, as the ffmpeg program shows them."""
    command = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(HERE / clip), "-an", "-vsync"]
    command += ["passthrough", "-pix_fmt", "rgb24", "-c:v", "ppm", "-f", "image2pipe", "-"]
    data, frames = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout, []
    while data:
        _, size, _, data = data.split(b"\n", 3)
        width, height = map(int, size.split())
        count = width * height * 3
        frames.append(np.frombuffer(data[:count], np.uint8).reshape(height, width, 3))
        data = data[count:]
    return frames


def letterbox(picture, side):
    """The picture in a black square of that side, with the square's place in the picture."""
    height, width = picture.shape[:2]
    m = max(height, width)
    x, y = (width - m) / 2, (height - m) / 2
    source = np.float32([[x, y], [x + m, y], [x, y + m], [x + m, y + m]])
    target = np.float32([[0, 0], [side, 0], [0, side], [side, side]])
    warp = cv2.getPerspectiveTransform(source, target)
    square = cv2.warpPerspective(picture, warp, (side, side), flags=cv2.INTER_LINEAR)
    return square, {"square_side": m, "offset_x": x, "offset_y": y}


def anchors_of(grids):
    rows = [
        ((x + 0.5) / cells, (y + 0.5) / cells)
        for cells, each in grids for y in range(cells) for x in range(cells) for _ in range(each)
    ]
    return np.array(rows, np.float32)


class Network:
    def __init__(self, file):
        folder = Path(mediapipe.__file__).parent / "modules/face_detection"
        self.interpreter = Interpreter(str(folder / f"{file}.tflite"), num_threads=1)
        self.interpreter.allocate_tensors()

    def __call__(self, square):
        values = square.astype(np.float32) * np.float32(2 / 255) - np.float32(1)
        self.interpreter.set_tensor(self.interpreter.get_input_details()[0]["index"], values[None])
        self.interpreter.invoke()
        outputs = self.interpreter.get_output_details()
        outputs = [self.interpreter.get_tensor(output["index"])[0] for output in outputs]
        regressors, scores = sorted(outputs, key=lambda output: -output.shape[1])
        return regressors.copy(), scores[:, 0].copy()


def proposals(regressors, scores, anchors, side, threshold):
    """Boxes (left, top, right, bottom) and key points in the square, in the anchors' order."""
    scores = 1 / (1 + np.exp(-np.clip(scores.astype(np.float64), -100, 100)))
    found = []
    for anchor in np.flatnonzero(scores >= threshold):
        points = regressors[anchor].astype(np.float64).reshape(8, 2) / side
        center, size = points[0] + anchors[anchor], points[1]
        if (size >= 0).all():
            corners = [*(center - size / 2), *(center + size / 2)]
            keypoints = points[2:] + anchors[anchor]
            found.append((int(anchor), float(scores[anchor]), np.array(corners), keypoints))
    return found


def overlap(a, b):
    both = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    if (both <= 0).any():
        return 0.0
    both, area = both.prod(), lambda box: (box[2:] - box[:2]).prod()
    return both / (area(a) + area(b) - both)


def merged(found):
    """Weighted NMS: the best one's score, the mean box of all that overlap it by more than 0.3."""
    rest, faces = sorted(found, key=lambda one: -one[1]), []
    while rest:
        near = [one for one in rest if one is rest[0] or overlap(one[2], rest[0][2]) > 0.3]
        weights = np.array([one[1] for one in near])
        box, points = (np.average([one[i] for one in near], 0, weights) for i in (2, 3))
        faces.append((rest[0][1], box, points, len(near)))
        rest = [one for one in rest if not any(one is other for other in near)]
    return faces


def in_picture(face, placed, size):
    """A merged face relative to the picture: what MediaPipe reports."""
    score, box, points, count = face
    origin = np.array([placed["offset_x"], placed["offset_y"]])
    back = lambda point: (point * placed["square_side"] + origin) / size
    corner, end = back(box[:2]), back(box[2:])
    place = dict(zip(["xmin", "ymin", "width", "height"], [*corner, *(end - corner)]))
    return {"score": score, "relative_box": place, "keypoints": back(points).tolist()}, count


def reported(detector, picture):
    """What mp.solutions.face_detection says."""
    height, width = picture.shape[:2]
    faces = []
    for face in detector.process(picture).detections or []:
        place = face.location_data.relative_bounding_box
        box = {name: getattr(place, name) for name in ("xmin", "ymin", "width", "height")}
        left, top = max(int(place.xmin * width), 0), max(int(place.ymin * height), 0)
        right = min(int((place.xmin + place.width) * width), width)
        bottom = min(int((place.ymin + place.height) * height), height)
        points = [[point.x, point.y] for point in face.location_data.relative_keypoints]
        faces.append({"score": face.score[0], "relative_box": box, "keypoints": points,
                      "pixel_box_xyxy": [left, top, right, bottom]})
    return faces


def difference(faces, ours):
    """Between MediaPipe's numbers and those by the description."""
    assert len(faces) == len(ours), (len(faces), len(ours))
    numbers = lambda face: [face["score"], *face["relative_box"].values(), *sum(face["keypoints"], [])]
    pairs = zip(map(numbers, faces), map(numbers, ours))
    return max((float(np.abs(np.subtract(a, b)).max()) for a, b in pairs), default=0.0)


def blazeface(folder, name, frames):
    selection, file, side, threshold, grids = MODELS[name]
    network, anchors = Network(file), anchors_of(grids)
    detector = mediapipe.solutions.face_detection.FaceDetection(threshold, selection)
    tensors, images = {"anchors_xy": anchors}, {}
    for clip, number in PICTURES[name]:
        picture = frames[clip][number]
        size = np.array(picture.shape[1::-1])
        image = f"{Path(clip).stem}_{number}"
        square, placed = letterbox(picture, side)
        regressors, scores = network(square)
        tensors |= {f"{image}.letterboxed_u8": square, f"{image}.regressors": regressors,
                    f"{image}.scores": scores}
        own = merged(proposals(regressors, scores, anchors, side, threshold))
        own, counts = zip(*(in_picture(face, placed, size) for face in own)) if own else ([], [])
        faces = reported(detector, picture)
        off = difference(faces, own)
        assert off < 1e-5, f"{name} {image}: the description is off by {off}"
        print(f"{name} {image}: {len(faces)} faces, described within {off:.1e}")
        faces = [face | {"candidates_merged": count} for face, count in zip(faces, counts)]
        lower = proposals(regressors, scores, anchors, side, 0.1)
        images[image] = {
            "clip": clip, "frame": number, "size_wh": size.tolist(),
            "max_score": float(1 / (1 + np.exp(-float(scores.max())))), "letterbox": placed,
            "mediapipe_detections": faces, "max_abs_diff_of_described_pipeline_to_mediapipe": off,
            "lower_threshold_case": {
                "candidates_at_0_1": [
                    {"anchor": anchor, "score": score, "box_in_letterbox": box.tolist(),
                     "keypoints": points.tolist()}
                    for anchor, score, box, points in lower],
                "weighted_nms_of_those": [
                    face | {"merged": count}
                    for face, count in (in_picture(face, placed, size) for face in merged(lower))],
            },
        }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / f"golden_{name}.safetensors")
    detector = f"{VERSION} model_selection={selection}; the graph's own threshold is {threshold}"
    write(folder / f"golden_boxes_{name}.json", {"detector": detector, "note": NOTE, "images": images})


def crop_of(picture, box):
    left, top, right, bottom = (max(edge, 0) for edge in box)
    return picture[top:bottom, left:right] if left < right and top < bottom else None


def crops_of(picture, faces):
    """Scene, then every face with the first body around its centre; else the largest body."""
    height, width = picture.shape[:2]
    cut = lambda box: [min(max(edge, 0), side) for edge, side in zip(box, [width, height] * 2)]
    bodies = [[int(edge) for edge in cut(body)] for body in BODIES]
    crops = [picture]
    for face in faces:
        left, top, right, bottom = face
        x, y = (left + right) // 2, (top + bottom) // 2
        around = [b for b in bodies if b[0] <= x <= b[2] and b[1] <= y <= b[3]]
        crops += [crop_of(picture, box) for box in [face, *around[:1]]]
    if not faces:
        area = lambda box: (box[2] - box[0]) * (box[3] - box[1])
        crops += [crop_of(picture, max((cut(body) for body in bodies), key=area))] * 2
    return [crop for crop in crops if crop is not None]


def clip_case(path, clip, frames):
    """In the form of the reference data for whole clips, with crops added."""
    detector = mediapipe.solutions.face_detection.FaceDetection(0.6, 1)
    detections = [{"frame": i, "faces": reported(detector, frame)} for i, frame in enumerate(frames)]
    crops = [
        {"height": crop.shape[0], "width": crop.shape[1],
         "sha256_16": hashlib.sha256(np.ascontiguousarray(crop)).hexdigest()[:16]}
        for frame, found in zip(frames, detections)
        for crop in crops_of(frame, [face["pixel_box_xyxy"] for face in found["faces"]])]
    height, width = frames[0].shape[:2]
    write(path, {
        "detector": f"{VERSION}, model_selection=1, min_detection_confidence=0.6",
        "clip": clip, "frames_decoded": len(frames), "size_wh": [width, height],
        "detections": detections, "body_boxes_supplied_per_frame": BODIES,
        "crops_in_processing_order": crops,
    })
    faces = sum(len(found["faces"]) for found in detections)
    print(f"{clip}: {faces} faces and {len(crops)} crops in {len(frames)} frames")


def write(path, value):
    """JSON with short lists on one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lines(value) + "\n")


def lines(value, depth=0):
    flat = json.dumps(value)
    if len(flat) + depth <= 120 or not isinstance(value, (dict, list)):
        return flat
    space, inner = " " * depth, " " * (depth + 1)
    if isinstance(value, dict):
        rows = [f"{inner}{json.dumps(name)}: {lines(part, depth + 1)}" for name, part in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{space}}}"
    return "[\n" + ",\n".join(inner + lines(part, depth + 1) for part in value) + f"\n{space}]"


if __name__ == "__main__":
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "tests/golden"
    clips = {clip: frames_of(clip) for clip in (PORTRAIT, TWO_PEOPLE)}
    for name in MODELS:
        blazeface(root / "blazeface", name, clips)
    clip_case(root / "faces/two_people.json", TWO_PEOPLE, clips[TWO_PEOPLE])
