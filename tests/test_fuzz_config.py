"""Random overrides, made from the schema and from garbage: each ends in a configuration or in one sentence."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from ebmbench.cli import main as cli
from ebmbench.config.compose import compose, composer, expand
from ebmbench.config.run import RunConfig, all_keys
from ebmbench.core import registry
from ebmbench.core.errors import UserError
from tests.processes import Command

FEW, MANY = 120, 2000

KEYS = sorted({*all_keys(), "task", "method", "proposal", "trainer", "logger"})
GROUPS = {group: sorted(components) for group, components in registry.groups().items()}
GROUPS |= {"trainer": GROUPS["task"], "logger": ["csv", "none", "wandb", "trackio"]}
HYDRA = [
    "hydra/launcher",
    "hydra.run.dir",
    "hydra.job.env_copy",
    "hydra.mode",
    "hydra.searchpath",
    "hydra.verbose",
    "hydra",
]

names = st.sampled_from([*KEYS, *GROUPS, *HYDRA, "experiment", "sweeps"])
text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
numbers = st.one_of(
    st.integers(-3, 3000),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.sampled_from(["1e400", "-0", "0x1F", "1_000", "9" * 4400]),
)
words = st.sampled_from(
    ["null", "true", "", "???", "auto", "cuda:0", "${seeds}", "${oc.env:NOPE}", "${noise.stds}", "${", "*", "1,2",
     "range(1,3)",
     "glob(*)", "interval(0,1)", "shuffle(1,2)", "sort(3,1)", "int(x)", "cast(1)", "a,b", "choice(",
     "{a:1}", "{1:2,x:{}}",
     "[[1]]",
     "[", "]]", "'", '"', "\\", "=", "@", "~", "~~x", "a:b", "${oc.decode:'['}", "..", "../task/1d", "smoke",
     "uci/yacht", "paper_1d"]
)  # fmt: skip
choices = st.sampled_from(sorted({option for options in GROUPS.values() for option in options}))
scalars = st.one_of(numbers.map(str), words, choices, text)
values = st.one_of(
    scalars,
    st.lists(scalars, max_size=3).map(lambda items: f"[{','.join(items)}]"),
    st.dictionaries(names, scalars, max_size=2).map(lambda d: "{" + ",".join(f"{k}:{v}" for k, v in d.items()) + "}"),
)
misspelt = st.tuples(names, st.integers(0, 20), text).map(lambda t: t[0][: t[1]] + t[2] + t[0][t[1] + 1 :])
prefix = st.sampled_from(["", "", "", "+", "++", "~"])
fitting = st.sampled_from(sorted(GROUPS)).flatmap(lambda g: st.sampled_from(GROUPS[g]).map(lambda o: f"{g}={o}"))
made = st.tuples(prefix, st.one_of(names, misspelt), values).map(lambda t: f"{t[0]}{t[1]}={t[2]}")
in_range = st.tuples(names, st.one_of(st.integers(0, 100), st.floats(0.001, 1))).map(lambda t: f"{t[0]}={t[1]}")
override = st.one_of(fitting, in_range, made, text, names.map(lambda name: f"~{name}"))
command_lines = st.lists(override, min_size=1, max_size=3)

# No shrinking: the lines are short as they are, and a composition takes its time.
fuzz = settings(
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def throw(examples: int) -> dict[str, int]:
    """Throws so many overrides at the composition; how they ended."""
    seen = {"overrides": 0, "composed": 0, "sentences": 0}
    with composer() as compose_one:

        @settings(fuzz, max_examples=examples)
        @given(command_lines)
        @example(["seeds=" + "[" * 400])
        @example(["task={name:1d}"])
        @example(["~method"])
        def one(overrides: list[str]) -> None:
            seen["overrides"] += len(overrides)
            try:
                config = compose_one(overrides)
            except UserError as error:
                assert str(error).strip() and "\n" not in str(error)
                seen["sentences"] += 1
            else:
                assert RunConfig.from_yaml(config.to_yaml()) == config
                seen["composed"] += 1

        one()
    return seen


def test_a_few_hundred_random_overrides() -> None:
    seen = throw(FEW)
    assert seen["composed"] > FEW // 50 and seen["sentences"] > FEW // 4, seen


@pytest.mark.slow
def test_thousands_of_random_overrides() -> None:
    seen = throw(MANY)
    print(seen)
    assert seen["overrides"] >= 2000 and seen["composed"] > MANY // 50, seen


@settings(fuzz, max_examples=40)
@given(st.lists(st.one_of(override, fitting), max_size=3))
def test_random_sweeps(overrides: list[str]) -> None:
    try:
        jobs = expand(overrides)
    except UserError as error:
        assert str(error).strip() and "\n" not in str(error)
    else:
        assert jobs


@settings(fuzz, max_examples=25)
@given(
    st.lists(
        st.one_of(override, st.sampled_from(["-m", "--cfg", "job", "--multirun", "-x", "--", "-", "-c", "sweep"])),
        min_size=1,
    )
)
def test_the_entry_itself(tmp_path_factory: pytest.TempPathFactory, arguments: list[str]) -> None:
    """What cannot be composed ends with exit code 2 and one sentence, and leaves nothing behind.

    What can be composed is not started, but for the empty folder that it would be.
    """
    try:
        compose(arguments)
        return
    except UserError:
        pass
    if {"-m", "--multirun"} & set(arguments) or arguments[0] in ("sweep", "report"):
        try:
            expand([a for a in arguments if not a.startswith("-")])
            return
        except UserError:
            pass
    folder = tmp_path_factory.mktemp("cwd")
    before = Path.cwd()
    os.chdir(folder)
    error, output = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(error), contextlib.redirect_stdout(output):
            code = cli.main(arguments)
    finally:
        os.chdir(before)
    assert "Traceback" not in error.getvalue()
    if code != 0:  # --cfg shows what it can
        assert code == 2
        assert error.getvalue().startswith(("ebmbench: ", "usage: ")), error.getvalue()
    assert not list(folder.iterdir())


@pytest.mark.slow
@settings(fuzz, max_examples=36)
@given(command_lines)
def test_the_entry_as_a_process(tmp_path_factory: pytest.TempPathFactory, overrides: list[str]) -> None:
    """`python -m ebmbench` itself: what can be composed is shown and not started, the rest is refused both ways."""
    folder = tmp_path_factory.mktemp("logs")
    commands = [Command([*overrides, "--cfg", "job"], folder / "shown")]
    try:
        compose(overrides)
    except UserError:
        commands.append(Command(overrides, folder / "refused"))
    codes = [command.wait() for command in commands]
    for code, command in zip(codes, commands, strict=True):
        assert "Traceback" not in command.output
        assert code == 2 or (code == 0 and command.log.name == "shown"), (code, command.output)
        if code == 2:
            assert command.output.startswith("ebmbench: ") and command.output.count("\n") == 1, command.output


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["device=gpu"], ["device='gpu'", "auto, cpu, cuda or cuda:N"]),
        (["seeds=["], ["'seeds=['", "key=value"]),
        (["method=ncee"], ["method=ncee", "nce or nce+"]),
        (["trainer=0.6"], ["trainer=0.6 is not known", "1d, detection"]),
        (["method=nce,dsm"], ["method=nce,dsm", "-m"]),
        (["+sweeps=papr"], ["sweeps=papr", "paper_1d"]),
        (["experiment=smoke"], ["+experiment", "smoke"]),
        (["~method"], ["method", "left out"]),
        (["trainer.epoch=3"], ["trainer.epoch", "did you mean trainer.epochs"]),
        (["sigma=3"], ["sigma", "method.sigma"]),
        (["method.beta=-1"], ["method.beta=-1", "greater than 0"]),
        (["data=law3"], ["data=law3 is not known", "law1"]),
        (["method=sm", "proposal.stds=[1.0]"], ["proposal.stds is a setting, but not of method=sm,"]),
        (["method=sm", "method.beta=1"], ["method.beta", "not of method=sm"]),
        (["method=dsm", "proposal=uniform"], ["proposal.low=-3.0", "contradicts method=dsm"]),
        (["proposal.stds=[[0.1,0.2]]"], ["proposal.stds.0=[0.1, 0.2]", "valid number"]),
        (["task=detection", "trainer=1d"], ["trainer=1d contradicts task=detection"]),
        (["+logger.mode=offline"], ["logger.mode='offline' contradicts logger=csv", "logger=wandb"]),
        (["task=detection", "data.num_trian=4"], ["data.num_trian", "did you mean data.num_train"]),
        (["trainer.epochs=${oc.env:NOPE}"], ["trainer.epochs", "NOPE"]),
        (["=3"], ["'=3'", "key=value"]),
        (["trainer.epochs=0", "method.beta=x", "seeds=0"], ["trainer.epochs=0", "method.beta='x'", "seeds=0"]),
    ],
)  # fmt: skip
def test_sentences_name_key_value_and_what_is_allowed(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        compose(overrides)
    for word in words:
        assert word in str(caught.value)


def test_a_grid_that_no_memory_holds_is_refused_before_it_is_listed() -> None:
    for line in ("seeds=range(0,1e15)", "trainer.epochs=range(0,5,0)"):
        with pytest.raises(UserError, match=line.split("=")[0]):
            expand([line])


def test_shared_compositions_equal_separate_ones() -> None:
    jobs = [
        ["task=1d", "method=nce+", "method.beta=0.5"],
        ["task=1d", "method=nce+"],
        ["method.beta=0.1", "method=nce+", "task=1d", "trainer.epochs=3"],
        ["task=1d", "method=dsm", "data=law2"],
        ["task=1d", "method=dsm", "data=law1", "++trainer.epochs=5"],
    ]
    with composer() as compose_one:
        for job in [*jobs, *reversed(jobs)]:
            assert compose_one(job) == compose(job)
