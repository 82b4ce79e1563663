"""One loop for all kinds: learns, stops early, keeps the best, and what it keeps is what predicts."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import transformers

from clinscale import registry
from clinscale.engine import TorchEngine
from clinscale.errors import ChangedDataError, ConfigError, DataError, OutOfMemoryError
from clinscale.finetune import (
    OUTCOMES_FILE,
    FinetuneConfig,
    FinetuneRecipe,
    FinetuneRuntime,
    finetune,
    judge,
    run_finetune,
)
from clinscale.finetune.loop import build_model
from clinscale.predict import as_pyfunc, load_predictor
from clinscale.storage import sha256
from clinscale.tasks import load_task, read_task


def recipe(model, **changes):
    values = {
        "model": model,
        "max_tokens": 256,
        "epochs": 2,
        "batch_size": 8,
        "dropout": 0.0,
        "optimizer": {"learning_rate": 2e-3},
    }
    return FinetuneRecipe.parse(values | changes, source="test")


def timeless(epochs):
    """What epochs reported, without how long they took."""
    return [{key: value for key, value in one.items() if not key.endswith("_s")} for one in epochs]


@pytest.fixture(scope="module")
def read(demo_data):
    return lambda task: read_task(load_task(task), str(demo_data))


@pytest.fixture(scope="module")
def pairs(read, base_models, tmp_path_factory):
    """A fine-tuned pair model: task data, folder, and what each epoch reported."""
    epochs = []
    data = read("demo_pairs")
    folder = tmp_path_factory.mktemp("pairs") / "hf"
    result = finetune(recipe(base_models["longformer"], epochs=4), data, folder, on_epoch=epochs.append)
    return data, result, epochs


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
@pytest.mark.parametrize("task", ["demo_documents", "demo_entities", "demo_questions"])
def test_every_kind_and_family_trains_and_predicts(task, family, read, base_models, tmp_path):
    data = read(task)
    epochs = []
    result = finetune(recipe(base_models[family]), data, tmp_path / "hf", on_epoch=epochs.append)
    assert epochs[-1]["train/loss"] < epochs[0]["train/loss"]
    assert result.value == max(
        epoch[f"eval/{task}/{load_predictor(result.folder).kind.metric}"] for epoch in epochs
    )
    judged = judge(result.folder, data)
    assert set(judged.test) == set(judged.trivial)
    assert all(0 <= value <= 1 for value in judged.test.values())


def test_the_folder_holds_the_best_epoch(pairs):
    data, result, epochs = pairs
    values = [epoch["eval/demo_pairs/accuracy"] for epoch in epochs]
    assert result.value == max(values)
    assert result.epoch == values.index(max(values)) + 1
    assert load_predictor(result.folder).score(data.splits["dev"])["accuracy"] == result.value


def test_a_rare_labels_threshold_is_chosen_on_dev_and_serves(base_models, tmp_path):
    for split, count in (("train", 12), ("dev", 12), ("test", 8)):
        rows = [f"{split} note {n} of {'stroke' if n % 4 == 0 else 'pain'},{n % 4 == 0}" for n in range(count)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["text,label", *rows]))
    (tmp_path / "rare.yaml").write_text(
        "{name: rare, kind: sequence, format: records, alerts_per_1000: 250, label_map: {'True': late, 'False': a},"
        " splits: {train: train.csv, dev: dev.csv, test: test.csv}}"
    )
    data, epochs = read_task(load_task(str(tmp_path / "rare.yaml")), str(tmp_path)), []
    trained = recipe(base_models["longformer"], max_tokens=32)
    best = finetune(trained, data, tmp_path / "hf", on_epoch=epochs.append)
    chosen = epochs[best.epoch - 1]
    assert chosen["eval/rare/alerts_per_1000"] <= 250
    predictor = load_predictor(best.folder)
    assert predictor.card.task.threshold == chosen["eval/rare/threshold"]
    for answer in predictor.predict(data.splits["test"]):
        assert answer["threshold"] == chosen["eval/rare/threshold"]
        assert (answer["label"] == "late") == (answer["scores"]["late"] > answer["threshold"])
    judged = judge(best.folder, data)
    assert judged.test["threshold"] == chosen["eval/rare/threshold"]
    assert set(judged.test) == set(judged.trivial)
    assert judged.test["accuracy"] == predictor.score(data.splits["test"])["accuracy"]


def test_same_seed_same_scores_other_seed_other_losses(pairs, base_models, tmp_path):
    data, _, epochs = pairs
    again, other = [], []
    finetune(recipe(base_models["longformer"], epochs=4), data, tmp_path / "a", on_epoch=again.append)
    finetune(recipe(base_models["longformer"], epochs=4, seed=1), data, tmp_path / "b", on_epoch=other.append)
    assert timeless(again) == timeless(epochs)
    assert other[0]["train/loss"] != epochs[0]["train/loss"]


@pytest.mark.parametrize(
    ("task", "family"),
    [("demo_pairs", "longformer"), ("demo_entities", "bigbird"), ("demo_questions", "longformer")],
)
def test_micro_batches_change_nothing_but_memory(task, family, read, base_models, tmp_path):
    data, losses = read(task), []
    few = {"train": 10, "dev": 2}  # pairs: two steps, the last one of four in micro batches of three and one
    data = replace(data, splits={name: split[: few.get(name)] for name, split in data.splits.items()})
    for micro in (None, 3):
        epochs = []
        split = recipe(base_models[family], epochs=1, batch_size=6, micro_batch_size=micro)
        finetune(split, data, tmp_path / "hf", on_epoch=epochs.append)
        losses.append(epochs[0]["train/loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_part_of_the_data_is_not_taken_for_all_of_it(pairs, base_models, tmp_path):
    data, _, _ = pairs
    part = replace(data, splits=data.splits | {"train": data.splits["train"][:8], "dev": data.splits["dev"][:2]})
    epochs = []
    alone = recipe(base_models["longformer"], epochs=1)
    for one in (data, part):
        finetune(alone, one, tmp_path / "hf", on_epoch=epochs.append)
    assert [epoch["step"] for epoch in epochs] == [-(-len(data.splits["train"]) // 8), 1]


def test_one_that_was_interrupted_ends_as_the_undisturbed_one(pairs, base_models, tmp_path):
    data, best, epochs = pairs
    seen, state = [], tmp_path / "state.pt"

    class Interrupted(Exception):
        pass

    def stop_after_two(metrics):
        seen.append(metrics)
        if len(seen) == 2:
            raise Interrupted

    asked = recipe(base_models["longformer"], epochs=4)
    with pytest.raises(Interrupted):
        finetune(asked, data, tmp_path / "hf", on_epoch=stop_after_two, checkpoint=state)
    again = []
    result = finetune(asked, data, tmp_path / "hf", on_epoch=again.append, checkpoint=state)
    assert timeless(again) == timeless(epochs)
    assert again[:2] == seen  # told again, not done again
    assert weights(result.folder) == weights(best.folder)
    state.write_bytes(state.read_bytes()[:1000])
    afresh = []
    finetune(asked, data, tmp_path / "hf", on_epoch=afresh.append, checkpoint=state)
    assert timeless(afresh) == timeless(epochs)


def weights(folder):
    return sha256(folder / "model.safetensors")


def test_a_micro_batch_that_does_not_fit_is_halved_and_the_step_stays(pairs, base_models, tmp_path, monkeypatch):
    data, _, epochs = pairs
    forward = TorchEngine.forward

    def of_little_memory(engine, batch):
        if len(batch["input_ids"]) > 2 and engine.module.training:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(engine, batch)

    monkeypatch.setattr(TorchEngine, "forward", of_little_memory)
    small = []
    finetune(recipe(base_models["longformer"], epochs=4), data, tmp_path / "hf", on_epoch=small.append)
    assert {one["perf/micro_batch_size"] for one in small} == {2}
    assert small[0]["train/loss"] == pytest.approx(epochs[0]["train/loss"], rel=1e-4)

    def of_none(engine, batch):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(TorchEngine, "forward", of_none)
    with pytest.raises(OutOfMemoryError, match="one window of 256 tokens does not fit into GPU memory"):
        finetune(recipe(base_models["longformer"]), data, tmp_path / "hf")


def test_attention_has_a_dropout_of_its_own(pairs, base_models):
    whole, apart = (
        build_model(recipe(base_models["longformer"], dropout=0.2, **changes), pairs[0], FinetuneRuntime()).config
        for changes in ({}, {"attention_dropout": 0})
    )
    assert (whole.hidden_dropout_prob, whole.attention_probs_dropout_prob) == (0.2, 0.2)
    assert (apart.hidden_dropout_prob, apart.attention_probs_dropout_prob) == (0.2, 0)
    assert "attention_dropout" not in recipe(base_models["longformer"]).plain()


def test_early_stopping_ends_after_patience(pairs, base_models, tmp_path):
    data, _, _ = pairs
    epochs = []
    frozen = recipe(base_models["longformer"], epochs=9, patience_epochs=2, optimizer={"learning_rate": 1e-12})
    finetune(frozen, data, tmp_path / "hf", on_epoch=epochs.append)
    assert len(epochs) == 3


def test_predictions_do_not_depend_on_the_batch_and_keep_their_order(pairs):
    data, result, _ = pairs
    examples = list(data.splits["test"])
    together = load_predictor(result.folder, batch_size=8).predict(examples)
    one_by_one = [load_predictor(result.folder, batch_size=1).predict([example])[0] for example in examples[:5]]
    for left, right in zip(together, one_by_one, strict=False):
        assert left["label"] == right["label"]
        assert left["scores"] == pytest.approx(right["scores"], abs=1e-5)


def test_folder_registry_pyfunc_and_plain_transformers_agree(pairs, tracking, tmp_path):
    import mlflow.pyfunc
    import pandas

    data, result, _ = pairs
    run = registry.start_run(tracking, experiment="clinscale-sweep", name="x", tags={}, params={})
    with run:
        version = registry.register(
            tracking,
            run.id,
            result.folder,
            name="pairs",
            tags={},
            pyfunc=as_pyfunc(result.folder),
        )
    examples = list(data.splits["test"])[:6]
    mine = load_predictor(result.folder).predict(examples)
    pulled = registry.pull(tracking, "pairs", tmp_path / "pulled")
    assert load_predictor(pulled.path).predict(examples) == mine
    uri = tracking.client.get_model_version_download_uri(version.name, str(version.version))
    table = pandas.DataFrame([{"text": e.text, "text_pair": e.text_pair} for e in examples])
    assert mlflow.pyfunc.load_model(uri).predict(table) == mine
    model = transformers.AutoModelForSequenceClassification.from_pretrained(pulled.path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(pulled.path)
    with torch.no_grad():
        logits = model(**tokenizer(examples[0].text, examples[0].text_pair, return_tensors="pt")).logits
    assert model.config.id2label[int(logits.argmax())] == mine[0]["label"]


def test_documents_longer_than_the_window_are_read_to_their_end(read, base_models, tmp_path):
    data = read("demo_entities")
    result = finetune(recipe(base_models["longformer"], max_tokens=64, epochs=1), data, tmp_path / "hf")
    predictor = load_predictor(result.folder)
    example = data.splits["test"][0]
    windows = predictor.kind.windows(
        example, predictor.tokenizer, data.labels, max_tokens=64, stride_tokens=16, train=False
    )
    assert len(windows) > 2
    [prediction] = predictor.predict([example])
    assert all(0 <= entity["start"] < entity["end"] <= len(example.text) for entity in prediction["entities"])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"max_tokens": 5000}, ConfigError, "at most the model's 1024 positions, got 5000"),
        ({"model": "/nowhere/at/all"}, DataError, "/nowhere/at/all"),
    ],
)
def test_what_cannot_work_is_said(changes, error, message, pairs, base_models, tmp_path):
    with pytest.raises(error, match=message):
        finetune(recipe(base_models["longformer"]).model_copy(update=changes), pairs[0], tmp_path / "hf")


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_task_without_a_split_is_refused_before_any_epoch(split, pairs, base_models, tmp_path):
    data = replace(pairs[0], splits={**pairs[0].splits, split: ()})
    with pytest.raises(DataError, match=f"task demo_pairs has no {split} examples"):
        finetune(recipe(base_models["longformer"]), data, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_a_task_without_test_examples_is_trained_but_not_judged(pairs):
    data, result, _ = pairs
    with pytest.raises(DataError, match="task demo_pairs has no test examples"):
        judge(result.folder, replace(data, splits={**data.splits, "test": ()}))


def test_the_test_split_changes_nothing_in_training(pairs, base_models, tmp_path):
    data, result, epochs = pairs
    blind, told = replace(data, splits={**data.splits, "test": ()}), []
    again = finetune(recipe(base_models["longformer"], epochs=4), blind, tmp_path / "hf", on_epoch=told.append)
    assert timeless(told) == timeless(epochs)
    assert again.epoch == result.epoch


def test_a_loss_that_is_no_number_ends_the_run(pairs, base_models, tmp_path):
    model = transformers.AutoModelForMaskedLM.from_pretrained(base_models["longformer"])
    model.base_model.embeddings.word_embeddings.weight.data.fill_(3e38)  # finite, its sums are not
    model.save_pretrained(tmp_path / "large")
    transformers.AutoTokenizer.from_pretrained(base_models["longformer"]).save_pretrained(tmp_path / "large")
    with pytest.raises(ConfigError, match="loss of epoch 1 is nan"):
        finetune(recipe(str(tmp_path / "large")), pairs[0], tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_a_tokenizer_that_was_replaced_in_its_folder_is_the_one_that_is_used(pairs, base_models, tmp_path):
    base, data = shutil.copytree(base_models["longformer"], tmp_path / "base"), pairs[0]
    few = replace(data, splits={name: split[:2] for name, split in data.splits.items()})
    finetune(recipe(str(base), epochs=1), few, tmp_path / "before")
    written = json.loads((base / "tokenizer.json").read_text())
    vocabulary = written["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (base / "tokenizer.json").write_text(json.dumps(written))
    found = finetune(recipe(str(base), epochs=1), few, tmp_path / "after").folder
    assert json.loads((found / "tokenizer.json").read_text())["model"]["vocab"][first] == vocabulary[first]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_result_is_never_that_of_a_model_that_was_replaced(demo_data, base_models, tracking, tmp_path):
    base = shutil.copytree(base_models["longformer"], tmp_path / "base")
    recipe = {"model": str(base), "precision": "fp16"}  # refused on a CPU, once the base is on record
    values = {"name": "one", "task": "demo_pairs", "data": str(demo_data), "recipe": recipe}
    config = FinetuneConfig.parse(values, source="test")
    for told in ("needs a GPU", "model .* changed while it was worked with"):
        with pytest.raises((ConfigError, ChangedDataError), match=told):
            run_finetune(config, tracking=tracking, home=tmp_path)
        shutil.copytree(base_models["bigbird"], base, dirs_exist_ok=True)


@pytest.mark.parametrize("typo", ["/nowhere/base", "org/nobodys", "empty"])
def test_a_model_that_is_not_there_claims_no_name(demo_data, tracking, tmp_path, typo):
    (tmp_path / "empty").mkdir()
    recipe = {"model": str(tmp_path / "empty") if typo == "empty" else typo}
    values = {"name": "one", "task": "demo_pairs", "data": str(demo_data), "recipe": recipe}
    with pytest.raises(DataError):
        run_finetune(FinetuneConfig.parse(values, source="test"), tracking=tracking, home=tmp_path)
    assert not (tmp_path / "finetune").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_what_is_odd_about_the_data_is_said_before_anything_is_trained(demo_data, base_models, tracking, tmp_path):
    data = shutil.copytree(demo_data, tmp_path / "data")
    file = data / "pairs" / "train.jsonl"
    file.write_text(file.read_text().replace('"premise": "', '"premise": "&amp; ', 1))
    recipe = {"model": str(base_models["longformer"]), "precision": "fp16"}  # refused on a CPU
    values = {"name": "one", "task": "demo_pairs", "data": str(data), "recipe": recipe}
    told = []
    with pytest.raises(ConfigError, match="needs a GPU"):
        run_finetune(
            FinetuneConfig.parse(values, source="test"), tracking=tracking, home=tmp_path, on_event=told.append
        )
    assert [one[:68] for one in told] == ["data of task demo_pairs: 1 texts hold tags or entities of HTML, such"]


def test_a_run_is_judged_once_and_its_name_is_kept(demo_data, base_models, tracking, tmp_path):
    def config(**changes):
        return FinetuneConfig.parse(
            {
                "name": "one",
                "task": "demo_pairs",
                "data": str(demo_data),
                "recipe": recipe(base_models["bigbird"], **changes).plain(),
            },
            source="test",
        )

    first = run_finetune(config(), tracking=tracking, home=tmp_path)
    [record] = registry.read_runs(tracking, kind="finetune")
    assert record.status == "FINISHED"
    assert record.metrics["test/demo_pairs/accuracy"] == first.test["accuracy"]
    assert record.tags[registry.Tag.PRECISION] == "fp32 weights, fp32 arithmetic, from a checkpoint in fp32"
    assert len(registry.metric_history(tracking, record.id, "test/demo_pairs/accuracy")) == 1
    assert len(registry.metric_history(tracking, record.id, "eval/demo_pairs/accuracy")) == 2
    assert run_finetune(config(), tracking=tracking, home=tmp_path) == first
    assert len(registry.read_runs(tracking, kind="finetune")) == 1
    with pytest.raises(ConfigError, match="epochs: 2 -> 3"):
        run_finetune(config(epochs=3), tracking=tracking, home=tmp_path)
    shutil.copy(f"{base_models['bigbird']}/model.safetensors", first.folder)
    with pytest.raises(
        ChangedDataError, match=r"no longer holds the model whose scores result\.json beside it has"
    ):
        run_finetune(config(), tracking=tracking, home=tmp_path)
    shutil.rmtree(first.folder)
    with pytest.raises(DataError, match="seed-0/hf"):
        run_finetune(config(), tracking=tracking, home=tmp_path)


@pytest.mark.parametrize("long_documents", ["head_tail", "pool"])
def test_long_documents_are_read_in_other_ways_and_the_folder_remembers(
    long_documents, read, base_models, tmp_path
):
    data = read("demo_documents")
    asked = recipe(base_models["longformer"], max_tokens=128, epochs=1, long_documents=long_documents)
    predictor = load_predictor(finetune(asked, data, tmp_path / "hf").folder)
    windows = predictor.windows(data.splits["test"][0])
    assert (len(windows) > 3) == (long_documents == "pool")
    assert max(len(window.input_ids) for window in windows) == 128
    last = windows[-1].offsets[windows[-1].text_positions[-1]]
    assert last[1] >= len(data.splits["test"][0].text.rstrip())
    assert sum(predictor.predict(data.splits["test"][:1])[0]["scores"].values()) == pytest.approx(1)


@pytest.mark.parametrize("architecture", ["Bert", "Roberta"])
def test_any_encoder_is_a_short_baseline(architecture, read, base_models, tmp_path):
    """BERT, ClinicalBERT and RoBERTa load by name through the same call; here a tiny one of each."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(base_models["longformer"])
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=514 if architecture == "Roberta" else 512,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    getattr(transformers, f"{architecture}ForMaskedLM")(config).save_pretrained(tmp_path / "short")
    tokenizer.save_pretrained(tmp_path / "short")
    for task in ("demo_documents", "demo_entities"):
        data = read(task)
        judged = judge(
            finetune(recipe(str(tmp_path / "short"), max_tokens=None, epochs=1), data, tmp_path / task).folder,
            data,
        )
        assert judged.max_tokens == 512
        assert judged.interval.low <= judged.interval.value <= judged.interval.high


def test_a_bert_is_told_which_of_two_texts_a_token_is_of_as_plain_transformers_tells_it(read, tmp_path):
    signs = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *signs, *(f"##{sign}" for sign in signs)]
    tokenizer = transformers.BertTokenizer(vocab={token: at for at, token in enumerate(tokens)})
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    base = transformers.BertModel(transformers.BertConfig(**shape, vocab_size=len(tokens)))
    base.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    for task in ("demo_pairs", "demo_questions", "demo_documents"):
        data = read(task)
        result = finetune(recipe(str(tmp_path / "bert"), max_tokens=512, epochs=1), data, tmp_path / task)
        predictor, example = load_predictor(result.folder), data.splits["test"][0]
        assert predictor.card.token_types == (task != "demo_documents")
        if task == "demo_pairs":
            scores = predictor.predict([example])[0]["scores"]
            inputs = predictor.tokenizer(example.text, example.text_pair, return_tensors="pt")
            assert set(inputs["token_type_ids"][0].tolist()) == {0, 1}
            plain = transformers.AutoModelForSequenceClassification.from_pretrained(result.folder).eval()
            with torch.no_grad():
                logits = plain(**inputs).logits[0]
            assert list(scores.values()) == pytest.approx(logits.softmax(0).tolist(), abs=1e-6)
    earlier = predictor.card.plain()
    assert "token_types" not in earlier, "cards of earlier versions read as they were"


def test_a_judgement_says_how_sure_it_is(pairs):
    data, result, _ = pairs
    judged = judge(result.folder, data)
    assert judged.interval.value == judged.test["accuracy"]
    assert judged.interval.low <= judged.interval.value <= judged.interval.high
    assert sum(band.examples for band in judged.lengths) == len(data.splits["test"])
    assert set(judged.calibration) == {"calibration_error", "brier_score"}
    assert 0 <= judged.calibration["calibration_error"] <= 1
    texts = {example.text for example in data.splits["test"]}
    assert not any(text in str(judged.outcomes.plain()) for text in texts)


def test_several_seeds_are_all_judged_and_the_best_is_kept(demo_data, base_models, tracking, tmp_path):
    config = FinetuneConfig.parse(
        {
            "name": "seeds",
            "task": "demo_pairs",
            "data": str(demo_data),
            "seeds": 2,
            "recipe": recipe(base_models["longformer"], epochs=1, seed=5).plain(),
        },
        source="test",
    )
    summary = run_finetune(config, tracking=tracking, home=tmp_path)
    assert [one.seed for one in summary.seeds] == [5, 6]
    assert summary.best.dev == max(one.dev for one in summary.seeds)
    assert summary.folder == tmp_path / "finetune" / "seeds" / f"seed-{summary.best.seed}" / "hf"
    values = [one.scores.test["accuracy"] for one in summary.seeds]
    assert summary.test_mean == pytest.approx(sum(values) / 2)
    [record] = registry.read_runs(tracking, kind="finetune")
    assert record.metrics["test/demo_pairs/accuracy_mean"] == pytest.approx(summary.test_mean)
    assert record.metrics["test/demo_pairs/accuracy"] == summary.test["accuracy"]
    assert registry.read_json_artifact(tracking, record.id, OUTCOMES_FILE)["task"]["name"] == "demo_pairs"
    (tmp_path / "finetune" / "seeds" / "seed-6" / "result.json").unlink()  # as an interruption leaves it
    assert run_finetune(config, tracking=tracking, home=tmp_path) == summary
    assert len(registry.read_runs(tracking, kind="finetune")) == 1


def test_a_task_can_be_changed_from_the_command_line(demo_data, base_models, tracking, tmp_path):
    config = FinetuneConfig.parse(
        {
            "name": "lines",
            "task": "demo_entities",
            "task_changes": {"unit": "line"},
            "data": str(demo_data),
            "recipe": recipe(base_models["longformer"], epochs=1).plain(),
        },
        source="test",
    )
    folder = run_finetune(config, tracking=tracking, home=tmp_path).folder
    assert load_predictor(folder).card.task.unit == "line"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runtime": FinetuneRuntime(device="cuda")}, "runtime.device=cuda needs a GPU"),
        ({"precision": "fp16"}, "recipe.precision=fp16 needs a GPU"),
    ],
)
def test_a_device_that_is_not_here_is_told_before_any_training(changes, message, read, base_models, tmp_path):
    runtime = changes.pop("runtime", None)
    with pytest.raises(ConfigError, match=message):
        finetune(
            recipe(base_models["longformer"], **changes), read("demo_pairs"), tmp_path / "hf", runtime=runtime
        )
