"""Protocols: what is wrong in one is said before anything is made."""

import pytest

from clinscale.errors import ConfigError
from clinscale.study import Protocol, protocols
from clinscale.sweep import StudyConfig

GOOD = {
    "name": "trial",
    "bases": {"short": {"pretrained": "bert"}},
    "models": {"short 64": {"base": "short", "max_tokens": 64}},
    "tasks": {"demo_documents": {"data": "."}},
}


def changed(**values):
    return {**GOOD, **values}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            changed(models={"m": {"base": "shrt"}}),
            "models.m.base must be one of bases, got shrt; did you mean short",
        ),
        (changed(models={"m": {"base": "short", "kinds": ["sequences"]}}), "did you mean sequence"),
        (changed(bases={"short": {"pretrained": "bert", "max_tokens": 64}}), "are for a conversion"),
        (changed(bases={"short": {"pretrained": "bert", "convert_to": "long"}}), "longformer"),
        (
            changed(bases={"short": {"pretrained": "bert", "pretrain": {}}}),
            "give either corpus or shards",
        ),
        (
            changed(
                bases={"short": {"pretrained": "b", "convert_to": "bigbird", "pretrain": {"durration": "9steps"}}},
                shards="s",
            ),
            "did you mean duration",
        ),
        (changed(search={"budget": {"trails": 4}}), "did you mean trials"),
        (
            changed(models={name: {"base": "short"} for name in "abc"}, search={"budget": {"trials": 2}}),
            "at least one for each of 3 studies, got 2",
        ),
        (
            changed(bases={"b": {"pretrained": "b", "convert_to": "longformer", "hf_overrides": {"window": 64}}}),
            "may set attention_window, got window",
        ),
        (
            changed(bases={"short": {"pretrained": "b", "pretrain": {"model": {}}}}, shards="s"),
            "pretrain.model is what",
        ),
        (changed(models={"m": {"base": "short", "kinds": []}}), "models.m.kinds names none"),
        (
            changed(models={"m": {"base": "short", "fixed": {"long_docs": "head_tail"}}}),
            "did you mean long_documents",
        ),
        (
            changed(models={"m": {"base": "short", "max_tokens": 64, "fixed": {"max_tokens": 32}}}),
            "both give max_tokens",
        ),
        (
            changed(corpus={"sources": [{"uri": "notes"}], "tokenizer": "t"}),
            "corpus.tokenizer is that of each base",
        ),
        (changed(corpus={"source": [{"uri": "notes"}]}), "sources"),
        (changed(search={"studies": []}), "search.studies is made by the protocol"),
        (changed(search={"confirm_seeds": 3}), "search.confirm_seeds is made by the protocol"),
        (changed(name="a/b"), "plain word"),
        (changed(seeds=0), "seeds"),
    ],
)
def test_a_mistake_is_found_in_the_file(values, message):
    with pytest.raises(ConfigError, match=message):
        Protocol.parse(values, source="study.yaml")


def test_models_that_are_searched_apart_have_their_share_of_the_budget():
    budget = {"trials": 12, "usd": 30.0, "usd_per_device_hour": 2.0}
    protocol = Protocol.parse(changed(search={"budget": budget}), source="study.yaml")
    late = StudyConfig(name="late", task="demo_documents", data=".", models=("bert",))
    assert protocol.sweep([late], "t", of=3).recipe.budget.plain() == {
        "trials": 4,
        "device_hours": None,
        "usd": 10.0,
        "usd_per_device_hour": 2.0,
    }
    assert protocol.sweep([late], "t", of=1).recipe.budget.trials == 12


@pytest.mark.parametrize("name", ["open", "paper"])
def test_protocols_of_the_package_are_whole(name):
    assert name in protocols()
    protocol = Protocol.load(name)
    from clinscale.tasks import load_task

    assert len(protocol.tasks) == 10
    for task, entry in protocol.tasks.items():
        assert load_task(task, entry.changes).kind
    reading = {arm.max_tokens for arm in protocol.models.values()}
    assert 512 in reading  # the short baseline, without which length cannot be judged
    assert reading - {512}


def test_a_protocol_that_is_not_there_is_said_with_the_nearest():
    with pytest.raises(ConfigError, match="neither a YAML file nor a protocol of the package; did you mean open"):
        Protocol.load("opem")


def test_a_folder_of_its_name_does_not_hide_a_protocol(tmp_path, monkeypatch):
    (tmp_path / "paper").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(Protocol.load("paper").tasks) == 10
