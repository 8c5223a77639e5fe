"""A run that was stopped anywhere ends with the same weights, history and metrics, bit for bit."""

from __future__ import annotations

import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from ebmbench.config.compose import compose
from ebmbench.config.run import RunConfig
from ebmbench.core.errors import UserError
from ebmbench.engine import runs
from ebmbench.engine.execute import execute, seed_groups
from ebmbench.engine.train import Callbacks, CheckpointPlan, Progress, train
from ebmbench.system import checkpoint
from ebmbench.system.interrupt import Interrupted, StopFlag
from ebmbench.tasks.detection import learner as detection
from ebmbench.tasks.regression.fitting import FitLearner
from ebmbench.tasks.regression.task import OneD
from tests.comparison import WHOLE, differences, whole_detection
from tests.processes import PAPER, Command, small, tiny

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


def learner(config: RunConfig, seeds: tuple[int, ...]) -> Any:
    return config.task.learner(config.setup, seeds, CPU)


def trained(config: RunConfig, plan: CheckpointPlan, stops: list[int]) -> tuple[Any, Progress, list[dict[str, Any]]]:
    """Trains, stopping at each of these steps and starting again with a new problem, as a new process would."""
    history: list[dict[str, Any]] = []
    for stop_at in [*stops, None]:
        problem = learner(config, seed_groups(config, CPU)[0])
        stop = StopFlag()

        def on_step(progress: Progress, stop: StopFlag = stop, stop_at: int | None = stop_at) -> None:
            if progress.step == stop_at:
                stop.signum = signal.SIGTERM

        def on_epoch(progress: Progress, rows: list[dict[str, Any]]) -> None:
            history.extend({k: v for k, v in row.items() if k != "seconds"} for row in rows)

        try:
            progress = train(problem, plan, Callbacks(on_epoch, on_step), stop)
        except Interrupted:
            assert stop_at is not None
            continue
        assert stop_at is None
    return problem, progress, history


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results_dir in which the detection tests share the frozen features."""
    return tmp_path_factory.mktemp("features")


def assert_same_training(config: RunConfig, stops: list[int], folder: Path) -> list[dict[str, Any]]:
    """Training stopped at these steps ends as one never stopped, whose history is returned."""
    whole, progress, history = trained(config, CheckpointPlan(folder / "whole", 60), [])
    problem, again, rows = trained(config, CheckpointPlan(folder / "cut", 60), stops)
    assert progress.step == again.step == whole.num_steps
    assert whole.parameters.keys() == problem.parameters.keys()
    for name, parameter in whole.parameters.items():
        assert torch.equal(parameter, problem.parameters[name]), name
    states, states_again = (p.optimizer.state_dict() for p in (whole, problem))
    assert (
        states["param_groups"] == states_again["param_groups"]
        and states["state"].keys() == states_again["state"].keys()
    )
    for index, state in states["state"].items():
        for key, value in state.items():
            assert torch.equal(value, states_again["state"][index][key]), (index, key)
    if whole.scheduler is not None:
        assert whole.scheduler.state_dict() == problem.scheduler.state_dict()
    assert rows == history
    assert torch.equal(progress.diverged_step, again.diverged_step)
    for one, other in ((progress.counts, again.counts), (progress.count_steps, again.count_steps)):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    return history


@pytest.mark.parametrize("method", PAPER)
def test_training_stopped_at_every_kind_of_step(method: str, tmp_path: Path) -> None:
    # 3 steps an epoch, the last one of a short batch: stops at the first step, inside an epoch and at its end.
    config = compose(small(method, "trainer.epochs=3"))
    history = assert_same_training(config, [1, 2, 3, 5, 8], tmp_path)
    assert len(history) == 3 * 2


def test_what_underflowed_before_a_stop_is_counted_after_it(tmp_path: Path) -> None:
    far = ["method.sigma=0.02", "proposal.stds=[0.3]", "proposal.shared=false"]
    config = compose([*small("kld-is", "trainer.epochs=3", "method.num_samples=2"), *far])
    history = assert_same_training(config, [1, 2, 3, 5, 8], tmp_path)
    assert history[0]["underflows"] > 0


@pytest.mark.parametrize("method", PAPER)
def test_training_of_a_detector_stopped_at_every_kind_of_step(
    method: str, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every other batch is short and ends an epoch, and so a row of the history; the rate warms up, and falls at step 4.
    monkeypatch.setattr(detection, "HISTORY_STEPS", 2)
    settings = ["data.num_train=3", "trainer.batch_size=2", "trainer.iterations=5", "trainer.warmup=2"]
    config = compose(tiny(method, *settings, "trainer.learning_rate=0.01", f"results_dir={features}"))
    history = assert_same_training(config, [1, 2, 3], tmp_path)
    assert [row["step"] for row in history] == [2, 4, 5]


def test_a_stopped_seed_stays_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All seeds diverge: no further epoch is trained after a resume, and their history is nan."""
    config = compose(small("nce", "trainer.epochs=4"))
    healthy = FitLearner.losses

    def losses(self: Any, batch: torch.Tensor, step: int) -> torch.Tensor:
        return healthy(self, batch, step) * torch.where(torch.tensor([step == 3, step == 5]), torch.inf, 1.0)

    monkeypatch.setattr(FitLearner, "losses", losses)
    stops: list[list[int]] = [[], [4, 6]]
    results = [trained(config, CheckpointPlan(tmp_path / f"{len(s)}", 0), s) for s in stops]
    for _, progress, history in results:
        assert progress.diverged_step.tolist() == [3, 5] and progress.step == 6
        assert [(r["epoch"], r["seed"], r["loss"] == r["loss"]) for r in history] == [
            (1, 0, True), (1, 1, True), (2, 0, False), (2, 1, False),
        ]  # fmt: skip
    assert torch.equal(results[0][0].parameters["flat"], results[1][0].parameters["flat"])
    _, progress, history = trained(config, CheckpointPlan(tmp_path / "2", 0), [])
    assert progress.step == 6 and not history


def test_a_resume_says_what_is_not_as_it_was(tmp_path: Path) -> None:
    config = compose(small("nce", "trainer.epochs=2"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stamp = {"run_hash": config.run_hash, "threads": 1}
        with pytest.raises(Interrupted):
            problem = learner(config, config.seeds)
            stop = StopFlag()
            stop.signum = signal.SIGTERM
            train(problem, CheckpointPlan(tmp_path / "a", 60, stamp), stop=stop)
        train(learner(config, config.seeds), CheckpointPlan(tmp_path / "a", 60, stamp))
    with pytest.warns(UserWarning, match="threads 1 then and 2 now.*within rounding only"):
        plan = CheckpointPlan(tmp_path / "a", 60, {**stamp, "threads": 2})
        train(learner(config, config.seeds), plan)
    with pytest.raises(UserError, match="another run"):
        plan = CheckpointPlan(tmp_path / "a", 60, {**stamp, "run_hash": "x"})
        train(learner(config, config.seeds), plan)
    with pytest.warns(UserWarning, match="other seeds"):
        plan = CheckpointPlan(tmp_path / "a", 60, {**stamp, "threads": 2})
        train(learner(config, (0, 1, 2)), plan)


def command(config_lines: list[str], folder: Path, name: str = "log") -> Command:
    return Command([*config_lines, f"results_dir={folder}"], folder.parent / name)


def test_killed_and_with_a_damaged_checkpoint(tmp_path: Path) -> None:
    lines = small("nce+", "trainer.epochs=60", "checkpoint_seconds=0.05")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    config = compose([*lines, f"results_dir={whole}"])
    execute(config, quiet=True)
    run_dir = killed / "runs" / config.run_id
    kept = run_dir / "training.0.ckpt.previous"
    process = command(lines, killed)
    process.wait_for(kept.exists)
    process.kill()
    assert runs.read_state(run_dir) == "interrupted"
    current = run_dir / "training.0.ckpt"
    if current.exists():
        current.write_bytes(current.read_bytes()[:-100])
        again = command(lines, killed, "again")
        assert again.wait() == 0
        said = [line for line in again.output.splitlines() if "checksum" in line]
        assert len(said) == 1 and "the checkpoint before it is used" in said[0] and said[0].startswith("ebmbench: ")
    else:
        execute(compose([*lines, f"results_dir={killed}"]), quiet=True)
    assert not differences(run_dir, whole / "runs" / config.run_id)
    assert {path.name for path in run_dir.iterdir()} == WHOLE


@pytest.mark.slow
def test_a_detector_killed_while_its_second_seed_trains(tmp_path: Path) -> None:
    lines = tiny("nce+", "seeds=2", "trainer.iterations=40", "checkpoint_seconds=0.05", "device=cpu", "threads=1")
    run_id = compose(lines).run_id
    whole, killed = (tmp_path / name / "runs" / run_id for name in ("whole", "killed"))
    assert command(lines, tmp_path / "whole", "log of whole").wait() == 0
    process = command(lines, tmp_path / "killed")
    process.wait_for((killed / "training.1.ckpt").exists)
    process.kill()
    assert runs.read_state(killed) == "interrupted"
    state = checkpoint.load(killed / "training.1.ckpt")
    assert state is not None and 0 < state["step"] < 40
    assert command(lines, tmp_path / "killed").wait() == 0
    assert not differences(killed, whole)
    assert {path.name for path in killed.iterdir()} == whole_detection([0, 1])


def test_a_forced_attempt_goes_on_and_is_promoted_whole(tmp_path: Path) -> None:
    lines = small("nce+", "trainer.epochs=60", "checkpoint_seconds=0.05")
    config = compose([*lines, f"results_dir={tmp_path / 'r'}"])
    execute(config, quiet=True)
    before = {path.name: path.read_bytes() for path in config.run_dir.iterdir() if path.is_file()}
    process = command([*lines, "force=true"], tmp_path / "r")
    process.wait_for((config.run_dir / "attempt" / "training.0.ckpt").exists)
    process.kill()
    assert runs.read_state(config.run_dir) == "done"
    after = {path.name: path.read_bytes() for path in config.run_dir.iterdir() if path.is_file()}
    locks = {"lock": b"", "lock.alive": b""}
    assert {**after, **locks} == {**before, **locks}
    state = checkpoint.load(config.run_dir / "attempt" / "training.0.ckpt")
    assert state is not None and 0 < state["step"] < 180
    # Run without force, the result is the old one; forced again, the attempt goes on and takes its place.
    assert execute(config, quiet=True).existed
    assert not execute(config.replace(force=True), quiet=True).existed
    status = runs.read_status(config.run_dir)
    assert status is not None and status.attempt == 2 and status.state == "done"
    assert {path.name for path in config.run_dir.iterdir()} == WHOLE


def test_killed_during_promotion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose([*small("sm", "trainer.epochs=2"), f"results_dir={tmp_path}"])
    execute(config, quiet=True)
    forced = config.replace(force=True)
    promote = runs._promote

    def killed(work_dir: Path, run_dir: Path) -> None:
        (work_dir / "metrics.csv").replace(run_dir / "metrics.csv")
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "_promote", killed)
    with pytest.raises(KeyboardInterrupt):
        execute(forced, quiet=True)
    monkeypatch.setattr(runs, "_promote", promote)
    assert runs.is_promotion_pending(config.run_dir)
    outcome = execute(forced, quiet=True)  # what was forced is there: it is not done a third time
    assert outcome.existed
    status = runs.read_status(config.run_dir)
    assert status is not None and status.attempt == 2
    assert {path.name for path in config.run_dir.iterdir()} == WHOLE


def test_a_requeued_job_does_not_force_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose([*small("sm", "trainer.epochs=2"), f"results_dir={tmp_path}", "force=true"])
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert not execute(config, quiet=True).existed
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert execute(config, quiet=True).existed
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    assert not execute(config, quiet=True).existed


def test_what_the_user_can_put_right_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose([*small("sm"), f"results_dir={tmp_path / 'new' / 'results'}"])

    def refuse(*arguments: Any) -> None:
        raise UserError("no such data")

    monkeypatch.setattr(OneD, "learner", refuse)
    with pytest.raises(UserError):
        execute(config, quiet=True)
    assert not list(tmp_path.iterdir())
