"""Writes the PyTorch files of tests/fixtures/checkpoints, and what they hold as safetensors.

For developers only; nothing else in the repository needs Python. Made with Python 3.11,
torch 2.6.0 (any build, CPU), numpy 1.26.4, safetensors 0.8.0 and ultralytics 8.3.177:

    python scripts/make_checkpoint_fixtures.py tests/fixtures/checkpoints
"""

import argparse
import builtins
import collections
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy
import torch
from safetensors.torch import save_file

FOLDER = pathlib.Path(sys.argv[1])


def save(name, content, expected, **options):
    """Saves a file, and beside it the tensors that reading it must give."""
    torch.save(content, FOLDER / name, **options)
    expected = {key: value.detach().clone().contiguous() for key, value in expected.items()}
    save_file(expected, FOLDER / f"{name}.safetensors")


def every_kind():
    """One tensor of each type and of each relation to its storage."""
    torch.manual_seed(1)
    base = torch.randn(4, 6)
    tensors = collections.OrderedDict()
    tensors["float"] = base
    tensors["transposed"] = base.t()
    tensors["slice"] = base[1:3, 2:5]
    tensors["every_second"] = base[:, ::2]
    tensors["expanded"] = torch.tensor([1.5]).expand(3, 2)
    tensors["scalar"] = torch.tensor(2.5)
    tensors["empty"] = torch.zeros(0, 5)
    tensors["half"] = torch.randn(5).half()
    tensors["bfloat"] = torch.randn(5).bfloat16()
    tensors["double"] = torch.randn(3, dtype=torch.float64)
    tensors["long"] = torch.tensor([1, -(2**40)])
    tensors["int"] = torch.tensor([7, -7], dtype=torch.int32)
    tensors["short"] = torch.tensor([7, -300], dtype=torch.int16)
    tensors["char"] = torch.tensor([7, -7], dtype=torch.int8)
    tensors["byte"] = torch.tensor([7, 200], dtype=torch.uint8)
    tensors["bool"] = torch.tensor([True, False])
    tensors["parameter"] = torch.nn.Parameter(torch.randn(2, 2))
    tensors["channels_last"] = torch.randn(1, 3, 2, 2).to(memory_format=torch.channels_last)
    expected = dict(tensors)
    expected["char"] = tensors["char"].long()
    expected["bool"] = tensors["bool"].byte()
    return tensors, expected


def tensors():
    content, expected = every_kind()
    save("every_kind.pt", content, expected)
    save("every_kind_protocol_4.pt", content, expected, pickle_protocol=4)
    save("every_kind_protocol_5.pt", content, expected, pickle_protocol=5)
    save("every_kind_legacy.pt", content, expected, _use_new_zipfile_serialization=False)
    save(
        "every_kind_legacy_protocol_4.pt",
        content,
        expected,
        pickle_protocol=4,
        _use_new_zipfile_serialization=False,
    )


def layouts():
    torch.manual_seed(2)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.randn(5, 3)).square().sum().backward()
    optimiser.step()
    state = model.state_dict()
    training = {
        "epoch": 3,
        "best": numpy.float64(0.25),
        "optimizer_state_dict": optimiser.state_dict(),
        "rng": torch.get_rng_state()[:16],
        "history": collections.defaultdict(list, loss=[1.0, 0.5]),
    }
    save("model_state_dict.pt", {"model_state_dict": state, **training}, state)
    config = {
        "hidden_dim": 4,
        "dropout": 0.2,
        "tr_heads": numpy.int64(8),
        "best": numpy.float32(0.5),
        "name": "größe",
        "widths": [1, 2, (3, None)],
        "big": 2**70,
        "flags": {"mask": True, 1: "one"},
        "infinite": float("inf"),
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "set": {4},
    }
    save("state_dict_config.pt", {"state_dict": state, "config": config, **training}, state)
    arguments = argparse.Namespace(hidden_dim=4, heads=2)
    save("state_dict_namespace.pt", {"state_dict": state, "config": arguments}, state)
    wrapped = torch.nn.DataParallel(model).state_dict()
    save("module_prefix.pt", wrapped, state)
    whole = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.BatchNorm1d(2))
    whole[0].register_buffer("kept", torch.ones(3))
    whole[0].register_buffer("not_kept", torch.ones(3), persistent=False)
    save("whole_module.pt", whole, whole.state_dict())
    save("half.pt", {"model": {k: v.half() for k, v in state.items()}},
         {k: v.half() for k, v in state.items()})


def weight_norm():
    torch.manual_seed(3)
    make = lambda: torch.nn.Conv1d(4, 4, 3, groups=2)
    old = torch.nn.utils.weight_norm(make(), dim=2).state_dict()
    save("weight_norm_old.pt", old, old)
    new = torch.nn.utils.parametrizations.weight_norm(make(), dim=2).state_dict()
    save("weight_norm_new.pt", new, new)


def audio_head():
    """A stage-2 audio model as its authors save it: widths of 8, configuration beside the weights."""
    torch.manual_seed(5)
    width, inputs = 8, 16
    shapes = {}
    for encoder, head, outputs in [("emo_enc", "fc", 7), ("per_enc", "head", 5)]:
        shapes[f"{encoder}.input_proj"] = (width, inputs)
        for block in range(2):
            for part in ["in_proj", "s_B", "s_C", "out_proj"]:
                shapes[f"{encoder}.blocks.{block}.{part}"] = (width, width)
            shapes[f"{encoder}.blocks.{block}.norm"] = (width,)
        shapes[f"{encoder}.{head}"] = (outputs, width)
    for task, outputs in [("emo", 7), ("per", 5)]:
        shapes[f"{task}_proj.0"] = (width, width)
        shapes[f"{task}_proj.1"] = (width,)
        shapes[f"{task}_head.0"] = (width, 2 * width)
        shapes[f"{task}_head.1"] = (width,)
        shapes[f"{task}_head.4"] = (outputs, width)
    state = collections.OrderedDict()
    for name, shape in shapes.items():
        # Stored by columns, as after a transposition.
        state[f"{name}.weight"] = torch.randn(shape[::-1]).t() if len(shape) == 2 else torch.ones(shape)
        state[f"{name}.bias"] = torch.randn(shape[0])
    for attention in ["mha_e2p", "mha_p2e"]:
        state[f"{attention}.in_proj_weight"] = torch.randn(3 * width, width)
        state[f"{attention}.in_proj_bias"] = torch.randn(3 * width)
        state[f"{attention}.out_proj.weight"] = torch.randn(width, width)
        state[f"{attention}.out_proj.bias"] = torch.randn(width)
    config = {"d_model": width, "input_size": inputs, "note": "two", "fusion": {"tr_heads": 2}}
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    save("audio_head.pt", {"state_dict": wrapped, "config": config, "epoch": 7}, state)


def detection_model():
    """A whole model object of Ultralytics' own classes, tiny: its `.pt` files are such objects."""
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(4)
    plan = {
        "nc": 1,
        "scales": {"n": [0.33, 0.125, 16]},
        "scale": "n",
        "backbone": [[-1, 1, "Conv", [64, 3, 2]], [-1, 1, "Conv", [64, 3, 2]],
                     [-1, 3, "C2f", [64, True]], [-1, 1, "SPPF", [64, 5]]],
        "head": [[[2, 3], 1, "Detect", ["nc"]]],
    }
    model = DetectionModel(plan, ch=3, nc=1, verbose=False)
    head = model.model[-1]
    for branch in head.cv2:  # the regression branch has 64 channels whatever the width
        branch[1] = torch.nn.Identity()
    model.names = {0: "person"}
    model = model.half().eval()
    for parameter in model.parameters():
        parameter.requires_grad = False
    content = {
        "date": "2025-01-01T00:00:00",
        "version": "8.3.177",
        "epoch": -1,
        "best_fitness": None,
        "model": model,
        "ema": None,
        "updates": None,
        "optimizer": None,
        "train_args": {"imgsz": 640, "model": "yolov8n.pt"},
    }
    save("ultralytics.pt", content, model.state_dict())


class Calls:
    """Pickles to a call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def zipped(name, content, protocol=2):
    with zipfile.ZipFile(FOLDER / name, "w") as archive:
        pickled = content if isinstance(content, bytes) else pickle.dumps(content, protocol)
        archive.writestr(zipfile.ZipInfo("archive/data.pkl"), pickled)  # without today's date
        archive.writestr(zipfile.ZipInfo("archive/version"), "3\n")


def malicious():
    """Files that would run something in Python. None of them does harm: `true` and `1` at most."""
    (FOLDER / "malicious").mkdir(exist_ok=True)
    for protocol in range(6):
        zipped(f"malicious/system_protocol_{protocol}.pt", Calls(os.system, "true"), protocol)
        zipped(f"malicious/eval_protocol_{protocol}.pt", {"a": [Calls(eval, "1")]}, protocol)
    zipped("malicious/popen.pt", Calls(subprocess.Popen, ["true"]))
    zipped("malicious/getattr.pt", Calls(getattr, "a", "upper"))
    zipped("malicious/exec.pt", {"state_dict": {"w": Calls(builtins.exec, "1")}})
    zipped("malicious/import.pt", Calls(builtins.__import__, "os"))
    zipped("malicious/load.pt", Calls(torch.load, "x"))
    # Instructions that Python's pickler no longer writes.
    zipped("malicious/instance.pt", b"(S'true'\nios\nsystem\n.")
    zipped("malicious/object.pt", b"(cos\nsystem\nS'true'\no.")
    zipped("malicious/new_object.pt", b"\x80\x02cos\nsystem\nU\x04true\x85\x81.")
    zipped("malicious/stack_global.pt", b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.")
    zipped("malicious/dotted.pt", b"\x80\x04\x8c\x08torch.nn\x8c\x11modules.os.system\x93\x8c\x04true\x85R.")
    zipped("malicious/dotted_object.pt",
           b"\x80\x04\x8c\x10torch.nn.modules\x8c\x09os.system\x93\x8c\x04true\x85R.")
    zipped("malicious/extension.pt", b"\x80\x02\x82\x01)R.")
    zipped("malicious/after_stop.pt", b"\x80\x02}q\x00cos\nsystem\n0.")
    (FOLDER / "malicious/raw.pt").write_bytes(pickle.dumps(Calls(os.system, "true"), 2))


def hostile():
    """Files that lie about lengths or grow when read."""
    (FOLDER / "hostile").mkdir(exist_ok=True)
    zipped("hostile/long_text.pt", b"\x80\x02X\xff\xff\xff\xffabc.")
    zipped("hostile/long_bytes.pt", b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7fabc.")
    zipped("hostile/no_stop.pt", b"\x80\x02}")
    zipped("hostile/empty.pt", b"")
    zipped("hostile/nested.pt", b"\x80\x02" + b"]" * 20000 + b"a" * 19999 + b".")
    tensor = lambda size, stride, length: (
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\n"
        b"FloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ" + struct.pack("<i", length) +
        b"tQK\x00J" + struct.pack("<i", size) + b"\x85J" + struct.pack("<i", stride) +
        b"\x85\x89}tRs."
    )
    def with_storage(name, content, compression=zipfile.ZIP_STORED):
        with zipfile.ZipFile(FOLDER / name, "w") as archive:
            archive.writestr(zipfile.ZipInfo("archive/data.pkl"), content, compression)
            archive.writestr(zipfile.ZipInfo("archive/data/0"), b"\0" * 16, compression)
    with_storage("hostile/tensor_beyond_storage.pt", tensor(5, 1, 4))
    with_storage("hostile/storage_shorter.pt", tensor(5, 1, 5))
    with_storage("hostile/expanded.pt", tensor(2**31 - 1, 0, 4))
    with_storage("hostile/negative_stride.pt", tensor(4, -1, 4))
    with_storage("hostile/compressed.pt", tensor(4, 1, 4), zipfile.ZIP_DEFLATED)
    # Shared lists, each twice in the next: 2^40 values for whoever follows all of them.
    laughs = b"\x80\x02}X\x06\x00\x00\x00config]q\x00"
    for level in range(40):
        laughs += b"(h" + bytes([level]) + b"h" + bytes([level]) + b"lq" + bytes([level + 1])
    zipped("hostile/shared_lists.pt", laughs + b"s.")


FOLDER.mkdir(parents=True, exist_ok=True)
tensors()
layouts()
weight_norm()
audio_head()
detection_model()
malicious()
hostile()
