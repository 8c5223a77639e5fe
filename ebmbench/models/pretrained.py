"""Models that were trained on other tables, and take the training rows of this one as their context."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from typing_extensions import override

from ebmbench.core.errors import UserError
from ebmbench.models.outside import Fitted, Outside, Rows, as_columns


class Pretrained(Outside):
    """A model with weights in a file of the user's. A subclass defines `estimator` and `density`.

    A run keeps the rows, the seed and the hash of the weights. Its densities need the file, and nothing is downloaded.
    """

    weights: str | None = Field(None, description="file with the weights, which the model's authors publish")
    estimators: int = Field(8, ge=1, le=1024, description="orders and scalings of the columns that are averaged")

    @abstractmethod
    def estimator(self, weights: Path, seed: int) -> Any:
        """Returns the library's regressor, not fitted."""

    @override
    def fit(self, train: Rows, val: Rows, seed: int, report: Callable[[int, int], None]) -> Fitted:
        digest = np.frombuffer(bytes.fromhex(_sha256(self._file())), np.uint8)
        return {"x": as_columns(train.x, np.float32), "y": train.y, "seed": np.array(seed), "sha256": digest.copy()}

    def in_context(self, fitted: Fitted) -> Iterator[Any]:
        """Yields the regressor of each target, with the training rows as its context."""
        path = self._file()
        if _sha256(path) != fitted["sha256"].tobytes().hex():
            raise UserError(f"model.weights={path} has other weights than those that this run was made with")
        for target in fitted["y"].T:
            yield self.estimator(path, int(fitted["seed"])).fit(fitted["x"], target)

    def _file(self) -> Path:
        if self.weights is None or not Path(self.weights).is_file():
            raise UserError(f"model={self.name} needs model.weights=FILE, a file that is there; {self.weights} is none")
        return Path(self.weights)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
