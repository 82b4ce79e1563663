"""Learning curves of a real encoder on real notes are recorded, gone on with, and replayed."""

from pathlib import Path

import pytest

from clinscale.bench.search import real
from clinscale.bench.search.public import read_public
from clinscale.errors import ConfigError

DATA = Path("../shared/data")


@pytest.mark.skipif(not (DATA / "ncbi_disease_bio").is_dir(), reason="the public data sets are not here")
def test_curves_are_recorded_once_and_replayed(base_models, tmp_path):
    path = tmp_path / "curves.parquet"
    record = {"model": base_models["longformer"], "data": DATA.resolve(), "tasks": ["ncbi_disease"]}
    kept = real._begin(Path(f"{path}.part"), real._trainings(record["model"], record["data"], 0))
    real.write_json(
        real._kept_at(kept, "ncbi_disease", 1), {"value": [0.1, None], "seconds": [2.0, 1.0]}
    )  # one that had ended, by divergence
    with pytest.raises(ConfigError, match="holds curves of"):
        real.record_curves(path, **{**record, "model": base_models["bigbird"]})
    ended: list[tuple[int, int]] = []
    real.record_curves(path, **record, num_configurations=2, on_progress=lambda *count: ended.append(count))
    assert ended == [(2, 2)], "what had ended is not trained again"
    assert not kept.exists()
    [task] = read_public(path).values()
    assert [len(curves[0].value) for curves in task.curves] == [real.LOOKS, 2]
    assert all(0 <= value <= 1 for value in task.curves[0][0].value)
    assert min(task.curves[0][0].seconds) > 0
    assert task.ends[1] == float("-inf")


def test_a_data_set_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="must hold the data set ncbi_disease_bio"):
        real.record_curves(tmp_path / "curves.parquet", model="-", data=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_name_by_which_it_could_not_be_replayed_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"must end with \.parquet"):
        real.record_curves(tmp_path / "curves.json.gz", model="-", data=tmp_path, tasks=[])
