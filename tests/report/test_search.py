"""What searches chose, and what to expect of the best of k trials."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from ebmbench.report import search, stats
from ebmbench.report.frame import Results


def trials(val: list[list[float]], test: list[list[float]], draws: int = 1) -> pd.DataFrame:
    """A row per search and trial of one method; nan: it diverged."""
    rows = []
    for draw, repeat, trial in itertools.product(range(draws), range(len(val)), range(len(val[0]))):
        value = val[repeat][trial]
        rows.append(
            {
                "run_id": f"run-{draw}-{repeat}-{trial}",
                "config_hash": f"{repeat}{trial}",
                "task": "1d",
                "dataset": "1",
                "method": "nce",
                "seed": draw * len(val) + repeat,
                "state": "done",
                "error": None,
                "commit": "c",
                "finished": "2026-01-01",
                "data.data_seed": draw,
                "repeat": repeat,
                "trial": trial,
                "trainer.learning_rate": 0.1 * (trial + 1),
                "val_nll": value,
                "d_kl": test[repeat][trial] + draw,
                "diverged": int(np.isnan(value)),
                "trusted": 1,
            }
        )
    return pd.DataFrame(rows)


COLUMNS = ("data.data_seed", "repeat", "trial", "trainer.learning_rate")
VAL = [[3.0, 1.0, 2.0, np.nan], [1.0, 2.0, 3.0, 4.0]]
TEST = [[0.3, 0.1, 0.5, np.nan], [0.2, 0.4, 0.6, 0.8]]


def test_a_search_chooses_by_validation_and_scores_by_test() -> None:
    done = Results("made", trials(VAL, TEST, draws=2), COLUMNS).done
    assert done["d_kl"].tolist() == [0.1, 0.2, 1.1, 1.2] and done["trainer.learning_rate"].tolist() == [0.2, 0.1] * 2
    assert done["seed"].tolist() == [0, 1, 2, 3]  # searches are other ones at each draw
    assert Results("made", trials(VAL, TEST), COLUMNS).axes == ("data.data_seed",)


def test_a_search_whose_trials_all_diverged_counts_as_diverged() -> None:
    none = [[np.nan, np.nan], [1.0, 2.0]]
    done = Results("made", trials(none, none), COLUMNS).done
    assert done["diverged"].tolist() == [1, 0]


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_expected_best_is_the_mean_over_all_choices_of_k(k: int) -> None:
    results = Results("made", trials(VAL, TEST), COLUMNS)
    table = search.best_of(results.trials, results.tasks, results.axes).set_index("k")
    means = []
    for val, test in zip(VAL, TEST, strict=True):
        found = []
        for some in itertools.combinations(range(4), k):
            there = [trial for trial in some if np.isfinite(val[trial])]
            found += [test[min(there, key=lambda trial: val[trial])]] if there else []
        means.append(np.mean(found))
    assert table.loc[k, "mean"] == pytest.approx(np.mean(means))
    assert table.loc[k, ["low", "high"]].tolist() == pytest.approx(stats.mean_interval(np.array(means)))
    assert table.loc[k, "failed"] == pytest.approx(1 / 8 if k == 1 else 0)
    assert table.loc[k, "lower"] <= table.loc[k, "mean"] <= table.loc[k, "upper"]
