"""What every kind must keep; a kind that is added inherits all of it, and needs its rows and golden losses below."""

import ast
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import clinscale
from clinscale import models, predict, sweep
from clinscale.errors import DataError
from clinscale.records import Record
from clinscale.tasks import (
    Outcomes,
    TaskConfig,
    classical,
    kind_of,
    read_task,
    read_unlabelled,
    survey,
    trivial,
)
from clinscale.tasks.task import KINDS

PACKAGE = Path(clinscale.__file__).parent
TEXT = "Metoprolol was given for chest pain. Aspirin did not help the fever."
OTHER = "No pain was seen. Aspirin was given for fever."


def spans(text, **labels):
    found = {name: (text.index(name), label) for name, label in labels.items()}
    return [
        {"id": number, "start": at, "end": at + len(name), "label": label}
        for number, (name, (at, label)) in enumerate(found.items())
    ]


FIXTURES = {
    "sequence": {
        "gold": ["label"],
        "rows": [{"text": TEXT, "label": "a"}, {"text": OTHER, "label": "b"}],
        "losses": {"longformer": 0.6931016199610868, "bigbird": 0.6931539798857353},
    },
    "pair": {
        "task": {"columns": {"text_pair": "text_pair"}},
        "gold": ["label"],
        "rows": [
            {"text": TEXT, "text_pair": "There was pain.", "label": "a"},
            {"text": OTHER, "text_pair": "There was fever.", "label": "b"},
        ],
        "losses": {"longformer": 0.6931046502863595, "bigbird": 0.6931571537531032},
    },
    "tokens": {
        "task": {"columns": {"entities": "entities"}},
        "gold": ["entities"],
        "rows": [
            {"text": TEXT, "entities": spans(TEXT, Metoprolol="drug", fever="problem")},
            {"text": OTHER, "entities": spans(OTHER, Aspirin="drug", pain="problem")},
        ],
        "losses": {"longformer": 1.637340675005923, "bigbird": 1.6493952886827083},
    },
    "spans": {
        "task": {"columns": {"text_pair": "text_pair"}},
        "gold": ["answers"],
        "rows": [
            {"text": TEXT, "text_pair": "What helped?", "answers": [{"text": "Metoprolol", "answer_start": 0}]},
            {"text": OTHER, "text_pair": "What was it for?", "answers": [{"text": "fever", "answer_start": 40}]},
        ],
        "losses": {"longformer": 3.8363184168700664, "bigbird": 3.5919097721438087},
    },
    "relations": {
        "task": {"columns": {"entities": "entities"}, "kind_options": {"negatives": None}},
        "gold": ["entities", "relations"],
        "rows": [
            {
                "text": TEXT,
                "entities": spans(TEXT, Metoprolol="drug", Aspirin="drug", fever="problem"),
                "relations": [{"head": 0, "tail": 2, "label": "for"}, {"head": 2, "tail": 1, "label": "despite"}],
            },
            {
                "text": OTHER,
                "entities": spans(OTHER, Aspirin="drug", pain="problem", fever="problem"),
                "relations": [{"head": 0, "tail": 2, "label": "for"}],
            },
        ],
        "losses": {"longformer": 1.6065014463814193, "bigbird": 1.6090301914504173},
    },
}
"""Kind -> what its task says beside the usual, its columns of gold, two rows, and the loss of each tiny model on
them: what a change of its numbers moves."""


@pytest.fixture(scope="module", params=list(KINDS))
def fixture(request):
    return {"name": request.param, "task": {}, **FIXTURES[request.param]}


@pytest.fixture(scope="module")
def data(fixture, tmp_path_factory):
    folder = tmp_path_factory.mktemp(fixture["name"])
    return folder, read(folder, fixture, fixture["rows"])


def read(folder, fixture, rows, on_error="raise"):
    for split in ("train", "dev", "test"):
        lines = (json.dumps({"id": f"{split}-{n}", **row}) + "\n" for n, row in enumerate(rows))
        (folder / f"{split}.jsonl").write_text("".join(lines))
    splits = {split: f"{split}.jsonl" for split in ("train", "dev", "test")}
    values = {"name": "t", "kind": fixture["name"], "format": "records", "splits": splits, "on_error": on_error}
    task = TaskConfig.parse({**values, **fixture["task"]}, source="test")
    return read_task(task, str(folder))


@pytest.fixture
def found(data):
    return data[1]


@pytest.fixture
def kind(found):
    return kind_of(found.task)


def windows_of(kind, found, tokenizer, example, *, train, max_tokens=48):
    return kind.windows(example, tokenizer, found.labels, max_tokens=max_tokens, stride_tokens=8, train=train)


def certain(kind, found, window):
    """The outputs of a model that is sure of a window's targets."""
    length = len(window.input_ids)
    if kind.head == "spans":
        ends = ("start", "end")
        return {f"{end}_logits": 20.0 * np.eye(length)[window.targets[f"{end}_positions"]] for end in ends}
    targets = np.maximum(window.targets["labels"], 0)
    return {"logits": 20.0 * np.eye(kind.num_outputs(found.labels))[targets]}


def test_a_model_that_is_sure_of_its_targets_has_a_perfect_score(kind, found, tokenizer):
    answers = []
    for example in found.splits["test"]:
        windows = windows_of(kind, found, tokenizer, example, train=True, max_tokens=128)
        asked = windows_of(kind, found, tokenizer, example, train=False, max_tokens=128)
        outputs = [certain(kind, found, window) for window in windows]
        answers.append(kind.decode(example, asked, outputs, found.labels))
    scores = kind.score(found.splits["test"], answers, found.labels)
    assert scores[kind.metric] == 1
    assert kind.label_scores(kind.outcomes(found.splits["test"], answers, found.labels), found.labels) == {
        label: 1 for label in found.labels
    }


@pytest.mark.parametrize("max_tokens", [24, 48])
def test_windows_fit_the_model_and_hold_targets_only_for_training(kind, found, tokenizer, max_tokens):
    for example in found.splits["train"]:
        for train in (True, False):
            windows = windows_of(kind, found, tokenizer, example, train=train, max_tokens=max_tokens)
            assert windows
            assert all(len(window.input_ids) == len(window.global_mask) <= max_tokens for window in windows)
            assert all(bool(window.targets) == train for window in windows)


def test_gold_is_not_seen_where_it_is_asked_for(kind, found, tokenizer):
    fields = {"labels": (), "answers": (), **({} if kind.annotation_field == "entities" else {"gold": ()})}
    fields |= {"entities": ()} if kind.annotation_field == "entities" else {}
    for example in found.splits["test"]:
        blind = replace(example, **fields)
        both = [windows_of(kind, found, tokenizer, one, train=False) for one in (example, blind)]
        assert [window.input_ids for window in both[0]] == [window.input_ids for window in both[1]]


def test_baselines_answer_in_the_columns_that_are_promised(kind, found, tmp_path):
    import pyarrow.parquet

    card = predict.TaskCard(task=found.task, labels=found.labels, max_tokens=48, stride_tokens=8)
    names = [column["name"] for column in kind.output_columns]
    for answers in (trivial(found), classical(found)):
        assert [list(answer) for answer in answers] == [names] * len(answers)
        lines = [{"id": "x", "file": "f", "row": 1, **answer} for answer in answers]
        with predict.open_answers(tmp_path / "answers.parquet", card) as add:
            add(lines)
        stored = pyarrow.parquet.read_table(tmp_path / "answers.parquet").to_pylist()
        assert [{name: row[name] for name in names} for row in stored] == answers


def test_outcomes_are_read_back_and_score_the_same(kind, found):
    outcomes = Outcomes.of(kind, found.splits["test"], trivial(found), found.labels, len)
    again = Outcomes.parse(json.loads(json.dumps(outcomes.plain())), source="test")
    assert again.is_comparable(outcomes)
    assert again.value() == outcomes.value() == kind.scores_of(outcomes.rows)[kind.metric]


def test_other_gold_makes_other_data_and_other_keys(fixture, found, tmp_path):
    first, second = fixture["rows"]
    swapped = [{**first, **{name: first[name] for name in fixture["gold"]}, "text": f"{TEXT} More."}, second]
    other = read(tmp_path, fixture, swapped)
    assert other.fingerprint != found.fingerprint
    assert other.labels == found.labels


def test_other_gold_makes_other_keys(kind, found):
    """By which alone two models are known to be judged on the same examples."""
    for example in found.splits["test"]:
        without = replace(example, labels=(), entities=(), answers=(), gold=())
        assert kind.key_of(example) != kind.key_of(without)


def test_a_row_without_its_gold_is_refused(fixture, tmp_path):
    for column in fixture["gold"]:
        rows = [{name: value for name, value in row.items() if name != column} for row in fixture["rows"]]
        with pytest.raises(DataError, match=column):
            read(tmp_path, fixture, rows)


def test_the_survey_counts_every_label(found):
    counts = survey(found)["labels"]
    assert list(counts) == list(found.labels)
    assert all(number > 0 for number in counts.values())


def test_documents_to_answer_are_asked_as_test_examples_are(kind, found, data, tokenizer):
    asked = read_unlabelled(found.task, str(data[0] / "test.jsonl"), "records", "test")
    for one, example in zip(asked, found.splits["test"], strict=True):
        both = [windows_of(kind, found, tokenizer, each, train=False) for each in (one.example, example)]
        assert [window.input_ids for window in both[0]] == [window.input_ids for window in both[1]]


def test_the_served_example_is_asked_about(kind, found, tokenizer):
    text = "The patient was admitted with chest pain. Metoprolol 25 mg was given twice daily."
    record = Record("input", 1, {"text": text, **kind.input_example})
    assert set(kind.input_example) == {column["name"] for column in kind.input_columns}
    second = record.text("text_pair") if kind.second_text_column else None
    example = replace(kind.asked_example(text), text_pair=second, **kind.read_given(record, text))
    assert windows_of(kind, found, tokenizer, example, train=False)
    assert windows_of(kind, found, tokenizer, kind.asked_example(text * 9), train=False)


def test_a_text_file_alone_is_answered_or_refused_in_a_sentence(kind, found, tmp_path):
    (tmp_path / "note.txt").write_text(TEXT)
    (one,) = read_unlabelled(found.task, str(tmp_path / "note.txt"), "text", "note.txt")
    assert kind.needs in one.fault if kind.needs else one.example


def test_a_kind_has_a_search_space(fixture):
    assert sweep.load_space([fixture["name"]]).parameters


@pytest.fixture(scope="module")
def folders(tokenizer, tmp_path_factory):
    """The tiny encoders, untrained."""
    folder = tmp_path_factory.mktemp("encoders")
    built = {
        name: models.build(models.ModelConfig(family=name, size="tiny"), tokenizer, seed=0) for name in FAMILIES
    }
    return {name: str(models.save_hf(model, tokenizer, folder / name)) for name, model in built.items()}


FAMILIES = ("longformer", "bigbird")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_golden_loss_is_the_mean_of_its_terms(kind, fixture, found, tokenizer, folders, family):
    import torch

    model = models.load_hf(
        folders[family],
        head=kind.head,
        labels=kind.output_names(found.labels),
        problem_type=kind.problem_type(found.task),
    )
    model.eval().double()
    windows = [
        window
        for example in found.splits["train"]
        for window in windows_of(kind, found, tokenizer, example, train=True)
    ]

    longest = max(len(window.input_ids) for window in windows)  # padding is part of a loss over positions

    def loss(some):
        batch = predict.collate(some, pad_token_id=tokenizer.pad_token_id, family=family, least_length=longest)
        with torch.inference_mode():
            return model(**batch).loss.item()

    parts = [[window] for window in windows if kind.loss_terms([window])]
    whole = sum(loss(part) * kind.loss_terms(part) for part in parts) / kind.loss_terms(windows)
    assert loss(windows) == pytest.approx(whole, rel=1e-6)
    assert loss(windows) == pytest.approx(fixture["losses"][family], rel=1e-9)


def test_no_other_code_compares_or_looks_up_the_name_of_a_kind():
    def compares(node):
        is_comparison = isinstance(node, ast.Compare | ast.match_case)
        is_table = isinstance(node, ast.Subscript | ast.Call) and any(
            isinstance(n, ast.Dict) for n in ast.walk(node)
        )
        if not (is_comparison or is_table):
            return False
        names = [one for one in ast.walk(node) if isinstance(one, ast.Constant) and one.value in KINDS]
        attributes = [one for one in ast.walk(node) if isinstance(one, ast.Attribute)]
        further = [one.value for one in attributes]  # `kind.head` is the name of a head
        return names and any(one.attr == "kind" and one not in further for one in attributes)

    files = [file for file in PACKAGE.rglob("*.py") if "tasks/kinds" not in file.as_posix()]
    assert not [
        f"{file.relative_to(PACKAGE)}:{node.lineno}"
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if compares(node)
    ]
