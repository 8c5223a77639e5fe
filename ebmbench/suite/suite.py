"""A suite: a sweep file of `sweeps/suites/` whose jobs, trials and budget are frozen, and an entry: a method in it.

Of an entry there are two plans. The trials search its settings on a draw of the data of their own; the runs use what
validation data chose. Both follow from the suite, the words of the entry and its plug-in, so whoever receives a
submission makes them again and compares.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ebmbench.config import compose as composition
from ebmbench.config import folders
from ebmbench.config.run import ALGORITHMS, RunConfig, SuiteConfig, SweepConfig
from ebmbench.core import plugins
from ebmbench.core.errors import UserError, did_you_mean, shown
from ebmbench.core.registry import groups
from ebmbench.engine.runs import commit
from ebmbench.report import settings
from ebmbench.report.frame import Results
from ebmbench.report.planned import Plan, is_name
from ebmbench.report.search import REPEAT, TRIAL
from ebmbench.sweep import best
from ebmbench.sweep.plan import plan_of
from ebmbench.sweep.trials import draw_of
from ebmbench.system import seal, yamlfile

OWN = ("method", "model", "proposal", "network")
"""Groups of settings that an entry may choose and set; all others are the suite's."""
_WORD = re.compile(rf"(?:{'|'.join(OWN)})(?:\.[\w.]+)?=[\w.+,\[\]-]+")

Cell = tuple[str, str, int]
"""What is trained in a suite, whatever the method: an option of data, its draw, and how many seeds."""


@dataclass(frozen=True)
class Suite:
    """A suite as its file has it.

    Attributes:
        sha256: 32 digits, of the content of its file without the comments.
        about: what its file says under `sweep`, and `rules` under `sweep.suite`.
    """

    name: str
    sha256: str
    about: SweepConfig
    rules: SuiteConfig

    @property
    def trials(self) -> int:
        """Returns the number of trials of a search."""
        assert self.about.tune is not None
        return self.about.tune.trials


@dataclass(frozen=True)
class Entry:
    """What competes: the words that choose a method or a model and set what the suite leaves open.

    Attributes:
        name: what tables call it.
        plugins: the files of its plug-ins.
    """

    name: str
    words: tuple[str, ...]
    plugins: tuple[str, ...] = ()

    @property
    def all_words(self) -> list[str]:
        """Returns its words as the command line of a run has them."""
        return [*self.words, *([f"plugins=[{','.join(self.plugins)}]"] if self.plugins else [])]

    def plan_name(self, suite: Suite, is_trials: bool) -> str:
        """Returns the name of the sweep of its runs, or of its trials."""
        return f"{suite.name}.{self.name}{'.trials' * is_trials}"


def read(name: str) -> Suite:
    """Returns a suite.

    Raises:
        UserError: it is not known, or its file is no suite.
    """
    known = folders.known_suites()
    if name not in known:
        raise UserError(f"suite {shown(name)} is not known{did_you_mean(name, known)}")
    path = next(path for root in folders.sweep_dirs() if (path := root / "suites" / f"{name}.yaml").is_file())
    raw = yamlfile.read(path)
    config = composition.compose([f"+sweeps=suites/{name}"])
    about = config.sweep
    if not re.search(r"-v\d+$", name) or about is None or about.name != name:
        raise UserError(f"{path} is no suite: it needs sweep.name={name}, which ends in its version, such as -v1")
    if about.suite is None or about.tune is None or about.tune.trials < 2:
        raise UserError(f"{path} is no suite: it needs sweep.suite, and sweep.tune with two trials or more")
    if config.task.metric(about.suite.headline) is None:
        raise UserError(f"sweep.suite.headline={about.suite.headline} is no metric of task={config.task.name}")
    return Suite(name, seal.of(raw), about, about.suite)


def need_algorithms(suite: Suite) -> None:
    """Raises UserError if this ebmbench computes something else than the suite was frozen with."""
    if suite.rules.algorithms != ALGORITHMS:
        raise UserError(
            f"{suite.name} is of algorithms {suite.rules.algorithms}, and this ebmbench computes {ALGORITHMS}: "
            "use the version of ebmbench that it was made with, or a newer version of the suite"
        )


def entry_of(words: Sequence[str], plugin_files: Sequence[str], name: str | None = None) -> Entry:
    """Returns an entry; its method is the one that its plug-ins register, if no word chooses one.

    Raises:
        UserError: a word sets what is the suite's, or no method or several are chosen.
    """
    need_words(words)
    files = tuple(plugins.load(plugin_files))
    chosen = [word for word in words if word.startswith(("method=", "model="))]
    if not chosen:
        own = {cls for file in files for cls in plugins.load_one(file).components}
        named = [f"{group}={key}" for group in OWN[:2] for key, cls in groups().get(group, {}).items() if cls in own]
        if len(named) != 1:
            text = f"the plug-ins register {', '.join(named)}" if named else "give method=NAME or model=NAME"
            raise UserError(f"a suite takes one method or model: {text}")
        chosen = named
    words = [*chosen, *(word for word in words if word not in chosen)]
    name = name or re.sub(r"[^\w.+-]", "-", chosen[0].partition("=")[2])
    if not is_name(name):
        raise UserError(f"--name={shown(name)} is not allowed: give letters, digits and . _ + -")
    return Entry(name, tuple(words), files)


def need_words(words: Sequence[str]) -> None:
    """Raises UserError for a word of an entry that sets what is the suite's, or several values, or asks Hydra."""
    for word in words:
        if not _WORD.fullmatch(word) or "," in word.partition("=")[2].split("[")[0]:
            raise UserError(f"{shown(word)} is not allowed in a suite: set only {', '.join(OWN)}, with one plain value")


def cells(suite: Suite, is_trials: bool) -> list[Cell]:
    """Returns what every entry trains, in the suite's order; no code of an entry is needed for it."""
    words = _on(suite) if is_trials else []
    configs = composition.compose_all(composition.expand([f"+sweeps=suites/{suite.name}", *words]))
    return [(config.data_option, draw_of(config), len(config.seeds)) for config in configs]


def cell_of(raw: Mapping[str, Any], draws: Sequence[str]) -> Cell:
    """Returns the cell of a job's settings; `draws` are the settings that draw the data."""
    flat = settings.flat(raw)
    return str(raw["data_option"]), "/".join(str(flat.get(key)) for key in draws), len(raw["seeds"])


def trials_plan(suite: Suite, entry: Entry, launch: Sequence[str] = ()) -> Plan:
    """Returns the plan of an entry's trials; `launch` says where and how they run."""
    words, lines, configs = _jobs(suite, entry, [*_on(suite), *launch])
    return plan_of(_about(suite, entry, is_trials=True), lines, configs, words, commit())


def runs_plan(suite: Suite, entry: Entry, chosen: Mapping[str, Mapping[str, Any]], launch: Sequence[str] = ()) -> Plan:
    """Returns the plan of an entry's runs with the settings that its trials chose, by task and data."""
    words, lines, configs = _jobs(suite, entry, launch)
    lines = [[*line, *_words(chosen, config)] for line, config in zip(lines, configs, strict=True)]
    about = _about(suite, entry, is_trials=False).model_copy(update={"tune": None})
    return plan_of(about, lines, composition.compose_all(lines, words), words, commit())


def chosen_by(trials: Results) -> dict[str, dict[str, Any]]:
    """Returns the settings that validation data chose, by task and data; none where nothing is searched."""
    if trials.columns[-1:] == (TRIAL,) or REPEAT not in trials.columns:
        return {}
    return {place: next(iter(models.values())) for place, models in best.best(trials).items()}


def _jobs(suite: Suite, entry: Entry, more: Sequence[str]) -> tuple[list[str], list[list[str]], list[RunConfig]]:
    words = [*entry.all_words, *more]
    lines = composition.expand([f"+sweeps=suites/{suite.name}", *words])
    return words, lines, composition.compose_all(lines, words)


def _on(suite: Suite) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in suite.rules.trials_on.items()]


def _about(suite: Suite, entry: Entry, is_trials: bool) -> SweepConfig:
    what = "The trials" if is_trials else "The runs"
    name = entry.plan_name(suite, is_trials)
    return suite.about.model_copy(update={"name": name, "description": f"{what} of {entry.name} in {suite.name}."})


def _words(chosen: Mapping[str, Mapping[str, Any]], config: RunConfig) -> list[str]:
    values = chosen.get(f"{config.task.name}/{config.data_option}", {})
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items()]
