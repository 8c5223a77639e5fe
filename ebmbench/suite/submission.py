"""What `submission.zip` holds, and how it is unpacked: a results folder of one entry, and a sealed record of it.

What is read comes from a stranger. Names and sizes are bounded, nothing is written outside of the folder, and nothing
of it is executed.
"""

from __future__ import annotations

import re
import stat
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter

from ebmbench.config.run import ALGORITHMS
from ebmbench.core.errors import UserError, first_line, shown
from ebmbench.system import seal
from ebmbench.system.files import fingerprint, write_atomically

SCHEMA = 1
RECORD = "submission.json"
MOST_FILES = 20_000
MOST_BYTES = 2**31
"""Of all files together, unpacked."""
MOST_OF_FILE = 2**28
_NAME = re.compile(r"(?:runs|sweeps)/(?:[A-Za-z0-9_+-][\w.+-]{0,200}/){0,8}[A-Za-z0-9_+-][\w.+-]{0,200}", re.ASCII)


class Refused(UserError):
    """A submission that is not what it says it is."""


@dataclass(frozen=True)
class Submission:
    """What `submission.json` holds.

    Attributes:
        entry, words: what competes, and the words that choose and set it.
        plugins: the paths of the copies of its plug-ins, in the folder of the plan of the runs.
        packages: versions, as the runs report them.
        files: every file beside this one, with its `files.fingerprint`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    suite: str
    suite_sha256: str
    entry: str
    words: list[str]
    plugins: list[str]
    author: str
    licence: str
    created: str
    packages: dict[str, str | None]
    files: dict[str, str] = field(default_factory=dict)
    algorithms: int = ALGORITHMS
    schema: int = SCHEMA
    seal: str = ""


_SUBMISSION = TypeAdapter(Submission)


def unpack(path: Path, folder: Path) -> Submission:
    """Writes the files of a submission into an empty folder, and returns its record; every file is what it says.

    Raises:
        Refused: it is no submission, or a file is not what its record says.
        UserError: the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive)
            record = _record(_content(archive, members.pop(RECORD), MOST_OF_FILE))
            left = MOST_BYTES
            for name, member in members.items():
                data = _content(archive, member, min(left, MOST_OF_FILE))
                left -= len(data)
                if fingerprint(data) != record.files.get(name):
                    raise Refused(f"{name} is not what {RECORD} says")
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                write_atomically(folder / name, data)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise Refused(f"{path} is no submission ({first_line(error)})") from None
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read ({error.strerror})") from None
    if missing := sorted(record.files.keys() - members.keys()):
        raise Refused(f"{missing[0]} is in {RECORD} and not in the submission")
    return record


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Returns the files of an archive by name; only names and sizes are looked at."""
    members: dict[str, zipfile.ZipInfo] = {}
    seen: set[str] = set()
    size = 0
    for member in archive.infolist():
        name, kind = member.filename, stat.S_IFMT(member.external_attr >> 16)
        if name != RECORD and not _NAME.fullmatch(name):
            raise Refused(f"the name {shown(name)} is not allowed in a submission")
        if kind not in (0, stat.S_IFREG):
            raise Refused(f"{name} is no plain file")
        if name.casefold() in seen:
            raise Refused(f"{name} is there twice")
        members[name] = member
        seen.add(name.casefold())
        size += member.file_size
        if len(members) > MOST_FILES or size > MOST_BYTES:
            raise Refused(f"a submission has at most {MOST_FILES} files of {MOST_BYTES} bytes together")
    if RECORD not in members:
        raise Refused(f"it has no {RECORD}")
    return members


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int) -> bytes:
    """Returns a file, whatever size it claims to have, as far as it is allowed to go."""
    with archive.open(member) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise Refused(f"{member.filename} is longer than {most} bytes")
    return data


def _record(data: bytes) -> Submission:
    try:
        seal.decode(data, SCHEMA)
        return _SUBMISSION.validate_json(data)
    except seal.OtherVersion as error:
        raise Refused(f"it is of layout version {error}, and this ebmbench reads {SCHEMA}") from None
    except ValueError as error:
        raise Refused(f"{RECORD} is damaged ({first_line(error)})") from None
