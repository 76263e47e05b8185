"""switchyard inspect."""

import json
import shutil

from files import read_safetensors
from tool import BAD_DATA, CliTest, FOLDERS, GOLDEN, IO, NOT_SUPPORTED, main


class Inspect(CliTest):
    # Bytes of a weight, with its share of the scales.
    BYTES = {"f32": 4, "bf16": 2, "int8": 1, "int4": 0.5 + 2 / 128, "fp8": 1 + 4 / 128, "mxfp4": 0.5 + 1 / 32,
             "mxfp8": 1 + 1 / 32, "nvfp4": 0.5 + 1 / 16}

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
            "router": {"score": "softmax", "normalize": False, "scale": 1.0, "gemm": "model",
                       "selection_bias": False, "groups": 0, "kept_groups": 0},
            "weights": "f32",
            "file_bytes": sum(len(content) for _, _, content in tensors.values()),
            "moe_bytes": sum(blocks.values()),
            "formats": {name: int(size * weights) for name, size in self.BYTES.items()},
            "unsupported": [],
        })

    def test_one_format(self):
        path = GOLDEN / "qwen2_moe"
        have = json.loads(self.call("inspect", path, "--weights", "nvfp4", "--tokens", 8, "--json"))
        self.assertEqual(list(have["formats"]), ["nvfp4"])
        self.assertGreater(min(have["workspace_bytes"]), 0)

    def test_workspace(self):
        path = GOLDEN / "qwen2_moe"
        options = (path, "--tokens", 8192, "--dtype", "bf16", "--threads", 2)
        have = json.loads(self.call("inspect", *options, "--json"))
        self.assertEqual((have["tokens"], have["threads"]), (8192, 2))
        self.assertEqual(len(have["workspace_bytes"]), len(have["moe_layers"]))
        self.assertGreater(min(have["workspace_bytes"]), 8192 * 3 * 8)  # the routing
        self.assertIn("for 8192 tokens in bf16 on 2 threads", self.call("inspect", *options))
        self.assertNotIn("workspace", self.call("inspect", path))

    def test_router(self):
        router = json.loads(self.call("inspect", GOLDEN / "deepseek_v3", "--json"))["router"]
        self.assertEqual(router, {"score": "sigmoid", "normalize": True, "scale": 2.5, "gemm": "f32",
                                  "selection_bias": True, "groups": 4, "kept_groups": 2})
        self.assertIn("sigmoid, with a bias to choose by, weights divided by their sum, times 2.5; from 2 of 4 groups",
                      self.call("inspect", GOLDEN / "deepseek_v3"))
        self.assertRegex(self.call("inspect", GOLDEN / "deepseek_v3"), r"router .*; in f32\n")
        self.assertRegex(self.call("inspect", GOLDEN / "mixtral"), r"router .*; in the model's type\n")

    def test_quantized(self):
        path = GOLDEN / "deepseek_v4_mxfp4"
        info = json.loads(self.call("inspect", path, "--json"))
        self.assertEqual([info[key] for key in ("quantization", "weights", "codes", "scales", "block")],
                         ["fp8", "i8", "f4_e2m1", "f8_e8m0", [1, 32]])
        self.assertIn("f4_e2m1 in i8, f8_e8m0 scales for 1 x 32 weights", self.call("inspect", path))
        self.assertIn("f8_e4m3, f32 scales for all x all weights", self.call("inspect", GOLDEN / "mixtral_fp8"))

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


if __name__ == "__main__":
    main()
