"""The command line tool from outside: cli_test.py PROGRAM GOLDEN EXAMPLES [unittest options]"""

import html.parser
import json
import os
import pathlib
import pty
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

from files import floats, read_npy, read_safetensors, to_bf16, write_npy, write_safetensors

PROGRAM, GOLDEN, EXAMPLES = (pathlib.Path(argument).resolve() for argument in sys.argv[1:4])
# All but those whose block is not run, or not to its end.
REFUSED = ("ernie4_5_vl_moe", "gemma4", "inkling", "muse_spark", "zaya")
FOLDERS = tuple(sorted({path.parent.name for path in GOLDEN.glob("*/config.json")} - {*REFUSED, "axk1"}))
SUBCOMMANDS = ("inspect", "run", "bench", "demo")
OK, INVALID_ARGUMENT, NOT_SUPPORTED, IO, BAD_DATA, MISMATCH = 0, 2, 3, 4, 5, 6


class PageParser(html.parser.HTMLParser):
    """Notes every tag that is not closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.faults, self.tags, self.text = [], [], [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append((tag, self.getpos()))

    def handle_data(self, data):
        self.text += data


class CliTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="switchyard_cli_"))
        self.addCleanup(shutil.rmtree, self.folder)

    def call(self, *arguments, code=OK):
        """stdout of a call that ends with this code, whose stderr is empty or one message."""
        done = subprocess.run([PROGRAM, *map(str, arguments)], cwd=self.folder, capture_output=True, text=True,
                              timeout=300, check=False)
        self.assertEqual(done.returncode, code, done.stderr + done.stdout)
        if code == OK:
            self.assertEqual(done.stderr, "")
            return done.stdout
        self.assertTrue(done.stderr.startswith("switchyard: "), done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        return done.stderr

    def run_model(self, model, *arguments, code=OK):
        source = model / "moe_blocks.safetensors"
        if "--input" not in arguments:
            arguments = ("--input", source, *arguments)
        return self.call("run", "--model", model, *arguments, code=code)

    def run_on_terminal(self, *arguments):
        """Exit code and stderr, a terminal, of a run of mixtral."""
        model = GOLDEN / "mixtral"
        command = [PROGRAM, "run", "--model", model, "--input", model / "moe_blocks.safetensors", *arguments]
        terminal, end = pty.openpty()
        os.set_blocking(terminal, False)  # nothing shown is a failure, not a wait
        try:
            done = subprocess.run(command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=end, timeout=300,
                                  check=False)
            return done.returncode, os.read(terminal, 1 << 16).decode()
        finally:
            os.close(end)
            os.close(terminal)

    def altered(self, change):
        """A copy of mixtral's blocks that `change` was applied to."""
        tensors = read_safetensors(GOLDEN / "mixtral/moe_blocks.safetensors")
        change(tensors)
        path = self.folder / "altered.safetensors"
        write_safetensors(path, tensors)
        return path

    def check_page(self, path):
        text = path.read_text(encoding="utf-8")
        for word in ("http", "src=", "@import", "url(", "<script", "<link"):
            self.assertNotIn(word, text)
        page = PageParser()
        page.feed(text)
        page.close()
        self.assertEqual(page.faults, [])
        self.assertEqual(page.open, [])
        self.assertIn(("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}), page.tags)
        self.assertIn("prefers-color-scheme:dark", text)
        return page


class Usage(CliTest):
    def test_help_has_an_example(self):
        for arguments in ([], *([name] for name in SUBCOMMANDS)):
            text = self.call(*arguments, "--help")
            self.assertIn("Example:\n  switchyard ", text)
        for name in SUBCOMMANDS:
            self.assertIn(name, self.call("--help"))

    def test_help_names_every_flag(self):
        flags = {
            "inspect": ["--json"],
            "run": ["--model", "--input", "--output", "--layer", "--tensor", "--dtype", "--threads", "--expect",
                    "--report"],
            "bench": ["--config", "--tokens", "--dtype", "--threads", "--json"],
            "demo": ["--model", "--report"],
        }
        for name, names in flags.items():
            text = self.call(name, "--help")
            for flag in names:
                self.assertIn(flag + " ", text)

    def test_version(self):
        header = (pathlib.Path(__file__).parents[2] / "include/switchyard/version.hpp").read_text()
        numbers = [line.split()[2] for line in header.splitlines() if line.startswith("#define SWITCHYARD_VERSION_")]
        self.assertEqual(self.call("--version"), f"switchyard {'.'.join(numbers)}\n")

    def test_wrong_usage(self):
        for arguments in ([], ["dance"], ["inspect"], ["inspect", "a", "b"], ["run", "--model", "x"],
                          ["run", "--model", "x", "--input", "y", "--output", "z", "--dtype", "f8"],
                          ["run", "--model", "x", "--input", "y", "--output", "z", "--threads", "0"],
                          ["bench", "cake"], ["bench", "--tokens", "0"], ["bench", "--tokens", "1,x"],
                          ["bench", "--config", "q"], ["bench", "--config", "64,32,8"],
                          ["bench", "--config", "64,32,8,9"]):
            with self.subTest(arguments):
                self.call(*arguments, code=INVALID_ARGUMENT)

    def test_unknown_instruction_set(self):
        os.environ["SWITCHYARD_ISA"] = "mmx"
        self.addCleanup(os.environ.pop, "SWITCHYARD_ISA")
        self.assertIn("mmx", self.run_model(GOLDEN / "mixtral", "--expect", code=NOT_SUPPORTED))

    def test_messages_begin_with_the_subcommand(self):
        message = self.call("run", "--model", "x", "--input", "y", "--threads", 0, code=INVALID_ARGUMENT)
        self.assertTrue(message.startswith("switchyard: run: --threads: "), message)
        self.assertIn("switchyard: inspect: ", self.call("inspect", code=INVALID_ARGUMENT))
        self.assertIn("switchyard: arguments: ", self.call("dance", code=INVALID_ARGUMENT))

    @unittest.skipUnless(os.path.exists("/dev/full"), "needs /dev/full")
    def test_full_output(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run([PROGRAM, "inspect", GOLDEN / "mixtral"], stdout=full, stderr=subprocess.PIPE,
                                  text=True, check=False)
        self.assertEqual(done.returncode, IO)
        self.assertTrue(done.stderr.startswith("switchyard: inspect: standard output: "), done.stderr)


class Inspect(CliTest):
    def test_json(self):
        path = GOLDEN / "qwen2_moe"
        have = json.loads(self.call("inspect", path, "--json"))
        tensors = read_safetensors(path / "model.safetensors")
        blocks = {name: len(content) for name, (_, _, content) in tensors.items()
                  if name.startswith(("model.layers.1.mlp.", "model.layers.2.mlp."))}
        weights = 2 * 3 * 48 * (8 * 16 + 20)  # layers, matrices, H, F of all experts and the shared one
        self.assertEqual(have.pop("layout")[:11], "per expert,")
        self.assertEqual(have, {
            "path": str(path),
            "model_type": "qwen2_moe",
            "family": have["family"],
            "layers": 3,
            "moe_layers": [1, 2],
            "experts": 8,
            "topk": 3,
            "hidden": 48,
            "ffn": 16,
            "shared_ffn": 20,
            "shared_gate": True,
            "router": {"score": "softmax", "normalize": False, "scale": 1.0, "selection_bias": False, "groups": 0,
                       "kept_groups": 0},
            "weights": "f32",
            "file_bytes": sum(len(content) for _, _, content in tensors.values()),
            "moe_bytes": sum(blocks.values()),
            "formats": {"f32": 4 * weights, "bf16": 2 * weights},
            "unsupported": [],
        })

    def test_router(self):
        router = json.loads(self.call("inspect", GOLDEN / "deepseek_v3", "--json"))["router"]
        self.assertEqual(router, {"score": "sigmoid", "normalize": True, "scale": 2.5, "selection_bias": True,
                                  "groups": 4, "kept_groups": 2})
        self.assertIn("sigmoid, with a bias to choose by, weights divided by their sum, times 2.5; from 2 of 4 groups",
                      self.call("inspect", GOLDEN / "deepseek_v3"))

    def test_text(self):
        for name in FOLDERS:
            with self.subTest(name):
                text = self.call("inspect", GOLDEN / name)
                for word in ("model_type", "layers", "E ", "H ", "router", "layout", "bytes", "not supported"):
                    self.assertIn(word, text)

    def test_missing(self):
        self.assertIn("nowhere", self.call("inspect", self.folder / "nowhere", code=IO))

    def test_unknown_model_type(self):
        (self.folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
        shutil.copy(GOLDEN / "mixtral/model.safetensors", self.folder)
        message = self.call("inspect", self.folder, code=NOT_SUPPORTED)
        for name in ("gpt2", "mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe"):
            self.assertIn(name, message)

    def test_damaged(self):
        shutil.copy(GOLDEN / "mixtral/config.json", self.folder)
        whole = (GOLDEN / "mixtral/model.safetensors").read_bytes()
        (self.folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
        self.assertIn("model.safetensors", self.call("inspect", self.folder, code=BAD_DATA))


class Run(CliTest):
    def test_expectations(self):
        for path in (*(GOLDEN / name for name in FOLDERS), EXAMPLES / "tiny_qwen3_moe"):
            for dtype in ("f32", "bf16"):
                with self.subTest(path.name, dtype=dtype):
                    text = self.run_model(path, "--expect", "--dtype", dtype)
                    self.assertIn("difference", text)

    def test_same_bits_for_every_number_of_threads(self):
        for threads in (1, 2, 3):
            self.run_model(GOLDEN / "qwen3_moe_odd", "--output", f"{threads}.safetensors", "--threads", threads)
        first = (self.folder / "1.safetensors").read_bytes()
        self.assertEqual(first, (self.folder / "2.safetensors").read_bytes())
        self.assertEqual(first, (self.folder / "3.safetensors").read_bytes())

    def test_output(self):
        text = self.run_model(GOLDEN / "mixtral", "--output", "out.safetensors")
        self.assertIn("out.safetensors", text)
        have = read_safetensors(self.folder / "out.safetensors")
        want = read_safetensors(GOLDEN / "mixtral/moe_blocks.safetensors")
        self.assertEqual(sorted(have), sorted(name for name in want if name.endswith(("output", "expert", "weight"))))
        for name, (dtype, shape, content) in have.items():
            self.assertEqual((dtype, shape), want[name][:2], name)
            if dtype == "I32":
                self.assertEqual(content, want[name][2], name)
            else:
                expected = floats(want[name][2])
                bound = 1e-4 * max(map(abs, expected))
                self.assertTrue(all(abs(a - b) <= bound for a, b in zip(floats(content), expected)), name)

    def test_layers_chosen(self):
        self.run_model(GOLDEN / "mixtral", "--output", "out.safetensors", "--layer", 1)
        self.assertEqual({name.split(".")[1] for name in read_safetensors(self.folder / "out.safetensors")}, {"1"})
        self.run_model(GOLDEN / "mixtral", "--output", "out.safetensors", "--layer", 1, "--layer", 0)
        self.assertEqual({name.split(".")[1] for name in read_safetensors(self.folder / "out.safetensors")}, {"0", "1"})
        self.assertIn("0, 1", self.run_model(GOLDEN / "mixtral", "--expect", "--layer", 7, code=INVALID_ARGUMENT))

    def test_only_layers_with_an_input(self):
        path = self.altered(lambda tensors: tensors.pop("layer.0.input"))
        self.run_model(GOLDEN / "mixtral", "--input", path, "--output", "out.safetensors")
        self.assertEqual({name.split(".")[1] for name in read_safetensors(self.folder / "out.safetensors")}, {"1"})
        self.run_model(GOLDEN / "mixtral", "--input", path, "--expect", "--layer", 0, code=BAD_DATA)

    def test_tensor_by_name(self):
        path = self.altered(lambda tensors: tensors.update(x=tensors.pop("layer.0.input")))
        self.run_model(GOLDEN / "mixtral", "--input", path, "--tensor", "x", "--layer", 0, "--expect")
        self.run_model(GOLDEN / "mixtral", "--input", path, "--tensor", "x", "--expect", code=INVALID_ARGUMENT)
        self.run_model(GOLDEN / "mixtral", "--input", path, "--tensor", "z", "--layer", 0, "--expect", code=BAD_DATA)

    def test_npy_is_the_same(self):
        _, shape, content = read_safetensors(GOLDEN / "mixtral/moe_blocks.safetensors")["layer.1.input"]
        write_npy(self.folder / "x.npy", shape, content)
        self.run_model(GOLDEN / "mixtral", "--input", "x.npy", "--layer", 1, "--output", "y.npy")
        self.run_model(GOLDEN / "mixtral", "--layer", 1, "--output", "y.safetensors")
        _, shape, content = read_safetensors(self.folder / "y.safetensors")["layer.1.output"]
        self.assertEqual(read_npy(self.folder / "y.npy"), (shape, content))

    def test_npy_limits(self):
        _, shape, content = read_safetensors(GOLDEN / "mixtral/moe_blocks.safetensors")["layer.1.input"]
        write_npy(self.folder / "x.npy", shape, content)
        model = GOLDEN / "mixtral"
        self.run_model(model, "--input", "x.npy", "--output", "y.npy", code=INVALID_ARGUMENT)
        self.run_model(model, "--input", "x.npy", "--layer", 1, "--expect", code=INVALID_ARGUMENT)
        self.run_model(model, "--output", "y.npy", code=INVALID_ARGUMENT)
        write_npy(self.folder / "x.npy", [shape[0] * 2, shape[1] // 2], content)
        self.run_model(model, "--input", "x.npy", "--layer", 1, "--output", "y.npy", code=BAD_DATA)
        (self.folder / "x.npy").write_bytes(b"\x93NUMPY\x01")
        self.run_model(model, "--input", "x.npy", "--layer", 1, "--output", "y.npy", code=BAD_DATA)

    def test_output_that_cannot_be_is_refused_before_the_work(self):
        code, shown = self.run_on_terminal("--expect", "--output", "y.npy")
        self.assertEqual(code, INVALID_ARGUMENT)
        self.assertIn("2 layers for an .npy output, expected one", shown)
        self.assertNotIn("loading", shown)

    def test_output_and_report_in_one_file(self):
        os.symlink("x.html", self.folder / "link")
        for other in ("x.html", "./x.html", "link", self.folder / "x.html"):
            message = self.run_model(GOLDEN / "mixtral", "--output", other, "--report", "x.html", code=INVALID_ARGUMENT)
            self.assertIn("expected two files", message)

    def test_outputs_into_pipes_and_through_links(self):
        for name, option in (("o.npy", "--output"), ("o.safetensors", "--output"), ("o.html", "--report")):
            arguments = ("--expect", "--layer", 0, option)
            self.run_model(GOLDEN / "mixtral", *arguments, name)
            os.mkfifo(self.folder / f"pipe_{name}")
            with subprocess.Popen(["cat", self.folder / f"pipe_{name}"], stdout=subprocess.PIPE) as cat:
                self.run_model(GOLDEN / "mixtral", *arguments, f"pipe_{name}")
                piped = cat.stdout.read()
            self.assertTrue((self.folder / f"pipe_{name}").is_fifo())
            if option == "--output":  # a page has times in it
                self.assertEqual(piped, (self.folder / name).read_bytes())
            self.assertGreater(len(piped), 0)
            (self.folder / f"file_{name}").write_bytes(b"old")
            os.symlink(f"file_{name}", self.folder / f"link_{name}")
            self.run_model(GOLDEN / "mixtral", *arguments, f"link_{name}")
            self.assertTrue((self.folder / f"link_{name}").is_symlink())
            self.assertNotEqual((self.folder / f"file_{name}").read_bytes(), b"old")

    def test_progress_on_a_terminal_only(self):
        code, shown = self.run_on_terminal("--expect")
        self.assertEqual(code, OK)
        self.assertIn("loading layer 0: expert ", shown)
        self.assertTrue(shown.endswith("\r\x1b[K"), shown)  # nothing of it stays
        self.run_model(GOLDEN / "mixtral", "--expect")  # which requires an empty stderr

    def test_bf16_in_and_out(self):
        def narrow(tensors):
            for layer in (0, 1):
                dtype, shape, content = tensors[f"layer.{layer}.input"]
                tensors[f"layer.{layer}.input"] = ("BF16", shape, to_bf16(content))

        path = self.altered(narrow)
        self.run_model(GOLDEN / "mixtral", "--input", path, "--output", "out.safetensors", "--expect")
        self.assertEqual(read_safetensors(self.folder / "out.safetensors")["layer.0.output"][0], "BF16")
        message = self.run_model(GOLDEN / "mixtral", "--input", path, "--layer", 0, "--output", "y.npy",
                                 code=NOT_SUPPORTED)
        self.assertIn("bf16", message)

    def test_unaligned_tensors(self):
        tensors = read_safetensors(GOLDEN / "mixtral/moe_blocks.safetensors")
        write_safetensors(self.folder / "odd.safetensors", tensors, pad=False)
        self.run_model(GOLDEN / "mixtral", "--input", "odd.safetensors", "--expect")

    def test_no_tokens(self):
        def empty(tensors):
            for name, (dtype, shape, _) in tensors.items():
                tensors[name] = (dtype, [0, *shape[1:]], b"")

        path = self.altered(empty)
        self.run_model(GOLDEN / "mixtral", "--input", path, "--output", "o.safetensors", "--expect", "--report", "r.html")
        self.assertEqual(read_safetensors(self.folder / "o.safetensors")["layer.0.output"][1], [0, 64])

    def test_values_that_are_not_finite(self):
        def poison(tensors):
            dtype, shape, content = tensors["layer.0.input"]
            values = struct.pack("<4f", float("nan"), float("inf"), float("-inf"), 3e38)
            tensors["layer.0.input"] = (dtype, shape, values + content[16:])

        path = self.altered(poison)
        self.run_model(GOLDEN / "mixtral", "--input", path, "--output", "out.safetensors", "--report", "r.html")
        have = read_safetensors(self.folder / "out.safetensors")["layer.0.output"][2]
        want = read_safetensors(GOLDEN / "mixtral/moe_blocks.safetensors")["layer.0.output"][2]
        self.assertNotEqual(floats(have)[0], floats(have)[0])
        self.assertTrue(all(abs(a - b) < 1e-4 for a, b in zip(floats(have)[64:], floats(want)[64:])))
        self.run_model(GOLDEN / "mixtral", "--input", path, "--expect", code=MISMATCH)

    def test_falsified_output(self):
        def falsify(tensors):
            dtype, shape, content = tensors["layer.1.output"]
            values = floats(content)
            values[100] += 0.01 * max(map(abs, values))
            tensors["layer.1.output"] = (dtype, shape, struct.pack(f"<{len(values)}f", *values))

        path = self.altered(falsify)
        self.assertIn("layer 1", self.run_model(GOLDEN / "mixtral", "--input", path, "--expect", code=MISMATCH))
        self.run_model(GOLDEN / "mixtral", "--input", path, "--expect", "--layer", 0)
        self.run_model(GOLDEN / "mixtral", "--input", path, "--expect", "--dtype", "bf16")

    def test_other_experts_are_counted(self):
        def falsify(tensors):
            dtype, shape, content = tensors["layer.0.expert"]
            (first, second) = struct.unpack_from("<2i", content)
            other = next(e for e in range(8) if e not in (first, second))
            tensors["layer.0.expert"] = (dtype, shape, struct.pack("<2i", second, other) + content[8:])

        text = self.run_model(GOLDEN / "mixtral", "--input", self.altered(falsify), "--expect")
        self.assertIn("32 of 33", text)
        self.assertIn("33 of 33", text)

    def test_experts_in_64_bits(self):
        def widen(tensors):
            for layer in (0, 1):
                _, shape, content = tensors[f"layer.{layer}.expert"]
                ids = struct.unpack(f"<{len(content) // 4}i", content)
                tensors[f"layer.{layer}.expert"] = ("I64", shape, struct.pack(f"<{len(ids)}q", *ids))

        self.assertIn("33 of 33", self.run_model(GOLDEN / "mixtral", "--input", self.altered(widen), "--expect"))

    def test_expected_tensors_that_are_missing(self):
        for name in ("layer.0.output", "layer.1.expert"):
            path = self.altered(lambda tensors, gone=name: tensors.pop(gone))
            self.assertIn(name, self.run_model(GOLDEN / "mixtral", "--input", path, "--expect", code=BAD_DATA))

    def test_files_that_cannot_be(self):
        model = GOLDEN / "mixtral"
        self.run_model(model, "--input", "none.safetensors", "--expect", code=IO)
        self.run_model(model, "--output", "no/such/folder.safetensors", code=IO)
        self.run_model(model, "--expect", "--report", "no/such/folder.html", code=IO)
        self.run_model(model, code=INVALID_ARGUMENT)  # neither --output nor --expect
        (self.folder / "cut.safetensors").write_bytes((model / "moe_blocks.safetensors").read_bytes()[:5000])
        self.run_model(model, "--input", "cut.safetensors", "--expect", code=BAD_DATA)
        self.assertEqual(os.listdir(self.folder), ["cut.safetensors"])


class Report(CliTest):
    def test_page(self):
        self.run_model(GOLDEN / "qwen2_moe", "--expect", "--report", "page.html")
        page = self.check_page(self.folder / "page.html")
        cells = [tag for tag, _ in page.tags if tag == "rect"]
        self.assertEqual(len(cells), 2 * 2 * 8)  # heat map and bars of two layers
        for word in ("qwen2_moe", "layer 1, expert 7", "Layer 2", "Every layer agrees", "GFLOP/s", "33 of 33"):
            self.assertIn(word, page.text)

    def test_loads_are_right(self):
        self.run_model(GOLDEN / "mixtral", "--expect", "--layer", 0, "--report", "page.html")
        page = self.check_page(self.folder / "page.html")
        _, _, content = read_safetensors(GOLDEN / "mixtral/moe_blocks.safetensors")["layer.0.expert"]
        ids = struct.unpack(f"<{len(content) // 4}i", content)
        for expert in range(8):
            rows = ids.count(expert)
            self.assertIn(f"layer 0, expert {expert}: {rows} row", page.text)

    def test_page_of_a_mismatch_is_written(self):
        def falsify(tensors):
            tensors["layer.0.output"] = tensors["layer.1.output"]

        self.run_model(GOLDEN / "mixtral", "--input", self.altered(falsify), "--expect", "--report", "page.html",
                       code=MISMATCH)
        self.assertIn("Outputs differ", self.check_page(self.folder / "page.html").text)


class Bench(CliTest):
    KEYS = ["config", "tokens", "weights", "isa", "threads", "path", "ms", "gflops", "gbps", "roofline"]

    def test_json(self):
        for dtype in ("f32", "bf16"):
            text = self.call("bench", "layer", "--config", "64,32,8,2", "--tokens", "1,4", "--dtype", dtype,
                             "--threads", 1, "--json")
            result = json.loads(text)
            self.assertEqual(list(result), ["probe", "rows"])
            self.assertEqual([list(row) for row in result["rows"]], [self.KEYS] * 2)
            self.assertEqual([row["tokens"] for row in result["rows"]], [1, 4])
            for row in result["rows"]:
                self.assertEqual((row["config"], row["weights"], row["threads"]), ("64,32,8,2", dtype, 1))
                for key in ("ms", "gflops", "gbps", "roofline"):
                    self.assertGreater(row[key], 0, key)
            self.assertGreater(result["probe"]["fma_gflops"], 0)
            self.assertGreater(result["probe"]["dram_gbps"], 0)

    def test_table(self):
        text = self.call("bench", "--config", "64,32,8,2", "--config", "33,17,5,5", "--tokens", "1")
        for word in ("64,32,8,2", "33,17,5,5", "GFLOP/s", "of roofline", "probe"):
            self.assertIn(word, text)


    def test_options_before_what(self):
        for configs in (["--config", "16,16,4,2", "--config", "32,16,4,2"], ["--config", "16,16,4,2 32,16,4,2"]):
            text = self.call("bench", "--tokens", "1", *configs, "layer", "--threads", 1)
            self.assertIn("16,16,4,2", text)
            self.assertIn("32,16,4,2", text)

    def test_tokens_that_are_none(self):
        for tokens in ("", "1,x", "0"):
            message = self.call("bench", "--tokens", tokens, code=INVALID_ARGUMENT)
            self.assertTrue(message.startswith("switchyard: bench: --tokens: "), message)
            self.assertIn("expected", message)


class Demo(CliTest):
    def test_demo(self):
        text = self.call("demo", "--model", EXAMPLES / "tiny_qwen3_moe", "--report", "page.html")
        for word in ("Experts of the text", "Rows per expert", "Agreement", "Speed of one layer", "page.html"):
            self.assertIn(word, text)
        self.assertNotIn("\x1b", text)
        self.check_page(self.folder / "page.html")

    def test_no_example(self):
        self.call("demo", "--model", self.folder / "none", code=IO)
        self.assertEqual(os.listdir(self.folder), [])

    def test_demo_that_does_not_agree(self):
        model = self.folder / "model"
        shutil.copytree(EXAMPLES / "tiny_qwen3_moe", model)
        tensors = read_safetensors(model / "moe_blocks.safetensors")
        tensors["layer.0.output"] = tensors["layer.1.output"]
        write_safetensors(model / "moe_blocks.safetensors", tensors)
        self.call("demo", "--model", model, code=MISMATCH)
        self.assertTrue((self.folder / "switchyard_report.html").exists())


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[4:]])
