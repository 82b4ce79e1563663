"""The way back from a version to the note files, and what is said where it is broken."""

import json

import pytest

from clinscale import registry
from clinscale.registry import Tag


@pytest.fixture
def chain(tracking, register, run, hf_folder):
    """A base model and a task model tuned from it, with the runs that made them."""
    pretraining = registry.start_run(
        tracking,
        experiment="clinscale-pretrain",
        name="ours",
        tags={Tag.KIND: "pretrain", Tag.RECIPE: "aaa"},
        params={"model": {"pretrained": None}},
    )
    pretraining.log({"eval/perplexity": 6.5})
    base = registry.register(
        tracking,
        pretraining.id,
        hf_folder,
        name="ours",
        tags={Tag.KIND: "base", Tag.FAMILY: "longformer", Tag.SHARDS: "s" * 12, Tag.NOTES: "n" * 12},
    )
    trial = registry.start_run(
        tracking,
        experiment="clinscale-sweep",
        name="study-00003",
        tags={Tag.KIND: "trial"},
        params={},
        parent=run.id,
    )
    config = hf_folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "note": "tuned"}))
    tags = {
        Tag.KIND: "task",
        Tag.TASK: "ward",
        Tag.DATA: "d" * 12,
        Tag.METRIC: "f1",
        Tag.VALUE: "0.8",
        Tag.BASE: base.label,
        Tag.BASE_DIGEST: base.digest,
        Tag.WINNER_RUN: trial.id,
    }
    task = register(hf_folder, name="ward", tags=tags)
    return {"base": base, "task": task, "pretraining": pretraining.id, "trial": trial.id, "tags": tags}


def test_every_link_from_the_version_to_the_note_files(tracking, chain, run):
    links = registry.lineage(tracking, chain["task"])
    assert [(link.what, link.name, link.id) for link in links] == [
        ("task version", "ward/1", chain["task"].digest),
        ("trial", "study-00003", chain["trial"]),
        ("study", "maker", run.id),
        ("task data", "ward", "d" * 12),
        ("base version", "ours/1", chain["base"].digest),
        ("pretraining run", "ours", chain["pretraining"]),
        ("shards", "", "s" * 12),
        ("note files", "", "n" * 12),
    ]
    assert not any(link.missing for link in links)
    assert links[5].facts["held-out perplexity"] == "6.500"
    assert json.loads(json.dumps([link.plain() for link in links]))[0]["facts"]["test f1"] == "0.8"


def test_a_link_that_is_gone_is_said(tracking, chain):
    tracking.client.delete_run(chain["trial"])
    tracking.client.delete_model_version("ours", "1")
    missing = {link.what: link.missing for link in registry.lineage(tracking, chain["task"]) if link.missing}
    assert missing == {
        "trial": "deleted from this MLflow server",
        "base version": "no version in this registry has this digest",
    }


def test_a_base_is_known_by_its_digest_and_not_by_its_name(tracking, chain, register, hf_folder):
    folder = "/data/models/ours#abc"
    elsewhere = register(hf_folder, name="copy", tags={**chain["tags"], Tag.BASE: folder})
    assert registry.lineage(tracking, elsewhere)[4].name == "ours/1"
    config = hf_folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "note": "from the hub"}))
    of_hub = {key: value for key, value in chain["tags"].items() if key != Tag.BASE_DIGEST}
    version = register(hf_folder, name="copy", tags={**of_hub, Tag.BASE: "yikuan8/Clinical-Longformer"})
    last = registry.lineage(tracking, version)[-1]
    assert (last.what, last.name) == ("base version", "yikuan8/Clinical-Longformer")
    assert "from a hub" in last.missing


def test_a_copy_of_a_base_stands_for_the_version_that_is_gone(tracking, chain):
    """As `models promote` makes one: other name or number, same content."""
    tags = {**chain["tags"], Tag.BASE: "ours/7"}
    assert registry.find_base(tracking, tags) == chain["base"]
    assert registry.find_base(tracking, {Tag.BASE: f"/data/ours#{chain['base'].digest[:12]}"}) == chain["base"]
    assert registry.find_base(tracking, {Tag.BASE: "ours/1"}) == chain["base"], "nothing but a label is recorded"
    assert registry.find_base(tracking, {Tag.BASE: "ours/1", Tag.BASE_DIGEST: "0" * 64}) is None
    assert registry.find_base(tracking, {Tag.BASE: f"/data/ours#{chain['base'].digest[:3]}"}) is None
    assert registry.find_base(tracking, {}) is None


def test_a_version_made_by_other_means_invents_nothing(tracking, run, hf_folder):
    version = registry.register(tracking, run.id, hf_folder, name="plain", tags={})
    links = registry.lineage(tracking, version)
    assert [link.what for link in links if link.missing] == ["trial", "task data", "base version"]


def test_mlflow_shows_what_a_run_began_from(tracking, chain, run):
    run.log_inputs(
        [registry.UsedData("ward", "d" * 12, "fine-tuning", {"test examples": 7})], [chain["base"].model_id]
    )
    run.log_inputs(
        [registry.UsedData("ward", "d" * 12, "fine-tuning", {"test examples": 7})], [chain["base"].model_id]
    )
    stored = tracking.client.get_run(run.id)
    [data] = stored.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("ward", "d" * 12)
    assert json.loads(data.dataset.profile) == {"test examples": 7}
    assert {model.model_id for model in stored.inputs.model_inputs} == {chain["base"].model_id}
    assert [model.model_id for model in stored.outputs.model_outputs] == [chain["task"].model_id]
