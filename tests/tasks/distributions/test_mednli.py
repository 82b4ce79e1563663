"""MedNLI as PhysioNet ships it: three files of JSON lines, with parses that nobody needs."""

import json

import pytest

from clinscale.errors import DataError
from clinscale.tasks import Findings, load_task, read_task

FOLDER = "mednli-a-natural-language-inference-dataset-for-the-clinical-domain-1.0.0"


def pair(number, label="neutral", premise="History of knee pain .", hypothesis="The patient plays chess"):
    return {
        "pairID": f"inv-{number}",
        "gold_label": label,
        "sentence1": premise,
        "sentence2": hypothesis,
        "sentence1_parse": "(ROOT)",
        "sentence2_parse": "(ROOT)",
        "sentence1_binary_parse": "( )",
        "sentence2_binary_parse": "( )",
    }


def lines(pairs):
    return "".join(json.dumps(pair) + "\n" for pair in pairs)


def triple(first):
    """One premise with its three hypotheses."""
    labels = ("entailment", "contradiction", "neutral")
    premise = f"On [**2101-1-{first}**] he had a stent placed ."
    return [pair(first + n, label, premise, f"Statement {first + n}") for n, label in enumerate(labels)]


@pytest.fixture
def release(tmp_path):
    """Write the three files, some of them with other content, and give the folder."""

    def write(below="", **contents):
        folder = tmp_path / below
        folder.mkdir(exist_ok=True)
        for start, split in enumerate(("train", "dev", "test")):
            content = contents.get(split, lines(triple(10 * start)))
            if content is not None:
                data = content if isinstance(content, bytes) else content.encode()
                (folder / f"mli_{split}_v1.jsonl").write_bytes(data)
        return str(tmp_path)

    return write


def read(folder, **changes):
    return read_task(load_task("mednli"), folder, **changes)


def test_the_official_split_is_read_with_the_premise_as_text_and_group(release):
    data = read(release())
    example = data.splits["dev"][0]
    assert (example.id, example.text_pair, example.labels) == ("inv-10", "Statement 10", ("entailment",))
    assert example.text == example.group == "On [**2101-1-10**] he had a stent placed ."
    assert [len(data.splits[split]) for split in ("train", "dev", "test")] == [3, 3, 3]


def test_the_labels_have_the_order_of_clinicalberts_code(release):
    assert read(release()).labels == ("contradiction", "entailment", "neutral")


def test_the_folder_of_the_zip_may_lie_in_the_one_that_is_given(release):
    assert len(read(release(below=FOLDER)).splits["test"]) == 3


def test_sizes_that_are_not_the_releases_are_remarked(release):
    assert read(release()).findings.remarks == [
        "train pairs: found 3, MedNLI 1.0.0 has 11,232",
        "dev pairs: found 3, MedNLI 1.0.0 has 1,395",
        "test pairs: found 3, MedNLI 1.0.0 has 1,422",
    ]


def test_the_full_release_gives_no_remark(release):
    sizes = {"train": 11_232, "dev": 1_395, "test": 1_422}
    starts = {"train": 0, "dev": 100_000, "test": 200_000}
    files = {s: lines(p for n in range(size // 3) for p in triple(starts[s] + 3 * n)) for s, size in sizes.items()}
    findings = read(release(**files)).findings
    assert findings.remarks == []
    assert findings.found == {f"{split} pairs": size for split, size in sizes.items()}


def test_texts_that_a_copy_of_the_release_changed_are_remarked_on(release):
    garbled = pair(0, premise="Temp 39\u00c2\u00b0C .", hypothesis="The patient &amp; his wife")
    cut = [pair(3 + n, premise=f"Stent {n} ".ljust(255, "x")) for n in range(3)]
    remarks = read(release(train=lines([garbled, *cut]))).findings.remarks
    for words in ("1 texts hold letters that were read in another", "1 texts hold tags or entities of HTML"):
        assert any(one.startswith(words) and "compare them with the files as published" in one for one in remarks)
    assert "3 texts have 255 characters, and none has more: were they cut at export?" in remarks


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(release):
    plain = read(release()).fingerprint
    content = b"\xef\xbb\xbf" + lines(triple(0)).replace("\n", "\r\n").encode()
    assert read(release(train=content)).fingerprint == plain


def test_a_malformed_line_is_named_by_its_number_and_skipped(release):
    folder = release(train=lines(triple(0)) + '{"pairID": "inv-9", "sentence1": "Secret\n')
    data = read(folder)
    assert len(data.splits["train"]) == 3
    assert data.findings.places["not a JSON object"] == [f"{folder}/mli_train_v1.jsonl line 4"]
    with pytest.raises(DataError, match="line 4: not a JSON object") as error:
        read(folder, findings=Findings("raise"))
    assert "Secret" not in str(error.value)


def test_a_pair_on_which_nobody_agreed_is_rejected(release):
    findings = read(release(dev=lines([*triple(10), pair(19, label="-")]))).findings
    assert findings.rejected == {"gold_label is none of contradiction, entailment, neutral": 1}


def test_an_empty_sentence_is_rejected(release):
    findings = read(release(dev=lines([*triple(10), pair(19, hypothesis=" ")]))).findings
    assert findings.rejected == {"pairID, sentence1 or sentence2 is empty": 1}


def test_a_repeated_pair_id_is_rejected(release):
    findings = read(release(dev=lines([*triple(10), pair(10, hypothesis="Another")]))).findings
    assert findings.rejected == {"id occurs twice": 1}


def test_a_missing_test_file_is_named(release):
    with pytest.raises(DataError, match=r"mli_test_v1\.jsonl does not exist"):
        read(release(test=None))


def test_a_zip_that_is_still_packed_is_named(tmp_path):
    (tmp_path / f"{FOLDER}.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=rf"unpack .*{FOLDER}\.zip"):
        read(str(tmp_path))


def test_a_folder_of_something_else_is_told_what_is_expected(tmp_path):
    (tmp_path / "mednli_bionlp19_shared_task.jsonl").write_text(lines(triple(0)))
    with pytest.raises(DataError, match=r"mli_train_v1\.jsonl, mli_dev_v1\.jsonl, mli_test_v1\.jsonl"):
        read(str(tmp_path))


def test_the_405_pairs_of_mediqa_are_refused_even_under_the_name_of_the_test_set(release):
    content = lines(p for n in range(135) for p in triple(3 * n))
    with pytest.raises(DataError, match="405 pairs, as MEDIQA 2019 does"):
        read(release(test=content))
