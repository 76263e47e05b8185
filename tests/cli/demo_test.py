"""switchyard demo."""

import os
import shutil

from files import read_safetensors, write_safetensors
from tool import CliTest, EXAMPLES, IO, MISMATCH, main


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
    main()
