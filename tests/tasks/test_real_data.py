"""The readers and the kinds on real public data; skipped where it is not beside the repository."""

import pytest

from clinscale.tasks import kind_of, load_task, read_task

WINDOWS = [(128, 32), (512, 128), (4096, 64)]


def all_examples(data):
    return [example for examples in data.splits.values() for example in examples]


@pytest.fixture
def gold_comes_back(perfect, tokenizer_for):
    """The scores of a model that has learned by heart what each window asks for, over the examples of a task."""

    def scores(task, folder, max_tokens, stride_tokens, every=1):
        data = read_task(task, folder)
        kind, examples = kind_of(task), all_examples(data)[::every]
        tokenizer = tokenizer_for({example.text for example in examples})
        predictions = []
        for example in examples:
            windows = kind.windows(
                example, tokenizer, data.labels, max_tokens=max_tokens, stride_tokens=stride_tokens, train=True
            )
            predictions.append(kind.decode(example, windows, perfect(kind, windows, data.labels), data.labels))
        return kind.score(examples, predictions, data.labels)

    return scores


@pytest.mark.parametrize(("max_tokens", "stride_tokens"), WINDOWS)
@pytest.mark.parametrize(("name", "every"), [("maccrobat", 1), ("meddocan", 5)])
def test_gold_entities_survive_every_seam(real_data, gold_comes_back, name, every, max_tokens, stride_tokens):
    folder = "maccrobat2020" if name == "maccrobat" else name
    scores = gold_comes_back(load_task(name), f"{real_data(folder)}/{folder}", max_tokens, stride_tokens, every)
    assert set(scores.values()) == {1.0}


@pytest.mark.parametrize(("max_tokens", "stride_tokens"), WINDOWS)
def test_gold_answers_survive_every_seam(real_data, gold_comes_back, max_tokens, stride_tokens):
    folder = f"{real_data('covid_qa')}/covid_qa"
    scores = gold_comes_back(load_task("covid_qa"), folder, max_tokens, stride_tokens, every=41)
    assert scores == {"f1": 1.0, "exact_match": 1.0}
