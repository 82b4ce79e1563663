"""The readers and the kinds on real public data; skipped where it is not beside the repository."""

import pytest

from clinscale.tasks import kind_of, load_task, read_task

RATIOS = (0.7, 0.1, 0.2)
WINDOWS = [(128, 64), (512, 128)]


def all_examples(data):
    return [example for examples in data.splits.values() for example in examples]


def test_maccrobat_is_read_whole_and_its_gold_comes_back(real_data, task_of, perfect, tokenizer_for):
    task = task_of("tokens", splits={"all": "maccrobat2020"}, split_ratios=RATIOS)
    data = read_task(task, real_data("maccrobat2020"))
    assert data.counts["annotations"] == 19623
    assert data.counts["discontinuous"] == 41
    assert "rejected" not in data.counts
    assert "repaired" not in data.counts
    assert len(data.labels) == 41
    assert len(all_examples(data)) == 160
    kind, sample = kind_of(task), data.splits["test"][:16]
    tokenizer = tokenizer_for(example.text for example in all_examples(data))
    for max_tokens, stride in WINDOWS:
        predictions = []
        for example in sample:
            windows = kind.windows(
                example, tokenizer, data.labels, max_tokens=max_tokens, stride_tokens=stride, train=True
            )
            predictions.append(kind.decode(example, windows, perfect(kind, windows, data.labels), data.labels))
        assert kind.score(sample, predictions, data.labels)["f1"] == 1.0


def test_meddocan_offsets_hold_for_spanish_text(real_data, task_of):
    task = task_of("tokens", splits={"all": "meddocan/brat"}, split_ratios=RATIOS)
    data = read_task(task, real_data("meddocan"))
    assert data.counts["annotations"] == 5801
    assert "rejected" not in data.counts
    assert sum(len(e.entities) for e in all_examples(data)) == 5801 - data.counts.get("nested", 0)


def test_ncbi_disease_is_read_whole(real_data, task_of):
    files = {
        split: f"ncbi_disease_bio/{name}.tsv"
        for split, name in zip(("train", "dev", "test"), ("train", "devel", "test"), strict=True)
    }
    data = read_task(task_of("tokens", format="bio", splits=files), real_data("ncbi_disease_bio"))
    assert {split: len(examples) for split, examples in data.splits.items()} == {
        "train": 5424,
        "dev": 923,
        "test": 940,
    }
    assert data.counts["sentences"] == 7287
    assert data.counts["entities"] == 6881  # as many as the files have B tags
    assert data.labels == ("Disease",)


def test_covid_qa_is_repaired_and_its_gold_comes_back(real_data, task_of, perfect, tokenizer_for):
    task = task_of("spans", splits={"all": "covid_qa"}, split_ratios=RATIOS, unanswerable=False)
    data = read_task(task, real_data("covid_qa"))
    assert len(all_examples(data)) == data.counts["questions"] == 1067
    assert data.counts["repaired"] == 202
    assert all(e.text[a.start : a.end] == a.text for e in all_examples(data) for a in e.answers)
    # An answer that begins or ends inside a word cannot be given by any tokenizer, nor one longer than the overlap
    # of windows in all of them.
    whole = [e for e in all_examples(data) if _is_whole(e) and len(e.answers[0].text) < 120]
    assert len(whole) > 600
    kind, sample = kind_of(task), whole[::40]
    tokenizer = tokenizer_for({example.text for example in all_examples(data)})
    for max_tokens, stride in WINDOWS:
        predictions = []
        for example in sample:
            windows = kind.windows(example, tokenizer, (), max_tokens=max_tokens, stride_tokens=stride, train=True)
            predictions.append(kind.decode(example, windows, perfect(kind, windows, ()), ()))
        assert kind.score(sample, predictions, ()) == {"f1": 1.0, "exact_match": 1.0}


def _is_whole(example):
    answer, text = example.answers[0], f" {example.text} "
    before, first = text[answer.start], text[answer.start + 1]
    last, after = text[answer.end], text[answer.end + 1]
    return not (before.isalnum() and first.isalnum()) and not (last.isalnum() and after.isalnum())


def test_tcga_organ_drops_empty_rows_and_never_splits_a_text(real_data):
    folder = real_data("tcga_pathology")
    data = read_task(load_task("tcga_organ"), f"{folder}/tcga_pathology")
    assert data.counts["empty"] == 277
    assert "shared_across_splits" not in data.counts
    assert len(all_examples(data)) == 3938 - 277
    assert data.labels == ("BRAIN", "CRC", "HEADnNECK", "KIDNEY", "LIVER", "PROSTATE")
    shares = [len(examples) / (3938 - 277) for examples in data.splits.values()]
    assert shares == pytest.approx(RATIOS, abs=0.01)
