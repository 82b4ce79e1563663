"""Fixtures shared by all rooms: a small tokenizer, and one Ray for all tests that need it."""

import shutil

import pytest


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
