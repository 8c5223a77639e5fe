"""From command-line overrides to configurations: Hydra composes conf/ and sweeps/, one run or a whole grid.

Whatever Hydra finds wrong ends in one UserError sentence, as a value that `config` refuses does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

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

from ebmbench.config import SECTIONS, Launch, RunConfig, setting_keys
from ebmbench.errors import UserError, did_you_mean, first_line, shown
from ebmbench.files import share_dir

MOST_JOBS = 100_000
"""In one sweep."""


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
    value = setting(str(task.get("name")), str(dataset), str(_root_.method.get("name")), key)
    return OmegaConf.create(value) if isinstance(value, list) else value  # --cfg job shows no plain list


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
        raise UserError(f"{key} cannot be resolved: {first_line(error)}") from None
    assert isinstance(raw, dict)
    return RunConfig.from_dict({str(key): value for key, value in raw.items() if key != "hydra"})


def for_task(overrides: Sequence[str]) -> list[str]:
    """The overrides, with a preset that has a file per task (a folder of conf/experiment) resolved to that file.

    `+experiment=smoke` becomes `+experiment=smoke/1d`: Hydra resolves no group choice inside a preset by itself.
    """
    tasks = [_task_of_sweep(text.removeprefix("+sweeps=")) for text in overrides if text.startswith("+sweeps=")]
    tasks += [text.removeprefix("task=") for text in overrides if text.startswith("task=")]
    task = tasks[-1] if tasks else "1d"
    folder = config_dir() / "experiment"
    resolved = []
    for text in overrides:
        key, _, name = text.partition("=")
        by_task = key == "+experiment" and re.fullmatch(r"[\w-]+", name) and (folder / name).is_dir()
        resolved.append(f"{text}/{task}" if by_task else text)
    return resolved


def _task_of_sweep(name: str) -> str:
    """The task that a sweep's file chooses; an unknown sweep is refused later, with the known ones."""
    for path in (folder / f"{name}.yaml" for folder in _sweep_folders()):
        if path.is_file():
            chosen = [entry for entry in (yaml.safe_load(path.read_text()) or {}).get("defaults", []) if entry]
            return next((entry["override /task"] for entry in chosen if "override /task" in entry), "1d")
    return "1d"


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
                    text = f"{shown(override.input_line)} gives several values: add -m for a run of each"
                    raise UserError(f"{text}, or put a text that holds a comma in quotes")
            _check_groups(loader, parsed)
            grouped = [o for o in parsed if _is_group(loader, o)]
            values = [o for o in parsed if not _is_group(loader, o)]
            groups = tuple(o.input_line or "" for o in grouped)
            with explained():
                if groups not in shared:
                    shared[groups] = hydra.compose("config", [*groups, search_path_override()])
                cfg = shared[groups].copy()
                ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
            return from_omegaconf(cfg)

        yield compose_one


@contextmanager
def explained() -> Iterator[None]:
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
        with explained():
            cfg = hydra.compose("config", [*fixed, search_path_override()], return_hydra_config=True)
        params = cfg.hydra.sweeper.get("params") or {}
        grid = [f"{key}={_grid_text(value)}" for key, value in params.items()]
        given = {o.key_or_group for o in parsed}
        # What is said on the command line wins over the sweep file.
        grid = [line for line in grid if line.split("=", 1)[0].lstrip("+~") not in given]
        swept = _parse(loader, [*grid, *overrides])
        _check_size(swept)
        with explained():
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
            raise UserError(f"{shown(text)} cannot be read ({reason}); give key=value, such as 'seeds=[3,7]'") from None
        if not parsed[-1].key_or_group:
            raise UserError(f"{shown(text)} names no setting; give key=value, such as 'seeds=[3,7]'")
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
            raise UserError(f"{group}={shown(value)} is not allowed; {choose}")
        if str(value) not in options:
            raise UserError(f"{group}={shown(str(value))[1:-1]} is not known{did_you_mean(str(value), options)}")


def known_experiments() -> list[str]:
    """Names of the presets, which are files, or folders with a file per task."""
    return sorted(path.stem for path in (config_dir() / "experiment").iterdir())


def known_sweeps() -> list[str]:
    """Names of the sweep files: the working directory's own, and the project's."""
    return sorted({path.stem for folder in _sweep_folders() for path in folder.glob("*.yaml")})


def _sweep_folders() -> tuple[Path, Path]:
    return Path.cwd() / "sweeps", share_dir() / "sweeps"


def explain(error: Exception) -> str:
    """One sentence for what Hydra found wrong."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = first_line(error)
    match = re.search(
        r"Could not (?:override|append to config|delete).*?'([^']+)'|Key '([^']+)' is not in struct", text
    )
    if match:
        key = (match.group(1) or match.group(2)).lstrip("+~").partition("=")[0]
        keys = {key for name, models in SECTIONS.items() for model in models for key in setting_keys(model, name)}
        keys |= set(Launch.model_fields) | {"seeds"}
        if key in keys:
            return f"{key} is a setting, but not of what is chosen here (task, method, logger); leave it out"
        return f"{key} is not a setting{did_you_mean(key, sorted(keys))}"
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return f"the overrides cannot be put together ({type(error).__name__}: {text})"
    detail = first_line(cause) if isinstance(cause, Exception) and cause is not error else ""
    return f"{text} {detail}".strip() if detail and detail not in text else text
