"""switchyard run and the page that it writes."""

import json
import os
import shutil
import struct
import subprocess

from files import floats, read_npy, read_safetensors, to_bf16, write_npy, write_safetensors
from tool import (BAD_DATA, BF16_FOLDERS, CliTest, EXAMPLES, FOLDERS, GOLDEN, INVALID_ARGUMENT, IO, MISMATCH,
                  NOT_SUPPORTED, OK, main)


class Run(CliTest):
    def test_cache(self):
        path = GOLDEN / "qwen2_moe"
        options = ("--model", path, "--input", path / "moe_blocks.safetensors", "--expect", "--cache", self.folder / "cache")
        for _ in range(2):
            self.assertIn("as expected", self.call("run", *options))
            self.assertEqual(len(list((self.folder / "cache").iterdir())), 2)

    def test_expectations(self):
        for path in (*(GOLDEN / name for name in FOLDERS), EXAMPLES / "tiny_qwen3_moe"):
            # They were recorded in f32, and a router in bf16 may choose others.
            for arguments in (("--dtype", "f32"), ("--dtype", "bf16", "--router", "f32")):
                with self.subTest(path.name, arguments=arguments):
                    text = self.run_model(path, "--expect", *arguments)
                    self.assertIn("difference", text)

    def test_expectations_in_bf16(self):
        for name in BF16_FOLDERS:
            with self.subTest(name):
                router, other = ("bf16", "f32") if name.startswith("minimax") else ("f32", "bf16")
                text = self.run_model(GOLDEN / name, "--expect", "--dtype", "bf16")
                self.assertIn(f"bf16 weights, bf16 activations, {router} router,", text)
                self.assertIn("33 of 33", text)
                text = self.run_model(GOLDEN / name, "--output", "o.safetensors", "--dtype", "bf16", "--router", other)
                self.assertIn(f"bf16 weights, bf16 activations, {other} router,", text)

    def test_codes_with_bf16_activations(self):
        # Of these all that is packed has the format.
        for name, weights in (("gpt_oss_mxfp4", "mxfp4"), ("nemotron_h_nvfp4", "nvfp4"), ("deepseek_v3_fp8", "fp8")):
            with self.subTest(name):
                text = self.run_model(GOLDEN / name, "--expect", "--dtype", "bf16", "--router", "f32", "--weights",
                                      weights)
                self.assertIn(f"{weights} weights, bf16 activations, f32 router,", text)
                self.assertIn("as expected", text)

    def test_weights_are_packed_to_what_holds_them(self):
        tensors = read_safetensors(GOLDEN / "qwen2_moe/model.safetensors")
        for parts, weights in (([".experts."], "f32"), ([".experts.", ".shared_expert."], "bf16")):
            model = self.folder / weights
            shutil.copytree(GOLDEN / "qwen2_moe", model)
            narrow = {name: ("BF16", shape, to_bf16(content)) if any(part in name for part in parts)
                      else (dtype, shape, content) for name, (dtype, shape, content) in tensors.items()}
            write_safetensors(model / "model.safetensors", narrow)
            text = self.run_model(model, "--output", f"{weights}.safetensors")
            self.assertIn(f"{weights} weights, f32 activations", text)
            info = json.loads(self.call("inspect", model, "--json"))
            self.assertEqual((info["weights"], info.get("shared_weights", "bf16")), ("bf16", weights))

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


if __name__ == "__main__":
    main()
