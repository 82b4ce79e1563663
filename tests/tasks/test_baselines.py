"""Classical baselines: of the right form, and better than not reading."""

import pytest

from clinscale.tasks import classical, kind_of, load_task, read_task, trivial


@pytest.mark.parametrize("name", ["demo_documents", "demo_pairs", "demo_entities", "demo_questions"])
def test_reading_beats_not_reading(demo_data, name):
    data = read_task(load_task(name), str(demo_data))
    kind, examples = kind_of(data.task), data.splits["test"]
    found = classical(data)
    assert len(found) == len(examples)
    score = kind.score(examples, found, data.labels)[kind.metric]
    assert score > kind.score(examples, trivial(data), data.labels)[kind.metric]


def test_spans_lie_where_they_say(demo_data):
    data = read_task(load_task("demo_questions"), str(demo_data))
    for example, found in zip(data.splits["test"], classical(data), strict=True):
        assert example.text[found["start"] : found["end"]] == found["answer"]


def test_labels_that_train_lacks_are_never_sure(task_of, tmp_path):
    rows = {"train": [("chest pain", "a"), ("fever now", "b"), ("chest pain now", "a;b")] * 5, "dev": [("x", "a")]}
    rows["test"] = [("chest pain", "c"), ("fever", "a")]
    for split, members in rows.items():
        lines = ["text,label", *(f"{text} {n},{label}" for n, (text, label) in enumerate(members))]
        (tmp_path / f"{split}.csv").write_text("\n".join(lines))
    task = task_of("sequence", multi_label=True, splits={split: f"{split}.csv" for split in rows})
    found = classical(read_task(task, str(tmp_path)))
    assert all(0 <= p["scores"]["c"] < 0.5 for p in found)
