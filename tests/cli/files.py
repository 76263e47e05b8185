"""The files that the command line tool reads and writes, with nothing but the standard library."""

import json
import math
import struct

LETTERS = {"F64": "d", "F32": "f", "F16": "e", "I16": "h", "I32": "i", "I64": "q", "U8": "B", "BOOL": "?"}
SIZES = {"BF16": 2, **{dtype: struct.calcsize("<" + letter) for dtype, letter in LETTERS.items()}}
DESCRIPTIONS = {"F32": "<f4", "F16": "<f2", "I16": "<i2", "I32": "<i4", "I64": "<i8", "U8": "|u1", "BOOL": "|b1"}


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


def write_npy(path, shape, content, dtype="F32"):
    text = repr({"descr": DESCRIPTIONS[dtype], "fortran_order": False, "shape": tuple(shape)}).encode() + b"\n"
    with open(path, "wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content)


def pack(dtype, values):
    if dtype == "BF16":
        return to_bf16(pack("F32", values))
    return struct.pack(f"<{len(values)}{LETTERS[dtype]}", *values)


def unpack(dtype, content):
    if dtype == "BF16":
        return unpack("F32", b"".join(b"\0\0" + content[i : i + 2] for i in range(0, len(content), 2)))
    return list(struct.unpack(f"<{len(content) // SIZES[dtype]}{LETTERS[dtype]}", content))


def floats(content):
    return unpack("F32", content)


def to_bf16(content):
    """f32 -> bf16, towards zero"""
    return b"".join(content[i + 2 : i + 4] for i in range(0, len(content), 4))
