"""switchyard bench."""

import json

from tool import CliTest, INVALID_ARGUMENT, main


class Bench(CliTest):
    KEYS = ["config", "tokens", "weights", "activations", "isa", "threads", "path", "ms", "gflops", "gbps", "roofline"]

    def test_json(self):
        for dtype in ("f32", "bf16"):
            text = self.call("bench", "layer", "--config", "64,32,8,2", "--tokens", "1,4", "--dtype", dtype,
                             "--threads", 1, "--json")
            result = json.loads(text)
            self.assertEqual(list(result), ["probe", "rows"])
            self.assertEqual([list(row) for row in result["rows"]], [self.KEYS] * 2)
            self.assertEqual([row["tokens"] for row in result["rows"]], [1, 4])
            for row in result["rows"]:
                self.assertEqual((row["config"], row["weights"], row["activations"], row["threads"]),
                                 ("64,32,8,2", dtype, dtype, 1))
                for key in ("ms", "gflops", "gbps", "roofline"):
                    self.assertGreater(row[key], 0, key)
            self.assertGreater(result["probe"]["fma_gflops"], 0)
            self.assertGreater(result["probe"]["dram_gbps"], 0)

    def test_formats(self):
        for dtype, activations in (((), ["f32", "bf16"]), (("--dtype", "f32"), ["f32", "f32"])):
            result = json.loads(self.call("bench", "layer", "--config", "64,32,8,2", "--tokens", "1", "--weights",
                                          "int4,fp8", "--threads", 1, "--json", *dtype))
            self.assertEqual([row["weights"] for row in result["rows"]], ["int4", "fp8"])
            self.assertEqual([row["activations"] for row in result["rows"]], activations)
            self.assertGreater(min(row["roofline"] for row in result["rows"]), 0)

    def test_routes(self):
        keys = ["router", "score", "logits", "experts", "topk", "tokens", "isa", "threads", "ms", "ns_per_token",
                "read_ms", "of_reading", "plain_ms", "of_plain"]
        result = json.loads(self.call("bench", "route", "--tokens", "64", "--experts", 64, "--topk", 4, "--repeat", 1,
                                      "--threads", 1, "--json"))
        self.assertEqual(list(result), ["probe", "rows"])
        self.assertEqual([list(row) for row in result["rows"]], [keys] * 6)
        self.assertEqual([(row["score"], row["logits"]) for row in result["rows"]],
                         [(score, dtype) for dtype in ("f32", "bf16") for score in ("softmax", "sigmoid", "sigmoid")])
        for row in result["rows"]:
            self.assertEqual((row["experts"], row["topk"], row["tokens"], row["threads"]), (64, 4, 64, 1))
            self.assertGreater(min(row["ms"], row["read_ms"], row["plain_ms"]), 0)
            self.assertAlmostEqual(row["ns_per_token"], row["ms"] * 1e6 / 64)
            self.assertAlmostEqual(row["of_reading"], row["ms"] / row["read_ms"])
            self.assertAlmostEqual(row["of_plain"], row["ms"] / row["plain_ms"])

    def test_one_router(self):
        options = ("--score", "sqrt_softplus", "--normalize", "sum", "--bias", "--groups", 4, "--kept-groups", 2,
                   "--group-best", 2, "--experts", 48, "--topk", 3, "--dtype", "f16", "--tokens", "1,70")
        text = self.call("bench", "route", *options, "--repeat", 1, "--outputs", "expert,weight,probability,count")
        for word in ("probe", "sqrt_softplus", "f16", "48", "ns/token", "x reading", "x plain"):
            self.assertIn(word, text)

    def test_record(self):
        result = json.loads(self.call("bench", "record", "--repeat", 1, "--json"))
        self.assertEqual(list(result), ["isa", "rows"])
        self.assertGreaterEqual(len(result["rows"]), 3)
        for row in result["rows"]:
            self.assertEqual(list(row)[:5], ["work", "ms", "bytes", "ratio", "beside"])
            self.assertGreater(min(row["ms"], row["bytes"], row["ratio"]), 0)
        self.assertEqual(result["rows"][1]["bytes"], 3200032)
        sizes = {row["work"]: row["size"] for row in result["rows"] if "size" in row}
        self.assertEqual({sizes[work] for work in sizes if "kept" in work}, {1})
        self.assertEqual({sizes[work] for work in sizes if "canonical" in work}, {0.875})
        # Bits of a set by the number of experts: packed K ceil(log2 E), Elias-Fano as docs/record_store.md has it.
        self.assertEqual(sizes["decode raw, 8 of 256"], 1)
        self.assertEqual(sizes["decode packed, 8 of 384"], 9 / 16)
        self.assertEqual(sizes["decode elias_fano, 8 of 256"], 56 / 64)
        self.assertEqual(sizes["decode elias_fano, 8 of 384"], 60 / 128)
        self.assertEqual(sizes["decode elias_fano, 10 of 512"], 76 / 160)
        # Compressed: packed ids have 5 bits.
        self.assertLess(sizes["decode what a writer takes for uneven ids, 4 of 32"], 0.97 * 5 / 8)

    def test_groups_that_cannot_be(self):
        message = self.call("bench", "route", "--score", "sigmoid", "--groups", 3, "--kept-groups", 1, "--tokens", 1,
                            code=INVALID_ARGUMENT)
        self.assertIn("found 3 groups for 256 experts", message)

    def test_table(self):
        text = self.call("bench", "--config", "64,32,8,2", "--config", "33,17,5,5", "--tokens", "1")
        for word in ("64,32,8,2", "33,17,5,5", "GFLOP/s", "of roofline", "probe"):
            self.assertIn(word, text)

    def test_options_before_what(self):
        for configs in (["--config", "16,16,4,2", "--config", "32,16,4,2"], ["--config", "16,16,4,2 32,16,4,2"]):
            text = self.call("bench", "--tokens", "1", *configs, "layer", "--threads", 1)
            self.assertIn("16,16,4,2", text)
            self.assertIn("32,16,4,2", text)

    def test_all_tokens(self):
        for tokens in ("all", "3,all"):
            result = json.loads(self.call("bench", "layer", "--config", "16,16,4,2", "--tokens", tokens, "--threads", 1,
                                          "--json"))
            self.assertEqual([row["tokens"] for row in result["rows"]], [1, 16, 64, 256, 1024])

    def test_tokens_that_are_none(self):
        for tokens in ("", "1,x", "0"):
            message = self.call("bench", "--tokens", tokens, code=INVALID_ARGUMENT)
            self.assertTrue(message.startswith("switchyard: bench: --tokens: "), message)
            self.assertIn("expected", message)


if __name__ == "__main__":
    main()
