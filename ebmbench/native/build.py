"""Loads the compiled kernels: those that the wheel carries, else compiled for this machine at first use."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

SOURCES = ("energy.c", "head.c", "random.c", "peak.c")
HEADERS = ("simd.h", "tasks.h")
FLAGS = ("-O3", "-std=gnu11", "-fno-math-errno", "-fPIC", "-shared")
LINKER_FLAGS = ("-Wl,-undefined,dynamic_lookup",) if sys.platform == "darwin" else ()
OPTIONAL_FLAGS = ("-march=native", "-fopenmp")
"""Apple's compiler has no OpenMP, so that the kernels use one core, and for its own processors not always the other."""

LEVELS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "x86-64-v4": ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx2", "fma"),
        "x86-64-v3": ("avx2", "fma", "bmi1", "bmi2", "f16c", "movbe"),
        "x86-64": (),
    },
    "aarch64": {"armv8-a": ()},
    "arm64": {"armv8-a": ()},
}
"""By machine: the values of `-march` that a wheel has kernels for, the best first, and what the processor must have."""

POINTER, LONG, INT, WORD = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_uint32
SIGNATURES: dict[str, list[Any]] = {
    "ebm_forward": [POINTER] * 6 + [LONG] * 3 + [INT],
    "ebm_backward": [POINTER] * 4 + [INT] + [POINTER] * 3 + [LONG] * 3 + [INT],
    "ebm_partials": [LONG] * 3,
    "ebm_head_forward": [POINTER] * 6 + [LONG] * 3 + [INT] * 3,
    "ebm_head_backward": [POINTER] * 5 + [INT] + [POINTER] * 4 + [LONG] * 3 + [INT] * 3,
    "ebm_head_partials": [LONG] * 3 + [INT] * 2,
    "ebm_peak": [LONG, INT],
    "ebm_words": [POINTER, POINTER, LONG, WORD, WORD, LONG, INT],
    "ebm_normal": [POINTER, POINTER, LONG, WORD, WORD, LONG, INT],
}


class Unavailable(Exception):
    """No compiled library can be had; the message says why."""


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | Unavailable:
    """The compiled kernels, or why there are none. Compiles at most once per machine and version of the sources."""
    try:
        loaded = _carried() or ctypes.CDLL(str(_compiled()))
        for name, arguments in SIGNATURES.items():
            getattr(loaded, name).argtypes = arguments
            getattr(loaded, name).restype = None
        loaded.ebm_partials.restype = loaded.ebm_head_partials.restype = LONG
        loaded.ebm_peak.restype = ctypes.c_double
        return loaded
    except (OSError, AttributeError, Unavailable) as error:  # AttributeError: a compiler that left the kernels out
        return Unavailable(str(error))


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


def compile_levels(folder: Path) -> list[Path]:
    """Compiles the kernels of a wheel for this kind of machine, one file for each level of the processor.

    OpenMP's functions stay undefined: `_carried` gives them PyTorch's, which is in memory anyway.
    """
    sources = [str(Path(__file__).parent / name) for name in SOURCES]
    libraries = []
    for level in LEVELS[platform.machine()]:
        library_path = folder / f"kernels-{level}.so"
        objects = [folder / f"{level}-{Path(name).stem}.o" for name in SOURCES]
        for source, compiled in zip(sources, objects, strict=True):
            command = [*_compiler(), *FLAGS, f"-march={level}", "-c", source, "-o", str(compiled)]
            _compile(command, ("-fopenmp",))
        _output([*_compiler(), "-shared", *map(str, objects), "-o", str(library_path), "-lm", *LINKER_FLAGS])
        libraries.append(library_path)
    return libraries


def _carried() -> ctypes.CDLL | None:
    """Returns the best kernels of the wheel that this processor can run; None where it carries none."""
    levels = LEVELS.get(platform.machine(), {})
    flags = _cpu().split()
    for level, needed in levels.items():
        path = Path(__file__).parent / f"kernels-{level}.so"
        if path.exists() and set(needed) <= set(flags):
            torch = importlib.util.find_spec("torch")
            assert torch is not None and torch.origin is not None
            folder = Path(torch.origin).parent
            for openmp in (*folder.glob("lib/libgomp*.so*"), *folder.parent.glob("torch.libs/libgomp*.so*")):
                ctypes.CDLL(str(openmp), ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(str(path))
    return None


def cache_dir() -> Path:
    """Returns where compiled libraries are kept: `$XDG_CACHE_HOME/ebmbench/kernels`, by default in `~/.cache`.

    Raises:
        Unavailable: it cannot be made, or is not private: what lies there is executed.
    """
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ebmbench" / "kernels"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.stat()
    except (OSError, RuntimeError) as error:  # RuntimeError: nobody knows the home of this user
        raise Unavailable(f"no folder for them can be had ({error}); XDG_CACHE_HOME=DIR names one") from None
    if about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise Unavailable(f"{folder} is not this user's alone; chmod 700 it, or name another by XDG_CACHE_HOME=DIR")
    return folder


def _compiled() -> Path:
    """Returns the library of these sources for this machine. Its name ends in its SHA-256, which is checked."""
    compiler = _compiler()
    version = _output([*compiler, "--version"])
    here = Path(__file__).parent
    digest = hashlib.blake2s(digest_size=8)
    for part in (version, _cpu(), *FLAGS, *OPTIONAL_FLAGS, *((here / n).read_text() for n in (*SOURCES, *HEADERS))):
        digest.update(part.encode() + b"\0")
    folder, name = cache_dir(), f"kernels-{digest.hexdigest()}"
    for path in sorted(folder.glob(f"{name}-*.so")):
        if _is_whole(path):
            return path
        path.unlink()
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        made = Path(temporary) / "kernels.so"
        _compile([*compiler, *FLAGS, *(str(here / name) for name in SOURCES), "-o", str(made), "-lm"], OPTIONAL_FLAGS)
        made.chmod(0o600)
        target = folder / f"{name}-{_sha256(made, sync=True)}.so"
        os.replace(made, target)  # whoever comes second writes the same
    return target


def _compile(command: list[str], optional: tuple[str, ...]) -> None:
    """Runs the compiler, with as many of the optional flags as it takes."""
    for flags in (optional, *((flag,) for flag in optional)):
        with suppress(Unavailable):
            _output([*command, *flags])
            return
    _output(command)


def _sha256(path: Path, sync: bool = False) -> str:
    with open(path, "rb") as file:
        if sync:  # else the name could outlive a power loss, and the content not
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_whole(path: Path) -> bool:
    """Whether a library is this user's alone, and what the compiler wrote: a truncated one would end the process."""
    about = path.lstat()
    own = stat.S_ISREG(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o022
    return own and _sha256(path) == path.stem.rpartition("-")[2]


def _compiler() -> list[str]:
    if given := os.environ.get("CC", "").strip():
        try:
            return shlex.split(given)
        except ValueError as error:
            raise Unavailable(f"CC={given} cannot be read ({error})") from None
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return [path]
    raise Unavailable("there is no C compiler (cc, gcc or clang)")


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True, timeout=300)
        return done.stdout
    except OSError as error:
        raise Unavailable(f"{command[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{command[0]} does not end") from None
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
