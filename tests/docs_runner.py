"""Runs a document as it is written: its files are made, and its shell blocks are run, in one folder, in order."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.processes import Command

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(?:^`([\w./-]+)`:\n\n)?^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
OWN_COMMANDS = re.compile(r"(?:python -m ebmbench [\w ./=+,:\[\]-]+\n)+")
"""Commands of this project without anything that takes a shell: they are forked, which saves the imports."""


def run_document(document: Path, folder: Path, seconds: float = 600) -> list[str]:
    """Returns the output of each shell block; fails at the first one that fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    outputs = []
    for name, language, text in BLOCK.findall(document.read_text()):
        if name:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif language == "shell" and OWN_COMMANDS.fullmatch(text):
            log = folder / ".output"
            log.unlink(missing_ok=True)
            for line in text.splitlines():
                command = Command(shlex.split(line)[3:], log, folder=folder, environment={"CUDA_VISIBLE_DEVICES": ""})
                assert command.wait(seconds) == 0, f"{line}\n{command.output}"
            outputs.append(log.read_text())
        elif language == "shell":
            script = text.replace("python -m", f"{sys.executable} -m").replace("python -c", f"{sys.executable} -c")
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script],
                cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
            outputs.append(done.stdout + done.stderr)
        elif language == "python":
            done = subprocess.run(
                [sys.executable, "-c", text],
                cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
            outputs.append(done.stdout + done.stderr)
    return outputs
