"""The datasets that scikit-learn brings along: nothing to download."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from typing_extensions import override

from ebmbench.core.errors import UserError
from ebmbench.core.registry import register
from ebmbench.tasks.regression.data.base import NAME, NAME_TEXT, Arrays, Data, Split
from ebmbench.tasks.regression.data.splits import Splits
from ebmbench.tasks.regression.data.transforms import ArrayInput


class Builtin(Splits, Data):
    """A set of scikit-learn, split at random."""

    options: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Of scikit-learn's function that loads it."""

    @override
    def load(self) -> Split:
        try:
            from sklearn import datasets
        except ImportError:
            raise UserError(f"data={self.source} needs scikit-learn: pip install scikit-learn") from None
        bunch: Any = getattr(datasets, f"load_{self.source}")(**self.options)
        x, y = np.asarray(bunch.data, np.float32), np.asarray(bunch.target, np.float32).reshape(len(bunch.data), -1)
        features = [str(name) for name in bunch.feature_names]
        targets = [str(name) for name in getattr(bunch, "target_names", None) or ["y"]]
        train, val, test = (
            Arrays(torch.from_numpy(x[rows]), torch.from_numpy(y[rows]), rows=rows)
            for rows in self.parts(pd.DataFrame(np.hstack([y, x]), columns=targets + features), targets, len(x))
        )
        return Split(train, val, test, targets, features, ArrayInput((x.shape[1],), tuple(features)))


@register
class Diabetes(Builtin):
    """442 patients: 10 measurements, and how far diabetes has gone on a year later (Efron et al., 2004)."""

    source = "diabetes"
    name: str = Field("diabetes", pattern=NAME, description=NAME_TEXT)

    options = MappingProxyType({"scaled": False})  # in their own units, as a user would have them


@register
class Linnerud(Builtin):
    """20 men: three exercises, and three measurements of the body as targets."""

    source = "linnerud"
    name: str = Field("linnerud", pattern=NAME, description=NAME_TEXT)
