"""`ebmbench check`: the project's own components keep the contract, and each way of breaking it is seen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ebmbench import contract
from ebmbench.core import registry
from ebmbench.core.errors import UserError
from ebmbench.core.settings import Component

LIBRARIES = ("ngboost", "treeffuser")
KINDS = ("method", "proposal", "task/network")
OWN = [(group, name) for group in KINDS for name in registry.known(group) if (group, name) != ("task/network", "paper")]


def faults(cls: type[Component]) -> dict[str, tuple[str, ...]]:
    return {finding.check: finding.faults for finding in contract.check_component(cls) if finding.faults}


@pytest.mark.parametrize(("group", "name"), OWN, ids=[f"{group}={name}" for group, name in OWN])
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
    "raises": ("return no_such_name", "one finite number for each example"),
    "wrong-law": (
        f"return {ESTIMATE} - 2 * target\n\n    def recovers(self, variance, proposal):\n        return variance",
        "the Gaussian law",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_method_fails_the_check_that_is_meant_for_it(name: str, tmp_path: Path) -> None:
    body, check = BROKEN[name]
    failed = [finding.check for finding in contract.check(written(tmp_path, f"broken-{name}", body)) if finding.faults]
    assert any(check in title for title in failed), failed


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
    with pytest.raises(UserError, match=r"'nce' of .* is registered already"):
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
