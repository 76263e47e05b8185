"""Help, wrong usage, messages."""

import os
import pathlib
import subprocess
import unittest

from tool import CliTest, GOLDEN, INVALID_ARGUMENT, IO, NOT_SUPPORTED, PROGRAM, SUBCOMMANDS, main


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
            "run": ["--model", "--input", "--output", "--layer", "--tensor", "--dtype", "--router", "--threads",
                    "--expect", "--report", "--record"],
            "route": ["--logits", "--output", "--topk", "--score", "--chosen", "--normalize", "--epsilon", "--power",
                      "--scale", "--groups", "--kept-groups", "--group-best", "--masked-zero", "--bias",
                      "--expert-scale", "--logit-scale", "--logit-bias", "--round-logits", "--softcap", "--jitter",
                      "--order", "--table", "--token-ids", "--valid", "--forced", "--replayed", "--sequences",
                      "--outputs", "--expert-type", "--weight-type", "--bins", "--qb-lower", "--qb-upper", "--threads"],
            "bench": ["--config", "--tokens", "--dtype", "--threads", "--json", "--score", "--normalize", "--groups",
                      "--kept-groups", "--group-best", "--bias", "--experts", "--topk", "--outputs", "--repeat"],
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
                          ["run", "--model", "x", "--input", "y", "--output", "z", "--router", "f16"],
                          ["run", "--model", "x", "--input", "y", "--output", "z", "--threads", "0"],
                          ["bench", "cake"], ["bench", "--tokens", "0"], ["bench", "--tokens", "1,x"],
                          ["bench", "--config", "q"], ["bench", "--config", "64,32,8"],
                          ["bench", "--config", "64,32,8,9"], ["bench", "--experts", "4"],
                          ["bench", "route", "--config", "s"], ["bench", "route", "--bias"],
                          ["bench", "layer", "--dtype", "f16"], ["bench", "route", "--score", "sparsemixer"],
                          ["route"], ["route", "--logits", "x.npy"],
                          ["route", "--logits", "x.npy", "--output", "y.npy"]):
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


if __name__ == "__main__":
    main()
