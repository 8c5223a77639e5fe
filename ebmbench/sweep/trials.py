"""Lists of trials that all methods of a sweep share (`sweep.tune`).

The value of a setting in a trial is a function of the search's seed, the draw of the data, the repeat, the trial and
the setting's name alone. So every method is tried with the same learning rates: a ranking then compares methods, and
not the luck of their searches. What only one method has, such as β, stands beside them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ebmbench.config.run import RunConfig, TuneConfig
from ebmbench.core.errors import UserError, did_you_mean, shown
from ebmbench.report import settings
from ebmbench.report.search import REPEAT, TRIAL
from ebmbench.tasks.base import Task

FLOOR_LIMIT, FLOOR_SHARE = 0.05, 1.5
"""A setting is not tried whose floor is more nats than this, and more than this times the floor of the published one.

The floor is how far a method's own optimum is from the true density. Some methods need one: dsm is best where its floor
is 0.3 to 0.4 nats, since less noise makes its gradient noisier.
"""


def listed(
    lines: Sequence[Sequence[str]], configs: Sequence[RunConfig], tune: TuneConfig, fixed: Sequence[str] = ()
) -> tuple[list[list[str]], list[dict[str, int]]]:
    """Returns the words of each trial of these jobs, and its repeat and number.

    Args:
        lines: the words of each job, and `configs` its settings without any trial.
        fixed: words that hold for all jobs. What they and a line set is not searched.

    Raises:
        UserError: `sweep.tune.space` names a setting that no job has, or has values that are none, or a task has no
            metric of validation data.
    """
    _check(configs, tune)
    words: list[list[str]] = []
    places: list[dict[str, int]] = []
    spaces = [_without(space(config, tune.space), [*fixed, *line]) for line, config in zip(lines, configs, strict=True)]
    for repeat in range(tune.repeats):
        for trial in range(tune.trials):
            for line, config, searched in zip(lines, configs, spaces, strict=True):
                name = f"{tune.seed}/{draw_of(config)}/{repeat}/{trial}"
                values = (f"{key}={_value(searched[key], _uniform(f'{name}/{key}'))}" for key in sorted(searched))
                words.append([*line, *values])
                places.append({REPEAT: repeat, TRIAL: trial})
    return words, places


def draw_of(config: RunConfig) -> str:
    """Returns which draw of the data a run is on: the values of the settings that draw it."""
    return "/".join(str(values.get(key)) for values in [settings.flat(config.to_dict())] for key in _draws(config))


def _draws(config: RunConfig) -> tuple[str, ...]:
    return config.task.draw_settings


def space(config: RunConfig, asked: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns what is searched for a run: by dotted key `(low, high)`, on a log scale, or a list of choices.

    It is what the classes declare, and what the task declares goes before what the others do, for it knows the scale of
    its targets; `asked` goes before all, and takes a setting out where it is None. A range ends where the method's own
    optimum is too far from the true density, if the task knows that one.
    """
    declared: dict[str, Any] = {}
    trainer = [config.trainer] if config.task.trains_in_steps else []
    for part in (*config.components[1:], *trainer, config.task):
        declared |= part.tuning
    there = settings.flat(config.to_dict())
    declared |= {key: _values(key, values) for key, values in (asked or {}).items() if key in there}
    declared = {key: values for key, values in declared.items() if values is not None}
    declared = {key: values for key, values in declared.items() if config.proposal or not key.startswith("proposal.")}
    return {key: _cut(config, key, values) for key, values in declared.items()}


def _check(configs: Sequence[RunConfig], tune: TuneConfig) -> None:
    known = {key for config in configs for key in settings.flat(config.to_dict())}
    for key, values in tune.space.items():
        if key not in known:
            raise UserError(f"sweep.tune.space has {key}, a setting that no job has{did_you_mean(key, sorted(known))}")
        _values(key, values)
    for task in {type(config.task): config.task for config in configs}.values():
        if task.metric(task.selection) is None:
            raise UserError(f"task={task.name} cannot be tuned: it names no metric of its validation split")


def _values(key: str, values: Any) -> tuple[float, float] | list[Any] | None:
    """Returns the values of a setting as a class declares them."""
    if values is None:
        return None
    if isinstance(values, Mapping) and set(values) == {"low", "high"}:
        low, high = values["low"], values["high"]
        if all(isinstance(end, int | float) for end in (low, high)) and 0 < low < high:
            return float(low), float(high)
    elif isinstance(values, list | tuple) and values:
        return list(values)
    wanted = "give a list of choices, {low: 0.001, high: 0.1} with 0 < low < high, or null for no search"
    raise UserError(f"sweep.tune.space.{key}={shown(values)} is not allowed: {wanted}")


def _cut(config: RunConfig, key: str, values: Any) -> Any:
    """Ends a range of the method where its floor is bad; a range that is bad throughout stays."""
    section, _, name = key.partition(".")
    if section != "method" or not isinstance(values, tuple):
        return values

    def floor(**changed: float) -> float | None:
        return config.task.floor(config.method.model_copy(update=changed).blur(config.proposal))

    published = floor()
    if published is None:
        return values
    limit = max(FLOOR_LIMIT, FLOOR_SHARE * published)

    def is_bad(value: float) -> bool:
        return (floor(**{name: value}) or 0.0) > limit

    low, high = values
    if not is_bad(high) or is_bad(low):
        return values
    good, bad = low, high
    while bad / good > 1.02:
        middle = (good * bad) ** 0.5
        good, bad = (good, middle) if is_bad(middle) else (middle, bad)
    return low, good


def _without(searched: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Returns a space without what is set already."""
    given = {word.lstrip("+~").partition("=")[0] for word in words}
    return {key: values for key, values in searched.items() if key not in given}


def _uniform(name: str) -> float:
    """Returns a number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.blake2s(name.encode(), digest_size=6).digest(), "little") / 2**48


def _value(values: Any, uniform: float) -> str:
    """Returns a value of a range, to three digits, or one of some choices, as a word of the command line."""
    if isinstance(values, tuple):
        low, high = values
        return f"{float(f'{low * (high / low) ** uniform:.3g}')!r}"
    value = values[int(uniform * len(values))]
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def with_own_seeds(configs: Sequence[RunConfig], places: Sequence[Mapping[str, int]] = ()) -> list[tuple[int, ...]]:
    """Returns the seeds of each run: where the data are drawn several times, other ones at each draw and repeat.

    Seeds that all draws share would make their results dependent: ten draws with the same five seeds tell little more
    than five seeds do. A run that asks for n seeds, 0 to n − 1, gets them at the first draw, n to 2 n − 1 at the
    second, and so on. Seeds that the user lists one by one stay.
    """
    units: dict[type[Task], dict[tuple[str, int], int]] = {}
    seeds = []
    for index, config in enumerate(configs):
        unit = draw_of(config), places[index][REPEAT] if places else 0
        known = units.setdefault(type(config.task), {})
        number, count = known.setdefault(unit, len(known)), len(config.seeds)
        counted_off = config.seeds == tuple(range(count))
        seeds.append(tuple(range(number * count, (number + 1) * count)) if counted_off else config.seeds)
    return seeds
