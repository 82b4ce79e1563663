"""A tiny HF model on disk, and the code that MLflow runs to load it."""

import shutil

import pytest

PYFUNC = """
import mlflow.models
import mlflow.pyfunc


class Tiny(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        folder = context.artifacts["hf"]
        self.model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def predict(self, context, model_input, params=None):
        batch = self.tokenizer(list(model_input["text"]), return_tensors="pt", padding=True)
        return self.model(**batch).logits.detach().numpy().tolist()


mlflow.models.set_model(Tiny())
"""


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory, tokenizer):
    """One tiny classifier with its tokenizer, saved once; tests copy it."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
    )
    folder = tmp_path_factory.mktemp("saved") / "model"
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def hf_folder(saved_model, tmp_path):
    """A copy of the tiny classifier that a test may spoil."""
    return shutil.copytree(saved_model, tmp_path / "made")


@pytest.fixture
def pyfunc_code(tmp_path):
    path = tmp_path / "tiny_pyfunc.py"
    path.write_text(PYFUNC)
    return path


@pytest.fixture
def run(tracking):
    """A run to hang versions on."""
    from clinscale import registry

    return registry.start_run(
        tracking, experiment="clinscale-sweep", name="maker", tags={registry.Tag.KIND: "sweep"}, params={}
    )


@pytest.fixture
def register(tracking, run, pyfunc_code):
    """`register(folder, name=..., alias=..., tags=...)` with what the tests do not vary filled in."""
    from clinscale import registry

    def register(folder, *, name="radiology", alias=None, tags=None):
        return registry.register(
            tracking,
            run.id,
            folder,
            name=name,
            tags=tags or {},
            pyfunc=registry.Pyfunc(
                pyfunc_code,
                (
                    "torch",
                    "transformers",
                ),
            ),
            alias=alias,
        )

    return register


@pytest.fixture
def register_base(tracking, run):
    """`register_base(folder, name=..., alias=...)`: a version without code, which is made faster."""
    from clinscale import registry

    def register_base(folder, *, name="radiology", alias=None):
        return registry.register(tracking, run.id, folder, name=name, tags={}, alias=alias)

    return register_base
