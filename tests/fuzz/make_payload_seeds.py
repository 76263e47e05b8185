#!/usr/bin/env python3
"""Makes the seeds of payload_fuzz, npy_fuzz and base64_fuzz: small bodies as the engines send them."""

import base64
import json
import pathlib
import struct

CORPUS = pathlib.Path(__file__).parent / "corpus"
ROWS = [[[(row + layer + slot) % 9 for slot in range(2)] for layer in range(3)] for row in range(4)]
IDS = [expert for row in ROWS for layer in row for expert in layer]


def packed(letter):
    return struct.pack(f"<{len(IDS)}{letter}", *IDS)


def text(data):
    return base64.b64encode(data).decode()


def npy(descr, letter, version):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': (4, 3, 2), }}".encode()
    length = 2 if version == 1 else 4
    header += b" " * (63 - (8 + length + len(header)) % 64) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(header).to_bytes(length, "little") + header + packed(letter)


def response(*routes, key="routed_experts"):
    return {"id": "chatcmpl-1", "choices": [{"index": i, "message": {"content": 'a "b" \\ {'}, key: each}
                                           for i, each in enumerate(routes)], "usage": {"total_tokens": 5}}


def with_shape(letter, name, **more):
    return {"data": text(packed(letter)), "shape": [4, 3, 2], **more, "dtype": name}


SEEDS = {
    "payload_fuzz": {
        "vllm": response(text(npy("|u1", "B", 1)), text(npy("<u2", "H", 2))),
        "verifiers": response(with_shape("B", "uint8", start=3), None),
        "skyrl": response(with_shape("h", "int16", layer_indices=[1, 3, 4])),
        "sglang": {"text": "a", "meta_info": {"routed_experts": text(packed("h")), "routed_experts_start_len": 2}},
        "nemo": response("nrlre1:int32:4x3x2:" + text(packed("i"))),
        "megatron": response(ROWS, ROWS, key="moe_topk_indices"),
        "long": response({"data": text(bytes(range(1, 241)) * 15), "shape": [1200, 3, 1], "dtype": "uint8"}),
    },
    "npy_fuzz": {f"v{version}": npy("<i4", "i", version) for version in (1, 2, 3)},
    "base64_fuzz": {str(size): text(bytes(range(size))).encode() for size in (0, 1, 2, 3, 40, 120)},
}

for target, seeds in SEEDS.items():
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    for name, seed in seeds.items():
        (folder / name).write_bytes(seed if isinstance(seed, bytes) else json.dumps(seed).encode())
