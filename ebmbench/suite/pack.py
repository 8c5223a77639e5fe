"""Packs `submission.zip`: the trials and the runs of one entry, and a sealed record of them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from ebmbench.core.errors import UserError
from ebmbench.engine import runs
from ebmbench.report.planned import Plan, sweep_dir
from ebmbench.suite.submission import RECORD, Submission
from ebmbench.suite.suite import Entry, Suite
from ebmbench.system import seal
from ebmbench.system.files import fingerprint, read_bounded

_DATE = (1980, 1, 1, 0, 0, 0)


def pack(suite: Suite, entry: Entry, plans: list[Plan], results_dir: Path, about: Mapping[str, str], to: Path) -> None:
    """Writes the submission of an entry whose runs are finished.

    Args:
        plans: of its trials, and of its runs.
        about: its `author` and its `licence`.

    Raises:
        UserError: the file cannot be written, or a run is damaged.
    """
    found = dict(_files(plans, results_dir))
    copies = [name for name in plans[-1].jobs[0].config.get("plugins", ())]
    folder = sweep_dir(results_dir, plans[-1].name).absolute()
    record = Submission(
        suite=suite.name,
        suite_sha256=suite.sha256,
        entry=entry.name,
        words=list(entry.words),
        plugins=[Path(name).relative_to(folder).as_posix() for name in copies],
        created=runs.now(),
        packages=_packages(found),
        files={name: fingerprint(data) for name, data in sorted(found.items())},
        author=about["author"],
        licence=about["licence"],
    )
    temporary = to.with_name(f".{to.name}.tmp")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in {RECORD: seal.encode(vars(record)), **found}.items():
                archive.writestr(zipfile.ZipInfo(name, _DATE), data, zipfile.ZIP_DEFLATED)
        temporary.replace(to)
    except OSError as error:
        raise UserError(f"--out: {str(to)!r} cannot be written ({error.strerror})") from None
    finally:
        temporary.unlink(missing_ok=True)


def _files(plans: list[Plan], results_dir: Path) -> Iterator[tuple[str, bytes]]:
    """Yields the files of plans and of their runs by their path in the results folder; figures apart."""
    for plan in plans:
        folder = sweep_dir(results_dir, plan.name)
        yield f"sweeps/{plan.name}/plan.json", _without_places(folder / "plan.json")
        used = {Path(str(name)).relative_to(folder.absolute()).parts[1] for name in _plugins_of(plan)}
        for path in sorted(path for sha256 in used for path in (folder / "plugins" / sha256).rglob("*")):
            if path.is_file():
                yield f"sweeps/{plan.name}/{path.relative_to(folder).as_posix()}", path.read_bytes()
        for job in plan.jobs:
            run_dir = results_dir / "runs" / job.run_id
            status = runs.read_status(run_dir)
            if status is None or status.state != "done":
                continue  # a failure: the record of the plan shows that the run is missing
            yield f"runs/{job.run_id}/status.json", read_bounded(run_dir / "status.json")
            for name in (name for name in status.outputs if not name.startswith(runs.FIGURES)):
                yield f"runs/{job.run_id}/{name}", runs.read_output(run_dir, name)


def _plugins_of(plan: Plan) -> set[str]:
    return {name for job in plan.jobs for name in job.config.get("plugins") or ()}


def _without_places(path: Path) -> bytes:
    """Returns a plan without the folders of the machine that made it."""
    raw = json.loads(read_bounded(path))
    for job in raw["jobs"]:
        job["config"]["results_dir"] = "results"
    return seal.encode(raw | {"overrides": [], "launcher": []}, indent=None)


def _packages(found: Mapping[str, bytes]) -> dict[str, str | None]:
    name = next((name for name in found if name.endswith("/environment.json")), None)
    if name is None:
        raise UserError("no run of the entry is finished, so there is nothing to submit")
    packages: dict[str, str | None] = json.loads(found[name])["packages"]
    return packages
