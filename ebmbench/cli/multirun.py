"""A multirun (`-m`): every combination of settings, started by one of Hydra's launchers, and compared at the end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ebmbench.cli import launcher
from ebmbench.cli.comparison import Compared, comparison
from ebmbench.cli.entry import with_hydra
from ebmbench.cli.single import is_follower, run_one
from ebmbench.cli.warn import quiet_libraries
from ebmbench.config import compose as composition
from ebmbench.config import folders
from ebmbench.config.run import RunConfig
from ebmbench.core.errors import UserError, counted
from ebmbench.engine import runs
from ebmbench.sweep import local
from ebmbench.sweep.plan import by_key, make_folder, make_plan
from ebmbench.sweep.status import slurm_queue
from ebmbench.sweep.submit import Preset, positive

POOL = "local_parallel"
"""The launcher that is this project's own: several processes on this machine, as `sweep submit` uses them."""


def multirun(words: Sequence[str]) -> int:
    """Carries out a multirun, checked as a whole before its first job starts; returns the exit code.

    Raises:
        UserError: a job's settings are wrong, the launcher cannot be had, or `results_dir` cannot be written.
    """
    own, where = launcher.split(words)
    preset = where.preset("local")
    jobs = _jobs(own)
    if preset.is_slurm:
        slurm_queue()  # refuses a SLURM that does not answer, of which Hydra's launcher would leave a trace
    if not is_follower():
        print(counted(len(jobs), "job"), file=sys.stderr)
    results_dir = Path(jobs[0].config.launch.results_dir)
    if where.name == POOL:
        _run_pool([job.config for job in jobs], preset, results_dir)
    else:
        _refuse_further_grids(own)
        make_folder(results_dir / "multirun", results_dir)
        with_hydra(_Job(tuple(folders.config_dirs()[1:])), ["--multirun"], [*own, *where.words])
    if is_follower():  # the first process has yet to end the last run, and tells how all ended
        return 0
    print(comparison(jobs))
    diverged = [job.config for job in jobs if runs.all_diverged(job.config.run_dir)]
    for config in diverged:
        print(f"ebmbench: every seed of {config.run_id} diverged", file=sys.stderr)
    is_through = all(runs.read_state(job.config.run_dir) in runs.FINISHED for job in jobs)
    return 0 if is_through and not diverged else 1


def _jobs(own: Sequence[str]) -> list[Compared]:
    """Returns the jobs of a multirun. Those of a sweep (`+sweeps=NAME`) are checked as `sweep submit` checks them."""
    named = _sweeps(own)
    if len(named) == 1:
        others = [text for text in own if not text.startswith("+sweeps=")]
        plan = make_plan(named[0], others, runs.commit())
        return [Compared(RunConfig.from_dict(job.config), job.axes) for job in plan.jobs]
    lines = composition.expand(own)
    configs = composition.compose_all(lines, own)
    given = list(map(by_key, lines))
    varied = [key for key in given[0] if len({values.get(key) for values in given}) > 1]
    axes = [{key: values.get(key) for key in varied} for values in given]
    jobs = map(Compared, configs, axes)
    return list({job.config.run_id: job for job in jobs}.values())


def _sweeps(own: Sequence[str]) -> list[str]:
    """Returns the sweeps that the words name."""
    return [text.partition("=")[2] for text in own if text.startswith("+sweeps=")]


def _refuse_further_grids(own: Sequence[str]) -> None:
    """Refuses a sweep whose `sweep.also` has jobs: Hydra's own launchers know one grid alone."""
    named = _sweeps(own)
    if named and len(composition.grids(own)) > 1:
        raise UserError(
            f"+sweeps={named[0]} has further jobs (sweep.also), which this launcher does not start: use "
            f"python -m ebmbench sweep submit {named[0]}, or hydra/launcher={POOL}"
        )


@dataclass(frozen=True)
class _Job:
    """What Hydra calls for each job, on this machine or on a node of a cluster.

    Attributes:
        config_dirs: folders of YAML of the user's own, which a node has to be told.
    """

    config_dirs: tuple[Path, ...] = ()

    def __call__(self, cfg: DictConfig) -> int:
        """Carries out one job, and reports its failure: the others go on."""
        quiet_libraries()
        try:
            for folder in self.config_dirs:
                folders.use_config_dir(folder)
            named = OmegaConf.to_container(cfg.plugins) if "plugins" in cfg else []
            composition.prepare([f"plugins={_as_list(named)}"])
            code = run_one(composition.compose(list(HydraConfig.get().overrides.task)))
        except UserError as error:
            print(f"ebmbench: {error}", file=sys.stderr)
            return 2
        if code > 128:
            raise SystemExit(code)  # a signal to stop is meant for the multirun, not for this job alone
        return code


def _as_list(names: Any) -> str:
    return f"[{','.join(map(str, names))}]" if isinstance(names, list) else str(names)


def _run_pool(configs: Sequence[RunConfig], preset: Preset, results_dir: Path) -> None:
    """Runs the jobs that are not through in processes of this machine; their output is in <results_dir>/multirun."""
    todo = [c for c in configs if c.launch.force or runs.read_state(c.run_dir) not in runs.FINISHED]
    if not todo:
        return
    places = local.slots(todo[0].launch.device, positive(preset.values.get("n_jobs")), len(todo))
    folder = results_dir.absolute() / "multirun"
    make_folder(folder, results_dir)
    codes = local.run_pool(todo, places, folder, positive(preset.values.get("max_num_restarts")) or 0)
    if len(codes) < len(todo) or any(code > 128 for code in codes.values()):
        print("ebmbench: stopped; the same command goes on", file=sys.stderr)
        raise SystemExit(130)
