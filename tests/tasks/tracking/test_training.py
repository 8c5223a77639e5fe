"""Tracking as a problem: a run from start to end, and a loss that depends on nothing but step and parameters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image

import ebmbench
from ebmbench.boxes.coordinates import to_boxes
from ebmbench.config.compose import compose
from ebmbench.config.run import RunConfig
from ebmbench.core.errors import UserError
from ebmbench.engine.execute import execute
from ebmbench.engine.train import Training
from ebmbench.report.frame import find
from ebmbench.tasks.detection.architectures import architecture
from ebmbench.tasks.tracking.figures import sequences as sequences_figure
from ebmbench.tasks.tracking.learner import TrackingLearner
from ebmbench.tasks.tracking.refiner import Refiner
from ebmbench.tasks.tracking.scores import overlap
from ebmbench.tasks.tracking.videos import Video, box_lines

METHODS = ("ml-is", "kld-is", "ml-mcmc", "nce", "nce+", "sm", "dsm", "nce-binary", "snl", "ed", "ssm", "mdsm")


def config(results: Path, method: str = "nce+", *more: str) -> RunConfig:
    words = ["task=tracking", "+experiment=smoke", f"method={method}", "device=cpu"]
    return compose([*words, f"results_dir={results}", *more])


def learner(made: RunConfig) -> TrackingLearner:
    found = made.task.learner(made.setup, (0,), torch.device("cpu"))
    assert isinstance(found, TrackingLearner)
    return found


def write(root: Path, video: Video, boxes: int) -> None:
    """A sequence in OTB's layout."""
    (root / video.name / "img").mkdir(parents=True)
    for number, frame in enumerate(video.made, 1):
        Image.fromarray(frame).save(root / video.name / "img" / f"{number:04d}.png")
    (root / video.name / "groundtruth_rect.txt").write_text(box_lines(video.boxes[:boxes], 1))


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sequences: one with all true boxes, one with fewer, one with the first alone."""
    root = tmp_path_factory.mktemp("sequences")
    videos = config(root).task.data.test()["made"]
    for video, boxes in zip((*videos, videos[0]), (6, 4, 1), strict=True):
        name = video.name if boxes > 1 else "own"
        write(root, Video(name, (), video.boxes, made=video.made), boxes)
    return root


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_boxes_trains(method: str, tmp_path: Path) -> None:
    training = Training(learner(config(tmp_path, method)))
    before = [p.detach().clone() for p in training.learner.parameters.values()]
    training.step()
    changed = [not torch.equal(a, b) for a, b in zip(before, training.learner.parameters.values(), strict=True)]
    assert any(changed) and all(p.isfinite().all() for p in training.learner.parameters.values())


def test_methods_that_need_what_boxes_lack_are_refused(tmp_path: Path) -> None:
    for method in ("ml-exact", "pcd"):
        with pytest.raises(UserError, match=method):
            learner(config(tmp_path, method))


def test_the_loss_is_a_function_of_the_step(tmp_path: Path) -> None:
    first, again = (Training(learner(config(tmp_path))) for _ in range(2))
    assert torch.equal(first.losses(1), again.losses(1))
    assert not torch.equal(first.losses(1), first.losses(2))


def test_true_boxes_of_pairs_are_where_the_target_is(tmp_path: Path) -> None:
    """The template's own box in the search crop's coordinates has the size of the target there."""
    made = learner(config(tmp_path))
    pairs = made._pairs(made.train_videos[:3], made.on_host.at(0))
    side = made.task.model.crop
    for boxes in (pairs.template_boxes, pairs.search_boxes):
        sides = boxes[:, 2:] - boxes[:, :2]
        assert (boxes[:, :2] > -0.6 * side).all() and (boxes[:, 2:] < 1.6 * side).all()
        assert ((sides.prod(1).sqrt() > 0.2 * side) & (sides.prod(1).sqrt() < 0.8 * side)).all()


def test_refinement_climbs_to_the_top_of_f(tmp_path: Path) -> None:
    """With f = −‖y‖²/2 around a known box, the mean of the best candidates is near it."""
    made = learner(config(tmp_path, "nce", "task.refinement.candidates=10", "task.refinement.steps=20"))
    video = made.task.data.test()["made"][0]
    goal = torch.tensor([30.0, 20, 70, 60])

    class Quadratic(torch.nn.Module):
        bins = 1

        def energy(self, pyramid, reference, images, vectors, temperature=1.0):
            f = made.net.energy(pyramid, reference, images, vectors)
            f._values = lambda y, rows: (
                -0.01 * (to_boxes(y.double(), f.reference[rows]) - goal).square().sum(-1).float()
            )
            return f

        look, pyramid = made.net.look, made.net.pyramid

    net = Quadratic()
    net.weight = torch.nn.Parameter(torch.zeros(1))
    refiner = Refiner(net, made.task.model, made.task.refinement, 0.05, 0)  # type: ignore[arg-type]
    start = np.array([[100.0, 60, 150, 120]])
    box = refiner.refined([video.made[0]], start, refiner.look(video.made[0], video.boxes[0]), [1])
    crop = refiner.crop(video.made[0], start[0])
    end, begin = (overlap(crop.into(part[None]), goal.double().numpy()[None])[0] for part in (box[0], start[0]))
    assert begin < 0.3 and end > 0.75


def test_open_and_closed_loops_start_at_different_boxes(tmp_path: Path) -> None:
    """Without steps or candidates a refined box is its start: the coarse box, or the one before."""
    still = ("task.refinement.steps=0", "task.refinement.candidates=1", "task.refinement.best=1")
    for loop in ("open", "closed"):
        made = learner(config(tmp_path, "nce", f"task.refinement.loop={loop}", *still))
        video = made.task.data.test()["made"][0]
        coarse = video.boxes + np.arange(6)[:, None]
        track = Refiner(made.net, made.task.model, made.task.refinement, 1e-3, 0).track(video, coarse)
        expected = np.concatenate((video.boxes[:1], coarse[1:])) if loop == "open" else video.boxes[:1].repeat(6, 0)
        assert track == pytest.approx(expected, abs=1e-3)


def test_a_folder_with_nothing_to_score_is_refused(tmp_path: Path) -> None:
    video = config(tmp_path).task.data.test()["made"][0]
    write(tmp_path / "own", video, 1)
    with pytest.raises(UserError, match="nothing to score"):
        config(tmp_path, "nce", f"data.root={tmp_path / 'own'}").task.data.test()


def test_a_run_scores_folder_and_made_videos_and_predicts(sequences: Path, tmp_path: Path) -> None:
    made = config(tmp_path, "nce+", f"data.root={sequences}", "data.name=mine", "seeds=2")
    run_dir = execute(made, quiet=True).run_dir
    rows = pd.read_csv(run_dir / "metrics.csv")
    assert list(rows["sequences"]) == [2, 2] and list(rows["made_sequences"]) == [2, 2]  # `own` has one box
    assert rows[["auc", "gain", "made_gain", "noise_gain", "mean_gain_low", "coverage"]].notna().all(None)
    table = pd.read_csv(run_dir / "sequences.csv")
    assert set(table["sequence"]) == {"made-0", "made-1"} and set(table["set"]) == {"mine", "made"}
    coarse = table[(table["set"] == "mine") & (table["stage"] == "coarse") & (table["seed"] == 0)]
    assert rows["coarse_auc"][0] == pytest.approx(coarse["auc"].mean())
    assert (run_dir / "tracks" / "mine" / "own.1.txt").read_text().count("\n") == 6
    assert {path.name for path in (run_dir / "figures").glob("*.png")} == {"frames.png", "curves.png", "training.png"}
    (figure,) = sequences_figure(find([str(run_dir)], tmp_path))
    assert figure.data["gain"].notna().all() and len(figure.panels) == 2
    pytest.importorskip("cv2")
    out = tmp_path / "track.csv"
    model = ebmbench.load(run_dir)[0]
    made.task.predict_files({0: model}, [sequences / "own"], out, 0.9)
    track = pd.read_csv(out)
    assert len(track) == 6 and out.with_suffix(".mp4").stat().st_size > 1000
    assert (track["x1_low"] <= track["x1_high"]).all()
    with pytest.raises(UserError, match="no video"):
        made.task.predict_files({0: model}, [out], out, 0.9, box=(1, 2, 3, 4))


@pytest.mark.parametrize("name", ["resnet18", "detector"])
def test_frozen_backbones_come_from_files(name: str, tmp_path: Path) -> None:
    if name == "resnet18":
        state = torchvision.models.resnet18().state_dict()
    else:
        state = architecture("small").build(3, 128, 128).state_dict()
    torch.save(state, tmp_path / "weights.pt")
    words = (f"task.model.backbone={name}", f"task.model.weights={tmp_path / 'weights.pt'}")
    training = Training(learner(config(tmp_path, "nce", *words)))
    assert not any(key.startswith("backbone") for key in training.learner.parameters)
    assert training.losses(0).isfinite().all()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["task.model.backbone=resnet18"], "task.model.weights is the file"),
        (["task.model.weights=x.pt"], "task.model.weights is the file"),
        (["task.model.backbone=resnet18", "task.model.weights=x.pt"], r"x\.pt cannot be read"),
        (["task.refinement.best=9"], "best=9 is not allowed"),
        (["task.coarse=nowhere"], r"task\.coarse=nowhere is not allowed"),
        (["data.root=nowhere"], "nowhere is not there"),
    ],
)
def test_mistakes_are_named(words: list[str], text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=text):
        execute(config(tmp_path, "nce", *words), quiet=True)
