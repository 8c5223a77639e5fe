"""Where a run's history goes: a CSV file always (unless logger=none), and Weights & Biases or Trackio if asked for.

W&B gets one run per *seed*, though the seeds of a job train stacked in one process. Because: W&B's own
bands, bars with intervals and parallel coordinates are statistics over runs, so only runs per seed show the
spread between seeds; a seed's result is the same alone as among twenty, so the seed, not the job, is the
unit; and the id `<configuration hash without seeds>-<seed>-<results folder>` finds the same W&B run again after a
resume, after a requeue, and when seeds=5 is later extended to seeds=20, and never a teammate's. What belongs to the
whole job (run directory as artifact, figures) hangs on the W&B run of its first seed.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import math
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ebmbench.core.errors import UserError, first_line
from ebmbench.core.extras import need
from ebmbench.core.plugins import package_version
from ebmbench.engine import runs
from ebmbench.engine.runs import output_files
from ebmbench.engine.trackio_logger import TrackioLogger
from ebmbench.system.files import write_atomically

if TYPE_CHECKING:
    from ebmbench.config.run import RunConfig

HISTORY_COLUMNS = ("step", "epoch", "seed", "loss", "grad_norm", "seconds")
"""What every row of a history has; a task or method may add more."""
Row = Mapping[str, Any]


class Logger(Protocol):
    """What `execute` tells a logger, in this order: log*, finish (complete runs only), close (always)."""

    def log(self, rows: Sequence[Row]) -> None:
        """One row per seed with the keys HISTORY_COLUMNS; `step` counts completed steps. Synced on return.

        Call it before the checkpoint of the same step is written, so that a resume finds every row up to it.
        """

    def finish(self, metrics_rows: Sequence[Row], figures: Sequence[Path], run_dir: Path) -> None:
        """The final metrics, one row per seed (key `seed`); figures and all else in run_dir are complete."""

    def close(self, state: str) -> None:
        """`state` is done, failed or interrupted; safe to call twice."""


def open(config: RunConfig, run_dir: Path, resume: Mapping[int, int] | None = None) -> Logger:
    """The logger that `config.logger` names; it writes run_dir/history.csv, cut back to `resume`.

    Args:
        resume: per seed the step that it goes on from (its whole length where it is finished); None starts anew.

    Raises:
        UserError: logger=wandb cannot work (no login, server out of reach); nothing is trained then.
    """
    if config.logger.name == "none":
        return LoggerGroup([])
    if config.logger.name == "trackio":
        need("trackio", "trackio")
        history = CsvLogger(run_dir / "history.csv", resume)
        return LoggerGroup([history, TrackioLogger(config, read_history(history.path))])
    if config.logger.name != "wandb" or config.logger.mode == "disabled":
        return LoggerGroup([CsvLogger(run_dir / "history.csv", resume)])
    need_login(config)
    history = CsvLogger(run_dir / "history.csv", resume)
    try:
        return LoggerGroup([history, WandbLogger(config, read_history(history.path), resume=resume is not None)])
    except BaseException:
        history.close("failed")
        raise


class LoggerGroup:
    """Several loggers, told the same; the CSV file comes first."""

    def __init__(self, loggers: Iterable[Logger]) -> None:
        self.loggers = list(loggers)

    def log(self, rows: Sequence[Row]) -> None:
        """Adds rows to the training history."""
        for logger in self.loggers:
            logger.log(rows)

    def finish(self, metrics_rows: Sequence[Row], figures: Sequence[Path], run_dir: Path) -> None:
        """Adds the final metrics and figures."""
        for logger in self.loggers:
            logger.finish(metrics_rows, figures, run_dir)

    def close(self, state: str) -> None:
        """Ends the record; `state` says how the run ended."""
        for logger in self.loggers:
            logger.close(state)


class CsvLogger:
    """`history.csv`, append-only; every `log` is one write of whole lines, synced to the disk.

    With `resume`, rows after a seed's step in it and a line torn by a kill are dropped first, so that the
    file ends up as an uninterrupted run's (the times apart). Without, the file starts anew.
    """

    def __init__(self, path: Path, resume: Mapping[int, int] | None = None) -> None:
        self.path = path
        rows = read_history(path) if resume is not None else []
        kept = [r for r in rows if resume and int(r["step"]) <= resume.get(int(r["seed"]), 0)]
        self._columns: tuple[str, ...] = tuple(kept[0]) if kept else ()
        write_atomically(path, self._lines(kept, header=True).encode())  # on the disk before a row is added
        self._file: io.FileIO | None = io.FileIO(path, "ab")

    def log(self, rows: Sequence[Row]) -> None:
        """Adds rows to the training history, in one write that is synced."""
        if self._file is None:
            raise ValueError(f"{self.path} is closed")
        is_first = not self._columns
        if is_first:
            self._columns = tuple(rows[0])
        data = self._lines(rows, header=is_first).encode()
        if self._file.write(data) != len(data):  # a full disk may take a part of it
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        os.fsync(self._file.fileno())

    def _lines(self, rows: Sequence[Row], header: bool) -> str:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, self._columns, lineterminator="\n")
        if header and self._columns:
            writer.writeheader()
        writer.writerows(rows)
        return buffer.getvalue()

    def finish(self, metrics_rows: Sequence[Row], figures: Sequence[Path], run_dir: Path) -> None:
        """Does nothing: metrics.csv and the figures are in the run directory already."""

    def close(self, state: str) -> None:
        """Ends the record; `state` says how the run ended."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read_history(path: Path) -> list[dict[str, str]]:
    """The whole rows of a history.csv, as text; a torn last line is left out, a missing file is empty."""
    if not path.exists():
        return []
    text = path.read_bytes().decode(errors="replace")
    text = text[: text.rfind("\n") + 1]
    return [row for row in csv.DictReader(io.StringIO(text)) if all(row.get(c) for c in HISTORY_COLUMNS)]


class WandbLogger:
    """One W&B run per seed (see the module's text), in `<results_dir>/wandb`.

    - Started anew, W&B overwrites an earlier run of the same id; resumed, it goes on with it (resume="allow")
      and steps that it already holds are not sent again. So nothing is there twice.
    - Offline, a resumed run's earlier history is written again from history.csv, so that the newest offline
      folder holds the whole run and the older ones of the same id are removed (after a new start, once it is
      done). `wandb sync` makes one run of it.
    """

    def __init__(self, config: RunConfig, earlier: Sequence[Row], resume: bool) -> None:
        _quiet()
        root = Path(config.launch.results_dir).absolute()
        os.environ.setdefault("WANDB_DATA_DIR", str(root / "wandb"))  # artifacts' files until they are sent
        import wandb

        settings = config.logger
        online = settings.mode == "online"
        self._wandb = wandb
        self._superseded: list[Path] = []
        self.runs: dict[int, Any] = {}
        group = config.sweep.name if config.sweep else f"{config.label}-{config.slug}"
        version, commit, owner = package_version("ebmbench"), runs.commit(), results_token(root)
        for seed in config.seeds:
            run_id = wandb_run_id(config, seed, owner)
            if not online:
                files = root.glob(f"wandb/offline-run-*/run-{run_id}.wandb")
                self._superseded += sorted(file.parent for file in files)
            try:
                self.runs[seed] = wandb.init(
                    entity=settings.entity,
                    project=settings.project,
                    id=run_id,
                    name=f"{config.label} {config.name} seed {seed}",
                    group=group,
                    job_type=config.name,
                    tags=_tags(config),
                    config={
                        **config.to_dict(),
                        "seed": seed,
                        "label": config.label,
                        "run_id": config.run_id,
                        "config_hash": config.config_hash,
                        "version": version,
                        "commit": commit,
                        "results": owner,
                    },
                    dir=str(root),  # made if it is missing
                    mode="online" if online else "offline",
                    resume="allow" if resume and online else None,
                    reinit="create_new",  # several runs at a time in this process
                    settings=wandb.Settings(
                        silent=True,
                        console="off",  # the output belongs to no single seed
                        save_code=False,
                        x_disable_stats=seed != config.seeds[0],  # the machine is watched once per job
                    ),
                )
            except wandb.Error as error:
                self.close("failed")
                for folder in root.glob(f"wandb/run-*-{run_id}"):  # W&B leaves its log of the refusal
                    shutil.rmtree(folder, ignore_errors=True)
                text = f"logger=wandb could not start a W&B run ({first_line(error)})"
                raise UserError(f"{text}; logger.mode=offline needs no network.") from error
        self._next = {seed: int(run.step) for seed, run in self.runs.items()}  # what W&B already holds
        if earlier:
            self.log(earlier)
        if resume:
            self._remove_superseded()

    def log(self, rows: Sequence[Row]) -> None:
        """Adds rows to the W&B run of their seed, but for those that it holds already."""
        for row in rows:
            seed, step = int(row["seed"]), int(row["step"])
            if step < self._next.get(seed, 0) or seed not in self.runs:
                continue
            values = {key: float(value) for key, value in row.items() if key not in ("step", "seed")}
            self.runs[seed].log(values, step=step)
            self._next[seed] = step + 1

    def finish(self, metrics_rows: Sequence[Row], figures: Sequence[Path], run_dir: Path) -> None:
        """Adds the final metrics and figures."""
        for row in metrics_rows:
            run = self.runs.get(int(row["seed"]))
            if run is not None:
                run.summary.update({key: _plain(value) for key, value in row.items() if key != "seed"})
        if not self.runs:
            return
        first = next(iter(self.runs.values()))
        images = [path for path in figures if path.suffix == ".png"]
        if images:
            # With the last step, for panels of images show the history; a step of their own would be one too many.
            shown = {f"figures/{path.stem}": self._wandb.Image(str(path)) for path in images}
            first.log(shown, step=max(0, *(step - 1 for step in self._next.values())))
        artifact = self._wandb.Artifact(artifact_name(run_dir), type="run")
        for path in output_files(run_dir):
            artifact.add_file(str(path), name=path.relative_to(run_dir).as_posix())
        first.log_artifact(artifact)

    def close(self, state: str) -> None:
        """Ends the record; `state` says how the run ended."""
        for run in self.runs.values():
            run.summary["state"] = state
            run.finish(exit_code=0 if state == "done" else 1)
        self.runs = {}
        if state == "done":
            self._remove_superseded()

    def _remove_superseded(self) -> None:
        for folder in self._superseded:
            shutil.rmtree(folder, ignore_errors=True)
        self._superseded = []


def wandb_run_id(config: RunConfig, seed: int, owner: str) -> str:
    """The same for the same settings, seed and results folder, whatever other seeds were trained beside it."""
    return f"{config.config_hash}-{seed}-{owner}"


def results_token(results_dir: Path) -> str:
    """Returns a word that tells this results folder from a teammate's; the first run on W&B makes it up."""
    path = results_dir / "wandb" / "folder.txt"
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{secrets.token_hex(8)}")
        fresh.write_text(secrets.token_hex(3))
        try:
            os.link(fresh, path)  # whole, or not at all: another run may do the same
        finally:
            fresh.unlink()
    return "".join(c for c in path.read_text() if c.isalnum())[:12]


def artifact_name(run_dir: Path) -> str:
    """The run's id; W&B's artifact names hold letters, digits, `-`, `_` and `.` only."""
    name = (run_dir.parent if run_dir.name == "attempt" else run_dir).name.replace("+", "-plus")
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in name)[:128]


def need_login(config: RunConfig) -> None:
    """Raises UserError where logger=wandb has no login to use; nothing is written for it."""
    if config.logger.mode == "online" and not has_login():
        raise UserError(
            "logger=wandb needs a W&B login: run `wandb login` or set WANDB_API_KEY, "
            "or choose logger.mode=offline and `wandb sync` later."
        )


def _quiet() -> None:
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # W&B's own crash reports


def has_login() -> bool:
    """Whether wandb finds credentials (environment, settings, netrc); asks and contacts nobody."""
    _quiet()
    import wandb

    return wandb.login(prompt=False, verify=False)


def _tags(config: RunConfig) -> list[str]:
    own = [config.task.name, config.label, config.name]
    return list(dict.fromkeys([*own, *config.logger.tags]))


def _plain(value: Any) -> Any:
    """A number for W&B's summary; nan and inf as text, since JSON has neither."""
    if hasattr(value, "item"):
        value = value.item()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
