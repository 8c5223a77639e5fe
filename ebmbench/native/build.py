"""Compiles the C sources for this machine at first use, and loads them."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

SOURCES = ("energy.c", "random.c")
HEADERS = ("simd.h",)
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fno-math-errno", "-fPIC", "-shared")
OPTIONAL_FLAGS = ("-fopenmp",)
"""Without it, as with Apple's compiler, the kernels use one core."""

POINTER, LONG, INT, WORD = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_uint32
SIGNATURES: dict[str, list[Any]] = {
    "ebm_forward": [POINTER] * 6 + [LONG] * 3 + [INT],
    "ebm_backward": [POINTER] * 5 + [INT] + [POINTER] * 3 + [LONG] * 3 + [INT],
    "ebm_partials": [LONG] * 3,
    "ebm_words": [POINTER, POINTER, LONG, WORD, WORD, LONG, INT],
    "ebm_normal": [POINTER, POINTER, LONG, WORD, WORD, LONG, INT],
}


class Unavailable(Exception):
    """No compiled library can be had; the message says why."""


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | Unavailable:
    """The compiled kernels, or why there are none. Compiles at most once per machine and version of the sources."""
    try:
        loaded = ctypes.CDLL(str(_compiled()))
    except (OSError, Unavailable) as error:
        return Unavailable(str(error))
    for name, arguments in SIGNATURES.items():
        getattr(loaded, name).argtypes = arguments
        getattr(loaded, name).restype = None
    loaded.ebm_partials.restype = LONG
    return loaded


def unavailable() -> str | None:
    """Why there are no compiled kernels here; None where there are."""
    loaded = library()
    return str(loaded) if isinstance(loaded, Unavailable) else None


def kernels() -> ctypes.CDLL:
    """The compiled kernels.

    Raises:
        Unavailable: there are none.
    """
    loaded = library()
    if isinstance(loaded, Unavailable):
        raise loaded
    return loaded


@lru_cache(maxsize=1)
def say_unavailable(reason: str) -> None:
    """One line, once, to whoever waits for a slower run."""
    print(f"ebmbench: the fused CPU kernels are not used, which is several times slower: {reason}", file=sys.stderr)


def cache_dir() -> Path:
    """Where compiled libraries are kept: `$XDG_CACHE_HOME/ebmbench`, by default `~/.cache/ebmbench`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "ebmbench"


def _compiled() -> Path:
    compiler = _compiler()
    version = _output([*compiler, "--version"])
    here = Path(__file__).parent
    digest = hashlib.blake2s(digest_size=8)
    for part in (version, _cpu(), *FLAGS, *OPTIONAL_FLAGS, *((here / n).read_text() for n in (*SOURCES, *HEADERS))):
        digest.update(part.encode() + b"\0")
    target = cache_dir() / f"kernels-{digest.hexdigest()}.so"
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(dir=target.parent)
    except OSError:  # a home that cannot be written: compile for this process only
        folder = tempfile.mkdtemp()
        target = Path(folder) / target.name
    made = Path(folder) / "kernels.so"
    command = [*compiler, *FLAGS, *(str(here / name) for name in SOURCES), "-o", str(made), "-lm"]
    try:
        try:
            _output([*command, *OPTIONAL_FLAGS])
        except Unavailable:
            _output(command)
        os.replace(made, target)  # whoever comes second writes the same
    finally:
        if target.parent != Path(folder):
            shutil.rmtree(folder, ignore_errors=True)
    return target


def _compiler() -> list[str]:
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return [path]
    raise Unavailable("there is no C compiler (cc, gcc or clang)")


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except OSError as error:
        raise Unavailable(f"{command[0]}: {error.strerror}") from None
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if "error" in line] or ["no message"]
        raise Unavailable(f"{command[0]} failed: {lines[0]}") from None


def _cpu() -> str:
    """What `-march=native` depends on: a cache in a shared home serves machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "Features")
    return platform.machine() + "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))
