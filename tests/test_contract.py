"""`ebmbench check`: the project's own components keep the contract, and each way of breaking it is seen."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from ebmbench.check import components as contract
from ebmbench.core import plugins, registry
from ebmbench.core.errors import UserError
from ebmbench.core.settings import Component
from ebmbench.models.networks.base import Network
from tests.docs_runner import ROOT

LIBRARIES = ("ngboost", "treeffuser")
KINDS = ("method", "proposal", "model", "network", "support")
ELSEWHERE = ("paper", "ebm", "tabpfn", "tabicl")  # the last two need weights: tests/models/test_quantiles.py
SLOW = ("boosted-quantiles", "conformal-quantiles")
OWN = [
    pytest.param(group, name, id=f"{group}={name}", marks=pytest.mark.slow if name in SLOW else ())
    for group in KINDS
    for name in registry.known(group)
    if name not in ELSEWHERE
]


def faults(cls: type[Component]) -> dict[str, tuple[str, ...]]:
    return {finding.check: finding.faults for finding in contract.check_component(cls) if finding.faults}


@pytest.mark.parametrize(("group", "name"), OWN)
def test_the_project_s_own_components_keep_the_contract(group: str, name: str) -> None:
    if name in LIBRARIES:
        pytest.importorskip(name)
    assert not faults(registry.known(group)[name])


GOOD = """
import torch
from pydantic import Field
from ebmbench import Method, register

@register
class Mine(Method):
    \"\"\"Score at the target.\"\"\"

    name = "{name}"
    reference = "this file"
    uses_proposal = True
    num_samples: int = Field(8, ge=1, description="M")

    def loss(self, f, y, step):
        samples, log_q = step.q().sample(y, self.num_samples, step)
        values = f(samples)
        target = f(y.unsqueeze(-2)).squeeze(-1)
        {body}
"""
ESTIMATE = "torch.logsumexp(values - log_q, dim=-1)"


def written(tmp_path: Path, name: str, body: str, **changes: str) -> str:
    text = GOOD.format(name=name, body=body)
    for old, new in changes.items():
        assert {"described": ', description="M"', "colour": 'reference = "this file"'}[old] in text
        text = text.replace({"described": ', description="M"', "colour": 'reference = "this file"'}[old], new)
    path = tmp_path / f"{name.replace('-', '_')}.py"
    path.write_text(text)
    return str(path)


BROKEN = {
    "mean-over-batch": (f"return ({ESTIMATE} - target).mean()", "one finite number for each example"),
    "random-by-itself": (f"return {ESTIMATE} - target + torch.rand(())", "a function of the step alone"),
    "across-seeds": (f"return {ESTIMATE} - target + y.sum()", "seeds are independent"),
    "detached": (f"return {ESTIMATE}.detach() - target", "finite differences"),
    "infinite": (f"return {ESTIMATE} - target / 0", "one finite number for each example"),
    "nothing": ("return None", "one finite number for each example"),
    "in-place": (f"y.add_(0.1); return {ESTIMATE} - target", "a function of the step alone"),
    "flat": (f"return ({ESTIMATE} - target).round()", "its gradient is finite"),
    "counting": (f"step.count('odd', target > 0); return {ESTIMATE} - target", "one finite number for each example"),
    "flattened": (f"return {ESTIMATE} - f(y)", "one finite number for each example"),
    "raises": ("return no_such_name", "one finite number for each example"),
    "wrong-law": (
        f"return {ESTIMATE} - 2 * target\n\n    def recovers(self, variance, proposal):\n        return variance",
        "the Gaussian distribution",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_method_fails_the_check_that_is_meant_for_it(name: str, tmp_path: Path) -> None:
    body, check = BROKEN[name]
    failed = [finding.check for finding in contract.check(written(tmp_path, f"broken-{name}", body)) if finding.faults]
    assert any(check in title for title in failed), failed


def test_what_fails_is_said_with_its_place_and_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, "at-a-line", f"self.kept = 3\n        return {ESTIMATE} - target")
    assert contract.main(path) == 1
    assert "ValidationError: kept: Instance is frozen (at_a_line.py, line 19)" in capsys.readouterr().out
    Path(path).write_text(Path(path).read_text().replace("def loss", "def los").replace("at-a-line", "without"))
    assert contract.main(path) == 1
    assert capsys.readouterr().out.count("FAILS") == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("@register\nclass Mine:\n    pass", "@register is above Mine, which must be a Method, Proposal"),
        ("@register\ndef mine(): ...", "@register is above mine, which must be"),
        ("@register\nclass Mine(Method):\n    pass", 'Mine has no name: give it one, such as name = "my-mine"'),
        ("@register\nclass Mine(Method):\n    name = 'a b'", "Mine has name = 'a b': give it one"),
        ("raise SystemExit(3)", r"cannot be imported (SystemExit: 3)"),
    ],
)
def test_what_cannot_be_registered_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "mine.py").write_text(f"from ebmbench import Method, register\n\n{text}\n")
    with pytest.raises(UserError) as error:
        list(contract.check(str(tmp_path / "mine.py")))
    assert sentence in str(error.value)


def test_a_file_that_was_edited_replaces_what_it_registered(tmp_path: Path) -> None:
    """As in a notebook, where the process goes on; two classes of one file with one name are still refused."""
    path = Path(written(tmp_path, "edited", f"return {ESTIMATE} - target"))
    plugins.load([str(path)])
    first = registry.known("method")["edited"]
    path.write_text(path.read_text() + "\nEDITED = True\n")
    plugins.load([str(path)])
    assert registry.known("method")["edited"] is not first
    text = path.read_text()
    path.write_text(text + text.replace("class Mine", "class Other"))
    with pytest.raises(UserError, match=r"method=edited of .* is taken by"):
        plugins.load([str(path)])


@pytest.mark.parametrize("body", ["return target - values.mean(-1)", "return values.logsumexp(-1) - target"])
def test_a_method_that_claims_nothing_is_not_said_to_find_the_law(body: str, tmp_path: Path) -> None:
    """A turned sign, and a forgotten log q: `recovers` claims nothing, so that nothing is tested."""
    findings = list(contract.check(written(tmp_path, f"no-claim-{len(body)}", body)))
    (gaussian,) = [finding for finding in findings if "Gaussian" in finding.check]
    assert "recovers claims nothing, so this is not tested" in gaussian.notes[0] and "variance" in gaussian.notes[0]


RING = ROOT / "docs" / "extend.md"
FAULTY_TASKS = {
    "a function of the step alone": "losses = super().losses(batch, step); return losses + torch.rand(())",
    "the seed among others": "losses = super().losses(batch, step); return losses + losses.sum().detach()",
    "bit for bit": "self.n = getattr(self, 'n', 0) + 1; return super().losses(batch, step) * self.n",
}


@pytest.mark.parametrize("check", FAULTY_TASKS)
def test_a_broken_task_fails_the_check_that_is_meant_for_it(check: str, tmp_path: Path) -> None:
    """The task of the documents, with a loss that is random, mixes seeds, or keeps what no checkpoint holds."""
    (text,) = re.findall(r"`my_task.py`:\n\n```python\n(.*?)^```", RING.read_text(), re.S | re.M)
    name = f"ring-{len(check)}"
    text = text.replace('name = "ring"', f'name = "{name}"')
    text += f"\n    def losses(self, batch, step):\n        {FAULTY_TASKS[check]}\n"
    path = tmp_path / f"ring_{len(check)}.py"
    path.write_text(text)
    plugins.load([str(path)])
    assert any(check in title for title in faults(registry.known("task")[name]))


def test_what_is_not_described_or_has_no_colour_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, "plain-mine", f"return {ESTIMATE} - target", described="", colour='color = "no-colour"')
    assert contract.main(path) == 1
    said = capsys.readouterr().out
    assert "method.num_samples has no description" in said and "'no-colour' is no colour" in said
    assert "reference is empty" in said and "3 checks fail" in said  # and the run, which draws


def test_a_good_method_passes_and_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert contract.main(written(tmp_path, "good-mine", f"return {ESTIMATE} - target")) == 0
    assert "a short run ends" in capsys.readouterr().out


def test_a_file_that_cannot_be_a_plug_in_is_one_sentence(tmp_path: Path) -> None:
    for text, said in (("import nothing_such", "cannot be imported"), ("x = 1", "registers nothing")):
        path = tmp_path / f"{len(text)}.py"
        path.write_text(text)
        with pytest.raises(UserError, match=said):
            list(contract.check(str(path)))
    with pytest.raises(UserError, match="is not a file"):
        list(contract.check(str(tmp_path / "missing.py")))
    taken = written(tmp_path, "nce", f"return {ESTIMATE} - target")
    with pytest.raises(UserError, match=r"method=nce of .*nce.py is taken by .*contrastive.py; choose another name"):
        list(contract.check(taken))


def test_a_proposal_whose_density_is_not_that_of_its_samples_is_seen() -> None:
    base = registry.known("proposal")["mixture"]

    class Wrong(base):  # type: ignore[misc, valid-type]
        """A mixture that says a wrong density."""

        name = "wrong"

        def offset_log_prob(self, offset: torch.Tensor) -> torch.Tensor:
            return super().offset_log_prob(offset) + 0.2

    failed = faults(Wrong)
    assert any("integrates to one" in check for check in failed)
    assert any("partition function" in check for check in failed)


def test_a_proposal_that_is_wrong_in_several_dimensions_alone_is_seen() -> None:
    base = registry.known("proposal")["mixture"]

    class Mean(base):  # type: ignore[misc, valid-type]
        """A mixture whose log q is a mean over the coordinates, not their sum."""

        name = "mean"

        def offset_log_prob(self, offset: torch.Tensor) -> torch.Tensor:
            return super().offset_log_prob(offset) / offset.shape[-1]

    assert [check for check in faults(Mean) if "partition function" in check]


def test_a_network_whose_rows_depend_on_each_other_is_seen() -> None:
    base = registry.known("network")["mlp"]

    class Centred(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return -(y - (x - x.mean(0))[:, :1, None] * self.a).square().sum(-1)

        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.rand(()))

    class Batched(Network):
        """It subtracts the mean of the mini-batch."""

        name = "batched"

        def build(self, x_shape: tuple[int, ...], dim: int) -> nn.Module:
            return Centred()

    assert not faults(base)
    assert all("depends on the other rows" in fault for found in faults(Batched).values() for fault in found)
    assert len(faults(Batched)) == 1


SUPPORT = """
import torch
from ebmbench import Support, register

@register
class Mine(Support):
    \"\"\"Numbers between 0 and 1, by their logit.\"\"\"

    name = "{name}"
    line = True

    @property
    def text(self):
        return "between 0 and 1"

    def inside(self, y):
        return (y > 0) & (y < 1)

    def coordinate(self, y):
        return torch.logit(y)

    def value(self, u):
        return torch.sigmoid(u)

    def log_slope(self, u):
        return torch.sigmoid(u).mul(torch.sigmoid(-u)).log()

    def measure(self, base, mean, std):
        return base

{more}
"""
WRAPPED = """
class Other:
    flat = False
    def __init__(self, base, **changes): self.base, self.changes = base, changes
    def __getattr__(self, name): return self.__dict__["changes"].get(name, getattr(self.__dict__["base"], name))
"""
BROKEN_SUPPORTS = {
    "no-slope": ("    def log_slope(self, u): return torch.zeros_like(u)", "its values are inside"),
    "one-way": ("    def value(self, u): return torch.sigmoid(2 * u)", "its values are inside"),
    "narrow": ("    def inside(self, y): return (y > 0.3) & (y < 1)", "its values are inside"),
    "heavy": ("    def measure(self, base, mean, std): return Other(base, log_prob=lambda z: base.log_prob(z) + 0.1)",
              "the mass of its base measure is 1"),
    "off-law": ("    def measure(self, base, mean, std): return Other(base, sample=lambda n, u: base.scale * n + 1)",
                "draws of its base measure follow it"),
    "short-grid": ("    def measure(self, base, mean, std): return Other(base, grid=lambda n: base.grid(n)[n // 2 :])",
                   "the nodes that integrals are taken on hold all of its mass"),
    "moved": ("    def place(self, z, mean, std): return 2 * z", "draws of a proposal that place moves"),
    "embedded": ("    def embed(self, z): return z.sin().unsqueeze(-1)", "what networks see of a value"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN_SUPPORTS)
def test_each_fault_of_a_support_is_found(tmp_path: Path, name: str) -> None:
    more, expected = BROKEN_SUPPORTS[name]
    path = tmp_path / f"{name.replace('-', '_')}.py"
    path.write_text(WRAPPED + SUPPORT.format(name=name, more=more))
    (module,) = plugins.load([str(path)])
    (cls,) = plugins.load_one(module).components
    found = faults(cls)
    assert any(check.startswith(expected) for check in found), found


def test_a_support_of_one_s_own_keeps_the_contract(tmp_path: Path) -> None:
    path = tmp_path / "sound_support.py"
    path.write_text(SUPPORT.format(name="sound-support", more=""))
    (module,) = plugins.load([str(path)])
    (cls,) = plugins.load_one(module).components
    assert not faults(cls)
