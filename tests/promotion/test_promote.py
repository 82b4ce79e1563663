"""Champions move by decisions that stay on record, in a real registry with small real models."""

import dataclasses
import getpass
import re
import shutil
import socket
import sys
import time

import pandas
import pytest

from clinscale import corpus, models, registry
from clinscale.errors import ConfigError, DataError, RegistryError
from clinscale.finetune import OUTCOMES_BY_SEED_FILE, OUTCOMES_FILE, TRIVIAL_OUTCOMES_FILE
from clinscale.predict import TaskCard, load_predictor
from clinscale.promotion import GateRules, history, promote, register_judged, rollback
from clinscale.registry import Experiment, Tag
from clinscale.tasks import baseline_outcomes, kind_of, load_task, read_task, trivial

TASK = "demo_documents"
ANY_LATENCY = GateRules(max_latency_ratio=1000, min_over_trivial=None)
"""Eight documents prove little about a first champion."""


@pytest.fixture(scope="module")
def data(demo_data):
    return read_task(load_task(TASK), str(demo_data))


@pytest.fixture(scope="module")
def folder_of(base_models, data, tmp_path_factory):
    """`folder_of(seed)`: a tiny classifier with a random head, made once for each seed."""
    made = {}

    def folder(seed):
        if seed not in made:
            import torch

            torch.manual_seed(seed)
            kind = kind_of(data.task)
            model = models.load_hf(
                base_models["longformer"], head=kind.head, labels=data.labels, problem_type=None
            )
            model.classifier.out_proj.weight.data.normal_()
            made[seed] = models.save_hf(
                model, corpus.load_tokenizer(base_models["longformer"]), tmp_path_factory.mktemp("made") / "hf"
            )
            TaskCard(task=data.task, labels=data.labels, max_tokens=256, stride_tokens=16).write(made[seed])
        return made[seed]

    return folder


@pytest.fixture(scope="module")
def judged(folder_of, data):
    """`judged(share)`: outcomes on the test set of one who is right on that share of the examples, sure or not."""
    real = load_predictor(folder_of(0)).outcomes(data.splits["test"])

    def outcomes(share):
        rows = real.rows.copy()
        right = range(round(share * len(rows)))
        for number, row in enumerate(rows):
            chosen = int(row[0]) if number in right else (int(row[0]) + 1) % len(data.labels)
            rows[number, 1:] = [
                0.9 if label == chosen else 0.1 / (len(data.labels) - 1) for label in range(len(data.labels))
            ]
        return dataclasses.replace(real, rows=rows)

    return outcomes


@pytest.fixture
def study(tracking):
    """`study(*outcomes)`: the run of a study that judged its winner so."""

    def run(*outcomes):
        made = registry.start_run(
            tracking, experiment="clinscale-sweep", name="study", tags={Tag.KIND: "sweep"}, params={}
        )
        made.log_json(OUTCOMES_FILE, outcomes[0].plain())
        made.log_json(OUTCOMES_BY_SEED_FILE, [one.plain() for one in outcomes[1:]])
        made.end()
        return made.id

    return run


@pytest.fixture
def submit(tracking, study, folder_of, data, tmp_path):
    """`submit(seed, *outcomes)`: what a sweep does with its winner."""

    def submit(seed, *outcomes, **changes):
        return register_judged(
            tracking,
            study(*outcomes),
            folder_of(seed),
            name="ward",
            tags={Tag.KIND: "task", Tag.METRIC: "accuracy", **changes.pop("tags", {})},
            outcomes=outcomes,
            data=data,
            home=tmp_path,
            **{"rules": ANY_LATENCY, **changes},
        )

    return submit


def aliases(tracking, name="ward"):
    versions = [version for version in registry.list_versions(tracking) if version.name == name]
    return {alias: version.label for version in versions for alias in version.aliases}


def test_the_champion_moves_when_the_gate_lets_it_and_goes_back(tracking, submit, judged, tmp_path):
    first, decision = submit(0, *[judged(0.3)] * 3)
    assert decision.promoted
    assert registry.experiment_of(tracking, first) == tracking.experiment_id(Experiment.RELEASES)

    again, decision = submit(0, *[judged(0.3)] * 3)
    assert (again, decision.promoted) == (first, False)
    assert decision.because == "this version is the champion already"

    weak, decision = submit(1, *[judged(0.35)] * 3)
    assert not decision.promoted
    assert "accuracy beyond the noise of documents" in decision.because
    assert aliases(tracking) == {"champion": first.label, "challenger": weak.label}
    assert weak.tags[Tag.DECISION].startswith("refused: accuracy beyond")
    assert registry.experiment_of(tracking, weak) != tracking.experiment_id(Experiment.RELEASES)

    better, decision = submit(2, *[judged(1.0)] * 3)
    assert decision.promoted
    assert [check.rule for check in decision.checks][-1] == "latency beside the champion"
    assert aliases(tracking) == {
        "champion": better.label,
        "previous-champion": first.label,
        "challenger": weak.label,
    }

    gone, back = rollback(tracking, "ward", why="worse on the new ward")
    assert (gone.label, back.label) == (better.label, first.label)
    assert aliases(tracking)["champion"] == first.label
    with pytest.raises(RegistryError, match=r"no champion before ward/1 is on record.*clinscale models promote"):
        rollback(tracking, "ward", why="again")

    moves = history(tracking, "ward")
    assert [(move.action, move.before, move.after) for move in moves] == [
        ("promote", "", "ward/1"),
        ("refuse", "ward/1", "ward/1"),
        ("promote", "ward/1", "ward/3"),
        ("rollback", "ward/3", "ward/1"),
    ]
    assert moves[-1].why == "worse on the new ward"
    assert moves[-1].by.startswith(getpass.getuser())


@pytest.fixture
def bases(tracking, run, base_models, tmp_path):
    """Three released versions of a base model, of which the gate knows nothing bad."""
    made = []
    for text in ("one", "two", "three"):
        folder = shutil.copytree(base_models["longformer"], tmp_path / text)
        (folder / "README.md").write_text(text)
        made.append(
            registry.register(
                tracking, run.id, folder, name="ward", tags={Tag.KIND: "base"}, experiment=Experiment.RELEASES
            )
        )
    return [version.label for version in made]


def test_a_champion_that_changed_while_another_was_decided_on_stays(tracking, bases, tmp_path, monkeypatch):
    first, second, third = bases
    module = sys.modules[promote.__module__]
    promote(tracking, first, home=tmp_path)

    def decided_slowly(*given, decide=module._decide, **named):
        monkeypatch.setattr(module, "_decide", decide)
        found = decide(*given, **named)
        promote(tracking, second, home=tmp_path)
        return found

    monkeypatch.setattr(module, "_decide", decided_slowly)
    with pytest.raises(RegistryError, match=f"changed from {first} to {second} while this was decided"):
        promote(tracking, third, home=tmp_path)
    assert aliases(tracking) == {"champion": second, "previous-champion": first}
    assert [move.after for move in history(tracking, "ward")] == [first, second], "what failed is no decision"


def test_a_move_waits_for_one_that_began_before_unless_its_process_is_gone(tracking, bases, tmp_path, monkeypatch):
    monkeypatch.setattr("clinscale.promotion.turns._PATIENCE_S", 0.3)
    tags = {Tag.KIND: "promotion", Tag.NAME: "ward", Tag.ACTION: "promote"}
    other = registry.start_run(
        tracking, experiment=Experiment.RELEASES, name="promote ward/2", tags=tags, params={}
    )
    for number in ("0", "1"):  # it is about to take one, and it has one
        other.set_tags({Tag.DECISION_NUMBER: number})
        with pytest.raises(
            RegistryError, match=f"promote ward/2 by somebody is still open in MLflow .run {other.id}"
        ):
            promote(tracking, bases[0], home=tmp_path)
    assert history(tracking, "ward") == []
    assert aliases(tracking) == {}
    other.set_tags({Tag.OWNER: f"{socket.gethostname()} {2**30} 1@another-boot"})
    promote(tracking, bases[0], home=tmp_path)
    assert aliases(tracking) == {"champion": bases[0]}


@pytest.mark.parametrize("why", ["", " \n"])
def test_a_reason_that_says_nothing_is_refused(tracking, why, tmp_path):
    with pytest.raises(ConfigError, match="--why must give the reason"):
        rollback(tracking, "m", why=why)
    with pytest.raises(ConfigError, match="--why must give the reason"):
        promote(tracking, "m/1", home=tmp_path, force=why)


def test_a_champion_that_came_twice_goes_back_to_the_one_before_its_last_time(tracking, bases, tmp_path):
    first, second, third = bases
    for label in (first, second, third, second):
        promote(tracking, label, home=tmp_path)
    _, returned = rollback(tracking, "ward", why="worse on the new ward")
    assert returned.label == third


def test_a_clock_set_back_does_not_change_what_a_rollback_returns_to(tracking, bases, tmp_path, monkeypatch):
    first, second, third = bases
    for hours_back, label in enumerate((first, second, third, second)):
        with monkeypatch.context() as patch:
            now_s = time.time() - 3600 * hours_back
            patch.setattr(time, "time", lambda now_s=now_s: now_s)
            promote(tracking, label, home=tmp_path)
    assert [move.after for move in history(tracking, "ward")] == [first, second, third, second]
    _, returned = rollback(tracking, "ward", why="worse on the new ward")
    assert returned.label == third


def test_a_winner_that_learned_nothing_waits_as_challenger_until_it_is_wanted(
    tracking, submit, judged, data, demo_data, tmp_path
):
    nothing = baseline_outcomes(data, trivial)
    poor, decision = submit(0, *[nothing] * 3, rules=None)
    assert not decision.promoted
    assert "accuracy above the trivial baseline's" in poor.tags[Tag.DECISION]
    assert "search longer" in poor.tags[Tag.DECISION]
    assert aliases(tracking) == {"challenger": poor.label}
    assert history(tracking, "ward")[-1].action == "refuse"
    again, same = submit(0, *[nothing] * 3, rules=None)
    assert (again, same.because) == (poor, decision.because)
    assert len(history(tracking, "ward")) == 1, "nothing is decided anew"

    good, decision = submit(1, *[judged(1.0)] * 3, rules=None)
    assert decision.promoted
    assert aliases(tracking) == {"champion": good.label, "challenger": poor.label}


def test_a_version_on_record_is_promoted_beside_the_baseline_on_record(
    tracking, study, folder_of, judged, data, tmp_path
):
    made = study(judged(1.0), judged(1.0), judged(1.0))
    registry.register(tracking, made, folder_of(0), name="ward", tags={Tag.KIND: "task"})
    _, decision = promote(tracking, "ward/1", home=tmp_path)
    assert "no test outcomes of the baseline are on record" in decision.because
    assert aliases(tracking) == {"challenger": "ward/1"}
    with registry.reopen_run(tracking, made) as run:
        run.log_json(TRIVIAL_OUTCOMES_FILE, baseline_outcomes(data, trivial).plain())
    version, decision = promote(tracking, "ward/1", home=tmp_path)
    assert decision.promoted
    assert version.aliases == ("champion",)


def test_what_was_registered_elsewhere_is_released_as_a_copy(tracking, submit, judged, tmp_path):
    submit(0, *[judged(0.3)] * 3)
    weak, _ = submit(1, *[judged(0.35)] * 3)
    same, decision = promote(tracking, "ward@challenger", home=tmp_path, rules=ANY_LATENCY)
    assert (same.label, decision.promoted) == (weak.label, False)

    forced, _ = promote(tracking, "ward@challenger", home=tmp_path, rules=ANY_LATENCY, force="asked by the ward")
    assert forced.version == 3
    assert forced.aliases == ("champion",)
    assert forced.digest == weak.digest
    assert forced.tags[Tag.RELEASED_FROM] == weak.label
    assert registry.experiment_of(tracking, forced) == tracking.experiment_id(Experiment.RELEASES)
    assert (history(tracking, "ward")[-1].action, history(tracking, "ward")[-1].why) == (
        "force",
        "asked by the ward",
    )
    assert "challenger" in registry.resolve(tracking, weak.label).aliases


def test_a_champion_of_another_test_set_is_judged_again_on_this_one(tracking, submit, judged, folder_of, data):
    other = dataclasses.replace(judged(1.0), keys=tuple("x" for _ in judged(1.0).keys))
    submit(0, *[other] * 3)
    real = load_predictor(folder_of(0)).outcomes(data.splits["test"]).value()
    _, decision = submit(1, *[judged(1.0)] * 3)
    assert decision.promoted
    assert decision.difference[0] == pytest.approx(1 - real)
    assert "may have seen" in next(
        c.found for c in decision.checks if c.rule == "judged on the champion's test set"
    )


def test_a_version_without_outcomes_is_judged_on_the_data_at_hand(
    tracking, run, folder_of, data, demo_data, tmp_path
):
    registry.register(tracking, run.id, folder_of(0), name="ward", tags={Tag.KIND: "task"})
    _, refused = promote(tracking, "ward/1", home=tmp_path)
    assert "none on record; give the task's data with --data" in refused.because
    version, decision = promote(tracking, "ward/1", home=tmp_path, data=demo_data, rules=ANY_LATENCY)
    assert decision.promoted
    assert version.tags[Tag.RELEASED_FROM] == "ward/1"
    assert f"{len(data.splits['test'])} examples" in decision.checks[0].found


def test_what_the_base_remembers_counts_against_the_task_model(
    tracking, run, submit, judged, base_models, tmp_path
):
    base = registry.register(
        tracking,
        run.id,
        base_models["longformer"],
        name="base",
        tags={Tag.KIND: "base", Tag.EXPOSURE_P_VALUE: "0.001"},
    )
    _, refused = promote(tracking, base.label, home=tmp_path)
    assert refused.because == "memorisation: planted phrases are remembered"
    tags = {Tag.BASE: "somewhere/else", Tag.BASE_DIGEST: base.digest}
    _, decision = submit(0, *[judged(0.3)] * 3, tags=tags)
    assert "memorisation" in {check.rule for check in decision.checks if not check.passed}


@pytest.mark.slow
def test_the_winner_of_an_account_that_may_only_train_waits_for_one_that_may_promote(
    team_server, folder_of, judged, data, tmp_path
):
    team_server.user("ted", "trainer")
    team_server.user("pia", "promoter")

    def submit(tracking, seed, outcomes):
        run = registry.start_run(tracking, experiment=Experiment.SWEEP, name="study", tags={}, params={})
        run.log_json(OUTCOMES_FILE, outcomes.plain())
        run.log_json(OUTCOMES_BY_SEED_FILE, [outcomes.plain()] * 2)
        run.end()
        given = {
            "tags": {Tag.KIND: "task", Tag.METRIC: "accuracy"},
            "outcomes": (outcomes,) * 3,
            "rules": ANY_LATENCY,
        }
        return register_judged(tracking, run.id, folder_of(seed), name="wards", data=data, home=tmp_path, **given)

    with team_server.login("ted") as tracking:
        first, decision = submit(tracking, 0, judged(0.3))
        assert (decision.promoted, aliases(tracking, "wards")) == (False, {})
    with team_server.login("pia") as tracking:
        champion, decision = promote(tracking, first.label, home=tmp_path, rules=ANY_LATENCY)
        assert decision.promoted
    with team_server.login("ted") as tracking:
        waiting, decision = submit(tracking, 2, judged(1.0))
        assert not decision.promoted
        assert "this account may not read the champion or not promote" in decision.because
    with team_server.login("pia") as tracking:
        assert aliases(tracking, "wards") == {"champion": champion.label}
        better, decision = promote(tracking, waiting.label, home=tmp_path, rules=ANY_LATENCY)
        assert decision.promoted
        assert aliases(tracking, "wards")["champion"] == better.label


def foreign_champion(tracking, folder, tmp_path):
    """A version that somebody has made and named champion in MLflow itself."""
    tracking.client.create_registered_model("ward")
    made = tracking.client.create_model_version("ward", str(folder))
    tracking.client.set_registered_model_alias("ward", "champion", made.version)


def no_model(folder, base, tmp_path):
    made = tmp_path / "pickled"
    made.mkdir()
    (made / "model.pkl").write_bytes(b"pickled")
    return made


def an_encoder(folder, base, tmp_path):
    return base


def of_other_labels(folder, base, tmp_path):
    import torch
    from transformers import AutoModelForSequenceClassification

    made = shutil.copytree(folder, tmp_path / "other-labels")
    labels = ("alpha", "beta")
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, ignore_mismatched_sizes=True)
    model.config.id2label, model.config.label2id = dict(enumerate(labels)), {"alpha": 0, "beta": 1}
    with torch.no_grad():
        model.save_pretrained(made)
    card = TaskCard.read(made)
    card.model_copy(update={"labels": labels}).write(made)
    return made


def of_another_kind(folder, base, tmp_path):
    made = shutil.copytree(folder, tmp_path / "pairs")
    card = TaskCard.read(made)
    columns = card.task.columns.model_copy(update={"text_pair": "question"})
    card.model_copy(update={"task": card.task.model_copy(update={"kind": "pair", "columns": columns})}).write(made)
    return made


@pytest.mark.parametrize(
    ("champion", "says"),
    [
        (no_model, "ward/1 cannot be judged: ward/1 is no HF folder"),
        (an_encoder, "ward/1 cannot be judged: .* has no task_card.json"),
        (
            of_other_labels,
            r"ward/1 answers kind sequence with 2 labels, ward kind sequence with \d+, or with others",
        ),
        (of_another_kind, "ward/1 answers kind pair with"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_champion_that_is_no_model_of_the_task_costs_no_winner(
    tracking, submit, judged, folder_of, base_models, tmp_path, champion, says
):
    foreign_champion(tracking, champion(folder_of(0), base_models["longformer"], tmp_path), tmp_path)
    version, decision = submit(1, *[judged(1.0)] * 3)
    assert not decision.promoted
    assert re.search(says, decision.because)
    assert aliases(tracking) == {"champion": "ward/1", "challenger": version.label}
    forced, _ = promote(
        tracking, version.label, home=tmp_path, rules=ANY_LATENCY, force="the other is no model of it"
    )
    assert aliases(tracking)["champion"] == forced.label
    _, back = rollback(tracking, "ward", why="asked")
    assert back.label == "ward/1"


def test_a_champion_whose_files_or_run_are_gone_costs_no_winner(tracking, submit, judged, tmp_path):
    first, _ = submit(0, *[judged(0.3)] * 3)
    tracking.client.delete_run(first.run_id)
    better, decision = submit(1, *[judged(1.0)] * 3)
    assert decision.promoted
    [weights] = [
        file for file in (tmp_path / "mlartifacts").rglob("model.safetensors") if better.model_id in str(file)
    ]
    weights.unlink()
    shutil.rmtree(tmp_path / "models")
    last, decision = submit(2, *[judged(1.0)] * 3)
    assert not decision.promoted
    assert (
        f"{better.label} cannot be judged: {better.label}: missing files 'model.safetensors'" in decision.because
    )
    assert aliases(tracking)["challenger"] == last.label


def test_a_champion_that_is_deleted_while_another_is_decided_on_is_said(tracking, bases, tmp_path, monkeypatch):
    module = sys.modules[promote.__module__]
    promote(tracking, bases[0], home=tmp_path)

    def decided_slowly(*given, decide=module._decide, **named):
        found = decide(*given, **named)
        tracking.client.delete_model_version("ward", "1")
        return found

    monkeypatch.setattr(module, "_decide", decided_slowly)
    with pytest.raises(RegistryError, match="changed from ward/1 to none while this was decided; decide again"):
        promote(tracking, bases[1], home=tmp_path)
    assert aliases(tracking) == {}


def test_a_move_that_is_cut_off_behind_the_alias_can_be_taken_back(tracking, bases, tmp_path, monkeypatch):
    first, second, _ = bases
    promote(tracking, first, home=tmp_path)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry, "set_version_tags", interrupted)
        with pytest.raises(KeyboardInterrupt):
            promote(tracking, second, home=tmp_path)
    assert aliases(tracking) == {"champion": second, "previous-champion": first}
    _, back = rollback(tracking, "ward", why="asked")
    assert back.label == first


def test_a_task_and_a_base_have_no_name_in_common(tracking, run, bases, folder_of):
    with pytest.raises(
        ConfigError, match=r"model ward holds base models \(ward/1\), and this is a task model; give"
    ):
        registry.register(tracking, run.id, folder_of(0), name="ward", tags={Tag.KIND: "task"})
    with pytest.raises(ConfigError, match="another name: name of a pretraining, register_as of a study"):
        registry.check_kind(tracking, "ward", "task")
    registry.check_kind(tracking, "ward", "base")


def test_of_two_versions_without_a_digest_the_one_is_not_the_other(tracking, base_models, tmp_path):
    """Neither was registered by clinscale."""
    foreign_champion(tracking, base_models["longformer"], tmp_path)
    tracking.client.create_model_version("ward", str(base_models["bigbird"]))
    _, decision = promote(tracking, "ward/2", home=tmp_path)
    assert decision.because != "this version is the champion already"
    assert not decision.promoted
    assert aliases(tracking) == {"champion": "ward/1", "challenger": "ward/2"}


def test_data_at_hand_are_read_by_the_labels_that_the_model_knows(
    tracking, run, folder_of, data, demo_data, tmp_path
):
    registry.register(tracking, run.id, folder_of(0), name="ward", tags={Tag.KIND: "task"})
    registry.register(tracking, run.id, folder_of(1), name="ward", tags={Tag.KIND: "task"})
    rare, new = data.labels[-1], "never seen"
    for name, change in {"fewer": lambda rows: rows[rows.label != rare], "more": lambda rows: rows}.items():
        folder = shutil.copytree(demo_data, tmp_path / name)
        for file in (folder / "documents").glob("*.csv"):
            rows = change(pandas.read_csv(file))
            if name == "more" and file.stem == "test":
                rows.loc[rows.index[0], "label"] = new
            rows.to_csv(file, index=False)
    _, decision = promote(tracking, "ward/1", home=tmp_path, data=tmp_path / "fewer", rules=ANY_LATENCY)
    assert decision.checks[0].passed
    with pytest.raises(DataError, match="label is not among the task's"):
        promote(tracking, "ward/2", home=tmp_path, data=tmp_path / "more", rules=ANY_LATENCY)
