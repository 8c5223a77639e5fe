"""The base detector: trained once under its key, loaded safely, and equal to torchvision's own detections."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torchvision.models import resnet50
from torchvision.ops import batched_nms

from ebmbench.boxes.coordinates import flip_boxes
from ebmbench.core import plugins
from ebmbench.core.errors import UserError
from ebmbench.system import checkpoint
from ebmbench.system.interrupt import Interrupted
from ebmbench.tasks.detection import architectures, base, base_training
from ebmbench.tasks.detection.augmentation import changed
from ebmbench.tasks.detection.config import BaseConfig
from ebmbench.tasks.detection.data import Example, ShapesData, ShapesDataset, open_split
from ebmbench.tasks.detection.task import DetectionTask
from tests.processes import CONTEXT


def task_config(data: dict[str, Any] | None = None, base_settings: dict[str, Any] | None = None) -> DetectionTask:
    shapes = {
        "name": "shapes", "data_seed": 0, "num_train": 8, "num_val": 4, "num_test": 4, "annotation_noise": 0.0,
        "short_side": 128, "long_side": 128, "eval_split": "test",
    }  # fmt: skip
    settings = {
        "architecture": "small", "weights": "train", "iterations": 2, "batch_size": 2, "learning_rate": 1e-3,
        "weight_decay": 0.01, "warmup": 1, "seed": 0, "feature_cache_mb": 0,
    }  # fmt: skip
    made = ShapesData.model_validate({**shapes, **(data or {})})
    return DetectionTask.model_validate(
        {
            "data": made,
            "base": {**settings, **(base_settings or {})},
            "head": {"activation": "relu", "from_base": True, "keep_level": True},
            "inference": {
                "score_threshold": 0.05, "nms_threshold": 0.5, "max_detections": 100, "steps": 2,
                "step_centre": 1e-3, "step_size": 1e-3, "bootstrap": 10,
                "nll_boxes": 4, "nll_samples": 8,
            },
        }
    )  # fmt: skip


def _train(folder: str) -> None:
    torch.set_num_threads(1)
    base.load_base(task_config(), Path(folder), "cpu")


def test_two_processes_train_one_detector_and_the_next_finds_it(tmp_path: Path) -> None:
    processes = [CONTEXT.Process(target=_train, args=(str(tmp_path),)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    folders = [path for path in (tmp_path / "base").iterdir() if path.is_dir()]
    assert [path.name for path in folders] == [base.base_key(task_config())]
    written = (folders[0] / "model.pt").stat().st_mtime_ns
    detector = base.load_base(task_config(), tmp_path, "cpu")
    assert (folders[0] / "model.pt").stat().st_mtime_ns == written
    assert detector.category_ids == (1, 2, 3, 4, 5) and not detector.model.training
    assert not any(p.requires_grad for p in detector.model.parameters())
    assert json.loads((folders[0] / "artefact.json").read_text())["facts"]["parameters"] < 2_000_000


def test_training_is_a_function_of_its_seed() -> None:
    config = task_config()
    dataset = open_split(config.data, "train")
    before = torch.get_rng_state()
    first, second = (base_training.train_base(config, dataset, "cpu")[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(before, torch.get_rng_state())
    other = base_training.train_base(task_config(base_settings={"seed": 1}), dataset, "cpu")[0].state_dict()
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_base_may_be_trained_on_other_images() -> None:
    other, same = task_config({"base_seed": 1}), task_config()
    assert base.base_key(other) == base.base_key(task_config({"data_seed": 1})) != base.base_key(same)
    assert other.identity() != same.identity() and "base_seed" not in same.data.identity()


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("how", ["kill", "signal"])
def test_a_stopped_training_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Stopped inside its fifth step, within the second permutation of the images; its last save is a step old."""
    monkeypatch.setattr(base_training, "CHECKPOINT_SECONDS", 0.0 if how == "kill" else 60.0)
    config = task_config({"num_train": 7}, {"iterations": 7})

    def stop_at(call: int) -> None:
        real, calls = ShapesDataset.load, iter(range(1000))

        def load(self: ShapesDataset, index: int) -> Example:
            if next(calls) == call:
                if how == "kill":
                    raise _Killed
                os.kill(os.getpid(), signal.SIGUSR1)
            return real(self, index)

        patch.setattr(ShapesDataset, "load", load)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = base.load_base(config, tmp_path / "whole", "cpu").model.state_dict()
        with monkeypatch.context() as patch, pytest.raises(_Killed if how == "kill" else Interrupted):
            stop_at(9)
            base.load_base(config, tmp_path / "stopped", "cpu")
        saved = checkpoint.load(tmp_path / "stopped" / "base" / f"{base.base_key(config)}.ckpt")
        assert saved is not None and saved["step"] == (4 if how == "kill" else 5)
        torch.rand(3)  # where the generators stand when it goes on is of no account
        again = base.load_base(config, tmp_path / "stopped", "cpu").model.state_dict()
    finally:
        torch.set_num_threads(threads)
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)
    assert not list((tmp_path / "stopped" / "base").glob("*.ckpt*"))


def test_the_key_follows_what_makes_the_detector_and_nothing_else() -> None:
    key = base.base_key(task_config())
    assert key == base.base_key(
        task_config({"eval_split": "val", "num_test": 9, "num_val": 7}, {"feature_cache_mb": 5})
    )
    assert key != base.base_key(task_config(base_settings={"iterations": 3}))
    assert key != base.base_key(task_config({"annotation_noise": 0.1}))


@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_candidates_with_nms_are_torchvisions_detections(tmp_path: Path, name: str) -> None:
    """NMS of the candidates by score, best 100, mapped back: what the torchvision model itself returns."""
    config = task_config({"short_side": 96, "long_side": 128}, {"weights": "none", "architecture": name})
    detector = base.load_base(config, tmp_path, "cpu")
    logits = getattr(getattr(detector.model, "head", None), "classification_head", None)
    if logits is not None:  # one-stage detectors start with scores of nearly nothing
        torch.nn.init.normal_(logits.cls_logits.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)  # some images have scores that are equal but for rounding
    images = [
        torch.randint(0, 256, (3, 128, 128), dtype=torch.uint8, generator=generator),
        torch.randint(0, 256, (3, 100, 150), dtype=torch.uint8, generator=generator),
    ]
    made = detector.candidates(images, score_threshold=0.05)
    overlap = 0.5
    if logits is not None:
        overlap = 1.0  # none: many pairs of regular places overlap by 0.5 to the last bit
        detector.model.score_thresh, detector.model.nms_thresh, detector.model.detections_per_img = 0.05, overlap, 100
    expected = [detector.model([image / 255])[0] for image in images]
    for image, (features, found), want in zip(images, made, expected, strict=True):
        size = features.size
        keep = batched_nms(found.boxes, found.scores, found.labels, overlap)[:100]
        scale = torch.tensor([image.shape[2] / size[1], image.shape[1] / size[0]]).repeat(2)
        # One-stage detectors have a score for the background, and boxes without area; neither can be refined.
        sides = (want["boxes"] / scale)[:, 2:] - (want["boxes"] / scale)[:, :2]
        known = (want["labels"] > 0) & (sides >= 1e-2).all(1)
        keep = keep[: int(known.sum())]
        torch.testing.assert_close(found.boxes[keep] * scale, want["boxes"][known], atol=2e-3, rtol=1e-4)
        assert torch.equal(found.labels[keep], want["labels"][known])
    assert len(expected[0]["boxes"]) > 0
    assert [len(features.maps) for features, _ in made] == 2 * [len(detector.strides)]
    assert torch.equal(detector.features(images)[0].maps[0], made[0][0].maps[0])


def test_a_saved_checkpoint_loads_and_others_are_refused(tmp_path: Path) -> None:
    dataset = open_split(task_config().data, "train")
    state = base_training.train_base(task_config(), dataset, "cpu")[0].state_dict()
    torch.save({"model": state, "epoch": 3}, tmp_path / "good.pt")

    def load(name: str, **settings: Any) -> base.BaseDetector:
        return base.load_base(task_config(base_settings={"weights": str(tmp_path / name), **settings}), tmp_path, "cpu")

    assert load("good.pt").category_ids == (1, 2, 3, 4, 5)
    with pytest.raises(UserError, match=r"does not fit task\.base.architecture=resnet50"):
        load("good.pt", architecture="resnet50")
    with pytest.raises(UserError, match=r"neither|not train, coco, none or the path"):
        load("missing.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(UserError, match=r"cannot be loaded|not a checkpoint"):
        load("text.pt")
    torch.save({"weights": [1, 2]}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="holds no model"):
        load("other.pt")
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "linear.pt")
    with pytest.raises(UserError, match="not a torchvision Faster R-CNN, RetinaNet or FCOS"):
        load("linear.pt")
    fewer = architectures.Small().build(4, 128, 128).state_dict()
    torch.save(fewer, tmp_path / "fewer.pt")
    with pytest.raises(UserError, match="knows 3 categories and the dataset has 5"):
        load("fewer.pt")


def test_what_wraps_a_checkpoint_is_taken_off(tmp_path: Path) -> None:
    """Lightning, DDP and safetensors; a checkpoint of another architecture is named."""
    state = architectures.Small().build(6, 128, 128).state_dict()
    torch.save({"state_dict": {f"model.{name}": value for name, value in state.items()}}, tmp_path / "lightning.ckpt")
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "ddp.pt")
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "plain.safetensors")

    def load(name: str, architecture: str = "small") -> base.BaseDetector:
        settings = {"weights": str(tmp_path / name), "architecture": architecture}
        return base.load_base(task_config(base_settings=settings), tmp_path, "cpu")

    for name in ("lightning.ckpt", "ddp.pt", "plain.safetensors"):
        loaded = load(name).model.state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in state.items()), name
    for name in ("resnet50", "resnet50_v2", "retinanet", "fcos"):
        torch.save(architectures.architecture(name).build(6, 96, 96).state_dict(), tmp_path / f"{name}.pt")
        other = "retinanet" if name == "resnet50" else "resnet50"
        with pytest.raises(UserError, match=f"is of task.base.architecture={name}, and {other} is given"):
            load(f"{name}.pt", other)
        assert load(f"{name}.pt", name).category_ids == (1, 2, 3, 4, 5)


class _Names:
    def __init__(self, **names: int) -> None:
        self.categories = {number: name.replace("_", " ") for name, number in names.items()}


def test_coco_s_classes_are_found_by_their_names() -> None:
    ids = base._category_ids(91, _Names(dog=1, person=2, traffic_light=7), "COCO's")  # type: ignore[arg-type]
    assert [ids[label - 1] for label in (1, 10, 18)] == [2, 7, 1]  # COCO's person, traffic light and dog
    assert len(ids) == 90 and len(set(ids)) == 90 and sum(number > 0 for number in ids) == 3
    with pytest.raises(UserError, match="class 'blood cell' is not one of them"):
        base._category_ids(91, _Names(person=1, blood_cell=2), "COCO's")  # type: ignore[arg-type]


class _Trap:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("/tmp/ebmbench-trap"),))


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    torch.save({"model": _Trap()}, tmp_path / "trap.pt")
    with pytest.raises(UserError):
        base.load_base(task_config(base_settings={"weights": str(tmp_path / "trap.pt")}), tmp_path, "cpu")
    assert not Path("/tmp/ebmbench-trap").exists()


def test_unknown_categories_are_named() -> None:
    small = architectures.Small()
    detector = base.BaseDetector(small, small.build(4, 64, 64), [3, 7, 90])
    assert detector.labels(torch.tensor([90, 3, 7, 3])).tolist() == [3, 1, 2, 1]
    with pytest.raises(UserError, match="category 4"):
        detector.labels(torch.tensor([3, 4]))


class Mine(architectures.Small):
    """A detector of one's own."""


def test_an_architecture_of_one_s_own_is_named_by_its_class(tmp_path: Path) -> None:
    mine = task_config(base_settings={"weights": "none", "architecture": f"{__name__}:Mine"})
    assert type(base.load_base(mine, tmp_path, "cpu").kind).__name__ == "Mine"
    for name, words in (("no.such:Thing", "cannot be imported"), (f"{__name__}:_Trap", "is no subclass")):
        with pytest.raises(UserError, match=words):
            architectures.architecture(name)
    with pytest.raises(ValidationError):
        task_config(base_settings={"architecture": "resnet51"})


def test_a_detector_without_a_box_head_gives_an_energy_that_starts_afresh(tmp_path: Path) -> None:
    for name in ("resnet50_v2", "fcos"):
        config = task_config({"short_side": 64, "long_side": 64}, {"weights": "none", "architecture": name})
        detector = base.load_base(config, tmp_path, "cpu")
        assert not detector.has_box_head
        image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
        (features,) = detector.features([image])
        assert [m.shape[-1] * s for m, s in zip(features.maps, detector.strides, strict=True)] == [64] * len(
            features.maps
        )
        first, second = detector.hidden_layers
        assert first.in_features == 49 * len(features.maps[0]) and second.in_features == first.out_features


def test_training_starts_from_a_backbone_or_from_a_detector_of_other_classes(tmp_path: Path) -> None:
    weights = resnet50(weights=None).state_dict()
    torch.save(weights, tmp_path / "imagenet.pth")
    kind = architectures.FasterRCNN50()
    other = kind.build(91, 64, 64)
    torch.save({"model": other.state_dict()}, tmp_path / "coco.pth")
    for name in ("imagenet", "coco"):
        config = BaseConfig(architecture="resnet50", start=str(tmp_path / f"{name}.pth"))
        model: Any = kind.build(3, 64, 64)
        base_training.start_from(model, base.starting_weights(config, kind), config)
        expected = weights["conv1.weight"] if name == "imagenet" else other.backbone.body.conv1.weight
        assert torch.equal(model.backbone.body.conv1.weight, expected)
    assert torch.equal(model.roi_heads.box_head.fc7.weight, other.roi_heads.box_head.fc7.weight)
    assert len(model.roi_heads.box_predictor.cls_score.weight) == 3
    starts = (None, str(tmp_path / "imagenet.pth"))
    assert len({base.base_key(task_config(base_settings={"start": value})) for value in starts}) == 2


def test_what_training_cannot_start_from_is_refused(tmp_path: Path) -> None:
    torch.save(resnet50(weights=None).state_dict(), tmp_path / "imagenet.pth")
    config = BaseConfig(start=str(tmp_path / "imagenet.pth"))
    small = architectures.Small()
    with pytest.raises(UserError, match=r"task\.base\.start=.* does not fit task\.base\.architecture=small"):
        base_training.start_from(small.build(3, 64, 64), base.starting_weights(config, small), config)
    (tmp_path / "text").write_text("no weights")
    with pytest.raises(UserError, match=r"task\.base\.start: .*text is not a checkpoint"):
        base.starting_weights(BaseConfig(start=str(tmp_path / "text")), small)
    with pytest.raises(UserError, match=r"task\.base\.start is 'nowhere', not coco or the path"):
        base.starting_weights(BaseConfig(start="nowhere"), small)
    with pytest.raises(ValidationError, match="has a frozen batch norm, with which random weights do not learn"):
        BaseConfig(architecture="resnet50", weights="train")


def test_the_weights_with_the_best_validation_ap_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    config = task_config(base_settings={"iterations": 10, "patience": 3})
    train, val = (open_split(config.data, split) for split in ("train", "val"))
    seen: list[dict[str, torch.Tensor]] = []

    def ap(config: Any, model: Any, val: Any, train: Any) -> float:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return [10.0, 30.0, 20.0, 25.0, 30.0][len(seen) - 1]

    monkeypatch.setattr(base_training, "validation_ap", ap)
    model, _ = base_training.train_base(config, train, "cpu", val=val)
    assert len(seen) == 5  # three checks after the best one
    assert all(torch.equal(value, seen[1][name]) for name, value in model.state_dict().items())


def test_validation_ap_is_that_of_the_detector() -> None:
    config = task_config()
    train, val = (open_split(config.data, split) for split in ("train", "val"))
    model = architectures.Small().build(6, 128, 128)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    ap = base_training.validation_ap(config, model.train(), val, train)
    assert 0 <= ap <= 100 and model.training and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("augment", ["none", "v2"])
def test_augmentation_is_a_function_of_its_seed_and_keeps_boxes_in_the_image(augment: str) -> None:
    example = open_split(task_config().data, "train").load(0)
    assert example is not None
    same, again, other = (changed(example, True, seed, augment) for seed in (1, 1, 2))
    assert torch.equal(same.image, again.image) and torch.equal(same.boxes, again.boxes)
    assert torch.equal(same.image, other.image) == (augment == "none")
    for seed in range(20):
        one = changed(example, False, seed, augment)
        limit = torch.tensor([one.image.shape[2], one.image.shape[1]]).repeat(2)
        assert one.image.dtype == torch.uint8 and len(one.boxes) == len(one.categories)
        assert (one.boxes >= 0).all() and (one.boxes <= limit).all()
        assert (one.boxes[:, 2:] > one.boxes[:, :2]).all()
    empty = Example(example.image, example.boxes[:0], example.categories[:0])
    assert len(changed(empty, True, 0, augment).boxes) == 0


def test_flip_boxes_is_its_own_inverse() -> None:
    boxes = torch.tensor([[1.0, 2.0, 5.0, 9.0]])
    assert flip_boxes(boxes, 20.0).tolist() == [[15.0, 2.0, 19.0, 9.0]]
    assert torch.equal(flip_boxes(flip_boxes(boxes, 20.0), 20.0), boxes)


def test_an_architecture_of_ones_own_is_a_plug_in_and_nothing_else_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = tmp_path / "proof"
    text = "from ebmbench.tasks.detection.architectures import Small\n\n\nclass Mine(Small):\n    pass\n"
    (tmp_path / "my_network.py").write_text(f"open({str(proof)!r}, 'w').close()\n{text}")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"architecture=my_network:Mine is in a file of your own: name it in plugins="):
        architectures.architecture("my_network:Mine")
    assert not proof.exists()
    plugins.load([str(tmp_path / "my_network.py")])
    assert isinstance(architectures.architecture("my_network:Mine"), architectures.Small)
