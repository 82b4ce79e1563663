"""Reading a task: honest splits, settled labels, counts and fingerprints."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinscale.errors import ChangedDataError, ConfigError, DataError
from clinscale.tasks import Entity, Example, Findings, check_use, read_task
from clinscale.tasks.split import group_numbers, hold_out, split_by_group
from clinscale.tasks.task import SPLITS

RATIOS = (0.7, 0.1, 0.2)


def write(folder, **splits):
    for split, rows in splits.items():
        lines = ["text,label", *(f"{text},{label}" for text, label in rows)]
        (folder / f"{split}.csv").write_text("\n".join(lines))
    return {"splits": {split: f"{split}.csv" for split in splits}}


ROWS = [("one", "a"), ("two", "b")]


def test_labels_are_those_found_sorted_or_those_of_the_task_in_their_order(task_of, tmp_path):
    files = write(tmp_path, train=ROWS, dev=ROWS, test=[("three", "c")])
    assert read_task(task_of("sequence", **files), str(tmp_path)).labels == ("a", "b", "c")
    own = task_of("sequence", **files, labels=("c", "b", "a"))
    assert read_task(own, str(tmp_path)).labels == ("c", "b", "a")


def test_a_rare_label_is_judged_by_the_area_unless_the_task_names_a_metric(task_of, tmp_path):
    rare = [(f"text {number}", "ab"[number % 4 == 0]) for number in range(20)]
    files = write(tmp_path, train=rare, dev=ROWS, test=ROWS)
    read = read_task(task_of("sequence", **files), str(tmp_path))
    assert read.task.metric == "roc_auc"
    assert any("chosen by roc_auc" in remark for remark in read.findings.remarks)
    named = read_task(task_of("sequence", **files, metric="accuracy"), str(tmp_path))
    assert (named.task.metric, named.findings.remarks) == ("accuracy", [])
    write(tmp_path, train=ROWS)
    assert read_task(task_of("sequence", **files), str(tmp_path)).task.metric is None


def test_notes_in_parts_and_line_breaks_as_two_characters_are_remarked_on(task_of, tmp_path):
    rows = [rf"{number},Pain.\nNo fever.\nHome {number}.,{'ab'[number % 2]}" for number in (1, 2, 3, 1, 2)]
    (tmp_path / "all.csv").write_text("\n".join(["LINE,text,label", *rows]))
    task = task_of("sequence", splits={"all": "all.csv"}, split_ratios=(0.4, 0.3, 0.3), labels=("a", "b"))
    remarks = " ".join(read_task(task, str(tmp_path)).findings.remarks)
    assert "3 rows are numbered as parts of the note of the row before" in remarks
    assert r"3 texts hold \n, a backslash and a letter, in place of line breaks" in remarks


def test_texts_that_an_export_did_not_mean_so_are_remarked_on(task_of, tmp_path):
    odd = [
        ("<p>pain</p>", "a"),
        ("notes/1.txt", "b"),
        ("37\u00c2\u00b0C", "a"),
        ("None", "b"),
        ("2020-01-31 10:20", "a"),
    ]
    odd += [
        ('"{""note"": ""pain""}"', "a"),
        ("no%20chest%20pain%20now", "b"),
        ('"pain\\\nfever"', "b"),
        ("na\u00efve EF=20% n=18 p=5 q=1A", "a"),
    ]
    cut = [(f"{number} ".ljust(255, "x"), "a") for number in range(3)]
    files = write(tmp_path, train=[*ROWS, *odd, *cut], dev=ROWS, test=ROWS)
    remarks = " ".join(read_task(task_of("sequence", **files), str(tmp_path)).findings.remarks)
    what = (
        "the name of a file",
        "tags or entities of HTML",
        "a number or date",
        "a word such as None",
        "an object of JSON",
    )
    for words in (
        *what,
        "a backslash before every line break",
        "escapes such as %20",
        "letters that were read in another encoding",
    ):
        assert f"1 texts hold {words}" in remarks
    assert "3 texts have 255 characters, and none has more: were they cut at export?" in remarks


def test_a_rare_label_that_is_not_the_one_sought_is_remarked_on(task_of, tmp_path):
    rows = [(f"text {number}", "no_aki" if number % 5 else "aki") for number in range(20)]
    files = write(tmp_path, train=rows, dev=rows, test=rows)
    remarks = " ".join(read_task(task_of("sequence", **files), str(tmp_path)).findings.remarks)
    assert "label 'no_aki', the second by the alphabet, is the one that is sought" in remarks
    assert "'aki' is the rare one" in remarks
    listed = read_task(task_of("sequence", **files, labels=("no_aki", "aki")), str(tmp_path))
    assert not any("sought" in remark for remark in listed.findings.remarks)


def test_versions_of_one_note_in_two_splits_are_remarked_on(task_of, tmp_path):
    note = "Admitted with chest pain and fever of three days. Blood cultures were drawn. "
    for split in ("train", "dev", "test"):
        rows = [f"n1,{note}{split},a", f"n2,{split} two,b"]
        (tmp_path / f"{split}.csv").write_text("\n".join(["id,text,label", *rows]))
    fields = {"splits": {split: f"{split}.csv" for split in ("train", "dev", "test")}, "columns": {"id": "id"}}
    remarks = read_task(task_of("sequence", **fields), str(tmp_path)).findings.remarks
    assert remarks == ["1 ids are in more than one split, with texts that begin alike"]


@pytest.mark.parametrize("column", ["SUBJECT_ID", "PatientID", "patient", "pat_mrn_id", "person_id"])
def test_patients_in_two_splits_are_remarked_on_where_the_task_does_not_name_them(task_of, tmp_path, column):
    rows = [f"{number},text {number},{'ab'[number % 2]},{number // 3}.0" for number in range(30)]
    (tmp_path / "all.csv").write_text("\n".join([f"id,text,label,{column}", *rows]))
    fields = {"splits": {"all": "all.csv"}, "split_ratios": (0.4, 0.3, 0.3)}
    data = read_task(task_of("sequence", **fields), str(tmp_path))
    sides = [{int(one.text.split()[1]) // 3 for one in some} for some in data.splits.values()]
    shared = sum(sum(patient in side for side in sides) > 1 for patient in range(10))
    said = f"{shared} values of column {column!r}, which seem to be patients, are in more than one split"
    assert sum(one.startswith(said) for one in data.findings.remarks) == (shared > 0) == 1
    by_patient = read_task(task_of("sequence", **fields, group_column=column), str(tmp_path))
    assert "seem to be patients" not in " ".join(by_patient.findings.remarks)


def test_what_patients_say_is_no_patient(task_of, tmp_path):
    for split in ("train", "dev", "test"):
        rows = [f"{split} {number},Yes,{'ab'[number % 2]},Good" for number in range(4)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["text,patient,label,subject", *rows]))
    splits = {split: f"{split}.csv" for split in ("train", "dev", "test")}
    remarks = read_task(task_of("sequence", splits=splits), str(tmp_path)).findings.remarks
    assert "seem to be patients" not in " ".join(remarks)


def test_texts_that_are_asked_about_in_two_splits_are_remarked_on(task_of, tmp_path):
    for split in ("train", "dev", "test"):
        rows = [f"PREMISE one,{split} claim,a", f"{split} two,claim,b"]
        (tmp_path / f"{split}.csv").write_text("\n".join(["premise,hypothesis,label", *rows]))
    files = {"splits": {split: f"{split}.csv" for split in ("train", "dev", "test")}}
    read = read_task(task_of("pair", **files), str(tmp_path))
    assert read.findings.remarks == ["1 texts are in more than one split, whatever is asked about them there"]
    assert read.duplicates_across_splits == 0


def test_a_split_of_copies_is_remarked_on(task_of, tmp_path):
    rows = [(f"t{n}", "ab"[n % 2]) for n in range(20)]
    files = write(tmp_path, train=rows, dev=[(f"d{text}", label) for text, label in rows], test=rows[:12])
    remarks = read_task(task_of("sequence", **files), str(tmp_path)).findings.remarks
    assert [remark.partition(":")[0] for remark in remarks] == [
        "12 of 12 examples of test are in an earlier split, too"
    ]


def test_gold_that_differs_on_one_text_is_remarked_on(task_of, tmp_path):
    asked = [
        {"text": "Pain, 5 mg", "question": "Dose?", "answers": [{"text": text, "answer_start": start}]}
        for text, start in (("5 mg", 6), ("Pain", 0))
    ]
    marked = [{"text": "Pain, 5 mg", "gold": [{"start": s, "end": s + 4, "label": "X"}]} for s in (0, 6)]
    pairs = [{"text": "Pain", "question": "pain", "label": label} for label in "ab"]
    cases = [
        ("spans", asked, {"text_pair": "question"}, "1 questions have other answers"),
        ("tokens", marked, {"entities": "gold"}, "1 texts have other entities"),
        ("pair", pairs, {"text_pair": "question"}, "6 of 6 pairs are of a text with itself"),
    ]
    for kind, rows, columns, says in cases:
        (tmp_path / "n.jsonl").write_text("\n".join(map(json.dumps, rows)))
        fields = {"format": "records", "columns": columns, "splits": dict.fromkeys(SPLITS, "n.jsonl")}
        remarks = read_task(task_of(kind, **fields), str(tmp_path)).findings.remarks
        assert any(remark.startswith(says) for remark in remarks), kind


def test_a_part_of_a_table_alone_is_remarked_on(task_of, tmp_path):
    write(tmp_path, train=ROWS, dev=ROWS, test=ROWS)
    (tmp_path / "train.csv").rename(tmp_path / "train-00000-of-00002.csv")
    splits = {"train": "train-00000-of-00002.csv", "dev": "dev.csv", "test": "test.csv"}
    remarks = read_task(task_of("sequence", splits=splits), str(tmp_path)).findings.remarks
    assert [remark.partition(":")[0] for remark in remarks] == [
        "splits.train names file 1 of 2 that make up a table"
    ]


def test_rows_that_a_filter_may_have_meant_are_remarked_on(task_of, tmp_path):
    for split in ("train", "dev", "test"):
        rows = [f"{split} {number},{'ab'[number % 2]},{kind}" for number, kind in enumerate(["CT", "CT", "ct "])]
        (tmp_path / f"{split}.csv").write_text("\n".join(["text,label,kind", *rows]))
    fields = {
        "splits": {split: f"{split}.csv" for split in ("train", "dev", "test")},
        "keep_rows": {"kind": ["CT"]},
    }
    read = read_task(task_of("sequence", **fields), str(tmp_path))
    assert len(read.splits["train"]) == 2
    assert read.findings.remarks[0].startswith("1 rows hold a value of keep_rows or drop_rows in another case")


def test_a_label_that_the_task_does_not_know_is_refused(task_of, tmp_path):
    files = write(tmp_path, train=ROWS, dev=ROWS, test=[("three", "c")])
    task = task_of("sequence", **files, labels=("a", "b"))
    with pytest.raises(DataError, match="test example test:1: label is not among the task's; add it to labels"):
        read_task(task, str(tmp_path))
    write(tmp_path, test=[("three", "c"), ("four", "a")])
    data = read_task(task, str(tmp_path), findings=Findings("skip"))
    assert [e.text for e in data.splits["test"]] == ["four"]
    assert data.findings.rejected == {"label is not among the task's": 1}


def test_entities_of_unknown_types_are_left_out_one_by_one(task_of, notes):
    fields = {"splits": {"all": "."}, "split_ratios": (0.5, 0.2, 0.3), "labels": ("Sign",), "on_error": "skip"}
    data = read_task(task_of("tokens", **fields), notes)
    assert all(len(e.entities) == 1 for members in data.splits.values() for e in members)
    assert data.findings.rejected == {"label is not among the task's": 20}


def test_texts_in_the_label_column_are_not_printed(task_of, tmp_path):
    files = write(tmp_path, train=[("a", "secret " * 30)], dev=ROWS, test=ROWS)
    with pytest.raises(DataError, match=r"check columns\.label") as error:
        read_task(task_of("sequence", **files), str(tmp_path))
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "other",
    [
        *("Readmitted", "READ MITTED", "read\u00a0mitted", "readmitted\u200b", "\ufeffreadmitted", "'readmitted'"),
        *("read-mitted", "read_mitted", "read\u2013mitted", "r\u00e9admitted", "readmitted.", "re\u0430dmitted"),
    ],
)
def test_labels_that_a_reader_takes_for_one_are_no_two_classes(task_of, tmp_path, other):
    files = write(tmp_path, train=[*ROWS, ("four", "readmitted")], dev=ROWS, test=[*ROWS, ("three", other)])
    with pytest.raises(
        DataError, match=r"labels must differ by more than case, blanks and spelling, got .* and .*; map them"
    ):
        read_task(task_of("sequence", **files), str(tmp_path))
    write(tmp_path, test=[*ROWS, ("three", "Readmitted")])
    names = ("a", "b", "readmitted", "Readmitted")
    listed = read_task(task_of("sequence", **files, labels=names), str(tmp_path))
    assert listed.labels == names
    assert listed.findings.remarks == [
        "no training example has label 'Readmitted', which dev or test has: no model can learn it"
    ]
    mapped = read_task(task_of("sequence", **files, label_map={"Readmitted": "readmitted"}), str(tmp_path))
    assert (mapped.labels, mapped.findings.remarks) == (("a", "b", "readmitted"), [])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(("Y", "yes"), ("0", "False"), ("\u00e9", "e\u0301"), ("02", "2"), ("Crohn's", "Crohn\u2019s")),
        *(("P", "\u0420"), ("+2", "2"), ("2.50", "2.5"), ('"2,5"', "2.5"), ('"2,000"', "2000")),
    ],
)
def test_two_spellings_of_one_label_are_shown_apart(task_of, tmp_path, one, other):
    files = write(tmp_path, train=[*ROWS, ("three", one)], dev=ROWS, test=[*ROWS, ("four", other)])
    with pytest.raises(DataError, match="more than case, blanks and spelling") as error:
        read_task(task_of("sequence", **files), str(tmp_path))
    assert len(set(str(error.value).split("got ")[1].split(";")[0].split(" and "))) == 2


@pytest.mark.parametrize(("one", "other"), [("Rh-", "Rh"), ("-1", "1"), ("<", "<="), ("+", "++"), ("1.5", "15")])
def test_labels_that_differ_by_a_mark_that_means_something_are_two(task_of, tmp_path, one, other):
    rows = [*ROWS, ("three", one), ("four", other)]
    files = write(tmp_path, train=rows, dev=rows, test=rows)
    assert {one, other} < set(read_task(task_of("sequence", **files), str(tmp_path)).labels)


@pytest.mark.parametrize("mark", list("|;/&+"))
def test_labels_joined_by_another_mark_than_the_tasks_are_no_label(task_of, tmp_path, mark):
    files = write(tmp_path, train=[*ROWS, ("three", f"b {mark} a")], dev=ROWS, test=ROWS)
    with pytest.raises(DataError, match=r"joins others by .*; set multi_label: true and label_separator"):
        read_task(task_of("sequence", **files), str(tmp_path))
    several = task_of("sequence", **files, multi_label=True, label_separator=mark)
    assert read_task(several, str(tmp_path)).labels == ("a", "b")
    listed = ("a", "b", f"b {mark} a")
    assert read_task(task_of("sequence", **files, labels=listed), str(tmp_path)).labels == listed


def test_labels_of_which_none_is_alone_are_joined(task_of, tmp_path):
    rows = [("one", "a/b"), ("two", "b/c"), ("three", "a/c")]
    files = write(tmp_path, train=rows, dev=rows, test=rows)
    with pytest.raises(DataError, match="'a/b', which joins others by '/'"):
        read_task(task_of("sequence", **files, multi_label=True), str(tmp_path))
    assert len(read_task(task_of("sequence", **files), str(tmp_path)).labels) == 3, (
        "one of each, as far as it says"
    )
    write(tmp_path, train=[*rows[:2], ("three", "n/v")])
    with pytest.raises(DataError, match="joins others by"):
        read_task(task_of("sequence", **files, multi_label=True), str(tmp_path))


def test_codes_that_a_blank_joins_are_no_label_and_words_are_one(task_of, tmp_path):
    for parts, is_refused in ((["I10", "I21", "E11"], True), (["left", "arm", "leg"], False)):
        pairs = [f"{parts[0]} {parts[1]}", f"{parts[1]} {parts[2]}", f"{parts[0]} {parts[2]}"]
        rows = [(f"t{number}", label) for number, label in enumerate(pairs)]
        files = write(tmp_path, train=rows, dev=rows, test=rows)
        with pytest.raises(DataError, match="joins others by ' '") if is_refused else contextlib.nullcontext():
            read_task(task_of("sequence", **files, multi_label=True), str(tmp_path))


@pytest.mark.parametrize("form", ["[{}]", "{{{}}}"])
def test_lists_without_quotation_marks_are_no_label(task_of, tmp_path, form):
    rows = [(f"t{number}", form.format(label)) for number, label in enumerate(("a", "b", "a b"))]
    files = write(tmp_path, train=rows, dev=rows, test=rows)
    for several in ({}, {"multi_label": True}):
        with pytest.raises(DataError, match="seems to be a list"):
            read_task(task_of("sequence", **files, **several), str(tmp_path))
    mixed = [*ROWS, ("three", "[redacted]")]
    files = write(tmp_path, train=mixed, dev=mixed, test=mixed)
    assert read_task(task_of("sequence", **files), str(tmp_path)).labels == ("[redacted]", "a", "b")


def test_labels_that_an_export_did_not_mean_so_are_remarked_on(task_of, tmp_path):
    rows = [("one", "a &amp; b"), ("two", "na\u00c3\u00afve")]
    files = write(tmp_path, train=rows, dev=rows, test=rows)
    remarks = read_task(task_of("sequence", **files), str(tmp_path)).findings.remarks
    assert [remark.partition(" holds ")[2][:8] for remark in remarks] == ["letters ", "tags or "]


def test_a_word_for_none_is_no_label_where_a_text_may_have_none(task_of, tmp_path):
    rows = [*ROWS, ("three", "None")]
    files = write(tmp_path, train=rows, dev=rows, test=rows)
    assert "None" in read_task(task_of("sequence", **files), str(tmp_path)).labels
    with pytest.raises(DataError, match="'None' is where a label should be"):
        read_task(task_of("sequence", **files, multi_label=True), str(tmp_path))
    none = task_of("sequence", **files, multi_label=True, label_map={"None": None})
    assert read_task(none, str(tmp_path)).splits["test"][2].labels == ()


def test_codes_with_decimals_are_no_whole_numbers(task_of, tmp_path):
    rows = [("one", "428.0"), ("two", "401.9"), ("three", "486")]
    files = write(tmp_path, train=rows, dev=rows, test=rows)
    for several in ({}, {"multi_label": True}):
        with pytest.raises(DataError, match=r"labels must be read as they are spelled, got '428\.0'"):
            read_task(task_of("sequence", **files, **several), str(tmp_path))
    names = ("401.9", "428.0", "486")
    listed = read_task(task_of("sequence", **files, labels=names), str(tmp_path))
    assert [one.labels for one in listed.splits["test"]] == [("428.0",), ("401.9",), ("486",)]
    with pytest.raises(ConfigError, match=r"read apart, got '428' and '428\.0'"):
        task_of("sequence", **files, labels=("428", "428.0"))
    write(tmp_path, train=[("one", "1.0"), ("two", "0")])
    assert read_task(
        task_of("sequence", **{"splits": dict.fromkeys(SPLITS, "train.csv")}), str(tmp_path)
    ).labels == (
        "0",
        "1",
    )


def test_vectors_of_two_labels_are_not_these_labels_together(task_of, tmp_path):
    lines = [{"text": f"t{n}", "label": [n % 2, 1 - n % 2]} for n in range(4)]
    (tmp_path / "n.jsonl").write_text("\n".join(map(json.dumps, lines)))
    task = task_of("sequence", splits=dict.fromkeys(SPLITS, "n.jsonl"), multi_label=True)
    with pytest.raises(DataError, match="are these vectors of 0 and 1"):
        read_task(task, str(tmp_path))
    lines[0]["label"] = [1]
    (tmp_path / "n.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert read_task(task, str(tmp_path)).labels == ("0", "1")


def test_columns_in_another_order_in_one_split_print_no_text(task_of, tmp_path):
    rows = [(f"t{n}", "ab"[n % 2]) for n in range(60)]
    files = write(tmp_path, train=rows, dev=[(label, f"secret {text}") for text, label in rows[:20]], test=rows)
    with pytest.raises(DataError, match="split dev has 20 labels that no other split has") as error:
        read_task(task_of("sequence", **files), str(tmp_path))
    assert "secret" not in str(error.value)


def test_texts_whose_rows_disagree_are_counted(task_of, tmp_path):
    files = write(tmp_path, train=[*ROWS, ("one", "a")], dev=ROWS, test=[("one", "b"), ("two", "b")])
    remarks = read_task(task_of("sequence", **files), str(tmp_path)).findings.remarks
    assert remarks == ["1 texts have other labels in one row than in another"]


def test_a_label_that_a_split_lacks_is_remarked_on_where_macro_f1_decides(task_of, tmp_path):
    files = write(tmp_path, train=[*ROWS, ("three", "c")], dev=[*ROWS, ("four", "c")], test=ROWS)
    remarks = read_task(task_of("sequence", **files, metric="macro_f1"), str(tmp_path)).findings.remarks
    assert remarks == ["no text of test has label 'c', of which macro_f1 tells nothing there"]
    assert read_task(task_of("sequence", **files), str(tmp_path)).findings.remarks == []


def test_one_label_is_no_task(task_of, tmp_path):
    files = write(tmp_path, train=[("one", "a")], dev=[("two", "a")], test=[("three", "a")])
    with pytest.raises(DataError, match="at least two labels"):
        read_task(task_of("sequence", **files), str(tmp_path))


def test_a_missing_file_is_named(task_of, tmp_path):
    files = write(tmp_path, train=ROWS, dev=ROWS, test=ROWS)
    (tmp_path / "dev.csv").unlink()
    with pytest.raises(DataError, match=r"dev\.csv does not exist"):
        read_task(task_of("sequence", **files), str(tmp_path))


def test_a_split_that_gets_no_example_is_refused(task_of, tmp_path):
    write(tmp_path, only=ROWS)
    task = task_of("sequence", splits={"all": "only.csv"}, split_ratios=RATIOS)
    with pytest.raises(DataError, match="has no example"):
        read_task(task, str(tmp_path))


def test_a_split_that_stays_empty_as_texts_repeat_says_so(task_of, tmp_path):
    write(tmp_path, only=[("one", "a"), ("two", "b")] * 30)
    task = task_of("sequence", splits={"all": "only.csv"}, split_ratios=RATIOS)
    with pytest.raises(
        DataError, match="60 examples are 2 such groups, the largest of 30: give more different docu"
    ):
        read_task(task, str(tmp_path))


def test_repeats_within_and_across_splits_are_counted(task_of, tmp_path):
    files = write(tmp_path, train=[*ROWS, ("one", "b")], dev=[("one", "a")], test=[("four", "a")])
    data = read_task(task_of("sequence", **files), str(tmp_path))
    assert (data.duplicates, data.duplicates_across_splits) == (1, 1)


def test_the_fingerprint_changes_with_any_gold_and_not_with_the_place(task_of, tmp_path):
    prints = []
    for name, label in (("x", "a"), ("y", "a"), ("z", "b")):
        (tmp_path / name).mkdir()
        files = write(tmp_path / name, train=ROWS, dev=ROWS, test=[("three", label)])
        prints.append(read_task(task_of("sequence", **files), str(tmp_path / name)).fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_data_that_are_no_longer_what_the_work_began_with_are_refused(task_of, tmp_path):
    task = task_of("sequence", **write(tmp_path, train=ROWS, dev=ROWS, test=[("three", "a")]))
    before = read_task(task, str(tmp_path)).fingerprint
    assert read_task(task, str(tmp_path), fingerprint=before).fingerprint == before
    write(tmp_path, train=ROWS[::-1], dev=ROWS, test=[("three", "a")])
    with pytest.raises(ChangedDataError, match=f"changed while it was worked with .fingerprint {before} before, "):
        read_task(task, str(tmp_path), fingerprint=before)


@given(
    rows=st.lists(st.tuples(st.integers(0, 30), st.none() | st.integers(0, 20)), min_size=1, max_size=120),
    seed=st.integers(0, 5),
)
def test_no_text_and_no_group_is_on_two_sides(rows, seed):
    examples = [
        Example(str(number), f"text {text}", group=None if group is None else f"group {group}")
        for number, (text, group) in enumerate(rows)
    ]
    splits = split_by_group(examples, RATIOS, seed)
    assert sorted(e.id for side in splits.values() for e in side) == sorted(e.id for e in examples)
    for key in (lambda e: e.text, lambda e: e.group):
        sides = [{key(e) for e in side} - {None} for side in splits.values()]
        assert sum(map(len, sides)) == len(set().union(*sides))
    again = split_by_group(examples[::-1], RATIOS, seed)
    assert {name: {e.id for e in side} for name, side in again.items()} == {
        name: {e.id for e in side} for name, side in splits.items()
    }


def test_copies_of_a_text_with_other_white_space_are_one_text(task_of, tmp_path):
    examples = [
        Example("1", "Pain. \r\nNo fever.\r\n"),
        Example("2", "Pain.\nNo fever."),
        Example("3", "Pain.No fever."),
        Example("4", "PAIN. NO FEVER."),
        Example("5", "\ufeffPain. No fe\u00adver."),
    ]
    assert group_numbers(examples) == [0, 0, 1, 0, 0]
    files = write(tmp_path, train=ROWS, dev=[("three", "a"), (" three ", "a")], test=[("one ", "a"), ("six", "b")])
    read = read_task(task_of("sequence", **files), str(tmp_path))
    assert (read.duplicates, read.duplicates_across_splits) == (1, 1)


def test_the_shares_are_met_and_the_seed_chooses():
    examples = [Example(str(number), f"text {number}") for number in range(1000)]
    one, other = (split_by_group(examples, RATIOS, seed) for seed in (0, 1))
    assert [len(side) for side in one.values()] == [700, 100, 200]
    assert one["test"] != other["test"]


def test_held_out_groups_are_whole_and_the_rest_stays():
    examples = [Example(str(n), f"text {n}", group=f"patient {n % 50}") for n in range(500)]
    stays, held = hold_out(examples, 0.1, seed=0)
    assert len(held) == pytest.approx(50, abs=10)
    assert {e.id for e in stays} | {e.id for e in held} == {e.id for e in examples}
    assert not {e.group for e in stays} & {e.group for e in held}


def test_a_patient_in_two_given_splits_is_an_error_or_left_out_of_the_earlier(task_of, tmp_path):
    parts = {
        "train": [("a", "p1"), ("b", "p2"), ("c", "p3"), ("d", "p3")],
        "dev": [("e", "p2"), ("f", "p4")],
        "test": [("g", "p3"), ("h", "p5"), ("i", "p5")],
    }
    rows = [(text, split, patient) for split, part in parts.items() for text, patient in part]
    for name in ("all", *parts):
        lines = [f"{text},x,{split},{patient}" for text, split, patient in rows if name in ("all", split)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label,part,patient", *lines]))
    ways = {
        "train": {"splits": {split: f"{split}.csv" for split in parts}},
        "all": {"splits": {"all": "all.csv"}, "split_column": "part"},
    }
    for source, way in ways.items():
        fields = {**way, "labels": ["x", "y"], "group_column": "patient"}
        with pytest.raises(DataError, match=rf"{source}:2: patient or group is in two splits.*in dev") as error:
            read_task(task_of("sequence", **fields), str(tmp_path))
        assert "p2" not in str(error.value)
        data = read_task(task_of("sequence", **fields, on_error="skip"), str(tmp_path))
        texts = {split: "".join(example.text for example in part) for split, part in data.splits.items()}
        assert texts == {"train": "a", "dev": "ef", "test": "ghi"}
        assert data.findings.rejected == {"patient or group is in two splits": 3}
        apart = read_task(task_of("sequence", **way, labels=["x", "y"]), str(tmp_path))
        assert len(apart.splits["train"]) == 4, "without group_column nobody asked"


@pytest.mark.parametrize(
    ("one", "other"),
    [("007", "7"), ("p7", "P7"), ("P 7", "P7"), ("P7\u200b", "P7"), ("'007", "7"), ("\uff17", "7")],
)
def test_a_patient_whose_id_is_spelled_in_two_ways_is_one(task_of, tmp_path, one, other):
    for split, patient in [("train", one), ("dev", "8"), ("test", other)]:
        (tmp_path / f"{split}.csv").write_text(f"text,label,patient\n{split},a,{patient}\nx {split},b,{patient}\n")
    fields = {"splits": {split: f"{split}.csv" for split in ("train", "dev", "test")}, "group_column": "patient"}
    with pytest.raises(
        DataError, match="train:1 and test:1 are of patients or groups whose ids differ only by case or"
    ):
        read_task(task_of("sequence", **fields), str(tmp_path))
    for split, patient in [("train", "aB7"), ("dev", "8"), ("test", "Ab7")]:  # as hashes are
        (tmp_path / f"{split}.csv").write_text(f"text,label,patient\n{split},a,{patient}\nx {split},b,{patient}\n")
    assert read_task(task_of("sequence", **fields), str(tmp_path)).labels == ("a", "b")


def test_a_column_can_name_the_split(task_of, tmp_path):
    lines = ["text,label,part", "one,a,train", "two,b,Validation", "three,a,test", "four,b,val"]
    (tmp_path / "all.csv").write_text("\n".join(lines))
    task = task_of("sequence", splits={"all": "all.csv"}, split_column="part")
    data = read_task(task, str(tmp_path))
    assert {split: [e.text for e in members] for split, members in data.splits.items()} == {
        "train": ["one"],
        "dev": ["two", "four"],
        "test": ["three"],
    }
    (tmp_path / "all.csv").write_text("\n".join([*lines, "five,a,holdout"]))
    with pytest.raises(DataError, match="split column of all:5 must hold one of train"):
        read_task(task, str(tmp_path))


def test_labels_are_mapped_and_null_leaves_the_row_out(task_of, tmp_path):
    files = write(tmp_path, train=[*ROWS, ("x", "unsure")], dev=[("d", "A"), ("e", "b")], test=ROWS)
    task = task_of("sequence", **files, label_map={"A": "a", "unsure": None})
    data = read_task(task, str(tmp_path))
    assert data.labels == ("a", "b")
    assert [e.text for e in data.splits["train"]] == ["one", "two"]
    assert data.findings.rejected == {"label mapped to null": 1}

    several = [("x", "unsure"), ("y", "A;unsure"), ("z", "")]
    files = write(tmp_path, train=[*ROWS, *several], dev=[("d", "A"), ("e", "b")], test=ROWS)
    data = read_task(
        task_of("sequence", **files, label_map={"A": "a", "unsure": None}, multi_label=True), str(tmp_path)
    )
    assert [e.labels for e in data.splits["train"]] == [("a",), ("b",), (), ("a",), ()]
    assert data.findings.found["texts without a label but those mapped to null"] == 1
    assert data.findings.found["rows without a label"] == 1


def test_ids_that_occur_twice_are_refused_or_left_out(task_of, tmp_path):
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.csv").write_text(f"id,text,label\n7,{split} one,a\n7,{split} two,b\n8,{split},b\n")
    files = {"splits": {split: f"{split}.csv" for split in ("train", "dev", "test")}, "columns": {"id": "id"}}
    with pytest.raises(DataError, match=r"train example 7, .*train\.csv row 2: id occurs twice"):
        read_task(task_of("sequence", **files), str(tmp_path))
    data = read_task(task_of("sequence", **files, on_error="skip"), str(tmp_path))
    assert data.findings.rejected == {"id occurs twice": 3}


@pytest.fixture
def notes(tmp_path):
    """Twenty notes of ten patients in brat files named PATIENT-NOTE."""
    for number in range(20):
        stem = tmp_path / f"{number // 2:03}-{number % 2:02}"
        stem.with_suffix(".txt").write_text(f"Note {number}\n\nfever and\nchest pain\n")
        start = len(f"Note {number}\n\n")
        end = start + len("fever and\nchest pain")
        stem.with_suffix(".ann").write_text(
            f"T1\tSign {start} {start + 5}\tfever\nT2\tBoth {start + 6} {end}\tand chest pain\n"
        )
    return str(tmp_path)


def test_a_pattern_finds_the_patient_in_the_files_name(task_of, notes):
    fields = {"splits": {"all": "."}, "split_ratios": (0.5, 0.2, 0.3)}
    data = read_task(task_of("tokens", **fields, group_pattern=r"^(\d+)-"), notes)
    patients = [{e.id[:3] for e in members} for members in data.splits.values()]
    assert sum(map(len, patients)) == len(set().union(*patients)) == 10
    with pytest.raises(DataError, match="group_pattern does not match the id of example 000-00"):
        read_task(task_of("tokens", **fields, group_pattern=r"patient(\d+)"), notes)
    with pytest.raises(DataError, match="must find the patient in every id"):
        read_task(task_of("tokens", **fields, group_pattern=r"-(patient\d+)?"), notes)


def test_a_pattern_that_goes_back_without_end_is_refused(task_of, notes, monkeypatch):
    monkeypatch.setattr("clinscale.tasks.read._LONGEST_MATCH_S", 0.05)
    (Path(notes) / f"{'1' * 40}-a.txt").write_text("fever")
    (Path(notes) / f"{'1' * 40}-a.ann").write_text("T1\tSign 0 5\tfever\n")
    fields = {"splits": {"all": "."}, "split_ratios": (0.5, 0.2, 0.3)}
    with pytest.raises(ConfigError, match="group_pattern must match an id at once"):
        read_task(task_of("tokens", **fields, group_pattern=r"(?|^(([0-9]|[1-9]|1)*)[-x]$|^(0))"), notes)


def test_the_patient_in_the_files_name_is_in_one_of_the_given_splits(task_of, notes, tmp_path):
    for split, number in {"train": "000", "dev": "001", "test": "000"}.items():
        (tmp_path / "given" / split).mkdir(parents=True)
        for name in (f"{number}-00", f"{split}-01"):
            for suffix in (".txt", ".ann"):
                source = tmp_path / f"{number}-00{suffix}"
                (tmp_path / "given" / split / f"{name}{suffix}").write_bytes(source.read_bytes())
    fields = {
        "splits": {split: f"given/{split}" for split in ("train", "dev", "test")},
        "group_pattern": r"^(\w+)-",
    }
    with pytest.raises(DataError, match="train example 000-00: patient or group is in two splits"):
        read_task(task_of("tokens", **fields), notes)
    data = read_task(task_of("tokens", **fields, on_error="skip"), notes)
    assert {split: len(part) for split, part in data.splits.items()} == {"train": 1, "dev": 2, "test": 2}


def test_lines_are_examples_of_their_own_and_keep_to_their_document(task_of, notes):
    fields = {"splits": {"all": "."}, "split_ratios": (0.5, 0.2, 0.3), "unit": "line"}
    data = read_task(task_of("tokens", **fields), notes)
    lines = {e.id: e for members in data.splits.values() for e in members}
    assert len(lines) == 60
    assert [(lines["000-00:3"].text[e.start : e.end], e.label) for e in lines["000-00:3"].entities] == [
        ("fever", "Sign"),
        ("and", "Both"),
    ]
    assert [lines["000-00:4"].text[e.start : e.end] for e in lines["000-00:4"].entities] == ["chest pain"]
    documents = [{e.id.split(":")[0] for e in members} for members in data.splits.values()]
    assert not documents[0] & documents[2]


def test_a_group_that_leaves_little_for_the_others_is_remarked_on(task_of, tmp_path):
    rows = [("Normal.", "ab"[number % 2]) for number in range(50)]
    files = write(tmp_path, all=[*rows, *((f"text {number}", "ab"[number % 2]) for number in range(50))])
    data = read_task(task_of("sequence", **files, split_ratios=(0.4, 0.3, 0.3)), str(tmp_path))
    assert data.findings.remarks[0].startswith(
        "train, dev, test have 39% 50% 11% of the examples where split_ratios wants 40% 30% 30%: 50 examples share"
    )


def test_documents_that_have_a_line_in_common_are_no_copies(task_of, tmp_path):
    for number in range(6):
        (tmp_path / f"{number}.txt").write_text(f"HISTORY:\n{number} has pain")
        (tmp_path / f"{number}.ann").write_text("T1\tSign 15 19\tpain\n")
    fields = {"splits": {"all": "."}, "split_ratios": (0.5, 0.2, 0.3), "unit": "line"}
    splits = read_task(task_of("tokens", **fields), str(tmp_path)).splits
    assert group_numbers(splits["train"]) == [0, 0, 1, 1, 2, 2]


def test_reading_on_finds_all_that_is_wrong(task_of, tmp_path):
    files = write(tmp_path, train=[*ROWS, ("", "a"), ("x", "")], dev=ROWS, test=ROWS)
    task = task_of("sequence", **files)
    with pytest.raises(DataError, match="row 3"):
        read_task(task, str(tmp_path))
    findings = read_task(task, str(tmp_path), findings=Findings("skip")).findings
    assert findings.rejected.total() == 2
    assert [place.rsplit("/", 1)[1] for places in findings.places.values() for place in places] == [
        "train.csv row 3",
        "train.csv row 4",
    ]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"label_map": {"A": "a", "c": None}}, "label_map, 'c': no text and no entity has this label"),
        ({"drop_rows": {"err": ["1", "yes"]}}, "drop_rows, column 'err', value 'yes': no row holds this value"),
        ({"keep_rows": {"err": ["0", "none"]}}, "keep_rows, column 'err', value 'none': no row holds"),
    ],
)
def test_what_the_task_names_and_no_file_holds_is_refused_or_counted(task_of, tmp_path, fields, says):
    lines = ["text,label,err", *(f"{label}{n},{label},{n % 2}.0" for n in range(30) for label in "Ab")]
    (tmp_path / "all.csv").write_text("\n".join(lines))
    task = {"splits": {"all": "all.csv"}, "split_ratios": RATIOS, **fields}
    with pytest.raises(DataError, match=says):
        read_task(task_of("sequence", **task), str(tmp_path))
    data = read_task(task_of("sequence", **task, on_error="skip"), str(tmp_path))
    assert [places for reason, places in data.findings.places.items() if reason.startswith("no ")] == [
        [f"task my_sequence: {says.split(': no')[0]}"]
    ]


def test_a_label_map_holds_over_all_splits_and_types(task_of, tmp_path):
    """Zeros and ones that pandas wrote beside blanks are `0.0` and `1.0`."""
    files = write(tmp_path, train=[("one", "0.0"), ("two", "1.0")], dev=[("d", 0)], test=[("e", 1), ("f", "x")])
    for one in ("1", "1.0"):
        task = task_of("sequence", **files, label_map={"0": "stays", one: "returns", "x": None})
        assert read_task(task, str(tmp_path)).labels == ("returns", "stays")
    task = task_of("sequence", **files, labels=("1.0", "0.0", "x"))
    assert [e.labels for e in read_task(task, str(tmp_path)).splits["test"]] == [("1.0",), ("x",)]


@pytest.mark.parametrize("spelled", ["nan", "NULL", "<NA>"])
def test_a_label_that_spells_a_missing_value_is_asked_about(task_of, tmp_path, spelled):
    files = write(tmp_path, train=ROWS, dev=ROWS, test=[*ROWS, ("three", spelled)])
    with pytest.raises(DataError, match=f"{spelled!r} is where a label should be; map it to null"):
        read_task(task_of("sequence", **files), str(tmp_path))
    assert read_task(task_of("sequence", **files, label_map={spelled: None}), str(tmp_path)).labels == ("a", "b")
    assert spelled in read_task(task_of("sequence", **files, labels=("a", "b", spelled)), str(tmp_path)).labels


@pytest.mark.parametrize(
    ("labels", "odd"),
    [
        *((("a", "b"), "-"), (("a", "b"), "-----"), (("a", "b"), "."), (("0", "1"), "-1"), (("0", "1"), "-100")),
        *((("0", "1"), "None"), (("no", "yes"), "N/A"), (("0", "2"), "NA"), (("a", "b"), "''")),
    ],
)
def test_a_mark_in_place_of_a_label_is_asked_about(task_of, tmp_path, labels, odd):
    rows = [("one", labels[0]), ("two", labels[1])]
    files = write(tmp_path, train=[*rows, ("three", odd)], dev=rows, test=rows)
    with pytest.raises(DataError, match=f"{odd!r} is where a label should be; map it to null"):
        read_task(task_of("sequence", **files), str(tmp_path))
    listed = task_of("sequence", **files, labels=(*labels, odd))
    assert read_task(listed, str(tmp_path)).labels == (*labels, odd)


def test_a_column_of_measurements_is_no_label(task_of, tmp_path):
    rows = [(f"t{n}", n * 37 % 101) for n in range(60)]
    files = write(tmp_path, train=rows[:40], dev=rows[40:50], test=rows[50:])
    with pytest.raises(DataError, match="60 examples have 60 labels, which are likely texts, ids or measurements"):
        read_task(task_of("sequence", **files), str(tmp_path))


SECRET = "Jane Roe, aged 54, HIV positive"


@pytest.mark.parametrize(
    ("rows", "fields"),
    [
        ([(SECRET, "a"), (SECRET, "a")], {}),  # an id that occurs twice
        ([(SECRET, "c")], {"labels": ("a", "b")}),
        ([("x", SECRET)], {"split_column": "label", "label_from": "file"}),
        ([(SECRET, "a")], {"group_pattern": r"^(\d{9})", "split_ratios": RATIOS}),
        ([(SECRET, "a")], {"split_ids": {"train": "ids", "dev": "other", "test": "ids"}}),
    ],
)
def test_ids_and_splits_that_are_texts_are_not_printed(task_of, tmp_path, rows, fields):
    import csv

    with (tmp_path / "all.csv").open("w") as stream:
        csv.writer(stream).writerows([("note", "label"), *ROWS, *rows])
    (tmp_path / "ids").write_text(f"{SECRET}\n")
    (tmp_path / "other").write_text("one\n")
    files = {"all": "all.csv"} if fields.keys() & {"split_column", "split_ratios", "split_ids"} else None
    files = files or dict.fromkeys(("train", "dev", "test"), "all.csv")
    task = task_of("sequence", splits=files, columns={"id": "note", "text": "note"}, **fields)
    with pytest.raises(DataError) as error:
        read_task(task, str(tmp_path))
    assert "Jane" not in str(error.value)
    assert "row" in str(error.value) or "line 1" in str(error.value)


class TestSplitIds:
    def files(self, tmp_path, train, dev, test):
        rows = [f"{n},text {n},{'ab'[n % 2]},{n // 2}.0" for n in range(10)]
        (tmp_path / "all.csv").write_text("\n".join(["id,text,label,patient", *rows]))
        for name, ids in {"train": train, "dev": dev, "test": test}.items():
            (tmp_path / f"{name}.txt").write_text("\n".join(ids))
        return {
            "splits": {"all": "all.csv"},
            "split_ids": {name: f"{name}.txt" for name in ("train", "dev", "test")},
            "columns": {"id": "id"},
        }

    def test_of_examples(self, task_of, tmp_path):
        fields = self.files(tmp_path, ["0", "1.0", " 2", "", "3\r"], ["4", "5"], ["6", "7", "8"])
        data = read_task(task_of("sequence", **fields), str(tmp_path))
        assert [[e.id for e in data.splits[split]] for split in data.splits] == [
            ["0", "1", "2", "3"],
            ["4", "5"],
            ["6", "7", "8"],
        ]
        assert data.findings.rejected == {"in no file of split_ids": 1}

    def test_of_patients(self, task_of, tmp_path):
        fields = self.files(tmp_path, ["0", "4"], ["1"], ["2.0", "3"])
        data = read_task(task_of("sequence", **fields, group_column="patient"), str(tmp_path))
        assert [e.id for e in data.splits["train"]] == ["0", "1", "8", "9"]
        assert [len(members) for members in data.splits.values()] == [4, 2, 4]

    def test_an_id_for_two_splits_is_refused(self, task_of, tmp_path):
        fields = self.files(tmp_path, ["0", "1"], ["2"], ["3", "1.0"])
        with pytest.raises(DataError, match=r"test\.txt line 2 names an id that is at .*train\.txt line 2 too"):
            read_task(task_of("sequence", **fields), str(tmp_path))

    def test_ids_of_no_example_are_refused_or_counted(self, task_of, tmp_path):
        fields = self.files(tmp_path, ["subject_id", "0", "1"], ["2"], ["3", "004"])
        with pytest.raises(DataError, match=r"train\.txt line 1: id of no example"):
            read_task(task_of("sequence", **fields), str(tmp_path))
        data = read_task(task_of("sequence", **fields, on_error="skip"), str(tmp_path))
        assert data.findings.rejected["id of no example"] == 2


class TestWhatASplitLacks:
    """Refused before anything is trained: each epoch would score the same, or the test at the end not at all."""

    def read(self, task, tmp_path):
        data = read_task(task, str(tmp_path))
        check_use(data)
        return data

    @pytest.mark.parametrize("split", ["train", "dev", "test"])
    def test_no_text_has_any_of_several_labels(self, task_of, tmp_path, split):
        files = write(tmp_path, **({one: ROWS for one in ("train", "dev", "test")} | {split: [("none here", "")]}))
        with pytest.raises(DataError, match=f"no text of split {split} has a label.* split otherwise"):
            self.read(task_of("sequence", **files, multi_label=True), tmp_path)

    @pytest.mark.parametrize("split", ["dev", "test"])
    def test_a_ranking_of_one_label_alone_is_none(self, task_of, tmp_path, split):
        files = write(tmp_path, **({one: ROWS for one in ("train", "dev", "test")} | {split: ROWS[:1]}))
        for metric in ("roc_auc", "average_precision", "sensitivity_at_0.9"):
            with pytest.raises(DataError, match=f"metric {metric} needs .* label 'a' is in all of split {split}"):
                self.read(task_of("sequence", **files, metric=metric), tmp_path)
        judged = self.read(task_of("sequence", **files), tmp_path)
        assert judged.task.metric is None
        alone = "all 1 texts of dev have label 'a': whichever model always answers it is best there"
        assert judged.findings.remarks == ([alone] if split == "dev" else [])

    def test_a_ranking_of_several_labels_needs_each_of_them(self, task_of, tmp_path):
        files = write(tmp_path, train=ROWS, dev=ROWS, test=[("three", "a;b"), ("four", "b")])
        with pytest.raises(DataError, match=r"metric roc_auc .* label 'b' is in all of split test"):
            self.read(task_of("sequence", **files, multi_label=True, metric="roc_auc"), tmp_path)
        write(tmp_path, test=[("three", "a"), ("four", "")])
        with pytest.raises(DataError, match=r"metric roc_auc .* label 'b' is in none of split test"):
            self.read(task_of("sequence", **files, multi_label=True, metric="roc_auc"), tmp_path)
        assert self.read(task_of("sequence", **files, multi_label=True), tmp_path).labels == ("a", "b")

    @pytest.mark.parametrize("split", ["train", "dev", "test"])
    def test_no_text_has_an_entity(self, task_of, tmp_path, split):
        for one in ("train", "dev", "test"):
            (tmp_path / f"{one}.bio").write_text("No\tO\npain\tO\n" if one == split else "No\tO\npain\tB-Sign\n")
        files = {one: f"{one}.bio" for one in ("train", "dev", "test")}
        with pytest.raises(DataError, match=f"split {split} has no entity"):
            self.read(task_of("tokens", format="bio", splits=files), tmp_path)


def test_a_text_with_zero_bytes_is_read_as_it_is_and_remarked_on(task_of, tmp_path):
    """As 14 reports of TCGA are; offsets count the bytes."""
    for split in "abc":
        (tmp_path / split).mkdir()
        (tmp_path / split / "n.txt").write_text(f"{split} No \0 pain")
        (tmp_path / split / "n.ann").write_text("T1\tSign 7 11\tpain\n")
    data = read_task(task_of("tokens"), str(tmp_path))
    [example] = data.splits["train"]
    assert (example.text, example.entities) == ("a No \0 pain", (Entity(7, 11, "Sign"),))
    assert "3 texts hold zero bytes, which predict refuses: export them anew" in " ".join(data.findings.remarks)


@pytest.mark.parametrize("label", ["a\0", "a\x01b", "a\tb"])
def test_a_control_character_in_a_label_is_none(task_of, tmp_path, label):
    (tmp_path / "n.jsonl").write_text(
        "".join(json.dumps({"text": f"t{n}", "label": label if n % 2 else "b"}) + "\n" for n in range(12))
    )
    task = task_of("sequence", splits={"all": "n.jsonl"}, split_ratios=(0.4, 0.3, 0.3))
    with pytest.raises(DataError, match="holds zero bytes" if "\0" in label else "another control character"):
        read_task(task, str(tmp_path))
