"""Public formats as found in the wild: what is read, what is repaired and counted, what is refused and how."""

import json
from collections import Counter

import pytest

from clinscale.errors import DataError
from clinscale.tasks import Answer, Entity
from clinscale.tasks.readers.align import locate, without_overlaps
from clinscale.tasks.readers.bio import read_bio
from clinscale.tasks.readers.brat import read_brat
from clinscale.tasks.readers.records import read_rows
from clinscale.tasks.readers.squad import read_squad


def surfaces(example):
    return [(example.text[e.start : e.end], e.label) for e in example.entities]


@pytest.fixture
def read(task_of, tmp_path):
    """Write files, read them with a reader, return examples and counts."""

    def run(reader, kind, files, **fields):
        for name, content in files.items():
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        counts = Counter()
        return reader(task_of(kind, **fields), str(tmp_path), counts), +counts

    return run


class TestRecords:
    def test_ids_come_from_the_column_or_from_file_and_row(self, read):
        files = {"notes.csv": "key,text,label\n7,one,a\n8,two,b\n"}
        assert [e.id for e in read(read_rows, "sequence", files)[0]] == ["notes:1", "notes:2"]
        assert [e.id for e in read(read_rows, "sequence", files, columns={"id": "key"})[0]] == ["7", "8"]

    def test_the_label_can_be_the_files_name(self, read):
        files = {"LIVER.csv": "text\none\n", "BRAIN.csv": "text\ntwo\n"}
        examples, _ = read(read_rows, "sequence", files, label_from="file")
        assert {e.text: e.labels for e in examples} == {"one": ("LIVER",), "two": ("BRAIN",)}

    def test_several_labels_in_one_column(self, read):
        files = {"a.csv": "text,label\none,edema; pneumonia;edema\ntwo,\n"}
        examples, _ = read(read_rows, "sequence", files, multi_label=True)
        assert [e.labels for e in examples] == [("edema", "pneumonia"), ()]

    def test_several_labels_as_columns(self, read):
        files = {"a.csv": "text,edema,pneumonia\none,1.0,0\ntwo,,1\n"}
        columns = {"labels": ["edema", "pneumonia"]}
        examples, _ = read(read_rows, "sequence", files, multi_label=True, columns=columns)
        assert [e.labels for e in examples] == [("edema",), ("pneumonia",)]

    def test_an_uncertain_label_is_not_guessed(self, read):
        files = {"a.csv": "text,edema\none,-1.0\n"}
        with pytest.raises(DataError, match="row 1: column 'edema' must hold 0, 1 or nothing"):
            read(read_rows, "sequence", files, multi_label=True, columns={"labels": ["edema"]})

    def test_numbers_are_labels_too(self, read):
        examples, _ = read(read_rows, "sequence", {"a.jsonl": '{"text": "one", "label": 0}\n'})
        assert examples[0].labels == ("0",)

    def test_empty_texts_raise_or_are_counted(self, read):
        files = {"a.csv": 'text,label\none,a\n"  ",b\n'}
        with pytest.raises(DataError, match="row 2: column 'text' has no text"):
            read(read_rows, "sequence", files)
        examples, counts = read(read_rows, "sequence", files, on_empty="skip")
        assert (len(examples), counts) == (1, {"empty": 1})

    def test_a_missing_label_is_refused(self, read):
        with pytest.raises(DataError, match="row 1: column 'label' has no value"):
            read(read_rows, "sequence", {"a.csv": "text,label\none,\n"})

    def test_a_pair_needs_both_columns(self, read):
        with pytest.raises(DataError, match="no column 'hypothesis'"):
            read(read_rows, "pair", {"a.csv": "premise,label\none,a\n"})


class TestBio:
    @pytest.mark.parametrize(
        ("tags", "entities"),
        [
            (["B-X", "I-X", "O", "B-X"], [("a b", "X"), ("d", "X")]),  # IOB2
            (["I-X", "I-X", "B-X", "O"], [("a b", "X"), ("c", "X")]),  # IOB1: B only where two entities touch
            (["I-X", "I-Y", "O", "I-Y"], [("a", "X"), ("b", "Y"), ("d", "Y")]),
            (["B-X", "E-X", "S-X", "S-Y"], [("a b", "X"), ("c", "X"), ("d", "Y")]),  # BIOES
            (["O", "O", "O", "O"], []),
        ],
    )
    def test_all_dialects_give_the_same_entities(self, read, tags, entities):
        lines = "\n".join(f"{token}\t{tag}" for token, tag in zip("abcd", tags, strict=True))
        examples, _ = read(read_bio, "tokens", {"a.tsv": lines}, format="bio")
        assert examples[0].text == "a b c d"
        assert surfaces(examples[0]) == entities

    def test_sentences_end_at_blank_lines_of_any_kind(self, read):
        content = "-DOCSTART- X O\r\n\r\nNo O\r\nfever B-Sign\r\n\r\n\r\nok O\r\n"
        examples, counts = read(read_bio, "tokens", {"a.conll": content}, format="bio")
        assert [(e.id, e.text) for e in examples] == [("a:1", "No fever"), ("a:2", "ok")]
        assert counts == {"sentences": 2, "entities": 1}

    @pytest.mark.parametrize("line", ["alone", "fever\tB", "fever\tB-", "fever\tX-Sign", "fever\t1"])
    def test_bad_lines_are_named_without_their_text(self, read, line):
        with pytest.raises(DataError, match=r"a\.tsv line 2") as error:
            read(read_bio, "tokens", {"a.tsv": f"ok\tO\n{line}\n"}, format="bio")
        assert "fever" not in str(error.value)


class TestBrat:
    TEXT = "Kein Schmerz – no chest pain, left\nand right knee swelling."

    def annotate(self, read, *lines, text=TEXT):
        (example,), counts = read(read_brat, "tokens", {"d.txt": text, "d.ann": "".join(f"{x}\n" for x in lines)})
        return example, counts

    def test_only_text_bound_lines_are_entities(self, read):
        example, counts = self.annotate(
            read,
            "T1\tSign 18 28\tchest pain",
            "E1\tSign:T1",
            "R1\tOVERLAP Arg1:T1 Arg2:T2",
            "A1\tNegated T1",
            "N1\tReference T1 UMLS:C1\tx",
            "*\tEQUIV T1 T2",
            "#1\tAnnotatorNotes T1\tsure",
            "",
        )
        assert surfaces(example) == [("chest pain", "Sign")]
        assert (example.id, counts) == ("d", {"annotations": 1})

    def test_a_discontinuous_annotation_becomes_its_covering_span(self, read):
        example, counts = self.annotate(read, "T1\tSign 30 34;45 58\tleft knee swelling")
        assert surfaces(example) == [("left\nand right knee swelling", "Sign")]
        assert counts == {"annotations": 1, "discontinuous": 1}

    def test_of_nested_annotations_the_longest_stays(self, read):
        example, counts = self.annotate(
            read, "T1\tSite 18 23\tchest", "T2\tSign 18 28\tchest pain", "T3\tB 18 28\tchest pain"
        )
        assert surfaces(example) == [("chest pain", "Sign")]
        assert counts["nested"] == 2

    def test_offsets_that_are_slightly_off_are_repaired_and_wild_ones_rejected(self, read):
        example, counts = self.annotate(
            read, "T1\tSign 17 27\tchest pain", "T2\tSign 900 905\tchest", "T3\tS 0 4\tgone"
        )
        assert surfaces(example) == [("chest pain", "Sign")]
        assert counts == {"annotations": 3, "repaired": 1, "rejected": 2}

    def test_a_line_break_inside_an_annotation_is_written_as_a_blank(self, read):
        example, counts = self.annotate(read, "T1\tSide 30 44\tleft and right")
        assert surfaces(example) == [("left\nand right", "Side")]
        assert counts == {"annotations": 1}

    def test_windows_line_ends_count(self, read):
        example, counts = self.annotate(read, "T1\tSign 4 8\tpain\r", text="a\r\n\r" + "pain\r\n")
        assert surfaces(example) == [("pain", "Sign")]
        assert counts == {"annotations": 1}

    @pytest.mark.parametrize("line", ["T1 Sign 0 4 Kein", "T1\tSign 0\tKein", "X1\tSign 0 4\tKein"])
    def test_malformed_lines_are_named_without_their_text(self, read, line):
        with pytest.raises(DataError, match=r"d\.ann line 1") as error:
            self.annotate(read, line)
        assert "Kein" not in str(error.value)

    @pytest.mark.parametrize(("present", "absent"), [("txt", "ann"), ("ann", "txt")])
    def test_a_file_without_its_partner_is_refused(self, read, present, absent):
        files = {"d.txt": "x", "d.ann": "", f"e.{present}": ""}
        with pytest.raises(DataError, match=rf"e\.{present} has no \.{absent}"):
            read(read_brat, "tokens", files)


class TestSquad:
    CONTEXT = "Started metoprolol 25 mg. Later 25 mg again."

    def ask(self, read, *questions, context=CONTEXT, **fields):
        layout = {"data": [{"paragraphs": [{"context": context, "qas": list(questions)}]}]}
        return read(read_squad, "spans", {"q.json": json.dumps(layout)}, **fields)

    def question(self, text, start, **more):
        return {"id": 17, "question": "What dose?", "answers": [{"text": text, "answer_start": start}], **more}

    @pytest.mark.parametrize(
        ("text", "start", "found", "repaired"),
        [
            ("25 mg", 19, 19, 0),
            (" 25 mg", 18, 19, 0),  # the blank is part of the answer and its offset says so
            (" 25 mg", 19, 19, 1),  # COVID-QA: the offset is that of the stripped answer
            ("25 mg", 22, 19, 1),
            ("25 mg", 29, 32, 1),  # the nearer of two
            ("25 mg", -1, 19, 1),
        ],
    )
    def test_answers_are_found_near_their_offset(self, read, text, start, found, repaired):
        (example,), counts = self.ask(read, self.question(text, start))
        assert example.answers == (Answer(found, "25 mg"),)
        assert example.id == "17"
        assert counts["repaired"] == repaired

    @pytest.mark.parametrize(("text", "start"), [("26 mg", 19), ("Started", 40), ("", 0)])
    def test_questions_without_one_locatable_answer_are_rejected_and_counted(self, read, text, start):
        examples, counts = self.ask(read, self.question(text, start))
        assert (examples, counts) == ([], {"questions": 1, "rejected": 1})

    def test_equal_answers_of_several_annotators_count_once(self, read):
        question = self.question("25 mg", 19)
        question["answers"] *= 3
        assert len(self.ask(read, question)[0][0].answers) == 1

    def test_impossible_questions_have_no_answer_or_are_left_out(self, read):
        question = self.question("25 mg", 19, is_impossible=True)
        examples, counts = self.ask(read, question)
        assert (examples[0].answers, counts) == ((), {"questions": 1, "unanswerable": 1})
        assert self.ask(read, question, unanswerable=False) == ([], {"questions": 1, "unanswerable": 1})

    def test_empty_contexts_raise_or_are_counted(self, read):
        with pytest.raises(DataError, match="question 17 has an empty context"):
            self.ask(read, self.question("x", 0), context=" ")
        assert self.ask(read, self.question("x", 0), context=" ", on_empty="skip")[1] == {
            "questions": 1,
            "empty": 1,
        }

    @pytest.mark.parametrize(
        "layout", [{}, [], {"data": [{"paragraphs": [{"context": "x", "qas": [{"question": "no id"}]}]}]}]
    )
    def test_other_layouts_are_refused(self, read, layout):
        with pytest.raises(DataError, match="is not SQuAD JSON"):
            read(read_squad, "spans", {"q.json": json.dumps(layout)})

    def test_an_offset_that_is_no_number_is_refused(self, read):
        with pytest.raises(DataError, match="question 17: an answer needs"):
            self.ask(read, self.question("25 mg", "soon"))


def test_the_reach_of_a_repair_is_short():
    text = "pain" + "." * 30
    assert locate(text, "pain", 20) == 0
    assert locate(text, "pain", 25) is None


def test_entities_that_touch_do_not_overlap():
    touching = [Entity(0, 3, "a"), Entity(3, 6, "b")]
    assert without_overlaps(reversed(touching)) == tuple(touching)
