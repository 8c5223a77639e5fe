"""Hydra's own entry: for multiruns, and for what shows settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ebmbench.config import compose as composition
from ebmbench.config import folders
from ebmbench.core.errors import UserError


def with_hydra(job: Callable[[DictConfig], Any], flags: list[str], settings: list[str]) -> None:
    """Calls Hydra's own entry, which reads the words of `sys.argv`: for multiruns, `--cfg` and `--info`.

    Raises:
        UserError: Hydra finds something wrong.
    """
    composition.prepare(settings)
    entry = hydra.main(version_base="1.3", config_path=str(folders.config_dir()), config_name="config")(job)
    # argparse wants all overrides in one row, after the flags.
    words = [*flags, *settings, composition.search_path_override()]
    old, sys.argv = sys.argv, ["ebmbench", *words]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # an error comes here instead of ending the process with a hint
    try:
        entry()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(composition.explain(error)) from None
    finally:
        sys.argv = old
