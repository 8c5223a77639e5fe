"""The commands of the command line: one table, from which the parser, the help and the tab completion are made.

Nothing here imports PyTorch: help, version and completion answer at once.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """What is said with `--name`: how a command works, and no setting of a run.

    Attributes:
        metavar: what its value is called in the help; an option without one takes no value.
        choices: the values that are allowed; all if empty.
        short: its one-letter form.
        is_repeatable: whether it may be given more than once.
    """

    name: str
    help: str
    metavar: str = ""
    choices: tuple[str, ...] = ()
    short: str = ""
    is_repeatable: bool = False

    @property
    def key(self) -> str:
        """Its name in the parsed arguments."""
        return self.name.lstrip("-").replace("-", "_")


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        path: its words, such as `("sweep", "submit")`; empty for a run.
        takes: what may follow, for the help.
        help: what it does, in one line.
        handler: the function that does it, as `module:function`, imported when it is called.
        completes: what its words are, for tab completion: `settings`, `sweeps`, `suites`, `groups`, `files`, or the
            words themselves, separated by spaces.
        detail: further help.
    """

    path: tuple[str, ...]
    takes: str
    help: str
    handler: str
    completes: str = "files"
    options: tuple[Option, ...] = ()
    detail: str = ""

    @property
    def name(self) -> str:
        """What users type, without the program: `sweep submit`."""
        return " ".join(self.path)

    @property
    def all_options(self) -> tuple[Option, ...]:
        """Its options, and those that all commands have."""
        return (*self.options, CONFIG_DIR, TRUST)


CONFIG_DIR = Option(
    "--config-dir",
    "a folder with YAML of your own, of the same layout as conf/; it is used beside ./conf",
    "DIR",
    is_repeatable=True,
)
TRUST = Option(
    "--trust",
    "accept the plug-in with this hash, which came with results of somebody else; its code is executed from now on",
    "HASH",
    is_repeatable=True,
)
_JOBS = Option("--jobs", "on this machine: at most N jobs at a time", "N")
_DRY_RUN = Option("--dry-run", "say what would run, about how long and how much memory, and do nothing")

_RESULTS_DIR = "results_dir=DIR says where results are (default: results)."
_LAUNCHERS = """\
hydra/launcher=NAME says where jobs run: local, local_parallel (the default of `sweep`), slurm, slurm_gpu, or a file of
conf/hydra/launcher/. hydra.launcher.KEY=VALUE changes one of its settings: hydra.launcher.partition=gpu."""

GROUPS = {
    "sweep": "many runs: submit them, watch them, make their tables",
    "report": "one page, figures or W&B report",
    "suite": "a frozen benchmark: enter a method, check what others submit, make the board",
    "audit": "check files, tables, and what training gives again",
}
"""Commands that have commands of their own."""

COMMANDS = (
    Command(
        (),
        "[-m] task=TASK method=METHOD [key=value ...]",
        "train and score a run",
        "ebmbench.cli.run:run",
        "settings",
        (
            Option("--multirun", "a run for each combination of key=a,b values", short="-m"),
            Option("--all", "show all numbers of the result, and not the five that matter"),
            Option("--cfg", "print the settings and train nothing", "WHAT", ("job", "hydra", "all"), "-c"),
            Option("--package", "print these settings only, such as method", "KEY", (), "-p"),
            Option(
                "--info",
                "print how Hydra puts the settings together",
                "WHAT",
                ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
                "-i",
            ),
            Option("--version", "print the version"),
        ),
    ),
    Command(
        ("sweep", "submit"),
        "NAME [key=value ...]",
        "run the jobs of sweeps/NAME.yaml that have no result yet",
        "ebmbench.cli.sweep:submit",
        "sweeps",
        (
            _JOBS,
            Option("--seeds-per-job", "split the seeds of a setting into jobs of N", "N"),
            _DRY_RUN,
            Option("--no-start", "freeze the jobs and start none: `sweep work` does them"),
        ),
        f"""\
key=value changes a setting of all jobs, or the grid (method=nce,nce+). The settings are frozen now: later changes of
sweeps/ or conf/ do not reach these jobs. {_RESULTS_DIR}
{_LAUNCHERS}""",
    ),
    Command(
        ("sweep", "resume"),
        "NAME [results_dir=DIR]",
        "submit again what failed or is missing, with the settings that were frozen",
        "ebmbench.cli.sweep:resume",
        "sweeps",
        (_JOBS, _DRY_RUN),
        f"{_RESULTS_DIR}\n{_LAUNCHERS}",
    ),
    Command(
        ("sweep", "work"),
        "NAME [results_dir=DIR]",
        "do jobs of a submitted sweep, beside other workers on any machine, until none is left",
        "ebmbench.cli.sweep:work",
        "sweeps",
        (Option("--jobs", "at most N jobs at a time, over all workers that are given this", "N"),),
        f"A job that failed is left for `sweep resume`. {_RESULTS_DIR}",
    ),
    Command(
        ("sweep", "merge"),
        "DIR... [results_dir=DIR]",
        "copy the finished runs of other results folders into results_dir",
        "ebmbench.cli.sweep:merge",
        detail=_RESULTS_DIR,
    ),
    Command(
        ("sweep", "status"),
        "NAME [results_dir=DIR]",
        "done, running, queued, failed, diverged, interrupted and missing jobs, and why",
        "ebmbench.cli.sweep:status",
        "sweeps",
        (Option("--all", "list every job that is not done, however many"),),
        _RESULTS_DIR,
    ),
    Command(
        ("sweep", "collect"),
        "NAME [results_dir=DIR]",
        "tables and figures from what is done, into <results_dir>/NAME/",
        "ebmbench.cli.sweep:collect",
        "sweeps",
        detail=_RESULTS_DIR,
    ),
    Command(
        ("sweep", "best"),
        "NAME [results_dir=DIR]",
        "the settings with the best validation score, into <results_dir>/NAME/best/",
        "ebmbench.cli.sweep:best",
        "sweeps",
        detail=f"""\
For each task and dataset, method and network; the score is a mean over seeds and draws of the data. --config-dir
<results_dir>/NAME uses them. {_RESULTS_DIR}""",
    ),
    Command(
        ("sweep", "tables"),
        "NAME [results_dir=DIR]",
        "the tables again, from the runs.csv that collect left there",
        "ebmbench.cli.sweep:again",
        "sweeps",
        (Option("--accept", "leave the tables as they are, and seal them: a change of them was meant"),),
        detail=_RESULTS_DIR,
    ),
    Command(
        ("report", "page"),
        "SWEEP | RUN_DIRECTORY... [results_dir=DIR]",
        "one HTML page that compares the runs",
        "ebmbench.cli.report:page",
        "sweeps",
        (Option("--out", "the page (default: <results_dir>/SWEEP/report.html)", "FILE"),),
        _RESULTS_DIR,
    ),
    Command(
        ("report", "figures"),
        "SWEEP | RUN_DIRECTORY... [results_dir=DIR]",
        "the figures as PDF and PNG, with their numbers as CSV",
        "ebmbench.cli.report:figures",
        "sweeps",
        (Option("--out", "the folder (default: <results_dir>/SWEEP/figures)", "DIR"),),
        _RESULTS_DIR,
    ),
    Command(
        ("report", "wandb"),
        "SWEEP [results_dir=DIR]",
        "a report on Weights & Biases, of runs made with logger=wandb",
        "ebmbench.cli.report:wandb",
        "sweeps",
        (
            Option("--project", "the W&B project of the runs (default: ebmbench)", "NAME"),
            Option("--entity", "the W&B user or team (default: the account's)", "NAME"),
        ),
        _RESULTS_DIR,
    ),
    Command(
        ("describe",),
        "[GROUP [NAME]] [plugins=[FILE]]",
        "what there is to choose from, and the settings of each",
        "ebmbench.cli.describe:main",
        "groups",
        (Option("--markdown", "all options of a group as one page, as docs/methods.md is"),),
        "ebmbench describe lists all groups, describe method all methods, describe method nce+ the settings of one.",
    ),
    Command(
        ("check",),
        "FILE",
        "test the components of a plug-in against the contract that the built-in ones meet",
        "ebmbench.cli.tools:check",
    ),
    Command(
        ("predict",),
        "RUN_DIRECTORY FILE... --out FILE",
        "predictions of a trained run for inputs of your own",
        "ebmbench.cli.tools:predict",
        "files",
        (
            Option("--out", "the file to write", "FILE", short="-o"),
            Option("--level", "the probability of the intervals (default: 0.9)", "P"),
            Option("--no-intervals", "of objects in images: boxes alone, in a fraction of the time"),
            Option("--box", "of a video: the target's box in the first frame, in pixels from 0", "X,Y,W,H"),
        ),
        """\
Tables (CSV or Parquet) with the columns of training give a table: mean, mode and std of each row, the ends low and high
of the interval, and log_prob where the target is there too. Several seeds are mixed; see docs/your-data.md.
Images, or folders of them, give the objects in them: FILE.json, FILE.coco.json, FILE.csv, or FILE.zip with YOLO's
labels; see docs/detection.md.""",
    ),
    Command(
        ("compare",),
        "FILE --target COLUMN [key=value ...]",
        "which model to take for a table, and whether the energy pays",
        "ebmbench.cli.compare:main",
        "files",
        (
            Option("--target", "a column to predict (default: the last one)", "COLUMN", is_repeatable=True),
            Option("--splits", "random splits of the rows, the same for all models (default: 5)", "N"),
            Option("--name", "its results go to <results_dir>/compare-NAME/ (default: the file's name)", "NAME"),
            _JOBS,
            _DRY_RUN,
        ),
        f"""\
FILE is a CSV or Parquet file, or the name of a dataset, such as windsor. The models are those of sweeps/compare.yaml.
The answer is one sentence, one page, and the run of the best model, for `predict`.
{_LAUNCHERS}""",
    ),
    Command(
        ("tune",),
        "task=TASK method=A,B [key=value ...]",
        "search the settings of each method with the same trials, on the validation split",
        "ebmbench.cli.tune:main",
        "settings",
        (
            Option("--trials", "trials of each method in a search (default: 8)", "N"),
            Option("--repeats", "searches, each with trials and seeds of its own (default: 5)", "R"),
            Option("--seed", "of the lists of trials (default: 0)", "N"),
            Option("--name", "its results go to <results_dir>/tune-NAME/ (default: task and dataset)", "NAME"),
            _JOBS,
            _DRY_RUN,
        ),
        f"""\
The classes say what is searched; what you set yourself is not. All methods try the same learning rates. The same
command goes on with an interrupted search, and collects what jobs on SLURM have finished. A sweep searches by
`sweep.tune`.
{_LAUNCHERS}""",
    ),
    Command(
        ("suite", "run"),
        "NAME [--plugins FILE] [method=NAME] [results_dir=DIR]",
        "tune and run a method in a suite, and write its submission.zip",
        "ebmbench.cli.suite:run",
        "suites",
        (
            Option("--plugins", "a Python file of your own that registers the method", "FILE", is_repeatable=True),
            Option("--name", "what tables call it (default: the method's name)", "NAME"),
            Option("--author", "who submits it", "TEXT"),
            Option("--licence", "of the plug-in and the weights (default: MIT)", "TEXT"),
            Option("--out", "the file to write (default: submission.zip)", "FILE"),
            _JOBS,
            _DRY_RUN,
        ),
        f"""\
The plug-in is checked, then its settings are searched with the suite's number of trials, then it is trained with what
validation data chose. The same command goes on where it was stopped. Only method, model, network and proposal can be
set; what is set is not searched. {_RESULTS_DIR}
{_LAUNCHERS}""",
    ),
    Command(
        ("suite", "receive"),
        "submission.zip [results_dir=DIR]",
        "check a submission of somebody else, and keep it for the board",
        "ebmbench.cli.suite:receive",
        options=(Option("--again", "so many random (setting, seed) pairs are trained again (default: 3)", "K"),),
        detail=f"""\
Reported: its files are whole, and its jobs and trials are the suite's. Rescored: our code gives its scores for its
weights. Verified: what was trained again is the same. The last two execute its plug-in, if you accept it by --trust
HASH. {_RESULTS_DIR}""",
    ),
    Command(
        ("suite", "build"),
        "[results_dir=DIR]",
        "the board: a page for each suite, from what was received",
        "ebmbench.cli.suite:build",
        options=(Option("--out", "the folder (default: <results_dir>/board)", "DIR"),),
        detail=_RESULTS_DIR,
    ),
    Command(
        ("audit", "files"),
        "[results_dir=DIR]",
        "check every finished run and every collected sweep against its seal",
        "ebmbench.cli.tools:audit_files",
        "folders",
        (Option("--repair", "make damaged runs ready to be computed again"),),
        _RESULTS_DIR,
    ),
    Command(
        ("audit", "tables"),
        "NAME [results_dir=DIR]",
        "fail if a table of a collected sweep does not follow from its runs",
        "ebmbench.cli.tools:audit_tables",
        "sweeps",
        detail=_RESULTS_DIR,
    ),
    Command(
        ("audit", "training"),
        "RUN_DIRECTORY | SWEEP [results_dir=DIR]",
        "train random seeds of finished runs again, and fail if a metric differs",
        "ebmbench.cli.tools:audit_training",
        "sweeps",
        (
            Option("--runs", "so many runs, chosen at random, one seed of each (default: 3)", "K"),
            Option("--seed", "another random choice (default: 0)", "N"),
        ),
        f"""\
Every file is checked against the run's seal first. Metrics, weights and scores of single examples are compared bit for
bit where the machine, threads and code path are those of the run; otherwise within 5 %, or within the range of the
run's other seeds, because training amplifies rounding. Of a collected sweep without its raw runs, as a clone of a
repository has it, rows of runs.csv are trained again by sweeps/NAME.yaml; give what it lacks, such as
data.root=DIR. {_RESULTS_DIR}""",
    ),
    Command(
        ("rescore",),
        "RUN_DIRECTORY | SWEEP [results_dir=DIR]",
        "score finished runs again with today's code, without training",
        "ebmbench.cli.tools:rescore",
        "sweeps",
        detail=f"""\
The runs then say which commit trained them and which one scored them. What this very commit has scored is left as it
is, so that the command goes on where it was stopped. {_RESULTS_DIR}""",
    ),
    Command(
        ("completion",),
        "bash | zsh",
        "print the script for tab completion",
        "ebmbench.cli.completion:script",
        "bash zsh",
        detail="""\
bash: add this line to ~/.bashrc:   source <(ebmbench completion bash)
zsh:  add this line to ~/.zshrc:    source <(ebmbench completion zsh)""",
    ),
)

RUN = COMMANDS[0]


def first_words() -> list[str]:
    """Returns the words that a command line may begin with, if it is no run."""
    return list(dict.fromkeys(command.path[0] for command in COMMANDS if command.path))


def second_words(first: str) -> list[str]:
    """Returns the commands of a command: of `sweep`, submit and so on."""
    return [command.path[1] for command in COMMANDS if command.path[:1] == (first,) and len(command.path) > 1]


def find(words: list[str]) -> tuple[Command, list[str]] | None:
    """Returns the command that these words name, and the words that follow it: a run if the first one names none.

    `report` alone is `report page`. None where the second word of a command is missing or unknown.
    """
    for command in COMMANDS[1:]:
        size = len(command.path)
        if tuple(words[:size]) == command.path:
            return command, words[size:]
    if words[:1] == ["report"] and not {"-h", "--help"} & set(words):
        return next(command for command in COMMANDS if command.path == ("report", "page")), words[1:]
    return None if words[:1] and words[0] in GROUPS else (RUN, words)
