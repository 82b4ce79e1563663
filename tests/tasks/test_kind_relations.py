"""Pairs of entities: which are asked about, what a relation means, and how it is read, found and counted."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from clinscale.errors import ConfigError, DataError
from clinscale.tasks import (
    Entity,
    Example,
    Findings,
    TaskConfig,
    check_use,
    kind_of,
    options_of,
    read_task,
    read_unlabelled,
    survey,
)
from clinscale.tasks.readers.relations import LOST_ENTITY, UNKNOWN_ENTITY, WITH_ITSELF, Relation

A, B, C = Entity(0, 1, "drug"), Entity(10, 11, "problem"), Entity(30, 31, "problem")
TEXT = "a         b         \n         c and more."


def task(**options):
    values = {"name": "t", "kind": "relations", "format": "brat", "splits": {"all": "."}, "kind_options": options}
    return TaskConfig.parse({**values, "split_ratios": [0.4, 0.3, 0.3]}, source="test")


def relation(head, tail, label="for"):
    return Relation(head, tail, label)


def asked(*entities, text=TEXT, **options):
    pairs = kind_of(task(**options)).pairs(Example("x", text, entities=entities))
    return [(pair.first, pair.second) for pair in pairs]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [(A, B), (A, C), (B, C)]),
        ({"max_gap_characters": 20}, [(A, B), (B, C)]),
        ({"max_gap_characters": 9}, [(A, B)]),
        ({"max_gap_characters": 8}, []),
        ({"within": "line"}, [(A, B)]),
        ({"max_pairs": 2}, [(A, B), (B, C)]),
        ({"types": [["drug", "problem"]]}, [(A, B), (A, C)]),
        ({"types": [["problem", "drug"]]}, [(A, B), (A, C)]),
        ({"types": [["drug", "drug"]]}, []),
    ],
)
def test_the_pairs_within_the_window_are_asked_about_once_in_the_order_of_the_text(options, expected):
    assert asked(C, A, B, A, **options) == expected


def test_an_entity_over_a_line_break_is_on_both_lines():
    over = Entity(10, 31, "problem")
    assert asked(A, over, C, within="line") == [(A, over), (over, C)]


def test_entities_that_overlap_or_share_their_span_are_a_pair():
    inner, other = Entity(10, 12, "problem"), Entity(10, 12, "drug")
    assert asked(Entity(9, 13, "test"), inner, other) == [
        (Entity(9, 13, "test"), other),
        (Entity(9, 13, "test"), inner),
        (other, inner),
    ]


def prediction(*relations):
    plain = dataclasses.asdict
    return {
        "relations": [
            {"head": plain(r.head), "tail": plain(r.tail), "label": r.label, "score": 1.0} for r in relations
        ]
    }


def test_strict_f1_equals_one_counted_by_hand():
    """An independent scorer: multisets of plain strings, micro over the corpus."""
    rng = np.random.default_rng(0)
    entities = [Entity(9 * n, 9 * n + 3, "drug" if n % 2 else "problem") for n in range(6)]
    examples, answers, gold_lines, found_lines = [], [], [], []
    for number in range(30):
        both = [
            {
                relation(entities[i], entities[j], label)
                for i, j, label in zip(rng.integers(0, 6, 5), rng.integers(0, 6, 5), "aabbc", strict=True)
                if i != j
            }
            for _ in range(2)
        ]
        both[1] |= set(sorted(both[0])[:2])
        examples.append(Example(str(number), "x" * 60, entities=tuple(entities), gold=tuple(sorted(both[0]))))
        answers.append(prediction(*both[1]))
        for lines, some in zip((gold_lines, found_lines), both, strict=True):
            lines += [
                f"{number} {r.head.start}-{r.head.end}-{r.head.label} {r.label} {r.tail.start}" for r in some
            ]
    right = (Counter(gold_lines) & Counter(found_lines)).total()
    precision, recall = right / len(found_lines), right / len(gold_lines)
    kind = kind_of(task())
    scores = kind.score(examples, answers, ("a", "b", "c"))
    assert scores["precision"] == pytest.approx(precision)
    assert scores["recall"] == pytest.approx(recall)
    assert scores["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert 0 < scores["f1"] < 1


@pytest.mark.parametrize(
    ("answer", "scorer", "f1"),
    [
        (relation(A, B), "strict", 1),
        (relation(B, A), "strict", 0),
        (relation(A, B, "despite"), "strict", 0),
        (relation(A, Entity(10, 12, "problem")), "strict", 0),
        (relation(A, Entity(10, 11, "test")), "strict", 0),
        (relation(A, Entity(10, 11, "test")), "strict_spans", 1),
    ],
)
def test_a_relation_is_right_when_spans_types_label_and_direction_are(answer, scorer, f1):
    kind = kind_of(task().model_copy(update={"scorer": scorer}))
    example = Example("x", TEXT, entities=(A, B), gold=(relation(A, B),))
    twice = prediction(answer, answer)
    assert kind.score([example], [twice], ("despite", "for"))["f1"] == f1


def test_gold_out_of_reach_is_scored_as_missed_and_remarked():
    kind = kind_of(task(max_gap_characters=9))
    gold = (relation(A, B), relation(A, C), relation(B, A, "despite"))
    example = Example("x", TEXT, entities=(A, B, C), gold=gold)
    scores = kind.score([example], [prediction(relation(A, B))], ("despite", "for"))
    assert scores == {"f1": 0.5, "precision": 1, "recall": pytest.approx(1 / 3), "reachable": pytest.approx(1 / 3)}
    findings = Findings()
    kind.report({"test": [example]}, findings)
    assert findings.found == {"relations": 3, "candidate pairs": 1}
    assert "test: 2 of 3 relations are out of reach and count as missed" in findings.remarks[0]


def test_types_leave_one_direction_as_an_answer():
    kind = kind_of(task(types=[["drug", "problem"]]))
    example = Example("x", TEXT, entities=(A, B))
    names = kind.output_names(("for",))
    assert names == ("none", "for>", "for<")
    answer = kind.decode(example, [None], [{"logits": np.array([0.0, 1.0, 9.0])}], ("for",))
    (found,) = answer["relations"]
    assert (found["head"], found["tail"]) == (dataclasses.asdict(A), dataclasses.asdict(B))


def test_a_document_without_a_pair_has_no_windows_and_no_relations(tokenizer):
    kind = kind_of(task())
    for entities in ((), (A,)):
        example = Example("x", TEXT, entities=entities)
        windows = kind.windows(example, tokenizer, ("for",), max_tokens=32, stride_tokens=0, train=False)
        assert windows == []
        assert kind.decode(example, windows, [], ("for",)) == {"relations": []}


def test_training_takes_so_many_pairs_without_a_relation(tokenizer):
    entities = tuple(Entity(4 * n, 4 * n + 1, "drug") for n in range(10))
    example = Example("x", "a   " * 10, entities=entities, gold=(relation(entities[0], entities[9]),))
    for negatives, expected in ((None, 45), (3, 4), (0, 1)):
        kind = kind_of(task(negatives=negatives))
        made = [
            kind.windows(example, tokenizer, ("for",), max_tokens=64, stride_tokens=0, train=True)
            for _ in range(2)
        ]
        assert len(made[0]) == expected
        assert [w.input_ids for w in made[0]] == [w.input_ids for w in made[1]]
        assert sum(window.targets["labels"] > 0 for window in made[0]) == 1


def test_a_window_shows_both_entities_in_marks_that_say_their_types(any_tokenizer):
    text = "He was given aspirin for the fever that he had."
    drug, problem = Entity(13, 20, "drug"), Entity(29, 34, "Sign_symptom")
    kind = kind_of(task(context_characters=8))
    example = Example("x", text, entities=(drug, problem))
    (window,) = kind.windows(example, any_tokenizer, ("for",), max_tokens=200, stride_tokens=0, train=False)
    shown = "given @ * drug * aspirin @ for the # ^ sign symptom ^ fever # that he"
    whole = any_tokenizer(shown, verbose=False)["input_ids"]
    assert list(window.input_ids) == whole
    assert sum(window.global_mask) == 5


def test_a_pair_that_is_too_long_keeps_both_marks_whole(tokenizer):
    text = "aspirin " + "x " * 200 + "fever"
    drug, problem = Entity(0, 7, "drug"), Entity(len(text) - 5, len(text), "problem")
    kind = kind_of(task(max_gap_characters=1000))
    example = Example("x", text, entities=(drug, problem))
    (window,) = kind.windows(example, tokenizer, ("for",), max_tokens=64, stride_tokens=0, train=False)
    assert len(window.input_ids) == 64
    assert sum(window.global_mask) == 5
    shown = tokenizer.decode(window.input_ids)
    assert "@ * drug * aspirin @" in shown
    assert "# ^ problem ^ fever #" in shown


def write_brat(folder, annotations, count=10):
    for number in range(count):
        (folder / f"{number}.txt").write_text(f"Aspirin for fever and pain. Note {number}.")
        (folder / f"{number}.ann").write_text(annotations)
    return str(folder)


ENTITIES = "T1\tdrug 0 7\tAspirin\nT2\tproblem 12 17\tfever\nT3\tproblem 22 26\tpain\nE1\tdrug:T1 \n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("R1\tfor Arg1:T1 Arg2:T9", UNKNOWN_ENTITY),
        ("T3\tproblem 8 11\tfor\nR1\tfor Arg1:T1 Arg2:T3", UNKNOWN_ENTITY),
        ("R1\tfor Arg1:T1 Arg2:T1", WITH_ITSELF),
        ("R1\tfor Arg1:T1 Arg2:E1", WITH_ITSELF),
        ("R1\tfor T1 T2", "Arg1:ID Arg2:ID"),
    ],
)
def test_a_relation_that_cannot_be_is_refused_or_counted(tmp_path, line, reason):
    data = write_brat(tmp_path, f"{ENTITIES}R0\tfor Arg1:T1 Arg2:T2\n{line}\n")
    with pytest.raises(DataError) as error:
        read_task(task(), data)
    assert reason in str(error.value)
    assert "spirin" not in str(error.value)
    findings = Findings("skip")
    found = read_task(task(), data, findings=findings)
    assert sum(findings.rejected.values()) == 10
    assert all(len(example.gold) == 1 for example in found.splits["train"])


def test_brat_relations_are_read_with_events_as_their_triggers(tmp_path):
    lines = "R1\tfor Arg1:E1 Arg2:T2\t\nR2\tfor Arg1:T1 Arg2:T2\nR3\tAFTER Arg1:T3 Arg2:T2\n*\tSAME T2 T3\n"
    lines += "E2\tcare:T1 Theme:T2\n"
    findings = Findings()
    found = read_task(task(inverse={"AFTER": "BEFORE"}), write_brat(tmp_path, ENTITIES + lines), findings=findings)
    drug, fever, pain = found.splits["train"][0].entities
    assert found.splits["train"][0].gold == (relation(drug, fever), relation(fever, pain, "BEFORE"))
    assert found.labels == ("BEFORE", "for")
    assert sum(findings.rejected.values()) == 30
    assert findings.rejected["event with roles, which are no relations (`R`)"] == 10
    assert findings.rejected["repeats another relation"] == 10
    assert survey(found)["labels"] == {"BEFORE": 10, "for": 10}


def test_a_relation_goes_with_an_entity_that_is_not_there(tmp_path):
    entities = ENTITIES.replace("12 17\tfever", "12 17\tcough")
    lines = "R1\tfor Arg1:T1 Arg2:T2\nR2\tfor Arg1:T1 Arg2:T3\n"
    findings = Findings("skip")
    read_task(task(), write_brat(tmp_path, entities + lines), findings=findings)
    assert findings.rejected[LOST_ENTITY] == 10


def test_a_symmetric_relation_leads_forward_however_it_is_annotated(tmp_path):
    data = write_brat(tmp_path, f"{ENTITIES}R1\twith Arg1:T3 Arg2:T2\nR2\twith Arg1:T2 Arg2:T3\n")
    found = read_task(task(symmetric=["with"]), data)
    _, fever, pain = found.splits["test"][0].entities
    assert found.splits["test"][0].gold == (relation(fever, pain, "with"),)
    kind = kind_of(found.task)
    assert kind.output_names(found.labels) == ("none", "with>")
    answer = prediction(relation(pain, fever, "with"))
    assert kind.score(found.splits["test"][:1], [answer], found.labels)["f1"] == 1


@pytest.mark.parametrize("options", [{"types": [["Drug", "problem"]]}, {"symmetric": ["For"]}])
def test_a_name_that_the_data_spell_otherwise_is_refused(tmp_path, options):
    data = write_brat(tmp_path, f"{ENTITIES}R1\tfor Arg1:T1 Arg2:T2\n")
    with pytest.raises(DataError, match=r"kind_options\.\w+, '(Drug|For)': nothing in the data has this name"):
        read_task(task(**options), data)


def test_a_split_without_a_relation_is_refused(tmp_path):
    with pytest.raises(DataError, match="has no relation; check the annotations"):
        read_task(task(), write_brat(tmp_path, ENTITIES))


def test_a_split_whose_relations_no_answer_can_reach_is_refused(tmp_path):
    data = write_brat(tmp_path, f"{ENTITIES}R1\tfor Arg1:T1 Arg2:T2\n")
    assert read_task(task(), data).labels == ("for",)
    with pytest.raises(
        DataError, match=r"split train has no relation that an answer could reach.*max_gap_characters"
    ):
        check_use(read_task(task(max_gap_characters=0), data))


RECORDS = {"format": "records", "splits": {"all": "r.jsonl"}, "columns": {"entities": "entities"}}


def read_rows(folder, entities, relations, on_error="raise"):
    rows = [
        {"text": f"Aspirin for fever and pain {n}.", "entities": entities, "relations": relations}
        for n in range(10)
    ]
    (folder / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {"name": "t", "kind": "relations", "split_ratios": [0.4, 0.3, 0.3], "on_error": on_error, **RECORDS}
    return read_task(TaskConfig.parse(values, source="test"), str(folder))


DRUG, FEVER = {"start": 0, "end": 7, "label": "drug"}, {"start": 12, "end": 17, "label": "problem"}


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        ("e1", 2),
        ({"start": 0, "end": 7}, {"start": 12, "end": 17, "label": "problem", "score": 0.9}),
        ("e1", {"start": 12, "end": 17}),
    ],
)
def test_records_name_entities_by_id_or_by_span(tmp_path, head, tail):
    entities = [{"id": "e1", **DRUG}, {"id": 2, **FEVER}]
    found = read_rows(tmp_path, entities, [{"head": head, "tail": tail, "label": "for"}])
    drug, fever = found.splits["train"][0].entities
    assert found.splits["train"][0].gold == (relation(drug, fever),)


@pytest.mark.parametrize(
    ("entities", "link", "reason"),
    [
        ([DRUG, FEVER], {"head": 0, "tail": 1, "label": "for"}, UNKNOWN_ENTITY),
        ([{"id": 1, **DRUG}, {"id": 1, **FEVER}], {"head": 1, "tail": FEVER, "label": "for"}, UNKNOWN_ENTITY),
        ([DRUG, FEVER], {"head": DRUG, "tail": FEVER}, "relation without head, tail and label"),
        ([DRUG, FEVER], [DRUG, FEVER, "for"], "relation without head, tail and label"),
        ([DRUG, FEVER], {"head": {"start": "x"}, "tail": FEVER, "label": "for"}, "relation without head, tail"),
    ],
)
def test_a_relation_of_records_that_names_no_two_entities_is_refused(tmp_path, entities, link, reason):
    with pytest.raises(DataError, match=reason):
        read_rows(tmp_path, entities, [link])


def test_documents_to_answer_bring_their_entities(tmp_path):
    (tmp_path / "note.txt").write_text("Aspirin for fever.")
    (alone,) = read_unlabelled(task(), str(tmp_path / "note.txt"), "text", "note")
    assert alone.fault.startswith("a text file has no list of entities unless note.ann is beside it")
    (tmp_path / "note.ann").write_text("T1\tdrug 0 7\tAspirin\nT2\tproblem 12 17\tfever\n")
    (beside,) = read_unlabelled(task(), str(tmp_path / "note.txt"), "text", "note")
    assert beside.example.entities == (Entity(0, 7, "drug"), Entity(12, 17, "problem"))
    (tmp_path / "note.text").write_text("Aspirin for fever.")
    (same,) = read_unlabelled(task(), str(tmp_path / "note.text"), "text", "note")
    assert same.example.entities == beside.example.entities
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"text": "Aspirin for fever.", "entities": [DRUG, FEVER]})
        + "\n"
        + json.dumps({"text": "Aspirin."})
        + "\n"
        + json.dumps({"text": "Aspirin.", "entities": [{"start": 0, "end": 70, "label": "drug", "text": "Xylol"}]})
        + "\n"
    )
    rows = list(read_unlabelled(task(), str(tmp_path / "rows.jsonl"), "records", "rows"))
    assert rows[0].example.entities == beside.example.entities
    assert [row.fault for row in rows[1:]] == ["column 'entities' must be a list", "span not found at its offset"]
    with pytest.raises(DataError, match="must be of format records or text, which bring the list of entities"):
        read_unlabelled(task(), "x.xml", "i2b2_xml", "x")


def test_a_wrong_choice_of_the_kind_is_named():
    with pytest.raises(ConfigError, match="max_gap_characters"):
        task(max_gap_character=3)
    with pytest.raises(ConfigError, match="metric reachable is of the data and the same for every model"):
        kind_of(task().model_copy(update={"metric": "reachable"}))
    with pytest.raises(ConfigError, match="inverse must name relations that have none themselves"):
        task(inverse={"AFTER": "BEFORE", "BEFORE": "AFTER"})
    options = {one["option"]: one for one in options_of(task(max_pairs=7))}
    assert options["kind_options.max_pairs"]["value"] == 7
    assert options["kind_options.max_pairs"]["default"] == 1000


def test_the_relations_of_real_case_reports(real_data):
    from clinscale.tasks import load_task

    found = read_task(load_task("maccrobat_relations"), str(Path(real_data("maccrobat2020")) / "maccrobat2020"))
    assert sum(len(example.gold) for members in found.splits.values() for example in members) == 12593
    kind = kind_of(found.task)
    rows = kind.outcomes(found.splits["test"], [prediction(*e.gold) for e in found.splits["test"]], found.labels)
    scores = kind.scores_of(rows)
    assert scores["f1"] == 1
    assert 0.95 < scores["reachable"] < 1
