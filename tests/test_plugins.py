"""Plug-ins: what a run depends on, copies that work anywhere, and code that nobody accepted is not executed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import ebmbench
from ebmbench.cli import main as cli
from ebmbench.config.compose import compose
from ebmbench.core import plugins, registry, trust
from ebmbench.core.errors import UserError
from ebmbench.engine import runs
from ebmbench.engine.api import read_config
from ebmbench.engine.execute import execute
from ebmbench.sweep.plan import make_plan, write_plan
from ebmbench.system.seal import encode as sealed_json

METHOD = """
import torch
from ebmbench import Method, register
{imports}

@register
class Mine(Method):
    \"\"\"Pulls the target's energy up, and a shifted one's down.\"\"\"

    name = "mine"

    def loss(self, energy, y, step):
        f = energy(torch.stack((y, y + {shift}), dim=-2))
        return torch.nn.functional.softplus(f[..., 1] - f[..., 0])
"""
DATA = """
import numpy as np
from ebmbench import Data, register
from ebmbench.tasks.regression.data.function import arrays_split

@register
class MyData(Data):
    \"\"\"Rows of a file.\"\"\"

    source = "my-rows"
    name: str = "my-rows"

    def load(self):
        table = np.loadtxt({file!r}, delimiter=",")
        return arrays_split(table[:, :1], table[:, 1])
"""
FUNCTION = """
import numpy as np
from rows_of import rows

def load():
    return rows()
"""
ROWS = """
import numpy as np

def rows():
    x = np.random.default_rng(0).normal(size=(60, 2))
    return x, {scale} * x[:, 0] + x[:, 1]
"""
PLANNED = """\
# @package _global_
defaults:
  - override /size: smoke
  - override /task: 1d
plugins: [method_of.py]
hydra: {sweeper: {params: {method: mine}}}
sweep: {name: own, tables: [scores]}
"""
SMOKE = ["task=1d", "+experiment=smoke", "method=mine", "device=cpu", "logger=none", "threads=1", "seeds=2"]


@pytest.fixture(autouse=True)
def nobody_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.setattr(trust, "_here", set())


def forget() -> None:
    """As if this process had just begun."""
    plugins.forget(list(plugins._loaded))
    registry.restore({group: {n: c for n, c in known.items() if c.__module__.startswith("ebmbench.")}
                      for group, known in registry.groups().items()})  # fmt: skip


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# Each kind: the plug-in's import of the file that then changes, where that file is, its content before and after.
KINDS: dict[str, tuple[str, str, str, str]] = {
    "a helper beside it": ("from shift_of import SHIFT", "shift_of.py", "SHIFT = 0.3", "SHIFT = 0.4"),
    "a helper of a helper": ("from first_of import SHIFT", "second_of.py", "SHIFT = 0.3", "SHIFT = 0.4"),
    "an import in a function": ("def f():\n    import late_of", "late_of.py", "A = 1", "A = 2"),
    "a package's module": ("from pack_of.inner import SHIFT", "pack_of/inner.py", "SHIFT = 0.3", "SHIFT = 0.4"),
    "a relative import": ("from pack_of import SHIFT", "pack_of/inner.py", "SHIFT = 0.3", "SHIFT = 0.4"),
    "no import statement": (
        "import importlib\nmodule = importlib.import_module('shift' + '_of')",
        "shift_of.py",
        "SHIFT = 0.3",
        "SHIFT = 0.4",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_module_that_a_plug_in_imports_is_part_of_a_run(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, file, before, after = KINDS[kind]
    write(tmp_path / "pack_of" / "__init__.py", "from .inner import SHIFT" if kind == "a relative import" else "")
    write(tmp_path / "first_of.py", "from second_of import SHIFT")
    write(tmp_path / file, before)
    path = write(tmp_path / "method_of.py", METHOD.format(imports=line, shift="0.3"))
    monkeypatch.syspath_prepend(str(tmp_path))
    words = [*SMOKE, f"plugins=[{path}]"]
    hashes = [compose(words).run_hash]
    write(tmp_path / file, after + "\n")
    hashes.append(compose(words).run_hash)  # the same process notices it
    write(tmp_path / file, before)
    hashes.append(compose(words).run_hash)
    assert hashes[0] != hashes[1] and hashes[0] == hashes[2]


def test_an_edited_helper_is_what_trains(tmp_path: Path) -> None:
    path = write(tmp_path / "method_of.py", METHOD.format(imports="from shift_of import SHIFT", shift="SHIFT"))
    values = []
    for shift in ("0.3", "0.9"):
        write(tmp_path / "shift_of.py", f"SHIFT = {shift}")
        plugins.load([str(path)])
        values.append(sys.modules[registry.get("method", "mine").__module__].SHIFT)
    assert values == [0.3, 0.9]


def test_two_plug_ins_have_helpers_of_one_name(tmp_path: Path) -> None:
    for name, shift in (("one", "0.3"), ("two", "0.9")):
        write(tmp_path / name / "shift_of.py", f"SHIFT = {shift}")
        text = METHOD.format(imports="from shift_of import SHIFT", shift="SHIFT").replace('"mine"', f'"{name}"')
        plugins.load([str(write(tmp_path / name / f"{name}.py", text))])
    found = [sys.modules[registry.get("method", name).__module__].SHIFT for name in ("one", "two")]
    assert found == [0.3, 0.9]


def test_modules_of_a_package_are_part_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "pack_of" / "__init__.py", "from pack_of import methods")
    write(tmp_path / "pack_of" / "methods.py", METHOD.format(imports="from .shift import SHIFT", shift="SHIFT"))
    write(tmp_path / "pack_of" / "shift.py", "SHIFT = 0.3")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = compose([*SMOKE, "plugins=[pack_of]"]).run_hash
    write(tmp_path / "pack_of" / "shift.py", "SHIFT = 0.4\n")
    assert compose([*SMOKE, "plugins=[pack_of]"]).run_hash != before


def test_rows_of_a_dataset_of_one_s_own_are_part_of_a_run(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.csv", "".join(f"{k},{k % 7}\n" for k in range(40)))
    path = write(tmp_path / "data_of.py", DATA.format(file=str(file)))
    words = ["task=regression", "data=my-rows", f"plugins=[{path}]", "+experiment=smoke"]
    before = compose(words).run_hash
    file.write_text(file.read_text().replace("39,4", "39,5"))
    assert compose(words).run_hash != before


def test_helpers_of_a_function_are_part_of_a_run_and_of_its_folder(tmp_path: Path) -> None:
    path = write(tmp_path / "function_of.py", FUNCTION)
    write(tmp_path / "rows_of.py", ROWS.format(scale=1))
    words = ["task=regression", "data=function", f"data.function={path}:load", "method=nce", "+experiment=smoke"]
    config = compose([*words, "device=cpu", "figures=false", f"results_dir={tmp_path / 'results'}"])
    execute(config, quiet=True)
    write(tmp_path / "rows_of.py", ROWS.format(scale=2))
    assert compose(words).run_hash != config.run_hash
    forget()
    folder = Path(shutil.move(tmp_path / "results", tmp_path / "sent")) / "runs" / config.run_dir.name
    path.unlink()
    assert read_config(folder).run_hash == config.run_hash


@pytest.mark.parametrize("packages", [(), ("numpy",)])
def test_the_version_of_a_library_is_part_of_a_run(packages: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    from ebmbench.models.ngboost import NGBoost

    monkeypatch.setattr(NGBoost, "packages", packages or NGBoost.packages)
    before = NGBoost().identity()
    monkeypatch.setattr("ebmbench.models.outside.package_version", lambda package: "0.0.1 of another day")
    assert NGBoost().identity() != before


# ----------------------------------------------------------------------------------------- a folder that was moved


@pytest.fixture
def sent(tmp_path: Path) -> Path:
    """A run with a plug-in and its helper, whose folder was renamed, and whose sources are gone."""
    home = tmp_path / "home"
    write(home / "shift_of.py", "SHIFT = 0.3")
    proof = f"open({str(tmp_path / 'executed')!r}, 'a').close()"
    text = METHOD.format(imports=f"from shift_of import SHIFT\n{proof}", shift="SHIFT")
    path = write(home / "method_of.py", text)
    config = compose([*SMOKE, f"plugins=[{path}]", f"results_dir={tmp_path / 'results'}", "figures=false"])
    execute(config, quiet=True)
    forget()
    shutil.rmtree(home)
    (tmp_path / "executed").unlink()
    folder = tmp_path / "elsewhere" / "runs" / config.run_dir.name
    folder.parent.mkdir(parents=True)
    return Path(shutil.move(config.run_dir, folder))


def test_a_run_that_was_sent_is_loaded_by_its_own_copy(sent: Path) -> None:
    assert set(ebmbench.load(sent)) == {0, 1}
    assert not list(sent.rglob("__pycache__")) and not runs.verify(sent)
    config = read_config(sent)
    assert config.run_hash == sent.name.rsplit("-", 1)[1]


def refused(sent: Path, tmp_path: Path) -> str:
    """Opens a run that was made by somebody else; returns the sentence that refuses it."""
    trust.path().unlink(missing_ok=True)
    with pytest.raises(UserError) as error:
        ebmbench.load(sent)
    assert not (tmp_path / "executed").exists(), "code was executed"
    return str(error.value)


def test_a_foreign_plug_in_is_executed_only_once_its_hash_is_accepted(sent: Path, tmp_path: Path) -> None:
    text = refused(sent, tmp_path)
    assert "nothing of it was executed" in text and str(sent) in text
    assert cli.dispatch(text.rpartition("python -m ebmbench ")[2].split()) == 0
    assert set(ebmbench.load(sent)) == {0, 1} and (tmp_path / "executed").exists()
    with pytest.raises(UserError, match="32 digits"):
        cli.dispatch(["--trust", "12"])


def edit_plugin(folder: Path) -> None:
    path = next((folder / "plugins").glob("*/method_of.py"))
    path.write_text(path.read_text() + "\n")


def add_a_file(folder: Path) -> None:
    next((folder / "plugins").glob("*/method_of.py")).with_name("torch.py").write_text("raise SystemExit")


def add_byte_code(folder: Path) -> None:
    place = next((folder / "plugins").glob("*/method_of.py")).parent
    write(place / "__pycache__" / "shift_of.cpython-312.pyc", "")


def name(text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        raw = yaml.safe_load((folder / "config.yaml").read_text())
        raw["plugins"] = [text.replace("FOLDER", str(folder))]
        (folder / "config.yaml").write_text(yaml.safe_dump(raw))

    return change


HOSTILE = {
    "an edited source": edit_plugin,
    "a further file": add_a_file,
    "byte code": add_byte_code,
    "an absolute path": name("FOLDER/evil.py"),
    "a relative path": name("evil.py"),
    "a module": name("evil"),
    "a path out of the folder": name("plugins/" + 32 * "0" + "/../../evil.py"),
    "another folder": name("plugins/" + 32 * "0" + "/evil.py"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_folder_executes_nothing(
    kind: str, sent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even where the hash that it pretends to have was accepted."""
    proof = tmp_path / "executed"
    for place in (sent, sent / "plugins", sent / "plugins" / (32 * "0")):
        write(place / "evil.py", f"open({str(proof)!r}, 'a').close()")
    if not kind.startswith(("an ", "a further", "byte")) or kind == "an absolute path":
        trust.accept(32 * "0", "evil")
    HOSTILE[kind](sent)
    status = json.loads((sent / "status.json").read_text())
    status["outputs"]["config.yaml"] = runs.fingerprint((sent / "config.yaml").read_bytes())
    (sent / "status.json").write_bytes(sealed_json(status))
    monkeypatch.chdir(sent)
    monkeypatch.syspath_prepend("")
    results = sent.parent.parent
    for words in (
        ["audit", "training", str(sent), f"results_dir={results}"],
        ["rescore", str(sent), f"results_dir={results}"],
        ["report", str(sent), f"--out={tmp_path / 'page.html'}"],
        ["audit", "files", f"results_dir={results}"],
        ["predict", str(sent), os.devnull, f"--out={tmp_path / 'x.csv'}"],
    ):
        assert cli.main(words) in (0, 1, 2)
        assert not proof.exists(), f"{words[0]} executed code"
    with pytest.raises(UserError):
        ebmbench.load(sent)
    with contextlib.suppress(UserError):
        ebmbench.results(sent)
    assert not proof.exists() and "Traceback" not in capsys.readouterr().err


def test_a_foreign_sweep_executes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its plan names a plug-in: every command that reads the plan goes without it, or refuses in one sentence."""
    proof = tmp_path / "executed"
    write(tmp_path / "method_of.py", METHOD.format(imports=f"open({str(proof)!r}, 'a').close()", shift="0.3"))
    write(tmp_path / "sweeps" / "own.yaml", PLANNED)
    monkeypatch.chdir(tmp_path)
    write_plan(make_plan("own", ["device=cpu", "seeds=1"], None), tmp_path / "results")
    forget()
    proof.unlink()
    trust.path().unlink()
    (tmp_path / "sweeps" / "own.yaml").unlink()
    commands = ["sweep status own", "sweep work own", "sweep resume own", "sweep collect own", "audit tables own"]
    commands += ["report own", "audit files", "audit training own", "sweep merge results results_dir=here"]
    for words in commands:
        assert cli.main(words.split()) in (0, 1, 2)
        assert not proof.exists(), f"{words} executed code"
    assert "Traceback" not in (said := capsys.readouterr().err) and "--trust" in said
    ebmbench.results("own")
    assert not proof.exists()
