"""Open-i and MIMIC-CXR as they lie on disk after unpacking, with invented reports."""

import csv
import gzip

import pytest

from clinscale.errors import DataError
from clinscale.tasks import load_task, read_task
from clinscale.tasks.distributions.mimic_cxr import report_text

SEVEN = ("Cardiomegaly", "Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion")
CHEXPERT = [
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
]

REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (INVENTED)
 
 INDICATION:  ___ year old, invented
 
 FINDINGS: 
 
 {findings}
 The wires are where
 they were.
 
 IMPRESSION: 
 
 {impression}
"""  # noqa: W291, W293 - as the files are

SPLIT = {10: "train", 11: "train", 12: "train", 13: "validate", 14: "test", 15: "train"}


def study(number):
    return f"500000{number}"


def patient(number):
    return f"1{number // 2:07}"


@pytest.fixture
def data(tmp_path):
    """Five reports and six studies of MIMIC-CXR, two images of each, and Open-i as XML."""
    cxr, jpg, xml = tmp_path / "mimic-cxr", tmp_path / "mimic-cxr-jpg", tmp_path / "openi" / "ecgen-radiology"
    jpg.mkdir()
    xml.mkdir(parents=True)
    for number in SPLIT:
        folder = cxr / "files" / f"p{patient(number)[:2]}" / f"p{patient(number)}"
        folder.mkdir(parents=True, exist_ok=True)
        if number != 15:
            text = REPORT.format(findings=f"Heart {number}.", impression=f"Read {number}.")
            (folder / f"s{study(number)}.txt").write_text(text)
    with gzip.open(jpg / "mimic-cxr-2.0.0-split.csv.gz", "wt", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["dicom_id", "study_id", "subject_id", "split"])
        rows.writerows(
            [f"image-{number}-{view}", study(number), patient(number), split]
            for number, split in SPLIT.items()
            for view in "ab"
        )
    write_labels(
        jpg / "mimic-cxr-2.0.0-chexpert.csv.gz",
        {
            10: {"Cardiomegaly": "1.0", "Edema": "-1.0", "Pneumonia": "0.0", "Fracture": "1.0"},
            11: {"No Finding": "1.0"},
            12: {"Edema": "2.0"},
            13: {"Pneumothorax": "1.0"},
            14: {"Edema": "1.0"},
            15: {"Edema": "1.0"},
        },
    )
    write_labels(jpg / "mimic-cxr-2.0.0-negbio.csv.gz", {10: {"Edema": "0.0"}, 13: {}})
    write_xml(xml / "1.xml", ["normal"], findings="Lungs are clear.", impression="Normal.")
    write_xml(xml / "2.xml", ["Cardiomegaly/mild", "Pulmonary Atelectasis/base/left ", "Fractures, Bone/healed"])
    write_xml(xml / "3.xml", ["Pleural effusion", "Hydropneumothorax/right"], findings=None)
    write_xml(xml / "4.xml", ["No Indexing"], image=False)
    write_xml(xml / "5.xml", ["Pneumonia"], findings="", impression=None)
    write_xml(xml / "17.xml", ["Pulmonary Edema/severe", "Technical Quality of Image Unsatisfactory "])
    return tmp_path


def write_labels(path, labels):
    with gzip.open(path, "wt", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["subject_id", "study_id", *CHEXPERT])
        rows.writerows(
            [patient(number), study(number), *(values.get(label, "") for label in CHEXPERT)]
            for number, values in labels.items()
        )


def write_xml(path, terms, *, findings="The XXXX is large.", impression="As before.", image=True):
    def section(label, text):
        return "" if text is None else f'<AbstractText Label="{label}">{text}</AbstractText>'

    number = path.stem
    path.write_text(
        f"""<?xml version="1.0" encoding="utf-8"?>
<eCitation>
  <uId id="CXR{number}"/> <pmcId id="{number}"/> <IUXRId id="{number}"/>
  <MedlineCitation><Article><Abstract>
    <AbstractText Label="COMPARISON">None.</AbstractText>
    <AbstractText Label="INDICATION">Invented XXXX-year-old.</AbstractText>
    {section("FINDINGS", findings)}
    {section("IMPRESSION", impression)}
  </Abstract></Article></MedlineCitation>
  <MeSH>
    {"".join(f"<major>{term}</major>" for term in terms)}
    <automatic>consolidation</automatic>
  </MeSH>
  {f'<parentImage id="CXR{number}_1"><figureId>F1</figureId></parentImage>' if image else ""}
</eCitation>
""",
        encoding="utf-8",
    )


def write_csv(folder):
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "indiana_reports.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["uid", "MeSH", "Problems", "image", "indication", "comparison", "findings", "impression"])
        rows.writerow([1, "normal", "normal", "PA", "Pain", "None", "Lungs are clear.", "Normal."])
        rows.writerow(
            [2, "Cardiomegaly/mild;Pulmonary Atelectasis/base/left", "Cardiomegaly", "PA", "", "", "A, b.", ""]
        )
        rows.writerow([3, "No Indexing", "No Indexing", "PA", "", "", "Lungs are clear.", "Nothing."])
        rows.writerow([4, "Pneumonia", "Pneumonia", "PA", "", "", "", ""])
    (folder / "indiana_projections.csv").write_text("uid,filename,projection\n1,1.png,Frontal\n")


def read(data, *changes):
    return read_task(load_task("openi", list(changes)), str(data))


def labels_of(examples):
    return {example.id: example.labels for example in examples}


def test_mimic_cxr_trains_and_open_i_tests(data):
    found = read(data)
    assert found.labels == SEVEN
    assert labels_of(found.splits["train"]) == {"s50000010": ("Cardiomegaly", "Edema"), "s50000011": ()}
    assert labels_of(found.splits["dev"]) == {"s50000013": ("Pneumothorax",)}
    assert labels_of(found.splits["test"]) == {
        "CXR1": (),
        "CXR17": ("Edema",),
        "CXR2": ("Cardiomegaly", "Atelectasis"),
        "CXR3": ("Pleural Effusion",),
    }
    assert found.splits["train"][0].text == "Heart 10. The wires are where they were. Read 10."
    assert found.splits["train"][0].group == "10000005"
    assert found.splits["test"][0].text == "Lungs are clear. Normal."


def test_what_is_left_out_is_counted(data):
    findings = read(data).findings
    assert findings.rejected == {
        "MIMIC-CXR: of the test split": 1,
        "MIMIC-CXR: no report": 1,
        "MIMIC-CXR: label is not 1.0, 0.0, -1.0 or blank": 1,
        "Open-i: none of the wanted sections": 1,
        "Open-i: no human terms": 1,
    }
    assert findings.found["MIMIC-CXR reports"] == 5
    assert findings.found["MIMIC-CXR labelled studies"] == 6
    assert findings.found["Open-i reports"] == 6
    assert findings.found["Open-i reports with Pneumonia"] == 1, "the report without text is counted too"
    assert "MIMIC-CXR reports: found 5, MIMIC-CXR 2.0.0 has 227,835" in findings.remarks


@pytest.mark.parametrize(
    ("uncertain", "expected"),
    [
        ("positive", {"s50000010": ("Cardiomegaly", "Edema"), "s50000011": ()}),
        ("negative", {"s50000010": ("Cardiomegaly",), "s50000011": ()}),
        ("drop", {"s50000011": ()}),
    ],
)
def test_an_uncertain_label_is_what_the_option_says(data, uncertain, expected):
    assert labels_of(read(data, f"options.uncertain={uncertain}").splits["train"]) == expected


def test_the_other_labeler_can_be_chosen(data):
    assert labels_of(read(data, "options.labeler=negbio").splits["train"]) == {"s50000010": ()}


def test_reports_that_nobody_coded_can_count_as_negative(data):
    found = read(data, "options.uncoded=negative")
    assert labels_of(found.splits["test"])["CXR4"] == ()


def test_one_section_alone_can_be_read(data):
    found = read(data, "options.sections=[impression]")
    assert found.splits["train"][0].text == "Read 10."
    assert {example.id: example.text for example in found.splits["test"]}["CXR1"] == "Normal."


def test_labels_may_lie_beside_the_reports_and_unpacked(data):
    before = read(data).fingerprint
    for packed in (data / "mimic-cxr-jpg").iterdir():
        (data / "mimic-cxr" / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    assert read(data).fingerprint == before


def test_missing_parts_are_named_with_the_next_step(data, tmp_path):
    (data / "mimic-cxr-jpg" / "mimic-cxr-2.0.0-split.csv.gz").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"mimic-cxr-2\.0\.0-split\.csv\.gz.*options\.mimic_cxr_jpg"):
        read(data)
    (data / "openi" / "ecgen-radiology").rename(tmp_path / "moved")
    with pytest.raises(DataError, match=r"ecgen-radiology.*NLMCXR_reports\.tgz"):
        read(data)


def test_the_csv_is_read_like_the_xml(data, tmp_path):
    write_csv(tmp_path / "other")
    found = read(data, "options.openi=other")
    assert labels_of(found.splits["test"]) == {"CXR1": (), "CXR2": ("Cardiomegaly", "Atelectasis")}
    assert found.splits["test"][1].text == "A, b."
    assert found.findings.rejected["Open-i: no human terms"] == 1


def test_a_broken_xml_is_rejected_by_its_line(data):
    (data / "openi" / "ecgen-radiology" / "2.xml").write_text("<eCitation>\n<MeSH>\n")
    findings = read(data).findings
    assert findings.places["Open-i: malformed XML"][0].endswith("2.xml line 3")


def test_open_i_alone_is_split_by_text(tmp_path):
    folder = tmp_path / "ecgen-radiology"
    folder.mkdir()
    for number in range(60):
        write_xml(folder / f"{number}.xml", ["Pneumonia"], findings=f"Invented {number % 40}.")
    found = read_task(load_task("openi_findings"), str(tmp_path))
    assert sum(map(len, found.splits.values())) == 60
    assert found.duplicates == 20
    assert found.duplicates_across_splits == 0


def test_the_prepared_csv_of_the_papers_pipeline_needs_no_code(tmp_path):
    for split in ("train", "dev", "test"):
        lines = [f",{','.join(SEVEN)},TXT", "0,0.0,1.0,0.0,0.0,0.0,0.0,1.0,some invented edema"]
        (tmp_path / f"{split}.csv").write_text("\n".join(lines))
    changes = {
        "format": "records",
        "splits": {"train": "train.csv", "dev": "dev.csv", "test": "test.csv"},
        "columns": {"text": "TXT", "labels": SEVEN},
    }
    found = read_task(load_task("openi", changes), str(tmp_path))
    assert found.splits["train"][0].labels == ("Edema", "Pleural Effusion")


BOTH = ("findings", "impression")


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ("\n FINDINGS:  One.\n \n CONCLUSION:  Two.\n", "One. Two."),
        ("\n CHEST, TWO VIEWS:  One.\n", "One."),
        ("\n CHEST, PA LATERAL:\n \n INDICATION:  None.\n \n IMPRESSION:  Two.\n", "Two."),
        ("\n ADDENDUM  \n \n IMPRESSION:  Old.\n ______\n FINAL REPORT\n \n IMPRESSION:  New.\n", "New."),
        ("\n COMPARISON CHEST FILM:  None.\n \n Heart.\n \n Lungs.\n", "Heart. Lungs."),
        ("   FINAL REPORT\n \n Heart.\n \n Lungs.\n", "Heart. Lungs."),
        ("\n INDICATION:  Pain.\n \n Heart.\n \n IMPRESSION: \n", "Heart."),
        ("\n IMPRESSOIN:  Two. NOTE: three\n", "Two. NOTE: three"),
        ("\n INDICATION:  Pain.\n", ""),
    ],
    ids=["conclusion", "view", "title", "addendum", "comparison", "no-heading", "empty", "misspelt", "nothing"],
)
def test_sections_are_cut_as_for_the_labelers(report, expected):
    assert report_text(report, BOTH) == expected
