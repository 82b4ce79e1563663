"""One small ShardSet of invented notes, built once."""

import pytest

from clinscale.corpus import CorpusConfig, SourceConfig, build_shards
from clinscale.synthetic import write_demo_data


@pytest.fixture(scope="session")
def demo_notes(tmp_path_factory):
    """A JSONL file of 40 invented notes."""
    folder = tmp_path_factory.mktemp("demo")
    write_demo_data(folder, scale=0.1)
    return str(folder / "notes" / "notes.jsonl.gz")


@pytest.fixture(scope="session")
def demo_config(demo_notes):
    return CorpusConfig(
        sources=(SourceConfig(uri=demo_notes, id_column="id"),),
        vocab_size=600,
        validation_fraction=0.2,
        shard_tokens=5000,
    )


@pytest.fixture(scope="session")
def shards(demo_config, tmp_path_factory):
    return build_shards(demo_config, str(tmp_path_factory.mktemp("shards") / "set"))
