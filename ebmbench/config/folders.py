"""The folders of YAML: the project's conf/ and sweeps/, `./conf` and `./sweeps`, and those that `--config-dir` names.

Nothing here imports PyTorch: help and tab completion need an answer at once.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path

from ebmbench.core.errors import UserError
from ebmbench.system import yamlfile
from ebmbench.system.files import share_dir

_extra: list[Path] = []


def use_config_dir(folder: Path) -> None:
    """Looks for YAML in this folder too, as in `./conf`.

    Raises:
        UserError: it is no folder.
    """
    if not folder.is_dir():
        raise UserError(f"--config-dir {folder} is not a folder")
    if folder.absolute() not in _extra:
        _extra.append(folder.absolute())


def config_dir() -> Path:
    """Returns the project's conf/; absolute, because Hydra resolves relative ones against `__main__`."""
    return share_dir() / "conf"


def config_dirs() -> tuple[Path, ...]:
    """Returns every folder of YAML, the project's first."""
    own = Path.cwd() / "conf"
    return tuple(dict.fromkeys([config_dir(), *([own] if own.is_dir() else []), *_extra]))


def sweep_dirs() -> tuple[Path, ...]:
    """Returns every folder of sweep files; where two have a file of one name, the first is used."""
    folders = [Path.cwd() / "sweeps", *(folder / "sweeps" for folder in config_dirs()[1:]), share_dir() / "sweeps"]
    return tuple(dict.fromkeys(folder for folder in folders if folder.is_dir()))


def known_sweeps() -> list[str]:
    """Returns the names of the sweep files."""
    return sorted({path.stem for folder in sweep_dirs() for path in folder.glob("*.yaml") if path.is_file()})


def known_suites() -> list[str]:
    """Returns the names of the suites, which are in the folder suites/ of every folder of sweep files."""
    return sorted({path.stem for folder in sweep_dirs() for path in folder.glob("suites/*.yaml") if path.is_file()})


def check_files() -> None:
    """Refuses YAML of the user's own that no parser should be given: too large, too deep, or with aliases of aliases.

    Raises:
        UserError: a file is of this kind.
    """
    own = [*config_dirs()[1:], *(folder for folder in sweep_dirs() if folder != share_dir() / "sweeps")]
    for folder in dict.fromkeys(own):
        for path in sorted(folder.rglob("*.yaml")):
            with suppress(OSError):
                about = path.stat()
                _check(path, about.st_size, about.st_mtime_ns)


@cache
def _check(path: Path, size: int, modified: int) -> None:
    yamlfile.check_bounds(path)


def options(group: str) -> set[str]:
    """Returns the options of a group that are YAML files; `uci/yacht` is in a folder of the group."""
    if group == "sweeps":
        return {*known_sweeps(), *(f"suites/{name}" for name in known_suites())}
    folders = [folder / group for folder in config_dirs()]
    return {str(path.relative_to(folder).with_suffix("")) for folder in folders for path in folder.rglob("*.yaml")}
