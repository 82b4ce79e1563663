"""The invented data: deterministic, in the formats it claims, and with exactly the difficulty it promises."""

import csv
import filecmp
import gzip
import json

import pytest

from clinscale.errors import ConfigError
from clinscale.synthetic import write_demo_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo")
    write_demo_data(path, scale=0.2)
    return path


def documents(folder, split):
    with (folder / "documents" / f"{split}.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def notes(folder):
    with gzip.open(folder / "notes" / "notes.jsonl.gz", "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def paragraphs(folder, split="train"):
    data = json.loads((folder / "questions" / f"{split}.json").read_text())
    return [paragraph for article in data["data"] for paragraph in article["paragraphs"]]


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_same_seed_writes_the_same_bytes_and_another_seed_does_not(folder, tmp_path):
    write_demo_data(tmp_path / "again", scale=0.2)
    write_demo_data(tmp_path / "other", seed=1, scale=0.2)
    names = files_below(folder)
    assert names == files_below(tmp_path / "again")
    assert filecmp.cmpfiles(folder, tmp_path / "again", names, shallow=False)[1:] == ([], [])
    assert notes(tmp_path / "other") != notes(folder)


def test_scale_sets_the_number_of_rows(folder):
    assert len(notes(folder)) == 80
    assert [len(documents(folder, split)) for split in ("train", "dev", "test")] == [48, 12, 16]
    assert len(list((folder / "entities" / "train").glob("*.ann"))) == 24


@pytest.mark.parametrize("scale", [0, -1])
def test_scale_must_be_positive(tmp_path, scale):
    with pytest.raises(ConfigError, match="above 0"):
        write_demo_data(tmp_path, scale=scale)


def test_lengths_are_within_their_promise(folder):
    assert all(150 <= len(note["text"].split()) <= 1200 for note in notes(folder))
    assert all(150 <= len(p["context"].split()) <= 300 for p in paragraphs(folder))
    texts = [path.read_text() for path in (folder / "entities").rglob("*.txt")]
    assert all(100 <= len(text.split()) <= 250 for text in texts)


def test_labels_are_balanced(folder):
    labels = [row["label"] for row in documents(folder, "train")]
    assert {labels.count(label) for label in labels} == {len(labels) // 4}


def test_the_evidence_lies_between_token_512_and_1000(folder):
    from tokenizers import ByteLevelBPETokenizer

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([note["text"] for note in notes(folder)], vocab_size=2000, show_progress=False)
    for row in documents(folder, "train"):
        encoded = bpe.encode(row["text"])
        evidence = row["text"].index("FINAL DIAGNOSIS")
        assert sum(end <= evidence for _, end in encoded.offsets) > 512
        assert len(encoded.ids) < 1000


def test_the_first_512_words_say_nothing_on_the_label_and_the_rest_says_all(folder):
    """A count of words is a perfect judge of whole documents and a guesser before the closing section."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    train, test = documents(folder, "train"), documents(folder, "dev") + documents(folder, "test")

    def accuracy(cut):
        judge = make_pipeline(CountVectorizer(), MultinomialNB())
        judge.fit([cut(row["text"]) for row in train], [row["label"] for row in train])
        return judge.score([cut(row["text"]) for row in test], [row["label"] for row in test])

    assert accuracy(lambda text: text) == 1.0
    assert accuracy(lambda text: " ".join(text.split()[:512])) < 0.6  # four labels, few documents


def test_annotations_agree_with_their_texts(folder):
    for annotations in (folder / "entities").rglob("*.ann"):
        text = annotations.with_suffix(".txt").read_text()
        lines = annotations.read_text().splitlines()
        assert lines
        for line in lines:
            _, where, surface = line.split("\t")
            label, start, end = where.split()
            assert text[int(start) : int(end)] == surface
            assert label in {"problem", "treatment", "test"}


def test_each_answer_stands_once_behind_its_question_and_some_have_none(folder):
    questions = [(p["context"], q) for p in paragraphs(folder) for q in p["qas"]]
    for context, question in questions:
        for answer in question["answers"]:
            start = answer["answer_start"]
            assert context[start : start + len(answer["text"])] == answer["text"]
        if question["question"].startswith("What dose of"):
            drug = question["question"].removeprefix("What dose of ").removesuffix(" was given?")
            assert context.count(f"given {drug} ") == (0 if question["is_impossible"] else 1)
    assert 0 < sum(question["is_impossible"] for _, question in questions) < len(questions) / 5


def test_pairs_need_both_texts(folder):
    rows = [json.loads(line) for line in (folder / "pairs" / "train.jsonl").read_text().splitlines()]
    labels = {}
    for row in rows:
        labels.setdefault("not" in row["hypothesis"] or " no " in row["hypothesis"], set()).add(row["label"])
    assert labels[True] == {"entailment", "contradiction"}
    assert labels[False] == {"entailment", "contradiction", "neutral"}
