"""docs/clusters.md, the workflow and the hooks: their files can be read, and name commands that there are."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib

import pytest
import yaml

from ebmbench.cli.parser import parse
from tests.docs_runner import ROOT

TEXT = (ROOT / "docs" / "clusters.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("script", blocks("bash"))
def test_the_scripts_can_be_read(script: str) -> None:
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_the_commands_are_there() -> None:
    container = yaml.safe_load(blocks("yaml")[0])["spec"]["template"]["spec"]["containers"][0]
    found = [container["args"]]
    for line in "\n".join(blocks("bash")).splitlines():
        if match := re.search(r"(?:python -m ebmbench|\.sif ebmbench) ([^'#>]*)", line):
            found.append(shlex.split(match[1]))
    assert len(found) > 10
    for words in found:
        arguments = parse(words)
        assert arguments.command.path[0] == "sweep" and (arguments.names or arguments.command.name == "sweep merge")


def test_the_container_is_made_of_what_there_is() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = [line.split(maxsplit=1) for line in blocks("dockerfile")[0].splitlines()]
    assert [word for word, _ in lines] == ["FROM", "RUN", "COPY", "RUN", "ENV", "RUN", "WORKDIR", "ENTRYPOINT"]
    (image,) = [text for word, text in lines if word == "FROM"]
    python = image.removeprefix("python:").removesuffix("-slim")
    assert f"Programming Language :: Python :: {python}" in project["project"]["classifiers"]
    for run in (text for word, text in lines if word == "RUN"):
        subprocess.run(["bash", "-n"], input=run, text=True, check=True)
        for extras in re.findall(r"/src\[(.*?)\]", run):
            assert set(extras.split(",")) <= project["project"]["optional-dependencies"].keys()
    assert json.loads(lines[-1][1])[0] in project["project"]["scripts"]
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    needed |= {*wheel["packages"], *wheel["force-include"]}
    assert not needed & set(ignored) and {".git", ".venv", "results"} <= set(ignored)


def test_the_workflow_and_the_hooks_call_what_there_is() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    makefile = (ROOT / "Makefile").read_text()
    targets = [word for command in commands for word in re.findall(r"^make (\S+)$", command)]
    assert set(targets) == {"lint", "test"} and all(f"\n{target}: " in makefile for target in targets)
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert lint is not None
    for hook in hooks:
        module = hook["entry"].split(" -m ")[1].removesuffix(" --fix")
        assert f"$(PYTHON) -m {module}" in lint[1]
