"""NLI4CT: statements in train.json and dev.json, premises by trial and section, with invented trials."""

import json

import pytest

from clinscale.errors import DataError
from clinscale.tasks import load_task, read_task


@pytest.fixture
def data(tmp_path):
    """Twenty trials with two statements each, and an official dev on trials of train."""
    (tmp_path / "CT json").mkdir()
    for number in range(20):
        trial = {
            "Clinical Trial ID": f"NCT{number}",
            "Intervention": ["INTERVENTION 1: ", f"  Invented drug {number}"],
            "Eligibility": ["Inclusion Criteria:", f"  Older than {number}"],
            "Results": ["Outcome Measurement: ", f"  Result {number}"],
            "Adverse Events": ["Adverse Events 1:", f"  Total: {number}/90"],
        }
        (tmp_path / "CT json" / f"NCT{number}.json").write_text(json.dumps(trial))
    train = {f"t{number}": statement(number // 2) for number in range(40)}
    write(tmp_path / "train.json", train)
    write(
        tmp_path / "dev.json", {"d1": statement(1, "Results", secondary=2), "d2": statement(3, label="Entailment")}
    )
    return tmp_path


def statement(primary, section="Eligibility", *, secondary=None, label="Contradiction"):
    return {
        "Type": "Single" if secondary is None else "Comparison",
        "Section_id": section,
        "Primary_id": f"NCT{primary}",
        **({} if secondary is None else {"Secondary_id": f"NCT{secondary}"}),
        "Statement": f"An invented claim on {primary}",
        "Label": label,
        "Primary_evidence_index": [0],
    }


def write(path, statements):
    path.write_text(json.dumps(statements))


def read(data, *changes):
    return read_task(load_task("nli4ct", list(changes)), str(data))


def test_the_premise_is_the_section_that_the_statement_names(data):
    one = read(data).splits["test"][1]
    assert (one.id, one.text) == ("d2", "Inclusion Criteria:\n  Older than 3")
    assert one.text_pair == "An invented claim on 3"
    assert one.labels == ("Entailment",)


def test_a_comparison_tells_its_two_trials_apart(data):
    assert read(data).splits["test"][0].text == (
        "Primary trial:\nOutcome Measurement: \n  Result 1\n\nSecondary trial:\nOutcome Measurement: \n  Result 2"
    )


def test_the_whole_record_can_be_the_premise(data):
    text = read(data, "options.premise=record").splits["test"][1].text
    assert [line.strip() for line in text.split("\n")[1::2]] == [
        "Invented drug 3",
        "Older than 3",
        "Result 3",
        "Total: 3/90",
    ]


def test_dev_is_held_out_of_train_by_trial(data):
    found = read(data, "options.dev_share=0.2")
    trials = {split: {example.group for example in found.splits[split]} for split in ("train", "dev")}
    assert {split: len(examples) for split, examples in found.splits.items()} == {"train": 32, "dev": 8, "test": 2}
    assert not trials["train"] & trials["dev"]
    other = read(data, "options.dev_share=0.2", "options.dev_seed=1")
    assert {example.group for example in other.splits["dev"]} != trials["dev"]


def test_counts_are_of_the_official_splits(data):
    findings = read(data).findings
    assert findings.found == {"documents": 20, "train statements": 40, "dev statements": 2}
    assert "train statements: found 40, NLI4CT has 1,700" in findings.remarks


def test_a_statement_on_an_unknown_trial_is_left_out_and_counted(data):
    write(data / "dev.json", {"d1": statement(99), "d2": statement(3), "d3": statement(3, "Sponsors")})
    found = read(data)
    assert [example.id for example in found.splits["test"]] == ["d2"]
    assert found.findings.rejected == {"trial or section is not in `CT json`": 2}
    with pytest.raises(DataError, match=r"dev\.json row 1"):
        read(data, "on_error=raise")


def test_a_folder_without_trials_is_refused(data):
    with pytest.raises(DataError, match="CT json does not exist"):
        read(data / "CT json")


@pytest.mark.parametrize("section", ["a line", None, ["a line", 7]])
def test_a_trial_whose_sections_are_no_lines_is_named_and_not_spelled_out(data, section):
    path = data / "CT json" / "NCT3.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "Eligibility": section}))
    with pytest.raises(DataError, match=r"NCT3\.json: a trial's sections are no lists of lines"):
        read(data, "on_error=raise")


def test_a_statement_whose_values_are_no_texts_is_left_out_and_counted(data):
    odd = {
        "d1": {**statement(3), "Statement": 7},
        "d2": {**statement(3), "Primary_id": ["NCT3"]},
        "d3": statement(3),
    }
    write(data / "dev.json", odd)
    found = read(data, "on_error=skip")
    assert [example.id for example in found.splits["test"]] == ["d3"]
    assert sum(found.findings.rejected.values()) == 2
