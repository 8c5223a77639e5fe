"""The configuration of a run, typed and range-checked; `composition` makes it from conf/ and the command line.

YAML holds the defaults, the Section models hold types and ranges, and the fields of a method's class say which
settings it needs. Whatever is wrong ends in one UserError sentence.
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
from typing import TYPE_CHECKING, Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError

from ebmbench.errors import UserError, did_you_mean, first_line, shown
from ebmbench.schema import Section
from ebmbench.tasks.detection.config import DetectionTask, DetectionTrainer
from ebmbench.tasks.one_d.config import OneDTask, OneDTrainer

if TYPE_CHECKING:
    from ebmbench.methods import Method

ALGORITHMS = 1
"""Version of what is computed: raised when the same settings would give other results."""

TASKS: dict[str, tuple[type[Section], type[Section]]] = {
    "1d": (OneDTask, OneDTrainer),
    "detection": (DetectionTask, DetectionTrainer),
}


class MethodConfig(Section):
    """See conf/method/."""

    name: Literal["ml-is", "ml-mcmc", "kld-is", "nce", "nce+", "sm", "dsm"]
    num_samples: int | None = Field(ge=1, le=1_048_576)
    langevin_steps: int | None = Field(ge=1, le=100_000)


METHODS: tuple[str, ...] = get_args(MethodConfig.model_fields["name"].annotation)
"""Names, as users type them."""


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


SECTIONS: dict[str, tuple[type[Section], ...]] = {
    "task": tuple(task for task, _ in TASKS.values()),
    "method": (MethodConfig,),
    "proposal": (ProposalConfig,),
    "noise": (NoiseConfig,),
    "trainer": tuple(trainer for _, trainer in TASKS.values()),
    "logger": (LoggerConfig,),
}
"""What a section of a run's settings may be; which it is follows from the task."""

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
        from ebmbench import methods  # PyTorch only where something is computed
        from ebmbench.proposals import GaussianMixture

        cls = methods.METHODS[self.method.name]
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
            raise UserError(f"not a configuration: {first_line(error)}") from None
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
        raise UserError(f"task={task_name!r} is not known{did_you_mean(str(task_name), TASKS)}")
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
    known = sorted(root | {key for section, model in models.items() for key in setting_keys(model, section)})
    faults += [f"{key} is not a setting{did_you_mean(str(key), known)}" for key in raw if key not in root | set(models)]
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


def setting_keys(model: Any, prefix: str) -> Iterator[str]:
    """Every setting of a section, with those of the sections in it."""
    for name, field in model.model_fields.items():
        inner = [part for part in _parts(field.annotation) if isinstance(part, type) and issubclass(part, Section)]
        yield from (key for part in inner for key in setting_keys(part, f"{prefix}.{name}"))
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
        faults.append(f"{prefix.rstrip('.')}={shown(raw)} is not a group of settings")
        return None
    try:
        return model.model_validate(_tuples(raw))
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            key = prefix + _key(fault["loc"], raw)
            if fault["type"] in ("extra_forbidden", "invalid_key"):
                faults.append(f"{key} is not a setting{did_you_mean(key, known)}")
            elif fault["type"] == "missing":
                faults.append(f"{key} is missing")
            else:
                faults.append(f"{key}={shown(fault['input'])} is not allowed: {_allowed(model, fault)}")
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
        f"seeds={shown(raw)} is not allowed: give a number of seeds from 1 to 100000, or a list of different "
        "seeds, each from 0 to 2147483647, such as '[3,7]'"
    )
    return ()


def _contradictions(
    method: MethodConfig, proposal: ProposalConfig, noise: NoiseConfig, logger: LoggerConfig
) -> list[str]:
    """Settings that the method needs and lacks, or has and does not use; and a logger's."""
    from ebmbench import methods

    fields = dataclasses.fields(methods.METHODS[method.name])  # type: ignore[arg-type]
    needed = {_METHOD_FIELDS[field.name] for field in fields}
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
        f"{key}={shown(given[key])} contradicts method={method.name}, which has no such setting"
        for key in sorted(set(given) - needed)
    ]
    stds = proposal.stds
    if stds is not None and not (0 < len(stds) <= 1000 and all(0 < std <= 1e6 for std in stds)):
        faults.append(
            f"proposal.stds={shown(list(stds))} is not allowed: give one standard deviation > 0 per component, "
            "such as [0.1,0.8]"
        )
    unused = logger.model_dump(exclude={"name"}, exclude_defaults=True) if logger.name != "wandb" else {}
    faults += [
        f"logger.{key}={shown(value)} contradicts logger={logger.name}, which has no such setting; choose logger=wandb"
        for key, value in unused.items()
    ]
    return faults


def _tuples(value: Any) -> Any:
    """Lists as tuples, which is what the frozen models hold."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
