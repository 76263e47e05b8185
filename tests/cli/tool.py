"""What the tests of the command line tool share: each is started as x_test.py PROGRAM GOLDEN EXAMPLES [unittest options]"""

import errno
import html.parser
import os
import pathlib
import pty
import shutil
import subprocess
import sys
import tempfile
import unittest

from files import read_safetensors, write_safetensors

PROGRAM, GOLDEN, EXAMPLES = (pathlib.Path(argument).resolve() for argument in sys.argv[1:4])
# All but those whose block is not run, or not to its end.
REFUSED = ("ernie4_5_vl_moe", "gemma4", "inkling", "muse_spark", "zaya")
BF16_FOLDERS = ("deepseek_v3_bf16", "minimax_m2_bf16")
FOLDERS = tuple(sorted({path.parent.name for path in GOLDEN.glob("*/config.json")} - {*REFUSED, *BF16_FOLDERS, "axk1"}))
SUBCOMMANDS = ("inspect", "run", "route", "bench", "record", "demo")
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
        with os.fdopen(terminal, "rb", buffering=0) as shown:
            with os.fdopen(end, "wb", buffering=0) as stderr:
                done = subprocess.run(command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=stderr, timeout=300,
                                      check=False)
            text = b""
            try:  # what was written last arrives last; a terminal whose other end is closed ends with an error
                while part := shown.read(1 << 16):
                    text += part
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
            return done.returncode, text.decode()

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


def main():
    unittest.main(argv=[sys.argv[0], *sys.argv[4:]])
