"""The settings of 1D regression, typed and range-checked."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ebmbench.schema import Section


class OneDTask(Section):
    """What is to be learned; see conf/task/1d.yaml."""

    name: Literal["1d"]
    dataset: Literal[1, 2]
    data_seed: int = Field(ge=0, lt=2**31)
    num_train: int = Field(ge=1, le=10_000_000)
    num_val: int = Field(ge=1, le=10_000_000)
    num_test: int = Field(ge=1, le=10_000_000)
    target_noise: float = Field(ge=0, le=10)
    grid_points: int = Field(ge=9, le=65_537)

    @property
    def dataset_name(self) -> str:
        return str(self.dataset)


class OneDTrainer(Section):
    """How it is trained; see conf/trainer/1d.yaml."""

    epochs: int = Field(ge=1, le=1_000_000)
    batch_size: int = Field(ge=1, le=1_000_000)
    learning_rate: float = Field(gt=0, le=10)
