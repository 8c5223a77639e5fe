"""The command line: one run, a multirun, or a subcommand.

Exit codes: 0 done; 1 a run failed; 2 bad input; 128 + n stopped by signal n (130 for Ctrl-C).
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ebmbench.config import compose as composition
from ebmbench.config.run import RunConfig
from ebmbench.core import registry
from ebmbench.core.errors import UserError

HELP = """\
ebmbench: how should one train an energy-based model for regression?

  python -m ebmbench task=TASK method=METHOD [key=value ...]   train and evaluate; results go to results/runs/
  python -m ebmbench -m method=nce,nce+ task.dataset=1,2       a multirun: every combination
  python -m ebmbench sweep submit|status|collect NAME          a sweep of sweeps/: run it, watch it, make its tables
  python -m ebmbench report NAME                               one page that compares the runs of a sweep
  python -m ebmbench.bench                                     how fast, against the textbook way

tasks    {tasks}
methods  {methods}
presets  {experiments}
sweeps   {sweeps}

settings (python -m ebmbench --cfg job shows all; what is not given is the published value)
  seeds=20 | 'seeds=[3,7]'     task.dataset=1|2     device=auto|cpu|cuda|cuda:1     force=true     results_dir=DIR
  trainer.epochs  trainer.batch_size  trainer.learning_rate  method.num_samples  method.langevin_steps
  proposal.stds   proposal.shared     noise.beta             noise.sigma         noise.langevin_step

examples
  python -m ebmbench task=1d method=nce+
  python -m ebmbench task=1d task.dataset=2 method=dsm seeds=20 noise.sigma=0.1
  python -m ebmbench -m 'method=glob(*)' task.dataset=1,2 seeds=20 +experiment=smoke
"""

# Hydra flags that print something and run nothing, or change where it looks: Hydra's own business.
_HYDRA_INFO = ("--cfg", "-c", "--info", "-i", "--hydra-help", "--version", "--shell-completion", "-sc")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _quiet_libraries()
    try:
        return _dispatch(arguments)
    except UserError as error:
        print(f"ebmbench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ebmbench: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `ebmbench ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] == ["sweep"]:
        from ebmbench.cli.sweep import main as sweep

        return sweep(arguments[1:])
    if arguments[:1] == ["report"]:
        from ebmbench.cli.report import main as report

        return report(arguments[1:])
    if "--help" in arguments or "-h" in arguments:
        print(_help(), end="")
        return 0
    if any(argument.split("=")[0] in _HYDRA_INFO for argument in arguments):
        resolved = ["--resolve"] if {"--cfg", "-c"} & set(arguments) and "--resolve" not in arguments else []
        usage = io.StringIO()
        try:
            with contextlib.redirect_stderr(usage), composition.explained():
                _with_hydra(lambda cfg: None, [*resolved, *arguments])
        except SystemExit as exit:  # its argument parser's
            if exit.code:
                raise UserError(usage.getvalue().strip().rpartition("error: ")[2]) from None
        return 0
    flags = [argument for argument in arguments if argument.startswith("-")]
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    multirun = {"-m", "--multirun"} & set(flags)
    unknown = [flag for flag in flags if flag not in ("-m", "--multirun")]
    if unknown:
        raise UserError(f"{unknown[0]} is not an option; python -m ebmbench --help lists them")
    if multirun:
        return _multirun(overrides)
    return run_one(composition.compose(overrides))


def run_one(config: RunConfig) -> int:
    """Executes one run and shows its result; returns the exit code."""
    from ebmbench.engine.execute import execute, last_line
    from ebmbench.engine.summary import summary
    from ebmbench.system.interrupt import Interrupted

    if _helps():
        return _follow(config)
    try:
        with _leading(config):
            outcome = execute(config)
        print(summary(outcome, config))
        return 0
    except (UserError, BrokenPipeError):
        raise
    except Interrupted as stopped:
        print(
            f"ebmbench: {stopped}; a checkpoint is in {config.run_dir}, and the same command goes on from it",
            file=sys.stderr,
        )
        return stopped.exit_code
    except KeyboardInterrupt:
        print(
            f"ebmbench: stopped; the same command goes on from the last checkpoint in {config.run_dir}", file=sys.stderr
        )
        return 130
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(
            f"ebmbench: {error.strerror or error}{where}; the run is unfinished and can be started again",
            file=sys.stderr,
        )
        return 1
    except Exception as error:
        print(f"ebmbench: the run failed: {last_line(error)}; the trace is in {config.run_dir}", file=sys.stderr)
        return 1


def _helps() -> bool:
    """Whether torchrun started this process to help the first one, which alone keeps the run."""
    from ebmbench.system import distributed

    return distributed.world()[0] > 0


def _is_shared(config: RunConfig) -> bool:
    """Whether several processes are to train this run; all come to the same answer, for none goes on without them."""
    from ebmbench.engine import runs
    from ebmbench.system import distributed

    if distributed.world()[1] == 1:
        return False
    if not config.task.processes:
        raise UserError(f"task={config.task.name} trains in one process; start it without torchrun")
    return config.launch.force or runs.read_state(config.run_dir) not in runs.FINISHED


def _leading(config: RunConfig) -> contextlib.AbstractContextManager[None]:
    """Around a run: its further processes, if it has any, are waited for, and let go at its end."""
    from ebmbench.engine.execute import resolve_device
    from ebmbench.system import distributed

    if not _is_shared(config):
        return contextlib.nullcontext()
    return distributed.leading(resolve_device(config.launch.device))


def _follow(config: RunConfig) -> int:
    """A further process: it computes its share of each step."""
    from ebmbench.engine.execute import follow, resolve_device
    from ebmbench.system.interrupt import Interrupted

    try:
        if _is_shared(config):
            follow(config, resolve_device(config.launch.device))
    except Interrupted as stopped:
        return stopped.exit_code
    return 0


def _multirun(overrides: list[str]) -> int:
    """A Hydra multirun, checked as a whole before its first job starts."""
    from ebmbench.engine import runs

    configs = composition.expand_and_compose(overrides)
    if not _helps():
        print(f"{len(configs)} jobs", file=sys.stderr)
    _with_hydra(_job, ["--multirun", *overrides])
    if _helps():  # the first process has yet to end the last run, and tells how all ended
        return 0
    states = {config.run_id: runs.read_state(config.run_dir) for config in configs}
    for run_id, state in states.items():
        print(f"{state:12} {run_id}")
    return 0 if all(state in runs.FINISHED for state in states.values()) else 1


def _job(cfg: DictConfig) -> int:
    """One job of a multirun: it reports its failure, and the others go on."""
    _quiet_libraries()
    try:
        code = run_one(composition.from_omegaconf(cfg))
    except UserError as error:
        print(f"ebmbench: {error}", file=sys.stderr)
        return 2
    if code > 128:
        raise SystemExit(code)  # a signal to stop is meant for the multirun, not for this job alone
    return code


def _with_hydra(job: Callable[[DictConfig], Any], arguments: list[str]) -> None:
    """Hydra's own entry, for multiruns and for `--cfg`."""
    composition.prepare(arguments)
    entry = hydra.main(version_base="1.3", config_path=str(composition.config_dir()), config_name="config")(job)
    overrides = [text for text in arguments if not text.startswith("-") and ("=" in text or text.startswith("~"))]
    flags = [text for text in arguments if text not in overrides]
    # argparse wants all overrides in one row, after the flags.
    words = [*flags, *composition.for_task(overrides), composition.search_path_override()]
    old, sys.argv = sys.argv, ["ebmbench", *words]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # an error comes here instead of ending the process with a hint
    try:
        entry()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(composition.explain(error)) from None
    finally:
        sys.argv = old


def _help() -> str:
    conf = composition.config_dir()

    def names(folder: Path) -> str:
        return " ".join(sorted(path.stem for path in folder.iterdir()))

    return HELP.format(
        tasks=" ".join(registry.known("task")),
        methods=" ".join(registry.known("method")),
        experiments="+experiment=" + names(conf / "experiment").replace(" ", "|"),
        sweeps=" ".join(composition.known_sweeps()) or "none",
    )


def _quiet_libraries() -> None:
    """No warnings from libraries: what a user should know, this project says itself."""
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("default", module=r"ebmbench\.")
    warnings.showwarning = _show_warning
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def _show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    print(f"ebmbench: {message}", file=sys.stderr, flush=True)
