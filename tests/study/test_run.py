"""A study from short published weights to a league table, on forks; what is missing is left out and said."""

import contextlib
import shutil

import pytest
import torch
import transformers
import yaml

from clinscale import corpus, registry
from clinscale.engine import load_hardware
from clinscale.errors import ClusterError, ConfigError, DataError
from clinscale.plan import Site
from clinscale.registry import Tag
from clinscale.runfolder import sole_writer
from clinscale.study import Protocol, Watch, outline, plan_study, run_study


@pytest.fixture(scope="module")
def short_encoder(tmp_path_factory, shards):
    """A RoBERTa of 64 tokens, as it may lie on a disk."""
    folder = tmp_path_factory.mktemp("encoder") / "roberta"
    tokenizer = corpus.load_tokenizer(str(shards.tokenizer_dir))
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    shape |= {"max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    transformers.RobertaForMaskedLM(
        transformers.RobertaConfig(vocab_size=len(tokenizer), **shape)
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def values(short_encoder, demo_data, tmp_path):
    space = {
        "fixed": {"epochs": 1, "dropout": 0.0, "batch_size": 8},
        "parameters": {"optimizer.learning_rate": {"type": "float", "low": 5e-4, "high": 2e-3, "log": True}},
        "first_trials": [{"optimizer.learning_rate": 1e-3}],
    }
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    longer = {"convert_to": "longformer", "max_tokens": 128, "hf_overrides": {"attention_window": 32}}
    return {
        "name": "trial",
        "data_folder": str(demo_data),
        "bases": {
            "short": {"pretrained": str(short_encoder)},
            "long": {"pretrained": str(short_encoder), **longer},
            "lost": {"pretrained": str(tmp_path / "nowhere"), **longer},
        },
        "models": {
            "short 64": {"base": "short", "max_tokens": 64},
            "long 128": {"base": "long", "max_tokens": 128},
            "lost 128": {"base": "lost", "max_tokens": 128},
        },
        "tasks": {
            "demo_pairs": {"data": ".", "space": str(tmp_path / "space.yaml"), "note": "an invented task"},
            "demo_documents": {"data": "missing", "space": str(tmp_path / "space.yaml")},
        },
        "seeds": 1,
        "search": {"budget": {"trials": 3}, "scheduler": "none"},
    }


def test_a_study_ends_with_a_table_of_what_is_there(values, short_encoder, tracking, tmp_path, forks):
    protocol = Protocol.parse(values, source="test")
    planned = outline(protocol, tracking=tracking, home=tmp_path)
    assert {row["base"]: row["state"] for row in planned.bases} == {
        "short": "ready",
        "long": "to be made",
        "lost": "missing",
    }
    assert set(planned.failures) == {"task demo_documents", "base lost"}
    assert not (tmp_path / "study").exists()

    outcome = run_study(protocol, tracking=tracking, home=tmp_path, cluster=forks)
    assert set(outcome.failures) == {"base lost", "task demo_documents"}
    assert outcome.league is not None
    assert outcome.league.models == ("short 64", "long 128")
    [row] = outcome.league.rows
    assert row.task == "demo_pairs"
    assert row.entries["long 128"].max_tokens == 128
    page = outcome.markdown.read_text()
    assert "- demo_pairs: an invented task" in page
    assert "- base lost: " in page
    runs = registry.read_runs(tracking, kind="sweep")
    assert {run.tags[Tag.LEAGUE] for run in runs} == {"trial"}
    plain = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "study" / "trial" / "bases" / "long")
    assert plain.config.model_type == "longformer"

    trials = len(registry.read_runs(tracking, kind="trial"))
    again = run_study(protocol, tracking=tracking, home=tmp_path, cluster=forks)
    assert len(registry.read_runs(tracking, kind="trial")) == trials  # what is done is not done again
    assert again.markdown.read_text() == page

    shutil.copytree(short_encoder, tmp_path / "nowhere")  # and what was missing is searched beside it
    folder = outcome.markdown.parent
    with sole_writer(folder), pytest.raises(ClusterError, match="study run trial is being run by another process"):
        run_study(protocol, tracking=tracking, home=tmp_path, cluster=forks)
    killed = folder / "bases" / ".lost.x1"  # what a conversion leaves that was killed
    killed.mkdir()
    later = run_study(protocol, tracking=tracking, home=tmp_path, cluster=forks)
    assert set(later.failures) == {"task demo_documents"}
    [row] = later.league.rows
    assert set(row.entries) == {"short 64", "long 128", "lost 128"}
    assert not later.league.repeated
    assert not killed.exists()
    assert {place.name for place in (tmp_path / "sweep").iterdir()} == {
        "trial-demo_pairs",
        "trial-demo_pairs-later1",
    }
    assert outline(protocol, tracking=tracking, home=tmp_path, cluster=forks).forecasts == ()  # all is done

    other = Protocol.parse({**values, "seeds": 2}, source="test")
    with pytest.raises(ConfigError, match=r"study run 'trial' exists .* differing: seeds"):
        run_study(other, tracking=tracking, home=tmp_path, cluster=forks)


def test_a_base_is_pretrained_on_a_corpus_without_test_documents_and_its_progress_is_seen(
    values, demo_data, tracking, tmp_path, forks
):
    values["bases"].pop("lost"), values["models"].pop("lost 128"), values["tasks"].pop("demo_documents")
    values["bases"]["long"]["pretrain"] = {"duration": "2steps", "rows_per_step": 2}
    values["corpus"] = {"sources": [{"uri": str(demo_data / "notes" / "notes.jsonl.gz"), "id_column": "id"}]}
    values["pretrain_runtime"] = {"num_workers": 1, "log_every_steps": 1}
    seen = {}

    @contextlib.contextmanager
    def watched(step):
        seen[getattr(step, "name", step)] = at = []
        yield lambda *progress: at.append(progress)

    outcome = run_study(
        Protocol.parse(values, source="test"),
        tracking=tracking,
        home=tmp_path,
        cluster=forks,
        watch=Watch(watched, watched),
    )
    assert outcome.league.models == ("short 64", "long 128")
    kept_out = corpus.open_shards(str(tmp_path / "study" / "trial" / "shards" / "long")).manifest.leakage
    assert set(kept_out) == {"demo_pairs"}
    reading, training, searching = seen.values()
    assert list(seen)[1:] == ["Pretraining long", "trial-demo_pairs"]
    assert reading[-1][0] > 0
    assert [at[:2] for at in training][-1] == (2, 2)
    assert searching


def test_the_data_of_a_task_may_come_or_go_once_the_bases_are_pretrained(
    values, demo_data, tracking, tmp_path, forks
):
    data = shutil.copytree(demo_data, tmp_path / "data")
    values["bases"].pop("lost"), values["models"].pop("lost 128")
    values["bases"]["long"]["pretrain"] = {"duration": "2steps", "rows_per_step": 2}
    values["corpus"] = {"sources": [{"uri": str(demo_data / "notes" / "notes.jsonl.gz"), "id_column": "id"}]}
    values |= {"pretrain_runtime": {"num_workers": 1}, "data_folder": str(data), "allow_seen_tests": True}
    protocol = Protocol.parse(values, source="test")
    run_study(protocol, tracking=tracking, home=tmp_path, cluster=forks)

    shutil.copytree(demo_data, data / "missing")
    later = run_study(protocol, tracking=tracking, home=tmp_path, cluster=forks)
    assert later.failures == {}
    assert [row.task for row in later.league.rows] == ["demo_documents", "demo_pairs"]
    assert later.league.seen_tests == ("demo_documents",)
    with pytest.raises(ConfigError, match="test documents of demo_documents; drop these tasks"):
        outline(
            Protocol.parse({**values, "allow_seen_tests": False}, source="test"), tracking=tracking, home=tmp_path
        )

    tests = data / "pairs" / "test.jsonl"
    tests.write_text("".join(tests.read_text().splitlines(keepends=True)[:-1]))
    shutil.rmtree(data / "missing")
    again = run_study(protocol, tracking=tracking, home=tmp_path, cluster=forks)
    assert set(again.failures) == {"task demo_pairs", "task demo_documents"}  # and no base
    assert (
        "test documents of demo_pairs, which were kept out of the corpus, changed"
        in again.failures["task demo_pairs"]
    )


def test_nothing_to_judge_is_an_error_with_the_first_reason(values, tracking, tmp_path, forks):
    values["tasks"].pop("demo_pairs")
    with pytest.raises(
        DataError, match=r"no two models were judged on one task; task demo_documents: .* does not exist"
    ):
        run_study(Protocol.parse(values, source="test"), tracking=tracking, home=tmp_path, cluster=forks)


def test_a_test_set_that_pretraining_may_have_seen_is_refused_or_named(values, shards, tracking, tmp_path):
    values["bases"]["long"]["pretrain"] = {"duration": "2steps", "rows_per_step": 2}
    values["shards"] = str(shards.uri)
    protocol = Protocol.parse(values, source="test")
    with pytest.raises(ConfigError, match=r"without keeping out the test documents of demo_documents, demo_pairs"):
        outline(protocol, tracking=tracking, home=tmp_path)
    allowed = Protocol.parse({**values, "allow_seen_tests": True}, source="test")
    assert outline(allowed, tracking=tracking, home=tmp_path).grid


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("short", {"pretrained": "nobody@champion"}, "no model 'nobody'"),
        ("long", {"pretrained": "nobody@champion"}, "clinscale pull nobody@champion --out FOLDER"),
        ("short", {"pretrained": "/models/nowhere"}, "/models/nowhere is no folder here"),
    ],
)
def test_an_outline_says_which_weights_are_not_there(name, changes, reason, values, tracking, tmp_path):
    values["bases"][name] |= changes
    planned = outline(Protocol.parse(values, source="test"), tracking=tracking, home=tmp_path)
    assert reason in planned.failures[f"base {name}"]
    assert {row["base"]: row["state"] for row in planned.bases}[name] == "missing"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("demo_pairs", "tasks demo_pairs and demo_documents are both called demo_pairs"),
        ("a:b", "'trial-a:b' must be"),
    ],
)
def test_each_task_has_a_sweep_of_its_own(name, message, values, tracking, tmp_path):
    values["tasks"]["demo_documents"]["changes"] = {"name": name}
    with pytest.raises(ConfigError, match=message):
        outline(Protocol.parse(values, source="test"), tracking=tracking, home=tmp_path)


def test_a_setting_that_is_wrong_for_one_task_does_not_end_the_others(
    values, demo_data, tracking, tmp_path, forks
):
    wrong = {"data": ".", "space": str(tmp_path / "no.yaml")}
    values["tasks"] = {"demo_documents": wrong, "demo_pairs": values["tasks"]["demo_pairs"]}
    outcome = run_study(Protocol.parse(values, source="test"), tracking=tracking, home=tmp_path, cluster=forks)
    assert "no.yaml does not exist" in outcome.failures["task demo_documents"]
    assert [row.task for row in outcome.league.rows] == ["demo_pairs"]
    with pytest.raises(ConfigError, match=r"study run 'trial' exists .* differing: seeds"):
        outline(Protocol.parse({**values, "seeds": 2}, source="test"), tracking=tracking, home=tmp_path)


def test_a_corpus_that_cannot_be_read_ends_a_study_before_it_begins(values, tracking, tmp_path, forks):
    values["bases"]["long"]["pretrain"] = {"duration": "2steps", "rows_per_step": 2}
    notes = tmp_path / "notes.csv"
    notes.write_text("id,note\n1,Cough.\n")
    protocol = Protocol.parse(
        {**values, "corpus": {"sources": [{"uri": str(notes), "text_column": "report"}]}}, source="test"
    )
    reason = "notes.csv has no column 'report'"
    assert reason in outline(protocol, tracking=tracking, home=tmp_path).failures["corpus"]
    with pytest.raises(DataError, match=reason):
        run_study(protocol, tracking=tracking, home=tmp_path, cluster=forks)
    assert not (tmp_path / "study").exists()


def test_a_plan_counts_bases_that_are_still_to_be_made_by_the_shape_that_they_will_have(
    values, shards, tracking, tmp_path
):
    values["bases"]["long"]["pretrain"] = {"duration": "20steps", "rows_per_step": 2}
    protocol = Protocol.parse({**values, "shards": str(shards.uri), "seeds": 3}, source="test")
    h100 = load_hardware().device("h100").model_copy(update={"usd_per_hour": 2.0})
    site = Site(hardware=load_hardware(), device_name="h100", device=h100)
    found = plan_study(protocol, tracking=tracking, home=tmp_path, site=site, devices=1)
    assert set(found.failures) == {"base lost", "task demo_documents"}
    [search] = found.searches.values()
    short, long = search.studies
    assert long.memory.weights > short.memory.weights  # its positions
    assert long.train == short.train  # in the tokens of what it begins from
    assert found.pretrainings["long"].days > 0
    once = plan_study(
        Protocol.parse({**values, "shards": str(shards.uri), "seeds": 1}, source="test"),
        tracking=tracking,
        home=tmp_path,
        site=site,
        devices=1,
    )
    assert found.device_hours > once.device_hours  # the finalists' other seeds
    assert found.usd == pytest.approx(2 * found.device_hours)
    assert not (tmp_path / "study").exists()
