"""Packages that only some commands need: they are installed with an extra, `pip install 'ebmbench[slurm]'`."""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType

from ebmbench.core.errors import UserError, first_line


def need(module: str, extra: str) -> ModuleType:
    """Imports a module that an extra installs, and returns it.

    Args:
        module: its dotted name.
        extra: the extra of pyproject.toml that installs it.

    Raises:
        UserError: it is not installed, and the text has the command that installs it; or it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"the package {(error.name or module).split('.')[0]} is not installed; "
            f"this installs it: pip install 'ebmbench[{extra}]'"
        ) from None
    except ImportError as error:
        raise UserError(f"the package {module.split('.')[0]} cannot be imported ({first_line(error)})") from None


@cache
def has(module: str) -> bool:
    """Returns whether a module can be imported. One that is installed may still need another version of NumPy."""
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True
