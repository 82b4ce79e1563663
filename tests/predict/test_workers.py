"""Prediction on a Ray cluster: the answers of one process, in the order of the documents, whatever dies."""

import contextlib
import json
import os
import signal
import time

import forked_ray
import psutil
import pytest

from clinscale import corpus, models
from clinscale.errors import CapacityError, DataError
from clinscale.predict import TaskCard, predict_files
from clinscale.tasks import kind_of, load_task, read_task

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def folder(base_models, demo_data, tmp_path_factory):
    """An untrained BigBird that finds entities."""
    task = load_task("demo_entities")
    labels = read_task(task, str(demo_data)).labels
    model = models.load_hf(base_models["bigbird"], head="tokens", labels=kind_of(task).output_names(labels))
    made = models.save_hf(
        model, corpus.load_tokenizer(base_models["bigbird"]), tmp_path_factory.mktemp("entities") / "hf"
    )
    TaskCard(task=task, labels=labels, max_tokens=128, stride_tokens=16).write(made)
    return made


@pytest.fixture(scope="module")
def files(demo_data, tmp_path_factory):
    """Sixty documents of very different lengths, and one without text, in a table and two text files."""
    made = tmp_path_factory.mktemp("files")
    texts = [example.text for example in read_task(load_task("demo_entities"), str(demo_data)).splits["train"]]
    rows = [{"id": f"d{number}", "text": texts[number % len(texts)][: 40 + 37 * number]} for number in range(58)]
    rows.insert(30, {"id": "blank", "text": " "})
    (made / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number in range(2):
        (made / f"note{number}.txt").write_text(texts[number])
    return [str(made / "rows.jsonl"), str(made / "note0.txt"), str(made / "note1.txt")]


@pytest.fixture(scope="module")
def in_one_process(folder, files, tmp_path_factory):
    out = tmp_path_factory.mktemp("one") / "out.jsonl"
    predict_files(folder, files, out, on_error="skip")
    return rounded(out)


def rounded(path):
    """The lines of a file, scores to six places: what else a batch holds may change their last bits."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        for one in line.get("entities", ()):
            one["score"] = round(one["score"], 6)
    return lines


def workers_of():
    """Processes in which Ray Data's actors live."""
    found = []
    for one in [*psutil.Process().children(recursive=True), *forked_ray.forks()]:
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            found += [one] if "MapWorker" in " ".join(one.cmdline()) else []
    return found


def test_answers_are_those_of_one_process_even_when_a_worker_is_killed(
    folder, files, in_one_process, ray_cluster, tmp_path
):
    told = []
    killed = []

    def on_progress(done, total, windows):
        told.append((done, total))
        if not killed:
            killed.append(workers_of()[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    out = tmp_path / "out.jsonl"
    how = {"num_workers": 2, "cluster": ray_cluster}
    tally = predict_files(folder, files, out, on_error="skip", on_progress=on_progress, **how)
    assert killed
    assert (tally.documents, tally.errors) == (61, 1)
    assert told[-1] == (61, 61)
    assert len(told) > 4
    assert rounded(out) == in_one_process


def test_a_bad_row_is_named_before_any_work_and_leaves_no_file(folder, files, ray_cluster, tmp_path):
    bad = tmp_path / "bad.csv"
    bad.write_text("id,text\n1,canary\n2, \n")
    with pytest.raises(DataError, match=r"bad\.csv row 2: column 'text' has no text"):
        predict_files(folder, [str(bad), *files], tmp_path / "out.jsonl", num_workers=2, cluster=ray_cluster)
    with pytest.raises(CapacityError, match="3 workers need a CPU each, this machine has 2; lower --workers"):
        predict_files(folder, files, tmp_path / "out.jsonl", num_workers=3, cluster=ray_cluster)
    assert list(tmp_path.iterdir()) == [bad]


def test_ctrl_c_leaves_no_half_file_and_no_worker(folder, files, ray_cluster, tmp_path):
    def on_progress(done, total, windows):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_files(
            folder,
            files,
            tmp_path / "out.jsonl",
            on_error="skip",
            num_workers=1,
            cluster=ray_cluster,
            on_progress=on_progress,
        )
    assert list(tmp_path.iterdir()) == []
    end = time.monotonic() + 30
    while workers_of() and time.monotonic() < end:
        time.sleep(0.1)
    assert workers_of() == []
