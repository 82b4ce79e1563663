"""Classical baselines: of the right form, and better than not reading."""

import json

import pytest

from clinscale.tasks import baseline_outcomes, classical, kind_of, load_task, read_task, trivial


@pytest.mark.parametrize("name", ["demo_documents", "demo_pairs", "demo_entities", "demo_questions"])
def test_reading_beats_not_reading(demo_data, name):
    data = read_task(load_task(name), str(demo_data))
    kind, examples = kind_of(data.task), data.splits["test"]
    found = classical(data)
    assert len(found) == len(examples)
    score = kind.score(examples, found, data.labels)[kind.metric]
    assert score > kind.score(examples, trivial(data), data.labels)[kind.metric]


def test_a_baselines_threshold_is_that_of_dev_whatever_is_in_test(task_of, tmp_path):
    def threshold(dev, test):
        rows = {
            "train": [("chest pain", "no"), ("fever", "no"), ("new stroke", "yes")] * 9,
            "dev": dev,
            "test": test,
        }
        for split, members in rows.items():
            lines = ["text,label", *(f"{text} {n},{label}" for n, (text, label) in enumerate(members))]
            (tmp_path / f"{split}.csv").write_text("\n".join(lines))
        read = read_task(task_of("sequence", splits={split: f"{split}.csv" for split in rows}), str(tmp_path))
        assert read.task.metric == "roc_auc"
        outcomes = baseline_outcomes(read, classical)
        assert {"threshold", "sensitivity", "specificity", "alerts_per_1000"} <= set(outcomes.scores())
        return outcomes.task.threshold

    clear, blurred = [("chest pain", "no"), ("stroke", "yes")], [("stroke pain", "no"), ("new stroke", "yes")]
    assert threshold(clear, clear) == threshold(clear, blurred)
    assert threshold(clear, clear) != threshold(blurred, clear)


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


ODD = {
    "no word occurs twice": ("sequence", [("wone uone", "a"), ("wtwo utwo", "b"), ("wthree", "a")]),
    "signs alone": ("sequence", [("!", "a"), ("?? !!", "b"), ("...", "a")]),
    "one label in train": ("sequence", [("pain one", "a"), ("pain two", "a"), ("pain three", "a")]),
    "words of one character": ("pair", [("x", "a"), ("y", "b"), ("z", "b")]),
    "no entity in train": ("tokens", [("pain one", []), ("pain two", []), ("fever", [])]),
    "no sentence": ("spans", [("...", [{"text": "...", "answer_start": 0}]), ("!!", []), ("?", [])]),
}


@pytest.mark.parametrize("which", ODD)
def test_odd_texts_get_the_answers_of_not_reading(which, task_of, tmp_path):
    kind, rows = ODD[which]
    gold = {"tokens": "entities", "spans": "answers"}.get(kind, "label")
    last = {
        "sequence": "b",
        "pair": "b",
        "tokens": [{"start": 0, "end": 4, "label": "x"}],
        "spans": [{"text": "some", "answer_start": 0}],
    }[kind]
    for split, members in {
        "train": rows,
        "dev": [("some text", last)],
        "test": [("some text", last), *rows],
    }.items():
        lines = [
            json.dumps({"text": text, "other": f"{text} {n}", gold: of}) for n, (text, of) in enumerate(members)
        ]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    columns = {
        **({"text_pair": "other"} if kind in ("pair", "spans") else {}),
        **({"entities": "entities"} if kind == "tokens" else {}),
    }
    task = task_of(
        kind, format="records", columns=columns, splits={s: f"{s}.jsonl" for s in ("train", "dev", "test")}
    )
    data = read_task(task, str(tmp_path))
    kind_of(task).score(data.splits["test"], classical(data), data.labels)
