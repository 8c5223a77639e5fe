"""Detection as a problem: a run from start to end, and a loss that depends on nothing but step and parameters."""

import atexit
import csv
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ebmbench
from ebmbench.boxes import pooling, training
from ebmbench.boxes.comparison import paired_bootstrap
from ebmbench.config.compose import compose
from ebmbench.config.run import RunConfig
from ebmbench.core import registry
from ebmbench.core.errors import UserError
from ebmbench.engine.execute import execute, follow, result_rows
from ebmbench.engine.runs import read_state
from ebmbench.engine.train import Callbacks, Training, train
from ebmbench.system import distributed
from ebmbench.tasks.detection import base_training, data, records
from ebmbench.tasks.detection import learner as learner_module
from ebmbench.tasks.detection import task as task_module
from ebmbench.tasks.detection.base_sharing import Batch, Part
from ebmbench.tasks.detection.data import open_split
from ebmbench.tasks.detection.learner import DetectionLearner
from ebmbench.tasks.detection.read_ahead import ReadAhead
from tests.processes import CONTEXT, TINY, tiny
from tests.waits import watched

SHARED = Path(os.environ.get("EBMBENCH_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
ALL = ["ml-is", "kld-is", "ml-mcmc", "nce", "nce+", "sm", "dsm"]


def tiny_run(results: Path, method: str = "nce", *more: str) -> RunConfig:
    return compose(tiny(method, f"results_dir={results}", *more))


def build(config: RunConfig, seeds: tuple[int, ...], device: torch.device) -> DetectionLearner:
    made = config.task.learner(config.setup, seeds, device)
    assert isinstance(made, DetectionLearner)
    return made


def batch(problem: DetectionLearner, step: int) -> list[int]:
    """The images of a step."""
    return Training(problem).batches.at(step)[0].tolist()


def losses(problem: DetectionLearner, step: int) -> torch.Tensor:
    return Training(problem).losses(step)


def gradient(problem: DetectionLearner, step: int) -> tuple[float, torch.Tensor]:
    loss = losses(problem, step)
    grads = torch.autograd.grad(loss.sum(), list(problem.parameters.values()))
    return float(loss.detach()), torch.cat([g.flatten() for g in grads])


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features are kept here, so that the tests share them."""
    return tmp_path_factory.mktemp("results")


@pytest.mark.parametrize("method", ALL)
def test_every_method_gives_a_loss_and_a_gradient(results: Path, method: str) -> None:
    problem = build(tiny_run(results, method), (0,), torch.device("cpu"))
    loss, grads = gradient(problem, 0)
    assert np.isfinite(loss) and grads.isfinite().all() and grads.norm() > 0
    again = gradient(problem, 0)
    assert again[0] == loss and torch.equal(again[1], grads)
    assert gradient(problem, 1)[0] != loss


@pytest.mark.parametrize("method", ["nce+", "kld-is", "dsm", "ml-mcmc"])
def test_splitting_the_boxes_changes_nothing(results: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One box at a time gives the loss and gradient of all at once: noise belongs to the box, not to the pass."""
    problem = build(tiny_run(results, method), (0,), torch.device("cpu"))
    loss, grads = gradient(problem, 0)
    monkeypatch.setattr(training, "MAX_EVALUATIONS", 1)
    split_loss, split_grads = gradient(problem, 0)
    assert split_loss == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(split_grads, grads, rtol=1e-4, atol=1e-6 * float(grads.abs().max()) + 1e-7)


def test_underflows_are_counted_over_all_passes(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = build(
        tiny_run(results, "kld-is", "method.sigma=0.01", "proposal.stds=[0.075,0.15,0.3]"), (0,), torch.device("cpu")
    )
    losses(problem, 0)
    count, boxes = int(problem.counts["underflows"]), sum(problem.num_boxes[i] for i in batch(problem, 0))
    monkeypatch.setattr(training, "MAX_EVALUATIONS", 1)
    losses(problem, 0)
    assert 0 < count < boxes and int(problem.counts["underflows"]) == count


def test_a_chain_that_runs_away_stops_the_seed(results: Path) -> None:
    problem = build(tiny_run(results, "ml-mcmc", "method.langevin_step=100000"), (0,), torch.device("cpu"))
    progress = train(problem)
    assert progress.diverged_step.tolist() == [0]


def test_energies_that_are_not_finite_are_a_divergence(results: Path, tmp_path: Path) -> None:
    config = tiny_run(results)
    problem = build(config, (0,), torch.device("cpu"))
    progress = Training(problem).progress
    healthy = result_rows(config.task, problem, progress, tmp_path)[0]
    assert healthy["diverged"] == 0 and np.isfinite(healthy["box_nll"])
    with torch.no_grad():
        for name in ("fc6.weight", "fc7.weight"):
            problem.parameters[name].mul_(1e30)
    row = result_rows(config.task, problem, progress, tmp_path)[0]
    assert (row["diverged"], row["diverged_step"], row["trusted"]) == (1, problem.num_steps, 0)
    assert np.isnan(row["ap"]) and row["base_ap"] == healthy["base_ap"]


def test_shared_noise_is_shared_by_all_boxes_of_the_batch(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = build(tiny_run(results, "nce", "proposal.shared=true"), (0,), torch.device("cpu"))
    loss, _ = gradient(problem, 0)
    monkeypatch.setattr(training, "MAX_EVALUATIONS", 1)
    assert gradient(problem, 0)[0] == pytest.approx(loss, rel=1e-5)


def test_methods_see_the_same_images_and_start_from_the_same_weights(results: Path) -> None:
    problems = [build(tiny_run(results, method), (0,), torch.device("cpu")) for method in ("nce", "dsm")]
    first, second = problems
    assert [batch(first, step) for step in range(4)] == [batch(second, step) for step in range(4)]
    assert all(torch.equal(p, second.parameters[name]) for name, p in first.parameters.items())
    other = build(tiny_run(results), (1,), torch.device("cpu"))
    assert [batch(first, step) for step in range(4)] != [batch(other, step) for step in range(4)]
    epoch = [i for step in range(2) for i in batch(first, step)]
    assert sorted(epoch) == list(range(6))


def test_the_gradient_is_clipped(results: Path) -> None:
    free = build(tiny_run(results, "nce", "trainer.gradient_clip=null"), (0,), torch.device("cpu"))
    norm = gradient(free, 0)[1].norm()
    clipped = build(tiny_run(results, "nce", f"trainer.gradient_clip={float(norm) / 2}"), (0,), torch.device("cpu"))
    torch.testing.assert_close(gradient(clipped, 0)[1] * 2, gradient(free, 0)[1], rtol=1e-4, atol=1e-6)


def test_the_feature_cache_changes_no_loss(results: Path, tmp_path: Path) -> None:
    cached = build(tiny_run(results), (0,), torch.device("cpu"))
    gradient(cached, 0)
    assert list((results / "cache").rglob("*/[0-9]*.npz"))
    plain = build(tiny_run(tmp_path, "nce", "task.base.feature_cache_mb=0"), (0,), torch.device("cpu"))
    assert gradient(plain, 0)[0] == pytest.approx(gradient(cached, 0)[0], abs=0)
    assert not (tmp_path / "cache").exists()


def test_the_schedule_is_the_published_one(results: Path) -> None:
    config = compose(["task=detection", "+experiment=coco", "data.root=/nowhere"])
    assert config.trainer.iterations == 60_000 and config.trainer.batch_size == 16
    factor = learner_module._schedule(config.trainer)
    assert factor(0) == pytest.approx(1 / 3) and factor(250) == pytest.approx(2 / 3) and factor(500) == 1
    assert factor(39_999) == 1 and factor(40_001) == pytest.approx(0.1)
    assert factor(49_999) == pytest.approx(0.1) and factor(50_001) == pytest.approx(0.01)
    problem = build(tiny_run(results), (0,), torch.device("cpu"))
    weights, biases = problem.optimizer.param_groups
    assert biases["initial_lr"] == 2 * weights["initial_lr"] and biases["weight_decay"] == 0


def test_a_run_from_start_to_end(tmp_path: Path) -> None:
    config = tiny_run(tmp_path, "nce+", "seeds=2", "task.base.weights=train", "task.base.iterations=1")
    outcome = execute(config, quiet=True)
    assert outcome.state == "done"
    rows = read_csv(outcome.run_dir / "metrics.csv")
    assert [row["seed"] for row in rows] == ["0", "1"]
    for name in ("ap", "val_ap", "base_ap", "nms_ap", "ap_gain_low", "box_nll", "box_nll_k", "energy_evaluations"):
        assert name in rows[0]
    assert float(rows[0]["ap"]) - float(rows[0]["base_ap"]) == pytest.approx(float(rows[0]["ap_gain"]), abs=1e-6)
    detections = json.loads((outcome.run_dir / "detections" / "refined.1.json").read_text())
    assert detections and set(detections[0]) == {"image_id", "category_id", "bbox", "score"}
    assert all(d["bbox"][0] >= 0 and d["bbox"][0] + d["bbox"][2] <= 128.01 for d in detections)
    stages = read_csv(outcome.run_dir / "stages.csv")
    assert [row["stage"] for row in stages] == ["base", "nms", "refined"] * 2
    names = {path.name for path in (outcome.run_dir / "figures").iterdir()}
    assert {"energy.png", "heat.png", "refinement.png", "training.pdf"} <= names
    assert execute(config, quiet=True).existed


def test_matched_detections_are_kept_for_ap_and_its_intervals(tmp_path: Path) -> None:
    """What a run wrote gives the same AP and the same intervals again, without images and weights."""
    small = ["data.num_train=16", "data.num_test=12", "task.base.weights=train", "task.base.iterations=60"]
    config = tiny_run(tmp_path, "nce+", "seeds=2", "task.inference.bootstrap=40", "method.num_samples=16", *small)
    run_dir = execute(config, quiet=True).run_dir
    rows = read_csv(run_dir / "metrics.csv")
    base, heads = records.group(run_dir)
    assert base.metrics["ap"] == pytest.approx(float(rows[0]["base_ap"]), abs=1e-9) and base.metrics["ap"] > 0
    assert [heads[seed].metrics["ap"] for seed in (0, 1)] == pytest.approx([float(row["ap"]) for row in rows], abs=1e-9)
    gain = paired_bootstrap(base, heads[0], ("ap", "ap75"), 40)["ap"]
    assert [gain.low, gain.high] == pytest.approx([float(rows[0][f"ap_gain_{end}"]) for end in ("low", "high")])
    mean = sum(float(row["ap_gain"]) for row in rows) / 2
    assert float(rows[0]["mean_ap_gain"]) == pytest.approx(mean, abs=1e-9)
    assert float(rows[0]["mean_ap_gain_low"]) <= mean <= float(rows[0]["mean_ap_gain_high"])
    steps = read_csv(run_dir / "refinement.csv")
    assert [row["step"] for row in steps] == ["0", "1"] * 2
    assert all(float(row["ap_low"]) <= float(row["ap"]) <= float(row["ap_high"]) for row in steps)


def test_the_history_has_the_loss_on_the_validation_split(results: Path) -> None:
    """The same parameters give the same loss, whatever the step."""
    config = tiny_run(results, "nce+", "trainer.iterations=4")
    problem = build(config, (0,), torch.device("cpu"))
    problem.steps_per_row = 2
    rows: list[dict[str, Any]] = []
    train(problem, callbacks=Callbacks(on_epoch=lambda progress, row: rows.extend(row)))
    assert [row["epoch"] for row in rows] == [1, 2]  # six images in batches of three: two steps are an epoch
    assert all(np.isfinite(row["val_loss"]) for row in rows) and rows[0]["val_loss"] != rows[1]["val_loss"]
    alive = torch.tensor([True])
    again = problem.end_epoch(alive)["val_loss"]
    assert float(again) == rows[1]["val_loss"] and problem.end_epoch(~alive)["val_loss"].isnan().all()
    flat = build(tiny_run(results, "sm"), (0,), torch.device("cpu"))
    with torch.no_grad():
        flat.head.energy.weight.zero_()
    assert float(flat.end_epoch(alive)["val_loss"]) == 0  # score matching of a flat f


def be_rank(rank: int, port: int) -> None:
    """What torchrun sets for one of two processes."""
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )


def _follow(rank: int, port: int, results: str, where: str) -> None:
    be_rank(rank, port)
    torch.set_num_threads(1)
    config = tiny_run(Path(results), "nce+", "trainer.gradient_clip=null")
    if rank:
        follow(config, torch.device("cpu"))
        return
    with distributed.leading(torch.device("cpu")):
        problem = build(config, (0,), torch.device("cpu"))
        with torch.no_grad():
            problem.parameters["fc7.bias"].add_(0.1)  # the other process must take over what rank 0 has
        loss, grads = gradient(problem, 1)
        (row,) = problem.evaluate(Path(where).parent, [False])
    torch.save((loss, grads, row), where)


NOT_FOR_BOXES = ("ml-exact", "pcd")
CASES = [(name,) for name in registry.known("method") if name not in NOT_FOR_BOXES] + [
    ("nce", f"proposal={name}") for name in registry.known("proposal")
]


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_a_step_waits_for_the_device_in_the_pooling_alone(
    case: tuple[str, ...], results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU stands for the device; images and flips are looked up on the host before."""
    problem = build(tiny_run(results, *case), (0,), torch.device("cpu"))
    images, rows, total = problem._examples(batch(problem, 1), 1)
    known: list[str] = []
    monkeypatch.setattr(pooling, "_bucket", noted(known, ".tolist()", pooling._bucket))
    monkeypatch.setattr(
        pooling._KinkPlan, "curvature", noted(known, "aten.nonzero.default", pooling._KinkPlan.curvature)
    )
    with watched("cpu") as found:
        for loss, _ in problem.box_loss.passes(problem._energy(images), rows, total, 1):
            torch.autograd.grad(loss, list(problem.parameters.values()), allow_unused=True)
    assert found and Counter(found) == Counter(known)


def noted(calls: list[str], name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that does the same, and adds a name to a list at each call."""

    def call(*arguments: Any) -> Any:
        calls.append(name)
        return original(*arguments)

    return call


def _check_left() -> None:
    if torch.distributed.is_initialized():  # it would abort now and then as the interpreter ends
        os._exit(3)


def _lead_nothing(rank: int, port: int, results: str) -> None:
    atexit.register(_check_left)  # handlers run last to first: after those that the code registers
    be_rank(rank, port)
    config = tiny_run(Path(results), "nce+", "device=cpu")
    if rank:
        follow(config, torch.device("cpu"))
    else:
        with distributed.leading(torch.device("cpu")):
            pass


def join(processes: Sequence[Any]) -> None:
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0]


def test_the_others_are_let_go_where_nothing_was_left_to_train(tmp_path: Path) -> None:
    port = 28_000 + os.getpid() % 1000
    join([CONTEXT.Process(target=_lead_nothing, args=(rank, port, str(tmp_path))) for rank in (0, 1)])


def test_two_processes_have_the_loss_and_the_scores_of_one(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_run(results, "nce+", "trainer.gradient_clip=null")
    problem = build(config, (0,), torch.device("cpu"))
    with torch.no_grad():
        problem.parameters["fc7.bias"].add_(0.1)
    loss, grads = gradient(problem, 1)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    (row,) = problem.evaluate(tmp_path / "one", [False])
    port = 29_000 + os.getpid() % 1000
    processes = [
        CONTEXT.Process(target=_follow, args=(rank, port, str(results), str(tmp_path / "two" / "got.pt")))
        for rank in (0, 1)
    ]
    join(processes)
    got_loss, got_grads, got_row = torch.load(tmp_path / "two" / "got.pt", weights_only=True)
    assert got_row == pytest.approx(row, rel=0, abs=0, nan_ok=True)
    for name in ("base", "nms", "refined"):
        parts = [tmp_path / folder / "detections" / f"{name}.0.json" for folder in ("one", "two")]
        assert parts[0].read_bytes() == parts[1].read_bytes() and len(json.loads(parts[0].read_text()))
    assert got_loss == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(got_grads, grads, rtol=1e-4, atol=1e-7)


BASE = ["task.base.weights=train", "task.base.iterations=2", "task.base.batch_size=5", "task.base.warmup=1"]


def _base_gradient(rank: int, world: int, port: int, root: str, where: str) -> None:
    """Of one batch, in double precision: with rounding as coarse as it is, other proposals would be chosen."""
    torch.set_num_threads(1)
    if world > 1:
        be_rank(rank, port)
        distributed.join(torch.device("cpu"))
    task = coco_run(Path(root), Path(where).parent, *BASE).task
    dataset = open_split(task.data, "train")
    with base_training.seeded(0):
        worker = base_training.worker_of(task, dataset, torch.device("cpu"), Part(rank, world))
        worker.model.double()
        torch.manual_seed(7)
        loss = worker.gradient(Batch([3, 1, 0, 5, 2], [True, False, False, True, False], [0] * 5, []))
        after = torch.rand(3)
    if rank == 0:
        grads = {name: p.grad for name, p in worker.model.named_parameters()}
        torch.save((loss, grads, dict(worker.model.named_buffers()), after), where)


def test_two_processes_have_the_gradient_of_the_base_detector_of_one(tmp_path: Path) -> None:
    """Five images of different sizes: one process takes three of them, and pads them to what the other has."""
    write_dataset(tmp_path / "data", 6)
    port = 27_000 + os.getpid() % 1000
    _base_gradient(0, 1, port, str(tmp_path / "data"), str(tmp_path / "one.pt"))
    about = 2, port, str(tmp_path / "data"), str(tmp_path / "two.pt")
    join([CONTEXT.Process(target=_base_gradient, args=(rank, *about)) for rank in (0, 1)])
    one, two = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("one", "two"))
    torch.testing.assert_close(two[0].double(), one[0].double(), rtol=1e-6, atol=0)
    assert torch.equal(one[3], two[3]) and one[1].keys() == two[1].keys()
    for name, grad in one[1].items():
        assert (two[1][name] - grad).norm() <= 1e-5 * grad.norm(), name
    for name, value in one[2].items():
        torch.testing.assert_close(two[2][name], value, rtol=1e-5, atol=1e-6)


def _train_base(rank: int, port: int, root: str, results: str) -> None:
    be_rank(rank, port)
    torch.set_num_threads(1)
    config = coco_run(Path(root), Path(results), *BASE)
    if rank:
        follow(config, torch.device("cpu"))
        return
    with distributed.leading(torch.device("cpu")):
        problem = build(config, (0,), torch.device("cpu"))
        assert losses(problem, 1).isfinite()  # the other process goes on to the head


def test_two_processes_train_a_base_detector_and_then_the_head(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", 6)
    port = 26_000 + os.getpid() % 1000
    about = port, str(tmp_path / "data"), str(tmp_path / "two")
    join([CONTEXT.Process(target=_train_base, args=(rank, *about)) for rank in (0, 1)])
    (path,) = (tmp_path / "two" / "base").glob("*/model.pt")
    state = torch.load(path, weights_only=True)
    assert all(value.isfinite().all() for value in state.values())
    assert state["backbone.stem.1.num_batches_tracked"] == 2


def steps_done(run_dir: Path) -> int:
    status = run_dir / "status.json"
    return int(json.loads(status.read_text())["step"] or 0) if status.exists() else 0


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m", "ebmbench"]


@pytest.mark.slow
def test_torchrun_runs_a_multirun(tmp_path: Path) -> None:
    """Two runs, one group of processes; the first process alone tells of them, and all end as they should."""
    overrides = ["-m", *tiny("nce,nce+", "device=cpu", f"results_dir={tmp_path}")]
    done = subprocess.run([*TORCHRUN, *overrides], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"  done", done.stdout, re.MULTILINE)) == 2  # the table at the end
    assert len(re.findall(r"^2 jobs$", done.stderr, re.MULTILINE)) == 1


@pytest.mark.slow
def test_torchrun_stops_at_a_signal_with_a_checkpoint(tmp_path: Path) -> None:
    """The signal goes to every process; the further ones stay until the first has finished its step."""
    overrides = tiny("nce+", "device=cpu", f"results_dir={tmp_path}", "trainer.iterations=100000")
    log = tmp_path / "log"
    with open(log, "w") as file, subprocess.Popen([*TORCHRUN, *overrides], stdout=file, stderr=file) as process:
        try:
            give_up = time.monotonic() + 240
            while not any(steps_done(run_dir) for run_dir in (tmp_path / "runs").glob("detection-*")):
                assert process.poll() is None and time.monotonic() < give_up, log.read_text()
                time.sleep(0.05)
            process.terminate()
            process.wait(60)
        finally:
            process.kill()
    assert "ebmbench: stopped by SIGTERM; a checkpoint is in" in log.read_text()
    (run_dir,) = (tmp_path / "runs").glob("detection-*")
    assert read_state(run_dir) == "interrupted" and (run_dir / "training.0.ckpt").exists()


def write_dataset(root: Path, count: int = 4) -> None:
    """A small dataset in COCO's format, images of different sizes, category ids 5 and 20."""
    (root / "train2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    rng = np.random.default_rng(0)
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 5, "name": "a"}, {"id": 20, "name": "b"}],
    }
    for number in range(count):
        width, height = 90 + 10 * number, 110 - 5 * number
        pixels = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "train2017" / f"{number}.png")
        content["images"].append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
        for box in ([10, 20, 30, 25], [40, 30, 35, 40]):
            content["annotations"].append({"image_id": number, "category_id": 20, "bbox": box, "iscrowd": 0})
    for split in ("train", "val"):
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    (root / "val2017").symlink_to(root / "train2017")


def coco_run(root: Path, results: Path, *more: str) -> RunConfig:
    tail = [o for o in TINY[5:] if not o.startswith("data")]
    return compose(
        [
            "task=detection", "data=coco", f"data.root={root}", "data.name=mine", "method=nce",
            "task.base.architecture=small", "task.base.weights=none", "data.short_side=96",
            "data.long_side=128", "method.num_samples=4", *tail, f"results_dir={results}", *more,
        ]
    )  # fmt: skip


def test_a_class_that_training_lacks_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    path = tmp_path / "data" / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["categories"].append({"id": 21, "name": "dog"})
    path.write_text(json.dumps(content))
    config = coco_run(tmp_path / "data", tmp_path / "results", "task.base.weights=train")
    with pytest.raises(UserError, match=r"class 'dog' of the val split .* is not in the training split"):
        build(config, (0,), torch.device("cpu"))
    assert not (tmp_path / "results" / "base").exists()


def test_a_base_that_finds_nothing_is_a_result(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    outcome = execute(coco_run(tmp_path / "data", tmp_path, "task.inference.score_threshold=0.99"), quiet=True)
    (row,) = read_csv(outcome.run_dir / "metrics.csv")
    assert outcome.state == "done" and float(row["ap"]) == float(row["mean_ap_gain"]) == 0


def test_a_folder_in_cocos_format(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    outcome = execute(coco_run(tmp_path / "data", tmp_path / "results"), quiet=True)
    assert outcome.state == "done"
    detections = json.loads((outcome.run_dir / "detections" / "nms.0.json").read_text())
    assert {d["category_id"] for d in detections} <= {5, 20}


def test_a_corrupt_image_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    (tmp_path / "data" / "train2017" / "2.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"2\.png, image 2 of instances_train2017\.json"):
        execute(coco_run(tmp_path / "data", tmp_path / "results"), quiet=True)
    allowed = coco_run(tmp_path / "data", tmp_path / "results", "data.skip_bad_images=true")
    assert execute(allowed, quiet=True).state == "done"


def test_edited_images_are_new_data_with_features_of_their_own(tmp_path: Path) -> None:
    """The cache of features held those of other images once, in silence."""
    write_dataset(tmp_path / "data")
    config = coco_run(tmp_path / "data", tmp_path / "results")
    first = config.run_hash
    before = build(config, (0,), torch.device("cpu"))
    kept = before.frozen.train.load([(0, False)])[0]
    for path in (tmp_path / "data" / "train2017").glob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)) // 2).save(path)
    edited = coco_run(tmp_path / "data", tmp_path / "results")
    assert edited.run_hash != first
    task_module._frozen.cache_clear()
    after = build(edited, (0,), torch.device("cpu"))
    found = after.frozen.train.load([(0, False)])[0]
    assert kept is not None and found is not None and not torch.equal(kept.maps[0], found.maps[0])


def test_a_class_has_one_name_in_all_splits(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    path = tmp_path / "data" / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["categories"][1]["name"] = "other"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"category 20 is 'b' in the training split and 'other' in the val split"):
        build(coco_run(tmp_path / "data", tmp_path / "results"), (0,), torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "tiny_coco").is_dir(), reason="tiny_coco is not at hand (EBMBENCH_SHARED_DATA)")
def test_the_published_recipe_starts_on_tiny_coco(tmp_path: Path) -> None:
    """Its network, image size, samples and optimiser; two images a batch, two iterations, and random weights."""
    config = compose(
        [
            "+experiment=coco", "method=nce+", f"data.root={SHARED / 'tiny_coco'}", "task.base.weights=none",
            f"results_dir={tmp_path}", "trainer.batch_size=2",
        ]
    )  # fmt: skip
    problem = build(config, (0,), torch.device("cpu"))
    assert config.method.name == "nce+"
    assert sum(p.numel() for p in problem.parameters.values()) > 13e6
    for step in range(2):
        loss = losses(problem, step)
        problem.optimizer.zero_grad()
        loss.sum().backward()
        problem.optimizer.step()
        assert torch.isfinite(loss).all()


def test_frozen_layers_stay_and_the_other_order_of_nms_is_scored_too(tmp_path: Path) -> None:
    words = "task.head.frozen=true", "task.inference.accept=true"
    config = tiny_run(tmp_path, "nce", *words, "task.inference.other_order=true")
    outcome = execute(config, quiet=True)
    (row,) = read_csv(outcome.run_dir / "metrics.csv")
    other = execute(tiny_run(tmp_path, "nce", *words, "task.inference.nms_order=score"), quiet=True)
    (expected,) = read_csv(other.run_dir / "metrics.csv")
    assert float(row["other_ap"]) == float(expected["head_ap"]) and float(row["other_accepted"]) in (-1, 0, 1)
    assert [float(row[f"other_gain{end}"]) for end in ("", "_low", "_high")] == [
        float(expected[f"head_gain{end}"]) for end in ("", "_low", "_high")
    ]
    start, trained = build(config, (0,), torch.device("cpu")).head, ebmbench.load(outcome.run_dir)[0].head
    same = {name: torch.equal(value, trained.state_dict()[name]) for name, value in start.state_dict().items()}
    assert {name for name, is_same in same.items() if not is_same} == {"energy.weight", "energy.bias"}


# ------------------------------------------------------------------------------------------------- images read ahead


def test_what_is_expected_is_read_once_and_what_is_not_wanted_is_let_go(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    split = open_split(coco_run(tmp_path, tmp_path, "data.workers=2").task.data, "train")
    ahead = ReadAhead(split)
    read: list[int] = []
    load = split.load
    split.load = lambda index: read.append(index) or load(index)  # type: ignore[method-assign,func-returns-value]
    ahead.expect([0, 1])
    ahead.expect([1, 2])
    found = [ahead.load(index) for index in (1, 2, 3)]
    assert sorted(read)[-3:] == [1, 2, 3] and read.count(1) == 1
    for index, example in zip((1, 2, 3), found, strict=True):
        assert example is not None and torch.equal(example.image, load(index).image)


def test_images_in_memory_need_no_thread() -> None:
    assert ReadAhead(open_split(tiny_run(Path("results")).task.data, "train"))._pool is None


def test_the_number_of_threads_changes_no_result(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    seen = []
    for workers in (0, 2):
        results = tmp_path / str(workers)
        short = f"data.workers={workers}", "task.base.iterations=3", "task.base.batch_size=2"
        config = coco_run(tmp_path / "data", results, *short, "task.base.feature_cache_mb=0")
        problem = build(config, (0,), torch.device("cpu"))
        results.mkdir(exist_ok=True)
        scores = problem.evaluate(results, [False])[0]
        dataset = open_split(config.task.data, "train")
        weights = base_training.train_base(config.task, dataset, torch.device("cpu"))[0].state_dict()
        seen.append((config.run_hash, [losses(problem, step).item() for step in range(3)], scores, weights))
    (first, some, scores, weights), (second, others, other_scores, other_weights) = seen
    assert first == second and some == others and scores == pytest.approx(other_scores, rel=0, abs=0, nan_ok=True)
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named_when_it_is_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    write_dataset(tmp_path)
    monkeypatch.setattr(data, "CHECKED_IMAGES", 0)
    path = tmp_path / "train2017" / "2.png"
    path.write_bytes(path.read_bytes()[:200])
    short = f"data.workers={workers}", "task.base.iterations=3", "task.base.batch_size=2"
    config = coco_run(tmp_path, tmp_path / "results", *short)
    with pytest.raises(UserError, match=r"2\.png, image 2 of instances_train2017\.json"):
        base_training.train_base(config.task, open_split(config.task.data, "train"), torch.device("cpu"))
    allowed = coco_run(tmp_path, tmp_path / "results", *short, "data.skip_bad_images=true")
    split = open_split(allowed.task.data, "train")
    base_training.train_base(allowed.task, split, torch.device("cpu"))
    assert split.load(2) is None
