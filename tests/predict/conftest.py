"""Fine-tuned folders of every kind and family, without the fine-tuning."""

from dataclasses import replace

import numpy as np
import pytest

from clinscale import corpus, models
from clinscale.predict import TaskCard
from clinscale.tasks import kind_of, load_task, read_task


@pytest.fixture(scope="session")
def folders(base_models, demo_data, tmp_path_factory):
    """HF folder with a card by (task, family); random heads on loud random encoders, so that inputs matter."""
    made = {}

    def folder(task_name, family, max_tokens=1024):
        if (key := (task_name, family, max_tokens)) in made:
            return made[key]
        task = load_task(task_name)
        kind, labels = kind_of(task), read_task(task, str(demo_data)).labels
        model = models.load_hf(
            base_models[family],
            head=kind.head,
            labels=kind.output_names(labels),
            problem_type=kind.problem_type(task),
        )
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embedding" not in name:
                weight.data *= 8
        made[key] = models.save_hf(
            model, corpus.load_tokenizer(base_models[family]), tmp_path_factory.mktemp("tasks") / "hf"
        )
        TaskCard(task=task, labels=labels, max_tokens=max_tokens, stride_tokens=16).write(made[key])
        return made[key]

    return folder


@pytest.fixture(scope="session")
def documents(demo_data):
    """Test examples by task, of very different lengths where their gold is not needed."""

    def read(task):
        examples = read_task(load_task(task), str(demo_data)).splits["test"][:8]
        if task == "demo_questions":
            return list(examples)
        shares = np.linspace(0.1, 1, len(examples))
        return [
            replace(example, text=example.text[: int(len(example.text) * share)])
            for example, share in zip(examples, shares, strict=True)
        ]

    return read
