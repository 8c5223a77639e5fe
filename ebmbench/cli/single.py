"""One run on the command line: train and score it, show its result, and say how it ended."""

from __future__ import annotations

import contextlib
import errno
import sys

from ebmbench.config.run import RunConfig
from ebmbench.core.errors import UserError
from ebmbench.engine import runs
from ebmbench.engine.execute import Outcome, execute, follow, last_line, resolve_device
from ebmbench.engine.summary import summary, table
from ebmbench.system import distributed
from ebmbench.system.interrupt import Interrupted


def run_one(config: RunConfig, everything: bool = False) -> int:
    """Executes one run and shows its result, all numbers of it if `everything`; returns the exit code."""
    if is_follower():
        return _follow(config)
    try:
        with _leading(config):
            outcome = execute(config, on_result=lambda rows: print(table(rows, config, everything), flush=True))
        if outcome.existed:
            print(summary(outcome, config, everything))
        return _judge(outcome, config)
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
        if error.errno == errno.ENAMETOOLONG:
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(
            f"ebmbench: {error.strerror or error}{where}; the run is unfinished and can be started again",
            file=sys.stderr,
        )
        return 1
    except Exception as error:
        print(f"ebmbench: the run failed: {last_line(error)}; the trace is in {config.run_dir}", file=sys.stderr)
        return 1


def _judge(outcome: Outcome, config: RunConfig) -> int:
    """Returns the exit code of a run that is through: a run without a single trained model is no success."""
    if not runs.all_diverged(config.run_dir):
        return 0
    what = "the only seed" if len(config.seeds) == 1 else f"all {len(config.seeds)} seeds"
    print(f"ebmbench: {what} diverged: there is no result; try a smaller trainer.learning_rate", file=sys.stderr)
    return 1


# ---------------------------------------------------------------------------------------- several processes (torchrun)


def is_follower() -> bool:
    """Returns whether torchrun started this process to help the first one, which alone keeps the run."""
    return distributed.world()[0] > 0


def _is_shared(config: RunConfig) -> bool:
    """Whether several processes are to train this run; all come to the same answer, for none goes on without them."""
    if distributed.world()[1] == 1:
        return False
    if not config.task.processes:
        raise UserError(f"task={config.task.name} trains in one process; start it without torchrun")
    return config.launch.force or runs.read_state(config.run_dir) not in runs.FINISHED


def _leading(config: RunConfig) -> contextlib.AbstractContextManager[None]:
    """Around a run: its further processes, if it has any, are waited for, and let go at its end."""
    if not _is_shared(config):
        return contextlib.nullcontext()
    return distributed.leading(resolve_device(config.launch.device))


def _follow(config: RunConfig) -> int:
    """A further process: it computes its share of each step."""
    try:
        if _is_shared(config):
            follow(config, resolve_device(config.launch.device))
    except Interrupted as stopped:
        return stopped.exit_code
    return 0
