"""Fixtures shared by all rooms: a small tokenizer, and one Ray for all tests that need it."""

import os
import shutil
import signal

import pytest

# before torch is imported: tiny models gain nothing from threads, and on a busy machine threads wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")
# a shell starts background jobs deaf to Ctrl-C, and so would be what the tests start and interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE with RoBERTa's special tokens and layout, trained on a few invented sentences."""
    import tokenizers
    import transformers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    sentences = [
        "Patient admitted with chest pain and shortness of breath.",
        "Metoprolol 25 mg was given twice daily for atrial fibrillation.",
        "Chest radiograph shows no acute cardiopulmonary process.",
        "What dose of metoprolol was given to the patient?",
    ] * 20
    backend.train_from_iterator(
        sentences,
        trainers.BpeTrainer(
            vocab_size=500, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory):
    """An empty MLflow database; making its schema takes seconds, copying it does not."""
    from clinscale import registry

    home = tmp_path_factory.mktemp("mlflow")
    registry.connect(f"sqlite:///{home / 'mlflow.db'}")
    return home / "mlflow.db"


@pytest.fixture
def tracking(mlflow_database, tmp_path, monkeypatch):
    """A fresh tracking database of the test's own, below `tmp_path`."""
    from clinscale import registry

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(mlflow_database, tmp_path / "mlflow.db")
    return registry.connect(home=tmp_path)


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory):
    """The folder of the demo's invented data, a tenth of its size."""
    from clinscale.synthetic import write_demo_data

    folder = tmp_path_factory.mktemp("demo-data")
    write_demo_data(folder, scale=0.1)
    return folder


@pytest.fixture(scope="session")
def shards(tmp_path_factory, demo_data):
    """A ShardSet of the demo's notes."""
    from clinscale.corpus import CorpusConfig, SourceConfig, build_shards

    notes = SourceConfig(uri=str(demo_data / "notes" / "notes.jsonl.gz"), id_column="id")
    config = CorpusConfig(sources=(notes,), vocab_size=1024, validation_fraction=0.15)
    return build_shards(config, str(tmp_path_factory.mktemp("shards") / "notes"))


@pytest.fixture(scope="session")
def base_models(tmp_path_factory, shards):
    """Folders of two untrained tiny base models, by family."""
    from clinscale import corpus, models

    tokenizer = corpus.load_tokenizer(str(shards.tokenizer_dir))
    folder = tmp_path_factory.mktemp("bases")
    return {
        family: str(
            models.save_hf(
                models.build(models.ModelConfig(family=family, size="tiny"), tokenizer, seed=0),
                tokenizer,
                folder / family,
            )
        )
        for family in ("longformer", "bigbird")
    }


@pytest.fixture(scope="session")
def ray_cluster():
    """One local Ray of two CPUs for all tests of the `ray` tier."""
    from clinscale.runtime import ray_session

    with ray_session(num_cpus=2) as cluster:
        yield cluster
