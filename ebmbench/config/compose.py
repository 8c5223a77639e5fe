"""From command-line overrides to configurations: Hydra composes YAML and components, one run or a whole grid.

Whatever Hydra finds wrong ends in one UserError sentence.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, cast

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, RangeSweep
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ebmbench.config import folders, own_files, store
from ebmbench.config.run import RunConfig, all_keys, setting_keys
from ebmbench.core import plugins, registry
from ebmbench.core.errors import UserError, did_you_mean, first_line, shown
from ebmbench.core.settings import Component, choices

MOST_JOBS = 100_000
"""In one sweep."""
PRESETS = ("experiment", "sweeps")
"""Groups whose options are added: `+experiment=smoke`."""


def search_path_override() -> str:
    """Returns Hydra's search path: where it looks beside the project's conf/."""
    roots = [*folders.config_dirs()[1:], *(folder.parent for folder in folders.sweep_dirs())]
    return "hydra.searchpath=[" + ",".join(f'"file://{root}"' for root in dict.fromkeys(roots)) + "]"


def prepare(overrides: Sequence[str]) -> None:
    """Loads the plug-ins that the overrides or a configuration file name, and makes Hydra know all components.

    Raises:
        UserError: a plug-in cannot be loaded.
    """
    named = [text.partition("=")[2] for text in overrides if text.lstrip("+").startswith("plugins=")]
    folders.check_files()
    plugins.load(_listed(named[-1]) if named else [])
    own_files.check()
    store.store()


def _listed(text: str) -> list[str]:
    """Returns the words of `[a,b]`, or the one word that is no list."""
    inner = text.strip().strip("'\"")
    words = inner[1:-1].split(",") if inner.startswith("[") and inner.endswith("]") else [inner]
    return [word.strip().strip("'\"") for word in words if word.strip()]


@contextmanager
def _hydra() -> Iterator[None]:
    outer = GlobalHydra.instance().hydra  # one may be at work already: a job of a multirun, say
    GlobalHydra.instance().hydra = None
    try:
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(folders.config_dir())):
            yield
    finally:
        GlobalHydra.instance().hydra = outer


def from_omegaconf(cfg: DictConfig, options: Mapping[str, Any]) -> RunConfig:
    """Validates what Hydra composed.

    Args:
        options: those that were chosen, by group.
    """
    try:
        raw = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    except OmegaConfBaseException as error:
        key = str(error.full_key or "the configuration")
        raise UserError(f"{key} cannot be resolved: {first_line(error)}") from None
    task, trainer = options.get("task"), options.get("trainer")
    if trainer in registry.known("task") and task in registry.known("task") and trainer != task:
        raise UserError(f"trainer={trainer} contradicts task={task}; leave trainer out, or choose trainer={task}")
    raw = {key: value for key, value in raw.items() if key != "hydra"}
    return RunConfig.from_dict({**raw, "data_option": options.get("data")})


def compose(overrides: Sequence[str]) -> RunConfig:
    """Composes and validates one run from command-line overrides such as `["task=1d", "method=nce+"]`.

    Raises:
        UserError: one sentence that names the key, the value and what is allowed.
    """
    with composer(overrides) as compose_one:
        return compose_one(overrides)


@lru_cache(maxsize=1024)
def untouched(
    task: str, data: str, method: str = "", proposal: str = "", network: str = "", model: str = ""
) -> Mapping[str, Any]:
    """Returns the settings of a run, as plain data, for which only these options were named; none if it is no run."""
    named = {"task": task, "data": data, "method": method, "proposal": proposal, "network": network}
    named["model"] = model
    try:
        return compose([f"{group}={name}" for group, name in named.items() if name]).to_dict()
    except UserError:
        return {}


@contextmanager
def composer(overrides: Sequence[str] = ()) -> Iterator[Callable[[Sequence[str]], RunConfig]]:
    """Gives a function that does what `compose` does, for many: those that choose the same groups share a composition.

    Hydra takes a tenth of a second for each, and a sweep may have thousands.

    Args:
        overrides: where the plug-ins of all of them are named.
    """
    prepare(overrides)
    shared: dict[tuple[str, ...], tuple[DictConfig, dict[str, Any]]] = {}
    with _hydra():

        def compose_one(overrides: Sequence[str]) -> RunConfig:
            parsed = _parse(overrides)
            for override in parsed:
                if override.is_sweep_override():
                    text = f"{shown(override.input_line)} gives several values: add -m for a run of each"
                    raise UserError(f"{text}, or put a text that holds a comma in quotes")
            _check_groups(parsed)
            grouped = [o for o in parsed if _is_group(o)]
            groups = tuple(o.input_line or "" for o in grouped)
            with explained():
                if groups not in shared:
                    shared[groups] = _composed(groups)
                cfg, options = shared[groups][0].copy(), shared[groups][1]
                for override in parsed:
                    if override not in grouped:
                        _apply(cfg, override)
            config = from_omegaconf(cfg, options)
            word = _method_word(config, config.method.name, parsed)
            return compose_one([*overrides, word]) if word else config

        yield compose_one


def completed(overrides: Sequence[str]) -> list[str]:
    """Returns overrides with the method that is used, where they name none and it is not that of the task."""
    prepare(overrides)
    words, parsed = list(overrides), _parse(overrides)
    if _names_method(parsed):
        return words
    config = compose(overrides)
    word = _method_word(config, config.task.default_method(), parsed)
    return [*words, word] if word == f"method={config.method.name}" else words


def _names_method(parsed: Sequence[Override]) -> bool:
    return any(override.key_or_group == "method" for override in parsed)


def _method_word(config: RunConfig, default: str, parsed: Sequence[Override]) -> str:
    """Returns the override that names the method for a run's data; empty if the default is it, or if one was named."""
    if config.task.model_name or _names_method(parsed):
        return ""
    used = config.task.method_for(default)
    return "" if used == default else f"method={used}"


def _composed(groups: Sequence[str]) -> tuple[DictConfig, dict[str, Any]]:
    """Returns the configuration of these options, its interpolations resolved; and the options by group."""
    cfg = hydra.compose("config", [*groups, search_path_override()], return_hydra_config=True)
    options = dict(cfg.hydra.runtime.choices)
    size = options.get("size")
    if size is not None and f"{size}/{options['task']}" not in _options("size"):
        raise UserError(f"size={size} has no settings for task={options['task']}")
    with open_dict(cfg):
        del cfg["hydra"]
    OmegaConf.resolve(cfg)
    return cfg, options


def _apply(cfg: DictConfig, override: Override) -> None:
    """Sets one value of a composed configuration, as Hydra does it."""
    key = override.key_or_group
    if override.is_delete():
        raise UserError(f"{override.input_line} deletes a setting, which cannot be; give {key} a value")
    if key.split(".")[0] == "noise":
        raise UserError(f"{key} is set by files alone; give method.{key[6:]} or proposal.{key[6:]}")
    try:
        ConfigLoaderImpl._apply_overrides_to_config([override], cfg)
    except ConfigCompositionException:
        raise UserError(_unknown(key, cfg)) from None


_PACKAGE = "a file of sweeps/ begins with the line '# @package _global_'"


def _unknown(key: str, cfg: DictConfig | None = None) -> str:
    """Says what is wrong with a key, given the composition that lacks it."""
    keys = all_keys()
    if key in keys:
        return f"{key} is a setting, but not of {_lacking(key, cfg)}"
    if "sweeps" in re.split(r"[@.]", key):
        return f"{key} is not a setting: {_PACKAGE}"
    return f"{key} is not a setting{did_you_mean(key, sorted(keys))}"


def _lacking(key: str, cfg: DictConfig | None) -> str:
    """Names the choice that lacks a key, given the composition, and says what to do: which choices have the key."""
    group = key.partition(".")[0]
    task = registry.known("task").get(str(OmegaConf.select(cfg, "task.name"))) if cfg is not None else None
    base = choices(task).get(group, Component) if task else Component
    part = OmegaConf.select(cfg, group) if cfg is not None else None
    model = OmegaConf.select(cfg, "model.name") if cfg is not None else None
    if group in ("method", "network", "proposal") and not part and model and cfg is not None and not cfg.method:
        return f"model={model}, which is no energy; leave it out"
    if group == "proposal" and part is None and cfg is not None:
        return f"method={cfg.method.name}, which draws from no proposal; leave it out"
    name = next(iter(part.values()), None) if isinstance(part, DictConfig) else None
    if name not in registry.known(group):
        return f"task={task.registered()}; leave it out" if task else "what is chosen; leave it out"
    having = [
        name for name, cls in registry.known(group).items() if issubclass(cls, base) and key in setting_keys(cls, group)
    ]
    choose = f", or choose {group}={', '.join(having)}" if having else ""
    return f"{group}={name}; leave it out{choose}"


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
    """Returns the jobs of a multirun: every combination of `a,b`, `range(…)`, `glob(…)` and of a sweep file's grid.

    Raises:
        UserError: an override cannot be parsed or names no known group option, or the grid is empty.
    """
    prepare(overrides)
    jobs: list[list[str]] = []
    for grid in grids(overrides):
        swept = _parse([*grid, *overrides])
        _check_size(swept)
        with explained():
            jobs += [list(job) for job in itertools.product(*map(_values, swept))]
    if not jobs:
        raise UserError("the grid is empty: give each swept key at least one value, such as method=nce,nce+")
    for line in {line for job in jobs for line in job}:
        _check_groups(_parse([line]))
    return jobs


def grids(overrides: Sequence[str]) -> list[list[str]]:
    """Returns the grids of a sweep file: that of `hydra.sweeper.params`, and one for each entry of `sweep.also`.

    Such an entry changes keys of the first grid, and `~key` leaves one out. What is said on the command line wins over
    the file: there is no grid of an entry with a key that is given.
    """
    parsed = _parse(overrides)
    fixed = [o.input_line for o in parsed if o.input_line and not o.is_sweep_override()]
    _check_groups(parsed)
    with explained(), _hydra():
        cfg = hydra.compose("config", [*fixed, search_path_override()], return_hydra_config=True)
    given = {o.key_or_group for o in parsed}
    first = _lines(cfg.hydra.sweeper.get("params") or {})
    found = [first]
    if "sweeps" in cfg:
        raise UserError(f"sweeps is not a setting: {_PACKAGE}")
    about = cfg.get("sweep") or {}
    if not isinstance(about, Mapping):
        raise UserError(f"sweep={shown(about)} is not allowed: give keys and values, such as name: mine")
    also = about.get("also") or ()
    if not isinstance(also, Sequence) or isinstance(also, str):
        raise UserError(f"sweep.also={shown(also)} is not allowed: give a list of keys and values")
    for entry in also:
        if not isinstance(entry, DictConfig):
            raise UserError(f"sweep.also has {shown(entry)}: give keys and values, such as method: ml-exact")
        more = _lines(entry)
        if not given & {key.lstrip("~") for key in more}:
            dropped = {key for key in more if key.startswith("~")}
            found.append({key: text for key, text in (first | more).items() if not {key, f"~{key}"} & dropped})
    return [[f"{key}={text}" for key, text in grid.items() if key.lstrip("+~") not in given] for grid in found]


def _lines(params: Mapping[Any, Any]) -> dict[str, str]:
    """Returns the values of swept keys as text, the keys written out."""
    return {str(key): _grid_text(value) for key, value in params.items()}


def _values(override: Override) -> list[str]:
    """Returns an override for each value of a swept key; the override itself where there is but one value."""
    value = override.value()
    if isinstance(value, Glob):
        return [f"{override.key_or_group}={name}" for name in value.filter(_options(override.key_or_group))]
    if not override.is_sweep_override():
        return [override.input_line or ""]
    if not override.is_discrete_sweep():
        raise UserError(f"{override.input_line} is no list of values; give key=a,b or key=range(1,5)")
    return [f"{override.get_key_element()}={text}" for text in override.sweep_string_iterator()]


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


def compose_all(jobs: Sequence[Sequence[str]], overrides: Sequence[str] = ()) -> list[RunConfig]:
    """Composes and validates jobs, each as `compose` would; `overrides` name their plug-ins."""
    with composer(overrides) as compose_one:
        return [compose_one(job) for job in jobs]


def _is_group(override: Override) -> bool:
    group = override.key_or_group
    return group == "sweeps" or group.startswith("hydra") or bool(_options(group))


def _options(group: str) -> list[str]:
    """Returns the options of a group: YAML files, folders of presets, and components."""
    if not re.fullmatch(r"[\w/]+", group):
        return []
    return sorted({*folders.options(group), *store.options(group)})


def _grid_text(value: Any) -> str:
    return ",".join(str(item) for item in value) if isinstance(value, list | tuple) else str(value)


_WANTED = "give key=value, such as 'seeds=[3,7]', and a text with signs in it in quotes: \"data.targets='y (m)'\""
_PLAIN = re.compile(r"([+\w./@-]+)=([^'\"\\\[\]{}(),$=]+)")


@lru_cache(maxsize=4096)
def _read(text: str) -> list[Override]:
    """Returns what an override says. A value with signs that Hydra's grammar lacks (`~/a.csv`, `price €`) is a text."""
    parser = OverridesParser.create()
    try:
        return parser.parse_overrides([text])
    except HydraException:
        plain = _PLAIN.fullmatch(text)
        if plain is None:
            raise
        return parser.parse_overrides([f"{plain[1]}='{plain[2].strip()}'"])


def _parse(overrides: Sequence[str]) -> list[Override]:
    parsed: list[Override] = []
    for text in overrides:
        try:
            parsed += _read(text)
        except Exception as error:  # the grammar's own, and what very long numbers and deep brackets raise in Python
            lines = [line for line in str(error).splitlines() if not line.startswith(("Error parsing", "See https"))]
            reason = (lines or [type(error).__name__])[0][:80]
            raise UserError(f"{shown(text)} cannot be read ({reason}); {_WANTED}") from None
        if not parsed[-1].key_or_group:
            raise UserError(f"{shown(text)} names no setting; give key=value, such as 'seeds=[3,7]'")
    return parsed


def _check_groups(overrides: Sequence[Override]) -> None:
    """Refuses an unknown option of a group, with the closest names."""
    for override in overrides:
        group, value = override.key_or_group, override.value()
        if group.startswith("hydra") or not _is_group(override) or override.is_sweep_override():
            continue
        options = _options(group)
        choose = f"choose from {', '.join(options)}"
        if group in PRESETS and not override.is_add():
            raise UserError(f"{group} is a preset that is added: give +{group}=NAME; {choose}")
        if override.is_delete():
            raise UserError(f"{group} cannot be left out; {choose}")
        if not isinstance(value, str | int | float):
            raise UserError(f"{group}={shown(value)} is not allowed; {choose}")
        name = str(value)
        if name not in options:
            raise UserError(f"{group}={shown(name)[1:-1]} is not known{did_you_mean(name, options)}")


def _missing(file: str) -> str:
    """Says that there is no such option, `task/1dd`, of its group; or no such group."""
    group, _, name = file.rpartition("/")
    options = _options(group)
    return f"{group}={name} is not known{did_you_mean(name, options)}" if options else _unknown(group or name)


def explain(error: Exception) -> str:
    """Returns one sentence for what Hydra found wrong."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing(error.missing_cfg_file)
    text = first_line(error)
    match = re.search(
        r"Could not (?:override|append to config|delete).*?'([^']+)'|Key '([^']+)' is not in struct", text
    )
    if match:
        return _unknown((match.group(1) or match.group(2)).lstrip("+~").partition("=")[0])
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return f"the overrides cannot be put together ({type(error).__name__}: {text})"
    detail = first_line(cause) if isinstance(cause, Exception) and cause is not error else ""
    return f"{text} {detail}".strip() if detail and detail not in text else text
