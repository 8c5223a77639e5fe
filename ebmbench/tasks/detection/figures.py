from __future__ import annotations
from pathlib import Path
from ebmbench.config import RunConfig


def figures(config: RunConfig, run_dir: Path) -> list[Path]:
    return []
