"""`clinscale bench search` on a table as it was published."""

import json

import pandas as pd
import pytest

from clinscale.errors import ConfigError


def test_a_published_table_is_replayed_as_it_is(here, tmp_path):
    looks = [(0, config, look, config * look) for config in range(3) for look in range(10)]
    frame = pd.DataFrame(looks, columns=["seed", "config", "point", "returns"])
    frame.assign(task="t", steps=frame.point * 100 + 100).to_parquet(tmp_path / "curves.parquet")
    pd.DataFrame({"task": "t", "config": range(3), "lr": [0.1, 0.2, 0.3]}).to_csv(
        tmp_path / "configs.csv", index=False
    )
    words = ("bench", "search", "--convert", "arlbench_ppo", "--data", tmp_path)
    found = json.loads(here(*words, "--seeds", "2", "--json").stdout)
    assert found["details"]["tasks"].keys() == {"t"}
    assert {"stock_5", "random_20"} <= found["ratios"].keys()
    with pytest.raises(ConfigError, match="leave one out"):
        here(*words, "--table", "x.parquet")
    with pytest.raises(ConfigError, match="--convert must come with --data"):
        here(*words[:-2])
