"""`ebmbench predict`: a table in, a row of predictions for each of its rows out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import ebmbench
from ebmbench.cli.main import main
from ebmbench.core.errors import UserError
from ebmbench.supports.measure import BaseDensity
from ebmbench.supports.real import Real
from ebmbench.supports.targets import Axis
from ebmbench.tasks.regression.density import Density
from ebmbench.tasks.regression.model import RegressionModel
from ebmbench.tasks.regression.prediction import NUMBERS
from ebmbench.tasks.regression.quadrature import GridDensity


def houses(count: int) -> pd.DataFrame:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"size": random.uniform(30, 200, count), "city": random.choice(["Ulm", "Bonn"], count)})
    frame["year"] = np.where(random.random(count) < 0.1, np.nan, random.integers(1900, 2020, count))
    frame["price"] = 3 * frame["size"] + 50 * (frame["city"] == "Ulm") + random.normal(0, 20, count)
    frame["rent"] = frame["price"] / 10 + random.normal(0, 5, count)
    return frame


def trained(folder: Path, targets: str, *more: str) -> Path:
    houses(120).to_csv(folder / "houses.csv", index=False)
    return ebmbench.run(
        "task=regression", "data=table", f"data.path={folder}/houses.csv", f"data.targets={targets}", "method=nce",
        "+experiment=smoke", "seeds=2", f"results_dir={folder}", *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("one"), "price", "data.ignore=rent")


def predict(run_dir: Path, frame: pd.DataFrame, folder: Path, *more: str) -> tuple[int, pd.DataFrame]:
    frame.to_csv(folder / "new.csv", index=False)
    code = main(["predict", str(run_dir), str(folder / "new.csv"), "-o", str(folder / "out.csv"), *more])
    return code, pd.read_csv(folder / "out.csv") if code == 0 else pd.DataFrame()


def test_weights_of_another_network_are_refused(run_dir: Path) -> None:
    model = ebmbench.load(run_dir)[0]
    network, base, parameters, seeds, plain, backend = model._made_from
    with pytest.raises(UserError, match=r"holds \d+ weights and its network has \d+: another version"):
        RegressionModel(network.model_copy(update={"relative": True}), base, parameters, seeds, plain, backend)


def test_each_row_has_the_numbers_of_the_mixture_of_the_seeds(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = houses(40).drop(columns="rent")
    new.loc[3, "price"] = np.nan
    code, out = predict(run_dir, new, tmp_path, "--level", "0.5")
    numbers = ["row", "mean", "median", "mode", "std", "low", "high"]
    assert code == 0 and list(out) == [*numbers, "modes", "region", "outside", "log_prob"]
    model = RegressionModel.mixture(list(ebmbench.load(run_dir).values()))
    assert len(model.seeds) == 2
    low, high = model.interval(new, 0.5)
    for modes, region, own, pieces in zip(
        out["modes"], out["region"], model.modes(new), model.region(new, 0.5), strict=True
    ):
        np.testing.assert_allclose(json.loads(modes), own, rtol=1e-5)
        np.testing.assert_allclose(json.loads(region), pieces.pieces, rtol=1e-5)
    for name, expected in (("mean", model.mean(new)), ("mode", model.mode(new)), ("low", low), ("high", high)):
        np.testing.assert_allclose(out[name], expected, rtol=1e-6, err_msg=name)
    assert out["log_prob"].isna().tolist() == [row == 3 for row in range(40)]
    known = new.drop(index=3)
    np.testing.assert_allclose(out["log_prob"].drop(index=3), model.log_prob(known, known["price"]), rtol=1e-6)
    assert "has no number" in capsys.readouterr().err  # of `year`


def test_the_mixture_of_seeds_is_the_mean_of_their_densities(run_dir: Path) -> None:
    new, models = houses(5), list(ebmbench.load(run_dir).values())
    mixture = RegressionModel.mixture(models)
    y = torch.linspace(0, 800, 9)
    each = torch.stack([model.density(new, y) for model in models]).mean(0)
    torch.testing.assert_close(mixture.density(new, y), each, rtol=1e-6, atol=1e-9)
    at = torch.full((5,), 300.0)
    cdf = torch.stack([model.cdf(new, at) for model in models]).mean(0)
    torch.testing.assert_close(mixture.cdf(new, at), cdf, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(mixture.mean(new), torch.stack([m.mean(new) for m in models]).mean(0), rtol=1e-4, atol=0)


def test_mixed_grids_have_the_mixture_s_quantiles() -> None:
    y = torch.linspace(-8, 8, 801, dtype=torch.float64)
    normal = torch.distributions.Normal(torch.tensor([[-2.0], [2.0]], dtype=torch.float64), 0.5)
    both, _ = Density.of(
        Axis(Real(), 0.0, 1.0, (), BaseDensity()), GridDensity(y.repeat(2, 1), normal.log_prob(y)), None
    )
    mixed = Density.mixture(both.split(2))
    assert mixed.quantile(torch.tensor([0.25, 0.5, 0.75])).squeeze(0).tolist() == pytest.approx([-2, 0, 2], abs=1e-2)
    assert mixed.std.item() == pytest.approx(4.25**0.5, rel=1e-3)


def test_columns_are_found_by_their_names_and_what_is_odd_is_said(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = houses(30).drop(columns="price")
    _, plain = predict(run_dir, new, tmp_path)
    assert "log_prob" not in plain
    odd = new[["rent", "year", "city", "size"]].assign(note="x")
    odd["city"] = odd["city"].where(odd.index != 4, "Rome")
    odd["size"] = odd["size"].astype(object).where(odd.index != 5, "large")
    capsys.readouterr()
    code, out = predict(run_dir, odd, tmp_path)
    said = capsys.readouterr().err
    assert code == 0 and "not used: rent, note" in said
    assert "'Rome' in row 4" in said and "'large' in row 5" in said
    same = ~out["row"].isin([4, 5])
    pd.testing.assert_frame_equal(out[same], plain[same])
    assert not np.isclose(out["mean"][4], plain["mean"][4]) and np.isfinite(out.drop(columns=["modes", "region"])).all(
        axis=None
    )


def test_rows_with_mass_where_no_target_was_are_counted(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    new = houses(4).drop(columns=["price", "rent"])
    _, out = predict(run_dir, new, tmp_path)
    model = RegressionModel.mixture(list(ebmbench.load(run_dir).values()))
    low, high = (float(model.scaling.raw_y(end)) for end in model._conditionals.targets.range.widened)
    prices = houses(120)["price"]
    assert prices.min() - 0.1 * np.ptp(prices) <= low < prices.quantile(0.1) < prices.quantile(0.9) < high
    ends = [model.cdf(new, torch.full((4,), end)) for end in (low, high)]
    np.testing.assert_allclose(out["outside"], ends[0] + 1 - ends[1], rtol=1e-4)
    capsys.readouterr()
    summary = RegressionModel.summary_of
    monkeypatch.setattr(
        RegressionModel, "summary_of", lambda *a: summary(*a) | {"outside": torch.tensor([0.0, 0.02, 0.3, 0.0])}
    )
    assert predict(run_dir, new, tmp_path)[0] == 0
    assert "2 rows have more than 1% of the density beyond the range" in capsys.readouterr().err


def test_several_targets_have_a_group_of_columns_each(tmp_path: Path) -> None:
    run_dir = trained(tmp_path, "[price,rent]")
    code, out = predict(run_dir, houses(6), tmp_path)
    assert code == 0
    groups = [f"{name}_{target}" for target in ("price", "rent") for name in NUMBERS]
    assert list(out) == ["row", *groups, "outside", "log_prob"]
    assert (out["low_rent"] < out["high_rent"]).all() and np.isfinite(out["log_prob"]).all()
    assert (run_dir / "figures" / "calibration.png").is_file()  # named targets reach the figures too


def test_several_files_and_parquet(run_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    houses(4).to_parquet(tmp_path / "a.parquet")
    houses(4)[:3].to_csv(tmp_path / "b.csv", index=False)
    files = [str(tmp_path / "a.parquet"), str(tmp_path / "b.csv")]
    assert main(["predict", str(run_dir), *files, "--out", str(tmp_path / "out.parquet")]) == 0
    out = pd.read_parquet(tmp_path / "out.parquet")
    assert out["file"].tolist() == ["a.parquet"] * 4 + ["b.csv"] * 3
    assert out["mean"][:3].tolist() == pytest.approx(out["mean"][4:].tolist())


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--level", "1.5"], "--level=1.5 is not allowed"),
        (["--level", "much"], "--level=much is not allowed"),
        (["--out", "out.xlsx"], "'out.xlsx' is not allowed"),
        (["--out", "nowhere/out.csv"], "cannot be written"),
        (["--out", "new.csv"], "is a file of inputs"),
        (["RUN"], "predict takes one run, and "),
    ],
)
def test_a_wrong_option_ends_in_one_sentence(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    more: list[str], sentence: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    houses(3).to_csv("new.csv", index=False)
    more = [str(run_dir) if word == "RUN" else word for word in more]
    assert main(["predict", str(run_dir), "new.csv", "-o", "out.csv", *more]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("size,year\n3,4\n", "new.csv: the table lacks the column 'city'"),
        ("x,z\n3,4\n", "new.csv: the table has none of the model's columns, which are "),
        ("size,city,year\n80 m²,Ulm,\n90 m²,Ulm,\n", "the column 'size' holds no number (but '80 m²')"),
        ("", "is no CSV file"),
        ("size,city,year\n", "holds no rows"),
        ("size,city,year,size\n1,2,3,4\n", "2 columns named 'size'"),
        ("a\0b", "is no CSV file"),
    ],
)
def test_a_file_that_does_not_fit_ends_in_one_sentence(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, sentence: str
) -> None:
    (tmp_path / "new.csv").write_text(text)
    assert main(["predict", str(run_dir), str(tmp_path / "new.csv"), "-o", str(tmp_path / "out.csv")]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1 and not (tmp_path / "out.csv").exists()
