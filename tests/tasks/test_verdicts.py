"""Annotations that their annotator has rejected or skipped are no gold."""

import json

import pytest

from clinscale.tasks import Findings
from clinscale.tasks.readers.records import read_rows
from clinscale.tasks.readers.verdicts import REJECTED, is_rejected


@pytest.mark.parametrize(
    ("fields", "gold", "rejected"),
    [
        ({"answer": "reject"}, ["label"], True),
        ({"answer": "Ignore"}, ["label"], True),
        ({"answer": "accept"}, ["label"], False),
        ({"answer": None}, ["label"], False),
        ({"answer": "reject"}, ["answer"], False),  # the label itself
        ({"was_cancelled": True}, ["label"], True),
        ({"was_cancelled": False}, ["label"], False),
        ({"annotations": [{"was_cancelled": True, "result": []}]}, ["annotations.0.result"], True),
        ({"annotations": [{"result": []}, {"was_cancelled": True}]}, ["annotations.0.result"], False),
        ({"meta": {"answer": "reject"}}, ["label"], False),
        ({"answers": {"answer": "reject"}}, ["answers.text.7"], True),
    ],
)
def test_what_counts_as_rejected(fields, gold, rejected):
    assert is_rejected(fields, gold) == rejected


def test_rejected_rows_and_spans_are_left_out_and_counted(task_of, tmp_path):
    span = {"start": 3, "end": 8, "label": "Sign"}
    rows = [
        {"text": "No fever", "spans": [span], "answer": "accept"},
        {"text": "No fever now", "spans": [span], "answer": "reject"},
        {"text": "No fever then", "spans": [{**span, "answer": "reject"}, {**span, "start": 0, "end": 2}]},
        {"text": "No cough", "spans": [{"broken": 1}], "answer": "ignore"},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    findings = Findings("raise")
    task = task_of("tokens", format="records", columns={"entities": "spans"})
    examples = read_rows(task, str(tmp_path), findings)
    assert [(e.text, len(e.entities)) for e in examples] == [("No fever", 1), ("No fever then", 1)]
    assert findings.rejected == {REJECTED: 3}


def test_a_rejected_label_is_not_the_texts_label(task_of, tmp_path):
    (tmp_path / "a.csv").write_text("text,label,answer\none,yes,accept\ntwo,yes,reject\n")
    examples = read_rows(task_of("sequence"), str(tmp_path), Findings("raise"))
    assert [e.text for e in examples] == ["one"]
