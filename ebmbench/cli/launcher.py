"""Where jobs run, by the settings that are Hydra's: `hydra/launcher=NAME` and `hydra.launcher.KEY=VALUE`.

Multiruns (`-m`) and `sweep` take the same ones, and refuse all others of `hydra.*`, which would have no effect.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ebmbench.core.errors import UserError
from ebmbench.core.extras import need

if TYPE_CHECKING:
    from ebmbench.sweep.submit import Preset


@dataclass(frozen=True)
class Launcher:
    """A launcher that was asked for.

    Attributes:
        name: None if none was named.
        settings: the words that change its settings.
    """

    name: str | None = None
    settings: list[str] = field(default_factory=list)

    @property
    def words(self) -> list[str]:
        """All of it, as Hydra takes it."""
        return [*([f"hydra/launcher={self.name}"] if self.name else []), *self.settings]

    def preset(self, default: str) -> Preset:
        """Returns its preset with its settings; `default` is used if no name was given.

        Raises:
            UserError: the launcher or a setting is not known, or what it needs is not here.
        """
        from ebmbench.sweep.submit import launcher_settings

        found = launcher_settings(self.name or default, self.settings)
        if found.is_slurm:
            need("hydra_plugins.hydra_submitit_launcher", "slurm")
            if shutil.which("sbatch") is None:
                text = "sbatch is not on this machine; use hydra/launcher=local_parallel"
                raise UserError(f"hydra/launcher={found.name} cannot be had: {text}")
        return found


def split(words: Sequence[str], where: str = "") -> tuple[list[str], Launcher]:
    """Splits settings into those of the jobs and the launcher.

    Args:
        where: for the error of a command that launches nothing, and takes no launcher: what it is.

    Raises:
        UserError: a setting of Hydra's that would have no effect.
    """
    own: list[str] = []
    name: str | None = None
    settings: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        bare = key.lstrip("+~")
        if bare != "hydra" and not bare.startswith(("hydra.", "hydra/")):
            own.append(word)
            continue
        if where:
            raise UserError(f"{bare} has no effect on {where}; add -m for a multirun, whose jobs a launcher starts")
        if key == "hydra/launcher" and equals:
            name = value
        elif bare.startswith("hydra.launcher.") and equals:
            settings.append(word)
        else:
            text = "of Hydra's own settings hydra/launcher=NAME and hydra.launcher.KEY=VALUE are taken, and no others"
            raise UserError(f"{bare} has no effect here: {text}")
    return own, Launcher(name, settings)
