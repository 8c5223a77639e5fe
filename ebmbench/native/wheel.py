"""The build hook of the wheel: with EBMBENCH_KERNELS=1 it carries compiled kernels, and needs no compiler.

It runs inside hatchling, where ebmbench is not installed: it takes `build.py` by its path.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path(__file__).parent


class Kernels(BuildHookInterface[Any]):
    """Compiles the kernels for each level of the processor and puts them into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the compiled kernels and the platform's tag to the wheel; a wheel without kernels stays pure."""
        if os.environ.get("EBMBENCH_KERNELS") != "1":
            return
        folder = Path(tempfile.mkdtemp())
        self.finalize = lambda *_: shutil.rmtree(folder)  # type: ignore[method-assign]
        for path in _build().compile_levels(folder):
            build_data["force_include"][str(path)] = f"ebmbench/native/{path.name}"
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"


def _build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build", NATIVE / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
