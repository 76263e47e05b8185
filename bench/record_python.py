#!/usr/bin/env python3
"""Times in Python what `switchyard bench record` times, and beside it, if it is given, the program itself.

    bench/record_python.py [--switchyard build/release/cli/switchyard] [--rounds 7]

Needs NumPy; uses pybase64 if it is installed. The workload is that of verifiers' pull request 1794: 1,000,000 rows of
8 layers and 4 experts as base64 of uint8 in a JSON body, of which the last 100,001 go to two nodes.
"""

import argparse
import binascii
import json
import statistics
import subprocess
import time

import numpy as np

try:
    import pybase64
except ImportError:
    pybase64 = None

ROWS, LAYERS, TOPK, WANTED = 1_000_000, 8, 4, 100_001
LAST_ROWS = "last 100,001 of 1,000,000 rows, from the body"
DECODE = "base64 decode, 42 MB"


def make_body():
    first = np.random.default_rng(1).integers(0, 256, (ROWS, LAYERS, 1), dtype=np.uint8)
    rows = first + np.arange(TOPK, dtype=np.uint8)
    data = binascii.b2a_base64(rows.tobytes(), newline=False)
    return (b'{"id":"1","choices":[{"index":0,"message":{"role":"assistant","content":"a"},"routed_experts":{"data":"'
            + data + b'","shape":[%d,%d,%d],"start":0,"dtype":"uint8"}}],"usage":{"prompt_tokens":1}}'
            % (ROWS, LAYERS, TOPK))


def data_of(body):
    """The text of data, cut out of the body as verifiers does it; what is left is parsed."""
    key = b'"routed_experts":{"data":"'
    begin = body.index(key) + len(key)
    end = body.index(b'"', begin)
    rest = json.loads(body[:begin] + body[end:])
    return memoryview(body)[begin:end], rest["choices"][0]["routed_experts"]


def take_nodes(decoded, payload):
    rows = np.frombuffer(decoded, dtype=payload["dtype"]).reshape(payload["shape"])
    first = ROWS - WANTED
    middle = first + WANTED // 2
    return rows[first:middle].copy(), rows[middle:].copy()


def last_rows(body, decode):
    text, payload = data_of(body)
    return take_nodes(decode(text), payload)


def last_rows_json(body, decode):
    payload = json.loads(body)["choices"][0]["routed_experts"]
    return take_nodes(decode(payload["data"]), payload)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--switchyard", help="the program to run beside")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()

    body = make_body()
    text, _ = data_of(body)
    works = {
        "Python, " + DECODE: lambda: binascii.a2b_base64(text),
        "Python, " + LAST_ROWS: lambda: last_rows(body, binascii.a2b_base64),
        "Python with json.loads, " + LAST_ROWS: lambda: last_rows_json(body, binascii.a2b_base64),
    }
    if pybase64 is not None:
        works["pybase64, " + DECODE] = lambda: pybase64.b64decode(text, validate=True)
        works["pybase64, " + LAST_ROWS] = lambda: last_rows(body, lambda data: pybase64.b64decode(data, validate=True))

    seconds = {name: [] for name in works}
    own = {}
    for _ in range(options.rounds):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
        if options.switchyard:
            output = subprocess.run([options.switchyard, "bench", "record", "--json"], check=True, capture_output=True)
            for row in json.loads(output.stdout)["rows"]:
                own.setdefault(row["work"], []).append(row["ms"] / 1e3)
    medians = {name: statistics.median(times) for name, times in {**seconds, **own}.items()}
    for name, median in medians.items():
        print(f"{1e3 * median:10.2f} ms  {name}")
    for name in (DECODE, LAST_ROWS):
        for prefix in ("Python, ", "pybase64, "):
            if name in own and prefix + name in medians:
                print(f"{medians[prefix + name] / medians[name]:10.2f} x  faster than {prefix}{name}")


if __name__ == "__main__":
    main()
