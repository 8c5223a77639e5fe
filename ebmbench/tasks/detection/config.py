"""The settings of object detection, typed and range-checked."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ebmbench.schema import Section


class DataConfig(Section):
    """Where the images come from; see conf/task/data/."""

    name: str


class DetectionTask(Section):
    """What is to be learned; see conf/task/detection.yaml."""

    name: Literal["detection"]
    data: DataConfig

    @property
    def dataset_name(self) -> str:
        return self.data.name


class DetectionTrainer(Section):
    """How it is trained; see conf/trainer/detection.yaml."""

    iterations: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
