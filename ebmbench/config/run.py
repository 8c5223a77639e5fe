"""The settings of a run, typed and range-checked; `config.compose` makes them from YAML and the command line.

Each component (task, method, proposal, dataset, network) says its own settings, with types, ranges and defaults.
Whatever is wrong ends in one UserError sentence.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from pydantic import Field, ValidationError

from ebmbench.config.plugins import function_of, functions_in, located, with_copies
from ebmbench.core import plugins as plugin_files
from ebmbench.core import registry
from ebmbench.core.errors import UserError, did_you_mean, shown
from ebmbench.core.proposal import Proposal
from ebmbench.core.settings import Component, Section, choice_of, choices, sections_of
from ebmbench.methods.base import Method, default_method
from ebmbench.system import yamlfile
from ebmbench.tasks.base import Setup, Task

ALGORITHMS = 3
"""Version of what is computed: raised when the same settings would give other results."""


class LoggerConfig(Section):
    """See conf/logger/."""

    name: Literal["csv", "wandb", "trackio", "none"]
    mode: Literal["online", "offline", "disabled"] | None = None
    project: str | None = None
    entity: str | None = None
    tags: tuple[str, ...] = ()


class TuneConfig(Section):
    """How a sweep searches settings: by lists of trials that all methods share (see `sweep.trials`)."""

    trials: int = Field(8, ge=1, le=10_000, description="trials of one search, the same number for each method")
    repeats: int = Field(5, ge=1, le=1000, description="searches, each with trials and seeds of its own")
    seed: int = Field(0, ge=0, lt=2**31, description="of the lists of trials")
    space: dict[str, Any] = Field(
        {}, description="what is searched beside, or in place of, what the classes declare: choices, or {low, high}"
    )


class SuiteConfig(Section):
    """What makes a file of sweeps/suites/ a suite: a benchmark to which others add results (see `ebmbench.suite`)."""

    algorithms: int = Field(ge=1, description="the version of the algorithms that its results are of")
    headline: str = Field(description="the metric by which it ranks")
    trials_on: dict[str, Any] = Field(
        {}, description="settings of the trials in place of the grid's: a draw of the data of their own"
    )
    budget: dict[str, float] = Field({}, description="by cost, such as energy_evaluations, the most of a model")


class SweepConfig(Section):
    """What a file of sweeps/ says beside its grid: its name, and the tables and figures it ends in."""

    name: str = Field(
        max_length=100,
        pattern=r"^\.*[\w+][\w.+-]*$",
        description="a name of letters, digits, _ + - and . that begins with a letter or digit",
    )
    description: str = ""
    also: tuple[Any, ...] = ()
    """Further grids: each changes keys of the first one (see `compose.expand`)."""
    tables: tuple[Any, ...] = ()
    figures: tuple[Any, ...] = ()
    tune: TuneConfig | None = None
    suite: SuiteConfig | None = None


class Launch(Section):
    """Where and how a run is carried out: nothing here changes its results, nor its identity."""

    device: str = Field(pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$", description="auto, cpu, cuda or cuda:N")
    backend: Literal["auto", "plain"]
    threads: int | None = Field(ge=1, le=4096)
    checkpoint_seconds: float = Field(ge=0)
    results_dir: str = Field(min_length=1)
    force: bool
    figures: bool = Field(True, description="whether the run's own figures are drawn; they take seconds")


_ROOT = ("seeds", "sweep", "plugins")


@dataclass(frozen=True)
class RunConfig:
    """Everything about one run.

    `proposal` is None where the method draws from none. Where `task.model` is no energy, `method` is the exact
    likelihood.
    """

    task: Task
    method: Method
    proposal: Proposal | None
    trainer: Section
    seeds: tuple[int, ...]
    logger: LoggerConfig
    launch: Launch
    sweep: SweepConfig | None = None
    plugins: tuple[str, ...] = ()
    """Plug-ins that were loaded, by absolute path or module."""
    data_option: str = ""
    """The option of the group `data` that was chosen, such as `uci/yacht`; empty where the task has none."""

    @property
    def components(self) -> list[Component]:
        """The task, method and proposal, and what the task's settings choose."""
        chosen = [getattr(self.task, name) for name in choices(type(self.task))]
        return [part for part in (self.task, self.method, self.proposal, *chosen) if part is not None]

    @property
    def used_plugins(self) -> list[plugin_files.Plugin]:
        """The plug-ins that define a component of this run, or a function that its settings name."""
        files = [file for text in functions_in(self.to_dict()) if Path(file := function_of(text)[0]).is_file()]
        return [*plugin_files.of(self.components, self.plugins), *map(plugin_files.load_one, files)]

    def identity(self) -> dict[str, Any]:
        """Returns what the results depend on, beside the seeds."""
        sections = ("task", "method", "proposal", "trainer")
        parts = {name: part.identity() for name in sections if (part := getattr(self, name)) is not None}
        if self.task.model_name:
            del parts["method"]
        sources = sorted({plugin.sha256 for plugin in self.used_plugins})
        return {"algorithms": ALGORITHMS, **parts, **({"plugins": sources} if sources else {})}

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """`identity`, asked for once: a dataset may have to look at all its files for it."""
        return self.identity()

    @cached_property
    def config_hash(self) -> str:
        """Identity without the seeds: runs with equal ones are put together."""
        return _hash(self._identity)

    @cached_property
    def run_hash(self) -> str:
        """Identity of the run."""
        return _hash({**self._identity, "seeds": self.seeds})

    @property
    def label(self) -> str:
        """Task and dataset: `1d-1`, `detection-shapes`."""
        return f"{self.task.name}-{self.task.dataset_name}"

    @property
    def name(self) -> str:
        """What tables call it: the method that trains an energy, such as `nce`; or the model, such as `ngboost`."""
        return self.task.model_name or self.method.name

    @property
    def slug(self) -> str:
        """The run's name where no `+` may stand."""
        return re.sub(r"[^\w.-]", "-", self.name.replace("+", "-plus"))

    @property
    def run_id(self) -> str:
        """The name of the run's directory: task, dataset, method or model, and hash."""
        return f"{self.label}-{self.slug}-{self.run_hash}"

    @property
    def run_dir(self) -> Path:
        """The run's directory."""
        return Path(self.launch.results_dir) / "runs" / self.run_id

    @property
    def setup(self) -> Setup:
        """What the task needs to know of the rest."""
        return Setup(
            self.method,
            self.proposal,
            self.trainer,
            self.seeds,
            self.label,
            self.launch.backend,
            Path(self.launch.results_dir),
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data, as YAML composes it; `from_dict` reads it back."""
        sections = ("method", "proposal", "trainer", "logger", "sweep")
        data = {name: part.plain() if (part := getattr(self, name)) is not None else None for name in sections}
        if self.task.model_name:
            data["method"] = None
        task = self.task.plain()
        chosen = {name: task.pop(name) for name in choices(type(self.task))}
        about = {"seeds": list(self.seeds), "plugins": list(self.plugins), "data_option": self.data_option}
        return {"task": task, **chosen, **data, **about, **self.launch.plain()}

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> RunConfig:
        """Validates plain data, and loads the plug-ins that it names.

        Raises:
            UserError: with every fault in one sentence.
        """
        return _validate(raw)

    def to_yaml(self) -> str:
        """Returns the settings as YAML; `from_yaml` reads them back."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    def to_kept_yaml(self) -> str:
        """Returns the settings as `config.yaml` of a run directory has them: they name its own copies of plug-ins."""
        return yaml.safe_dump(with_copies(self.to_dict(), self.used_plugins), sort_keys=False, allow_unicode=True)

    @staticmethod
    def from_yaml(text: str, folder: Path | None = None) -> RunConfig:
        """Reads settings that `to_yaml` wrote; of a run directory those that `to_kept_yaml` wrote.

        Raises:
            UserError: they are no settings, or a plug-in of the folder is not accepted.
        """
        try:
            raw = yamlfile.parse(text)
        except UserError as error:
            raise UserError(f"not a configuration: {error}") from None
        if not isinstance(raw, dict):
            raise UserError("not a configuration: a mapping of settings is expected")
        return _validate(raw if folder is None else located(raw, folder))

    def replace(self, **launch: Any) -> RunConfig:
        """Returns the same run carried out otherwise: `replace(device="cuda:1", results_dir=...)`."""
        return dataclasses.replace(self, launch=self.launch.model_copy(update=launch))


def _hash(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]


# ---------------------------------------------------------------------------------------------------- validation


def _validate(raw: dict[str, Any]) -> RunConfig:
    faults: list[str] = []
    names = raw.get("plugins") or []
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise UserError(f"plugins={shown(names)} is not allowed: give a list of Python files or modules")
    used = tuple(plugin_files.load(names))
    task_class = cast(type[Task], _class("task", raw.get("task")))
    raw = _with_method(raw, task_class)
    method_class = cast(type[Method], _class("method", raw.get("method")))
    models: dict[str, type[Section]] = {
        "task": task_class,
        "method": method_class,
        "trainer": task_class.Trainer,
        "logger": LoggerConfig,
    }
    if method_class.uses_proposal:
        models["proposal"] = _class("proposal", raw.get("proposal"))
    known = _known_keys(models)
    chosen = choices(task_class)
    top = {*Launch.model_fields, *_ROOT, *models, *chosen, "proposal", "data_option", "noise"}
    faults += [_no_setting(str(key), raw[key], known) for key in raw if key not in top]
    proposal = raw.get("proposal")
    if isinstance(proposal, dict) and not method_class.uses_proposal:
        faults += [
            f"proposal.{key}={shown(value)} contradicts method={method_class.name}, which draws from no proposal"
            for key, value in proposal.items()
            if value is not None and (key, value) != ("name", DEFAULT_PROPOSAL)
        ]
    parts: dict[str, Any] = {"proposal": None, "data_option": str(raw.get("data_option") or "")}
    faults += [f"task.{name} is not a setting; did you mean {name}?" for name in chosen if name in raw["task"]]
    raw = {**raw, "task": {**raw["task"], **{name: raw[name] for name in chosen if name in raw}}}
    for name, model in models.items():
        parts[name] = _section(model, raw.get(name), f"{name}.", known, faults)
    launch = {key: raw[key] for key in Launch.model_fields if key in raw}
    parts["launch"] = _section(Launch, launch, "", known, faults)
    own = list(setting_keys(SweepConfig, "sweep"))
    parts["sweep"] = _section(SweepConfig, raw["sweep"], "sweep.", own, faults) if raw.get("sweep") else None
    parts["seeds"] = _seeds(raw.get("seeds"), faults)
    if not faults:
        faults += _unused(parts["logger"])
    if faults:
        raise UserError("; ".join(faults))
    return RunConfig(**parts, plugins=used)


def _with_method(raw: dict[str, Any], task: type[Task]) -> dict[str, Any]:
    """Returns the settings with a method: exact likelihood, beside a model that is no energy.

    A task that has energies alone has no setting `model`.

    Raises:
        UserError: a method, proposal or network is named beside such a model.
    """
    name = str(raw["model"].get("name")) if isinstance(raw.get("model"), dict) else ""
    model = registry.known("model").get(name)
    if model is None or getattr(model, "uses_method", False):
        held = choices(task)
        default = choice_of(task.model_fields["network"]) if "network" in held and not raw.get("network") else None
        raw = raw if default is None else {**raw, "network": {"name": default.default}}
        return raw if "model" in held else {key: raw[key] for key in raw if key != "model"}
    for group in ("method", "network", "proposal"):
        if raw.get(group):
            chosen = raw[group].get("name")
            raise UserError(f"{group}={chosen} contradicts model={name}, which is no energy; leave {group} out")
    return {**{key: raw[key] for key in raw if key != "network"}, "method": {"name": default_method(1)}}


DEFAULT_PROPOSAL = "mixture"
"""What conf/config.yaml chooses; a method that draws from no proposal ignores it."""


def _class(group: str, raw: Any) -> type[Component]:
    if not isinstance(raw, dict):
        raise UserError(f"{group}={shown(raw)} is not a group of settings")
    return registry.get(group, raw.get("name"))


def _known_keys(models: dict[str, type[Section]]) -> list[str]:
    keys = {key for section, model in models.items() for key in setting_keys(model, section)}
    return sorted(keys | set(Launch.model_fields) | set(_ROOT))


def all_keys() -> set[str]:
    """Returns every setting: those of every component that is registered, of the logger and of a sweep."""
    keys = set(Launch.model_fields) | set(_ROOT)
    keys |= {*setting_keys(LoggerConfig, "logger"), *setting_keys(SweepConfig, "sweep")}
    for task in registry.known("task").values():
        keys |= set(setting_keys(task, "task")) | set(setting_keys(cast(type[Task], task).Trainer, "trainer"))
    for group in registry.groups():
        for component in registry.known(group).values():
            keys |= set(setting_keys(component, group.replace("/", ".")))
    return keys


def setting_keys(model: type[Section], prefix: str) -> Iterator[str]:
    """Yields every setting of a section, with those of the sections in it."""
    if issubclass(model, Component):
        yield f"{prefix}.{model.chosen_by}"
    for name, field in model.model_fields.items():
        if choice_of(field):
            continue
        inner = sections_of(field)
        yield from (key for part in inner for key in setting_keys(part, f"{prefix}.{name}"))
        if not inner:
            yield f"{prefix}.{name}"


def _section(model: type[Section], raw: Any, prefix: str, known: Sequence[str], faults: list[str]) -> Any:
    """Validates a group of settings; adds what is wrong to `faults`."""
    if not isinstance(raw, dict):
        faults.append(f"{prefix.rstrip('.')}={shown(raw)} is not a group of settings")
        return None
    raw = dict(raw)
    if issubclass(model, Component):
        raw.pop(model.chosen_by, None)
    before = len(faults)
    for name, base in choices(model).items():
        if raw.get(name) is None and not model.model_fields[name].is_required():
            raw.pop(name, None)
        elif name in raw and not isinstance(raw[name], Component):
            raw[name] = _chosen(name, base, raw[name], known, faults)
    if len(faults) > before:
        return None
    try:
        return model.model_validate(_tuples(raw))
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            key = prefix + _key(fault["loc"], raw)
            if fault["type"] in ("extra_forbidden", "invalid_key"):
                elsewhere = issubclass(model, Component) and key in all_keys()
                faults.append(
                    f"{key} is a setting, but not of {model.group}={model.registered()}; leave it out"  # type: ignore[attr-defined]
                    if elsewhere
                    else f"{key} is not a setting{did_you_mean(key, known)}"
                )
            elif fault["type"] == "missing":
                faults.append(f"{key} is missing")
            elif fault["type"] == "value_error" and not fault["loc"]:  # a check of several settings together
                faults.append(str(fault["ctx"]["error"]))
            else:
                faults.append(f"{key}={shown(fault['input'])} is not allowed: {_allowed(model, fault)}")
        return None


def _chosen(key: str, base: type[Component], raw: Any, known: Sequence[str], faults: list[str]) -> Any:
    """Validates a component that a task chooses: its dataset or network."""
    name = raw.get(base.chosen_by) if isinstance(raw, dict) else raw
    try:
        cls = registry.get(base.group, name)
    except UserError as error:
        faults.append(str(error))
        return None
    if not issubclass(cls, base):
        fitting = [name for name, other in registry.known(base.group).items() if issubclass(other, base)]
        faults.append(f"{_other_place(key, cls)} or choose {key}={', '.join(fitting)}")
        return None
    return _section(cls, raw, f"{key}.", [*known, *setting_keys(cls, key)], faults)


def _no_setting(key: str, raw: Any, known: Sequence[str]) -> str:
    """Says what is wrong with a key that the task does not have."""
    options = registry.groups().get(key, {})
    name = next(iter(raw.values()), None) if isinstance(raw, dict) else None
    if isinstance(name, str) and name in options:
        return f"{_other_place(key, options[name])} or leave it out"
    return f"{key} is not a setting{did_you_mean(key, known)}"


def _other_place(key: str, cls: type[Component]) -> str:
    """Says which tasks a dataset or network is for."""
    tasks = [
        name for name, task in registry.known("task").items() if issubclass(cls, choices(task).get(key, type(None)))
    ]
    return f"{key}={cls.registered()} is for task={' or '.join(tasks) or 'none'}: choose that task,"


def _key(loc: Sequence[str | int], raw: Any) -> str:
    """A fault's place in the data; pydantic's own names of the alternatives of a union are left out."""
    key: list[str] = []
    for place, part in enumerate(loc):
        here = (isinstance(raw, dict) and part in raw) or (isinstance(raw, list | tuple) and isinstance(part, int))
        if here or place == len(loc) - 1:
            key.append(str(part))
        raw = raw[part] if here else raw
    return ".".join(key)


def _allowed(model: Any, fault: Any) -> str:
    """What is allowed, in words: a field's description where a pattern would say nothing to people."""
    described = [field.description for field in _fields(model, fault["loc"]) if field.description]
    if fault["type"] == "string_pattern_mismatch" and described:
        return f"choose {described[-1]}"
    if fault["type"] == "literal_error":
        allowed = fault["ctx"]["expected"].replace("'", "")
        close = difflib.get_close_matches(str(fault["input"]), re.split(", | or ", allowed), n=1)
        return f"choose {allowed}" + (f" (did you mean {close[0]}?)" if close else "")
    text = re.sub(r"^(Value error, |Input |String |Tuple )", "", fault["msg"])
    return "it " + text.replace("valid tuple", "list, such as [1,2]").replace("a valid boolean", "true or false")


def _fields(model: type[Section], loc: Sequence[str | int]) -> Iterator[Any]:
    """Yields the fields on the way to a fault's place."""
    models = [model]
    for part in loc:
        fields = [m.model_fields[str(part)] for m in models if str(part) in m.model_fields]
        if fields:
            yield from fields
            models = [section for field in fields for section in sections_of(field)]


def _seeds(raw: Any, faults: list[str]) -> tuple[int, ...]:
    seeds = range(raw) if isinstance(raw, int) and not isinstance(raw, bool) and 0 < raw <= 100_000 else raw
    if isinstance(seeds, list | tuple | range) and len(seeds) > 0:
        numbers = tuple(seeds)
        whole = all(isinstance(seed, int) and not isinstance(seed, bool) for seed in numbers)
        if whole and len(set(numbers)) == len(numbers) and all(0 <= seed < 2**31 for seed in numbers):
            return numbers
    faults.append(
        f"seeds={shown(raw)} is not allowed: give a number of seeds from 1 to 100000, or a list of different "
        "seeds, each from 0 to 2147483647, such as '[3,7]'"
    )
    return ()


def _unused(logger: LoggerConfig) -> list[str]:
    """Returns the settings of one logger that are given to another."""
    own = {"wandb": set(type(logger).model_fields), "trackio": {"project"}}.get(logger.name, set())
    given = logger.model_dump(exclude={"name", *own}, exclude_defaults=True)
    return [
        f"logger.{key}={shown(value)} contradicts logger={logger.name}, which has no such setting; choose logger=wandb"
        for key, value in given.items()
    ]


def _tuples(value: Any) -> Any:
    """Lists as tuples, which is what the frozen models hold."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
