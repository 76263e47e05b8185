"""Builds and runs the README's C++ example, and runs its shell example.

Usage: readme_test.py SOURCE_FOLDER CLI_FOLDER LIBRARY COMPILER FLAG...
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile


def block(text, language):
    found = re.findall(rf"<!-- tests/readme_test.py .*?-->\n```{language}\n(.*?)```", text, re.S)
    assert len(found) == 1, f"README.md: found {len(found)} {language} examples, expected 1"
    return found[0]


def main():
    source, cli = (pathlib.Path(a) for a in sys.argv[1:3])
    library, compiler, *flags = sys.argv[3:]
    text = (source / "README.md").read_text()
    for page in (source / "README.md", *source.glob("docs/*.md")):
        assert not re.search(r"@[A-Z0-9]+@", page.read_text()), f"{page.name} has a blank to fill in"
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "build").mkdir()
        shutil.copytree(source / "examples", folder / "examples")
        (folder / "example.cpp").write_text(block(text, "cpp"))
        program = folder / "example"
        command = [compiler, *flags, "-std=c++20", f"-I{source}/include", folder / "example.cpp"]
        subprocess.run([*command, library, "-pthread", "-o", program], check=True)
        out = subprocess.run([program], cwd=folder, check=True, capture_output=True, text=True).stdout
        assert re.fullmatch(r"token 0 went to expert \d+ with weight \d\.\d{3}\n", out), out

        environment = dict(os.environ, PATH=f"{cli}:{os.environ['PATH']}")
        commands = ["bash", "-euo", "pipefail", "-c", block(text, "sh")]
        out = subprocess.run(commands, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout
        assert "qwen3_moe" in out, out
        assert (folder / "build/outputs.safetensors").stat().st_size > 0
        assert (folder / "build/report.html").stat().st_size > 0


main()
