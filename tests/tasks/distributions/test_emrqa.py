"""emrQA's data.json with its changing types, prepared as CliniRC does; and CliniRC's own files."""

import json
import random

import pytest

from clinscale.errors import DataError
from clinscale.tasks import Answer, load_task, read_task
from clinscale.tasks.distributions.emrqa import EmrqaOptions, read_emrqa
from clinscale.tasks.findings import Findings

LINES = ["ADMISSION NOTE\n", "She takes cough syrup daily .\n", "\n", "No fever was seen , no pain .\n"]


def answer(text="syrup", start=(2, 3), evidence=LINES[1], kind="single"):
    first = start[0]
    return {
        "text": text,
        "answer_start": list(start),
        "evidence": evidence,
        "evidence_start": first,
        "answer_entity_type": kind,
    }


def asked(*answers, questions=("what does she take ?",)):
    paraphrases = [[question, "what does |patient| take ?"] for question in questions]
    return {"question": list(questions), "id": [paraphrases, "MedicationEvent(x)"], "answers": list(answers)}


def note(number, *qas, lines=LINES):
    return {"note_id": f"inv{number}", "context": list(lines), "qas": list(qas)}


def subset(notes, title="medication"):
    return {"paragraphs": notes, "title": title}  # Python 2 wrote the keys in any order


@pytest.fixture
def read(tmp_path):
    """Write data.json with these subsets and read one with options; returns splits and findings."""

    def run(*subsets, on_error="skip", **options):
        content = json.dumps({"data": [subset([note(0)], "smoking"), *subsets, subset([note(0)], "obesity")]})
        (tmp_path / "data.json").write_text(content)
        findings = Findings(on_error)
        splits = read_emrqa(str(tmp_path), EmrqaOptions.parse(options, source="test"), findings)
        return splits, findings

    return run


@pytest.fixture
def prepare(read):
    """The examples of a single note, which always falls to the test set."""

    def run(*qas, lines=LINES, title="medication", **options):
        splits, findings = read(subset([note(1, *qas, lines=lines)], title), subset=title, **options)
        return splits["test"], findings

    return run


def texts(examples):
    return [answer.text for example in examples for answer in example.answers]


class TestCleaning:
    def test_a_note_becomes_one_line_without_clutter(self, prepare):
        lines = [
            "Na__me :\n",
            'the "old" man , aged &gt; 60 .\n',
            "Well&nbsp;now.. .\tok ?!\n",
            "pain &amp; fever\n",
        ]
        examples, _ = prepare(asked(answer(evidence=lines[3], start=(4, 0))), lines=lines)
        assert examples[0].text == "Na me : the old man, aged > 60. Well now. ok ! pain & fever"
        assert texts(examples) == ["pain & fever"]

    def test_it_can_stay_as_it_is(self, prepare):
        examples, _ = prepare(asked(answer()), clean="none")
        assert examples[0].text == "".join(LINES)
        assert examples[0].answers == (Answer(15, "She takes cough syrup daily"),)

    def test_lines_without_line_ends_stay_apart(self, prepare):
        lines = ["Record date", "", "CAD since 2001"]
        examples, _ = prepare(asked(answer("CAD", (13, 13))), lines=lines, title="risk-dataset", clean="none")
        assert examples[0].text.split("\n")[:3] == lines


class TestAnswers:
    def test_the_answer_is_the_evidence_line_without_its_last_mark(self, prepare):
        examples, _ = prepare(asked(answer()))
        assert examples[0].answers == (Answer(15, "She takes cough syrup daily"),)

    def test_it_can_be_the_entity_instead(self, prepare):
        examples, _ = prepare(asked(answer()), answer="entity")
        assert examples[0].answers == (Answer(31, "syrup"),)

    def test_heart_disease_is_answered_by_the_entity_at_its_character(self, prepare):
        lines = ["Record date: 2067", "has CAD , no DM", "", "known CAD . stable ."]
        given = answer("CAD", start=(35, 41), evidence=lines[3])
        examples, _ = prepare(asked(given), lines=lines, title="risk-dataset")
        text = examples[0].text
        assert examples[0].answers == (Answer(text.rindex("CAD"), "CAD"),)
        examples, _ = prepare(asked(given), lines=lines, title="risk-dataset", answer="evidence")
        assert texts(examples) == ["known CAD. stable"]

    def test_of_equal_lines_the_annotated_one_is_meant(self, prepare):
        lines = ["Plan:\n", "aspirin daily\n", *["some   other , line .\n"] * 30, "aspirin daily\n", "end\n"]
        examples, _ = prepare(asked(answer(evidence=lines[1], start=(33, 0))), lines=lines)
        text = examples[0].text
        assert examples[0].answers == (Answer(text.rindex("aspirin daily"), "aspirin daily"),)
        examples, _ = prepare(asked(answer(evidence=lines[1], start=(33, 0))), lines=lines, occurrence="first")
        assert examples[0].answers == (Answer(text.index("aspirin daily"), "aspirin daily"),)

    def test_an_entity_that_repeats_within_its_line_is_found_by_its_token(self, prepare):
        examples, _ = prepare(asked(answer("no", (4, 5), LINES[3])), answer="entity")
        assert examples[0].answers == (Answer(examples[0].text.rindex("no pain"), "no"),)

    def test_evidence_that_is_not_in_the_note_is_shortened_from_the_right_and_counted(self, prepare):
        joined = "She takes cough syrup daily .\n,No fever was seen , no pain .\n"
        examples, findings = prepare(asked(answer(evidence=joined)))
        assert texts(examples) == ["She takes cough syrup daily."]
        assert findings.repaired == {"answer shortened until found": 1}

    def test_without_shortening_it_is_rejected(self, prepare):
        joined = "She takes cough syrup daily .\n,No fever was seen , no pain .\n"
        examples, findings = prepare(asked(answer(evidence=joined)), shorten=False)
        assert examples == []
        assert findings.rejected == {"answer not in its note": 1, "question without an answer": 1}

    def test_evidence_of_which_no_word_is_in_the_note_is_rejected_at_its_place(self, prepare):
        _, findings = prepare(asked(answer(evidence="Entirely unrelated\n")))
        assert findings.places["answer not in its note"][0].endswith("data.json medication note 1 question 1")
        assert "unrelated" not in str(vars(findings))

    def test_an_answer_at_the_start_of_the_note_is_left_out_unless_told(self, prepare):
        given = asked(answer(evidence=LINES[0], start=(1, 0)))
        examples, findings = prepare(given)
        assert examples == []
        assert findings.rejected["answer at the start of its note"] == 1
        assert texts(prepare(given, drop_at_start=False)[0]) == ["ADMISSION NOTE"]

    def test_twenty_words_are_too_many_and_nineteen_are_not(self, prepare):
        lines = [
            "Note\n",
            " ".join(f"w{n}" for n in range(20)) + "\n",
            " ".join(f"v{n}" for n in range(19)) + "\n",
        ]
        examples, findings = prepare(
            asked(answer(evidence=lines[1], start=(2, 0))),
            asked(answer(evidence=lines[2], start=(3, 0))),
            lines=lines,
        )
        assert texts(examples) == [lines[2].strip()]
        assert findings.rejected == {"answer of too many words": 1, "question without an answer": 1}

    def test_a_complex_answer_is_skipped_or_read_in_parts(self, prepare):
        parts = answer(["syrup", "fever"], ([2, 4], [3, 1]), [LINES[1], LINES[3]], "complex")
        examples, findings = prepare(asked(parts))
        assert examples == []
        assert findings.rejected["answer of several parts"] == 1
        examples, _ = prepare(asked(parts), complex_answers="parts")
        assert texts(examples) == ["She takes cough syrup daily", "No fever was seen, no pain"]

    def test_an_empty_answer_has_evidence_but_no_entity(self, prepare):
        empty = answer("", (2, ""), kind="empty")
        assert texts(prepare(asked(empty))[0]) == ["She takes cough syrup daily"]
        examples, findings = prepare(asked(empty), answer="entity")
        assert examples == []
        assert findings.rejected["answer without text"] == 1

    def test_an_answer_stands_as_it_is_and_in_whole_words_where_it_can(self, prepare):
        examples, findings = prepare(asked(answer("feve", (4, 1), LINES[3])), answer="entity")
        assert texts(examples) == ["feve"]
        assert findings.repaired == {}
        lines = ["Seen today .\n", "In 2015 she took 5 pills .\n"]
        examples, _ = prepare(asked(answer("5", (2, 1), lines[1])), answer="entity", lines=lines)
        assert [
            example.text[: one.start].endswith("took ") for example in examples for one in example.answers
        ] == [True]

    def test_equal_answers_are_one(self, prepare):
        examples, _ = prepare(asked(answer(), answer("cough", (2, 2))))
        assert texts(examples) == ["She takes cough syrup daily"]


class TestQuestions:
    def test_every_paraphrase_is_a_question_with_an_id_of_its_own(self, prepare):
        examples, findings = prepare(
            asked(answer(), questions=("what ?", "which ?", "")), asked(answer(evidence=LINES[3], start=(4, 0)))
        )
        assert [(e.id, e.text_pair) for e in examples] == [
            ("inv1:1:1", "what ?"),
            ("inv1:1:2", "which ?"),
            ("inv1:2:1", "what does she take ?"),
        ]
        assert findings.found == {"documents": 1, "questions": 4, "answers": 2}
        assert findings.rejected == {"question without text": 1}

    def test_one_paraphrase_can_be_enough(self, prepare):
        examples, _ = prepare(asked(answer(), questions=("what ?", "which ?")), paraphrases="first")
        assert [e.text_pair for e in examples] == ["what ?"]

    def test_all_questions_of_a_note_share_one_text(self, prepare):
        examples, _ = prepare(asked(answer(), questions=("what ?", "which ?")), asked(answer()))
        assert len({id(example.text) for example in examples}) == 1
        assert {example.group for example in examples} == {"inv1"}

    def test_two_notes_of_one_id_are_kept_apart(self, read):
        splits, findings = read(subset([note(1, asked(answer())), note(1, asked(answer()))]))
        assert sorted(e.id for split in splits.values() for e in split) == ["inv1.2:1:1", "inv1:1:1"]
        assert findings.repaired == {"id that occurs several times": 1}

    def test_a_question_of_another_layout_is_rejected(self, prepare):
        older = {"question": "what ?", "id": "0", "answers": [{"text": "syrup", "evidence": LINES[1]}]}
        examples, findings = prepare(older, asked(answer()))
        assert [e.id for e in examples] == ["inv1:2:1"]
        assert findings.rejected == {"question not as emrQA defines it": 1}

    def test_a_note_whose_text_is_no_list_of_lines_is_rejected(self, read):
        broken = {**note(1, asked(answer())), "context": "ADMISSION NOTE"}
        _, findings = read(subset([broken]))
        assert findings.rejected == {"note not as emrQA defines it": 1}
        with pytest.raises(DataError, match="medication note 1: note not as emrQA defines it"):
            read(subset([broken]), on_error="raise")


class TestSplit:
    @staticmethod
    def notes(number):
        return [note(n, asked(answer(), questions=[f"q{q} ?" for q in range(10)])) for n in range(number)]

    @staticmethod
    def clinirc(number, earlier=0):
        """The order of notes that Python's generator gives CliniRC."""
        generator = random.Random(55)
        generator.sample(range(earlier), earlier)
        return [f"inv{n}" for n in generator.sample(range(number), number)]

    def groups(self, splits):
        return {split: list(dict.fromkeys(e.group for e in examples)) for split, examples in splits.items()}

    def test_notes_are_split_as_clinirc_does(self, read):
        splits, _ = read(subset(self.notes(26)))
        order = self.clinirc(26)
        assert self.groups(splits) == {"train": order[:18], "dev": order[18:20], "test": order[20:]}

    def test_relations_are_shuffled_after_the_261_notes_of_medication(self, read):
        splits, _ = read(subset(self.notes(20), "relations"), subset="relations")
        order = self.clinirc(20, earlier=261)
        assert self.groups(splits) == {"train": order[:14], "dev": order[14:16], "test": order[16:]}

    def test_notes_that_nobody_asks_about_do_not_count(self, read):
        splits, findings = read(subset([note(99), *self.notes(20)]))
        assert self.groups(splits)["train"] == self.clinirc(20)[:14]
        assert findings.rejected == {"note without a question or text": 1}
        assert findings.found["documents"] == 21

    def test_only_training_questions_are_sampled_each_note_keeping_some(self, read):
        splits, _ = read(subset(self.notes(20)), sample_share=0.2)
        assert [len(splits[split]) for split in ("train", "dev", "test")] == [14 * 2, 20, 40]
        assert len({e.id for e in splits["train"]}) == 28
        splits, _ = read(subset(self.notes(20)), sample_share=0.01)
        assert len(splits["train"]) == 14

    def test_drawing_with_replacement_repeats_questions_under_distinct_ids(self, read):
        splits, _ = read(subset(self.notes(20)), sample_share=0.9, sample_with_replacement=True)
        train = splits["train"]
        assert len(train) == len({e.id for e in train}) == 14 * 9
        assert len({(e.group, e.text_pair) for e in train}) < len(train)
        assert any(e.id.endswith(".2") for e in train)

    def test_reading_twice_gives_the_same(self, read):
        notes = subset(self.notes(20))
        assert read(notes, sample_share=0.5)[0] == read(notes, sample_share=0.5)[0]


class TestFile:
    def test_notes_that_are_missing_are_remarked(self, prepare):
        assert prepare(asked(answer()))[1].remarks == ["notes of medication: found 1, emrQA has 261"]

    def test_the_subset_may_come_in_several_entries_and_its_title_first(self, read):
        first = {"title": "relations", "paragraphs": [note(1, asked(answer()))]}
        splits, _ = read(first, subset([note(2, asked(answer()))], "relations"), subset="relations")
        assert sorted(e.group for examples in splits.values() for e in examples) == ["inv1", "inv2"]

    def test_a_file_without_the_subset_is_refused(self, read):
        with pytest.raises(DataError, match=r"data\.json has no subset with the title relations"):
            read(subset([note(1, asked(answer()))]), subset="relations")

    def test_latin_1_is_read_and_remarked(self, tmp_path, prepare):
        lines = ["Note\n", "Ménière 's disease\n"]
        content = json.dumps(
            {"data": [subset([note(1, asked(answer(evidence=lines[1], start=(2, 0))), lines=lines)])]},
            ensure_ascii=False,
        )
        (tmp_path / "data.json").write_bytes(content.encode("latin-1"))
        findings = Findings()
        splits = read_emrqa(str(tmp_path), EmrqaOptions(), findings)
        assert texts(splits["test"]) == ["Ménière 's disease"]
        assert findings.remarks[0].endswith("data.json is not valid UTF-8 and was read as Latin-1")

    def test_a_byte_order_mark_is_no_matter(self, tmp_path):
        content = json.dumps({"data": [subset([note(1, asked(answer()))])]})
        (tmp_path / "data.json").write_text(content, encoding="utf-8-sig")
        assert len(read_emrqa(str(tmp_path), EmrqaOptions(), Findings())["test"]) == 1

    def test_a_truncated_file_is_refused_without_a_word_of_it(self, tmp_path):
        content = json.dumps({"data": [subset([note(1, asked(answer()))])]})
        (tmp_path / "data.json").write_text(content[: content.index("daily") + 3])
        with pytest.raises(DataError, match="is not valid JSON to its end") as error:
            read_emrqa(str(tmp_path), EmrqaOptions(), Findings())
        assert "dai" not in str(error.value)

    def test_a_folder_without_either_form_is_told_what_is_expected(self, tmp_path):
        (tmp_path / "emrQA.zip").write_bytes(b"PK")
        with pytest.raises(DataError, match=r"neither data\.json .* medication-train\.json; unpack .*emrQA\.zip"):
            read_emrqa(str(tmp_path), EmrqaOptions(), Findings())

    def test_two_copies_are_refused(self, tmp_path):
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "data.json").write_text("{}")
        with pytest.raises(DataError, match="two files of one name"):
            read_emrqa(str(tmp_path), EmrqaOptions(), Findings())


CONTEXT = "ADMISSION NOTE She takes cough syrup daily. No fever was seen, no pain."


class TestPrepared:
    @staticmethod
    def squad(ids):
        given = [{"answer_start": 15, "text": "She takes cough syrup daily"}]
        qas = [{"question": f"what {number} ?", "id": id, "answers": given} for number, id in enumerate(ids)]
        note = {"title": "ADMISSION NOTE", "paragraphs": [{"context": CONTEXT, "qas": qas}]}
        return json.dumps({"data": [note], "version": 1.0})

    @pytest.fixture
    def folder(self, tmp_path):
        def write(stem, **more):
            splits = {split: self.squad([f"{split}{n}" for n in range(10)]) for split in ("train", "dev", "test")}
            for split, content in splits.items():
                (tmp_path / f"{stem}-{split}.json").write_text(content)
            for name, content in more.items():
                (tmp_path / "us").mkdir(exist_ok=True)
                (tmp_path / "us" / name.replace("__", "-")).write_text(content)
            return str(tmp_path)

        return write

    def test_clinircs_files_are_taken_as_they_are(self, folder):
        findings = Findings()
        splits = read_emrqa(folder("relation"), EmrqaOptions(subset="relations"), findings)
        assert [e.id for e in splits["dev"]] == [f"dev{n}" for n in range(10)]
        assert splits["dev"][0].answers == (Answer(15, "She takes cough syrup daily"),)
        assert len({id(e.text) for e in splits["dev"]}) == 1
        assert {e.group for e in splits["dev"]} == {"dev:1"}
        assert findings.found == {"documents": 3, "questions": 30}

    def test_a_sampled_training_file_is_preferred_and_its_repeated_ids_made_distinct(self, folder):
        data = folder("medication", **{"medication-train-sampled-0.2.json": self.squad(["u1", "u2", "u1", "u1"])})
        findings = Findings()
        splits = read_emrqa(data, EmrqaOptions(sample_share=0.2), findings)
        assert [e.id for e in splits["train"]] == ["u1", "u2", "u1.2", "u1.3"]
        assert findings.repaired == {"id that occurs several times": 2}

    def test_without_a_sampled_file_the_sample_is_drawn_here(self, folder):
        splits = read_emrqa(
            folder("risk-dataset"), EmrqaOptions(subset="risk-dataset", sample_share=0.3), Findings()
        )
        assert [len(splits[split]) for split in ("train", "dev", "test")] == [3, 10, 10]

    def test_a_missing_file_is_named(self, folder, tmp_path):
        data = folder("medication")
        (tmp_path / "medication-dev.json").unlink()
        with pytest.raises(DataError, match=r"CliniRC's medication-dev\.json"):
            read_emrqa(data, EmrqaOptions(), Findings())

    def test_another_layout_is_refused(self, folder, tmp_path):
        data = folder("medication")
        (tmp_path / "medication-dev.json").write_text(json.dumps({"data": [{"paragraphs": [{"context": "a"}]}]}))
        with pytest.raises(DataError, match=r"medication-dev\.json note 1 must hold context, and qas"):
            read_emrqa(data, EmrqaOptions(), Findings())


@pytest.mark.parametrize(
    ("name", "title", "share"),
    [("medication", "medication", 0.2), ("relation", "relations", 0.05), ("heart_disease", "risk-dataset", 1)],
)
def test_the_tasks_of_the_catalog_read_their_subset(tmp_path, name, title, share):
    questions = [f"q{n} ?" for n in range(20)]
    notes = [
        note(n, asked(answer("syrup", (15, 31) if share == 1 else (2, 3)), questions=questions)) for n in range(10)
    ]
    (tmp_path / "data.json").write_text(json.dumps({"data": [subset(notes, title)]}))
    task = load_task(f"emrqa_{name}")
    data = read_task(task, str(tmp_path))
    assert (task.unanswerable, task.metric, data.labels) == (False, "f1", ())
    assert [len(data.splits[split]) for split in ("train", "dev", "test")] == [7 * 20 * share, 20, 40]
    assert texts(data.splits["dev"][:1]) == ["syrup" if share == 1 else "She takes cough syrup daily"]
    changed = load_task(f"emrqa_{name}", ["options.answer=entity"])
    assert texts(read_task(changed, str(tmp_path)).splits["dev"][:1]) == ["syrup"]


def test_a_question_that_is_no_list_is_not_read_as_its_first_letter(prepare):
    qas = {**asked(answer()), "question": "what does she take ?"}, asked(answer())
    examples, findings = prepare(*qas)
    assert texts(examples)
    assert all(len(example.text_pair) > 1 for example in examples)
    assert findings.rejected["question not as emrQA defines it"] == 1
