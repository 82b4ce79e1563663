"""i2b2 2010 as its three archives unpack, with invented records."""

import pytest

from clinscale.errors import DataError
from clinscale.tasks import Findings, load_task, read_task
from clinscale.tasks.distributions.line_token import MISCOUNTED

TRAIN, REFERENCE = "concept_assertion_relation_training_data", "reference_standard_for_test_data"
TEXT = "Chief Complaint :\nDry cough for two days .\n Given syrup for cough .\n"
CONCEPTS = 'c="dry cough" 2:0 2:1||t="problem"\nc="syrup" 3:2 3:2||t="treatment"\nc="cough" 3:4 3:4||t="problem"\n'
SURFACES = [("Dry cough", "problem"), ("syrup", "treatment"), ("cough", "problem")]


def write(text_file, concept_file, text, concepts):
    for file, content in ((text_file, text), (concept_file, concepts)):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode())


@pytest.fixture
def make(tmp_path):
    """Ten records of each hospital, and one of the test set, which `text` and `concepts` replace."""

    data = tmp_path / "data"

    def make(text=TEXT, concepts=CONCEPTS):
        for site in ("beth", "partners"):
            folder = data / TRAIN / site
            for n in range(10):
                name = f"record-{n}"
                write(
                    folder / "txt" / f"{name}.txt",
                    folder / "concept" / f"{name}.con",
                    f"{TEXT}{site} {n}",
                    CONCEPTS,
                )
            write(folder / "ast" / "record-0.ast", folder / "rel" / "record-0.rel", "", "")
        (data / TRAIN / "partners" / "unannotated").mkdir(exist_ok=True)
        (data / TRAIN / "partners" / "unannotated" / "u.txt").write_text("Unread .")
        write(data / "test_data" / "0001.txt", data / REFERENCE / "concepts" / "0001.con", text, concepts)
        return data

    return make


def read(data, *changes, on_error="skip"):
    return read_task(load_task("i2b2_2010", list(changes)), str(data), findings=Findings(on_error))


def test_set(found):
    (example,) = found.splits["test"]
    return [(example.text[e.start : e.end], e.label) for e in example.entities]


test_set.__test__ = False


def test_both_hospitals_give_a_tenth_to_dev(make):
    found = read(make(), on_error="raise")
    assert {split: len(examples) for split, examples in found.splits.items()} == {"train": 18, "dev": 2, "test": 1}
    assert {example.id.partition("/")[0] for example in found.splits["dev"]} == {"beth", "partners"}
    assert [example.id for example in found.splits["test"]] == ["0001"]
    for example in found.splits["train"]:
        assert [(example.text[e.start : e.end], e.label) for e in example.entities] == SURFACES
    assert found.findings.found == {"documents": 21, "annotations": 63}
    assert not found.findings.repaired
    assert "training records of beth: found 10, i2b2 2010 has 73" in found.findings.remarks
    assert "test records: found 1, i2b2 2010 has 256" in found.findings.remarks
    assert found.splits == read(make()).splits
    seeds = [frozenset(e.id for e in read(make(), f"options.seed={seed}").splits["dev"]) for seed in range(4)]
    assert len(set(seeds)) > 1


def test_a_blank_at_the_start_of_a_line_can_count_as_a_token_or_not(make):
    text = " cough and cough and cough .\n"
    counted = 'c="cough" 1:3 1:3||t="problem"'
    found = read(make(text, counted), on_error="raise")
    assert found.splits["test"][0].entities[0].start == text.index("cough", 2)
    not_counted = 'c="cough" 1:0 1:0||t="problem"'
    found = read(make(text, not_counted), on_error="raise")
    assert found.splits["test"][0].entities[0].start == 1
    assert not found.findings.repaired


@pytest.mark.parametrize("number", [2, 4])
def test_runs_of_blanks_count_as_one_or_each(make, number):
    text = "cough ;   cough . cough\n"
    found = read(make(text, f'c="cough" 1:{number} 1:{number}||t="problem"'), on_error="raise")
    # 2 is the second one where a run counts once; 4 is the third one so, and the second where each blank counts
    assert found.splits["test"][0].entities[0].start == (10 if number == 2 else 18)
    only = read(make("cough ;   fever .\n", f'c="fever" 1:{number} 1:{number}||t="problem"'), on_error="raise")
    assert test_set(only) == [("fever", "problem")]
    assert not only.findings.repaired


def test_quotes_within_and_concepts_over_a_line_break(make):
    text = 'A so-called "  mild " fever of the\nupper arm .\n'
    concepts = 'c="a so-called " mild " fever" 1:0 1:5||t="problem"\nc="the upper arm" 1:7 2:1||t="problem"\n'
    found = read(make(text, concepts), on_error="raise")
    assert test_set(found) == [('A so-called "  mild " fever', "problem"), ("the\nupper arm", "problem")]


def test_duplicate_lines_count_once_and_of_overlapping_concepts_the_longest(make):
    again = CONCEPTS + 'c="dry cough" 2:0 2:1||t="problem"\nc="cough" 2:1 2:1||t="problem"\n'
    found = read(make(concepts=again), on_error="raise")
    assert test_set(found) == SURFACES
    assert found.findings.rejected == {"repeats another annotation": 1, "overlaps a longer span": 1}


def test_a_wrong_token_number_is_repaired_on_its_line_or_rejected(make):
    concepts = 'c="syrup" 3:3 3:3||t="treatment"\nc="coughs" 3:4 3:4||t="problem"\nc="days" 1:0 1:0||t="test"\n'
    with pytest.raises(DataError, match=r"0001\.con line 2: span not found") as error:
        read(make(concepts=concepts), on_error="raise")
    assert "cough" not in str(error.value)
    found = read(make(concepts=concepts))
    assert test_set(found) == [("syrup", "treatment")]
    assert found.findings.repaired == {MISCOUNTED: 1}
    assert found.findings.places[MISCOUNTED][0].endswith("0001.con line 1")
    assert found.findings.rejected == {"span not found at its offset": 2}


def test_whole_words_go_before_parts_of_others(make):
    found = read(make(" was a test\n", 'c="a" 1:1 1:1||t="test"'), on_error="raise")
    assert found.splits["test"][0].entities[0].start == 5


def test_a_wrong_number_does_not_lead_into_a_longer_word(make):
    found = read(make("The coughing is dry .\n", 'c="cough" 1:3 1:3||t="problem"\nc="dry" 1:3 1:3||t="problem"\n'))
    assert test_set(found) == [("dry", "problem")]


def test_a_malformed_line_is_named(make):
    with pytest.raises(DataError, match=r"0001\.con line 4: not an annotation by line and token") as error:
        read(make(concepts=CONCEPTS + 'c="secret words" 1:0||t="problem"\n'), on_error="raise")
    assert "secret" not in str(error.value)


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(make):
    plain = read(make())
    data = make("\ufeff" + TEXT.replace("\n", "\r\n"), CONCEPTS.replace("\n", "\r\n"))
    assert read(data, on_error="raise").fingerprint == plain.fingerprint


def test_a_file_that_is_not_utf_8_is_named(make):
    data = make()
    file = data / TRAIN / "beth" / "txt" / "record-3.txt"
    file.write_bytes(file.read_bytes() + "Größer".encode("latin-1"))
    with pytest.raises(DataError, match=r"record-3\.txt is not valid UTF-8 at byte"):
        read(data, on_error="raise")
    found = read(data)
    assert found.findings.rejected == {"not readable": 1}
    assert "record-3.txt" in found.findings.places["not readable"][0]


def test_a_text_without_concepts_and_concepts_without_text_are_named(make):
    data = make()
    (data / TRAIN / "beth" / "concept" / "record-3.con").unlink()
    (data / TRAIN / "partners" / "txt" / "record-4.txt").unlink()
    with pytest.raises(DataError, match=r"beth/txt/record-3\.txt: text without annotations"):
        read(data, on_error="raise")
    assert read(data).findings.rejected == {"text without annotations": 1, "annotations without text": 1}


def test_the_texts_of_the_test_set_may_lie_a_folder_deeper(make):
    data = make()
    plain = read(data).fingerprint
    (data / "test_data" / "txt").mkdir()
    (data / "test_data" / "0001.txt").rename(data / "test_data" / "txt" / "0001.txt")
    assert read(data).fingerprint == plain
    assert read(data.parent).fingerprint == plain


def test_another_release_is_named(make):
    data = make()
    (data / TRAIN / "upmcd").mkdir()
    (data / TRAIN / "partners" / "concept").rename(data / TRAIN / "upmcd" / "concept")
    with pytest.raises(
        DataError, match="concepts of beth, upmcd and none of partners, which is not today's release"
    ):
        read(data)


def test_hospitals_of_the_first_release_are_told_and_not_read(make):
    data = make()
    folder = data / TRAIN / "upmcp"
    write(folder / "txt" / "1.txt", folder / "concept" / "1.con", TEXT, CONCEPTS)
    found = read(data)
    assert "today's i2b2 2010 has no concepts of upmcp; they are not read" in found.findings.remarks
    assert found.findings.found["documents"] == 21


def test_an_archive_still_packed_is_named(make):
    data = make()
    (data / REFERENCE).rename(data / "elsewhere")
    (data / f"{REFERENCE}.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match=rf"unpack {data}/{REFERENCE}\.tar\.gz"):
        read(data)
