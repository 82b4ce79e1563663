"""`clinscale tasks`: numbers and places, never a word of the notes."""

import json

import pytest

from clinscale.tasks import catalog, options_of

PAPER = {
    "mednli": "pair",
    "i2b2_2006": "tokens",
    "i2b2_2010": "tokens",
    "i2b2_2012": "tokens",
    "i2b2_2014": "tokens",
    "emrqa_medication": "spans",
    "emrqa_relation": "spans",
    "emrqa_heart_disease": "spans",
    "openi": "sequence",
    "mimic_aki": "sequence",
}
OPEN = {
    *("tcga_organ", "mtsamples_specialty", "openi_findings", "nli4ct", "evidence_inference"),
    *("covid_qa", "maccrobat", "meddocan", "ncbi_disease"),
}


def test_the_papers_ten_are_in_the_catalog_and_each_shape_has_an_open_counterpart():
    known = catalog()
    assert {name: known[name].kind for name in PAPER} == PAPER
    assert set(known) >= OPEN
    assert {known[name].kind for name in OPEN} == set(PAPER.values())
    assert all(known[name].about for name in known)
    assert all(known[name].labels for name, kind in PAPER.items() if kind != "spans")


@pytest.mark.parametrize("name", [*PAPER, *sorted(OPEN)])
def test_every_option_says_why_its_default_is_what_it_is(name):
    for option in options_of(catalog()[name]):
        assert len(option["why"].split()) >= 6, option["option"]


def test_what_is_found_is_one_document(demo_data, clinscale):
    shown = json.loads(clinscale("tasks", "show", "demo_entities", "--data", demo_data, "--json").stdout)
    assert {"task", "kind", "documents", "examples", "labels", "lengths", "rejected", "repaired"} <= set(shown)
    assert shown["documents"] == sum(shown["examples"].values())
    assert shown["duplicates_across_splits"] == 0
    assert shown["lengths"]["unit"] == "words"
    assert shown["lengths"]["median"] <= shown["lengths"]["p95"] <= shown["lengths"]["max"]


def test_lengths_in_tokens_are_those_of_the_models_tokenizer(demo_data, base_models, clinscale):
    arguments = ("tasks", "show", "demo_documents", "--data", demo_data, "--json")
    words = json.loads(clinscale(*arguments).stdout)["lengths"]
    tokens = json.loads(clinscale(*arguments, "--model", base_models["longformer"]).stdout)["lengths"]
    assert tokens["unit"] == "tokens"
    assert tokens["max"] > words["max"] > 512
    assert tokens["share_over_512"] > 0 == tokens["over_4096"]


@pytest.fixture
def broken(tmp_path):
    """A task of one's own with three faults in its file."""
    rows = [
        "id,note,readmitted,patient",
        *(f"{n},secret word {n},{'yes' if n % 2 else 'no'},p{n}" for n in range(30)),
    ]
    rows += ["30,,yes,p30", "3,secret again,no,p31", "31,secret more,,p32"]
    (tmp_path / "notes.csv").write_text("\n".join(rows))
    (tmp_path / "mine.yaml").write_text(
        "{name: mine, kind: sequence, format: records, splits: {all: notes.csv}, split_ratios: [0.6, 0.2, 0.2],"
        " columns: {id: id, text: note, label: readmitted}, group_column: patient}"
    )
    return tmp_path / "mine.yaml"


def test_a_check_finds_every_fault_and_names_its_row(broken, clinscale):
    checked = clinscale("tasks", "check", broken, "--json")
    assert checked.returncode == 2
    found = json.loads(checked.stdout)
    assert found["in_order"] is False
    assert found["rejected"] == {
        "column 'note' has no text": 1,
        "column 'readmitted' has no value": 1,
        "id occurs twice": 1,
    }
    assert {problem["where"].rsplit("/", 1)[-1] for problem in found["problems"]} == {
        "notes.csv row 31",
        "notes.csv row 33",
        "notes.csv row 32",
    }
    assert "secret" not in checked.stdout + checked.stderr
    people = clinscale("tasks", "check", broken)
    assert "row 31" in people.stdout
    assert "secret" not in people.stdout + people.stderr


def test_versions_of_one_note_in_two_splits_are_remarked_on(tmp_path, clinscale):
    words = [f"w{number}" for number in range(80)]
    for split, date in {"train": "2101-01-02", "dev": "2101-02-03", "test": "2101-03-04"}.items():
        other = " ".join(f"{split}{number}" for number in range(30))
        rows = [" ".join([*words[:40], date, *words[40:]]) + ",a", f"{other},b"]
        (tmp_path / f"{split}.csv").write_text("\n".join(["text,label", *rows]))
    (tmp_path / "mine.yaml").write_text(
        "{name: mine, kind: sequence, format: records, splits: {train: train.csv, dev: dev.csv, test: test.csv}}"
    )
    found = json.loads(clinscale("tasks", "check", tmp_path / "mine.yaml", "--json").stdout)
    assert [remark[:25] for remark in found["remarks"] if "of their phrases with one" in remark] == [
        "1 of 2 texts of dev share",
        "1 of 2 texts of test shar",
    ]
    assert found["duplicates_across_splits"] == 0


def test_faults_that_the_task_skips_are_in_order(broken, clinscale):
    checked = clinscale("tasks", "check", broken, "on_error=skip", "--json")
    assert checked.returncode == 0
    assert json.loads(checked.stdout)["in_order"] is True
    assert sum(json.loads(checked.stdout)["examples"].values()) == 30


def test_what_was_found_is_told_even_when_no_example_is_left(broken, clinscale):
    shown = clinscale(
        "tasks", "show", broken, "--data", broken.parent, "on_error=skip", "label_map.yes=null", "--json"
    )
    assert shown.returncode == 2
    assert "at least two labels are needed" in shown.stderr
    shown = clinscale(
        *("tasks", "show", broken, "--data", broken.parent, "--json", "on_error=skip"),
        *("label_map.yes=null", "label_map.no=null"),
    )
    assert shown.returncode == 2
    assert "split train" in shown.stderr
    found = json.loads(shown.stdout)
    assert found["rejected"]["label mapped to null"] == 30
    assert "has no example" in found["error"]


def test_baselines_come_with_their_intervals(demo_data, clinscale):
    found = json.loads(clinscale("tasks", "baseline", "demo_pairs", "--data", demo_data, "--json").stdout)
    trivial, classical = found["baselines"]
    assert trivial["accuracy"] < classical["accuracy"]
    assert classical["low"] <= classical["accuracy"] <= classical["high"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tasks", "show", "demo_entitis"), "did you mean demo_entities"),
        (("tasks", "show", "demo_entities", "unitt=line"), "did you mean unit"),
        (("tasks", "show", "demo_entities", "--data", "/no/where"), "/no/where does not exist"),
        (("tasks", "check", "/no/where.yaml"), "/no/where.yaml does not exist"),
        (("tasks", "show", "mimic_aki", "options.criterion=urine"), "options"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(arguments, message, clinscale):
    answered = clinscale(*arguments)
    assert message in answered.stderr
    assert "Traceback" not in answered.stderr
    assert answered.returncode == 2


def test_a_check_that_rejects_everything_says_why(tmp_path, clinscale):
    task = "name: t\nkind: sequence\nformat: records\nsplits: {all: n.csv}\nsplit_ratios: [0.6, 0.2, 0.2]\n"
    (tmp_path / "t.yaml").write_text(task)
    (tmp_path / "n.csv").write_text("text,label\n" + "Patient fell,\n" * 4)
    checked = clinscale("tasks", "check", tmp_path / "t.yaml", "--json")
    assert checked.returncode == 2
    told = json.loads(checked.stdout)
    assert not told["in_order"]
    assert [problem["where"].rsplit("/")[-1] for problem in told["problems"]] == [
        f"n.csv row {n}" for n in (1, 2, 3, 4)
    ]
    assert "label" in told["problems"][0]["what"]
    assert "split train" in told["error"]
    skipping = clinscale("tasks", "check", tmp_path / "t.yaml", "on_error=skip")
    assert skipping.returncode == 2
    assert "has no example" in " ".join(skipping.stdout.split())


def test_a_check_without_any_entity_says_what_was_rejected_and_what_to_do(tmp_path, clinscale):
    task = "name: t\nkind: tokens\nformat: records\nsplits: {all: n.jsonl}\nsplit_ratios: [0.4, 0.3, 0.3]\n"
    (tmp_path / "t.yaml").write_text(f"{task}columns: {{entities: label}}\n")
    rows = [{"text": f"Pain {number}", "label": [[0, 4, "Sign"]]} for number in range(9)]
    (tmp_path / "n.jsonl").write_text("\n".join(map(json.dumps, rows)))
    checked = clinscale("tasks", "check", tmp_path / "t.yaml", "--json")
    assert checked.returncode == 2
    told = json.loads(checked.stdout)
    assert told["rejected"] == {"entity without start, end and label": 9}
    assert "no entity in any split" in told["error"]
    assert "label: Drug}" in told["fixes"]["entity without start, end and label"]


@pytest.mark.parametrize(
    ("name", "scorer"), [("i2b2_2014", "i2b2_2014"), ("meddocan", "meddocan"), ("mednli", "scikit-learn")]
)
def test_show_names_the_official_scorer(clinscale, name, scorer):
    shown = json.loads(clinscale("tasks", "show", name, "--json").stdout)
    assert shown["scorer"] == scorer
    assert shown["scores_equal"]
