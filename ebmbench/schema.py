"""The base of every typed section of the configuration."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the configuration: frozen, strictly typed, unknown keys and non-finite numbers refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    def identity(self) -> dict[str, Any]:
        """What results depend on. Settings that are not set leave no trace, so that a new one changes no old hash."""
        return self.model_dump(mode="json", exclude_none=True)
