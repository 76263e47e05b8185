"""The files that the command line tool reads and writes, with nothing but the standard library."""

import json
import math
import struct

SIZES = {"F32": 4, "BF16": 2, "I32": 4, "I64": 8}


def read_safetensors(path):
    """name -> (dtype, shape, bytes)"""
    with open(path, "rb") as file:
        blob = file.read()
    (length,) = struct.unpack_from("<Q", blob)
    header = json.loads(blob[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = (entry["dtype"], entry["shape"], blob[8 + length + begin : 8 + length + end])
    return tensors


def write_safetensors(path, tensors, pad=True):
    """Without padding of the header, tensors stand at odd addresses, which the format allows."""
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        assert len(content) == SIZES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    text += b" " * ((-len(text)) % 8 + (0 if pad else 1))
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def read_npy(path):
    """(shape, bytes) of an f32 array"""
    with open(path, "rb") as file:
        blob = file.read()
    assert blob[:8] == b"\x93NUMPY\x01\x00"
    (length,) = struct.unpack_from("<H", blob, 8)
    assert (10 + length) % 64 == 0
    header = eval(blob[10 : 10 + length], {"__builtins__": {}})  # what numpy does, on our own file
    assert header["descr"] == "<f4" and header["fortran_order"] is False
    return list(header["shape"]), blob[10 + length :]


def write_npy(path, shape, content):
    text = repr({"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}).encode() + b"\n"
    with open(path, "wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content)


def floats(content):
    return list(struct.unpack(f"<{len(content) // 4}f", content))


def to_bf16(content):
    """f32 -> bf16, towards zero"""
    return b"".join(content[i + 2 : i + 4] for i in range(0, len(content), 4))
