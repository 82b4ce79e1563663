"""Relations of i2b2 2010 as its three archives unpack, with invented records."""

import pytest

from clinscale.errors import DataError
from clinscale.tasks import Findings, kind_of, load_task, read_task
from clinscale.tasks.readers.relations import UNKNOWN_ENTITY

TRAIN, REFERENCE = "concept_assertion_relation_training_data", "reference_standard_for_test_data"
TEXT = "Chief Complaint :\nDry cough for two days .\nGiven syrup for cough .\n"
CONCEPTS = (
    'c="complaint" 1:1 1:1||t="test"\nc="dry cough" 2:0 2:1||t="problem"\n'
    'c="syrup" 3:1 3:1||t="treatment"\nc="cough" 3:3 3:3||t="problem"\n'
)
RELATION = 'c="syrup" 3:1 3:1||r="TrAP"||c="cough" 3:3 3:3'


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


@pytest.fixture
def make(tmp_path):
    """Ten records of each hospital, and one of the test set with the relations given."""

    def make(relations=RELATION + "\n"):
        for site in ("beth", "partners"):
            for n in range(10):
                folder, name = tmp_path / TRAIN / site, f"record-{n}"
                write(folder / "txt" / f"{name}.txt", f"{TEXT}{site} {n}")
                write(folder / "concept" / f"{name}.con", CONCEPTS)
                write(folder / "rel" / f"{name}.rel", RELATION)
        write(tmp_path / "test_data" / "0001.txt", TEXT)
        write(tmp_path / REFERENCE / "concepts" / "0001.con", CONCEPTS)
        write(tmp_path / REFERENCE / "rel" / "0001.rel", relations)
        return str(tmp_path)

    return make


def read(data, on_error="raise"):
    findings = Findings(on_error)
    return read_task(load_task("i2b2_2010_relations"), data, findings=findings), findings


def test_relations_lead_between_the_concepts_that_they_quote(make):
    found, _ = read(make())
    assert {split: len(examples) for split, examples in found.splits.items()} == {"train": 18, "dev": 2, "test": 1}
    (example,) = found.splits["test"]
    (relation,) = example.gold
    quoted = [example.text[side.start : side.end] for side in (relation.head, relation.tail)]
    assert (quoted, relation.label) == (["syrup", "cough"], "TrAP")
    assert relation.tail.start > TEXT.index("Given")
    assert len(example.entities) == 4


def test_only_concepts_of_one_line_are_asked_about(make):
    found, findings = read(make())
    assert len(kind_of(found.task).pairs(found.splits["test"][0])) == 1
    assert not [remark for remark in findings.remarks if "out of reach" in remark]


def test_a_relation_over_two_lines_counts_as_missed(make):
    over = 'c="syrup" 3:1 3:1||r="TrAP"||c="dry cough" 2:0 2:1'
    found, findings = read(make(f"{RELATION}\n{over}\n"))
    kind = kind_of(found.task)
    answer = [{"relations": []} for _ in found.splits["test"]]
    assert kind.score(found.splits["test"], answer, found.labels)["reachable"] == 0.5
    assert any(remark.startswith("test: 1 of 2 relations are out of reach") for remark in findings.remarks)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('c="syrup" 3:1 3:1||r="TrAP"||c="fever" 2:3 2:3', UNKNOWN_ENTITY),
        ('c="syrup" 3:1||r="TrAP"||c="cough" 3:3', "not a relation by line and token"),
    ],
)
def test_a_broken_relation_is_refused_or_counted(make, line, reason):
    data = make(f"{RELATION}\n{line}\n")
    with pytest.raises(DataError, match=reason):
        read(data)
    found, findings = read(data, "skip")
    assert findings.rejected == {reason: 1}
    assert len(found.splits["test"][0].gold) == 1


def test_a_record_without_a_file_of_relations_is_told(make, tmp_path):
    data = make()
    (tmp_path / TRAIN / "beth" / "rel" / "record-3.rel").unlink()
    with pytest.raises(DataError, match=r"concepts without a file of relations; add the \.rel file"):
        read(data)
