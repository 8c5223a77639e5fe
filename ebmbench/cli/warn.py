"""What the command line lets libraries say."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any


def quiet_libraries() -> None:
    """Silences the warnings of libraries: what a user should know, this project says itself."""
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("default", module=r"ebmbench\.")
    warnings.showwarning = _show_warning
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def _show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    print(f"ebmbench: {message}", file=sys.stderr, flush=True)
