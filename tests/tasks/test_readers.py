"""Public formats as found in the wild: what is read, what is repaired and counted, what is refused and how."""

import gzip
import json
import math

import pytest

from clinscale.errors import DataError
from clinscale.tasks import Answer, Entity, Findings, read_task
from clinscale.tasks.readers.align import without_overlaps
from clinscale.tasks.readers.bio import read_bio
from clinscale.tasks.readers.brat import read_brat
from clinscale.tasks.readers.i2b2_xml import read_i2b2_xml
from clinscale.tasks.readers.records import read_rows
from clinscale.tasks.readers.squad import read_squad


def surfaces(example):
    return [(example.text[e.start : e.end], e.label) for e in example.entities]


@pytest.fixture
def read(task_of, tmp_path):
    """Write files, read them with a reader, return examples and findings."""

    def run(reader, kind, files, **fields):
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        task = task_of(kind, **fields)
        findings = Findings(task.on_error)
        return reader(task, str(tmp_path), findings), findings

    run.task_of = task_of
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
        packed = gzip.compress(b"text\nthree\n")
        examples, _ = read(
            read_rows, "sequence", {"LIVER.CSV.GZ": packed, "LUNG.csv.gz": packed}, label_from="file"
        )
        assert [e.labels for e in examples if e.text == "three"] == [("LIVER",), ("LUNG",)]
        parts = {f"SKIN-0000{number}-of-00002.csv": f"text\n{number}\n" for number in (0, 1)}
        examples, _ = read(read_rows, "sequence", files | parts, label_from="file")
        assert sorted(label for e in examples for label in e.labels) == [
            "BRAIN",
            "LIVER",
            "LIVER",
            "LUNG",
            "SKIN",
            "SKIN",
        ]

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
        with pytest.raises(DataError, match=r"row 2: column 'text' has no text; .* or set on_error: skip"):
            read(read_rows, "sequence", files)
        examples, findings = read(read_rows, "sequence", files, on_error="skip")
        assert (len(examples), findings.found["rows"]) == (1, 2)
        assert findings.rejected == {"column 'text' has no text": 1}
        assert findings.places["column 'text' has no text"][0].endswith("a.csv row 2")

    def test_a_missing_label_is_refused(self, read):
        with pytest.raises(DataError, match="row 1: column 'label' has no value"):
            read(read_rows, "sequence", {"a.csv": "text,label\none,\n"})

    def test_a_pair_needs_both_columns(self, read):
        with pytest.raises(DataError, match="no column 'hypothesis'"):
            read(read_rows, "pair", {"a.csv": "premise,label\none,a\n"})

    def test_columns_can_be_paths_and_texts_can_be_joined(self, read):
        row = {
            "meta": {"key": "n1"},
            "report": {"findings": "large heart", "impression": ""},
            "gold": [{"y": "a"}],
        }
        rows = json.dumps({**row, "report": {**row["report"], "impression": "enlarged"}}) + "\n" + json.dumps(row)
        columns = {"id": "meta.key", "text": ["report.findings", "report.impression"], "label": "gold.0.y"}
        examples, _ = read(read_rows, "sequence", {"a.jsonl": rows}, columns=columns)
        assert [(e.id, e.text, e.labels) for e in examples] == [
            ("n1", "large heart\nenlarged", ("a",)),
            ("n1", "large heart", ("a",)),
        ]

    def test_json_objects_by_id_are_rows(self, read):
        files = {"a.json": json.dumps({"x1": {"text": "one", "label": "a"}, "x2": {"text": "two", "label": "b"}})}
        examples, _ = read(read_rows, "sequence", files, columns={"id": "id"})
        assert [(e.id, e.text) for e in examples] == [("x1", "one"), ("x2", "two")]

    def test_a_hugging_face_dataset_folder_is_read_with_its_class_names(self, read, tmp_path):
        from datasets import ClassLabel, Dataset, Features, Sequence, Value

        words = Features(
            {"tokens": Sequence(Value("string")), "ner_tags": Sequence(ClassLabel(names=["O", "B-X"]))}
        )
        Dataset.from_dict({"tokens": [["no", "fever"]], "ner_tags": [[0, 1]]}, features=words).save_to_disk(
            str(tmp_path / "ner")
        )
        texts = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
        Dataset.from_dict({"text": ["one", "two"], "label": [1, -1]}, features=texts).save_to_disk(
            str(tmp_path / "texts")
        )
        findings = Findings("skip")
        task = read.task_of("tokens", format="records", columns={"tokens": "tokens"})
        (example,) = read_rows(task, str(tmp_path / "ner"), findings)
        assert surfaces(example) == [("fever", "X")]
        (example,) = read_rows(read.task_of("sequence"), str(tmp_path / "texts"), findings)
        assert example.labels == ("yes",)
        assert findings.rejected == {"column 'label' has no value": 1}

    def test_the_papers_json_of_words_and_tags(self, read):
        rows = "\n".join(
            json.dumps(row)
            for row in [
                {"tokens": ["No", "fever", "now"], "ner_tags": ["O", "B-X", "I-X"]},
                {"tokens": ["No"], "ner_tags": ["O", "O"]},
                {"tokens": ["No"], "ner_tags": ["Q"]},
            ]
        )
        columns = {"tokens": "tokens"}
        (example,), findings = read(
            read_rows, "tokens", {"a.jsonl": rows}, format="records", columns=columns, on_error="skip"
        )
        assert surfaces(example) == [("fever now", "X")]
        assert findings.rejected.total() == 2

    def test_entities_as_offsets(self, read):
        entities = [{"start": 3, "end": 8, "label": "X"}, {"start": 90, "end": 99, "label": "X"}, {"begin": 1}]
        rows = json.dumps({"note": "No fever", "gold": entities})
        columns = {"text": "note", "entities": "gold"}
        (example,), findings = read(
            read_rows, "tokens", {"a.jsonl": rows}, format="records", columns=columns, on_error="skip"
        )
        assert surfaces(example) == [("fever", "X")]
        assert findings.rejected.total() == 2

    def test_answers_in_rows(self, read):
        answers = {"text": ["25 mg"], "answer_start": [5]}
        rows = json.dumps({"text": "Gave 25 mg", "question": "Dose?", "answers": answers})
        columns = {"text_pair": "question"}
        (example,), _ = read(read_rows, "spans", {"a.jsonl": rows}, format="records", columns=columns)
        assert (example.text_pair, example.answers) == ("Dose?", (Answer(5, "25 mg"),))

    @pytest.mark.parametrize("impossible", [True, False, None, "false", 1.0])
    @pytest.mark.parametrize("text", [["25 mg"], []])
    def test_answers_in_rows_agree_with_the_column_that_says_impossible(self, read, impossible, text):
        answers = {"text": text, "answer_start": [5] * len(text)}
        row = {"text": "Gave 25 mg", "question": "Dose?", "answers": answers, "is_impossible": impossible}
        fields = {"format": "records", "columns": {"text_pair": "question"}}
        if impossible is None or (impossible in (True, 1.0)) != bool(text):
            assert len(read(read_rows, "spans", {"a.jsonl": json.dumps(row)}, **fields)[0]) == 1
        else:
            with pytest.raises(DataError, match="marked impossible; correct its answers or is_impossible"):
                read(read_rows, "spans", {"a.jsonl": json.dumps(row)}, **fields)

    @pytest.mark.parametrize(
        ("fields", "fault"),
        [
            ({"text": math.nan}, "column 'text' has no text"),
            ({"text": ["Jane Roe"]}, "column 'text' must hold text, got a value of type list"),
            ({"text": {"Jane": "Roe"}}, "type dict"),
            ({"text": 7}, "type int"),
            ({"text": "Jane \ud83d Roe"}, "holds half of a character"),
            ({"label": None}, "column 'label' has no value"),
            ({"label": math.nan}, "column 'label' has no value"),
            ({"label": ["Jane Roe"]}, "column 'label' must hold a label, got a value of type list"),
            ({"label": "['Jane Roe']"}, "column 'label' holds a list where one label is needed"),
            ({"label": 0.731}, "type float"),
            ({"id": ["Jane Roe"]}, "column 'id' must hold an id"),
            ({"id": None}, "column 'id' has no value"),
            ({"patient": math.nan}, "column 'patient' has no value"),
            ({"patient": 7.5}, "column 'patient' must hold an id"),
            ({"part": ["Jane Roe"]}, "column 'part' must hold a label"),
        ],
    )
    def test_a_value_of_another_type_is_refused_by_row_column_and_type(self, read, fields, fault):
        row = {"id": 1, "text": "one", "label": "a", "patient": 7, "part": "train"}
        columns = {"id": "id"}
        task = {"columns": columns, "splits": {"all": "a"}, "split_column": "part"}
        if "patient" in fields:
            task = {
                "columns": columns,
                "splits": {"all": "a"},
                "split_ratios": (0.6, 0.2, 0.2),
                "group_column": "patient",
            }
        with pytest.raises(DataError, match=f"(row|line) 2: .*{fault}") as error:
            read(read_rows, "sequence", {"a.jsonl": f"{json.dumps(row)}\n{json.dumps(row | fields)}"}, **task)
        assert "Jane" not in str(error.value)
        assert "Roe" not in str(error.value)

    def test_types_mean_the_same_label_and_patient_in_every_file(self, read):
        files = {
            "a.jsonl": '{"text": "one", "label": 0.0, "patient": 7}\n{"text": "two", "label": 0, "patient": 7.0}',
            "b.csv": 'text,label,patient\nthree,0.0,7.0\nfour,0,7\n"five",1,007\n',
        }
        examples, _ = read(
            read_rows,
            "sequence",
            files,
            splits={"all": "a"},
            split_ratios=(0.6, 0.2, 0.2),
            group_column="patient",
        )
        assert [(e.labels, e.group) for e in examples] == [(("0",), "7")] * 4 + [(("1",), "007")]

    def test_a_label_zero_is_one_of_several_labels(self, read):
        rows = [0, [0, 1], 1.0, "", [], "0;1", '["a;b"]']
        lines = "\n".join(json.dumps({"text": "one", "label": label}) for label in rows)
        examples, _ = read(read_rows, "sequence", {"a.jsonl": lines}, multi_label=True)
        assert [e.labels for e in examples] == [("0",), ("0", "1"), ("1",), (), (), ("0", "1"), ("a;b",)]

    @pytest.mark.parametrize("null", ["null", "NaN", '"NULL"'])
    @pytest.mark.parametrize("columns", [{}, {"labels": ["label"]}])
    def test_a_text_whose_labels_are_unknown_is_no_negative(self, read, null, columns):
        value = "1" if columns else '["a"]'
        rows = [f'{{"text": "t", "label": {label}}}' for label in (value, null, '""')]
        fields = {"multi_label": True, "columns": columns}
        with pytest.raises(
            DataError, match="row 2: column 'label' is null, by which it is unknown and not none; write"
        ):
            read(read_rows, "sequence", {"a.jsonl": "\n".join(rows)}, **fields)
        examples, findings = read(read_rows, "sequence", {}, **fields, on_error="skip")
        assert [bool(e.labels) for e in examples] == [True, False]
        assert findings.rejected.total() == findings.found["rows without a label"] == 1

    def test_null_labels_in_parquet_are_unknown_and_an_empty_cell_of_a_workbook_is_none(self, read, tmp_path):
        import openpyxl
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.table({"text": ["one", "two", "three"], "label": [["a"], [], None]})
        pyarrow.parquet.write_table(table, tmp_path / "n.parquet")
        examples, findings = read(read_rows, "sequence", {}, multi_label=True, on_error="skip")
        assert [e.labels for e in examples] == [("a",), ()]
        assert findings.places.popitem()[1] == [f"{tmp_path}/n.parquet row 3"]
        (tmp_path / "n.parquet").unlink()
        book = openpyxl.Workbook()
        for row in (["text", "label"], ["one", "a; b"], ["two", None]):
            book.active.append(row)
        book.save(tmp_path / "n.xlsx")
        examples, _ = read(read_rows, "sequence", {}, multi_label=True)
        assert [e.labels for e in examples] == [("a", "b"), ()]

    def test_rows_are_kept_and_dropped_by_typed_values(self, read):
        rows = [(1, "a"), (1.0, "a"), (None, "b"), (0, "c"), ("", "a ")]
        lines = "\n".join(
            json.dumps({"text": f"t{n}", "label": "x", "E": e, "K": {"k": k}}) for n, (e, k) in enumerate(rows)
        )
        examples, findings = read(
            read_rows, "sequence", {"a.jsonl": lines}, keep_rows={"K.k": ["a", "b"]}, drop_rows={"E": ["1"]}
        )
        assert [e.text for e in examples] == ["t2", "t4"]
        assert findings.found["rows"] == 5
        assert findings.rejected == {"left out by keep_rows or drop_rows": 3}

    @pytest.mark.parametrize(
        "entity",
        [
            {"start": 3.5, "end": 8, "label": "X"},
            {"start": True, "end": 8, "label": "X"},
            {"start": 3, "end": 8, "label": ["X"]},
            {"start": 3, "end": 8, "label": None},
            {"start": 3, "end": 8, "label": math.nan},
            {"start": 3, "end": math.inf, "label": "X"},
            {"start": 3, "end": 10**30, "label": "X"},
            {"start": "9" * 5000, "end": 8, "label": "X"},
            {"start": 3, "end": 8, "label": "X", "text": ["fever"]},
            ["X", 3, 8],
            None,
        ],
    )
    def test_an_entity_of_other_types_is_refused(self, read, entity):
        columns = {"entities": "gold"}
        rows = json.dumps({"text": "No fever", "gold": [entity]})
        with pytest.raises(DataError, match="row 1 entity 1: entity without start, end and label; write each as"):
            read(read_rows, "tokens", {"a.jsonl": rows}, format="records", columns=columns)

    def test_an_entity_whose_text_is_a_number_is_where_it_stands(self, read):
        entities = [{"start": 5, "end": "7", "label": 0, "text": 15}]
        rows = json.dumps({"text": "Dose 15 mg", "gold": entities})
        columns = {"entities": "gold"}
        (example,), _ = read(read_rows, "tokens", {"a.jsonl": rows}, format="records", columns=columns)
        assert surfaces(example) == [("15", "0")]

    def test_words_may_be_null_but_no_numbers(self, read):
        row = {"tokens": ["null", "cells"], "ner_tags": ["O", "O"]}
        columns = {"tokens": "tokens"}
        (example,), _ = read(read_rows, "tokens", {"a.jsonl": json.dumps(row)}, format="records", columns=columns)
        assert example.text == "null cells"
        for fields in (
            {"tokens": ["15", 15]},
            {"tokens": [None, "a"]},
            {"ner_tags": [0, 0]},
            {"ner_tags": [None, "O"]},
        ):
            with pytest.raises(DataError, match=r"row 1: column '(tokens|ner_tags)'"):
                read(read_rows, "tokens", {"a.jsonl": json.dumps(row | fields)}, format="records", columns=columns)

    @pytest.mark.parametrize("answers", [None, math.nan, "", 5, {}, {"text": "a", "answer_start": 1}])
    def test_missing_answers_are_no_gold(self, read, answers):
        rows = json.dumps({"text": "Gave 25 mg", "question": "Dose?", "answers": answers})
        with pytest.raises(DataError, match="row 1: column 'answers'"):
            read(read_rows, "spans", {"a.jsonl": rows}, format="records", columns={"text_pair": "question"})
        empty = json.dumps({"text": "Gave 25 mg", "question": "Dose?", "answers": []})
        (example,), _ = read(
            read_rows, "spans", {"a.jsonl": empty}, format="records", columns={"text_pair": "question"}
        )
        assert example.answers == ()

    def test_broken_rows_are_named_and_left_out_where_the_task_says_so(self, read):
        files = {
            "a.jsonl": '{"text": "one", "label": "a"}\n{"text": "secret\n[1]\n{"text": "two", "label": "b"}\n'
        }
        with pytest.raises(DataError, match=r"a\.jsonl line 2: is not valid JSON") as error:
            read(read_rows, "sequence", files)
        assert "secret" not in str(error.value)
        examples, findings = read(read_rows, "sequence", files, on_error="skip")
        assert [e.text for e in examples] == ["one", "two"]
        assert findings.rejected.total() == 2


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
        examples, findings = read(read_bio, "tokens", {"a.conll": content}, format="bio")
        assert [(e.id, e.text) for e in examples] == [("a:1", "No fever"), ("a:2", "ok")]
        assert findings.found == {"sentences": 2, "entities": 1}

    def test_sentences_of_a_document_that_the_file_marks_keep_together(self, task_of, tmp_path):
        documents = [
            "-DOCSTART- O\n\nHistory O\n\n" + "".join(f"d{n} O\npain{s} B-X\n\n" for s in range(4))
            for n in range(20)
        ]
        (tmp_path / "all.conll").write_text("\ufeff".join(documents))
        fields = {"format": "bio", "splits": {"all": "all.conll"}, "split_ratios": (0.6, 0.2, 0.2)}
        splits = read_task(task_of("tokens", **fields), str(tmp_path)).splits.values()
        sides = [{one.text.split()[0] for one in examples} - {"History"} for examples in splits]
        assert [len(side) for side in sides] == [12, 4, 4]
        assert len(set().union(*sides)) == 20
        assert sides[0] != {f"d{number}" for number in range(12)}, (
            "drawn, though all share their smallest sentence"
        )
        (tmp_path / "all.conll").write_text("".join(documents).replace("-DOCSTART- O\n\n", "", 19))
        assert read_task(task_of("tokens", **fields), str(tmp_path)).splits["train"][0].group is None

    @pytest.mark.parametrize("number", ["{at}", "{row}", "s{sentence}"])
    def test_a_first_column_of_numbers_is_no_token(self, read, number):
        words = [("no", "O"), ("chest", "B-Sign"), ("pain", "I-Sign")]
        lines = [
            number.format(at=at, row=3 * sentence + at, sentence=sentence)
            + f"\t{word}\t{tag}\n"
            + "\n" * (at == 2)
            for sentence in range(4)
            for at, (word, tag) in enumerate(words)
        ]
        with pytest.raises(DataError, match="first column, which numbers tokens or sentences"):
            read(read_bio, "tokens", {"a.tsv": "".join(lines)}, format="bio")

    def test_numbers_below_comments_are_no_tokens(self, read):
        sentence = "# text = no chest pain\n1\tno\tO\n2\tchest\tB-Sign\n3\tpain\tI-Sign\n\n"
        with pytest.raises(DataError, match="first column, which numbers tokens or sentences"):
            read(read_bio, "tokens", {"a.tsv": sentence * 4}, format="bio", on_error="skip")

    @pytest.mark.parametrize("tag", ["B-DNA|B-protein", "B-DNA|O", "I-A/I-B", "B-A, B-B"])
    def test_several_tags_in_one_are_none(self, read, tag):
        with pytest.raises(DataError, match=r"a\.tsv line 2: tag is neither"):
            read(read_bio, "tokens", {"a.tsv": f"no\tO\nIL2\t{tag}\n"}, format="bio")
        files = {"a.tsv": "no\tO\nIL2\tB-Drug/Dose-B\n"}
        assert surfaces(read(read_bio, "tokens", files, format="bio")[0][0]) == [("IL2", "Drug/Dose-B")]

    @pytest.mark.parametrize(
        ("middle", "is_remarked"), [(("B-Drug", "O"), True), (("B-NP", "I-NP"), False), (("O", "B-Dose"), False)]
    )
    def test_a_second_column_of_tags_is_remarked_on(self, read, middle, is_remarked):
        content = f"aspirin {middle[0]} O\n81 {middle[1]} B-Dose\n"
        examples, findings = read(read_bio, "tokens", {"a.txt": content}, format="bio")
        assert surfaces(examples[0]) == [("81", "Dose")]
        assert [remark.startswith("column 2 of") for remark in findings.remarks] == [True] * is_remarked

    def test_a_token_may_hold_a_blank_where_tabs_part_the_columns_alone(self, read):
        content = "New York\tB-Place\ris\tO\r\rbig\tO\r"  # and lines may end as they did on a Macintosh
        examples, _ = read(read_bio, "tokens", {"a.tsv": content}, format="bio")
        assert [e.text for e in examples] == ["New York is", "big"]
        assert surfaces(examples[0]) == [("New York", "Place")]
        with pytest.raises(DataError, match=r"a\.txt line 2: .*columns") as error:
            read(read_bio, "tokens", {"a.txt": "in O\nNew York B-Place\n"}, format="bio")
        assert "York" not in str(error.value)

    @pytest.mark.parametrize(
        "comment", ["# text = No chest pain", "#begin document (n1); part 000", "# sent_id = 1"]
    )
    def test_a_comment_above_the_first_token_is_named_and_no_measure_of_the_others(self, read, comment):
        files = {"a.conll": f"{comment}\nNo\tO\nNew York\tB-Place\n\n#\tO\n1\tO\n"}
        with pytest.raises(DataError, match=r"a\.conll line 1: line without token .*; take out comments"):
            read(read_bio, "tokens", files, format="bio")
        examples, _ = read(read_bio, "tokens", files, format="bio", on_error="skip")
        assert [e.text for e in examples] == ["# 1"]

    @pytest.mark.parametrize("line", ["alone", "fever\tB", "fever\tB-", "fever\tX-Sign", "fever\t1"])
    def test_bad_lines_are_named_without_their_text(self, read, line):
        with pytest.raises(DataError, match=r"a\.tsv line 2") as error:
            read(read_bio, "tokens", {"a.tsv": f"ok\tO\n{line}\n"}, format="bio")
        assert "fever" not in str(error.value)
        files = {"a.tsv": f"ok\tO\n{line}\n\nyes\tO\n"}
        examples, findings = read(read_bio, "tokens", files, format="bio", on_error="skip")
        assert [e.text for e in examples] == ["yes"]
        assert findings.rejected.total() == 1


NOT_BRAT = "not `ID, tab, TYPE START END, tab, text`"


class TestBrat:
    TEXT = "Kein Schmerz – no chest pain, left\nand right knee swelling."

    def annotate(self, read, *lines, text=TEXT, **fields):
        files = {"d.txt": text, "d.ann": "".join(f"{x}\n" for x in lines)}
        (example,), findings = read(read_brat, "tokens", files, **fields)
        return example, findings

    def test_only_text_bound_lines_are_entities(self, read):
        example, findings = self.annotate(
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
        assert (example.id, findings.found) == ("d", {"documents": 1, "annotations": 1})

    def test_a_discontinuous_annotation_becomes_its_covering_span(self, read):
        example, findings = self.annotate(read, "T1\tSign 30 34;45 58\tleft knee swelling")
        assert surfaces(example) == [("left\nand right knee swelling", "Sign")]
        assert findings.found["discontinuous"] == 1

    def test_a_discontinuous_annotation_is_compared_with_its_surface(self, read):
        for line in ("T1\tSign 28 32;43 56\tleft knee swelling", "T1\tSign 35 39;50 63\tleft knee swelling"):
            example, findings = self.annotate(read, line)
            assert surfaces(example) == [("left\nand right knee swelling", "Sign")]
            assert findings.repaired == {"offset off by a few characters": 1}
        for line in ("T1\tSign 30 34;45 58\tleft foot swelling", "T1\tSign 30 34;45 58\tleft knee"):
            with pytest.raises(DataError, match=r"d\.ann line 1: span not found"):
                self.annotate(read, line)

    def test_offsets_that_are_slightly_off_are_repaired_and_wild_ones_rejected(self, read):
        lines = ("T1\tSign 17 27\tchest pain", "T2\tSign 900 905\tchest", "T3\tS 0 4\tgone", "T4\tS 5 5;2\tx")
        with pytest.raises(DataError, match=r"d\.ann line 2: span not found at its offset") as error:
            self.annotate(read, *lines[:-1])
        assert "chest" not in str(error.value)
        example, findings = self.annotate(read, *lines, on_error="skip")
        assert surfaces(example) == [("chest pain", "Sign")]
        assert findings.repaired == {"offset off by a few characters": 1}
        assert findings.rejected == {"span not found at its offset": 2, NOT_BRAT: 1}

    def test_equal_annotations_count_once(self, read):
        example, findings = self.annotate(read, *["T1\tSign 18 28\tchest pain"] * 2)
        assert surfaces(example) == [("chest pain", "Sign")]
        assert findings.rejected == {"repeats another annotation": 1}

    def test_a_line_break_inside_an_annotation_is_written_as_a_blank(self, read):
        example, findings = self.annotate(read, "T1\tSide 30 44\tleft and right")
        assert surfaces(example) == [("left\nand right", "Side")]
        assert not findings.repaired

    def test_windows_line_ends_count(self, read):
        example, findings = self.annotate(read, "T1\tSign 4 8\tpain\r", text="a\r\n\r" + "pain\r\n")
        assert surfaces(example) == [("pain", "Sign")]
        assert not findings.repaired

    @pytest.mark.parametrize("line", ["T1 Sign 0 4 Kein", "T1\tSign 0\tKein", "X1\tSign 0 4\tKein"])
    def test_malformed_lines_are_named_without_their_text(self, read, line):
        with pytest.raises(DataError, match=r"d\.ann line 1") as error:
            self.annotate(read, line)
        assert "Kein" not in str(error.value)

    def test_names_in_capitals_and_packed_files_are_documents_too(self, read):
        files = {
            "a.TXT": "fever",
            "a.ANN": "T1\tSign 0 5\tfever\n",
            "b.txt.gz": gzip.compress(b"cough"),
            "b.ann": "",
        }
        examples, _ = read(read_brat, "tokens", files)
        assert [(e.id, e.text, len(e.entities)) for e in examples] == [("a", "fever", 1), ("b", "cough", 0)]
        with pytest.raises(DataError, match=r"a\.txt: another file has the same name"):
            read(read_brat, "tokens", {"a.txt": "chills"})

    @pytest.mark.parametrize(("present", "absent"), [("txt", "ann"), ("ann", "txt")])
    def test_a_file_without_its_partner_is_refused_or_left_out(self, read, present, absent):
        files = {"d.txt": "x", "d.ann": "", f"e.{present}": ""}
        with pytest.raises(DataError, match=rf"e\.{present}: no \.{absent} beside it"):
            read(read_brat, "tokens", files)
        examples, findings = read(read_brat, "tokens", files, on_error="skip")
        assert [e.id for e in examples] == ["d"]
        assert findings.rejected == {f"no .{absent} beside it": 1}

    def test_latin_1_is_named_by_file_and_byte_or_read_as_such(self, read):
        files = {"d.txt": "Fieber größer".encode("latin-1"), "d.ann": "T1\tSign 7 13\tgrößer".encode("latin-1")}
        with pytest.raises(DataError, match=r"d\.txt is not valid UTF-8 at byte 9"):
            read(read_brat, "tokens", files)
        examples, findings = read(read_brat, "tokens", files, on_error="skip")
        assert (examples, findings.rejected) == ([], {"not valid UTF-8": 1})
        (example,), _ = read(read_brat, "tokens", files, encoding="latin-1")
        assert surfaces(example) == [("größer", "Sign")]


class TestI2b2Xml:
    def document(self, text, *tags):
        return (
            '<?xml version="1.0" encoding="UTF-8" ?>\n<deIdi2b2>\n'
            f"<TEXT><![CDATA[{text}]]></TEXT>\n<TAGS>\n{''.join(tags)}</TAGS>\n</deIdi2b2>\n"
        )

    def tag(self, start, end, text, **changes):
        values = {"id": "P0", "start": start, "end": end, "text": text, "TYPE": "DOCTOR", **changes}
        return "<NAME " + " ".join(f'{key}="{value}"' for key, value in values.items()) + " />\n"

    def test_offsets_count_from_the_opening_of_the_text(self, read):
        files = {"110-01.xml": self.document("\nDr. Zoë Invento.\n", self.tag(5, 16, "Zoë Invento"))}
        (example,), findings = read(read_i2b2_xml, "tokens", files, format="i2b2_xml")
        assert (example.id, surfaces(example)) == ("110-01", [("Zoë Invento", "DOCTOR")])
        assert (findings.found, findings.repaired) == ({"documents": 1, "annotations": 1}, {})

    def test_one_malformed_file_among_many_is_named_by_line(self, read):
        good = self.document("\nDr. Invento.\n", self.tag(5, 12, "Invento"))
        files = {f"{n:03}-01.xml": good for n in range(5)} | {"005-01.xml": good.replace("</TAGS>", "")}
        with pytest.raises(DataError, match=r"005-01\.xml line 9, column \d+: malformed XML") as error:
            read(read_i2b2_xml, "tokens", files, format="i2b2_xml")
        assert "Invento" not in str(error.value)
        examples, findings = read(read_i2b2_xml, "tokens", files, format="i2b2_xml", on_error="skip")
        assert (len(examples), findings.rejected) == (5, {"malformed XML": 1})

    def test_a_tag_whose_id_is_a_text_is_named_by_its_number(self, read):
        tags = self.tag(4, 11, "Invento"), self.tag("x", 12, "Invento", id="Jane Roe, HIV positive")
        with pytest.raises(DataError, match=r"a\.xml tag 2: ") as error:
            read(read_i2b2_xml, "tokens", {"a.xml": self.document("Dr. Invento", *tags)}, format="i2b2_xml")
        assert "Jane" not in str(error.value)

    def test_an_offset_is_digits_alone(self, read):
        tags = self.tag(4, 11, "Invento"), self.tag("1_2", "1_9", "Invento")
        with pytest.raises(DataError, match=r"a\.xml tag P0: tag without TYPE, start and end"):
            read(
                read_i2b2_xml, "tokens", {"a.xml": self.document("Dr. Invento Invento", *tags)}, format="i2b2_xml"
            )

    def test_tags_that_say_too_little_and_empty_texts_are_rejected(self, read):
        files = {
            "a.xml": self.document("Dr. Invento", self.tag("x", 12, "Invento"), self.tag(4, 11, "Invento")),
            "b.xml": self.document("  "),
        }
        (example,), findings = read(read_i2b2_xml, "tokens", files, format="i2b2_xml", on_error="skip")
        assert surfaces(example) == [("Invento", "DOCTOR")]
        assert findings.rejected == {"tag without TYPE, start and end": 1, "empty text": 1}

    @pytest.mark.parametrize(
        ("old", "new", "fault"),
        [
            ("Dr. ", "Dr.<br/> ", "elements within TEXT"),
            ("<TAGS>", "<TEXT>more</TEXT><TAGS>", "more than one element TEXT"),
            ("<TAGS>", "<TAGS/><TAGS>", "more than one element TAGS"),
            ("<TAGS>", '<TAGS><NAME TYPE="A" start="0" end="2"><NAME/></NAME>', "elements within a tag"),
        ],
    )
    def test_what_would_be_lost_is_refused(self, read, old, new, fault):
        document = self.document("Dr. Invento").replace("<![CDATA[", "").replace("]]>", "").replace(old, new)
        with pytest.raises(DataError, match=f"{fault}; correct the file"):
            read(read_i2b2_xml, "tokens", {"a.xml": document}, format="i2b2_xml")

    @pytest.mark.parametrize("declared", ["UTF-8", "ISO-8859-1", "windows-1252", "UTF-16", "no-such"])
    def test_the_declaration_says_the_encoding(self, read, declared):
        head, _, document = self.document("Dr. Müller").partition("?>")
        codec = declared if declared in ("ISO-8859-1", "windows-1252") else "UTF-8"
        content = f'<?xml version="1.0" encoding="{declared}"?>{document or head}'.encode(codec)
        (example,), _ = read(read_i2b2_xml, "tokens", {"a.XML": content}, format="i2b2_xml")
        assert (example.id, example.text) == ("a", "Dr. Müller")

    def test_windows_line_ends_are_one_character(self, read):
        text = "\r\nDr. Invento\r\nand Dr. Other\r\n"
        tags = self.tag(5, 12, "Invento"), self.tag(21, 26, "Other")
        (example,), findings = read(
            read_i2b2_xml, "tokens", {"a.xml": self.document(text, *tags)}, format="i2b2_xml"
        )
        assert [surface for surface, _ in surfaces(example)] == ["Invento", "Other"]
        assert not findings.repaired


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
        (example,), findings = self.ask(read, self.question(text, start))
        assert example.answers == (Answer(found, "25 mg"),)
        assert example.id == "17"
        assert findings.repaired["offset off by a few characters"] == repaired

    @pytest.mark.parametrize(("text", "start"), [("26 mg", 19), ("Started", 40), ("", 0), ("5", 25)])
    def test_questions_without_one_locatable_answer_are_rejected_and_counted(self, read, text, start):
        with pytest.raises(DataError, match="question 17: span not found"):
            self.ask(read, self.question(text, start))
        examples, findings = self.ask(read, self.question(text, start), on_error="skip")
        assert (examples, findings.found["questions"]) == ([], 1)
        assert findings.rejected == {"span not found at its offset": 1}

    def test_equal_answers_of_several_annotators_count_once(self, read):
        question = self.question("25 mg", 19)
        question["answers"] *= 3
        assert len(self.ask(read, question)[0][0].answers) == 1

    def test_impossible_questions_have_no_answer_or_are_left_out(self, read):
        with pytest.raises(DataError, match="question 17: question with answers that is marked impossible"):
            self.ask(read, self.question("25 mg", 19, is_impossible=True))
        question = {**self.question("", 0), "answers": [], "is_impossible": True}
        examples, findings = self.ask(read, question)
        assert (examples[0].answers, findings.found["unanswerable"]) == ((), 1)
        examples, findings = self.ask(read, question, unanswerable=False)
        assert (examples, findings.rejected) == ([], {"question without an answer": 1})

    def test_empty_contexts_raise_or_are_counted(self, read):
        with pytest.raises(DataError, match="question 17: empty context"):
            self.ask(read, self.question("x", 0), context=" ")
        _, findings = self.ask(read, self.question("x", 0), context=" ", on_error="skip")
        assert findings.rejected == {"empty context or question": 1}

    @pytest.mark.parametrize(("text", "start"), [("etoprol", 9), ("2", 19)])
    def test_answers_inside_a_word_stay_what_their_file_says(self, read, text, start):
        (example,), findings = self.ask(read, self.question(text, start))
        assert example.answers == (Answer(start, text),)
        assert not findings.repaired

    def test_an_answer_that_is_off_is_not_found_inside_another_word(self, read):
        question = self.question("5", 14)
        with pytest.raises(DataError, match="question 17: span not found"):
            self.ask(read, question, context="Seen in 2015, on day fifth.")
        (example,), _ = self.ask(read, question, context="Seen in 2015 on 5 May.")
        assert example.answers == (Answer(16, "5"),)

    def test_an_answer_in_a_script_without_blanks_is_no_more_than_itself(self, read):
        for start in (7, 8):
            (example,), _ = self.ask(
                read, self.question("阿司匹林", start), context="患者入院后给予阿司匹林治疗，每日一次。"
            )
            assert example.answers == (Answer(7, "阿司匹林"),)

    def test_a_question_whose_answers_are_held_back_is_not_one_without_answer(self, read):
        blind = {"id": 17, "question": "What dose?"}
        for more in ({}, {"answers": []}, {"answers": None}, {"answers": [], "is_impossible": "false"}):
            with pytest.raises(
                DataError, match="question 17: question without answers that is not marked impossible"
            ):
                self.ask(read, {**blind, **more})

    @pytest.mark.parametrize("impossible", [False, "false", "False", 0, None])
    def test_a_question_that_says_it_has_an_answer_has_it(self, read, impossible):
        (example,), _ = self.ask(read, self.question("25 mg", 19, is_impossible=impossible))
        assert example.answers == (Answer(19, "25 mg"),)

    def test_an_impossible_that_is_no_truth_is_refused(self, read):
        with pytest.raises(DataError, match="question 17: column 'is_impossible' must hold 0, 1 or nothing"):
            self.ask(read, self.question("25 mg", 19, is_impossible="perhaps"))

    def test_answers_of_one_text_are_off_together(self, read):
        lines = [f"Visit {n}: took 25 mg." for n in range(9)]
        context, stated = "\r\n".join(lines), "\n".join(lines)
        starts = [at for at in range(len(stated)) if stated.startswith("25 mg", at)]
        questions = [{**self.question("25 mg", start), "id": n} for n, start in enumerate(starts)]
        examples, _ = self.ask(read, *questions, context=context)
        assert [context.count("\n", 0, e.answers[0].start) for e in examples] == list(range(9))

    @pytest.mark.parametrize(
        "layout", [{}, [], {"data": [{"paragraphs": [{"context": "x", "qas": [{"question": "no id"}]}]}]}]
    )
    def test_other_layouts_are_refused(self, read, layout):
        with pytest.raises(DataError, match="is not SQuAD JSON"):
            read(read_squad, "spans", {"q.json": json.dumps(layout)})

    @pytest.mark.parametrize("context", [["a", "list"], 7])
    def test_a_context_that_is_no_text_is_refused_and_not_spelled_out(self, read, context):
        with pytest.raises(DataError, match="is not SQuAD JSON"):
            self.ask(read, self.question("a", 1), context=context)

    def test_what_is_null_is_missing_and_not_the_word_none(self, read):
        good, null = self.question("25 mg", 19), self.question("None", 0)
        for found in (
            self.ask(read, null, context=None, on_error="skip"),
            self.ask(read, {**good, "question": None}, on_error="skip"),
            self.ask(read, {**good, "id": None}, on_error="skip"),
        ):
            assert (found[0], sum(found[1].rejected.values())) == ([], 1)

    def test_an_offset_that_is_no_number_is_refused(self, read):
        with pytest.raises(DataError, match="question 17: answer without text"):
            self.ask(read, self.question("25 mg", "soon"))


def test_entities_that_end_inside_words_are_remarked_on(task_of, tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "n.txt").write_text("fever 39C")
        (tmp_path / name / "n.ann").write_text("T1\tSign 0 4\tfeve\nT2\tValue 6 8\t39\n")
    remarks = read_task(task_of("tokens"), str(tmp_path)).findings.remarks
    assert [remark.partition(",")[0] for remark in remarks] == ["3 of 6 entities begin or end inside a word"]
    assert "is `end` that of the last" in remarks[0]
    assert not read_task(task_of("tokens", scorer="i2b2_2010"), str(tmp_path)).findings.remarks


@pytest.mark.parametrize(
    ("words", "what"),
    [
        *(("pneu ##monia", "pieces of words"), ("-LRB- pain", "brackets as treebanks"), ("# pain", "")),
        *(("`` pain", "quotation marks or slashes"), (r"mg\/dl", "quotation marks or slashes"), ("5'10\" x", "")),
        *(('""""', "as a CSV doubles them"), ('"5\'10"""', "as a CSV doubles them"), ('" x "" "', "")),
    ],
)
def test_tokens_that_are_no_words_are_remarked_on(task_of, tmp_path, words, what):
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "n.tsv").write_text("".join(f"{word}\tB-X\n" for word in [name, *words.split()]))
    remarks = read_task(task_of("tokens", format="bio"), str(tmp_path)).findings.remarks
    assert [what in remark for remark in remarks] == [True] * bool(what)


@pytest.mark.parametrize(
    ("before", "hint"), [("\U0001f637", "two units in UTF-16"), ("\r\n\r\n", "Windows line ends"), ("", "")]
)
def test_entities_that_were_counted_otherwise_are_remarked_on(task_of, tmp_path, before, hint):
    for name in "abc":
        (tmp_path / name).mkdir()
        row = {"text": f"{before} no chest pain now", "ents": [{"start": 7, "end": 11, "label": "P"}]}
        (tmp_path / name / "n.jsonl").write_text(json.dumps(row))
    fields = {"format": "records", "columns": {"entities": "ents"}}
    [remark] = read_task(task_of("tokens", **fields), str(tmp_path)).findings.remarks
    assert "inside a word" in remark
    assert hint in remark
    assert ("give each entity its `text`" in remark) == bool(hint)


def test_tags_of_words_are_no_types_of_entities(task_of, tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
        marks = [{"start": 0, "end": 5, "label": "B-Sign"}, {"start": 6, "end": 10, "label": "I-Sign"}]
        (tmp_path / name / "n.jsonl").write_text(json.dumps({"text": "chest pain", "ents": marks}))
    with pytest.raises(DataError, match="labels of entities must be types, got B-Sign and I-Sign"):
        read_task(task_of("tokens", format="records", columns={"entities": "ents"}), str(tmp_path))


def test_answers_longer_than_any_that_is_given_are_remarked_on(task_of, tmp_path):
    for split in "abc":
        answer = " ".join(["aspirin"] * 9)
        question = {"id": "q1", "question": "What?", "answers": [{"text": answer, "answer_start": 2}]}
        (tmp_path / split).mkdir()
        layout = {"data": [{"paragraphs": [{"context": f"{split} {answer}.", "qas": [question]}]}]}
        (tmp_path / split / "q.json").write_text(json.dumps(layout))
    [remark] = read_task(task_of("spans", max_answer_tokens=8), str(tmp_path)).findings.remarks
    assert remark.startswith("3 of 3 questions have no answer of at most 8 words")
    assert not read_task(task_of("spans", max_answer_tokens=9), str(tmp_path)).findings.remarks


def test_entities_that_touch_do_not_overlap():
    touching = [Entity(0, 3, "a"), Entity(3, 6, "b")]
    assert without_overlaps(reversed(touching)) == tuple(touching)


class TestOverlaps:
    ANNOTATIONS = "T1\tSite 18 23\tchest\nT2\tSign 18 28\tchest pain\nT3\tB 18 28\tchest pain\n"

    @pytest.fixture
    def settled(self, task_of, tmp_path):
        def read(**fields):
            for number in range(3):
                (tmp_path / f"d{number}.txt").write_text(f"{number} Patients have no chest pain")
                shifted = self.ANNOTATIONS.replace("18 23", "20 25").replace("18 28", "20 30")
                (tmp_path / f"d{number}.ann").write_text(shifted)
            task = task_of("tokens", splits={"all": "."}, split_ratios=[0.4, 0.3, 0.3], **fields)
            data = read_task(task, str(tmp_path))
            return surfaces(data.splits["train"][0]), data.findings.rejected

        return read

    def test_the_longest_stays(self, settled):
        assert settled() == ([("chest pain", "Sign")], {"overlaps a longer span": 6})

    def test_a_type_that_the_task_leaves_out_wins_nothing(self, settled):
        found, rejected = settled(label_map={"Sign": None, "B": None})
        assert found == [("chest", "Site")]
        assert rejected == {"label mapped to null": 6}


def test_a_split_without_any_answer_is_taken_for_a_blind_one(task_of, tmp_path):
    for split, answers in (("a", [{"text": "25 mg", "answer_start": 8}]), ("b", []), ("c", [])):
        question = {"id": "q1", "question": "What dose?", "answers": answers, "is_impossible": not answers}
        layout = {"data": [{"paragraphs": [{"context": f"Started 25 mg. {split}", "qas": [question]}]}]}
        (tmp_path / split).mkdir()
        (tmp_path / split / "q.json").write_text(json.dumps(layout))
    with pytest.raises(DataError, match=r"no question of split dev .* has an answer"):
        read_task(task_of("spans"), str(tmp_path))
