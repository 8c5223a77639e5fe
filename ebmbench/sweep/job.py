"""One job of a sweep, wherever it runs: its settings come in as data, and nothing is composed again."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

from ebmbench.config.run import RunConfig
from ebmbench.core import plugins
from ebmbench.core.errors import UserError, counted
from ebmbench.report.planned import error_path
from ebmbench.system.files import write_atomically
from ebmbench.system.locking import HeldError
from ebmbench.system.threads import sleep_while_waiting

HELD = 3
"""Exit code of a job whose run another process works on: it has not failed."""


def run_job(config_yaml: str, sweep_folder: str) -> int:
    """Carries out a run; returns the exit code: 0 done, 1 failed, 2 refused, HELD, 128 + n stopped by signal n."""
    sleep_while_waiting()
    from ebmbench.engine.execute import execute, last_line
    from ebmbench.engine.summary import summary, table
    from ebmbench.system.interrupt import Interrupted

    warnings.simplefilter("ignore")  # libraries' own; nobody reads them in a log
    warnings.filterwarnings("default", module=r"ebmbench\.")
    plugins.accept_copies_in(config_yaml)
    config = RunConfig.from_yaml(config_yaml)
    note = error_path(Path(sweep_folder), config.run_id)
    note.unlink(missing_ok=True)
    try:
        outcome = execute(config, on_result=lambda rows: print(table(rows, config), flush=True))
    except Interrupted as stopped:
        print(f"{stopped}; a checkpoint is in {config.run_dir}", flush=True)
        return stopped.exit_code
    except HeldError as error:
        print(error, flush=True)
        return HELD
    except UserError as error:
        write_error(note, str(error))
        return 2
    except Exception as error:  # the run directory has its trace
        write_error(note, last_line(error))
        return 1
    if outcome.existed:
        print(summary(outcome, config), flush=True)
    return 0


def write_error(note: Path, text: str) -> None:
    """Leaves a job's last words for `sweep status`."""
    print(text, file=sys.stderr, flush=True)
    note.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(note, (text.splitlines()[-1] + "\n").encode())


def slurm_job(config_yaml: str, sweep_folder: str, max_requeues: int) -> str:
    """Carries out a run inside SLURM; what submitit calls on the node.

    A job that is stopped by the system goes back into the queue by itself and later goes on from its checkpoint: at its
    time limit (SIGUSR1 comes before it) and when it is preempted with time to save (SIGTERM). A job that the user
    cancelled gets the same SIGTERM, but SLURM then no longer calls it RUNNING, and it stays cancelled.
    """
    code = run_job(config_yaml, sweep_folder)
    if code > 128 and _is_running():
        restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        if restarts >= max_requeues:
            config = RunConfig.from_yaml(config_yaml)
            times = counted(restarts + 1, "time")
            text = f"stopped by SLURM {times}; raise hydra.launcher.timeout_min or max_num_timeout"
            write_error(error_path(Path(sweep_folder), config.run_id), text)
        else:
            print("back into the queue", flush=True)
            subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False, timeout=60)
    if code != 0:
        raise SystemExit(code)  # no Exception: submitit then leaves no result that a requeued job would trip over
    return "done"


def _is_running() -> bool:
    """Whether SLURM still means this job to run, though it told it to stop."""
    words = ["scontrol", "--oneliner", "show", "job", os.environ.get("SLURM_JOB_ID", "")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    return "JobState=RUNNING" in done.stdout.split()
