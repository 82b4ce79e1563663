"""Evidence Inference: prompts, judgements with line breaks in quotes, gzipped articles; all invented."""

import csv
import gzip

import pytest

from clinscale.errors import DataError
from clinscale.tasks import load_task, read_task

PROMPTS = ["PromptID", "PMCID", "Outcome", "Intervention", "Comparator"]
ANNOTATIONS = [
    "UserID",
    "PromptID",
    "PMCID",
    "Valid Label",
    "Valid Reasoning",
    "Label",
    "Annotations",
    "Label Code",
    "In Abstract",
    "Evidence Start",
    "Evidence End",
]
LABELS = {"-1": "significantly decreased", "0": "no significant difference", "1": "significantly increase"}
UP, SAME, DOWN = "significantly increased", "no significant difference", "significantly decreased"


@pytest.fixture
def data(tmp_path):
    """Thirty articles with one agreed prompt each, and a first article with prompts that are judged in every way."""
    (tmp_path / "txt_files").mkdir()
    for number in range(30):
        with gzip.open(tmp_path / "txt_files" / f"PMC{number}.txt.gz", "wt", encoding="utf-8") as stream:
            stream.write(f"TITLE: Invented trial {number}\n\n  BODY: The α outcome fell.\n")
    judged = {
        "a": [(0, "1"), (1, "1")],
        "b": [(0, "0"), (0, "0"), (1, "-1"), (2, "-1")],  # the first annotator cites two passages
        "c": [(0, "0"), (1, "1")],
        "d": [(0, "0"), (1, "1", "False")],
        "e": [],
        "f": [(0, "1", "False")],
        "g": [(0, "-2")],
    }
    judged |= {f"z{number}": [(0, "-1")] for number in range(1, 30)}
    article_of = {prompt: prompt[1:] or "0" for prompt in judged}
    write(tmp_path / "prompts.csv", PROMPTS, [[p, article_of[p], "α", "a drug", "placebo"] for p in judged])
    write(
        tmp_path / "annotations.csv",
        ANNOTATIONS,
        [
            [
                user,
                p,
                article_of[p],
                *(valid or ["True"]),
                "True",
                LABELS.get(code, "invalid prompt"),
                "x\ny",
                code,
                "",
                1,
                2,
            ]
            for p, judgements in judged.items()
            for user, code, *valid in judgements
        ],
    )
    return tmp_path


def write(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])


def read(data, *changes):
    return read_task(load_task("evidence_inference", list(changes)), str(data))


def labels_of(found):
    everything = [example for examples in found.splits.values() for example in examples]
    return {example.id: example.labels[0] for example in everything if not example.id.startswith("z")}


def test_a_prompt_has_the_label_of_most_annotators(data):
    found = read(data)
    assert labels_of(found) == {"a": UP, "b": DOWN, "d": SAME}
    assert found.findings.rejected == {
        "prompt with as many votes for two labels": 1,
        "judgement refuted": 2,
        "prompt judged invalid": 1,
        "prompt without a judgement": 3,
    }
    assert found.findings.found == {"documents": 30, "prompts": 36, "judgements": 41}


def test_each_judgement_can_be_an_example(data):
    found = read(data, "options.judgements=each", "options.refuted=true")
    assert sum(map(len, found.splits.values())) == 40
    assert labels_of(found)["d:1"] == SAME
    assert labels_of(found)["d:2"] == UP


def test_the_pair_is_the_whole_article_and_the_prompt(data):
    one = next(example for examples in read(data).splits.values() for example in examples if example.id == "a")
    assert one.text == "TITLE: Invented trial 0\n\n  BODY: The α outcome fell.\n"
    assert one.text_pair == (
        "With respect to α, characterize the reported difference between a drug and those receiving placebo."
    )


def test_prompts_on_one_article_stay_in_one_split(data):
    found = read(data)
    articles = [{example.group for example in examples} for examples in found.splits.values()]
    assert sum(map(len, articles)) == len(set().union(*articles))
    assert found.duplicates_across_splits == 0
    assert found.findings.remarks[0].startswith("the official lists")


def test_the_official_lists_of_articles_split_where_they_are_there(data):
    (data / "splits").mkdir()
    for name, articles in {"train": "0\n1\n", "validation": "2\n", "test": "3\n4\n"}.items():
        (data / "splits" / f"{name}_article_ids.txt").write_text(articles)
    found = read(data)
    assert {split: [e.id for e in examples] for split, examples in found.splits.items()} == {
        "train": ["a", "b", "d", "z1"],
        "dev": ["z2"],
        "test": ["z3", "z4"],
    }
    assert found.findings.rejected["article in no official split"] == 25
    assert "the official lists" not in " ".join(found.findings.remarks)


def test_the_repository_and_its_own_file_names_are_understood(data, tmp_path_factory):
    repository = tmp_path_factory.mktemp("repository")
    data.rename(repository / "annotations")
    for name in ("prompts", "annotations"):
        (repository / "annotations" / f"{name}.csv").rename(repository / "annotations" / f"{name}_merged.csv")
    assert labels_of(read(repository)) == {"a": UP, "b": DOWN, "d": SAME}


def test_what_is_missing_is_named(data):
    (data / "txt_files" / "PMC1.txt.gz").unlink()
    assert read(data).findings.rejected["no article"] == 1
    (data / "prompts.csv").unlink()
    with pytest.raises(DataError, match=r"prompts\.csv does not exist, nor .*prompts_merged\.csv"):
        read(data)
    with pytest.raises(DataError, match="has no folder txt_files"):
        read(data / "txt_files")
