"""The files of conf/: each is composed by Hydra for what its path says, and a label of data chooses none of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ebmbench.config.compose import compose, composer, untouched
from ebmbench.config.folders import config_dir, options, use_config_dir
from ebmbench.core import registry
from ebmbench.core.errors import UserError
from ebmbench.core.settings import choices
from ebmbench.report.settings import flat

CONF = config_dir()
FILES = sorted(
    str(path.relative_to(CONF)) for folder in ("noise", "recipe") for path in CONF.glob(f"{folder}/**/*.yaml")
)
TASKS = sorted(registry.known("task"))


def named(file: str) -> dict[str, str]:
    """Returns the options for which a file of noise/ or recipe/ is read."""
    kind, *place, name = Path(file).with_suffix("").parts
    if not place:
        return {"task": name, "method": "nce", "data": ""}
    task, *place = place
    data = "/".join([*place, name])
    if kind == "noise":
        return {"task": task, "method": name, "data": "/".join(place)}
    if data in options("data") or data in registry.known("data"):
        return {"task": task, "data": data, "method": "nce"}
    return {"task": task, "data": "/".join(place), "method": "nce", "network": name}


def leaves(value: Any, key: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {key: value}
    return {k: v for name, inner in value.items() for k, v in leaves(inner, f"{key}.{name}" if key else name).items()}


@pytest.mark.parametrize("file", FILES)
def test_every_value_of_a_file_reaches_the_run_that_its_path_names(file: str) -> None:
    raw = yaml.safe_load((CONF / file).read_text()) or {}
    raw.pop("defaults", None)
    settings = untouched(**named(file))
    assert settings, f"{file} is for no run"
    found = flat(settings)
    for key, value in leaves(raw).items():
        wanted = [f"method.{key[6:]}", f"proposal.{key[6:]}"] if key.startswith("noise.") else [key]
        values = [found[name] for name in wanted if name in found]
        later = f"noise/{named(file)['task']}/{named(file).get('data')}/{named(file)['method']}.yaml"
        if values and file != later and (CONF / later).exists():
            continue  # the file of the method on this source may say otherwise
        assert not values or values == [str(value).replace("'", '"') if isinstance(value, list) else value], (
            key,
            values,
        )


def labels() -> list[str]:
    """Returns every name that stands in a path of noise/ or recipe/ for data, whole and its last part."""
    places = {named(file).get("data", "") for file in FILES}
    return sorted({part for place in places for part in (place, place.rpartition("/")[2]) if part and "/" not in part})


@pytest.mark.parametrize("task", TASKS)
def test_a_label_changes_nothing_but_the_label(task: str) -> None:
    """Each label that is the name of a source, put on every other source; of sources of one class alone, on one."""
    base = choices(registry.known("task")[task]).get("data")
    sources = {
        (cls.__module__, *cls.__bases__): name
        for name, cls in registry.known("data").items()
        if base and issubclass(cls, base)
    }
    with composer() as compose_one:
        for source in sources.values():
            words = [f"task={task}", f"data={source}", "method=nce"]
            plain = flat(compose_one(words).to_dict())
            for label in labels() if "data.name" in plain else ():
                try:
                    named = flat(compose_one([*words, f"data.name={label}"]).to_dict())
                except UserError as error:  # made data may have one name alone
                    assert "data.name" in str(error)
                    continue
                assert {key for key in plain if plain[key] != named[key]} <= {"data.name"}
                assert plain.keys() == named.keys()


def test_the_set_that_is_read_chooses_its_settings() -> None:
    yacht, other = (compose(["task=regression", "method=nce", f"data={name}"]) for name in ("uci/yacht", "uci/energy"))
    assert (yacht.task.data.name, yacht.trainer.epochs, yacht.task.network.relative) == ("yacht", 2000, True)  # type: ignore[attr-defined]
    assert (other.task.data.name, other.trainer.epochs, other.task.network.relative) == ("energy", 400, False)  # type: ignore[attr-defined]
    assert compose(["task=regression", "method=nce", "data=uci/yacht", "trainer.epochs=3"]).trainer.epochs == 3  # type: ignore[attr-defined]


def test_another_task_s_data_is_one_sentence() -> None:
    with pytest.raises(UserError, match="data=table is for task=regression: choose that task"):
        compose(["task=1d", "data=table"])


def test_published_scales_are_those_of_the_mixture_alone() -> None:
    """A learned proposal takes none of them, and what is said on the command line wins."""
    learned = compose(["task=1d", "method=nce", "proposal=learned"])
    assert learned.method.num_samples == 1024 and learned.proposal.name == "learned"  # type: ignore[attr-defined, union-attr]
    said = compose(["task=1d", "method=nce", "proposal.stds=[0.3]"])
    assert said.proposal is not None and said.proposal.plain() == {"name": "mixture", "stds": [0.3], "shared": True}
    with pytest.raises(UserError, match="is set by files alone; give method"):
        compose(["task=1d", "method=nce", "noise.stds=[0.3]"])


def test_data_within_the_task_are_refused_in_a_file_too(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "old.yaml").write_text("# @package _global_\ntask: {data: {num_train: 8}}\n")
    use_config_dir(tmp_path)
    with pytest.raises(UserError, match="is not a setting; did you mean data"):
        compose(["task=1d", "method=nce", "+experiment=old"])


@pytest.mark.parametrize("file", sorted(str(path.relative_to(CONF)) for path in CONF.glob("size/*/*.yaml")))
def test_every_value_of_a_size_is_in_its_run(file: str) -> None:
    _, size, task = Path(file).with_suffix("").parts
    found = flat(compose([f"task={task}", f"+experiment={size}", "method=nce"]).to_dict())
    for key, value in leaves(yaml.safe_load((CONF / file).read_text())).items():
        assert found[key] == (str(value) if isinstance(value, list) else value), key


@pytest.mark.parametrize(
    ("words", "method"),
    [
        ("task=regression", "ml-exact"),
        ("task=regression data=laws data.dim=1", "ml-exact"),
        ("task=regression data=laws data.dim=2", "nce"),
        ("task=regression data=table data.path=a.csv data.targets=[a,b]", "nce"),
        ("task=regression data=laws data.dim=2 method=nce+", "nce+"),
        ("task=1d", "nce+"),
        ("task=detection", "nce+"),
    ],
)
def test_where_no_method_is_named_one_target_trains_by_the_exact_likelihood(words: str, method: str) -> None:
    assert compose(words.split()).method.name == method


@pytest.mark.parametrize(
    ("place", "text", "said"),
    [
        ("noise/1d/nce++.yaml", "num_samples: 3", r"the method 'nce\+\+' is not known; did you mean nce"),
        ("noise/1dd/my-nce.yaml", "num_samples: 3", "the task '1dd' is not known; did you mean 1d"),
        (
            "noise/1d/ssm.yaml",
            "num_sampels: 3",
            "'num_sampels' is no setting of a method or proposal",
        ),
        ("noise/1d/nce.yaml", "num_samples: 3", r"would not be used: the project has noise.1d.nce\.yaml"),
        ("recipe/1dd.yaml", "trainer: {epochs: 3}", "the task '1dd' is not known"),
        ("best/1d/law1/nce/mlpp.yaml", "trainer: {epochs: 3}", "the method 'mlpp' is not known"),
        ("best/model/regression/diabetes/mdnn.yaml", "trainer: {epochs: 3}", "the model 'mdnn' is not known"),
    ],
)
def test_a_file_of_settings_that_no_run_would_use_is_refused(
    place: str, text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path := tmp_path / "conf" / place).parent.mkdir(parents=True)
    path.write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        compose(["task=1d", "method=nce"])


def test_a_file_of_ones_own_sets_what_the_project_leaves_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path := tmp_path / "conf" / "recipe" / "1d.yaml").parent.mkdir(parents=True)
    path.write_text("# @package _global_\ntrainer: {epochs: 7}")
    monkeypatch.chdir(tmp_path)
    assert compose(["task=1d"]).trainer.epochs == 7
