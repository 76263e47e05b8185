"""A decoder of record stores written from docs/record_store.md alone, with nothing of the library.

    record_decoder.py DB FOLDER

Every sequence's rows go to FOLDER/ID.ids, [rows,L,K] as stored, and FOLDER/ID.valid, a byte per row. Prints the encodings
it met. Ends with 77 if a blob is compressed and Python has no `zstandard`.
"""

import json
import pathlib
import sqlite3
import struct
import sys

try:
    import zstandard
except ImportError:
    zstandard = None

MASK = (1 << 64) - 1
SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
PRIME32 = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
PRIME64 = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)
APPLICATION_ID = 0x53575244
NAMES = {0: "raw", 1: "packed", 2: "elias_fano", 16: "raw_zstd", 17: "packed_zstd", 18: "elias_fano_zstd"}


def word(data, at):
    return int.from_bytes(data[at : at + 8], "little")


def fold(a, b):
    product = a * b
    return (product & MASK) ^ (product >> 64)


def avalanche(h):
    h = (h ^ h >> 37) * 0x165667919E3779F9 & MASK
    return h ^ h >> 32


def mix(data, at, key):
    return fold(word(data, at) ^ word(SECRET, key), word(data, at + 8) ^ word(SECRET, key + 8))


def xxh3_64(data):
    """XXH3, 64 bits, seed 0, of more than 16 bytes."""
    size = len(data)
    total = size * PRIME64[0]
    if size <= 128:
        for i in range((size - 1) // 32 + 1):
            total += mix(data, 16 * i, 32 * i) + mix(data, size - 16 * (i + 1), 32 * i + 16)
        return avalanche(total & MASK)
    if size <= 240:
        total = avalanche((total + sum(mix(data, 16 * i, 16 * i) for i in range(8))) & MASK)
        total += sum(mix(data, 16 * i, 16 * (i - 8) + 3) for i in range(8, size // 16)) + mix(data, size - 16, 119)
        return avalanche(total & MASK)
    lanes = [PRIME32[2], *PRIME64[:4], PRIME32[1], PRIME64[4], PRIME32[0]]

    def stripe(at, key):
        for i in range(8):
            value = word(data, at + 8 * i)
            mixed = value ^ word(SECRET, key + 8 * i)
            lanes[i ^ 1] = lanes[i ^ 1] + value & MASK
            lanes[i] = lanes[i] + (mixed & 0xFFFFFFFF) * (mixed >> 32) & MASK

    for s in range((size - 1) // 64):
        stripe(64 * s, 8 * (s % 16))
        if s % 16 == 15:
            for i, lane in enumerate(lanes):
                lanes[i] = (lane ^ lane >> 47 ^ word(SECRET, 128 + 8 * i)) * PRIME32[0] & MASK
    stripe(size - 64, 121)
    for i in range(4):
        total += fold(lanes[2 * i] ^ word(SECRET, 11 + 16 * i), lanes[2 * i + 1] ^ word(SECRET, 19 + 16 * i))
    return avalanche(total & MASK)


def bits_of(data, first, count):
    """`count` bits from bit `first` on, the lowest bit of a byte first, as a number."""
    begin, end = first // 8, (first + count + 7) // 8
    return int.from_bytes(data[begin:end], "little") >> first % 8 & (1 << count) - 1


def elias_fano_sizes(experts, topk):
    def bits(low):
        return topk * low + topk + -(-experts // (1 << low))

    low = min(range(17), key=lambda l: (bits(l), -l))
    return low, bits(low) - topk * low


def decode_sets(encoding, data, experts, topk, sets):
    """[sets][topk] ids."""
    count = sets * topk
    if encoding == 0:
        width = 8 if experts <= 256 else 16
        assert len(data) == count * width // 8
        ids = [bits_of(data, i * width, width) for i in range(count)]
    elif encoding == 1:
        width = (experts - 1).bit_length()
        assert len(data) == (count * width + 7) // 8
        ids = [bits_of(data, i * width, width) for i in range(count)]
    else:
        low, high = elias_fano_sizes(experts, topk)
        low_bytes = (count * low + 7) // 8
        assert len(data) == low_bytes + (sets * high + 7) // 8
        ids = []
        for s in range(sets):
            unary = bits_of(data, low_bytes * 8 + s * high, high)
            places = [bit for bit in range(high) if unary >> bit & 1]
            assert len(places) == topk
            for k, place in enumerate(places):
                ids.append(place - k << low | bits_of(data, (s * topk + k) * low, low))
    assert all(0 <= i < experts for i in ids)
    return [ids[s * topk : (s + 1) * topk] for s in range(sets)]


class Store:
    def __init__(self, path):
        self.database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        assert self.one("PRAGMA application_id") == (APPLICATION_ID,)
        assert self.one("PRAGMA user_version") == (1,)
        self.encodings = set()

    def one(self, sql, *values):
        return self.database.execute(sql, values).fetchone()

    def all(self, sql, *values):
        return self.database.execute(sql, values).fetchall()

    def rows(self, sequence):
        """experts, topk, number of layers, {position: [L][K]} of a sequence and what it continues"""
        schema_id, parent, parent_rows, rows = self.one(
            "SELECT schema_id, parent_id, parent_rows, rows FROM sequences WHERE sequence_id = ?", sequence)
        experts, topk, group_layers, layers = self.one(
            "SELECT experts, topk, group_layers, layers FROM schemas WHERE schema_id = ?", schema_id)
        layers = len(json.loads(layers))
        found = {}
        if parent is not None:
            found = {p: row for p, row in self.rows(parent)[4].items() if p < parent_rows}
        for span, start, count in self.all("SELECT span_id, start, rows FROM spans WHERE sequence_id = ?", sequence):
            block = [[] for _ in range(count)]
            for group in range(-(-layers // group_layers)):
                encoding, checksum, data = self.one(
                    "SELECT encoding, checksum, data FROM blobs WHERE span_id = ? AND layer_group = ?", span, group)
                self.encodings.add(NAMES[encoding])
                place = struct.pack("<7q", sequence, start, count, group, encoding, experts, topk)
                assert xxh3_64(place + data) == checksum & MASK, (sequence, start, group)
                in_group = min(group_layers, layers - group * group_layers)
                if encoding >= 16:
                    if zstandard is None:
                        sys.exit(77)
                    data = zstandard.ZstdDecompressor().decompress(data)
                sets = decode_sets(encoding % 16, data, experts, topk, in_group * count)
                for i, ids in enumerate(sets):
                    block[i % count].append(ids)
            found.update({start + r: row for r, row in enumerate(block)})
        return experts, topk, layers, rows, found


def main(path, folder):
    store = Store(path)
    for (sequence,) in store.all("SELECT sequence_id FROM sequences WHERE key IS NOT NULL"):
        experts, topk, layers, rows, found = store.rows(sequence)
        letter = "B" if experts <= 256 else "H"
        empty = [[0] * topk] * layers
        flat = [i for p in range(rows) for ids in found.get(p, empty) for i in ids]
        folder = pathlib.Path(folder)
        (folder / f"{sequence}.ids").write_bytes(struct.pack(f"<{len(flat)}{letter}", *flat))
        (folder / f"{sequence}.valid").write_bytes(bytes(int(p in found) for p in range(rows)))
    print(*sorted(store.encodings))


if __name__ == "__main__":
    main(*sys.argv[1:])
