"""The configuration of a run: composed by Hydra from conf/, then typed and range-checked.

YAML holds the defaults, the Section models hold types and ranges, and the fields of a method's class say which
settings it needs. Whatever is wrong ends in one UserError sentence.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import hydra
import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, ValidationError

from ebmbench.errors import UserError
from ebmbench.methods import METHODS, Method
from ebmbench.proposals import GaussianMixture
from ebmbench.schema import Section
from ebmbench.tasks.detection.config import DetectionTask, DetectionTrainer
from ebmbench.tasks.one_d.config import OneDTask, OneDTrainer

ALGORITHMS = 1
"""Version of what is computed: raised when the same settings would give other results."""

MOST_JOBS = 100_000
"""In one sweep."""

TASKS: dict[str, tuple[type[Section], type[Section]]] = {
    "1d": (OneDTask, OneDTrainer),
    "detection": (DetectionTask, DetectionTrainer),
}


class MethodConfig(Section):
    """See conf/method/."""

    name: Literal["ml-is", "ml-mcmc", "kld-is", "nce", "nce+", "sm", "dsm"]
    num_samples: int | None = Field(ge=1, le=1_048_576)
    langevin_steps: int | None = Field(ge=1, le=100_000)


class ProposalConfig(Section):
    """See conf/proposal/."""

    stds: tuple[float, ...] | None
    shared: bool | None


class NoiseConfig(Section):
    """See conf/noise/."""

    sigma: float | None = Field(gt=0, le=1e6)
    beta: float | None = Field(gt=0, le=1e6)
    langevin_step: float | None = Field(gt=0, le=1e6)


class LoggerConfig(Section):
    """See conf/logger/."""

    name: Literal["csv", "wandb", "none"]
    mode: Literal["online", "offline", "disabled"] | None = None
    project: str | None = None
    entity: str | None = None
    tags: tuple[str, ...] = ()


class SweepConfig(Section):
    """What a file of sweeps/ says beside its grid: its name, and the tables and figures it ends in."""

    name: str = Field(max_length=100, pattern=r"^[\w.+-]+$", description="a name of letters, digits, _ . + and -")
    description: str = ""
    tables: tuple[Any, ...] = ()
    figures: tuple[Any, ...] = ()


class Launch(Section):
    """Where and how a run is carried out: nothing here changes its results, nor its identity."""

    device: str = Field(pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$", description="auto, cpu, cuda or cuda:N")
    backend: Literal["auto", "plain"]
    threads: int | None = Field(ge=1, le=4096)
    checkpoint_seconds: float = Field(ge=0)
    results_dir: str = Field(min_length=1)
    force: bool


# Where each field of a method class comes from.
_METHOD_FIELDS = {
    "num_samples": "method.num_samples",
    "langevin_steps": "method.langevin_steps",
    "proposal": "proposal.stds",
    "sigma": "noise.sigma",
    "beta": "noise.beta",
    "langevin_step": "noise.langevin_step",
}


@dataclass(frozen=True)
class RunConfig:
    """Everything about one run."""

    task: OneDTask | DetectionTask
    method: MethodConfig
    proposal: ProposalConfig
    noise: NoiseConfig
    trainer: OneDTrainer | DetectionTrainer
    seeds: tuple[int, ...]
    logger: LoggerConfig
    launch: Launch
    sweep: SweepConfig | None = None

    def identity(self) -> dict[str, Any]:
        """What the results depend on, beside the seeds."""
        sections = ("task", "method", "proposal", "noise", "trainer")
        parts = {name: getattr(self, name).identity() for name in sections}
        return {"algorithms": ALGORITHMS, **{name: part for name, part in parts.items() if part}}

    @cached_property
    def config_hash(self) -> str:
        """Identity without the seeds: runs with equal ones are put together."""
        return _hash(self.identity())

    @cached_property
    def run_hash(self) -> str:
        """Identity of the run."""
        return _hash({**self.identity(), "seeds": self.seeds})

    @property
    def label(self) -> str:
        """Task and dataset: `1d-1`, `detection-shapes`."""
        return f"{self.task.name}-{self.task.dataset_name}"

    @property
    def slug(self) -> str:
        """The method's name where no `+` may stand."""
        return self.method.name.replace("+", "-plus")

    @property
    def run_id(self) -> str:
        return f"{self.label}-{self.slug}-{self.run_hash}"

    @property
    def run_dir(self) -> Path:
        return Path(self.launch.results_dir) / "runs" / self.run_id

    def build_method(self) -> Method:
        """The method with its hyper-parameters."""
        cls = METHODS[self.method.name]
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            if field.name == "proposal":
                assert self.proposal.stds is not None and self.proposal.shared is not None
                values["proposal"] = GaussianMixture(self.proposal.stds, self.proposal.shared)
            else:
                section, key = _METHOD_FIELDS[field.name].split(".")
                values[field.name] = getattr(getattr(self, section), key)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `conf/` composes it; `from_dict` reads it back."""
        sections = ("task", "method", "proposal", "noise", "trainer", "logger")
        data = {name: getattr(self, name).model_dump(mode="json") for name in sections}
        sweep = self.sweep.model_dump(mode="json") if self.sweep else None
        return {**data, "seeds": list(self.seeds), **self.launch.model_dump(mode="json"), "sweep": sweep}

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> RunConfig:
        """Validates plain data.

        Raises:
            UserError: with every fault in one sentence.
        """
        return _validate(raw)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    @staticmethod
    def from_yaml(text: str) -> RunConfig:
        """Reads `config.yaml` of a run directory; raises UserError where it is not one."""
        try:
            raw = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UserError(f"not a configuration: {_first_line(error)}") from None
        if not isinstance(raw, dict):
            raise UserError("not a configuration: a mapping of settings is expected")
        return _validate(raw)

    def replace(self, **launch: Any) -> RunConfig:
        """The same run carried out otherwise: `replace(device="cuda:1", results_dir=...)`."""
        return dataclasses.replace(self, launch=self.launch.model_copy(update=launch))


def _hash(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]


# ---------------------------------------------------------------------------------------------------- validation


def _validate(raw: dict[str, Any]) -> RunConfig:
    faults: list[str] = []
    task = raw.get("task")
    task_name = task.get("name") if isinstance(task, dict) else None
    if not isinstance(task_name, str) or task_name not in TASKS:
        raise UserError(f"task={task_name!r} is not known{_did_you_mean(str(task_name), TASKS)}")
    task_model, trainer_model = TASKS[task_name]
    models: dict[str, type[Section]] = {
        "task": task_model,
        "method": MethodConfig,
        "proposal": ProposalConfig,
        "noise": NoiseConfig,
        "trainer": trainer_model,
        "logger": LoggerConfig,
    }
    root = set(Launch.model_fields) | {"seeds", "sweep"}
    known = sorted(root | {key for section, model in models.items() for key in _keys(model, section)})
    faults += [
        f"{key} is not a setting{_did_you_mean(str(key), known)}" for key in raw if key not in root | set(models)
    ]
    other = _other_task(task_name, raw.get("trainer"))
    if other:
        raise UserError(
            f"trainer={other} contradicts task={task_name}; leave trainer out, or choose trainer={task_name}"
        )

    parts: dict[str, Any] = {}
    for name, model in models.items():
        parts[name] = _section(model, raw.get(name), f"{name}.", known, faults)
    launch = {key: raw[key] for key in Launch.model_fields if key in raw}
    parts["launch"] = _section(Launch, launch, "", known, faults)
    parts["sweep"] = _section(SweepConfig, raw["sweep"], "sweep.", known, faults) if raw.get("sweep") else None
    parts["seeds"] = _seeds(raw.get("seeds"), faults)
    if not faults:
        faults += _contradictions(parts["method"], parts["proposal"], parts["noise"], parts["logger"])
    if faults:
        raise UserError("; ".join(faults))
    return RunConfig(**parts)


def _keys(model: Any, prefix: str) -> Iterator[str]:
    """Every setting of a section, with those of the sections in it."""
    for name, field in model.model_fields.items():
        inner = [part for part in _parts(field.annotation) if isinstance(part, type) and issubclass(part, Section)]
        yield from (key for part in inner for key in _keys(part, f"{prefix}.{name}"))
        if not inner:
            yield f"{prefix}.{name}"


def _parts(annotation: Any) -> Iterator[Any]:
    """A type, and those that a union or an Annotated is made of."""
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def _other_task(task: str, trainer: Any) -> str | None:
    """The task whose trainer it is, where that is not the task at hand."""
    if not isinstance(trainer, dict) or set(trainer) & set(TASKS[task][1].model_fields) == set(trainer):
        return None
    return next(
        (name for name, (_, model) in TASKS.items() if name != task and set(trainer) == set(model.model_fields)), None
    )


def _section(model: type[Section], raw: Any, prefix: str, known: Sequence[str], faults: list[str]) -> Any:
    if not isinstance(raw, dict):
        faults.append(f"{prefix.rstrip('.')}={_show(raw)} is not a group of settings")
        return None
    try:
        return model.model_validate(_tuples(raw))
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            key = prefix + _key(fault["loc"], raw)
            if fault["type"] in ("extra_forbidden", "invalid_key"):
                faults.append(f"{key} is not a setting{_did_you_mean(key, known)}")
            elif fault["type"] == "missing":
                faults.append(f"{key} is missing")
            else:
                faults.append(f"{key}={_show(fault['input'])} is not allowed: {_allowed(model, fault)}")
        return None


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


def _fields(model: Any, loc: Sequence[str | int]) -> Iterator[Any]:
    """The fields on the way to a fault's place."""
    models = [model]
    for part in loc:
        fields = [m.model_fields[part] for m in models if part in m.model_fields]
        if fields:
            yield from fields
            types = [part for field in fields for part in _parts(field.annotation)]
            models = [part for part in types if isinstance(part, type) and issubclass(part, Section)]


def _seeds(raw: Any, faults: list[str]) -> tuple[int, ...]:
    seeds = range(raw) if isinstance(raw, int) and not isinstance(raw, bool) and 0 < raw <= 100_000 else raw
    if isinstance(seeds, list | tuple | range) and len(seeds) > 0:
        numbers = tuple(seeds)
        whole = all(isinstance(seed, int) and not isinstance(seed, bool) for seed in numbers)
        if whole and len(set(numbers)) == len(numbers) and all(0 <= seed < 2**31 for seed in numbers):
            return numbers
    faults.append(
        f"seeds={_show(raw)} is not allowed: give a number of seeds from 1 to 100000, or a list of different "
        "seeds, each from 0 to 2147483647, such as '[3,7]'"
    )
    return ()


def _contradictions(
    method: MethodConfig, proposal: ProposalConfig, noise: NoiseConfig, logger: LoggerConfig
) -> list[str]:
    """Settings that the method needs and lacks, or has and does not use; and a logger's."""
    needed = {_METHOD_FIELDS[field.name] for field in dataclasses.fields(METHODS[method.name])}  # type: ignore[arg-type]
    if "proposal.stds" in needed:
        needed.add("proposal.shared")
    sections = {"method": method, "proposal": proposal, "noise": noise}
    given = {
        f"{section}.{key}": value
        for section, model in sections.items()
        for key, value in model.model_dump().items()
        if value is not None and key != "name"
    }
    faults = [f"method={method.name} needs {key}" for key in sorted(needed - set(given))]
    faults += [
        f"{key}={_show(given[key])} contradicts method={method.name}, which has no such setting"
        for key in sorted(set(given) - needed)
    ]
    stds = proposal.stds
    if stds is not None and not (0 < len(stds) <= 1000 and all(0 < std <= 1e6 for std in stds)):
        faults.append(
            f"proposal.stds={_show(list(stds))} is not allowed: give one standard deviation > 0 per component, "
            "such as [0.1,0.8]"
        )
    unused = logger.model_dump(exclude={"name"}, exclude_defaults=True) if logger.name != "wandb" else {}
    faults += [
        f"logger.{key}={_show(value)} contradicts logger={logger.name}, which has no such setting; choose logger=wandb"
        for key, value in unused.items()
    ]
    return faults


def _tuples(value: Any) -> Any:
    """Lists as tuples, which is what the frozen models hold."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _show(value: Any) -> str:
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 80 else text[:77] + "..."


def _did_you_mean(word: str, known: Sequence[str] | dict[str, Any]) -> str:
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    if not close:  # a key may be right in its last part: trainer.sigma for noise.sigma
        tail = word.rsplit(".", 1)[-1]
        close = [key for key in known if key.rsplit(".", 1)[-1] == tail][:3]
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; choose from {', '.join(known)}" if len(known) <= 20 else ""


# --------------------------------------------------------------------------------------------- Hydra composition


def share_dir() -> Path:
    """The folder that holds conf/ and sweeps/: inside an installed wheel, or the top of the repository."""
    package = Path(__file__).resolve().parent
    return package / "share" if (package / "share" / "conf").is_dir() else package.parent


def config_dir() -> Path:
    """Absolute, because Hydra resolves relative ones against `__main__`."""
    return share_dir() / "conf"


def search_path_override() -> str:
    """Hydra's search path: the project's `sweeps/`, after the user's own in the working directory."""
    roots = [Path.cwd(), share_dir()] if (Path.cwd() / "sweeps").is_dir() else [share_dir()]
    return "hydra.searchpath=[" + ",".join(f'"file://{root}"' for root in dict.fromkeys(roots)) + "]"


@lru_cache(maxsize=1)
def _settings() -> dict[str, Any]:
    return yaml.safe_load((config_dir() / "settings.yaml").read_text())


def setting(task: str, dataset: str, method: str, key: str) -> Any:
    """The published value of `key` (such as `proposal.stds`), or None where the method has none."""
    for group in (f"{task}-{dataset}", task):
        for name in (method, "all"):
            values = _settings().get(group, {}).get(name, {})
            if key in values:
                return values[key]
    return None


def _resolve_setting(key: str, *, _root_: DictConfig) -> Any:
    task = _root_.task
    dataset = task.get("dataset") if "dataset" in task else task.get("data", {}).get("name")
    return setting(str(task.get("name")), str(dataset), str(_root_.method.get("name")), key)


def register_resolvers() -> None:
    """Makes `${setting:…}` known to OmegaConf."""
    OmegaConf.register_new_resolver("setting", _resolve_setting, replace=True, use_cache=False)


@contextmanager
def _config_loader() -> Iterator[ConfigLoader]:
    register_resolvers()
    outer = GlobalHydra.instance().hydra  # one may be at work already: a job of a multirun, say
    GlobalHydra.instance().hydra = None
    try:
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
            yield GlobalHydra.instance().config_loader()
    finally:
        GlobalHydra.instance().hydra = outer


def from_omegaconf(cfg: DictConfig) -> RunConfig:
    """Validates what Hydra composed."""
    try:
        raw = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        key = str(error.full_key or "the configuration")
        raise UserError(f"{key} cannot be resolved: {_first_line(error)}") from None
    assert isinstance(raw, dict)
    return _validate({str(key): value for key, value in raw.items() if key != "hydra"})


def for_task(overrides: Sequence[str]) -> list[str]:
    """The overrides, with a preset that has a file per task (a folder of conf/experiment) resolved to that file.

    `+experiment=smoke` becomes `+experiment=smoke/1d`: Hydra resolves no group choice inside a preset by itself.
    """
    tasks = [text.removeprefix("task=") for text in overrides if text.startswith("task=")]
    task = tasks[-1] if tasks else "1d"
    folder = config_dir() / "experiment"
    resolved = []
    for text in overrides:
        key, _, name = text.partition("=")
        by_task = key == "+experiment" and re.fullmatch(r"[\w-]+", name) and (folder / name).is_dir()
        resolved.append(f"{text}/{task}" if by_task else text)
    return resolved


def compose(overrides: Sequence[str]) -> RunConfig:
    """Composes and validates one run from command-line overrides such as `["task=1d", "method=nce+"]`.

    Raises:
        UserError: one sentence that names the key, the value and what is allowed.
    """
    with composer() as compose_one:
        return compose_one(for_task(overrides))


@contextmanager
def composer() -> Iterator[Callable[[Sequence[str]], RunConfig]]:
    """A function that does what `compose` does, for many: those that choose the same groups share one composition.

    Hydra takes a tenth of a second for each, and a sweep may have thousands.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    shared: dict[tuple[str, ...], DictConfig] = {}
    with _config_loader() as loader:

        def compose_one(overrides: Sequence[str]) -> RunConfig:
            parsed = _parse(loader, overrides)
            for override in parsed:
                if override.is_sweep_override():
                    text = f"{_show(override.input_line)} gives several values: add -m for a run of each"
                    raise UserError(f"{text}, or put a text that holds a comma in quotes")
            _check_groups(loader, parsed)
            grouped = [o for o in parsed if _is_group(loader, o)]
            values = [o for o in parsed if not _is_group(loader, o)]
            groups = tuple(o.input_line or "" for o in grouped)
            with _explained():
                if groups not in shared:
                    shared[groups] = hydra.compose("config", [*groups, search_path_override()])
                cfg = shared[groups].copy()
                ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
            return from_omegaconf(cfg)

        yield compose_one


@contextmanager
def _explained() -> Iterator[None]:
    """Whatever goes wrong inside Hydra is the fault of what it was given: conf/ itself composes."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(explain(error)) from None


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """The jobs of a multirun: every combination of `a,b`, `range(…)`, `glob(…)` and of a sweep file's grid.

    Raises:
        UserError: where an override cannot be parsed, names no known group option, or the grid is empty.
    """
    # The sweeper's own expansion, so that `--multirun` and this project's submit agree on what the jobs are.
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    overrides = for_task(overrides)
    with _config_loader() as loader:
        parsed = _parse(loader, overrides)
        fixed = [o.input_line for o in parsed if o.input_line and not o.is_sweep_override()]
        _check_groups(loader, parsed)
        with _explained():
            cfg = hydra.compose("config", [*fixed, search_path_override()], return_hydra_config=True)
        params = cfg.hydra.sweeper.get("params") or {}
        grid = [f"{key}={_grid_text(value)}" for key, value in params.items()]
        given = {o.key_or_group for o in parsed}
        # What is said on the command line wins over the sweep file.
        grid = [line for line in grid if line.split("=", 1)[0].lstrip("+~") not in given]
        swept = _parse(loader, [*grid, *overrides])
        _check_size(swept)
        with _explained():
            jobs = [job for batch in BasicSweeper.split_arguments(swept, None) for job in batch]
        if not jobs:
            raise UserError("the grid is empty: give each swept key at least one value, such as method=nce,nce+")
        for job in jobs:
            _check_groups(loader, _parse(loader, job))
        return [list(job) for job in jobs]


def _check_size(overrides: Sequence[Override]) -> None:
    """Refuses a grid that no memory holds, before it is listed."""
    jobs = 1.0
    for override in overrides:
        value = override.value()
        if isinstance(value, RangeSweep):
            if not value.step:
                raise UserError(f"{override.input_line} has a step of 0; give another")
            steps = ((value.stop or 0) - (value.start or 0)) / value.step
            jobs *= max(math.ceil(steps), 1) if math.isfinite(steps) else math.inf
        elif isinstance(value, ChoiceSweep):
            jobs *= max(len(value.list), 1)
        if jobs > MOST_JOBS:
            raise UserError(f"{override.input_line} makes a grid of more than {MOST_JOBS} jobs; give a smaller one")


def expand_and_compose(overrides: Sequence[str]) -> list[RunConfig]:
    """Every job of a multirun, validated: what can be seen to be wrong is refused before the first one starts."""
    return compose_all(expand(overrides))


def compose_all(jobs: Sequence[Sequence[str]]) -> list[RunConfig]:
    """Composes and validates jobs, each as `compose` would."""
    with composer() as compose_one:
        return [compose_one(job) for job in jobs]


def _is_group(loader: ConfigLoader, override: Override) -> bool:
    group = override.key_or_group
    return group == "sweeps" or group.startswith("hydra") or bool(_options(loader, group))


def _options(loader: ConfigLoader, group: str) -> list[str]:
    """Options of a group; asked of the repository itself, for the loader makes a copy of all it knows at each call."""
    return loader.repository.get_group_options(group, ObjectType.CONFIG)  # type: ignore[attr-defined]


def _grid_text(value: Any) -> str:
    return ",".join(str(item) for item in value) if isinstance(value, list | tuple) else str(value)


def _parse(loader: ConfigLoader, overrides: Sequence[str]) -> list[Override]:
    parser = OverridesParser.create(config_loader=loader)
    parsed = []
    for text in overrides:
        try:
            parsed += parser.parse_overrides([text])
        except Exception as error:  # the grammar's own, and what very long numbers and deep brackets raise in Python
            lines = [line for line in str(error).splitlines() if not line.startswith(("Error parsing", "See https"))]
            reason = (lines or [type(error).__name__])[0][:80]
            raise UserError(f"{_show(text)} cannot be read ({reason}); give key=value, such as 'seeds=[3,7]'") from None
        if not parsed[-1].key_or_group:
            raise UserError(f"{_show(text)} names no setting; give key=value, such as 'seeds=[3,7]'")
    return parsed


def _check_groups(loader: ConfigLoader, overrides: Sequence[Override]) -> None:
    """Refuses an unknown option of a group, with the closest names."""
    for override in overrides:
        group, value = override.key_or_group, override.value()
        if group.startswith("hydra") or not _is_group(loader, override) or override.is_sweep_override():
            continue
        options = known_sweeps() if group == "sweeps" else _options(loader, group)
        if group == "experiment":
            options = known_experiments()
            value = str(value).split("/")[0]
        choose = f"choose from {', '.join(options)}"
        if group in ("experiment", "sweeps") and not override.is_add():
            raise UserError(f"{group} is a preset that is added: give +{group}=NAME; {choose}")
        if override.is_delete():
            raise UserError(f"{group} cannot be left out; {choose}")
        if not isinstance(value, str | int | float):
            raise UserError(f"{group}={_show(value)} is not allowed; {choose}")
        if str(value) not in options:
            raise UserError(f"{group}={_show(value)[1:-1]} is not known{_did_you_mean(str(value), options)}")


def known_experiments() -> list[str]:
    """Names of the presets, which are files, or folders with a file per task."""
    return sorted(path.stem for path in (config_dir() / "experiment").iterdir())


def known_sweeps() -> list[str]:
    """Names of the sweep files: the working directory's own, and the project's."""
    folders = (Path.cwd() / "sweeps", share_dir() / "sweeps")
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def explain(error: Exception) -> str:
    """One sentence for what Hydra found wrong."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = _first_line(error)
    match = re.search(
        r"Could not (?:override|append to config|delete).*?'([^']+)'|Key '([^']+)' is not in struct", text
    )
    if match:
        key = (match.group(1) or match.group(2)).lstrip("+~").partition("=")[0]
        sections = {"method": MethodConfig, "proposal": ProposalConfig, "noise": NoiseConfig, "logger": LoggerConfig}
        keys = {key for section, model in sections.items() for key in _keys(model, section)}
        for task, trainer in TASKS.values():
            keys |= {*_keys(task, "task"), *_keys(trainer, "trainer")}
        keys |= set(Launch.model_fields) | {"seeds"}
        if key in keys:
            return f"{key} is a setting, but not of what is chosen here (task, method, logger); leave it out"
        return f"{key} is not a setting{_did_you_mean(key, sorted(keys))}"
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return f"the overrides cannot be put together ({type(error).__name__}: {text})"
    detail = _first_line(cause) if isinstance(cause, Exception) and cause is not error else ""
    return f"{text} {detail}".strip() if detail and detail not in text else text
