"""Builds and runs the examples of the README and the docs.

Usage: readme_test.py SOURCE_FOLDER CLI_FOLDER LIBRARY COMPILER FLAG...
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

STANDARDS = {"cpp": ("-std=c++20",), "c": ("-x", "c", "-std=c11")}
# Page, and what the output of each of its examples is, by language.
PAGES = {
    "README.md": {"cpp": r"token 0 went to expert \d+ with weight \d\.\d{3}\n", "sh": r"(?s).*qwen3_moe.*"},
    "docs/record.md": {"cpp": r"replayed the rollout, \d\.\d of 2 experts shared over 5 rows\n"},
    "docs/routing.md": {
        "cpp": r"token 2: experts 0 3, loss 0\.\d{4}, dlogit -?0\.\d{5}\n",
        "c": r"token 2: experts 0 3, loss 0\.\d{4}, dlogit -?0\.\d{5}\n",
        "sh": r"(?s)route  sigmoid.*x plain.*",
    },
}


def block(page, text, language):
    found = re.findall(rf"<!-- tests/readme_test.py .*?-->\n```{language}\n(.*?)```", text, re.S)
    assert len(found) == 1, f"{page}: found {len(found)} {language} examples, expected 1"
    return found[0]


class Runner:
    def __init__(self, source, cli, library, compiler, *flags):
        self.source, self.cli = pathlib.Path(source).resolve(), pathlib.Path(cli).resolve()
        self.library = pathlib.Path(library).resolve()
        self.compiler = [compiler, *flags]

    def program(self, folder, language, text):
        (folder / f"example.{language}").write_text(text)
        compiled, program = folder / f"{language}.o", folder / f"example_{language}"
        options = (f"-I{self.source}/include", *STANDARDS[language], "-c", folder / f"example.{language}")
        subprocess.run([*self.compiler, *options, "-o", compiled], check=True)
        subprocess.run([*self.compiler, compiled, self.library, "-pthread", "-lhwloc", "-o", program], check=True)
        return subprocess.run([program], cwd=folder, check=True, capture_output=True, text=True).stdout

    def shell(self, folder, text):
        environment = dict(os.environ, PATH=f"{self.cli}:{os.environ['PATH']}")
        commands = ["bash", "-euo", "pipefail", "-c", text]
        out = subprocess.run(commands, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout
        for name in re.findall(r"build/[\w.]+", text):
            assert (folder / name).stat().st_size > 0, name
        return out

    def page(self, page, patterns):
        text = (self.source / page).read_text()
        outputs = {}
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            (folder / "build").mkdir()
            shutil.copytree(self.source / "examples", folder / "examples")
            for language, pattern in patterns.items():
                example = block(page, text, language)
                out = self.shell(folder, example) if language == "sh" else self.program(folder, language, example)
                assert re.fullmatch(pattern, out), f"{page}: {out}"
                outputs[language] = out
        return outputs


def main():
    runner = Runner(*sys.argv[1:])
    for page in (runner.source / "README.md", *runner.source.glob("docs/*.md")):
        assert not re.search(r"@[A-Z0-9]+@", page.read_text()), f"{page.name} has a blank to fill in"
    outputs = {page: runner.page(page, patterns) for page, patterns in PAGES.items()}
    routing = outputs["docs/routing.md"]
    assert routing["cpp"] == routing["c"], routing


main()
