"""Answers depend on the document alone: not on its neighbours, the batch size, or who loads the folder."""

import shutil
import threading
from dataclasses import replace

import pandas
import pytest
import torch

from clinscale import held, models
from clinscale.errors import ChangedDataError, DataError, DivergenceError
from clinscale.predict import Inputs, Predictor, load_predictor, predict_files

TASKS = ("demo_documents", "demo_pairs", "demo_entities", "demo_questions")


def numbers(prediction):
    """All numbers of a prediction in a fixed order, and all else of it."""
    flat = pandas.json_normalize(prediction, sep="/").to_dict("records")[0]
    entities = flat.pop("entities", [])
    flat |= {f"{number}/{key}": value for number, one in enumerate(entities) for key, value in one.items()}
    floats = {key: value for key, value in flat.items() if isinstance(value, float)}
    return floats, {key: str(value) for key, value in flat.items() if key not in floats}


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
@pytest.mark.parametrize("task", TASKS)
def test_an_answer_does_not_depend_on_its_neighbours(task, family, folders, documents):
    """BigBird's last block is global, so that padding to a longer neighbour would change what it attends to."""
    examples = documents(task)
    together = load_predictor(folders(task, family), batch_size=8).predict(examples)
    alone = load_predictor(folders(task, family), batch_size=1)
    backwards = load_predictor(folders(task, family), batch_size=3).predict(examples[::-1])[::-1]
    assert len({str(answer) for answer in together}) > 1, "the model answers everything alike"
    for number, example in enumerate(examples):
        floats, rest = numbers(alone.predict([example])[0])
        for other in (together[number], backwards[number]):
            assert numbers(other)[0] == pytest.approx(floats, abs=1e-4)
            assert numbers(other)[1] == rest


def test_bigbird_shares_batches_between_lengths_only_where_padding_is_not_computed(folders, documents):
    folder, batches, answers = folders("demo_documents", "bigbird"), {}, {}
    for attention in ("exact", "hf"):
        batches[attention] = []
        predictor = load_predictor(folder, batch_size=8, attention=attention)
        answers[attention] = predictor.predict(documents("demo_documents"), batches[attention].append)
    assert batches["exact"] == [8]
    assert len(batches["hf"]) > 4
    for exact, hf in zip(answers["exact"], answers["hf"], strict=True):
        assert exact["scores"] == pytest.approx(hf["scores"], abs=1e-4)


def test_bf16_answers_are_a_little_off(folders, documents):
    folder, examples = folders("demo_documents", "longformer"), documents("demo_documents")
    half = load_predictor(folder, precision="bf16").predict(examples)
    assert load_predictor(folder, precision="bf16").model.dtype == torch.bfloat16
    for answer, full in zip(half, load_predictor(folder).predict(examples), strict=True):
        assert answer["scores"] != full["scores"]
        assert answer["scores"] == pytest.approx(full["scores"], abs=0.05)


class EveryMark(torch.nn.Module):
    """A token model that tags the tokens of one id as a one-token entity, wherever in its window they are."""

    def __init__(self, model, token_id, outputs):
        super().__init__()
        self.config, self.token_id, self.outputs = model.config, token_id, outputs
        self.device = torch.device("cpu")

    def forward(self, input_ids, **_):
        chosen = torch.where(input_ids == self.token_id, 1, 0)
        return {"logits": 20.0 * torch.nn.functional.one_hot(chosen, self.outputs)}


def test_long_documents_are_read_to_their_end_and_nothing_is_told_twice(folders, documents):
    trained = load_predictor(folders("demo_entities", "longformer", 64))
    mark = trained.tokenizer.convert_tokens_to_ids(trained.tokenizer.tokenize(" mg")[0])
    text = " ".join("5 mg" if n % 7 == 0 else "and" for n in range(300))
    assert len(trained.tokenizer(text)["input_ids"]) > 5 * 64
    outputs = len(trained.kind.output_names(trained.card.labels))
    reader = Predictor(EveryMark(trained.model, mark, outputs), trained.tokenizer, trained.card, batch_size=2)
    [prediction] = reader.predict([replace(documents("demo_entities")[0], text=text, entities=())])
    found = [(entity["start"], entity["end"]) for entity in prediction["entities"]]
    starts = [start for start in range(len(text)) if text.startswith("mg", start)]
    assert found == [(start, start + 2) for start in starts]


def test_a_model_of_lines_reads_the_lines_of_a_document_as_it_was_trained(folders, documents):
    trained = load_predictor(folders("demo_entities", "longformer"))
    lines = [" ".join(document.text.split())[:200] for document in documents("demo_entities")[:3]]
    text = "\n".join([lines[0], " ", *lines[1:]])
    card = trained.card.model_copy(update={"task": trained.card.task.model_copy(update={"unit": "line"})})
    by_line = Predictor(trained.model, trained.tokenizer, card)
    expected, start = [], 0
    for line in text.split("\n"):
        [found] = by_line.predict([replace(documents("demo_entities")[0], text=line)]) if line.strip() else [None]
        for entity in found["entities"] if found else ():
            expected.append((entity["start"] + start, entity["end"] + start, entity["label"]))
        start += len(line) + 1
    [whole] = by_line.predict([replace(documents("demo_entities")[0], text=text, entities=())])
    assert expected
    assert [(one["start"], one["end"], one["label"]) for one in whole["entities"]] == expected


def test_progress_counts_every_window_once(folders, documents):
    predictor, seen = load_predictor(folders("demo_entities", "longformer", 64), batch_size=2), []
    examples = documents("demo_entities")
    predictor.predict(examples, on_progress=seen.append)
    windows = [
        predictor.kind.windows(
            example, predictor.tokenizer, predictor.card.labels, max_tokens=64, stride_tokens=16, train=False
        )
        for example in examples
    ]
    assert sum(seen) == sum(map(len, windows)) > len(examples)
    assert predictor.predict([]) == []


@pytest.mark.parametrize("task", TASKS)
def test_predicting_leaves_training_mode_and_targets_alone(task, folders, documents):
    predictor = load_predictor(folders(task, "longformer"))
    predictor.model.train()
    first = predictor.predict(documents(task)[:2])
    assert predictor.model.training
    assert predictor.predict(documents(task)[:2]) == first, "dropout was on while predicting"


@pytest.mark.parametrize("task", ["demo_pairs", "demo_questions"])
def test_a_missing_second_text_is_named_by_its_document(task, folders, documents):
    example = replace(documents(task)[0], id="note-7", text="canary", text_pair=None)
    with pytest.raises(DataError, match="note-7") as caught:
        load_predictor(folders(task, "bigbird")).predict([example])
    assert "canary" not in str(caught.value)


def test_a_model_whose_held_folder_is_away_is_waited_for(folders, tmp_path, monkeypatch, caplog):
    """A fine-tuning judges and identifies what it has just written, to a shared folder that may be away meanwhile."""
    monkeypatch.setattr(held, "_RETRY_S", 0.001)
    shared, server = tmp_path / "shared", tmp_path / "server"
    shutil.copytree(folders("demo_pairs", "longformer"), shared / "hf")
    found = [models.model_fingerprint(shared / "hf")]
    read = (load_predictor, lambda folder: found.append(models.model_fingerprint(folder)))
    with held.hold(shared, "the run"):
        for one in read:
            caplog.clear()
            shared.rename(server)
            reader = threading.Thread(target=one, args=(shared / "hf",))
            reader.start()
            while not caplog.messages:
                assert reader.is_alive(), "it did not wait"
            server.rename(shared)
            reader.join()
    assert found[0] == found[1] != ""


@pytest.mark.parametrize("task", TASKS)
def test_a_model_that_gives_no_numbers_answers_nothing(task, folders, documents, tmp_path):
    """Each answer would be the first label, no entity, or no answer with certainty."""
    trained = load_predictor(folders(task, "longformer"))
    with torch.no_grad():
        next(trained.model.base_model.encoder.parameters())[:] = float("nan")
    with pytest.raises(DivergenceError, match=f"task {task}: the outputs of the model must be finite numbers"):
        trained.predict(documents(task)[:2])


def test_inputs_that_change_while_they_are_answered_give_no_file(folders, tmp_path, monkeypatch):
    (tmp_path / "n.csv").write_text("text\nno pain\nfever\n")

    def count(inputs):
        found = sum(1 for _ in inputs.documents())
        (tmp_path / "n.csv").write_text("text\nno pain\n")
        return found

    monkeypatch.setattr(Inputs, "count", count)
    with pytest.raises(ChangedDataError, match="got 2 documents before and 1 then"):
        predict_files(folders("demo_documents", "longformer"), [str(tmp_path / "n.csv")], tmp_path / "o.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["n.csv"]
