"""The open tasks of the catalog on the public data itself; skipped where it is not beside the repository.

Expected numbers are those of the data's own README.
"""

from collections import Counter

import pytest

from clinscale.tasks import load_task, read_task


@pytest.fixture
def read(real_data):
    def read(task, folder, *changes):
        found = read_task(load_task(task, list(changes)), f"{real_data(folder)}/{folder}")
        return found, {split: len(examples) for split, examples in found.splits.items()}

    return read


def all_examples(found):
    return [example for examples in found.splits.values() for example in examples]


def test_openi_findings_counts_each_finding_over_all_reports(read):
    found, sizes = read("openi_findings", "openi_indiana")
    assert found.findings.found == {
        "documents": 3851,
        "Open-i reports": 3851,
        "Open-i reports with Cardiomegaly": 345,
        "Open-i reports with Atelectasis": 315,
        "Open-i reports with Pleural Effusion": 149,
        "Open-i reports with Edema": 42,
        "Open-i reports with Pneumonia": 40,
        "Open-i reports with Consolidation": 30,
        "Open-i reports with Pneumothorax": 22,
    }
    assert found.findings.rejected == {"Open-i: none of the wanted sections": 25, "Open-i: no human terms": 92}
    assert [remark[:43] for remark in found.findings.remarks] == ["2 texts hold tags or entities of HTML, such"]
    assert sum(sizes.values()) == 3851 - 25 - 92
    assert found.duplicates_across_splits == 0


def test_openi_findings_has_each_finding_in_dev_and_test(read):
    found, _ = read("openi_findings", "openi_indiana")
    for split in ("dev", "test"):
        seen = Counter(label for example in found.splits[split] for label in example.labels)
        assert min(seen[label] for label in found.labels) >= 3, split


@pytest.mark.parametrize(("premise", "over_512_words"), [("section", 181), ("record", 1340)])
def test_nli4ct_reads_all_statements(read, premise, over_512_words):
    found, sizes = read("nli4ct", "nli4ct", f"options.premise={premise}")
    assert found.findings.found == {"documents": 851, "train statements": 1700, "dev statements": 200}
    assert not found.findings.rejected
    assert not found.findings.remarks
    assert sizes == {"train": 1530, "dev": 170, "test": 200}
    assert found.duplicates_across_splits == 0
    official_train = [*found.splits["train"], *found.splits["dev"]]
    assert sum(len(example.text.split()) > 512 for example in official_train) == over_512_words


def test_evidence_inference_reads_all_judgements(read):
    found, sizes = read("evidence_inference", "evidence_inference")
    assert found.findings.found == {"documents": 250, "prompts": 751, "judgements": 1366}
    assert found.findings.rejected["judgement refuted"] == 77
    assert sum(sizes.values()) == 672
    assert found.duplicates == found.duplicates_across_splits == 0
    judgements, sizes = read(
        "evidence_inference", "evidence_inference", "options={judgements: each, refuted: true}"
    )
    assert sum(sizes.values()) == 1366
    assert Counter(label for example in all_examples(judgements) for label in example.labels) == {
        "no significant difference": 651,
        "significantly increased": 399,
        "significantly decreased": 316,
    }


def test_covid_qa_repairs_answers_that_are_off(read):
    found, sizes = read("covid_qa", "covid_qa")
    assert found.findings.found["questions"] == sum(sizes.values()) == 1067
    assert found.findings.found["contexts"] == 70
    assert found.findings.repaired["offset off by a few characters"] == 202
    assert not found.findings.rejected
    assert found.duplicates_across_splits == 0


def test_maccrobat_reads_all_annotations(read):
    found, sizes = read("maccrobat", "maccrobat2020")
    assert found.findings.found == {"documents": 160, "annotations": 19623, "discontinuous": 41}
    assert not found.findings.repaired
    assert sum(sizes.values()) == 160
    assert {entity.label for example in all_examples(found) for entity in example.entities} == set(found.labels)
    assert len(found.labels) == 41
    assert found.duplicates_across_splits == 0


def test_meddocan_is_the_same_in_both_forms(read):
    brat, sizes = read("meddocan", "meddocan")
    xml, _ = read("meddocan", "meddocan", "options.encoding=xml")
    assert brat.findings.found == xml.findings.found == {"documents": 250, "annotations": 5801}
    assert brat.findings.repaired == {"offset off by a few characters": 164}
    assert not brat.findings.rejected
    assert not xml.findings.rejected
    assert not xml.findings.repaired
    assert sum(len(example.entities) for example in all_examples(brat)) == 5801
    assert brat.fingerprint == xml.fingerprint
    assert sum(sizes.values()) == 250
    assert {entity.label for example in all_examples(brat) for entity in example.entities} == set(brat.labels)
    assert brat.duplicates_across_splits == 0


def test_ncbi_disease_keeps_its_official_splits(read):
    found, sizes = read("ncbi_disease", "ncbi_disease_bio")
    assert sizes == {"train": 5424, "dev": 923, "test": 940}
    assert found.findings.found == {"sentences": 7287, "entities": 6881}
    assert not found.findings.rejected


def test_mtsamples_never_splits_a_report(read):
    found, sizes = read("mtsamples_specialty", "mtsamples")
    assert found.findings.found == {
        "rows": 4999,
        "documents": 2358,
        "reports with several specialties": 2148,
    }
    assert found.findings.rejected == {"no transcription": 33}
    assert sum(sizes.values()) == 2358 - 1  # the empty one
    assert {label for example in all_examples(found) for label in example.labels} == set(found.labels)
    assert len(found.labels) == 40
    assert found.duplicates == found.duplicates_across_splits == 0


def test_tcga_organ_leaves_out_reports_without_text(read):
    found, sizes = read("tcga_organ", "tcga_pathology")
    assert found.findings.found["rows"] == 3938
    assert found.findings.rejected.total() == 277
    assert sum(sizes.values()) == 3938 - 277
    assert found.duplicates_across_splits == 0
