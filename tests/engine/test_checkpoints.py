"""Checkpoints of real gloo groups: the same run goes on, on any number of ranks, at any ZeRO stage, whatever broke."""

import hashlib
import importlib.util
import itertools
import json
import os
import pickle
import resource
import shutil
import time
from pathlib import Path

import pytest
import torch

from clinscale import held
from clinscale.engine import CheckpointStore, RetentionConfig, consolidated_state, newest_checkpoint, run_key
from clinscale.engine.manifest import MANIFEST, Manifest, read_manifest
from clinscale.engine.snapshot import write_files
from clinscale.engine.universal import read_model_states
from clinscale.errors import AccessError, CapacityError, ClusterError, DataError
from clinscale.storage import sha256

_spec = importlib.util.spec_from_file_location("group", Path(__file__).with_name("group.py"))
group = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(group)

STAGES = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def runs(base_models, tmp_path_factory):
    """Undisturbed, resumed, and resumed elsewhere, in groups of 2, 1, 2 and 4 ranks; with the folder of all."""
    folder = tmp_path_factory.mktemp("groups") / "a[1]*?"  # DeepSpeed looks for its files by patterns
    folder.mkdir()
    model = base_models["longformer"]

    def at(name):
        return str(folder / name)

    plans, names = [], []

    def group_of(world_size):
        plans.append({"model": model, "world_size": world_size, "phases": []})

    def add(name, stage, steps, **more):
        names.append(name)
        plans[-1]["phases"].append({"stage": stage, "steps": steps, **more})

    group_of(2)
    for stage in STAGES:
        add(f"undisturbed-{stage}", stage, 6, saves=[2, 3], save=at(f"two-{stage}"))
        add(f"resumed-{stage}", stage, 3, restore=at(f"two-{stage}"))
    for stage in (0, 2):
        add(f"undisturbed-bf16-{stage}", stage, 6, precision="bf16", saves=[3], save=at(f"two-bf16-{stage}"))
        add(f"resumed-bf16-{stage}", stage, 3, precision="bf16", restore=at(f"two-bf16-{stage}"))
    for precision in ("fp32", "bf16"):
        for name in ("muon", "schedule_free"):
            this, place = {"optimizer": name, "precision": precision}, at(f"two-{name}-{precision}")
            add(f"undisturbed-{name}-{precision}", 0, 6, saves=[3], save=place, judge=True, **this)
            end = {"saves": [6], "save": at(f"end-{name}-{precision}")}
            add(f"resumed-{name}-{precision}", 0, 3, restore=place, **end, **this)
    for stage, other in ((0, 3), (3, 0), (1, 3)):
        add(f"{stage}-to-{other}", other, 3, restore=at(f"two-{stage}"))
    offload = {"zero": {"offload_optimizer": "cpu", "offload_param": "cpu"}}
    add("undisturbed-offload", 3, 6, saves=[3], save=at("two-offload"), **offload)
    add("resumed-offload", 3, 3, restore=at("two-offload"), **offload)
    add("skipped", 2, 6, skip=[3])
    add("skipped-0", 0, 6, skip=[3])
    add("skipped-3", 3, 6, skip=[3])

    group_of(1)
    for stage in STAGES:
        add(f"one-{stage}", stage, 2, restore=at(f"two-{stage}"), saves=[5], save=at(f"one-{stage}"))
    for name in ("muon", "schedule_free"):
        add(f"one-{name}", 0, 3, restore=at(f"two-{name}-fp32"), optimizer=name)
        add(f"{name}-to-fp32", 0, 3, restore=at(f"two-{name}-bf16"), optimizer=name)
    add("three", 3, 1, restore=at("two-2"), saves=[4], save=at("three"))
    add("bf16-to-3", 3, 3, precision="bf16", restore=at("two-bf16-0"))
    add("bf16-to-fp32", 1, 3, restore=at("two-bf16-2"))

    group_of(2)
    for stage in STAGES:
        add(f"two-again-{stage}", stage, 1, restore=at(f"one-{stage}"))
    add("one-of-231", 1, 2, restore=at("three"), saves=[6], save=at("231"))

    group_of(4)
    add("four-of-2", 3, 3, restore=at("two-2"))
    add("four-of-offload", 2, 3, restore=at("two-offload"))
    found = itertools.chain.from_iterable(group.run_groups(plans, folder))
    return folder, dict(zip(names, found, strict=True))


def losses(found, name, steps):
    return {step: found[name]["losses"][step] for step in steps}


ALONE = [f"{name}-{precision}" for name in ("muon", "schedule_free") for precision in ("fp32", "bf16")]
"""Of stage 0 alone."""


@pytest.mark.parametrize("name", [*map(str, STAGES), "bf16-0", "bf16-2", "offload", *ALONE])
def test_a_run_goes_on_bit_for_bit(name, runs):
    _, found = runs
    assert found[f"resumed-{name}"]["state"] == {"step": 3, "third": 1 / 3}
    assert found[f"resumed-{name}"]["losses"] == losses(found, f"undisturbed-{name}", (3, 4, 5))
    for what in ("rate", "updates"):
        assert found[f"resumed-{name}"][what] == found[f"undisturbed-{name}"][what]


@pytest.mark.parametrize(("stage", "other"), [(0, 3), (3, 0), (1, 3)])
def test_another_zero_stage_on_as_many_ranks_changes_nothing(stage, other, runs):
    _, found = runs
    resumed, undisturbed = found[f"{stage}-to-{other}"], found[f"undisturbed-{stage}"]
    assert resumed["losses"] == pytest.approx(losses(found, f"undisturbed-{stage}", (3, 4, 5)), abs=1e-6)
    assert (resumed["rate"], resumed["updates"]) == (undisturbed["rate"], undisturbed["updates"])


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_then_one_then_two_end_as_undisturbed(stage, runs):
    _, found = runs
    there, back = found[f"one-{stage}"], found[f"two-again-{stage}"]
    assert there["losses"] | back["losses"] == pytest.approx(
        losses(found, f"undisturbed-{stage}", (3, 4, 5)), abs=1e-5
    )
    assert back["updates"] == 6


def test_stage_2_then_3_then_1_end_as_undisturbed(runs):
    _, found = runs
    on_the_way = found["three"]["losses"] | found["one-of-231"]["losses"]
    assert on_the_way == pytest.approx(losses(found, "undisturbed-2", (3, 4, 5)), abs=1e-5)


@pytest.mark.parametrize("name", ["2", "offload"])
def test_two_ranks_then_four_at_another_stage_end_as_undisturbed(name, runs):
    _, found = runs
    expected = losses(found, f"undisturbed-{name}", (3, 4, 5))
    assert found[f"four-of-{name}"]["losses"] == pytest.approx(expected, abs=1e-5)


def test_offload_to_the_host_changes_nothing(runs):
    _, found = runs
    assert found["undisturbed-offload"]["losses"] == pytest.approx(found["undisturbed-3"]["losses"], abs=1e-6)


def test_bf16_keeps_its_master_weights_through_a_conversion(runs):
    _, found = runs
    expected = losses(found, "undisturbed-bf16-0", (3, 4, 5))
    assert found["bf16-to-3"]["losses"] == pytest.approx(expected, abs=5e-3)
    assert found["bf16-to-fp32"]["losses"] == pytest.approx(
        losses(found, "undisturbed-bf16-2", (3, 4, 5)), abs=2e-2
    )


@pytest.mark.parametrize("name", ["muon", "schedule_free"])
def test_other_optimisers_go_on_with_fewer_ranks_and_in_another_precision(name, runs):
    _, found = runs
    expected = losses(found, f"undisturbed-{name}-fp32", (3, 4, 5))
    assert found[f"one-{name}"]["losses"] == pytest.approx(expected, abs=1e-3)
    assert (found[f"one-{name}"]["updates"], found[f"{name}-to-fp32"]["updates"]) == (6, 6)
    assert expected != losses(found, "undisturbed-0", (3, 4, 5))
    assert found[f"{name}-to-fp32"]["losses"] == pytest.approx(
        losses(found, f"undisturbed-{name}-bf16", (3, 4, 5)), abs=2e-2
    )


@pytest.mark.parametrize("name", ALONE)
def test_what_is_judged_is_what_a_checkpoint_is_saved_as(name, runs):
    """The undisturbed run was judged at each step and the resumed one never: that changes no loss."""
    folder, found = runs
    weights = consolidated_state(newest_checkpoint(folder / f"end-{name}"))
    judged = found[f"undisturbed-{name}"]["judged"]
    assert all(torch.equal(one, weights[key].to(one.dtype)) for key, one in judged.items() if key in weights)
    key = "longformer.encoder.layer.0.output.dense.weight"
    trained = read_model_states(folder / f"end-{name}" / "step-00000006")["module"][key]
    assert torch.equal(trained, judged[key]) == name.startswith("muon"), (
        "the average is another than what is trained"
    )


@pytest.mark.parametrize("name", ["bf16-0", "bf16-2", "2", "muon-bf16"])
def test_the_weights_of_a_checkpoint_are_the_masters_in_fp32(name, runs):
    folder, _ = runs
    weights = consolidated_state(newest_checkpoint(folder / f"two-{name}"))
    assert {weight.dtype for weight in weights.values() if weight.is_floating_point()} == {torch.float32}
    tied = weights["longformer.embeddings.word_embeddings.weight"]
    assert torch.equal(tied, weights["lm_head.decoder.weight"])
    assert torch.equal(tied, tied.bfloat16().float()) is False


@pytest.mark.parametrize(("name", "stage"), [("skipped", 2), ("skipped-0", 0), ("skipped-3", 3)])
def test_a_step_without_update_leaves_the_weights_and_is_forgotten(name, stage, runs):
    _, found = runs
    undisturbed = losses(found, f"undisturbed-{stage}", range(6))
    assert losses(found, name, range(4)) == losses(found, f"undisturbed-{stage}", range(4))
    assert found[name]["losses"][4] != undisturbed[4]
    assert (found[name]["updates"], found[f"undisturbed-{stage}"]["updates"]) == (5, 6)
    assert found[name]["rate"] == found[f"undisturbed-{stage}"]["rate"], "the schedule counts steps"


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_norm_of_the_gradients_is_told(stage, runs):
    _, found = runs
    norms = found[f"undisturbed-{stage}"]["norms"]
    assert norms == pytest.approx(found["undisturbed-2"]["norms"], rel=1e-3)
    assert all(norm > 0 for norm in norms)


@pytest.fixture
def saved(runs, tmp_path):
    """A copy of two checkpoints, of steps 2 and 3, of two ranks at stage 2."""
    folder, _ = runs
    return shutil.copytree(folder / "two-2", tmp_path / "checkpoints")


def damage(checkpoint, how):
    shard = next((checkpoint / "engine").glob("*rank_1*optim_states.pt"))
    if how == "torn":
        os.truncate(shard, 200)
    elif how == "changed":
        with shard.open("r+b") as stream:
            stream.seek(shard.stat().st_size // 2)
            stream.write(b"\xff" * 8)
    elif how == "missing":
        shard.unlink()
    else:
        (checkpoint / "manifest.json").write_text("{")


@pytest.mark.parametrize("how", ["torn", "changed", "missing", "no manifest"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(how, saved, caplog):
    newest = newest_checkpoint(saved)
    assert newest.name == "step-00000003"
    damage(newest, how)
    assert newest_checkpoint(saved, set_aside=True).name == "step-00000002"
    assert (saved / "step-00000003.damaged").is_dir()
    assert "step-00000003 is damaged" in caplog.text
    damage(saved / "step-00000002", how)
    assert newest_checkpoint(saved, set_aside=True) is None


def test_what_was_not_finished_is_no_checkpoint(saved):
    (saved / "step-00000003").rename(saved / ".step-00000009.partial")
    assert newest_checkpoint(saved).name == "step-00000002"
    assert newest_checkpoint(saved / "nowhere") is None


def test_a_checkpoint_without_the_shard_of_one_rank_has_no_weights(saved):
    damage(saved / "step-00000003", "missing")
    with pytest.raises(DataError, match=r"no complete checkpoint: .*rank_1.* is missing"):
        consolidated_state(saved / "step-00000003")
    with pytest.raises(DataError, match=r"no manifest\.json"):
        consolidated_state(saved)


def test_a_manifest_says_what_was_saved_and_holds_no_text(saved):
    manifest = json.loads((saved / "step-00000003" / "manifest.json").read_text())
    assert (manifest["step"], manifest["world_size"], manifest["stage"], manifest["updates"]) == (3, 2, 2, 3)
    on_disk = {
        str(path.relative_to(saved / "step-00000003"))
        for path in (saved / "step-00000003").rglob("*")
        if path.is_file()
    }
    ours = {"manifest.json", "rank-0.json", "rank-1.json"}
    assert {name for name in on_disk if not name.endswith(".py")} == set(manifest["files"]) | ours


class Weights:
    """An engine of one tensor, for what the store does with files."""

    stage, precision, updates, schedule_steps, parameter_names = 0, "fp32", 0, 0, ("weight",)

    def snapshot(self, snapshot, folder):
        snapshot.add({"weight": torch.zeros(1000)}, folder / "engine" / "mp_rank_00_model_states.pt")


def steps_after(folder, saves, **retention):
    store = CheckpointStore(
        folder, rank=0, world_size=1, retention=RetentionConfig.model_validate(retention), patience_s=0
    )
    for step, metric in saves:
        store.save(Weights(), step, {"step": step}, metric=metric)
    store.close()
    return sorted(int(entry.name[5:]) for entry in folder.iterdir() if not entry.name.startswith("."))


def test_a_group_in_whose_place_another_began_writes_nothing_any_more(tmp_path):
    class Restored(Weights):
        def load(self, checkpoint):
            assert checkpoint.name == "step-00000001"

    cut_off, successor = (CheckpointStore(tmp_path / "run", rank=0, world_size=1, patience_s=0) for _ in range(2))
    assert cut_off.restore(Restored()) is None
    cut_off.save(Restored(), 1, {"step": 1})
    cut_off.wait()
    assert successor.restore(Restored()) == {"step": 1}
    successor.save(Restored(), 2, {"step": 2})
    successor.wait()
    cut_off.save(Restored(), 2, {"step": 2, "late": True})
    with pytest.raises(ClusterError, match="another group of workers"):
        cut_off.close()
    assert sorted(entry.name for entry in (tmp_path / "run").glob("*step*")) == ["step-00000001", "step-00000002"]
    assert json.loads((tmp_path / "run" / "step-00000002" / "state.json").read_text()) == {"step": 2}


@pytest.mark.parametrize(
    ("retention", "kept"),
    [
        ({}, [5, 6]),
        ({"num_to_keep": 1}, [6]),
        ({"num_to_keep": 1, "keep_every_steps": 2}, [2, 4, 6]),
        ({"num_to_keep": 1, "keep_best": True}, [3, 6]),
        ({"num_to_keep": 4, "max_age_s": 1e-9}, [6]),
    ],
)
def test_the_retention_decides_what_stays(retention, kept, tmp_path):
    saves = [(1, 3.0), (2, 2.0), (3, 1.0), (4, None), (5, 4.0), (6, 5.0)]
    assert steps_after(tmp_path / "checkpoints", saves, **retention) == kept


def test_a_folder_that_cannot_be_written_is_named_and_the_last_checkpoint_stays(tmp_path):
    folder = tmp_path / "checkpoints"
    steps_after(folder, [(1, None)])
    (folder / ".step-00000002.partial").write_text("in the way")
    with pytest.raises(
        CapacityError, match=r"checkpoints cannot be used: .*goes on from the last whole checkpoint"
    ):
        steps_after(folder, [(2, None)])
    assert newest_checkpoint(folder).name == "step-00000001"


def test_a_checkpoint_whose_folder_is_away_is_written_when_it_is_back(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(held, "_RETRY_S", 0.001)
    run, server = tmp_path / "run", tmp_path / "server"
    folder = run / "checkpoints"
    folder.mkdir(parents=True)
    with held.hold(folder, "run base"):
        store = CheckpointStore(folder, rank=0, world_size=1, patience_s=0)
        run.rename(server)
        run.mkdir()  # the mount point
        store.save(Weights(), 1, {"step": 1})  # and training goes on
        while "run base waits for its folder" not in caplog.text:
            time.sleep(0)
        run.rmdir()  # nothing was written there
        server.rename(run)
        store.close()
    assert newest_checkpoint(folder).name == "step-00000001"


def test_a_disk_that_fills_up_in_the_middle_is_told_as_the_system_tells_it(tmp_path):
    largest = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, largest[1]))  # what the system then says to a write
        with pytest.raises(OSError, match="File too large"):
            write_files({tmp_path / "large.pt": {"weights": torch.zeros(100_000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, largest)


def test_a_file_is_whole_on_the_disk_before_it_counts_as_written(tmp_path, monkeypatch):
    path, synced, fsync = tmp_path / "states.pt", {}, os.fsync

    def recorded(descriptor):
        fsync(descriptor)
        found = os.fstat(descriptor)
        synced[found.st_ino] = found.st_size

    monkeypatch.setattr(os, "fsync", recorded)
    size_bytes, _ = write_files({path: {"weights": torch.zeros(1)}})[path]
    assert synced == {path.stat().st_ino: size_bytes}


def test_a_checkpoint_without_manifest_stops_no_later_one(tmp_path):
    steps_after(tmp_path, [(1, None), (2, None)])
    (tmp_path / "step-00000002" / MANIFEST).write_text("{")
    steps_after(tmp_path, [(3, None), (4, None)])
    assert newest_checkpoint(tmp_path).name == "step-00000004"
    assert {path.name for path in tmp_path.glob("step-*")} == {f"step-0000000{n}" for n in (2, 3, 4)}


def test_a_disk_without_room_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"
    steps_after(folder, [(1, None)])
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CapacityError, match=r"No space left: \d.* needed, 100 B free"):
        steps_after(folder, [(2, None)])
    assert newest_checkpoint(folder).name == "step-00000001"


def a_checkpoint(folder):
    """What a whole checkpoint is on the disk, without a model."""
    checkpoint = folder / "step-00000001"
    written = write_files({checkpoint / "engine" / "states.pt": {"weights": torch.zeros(1)}})
    files = {str(path.relative_to(checkpoint)): known for path, known in written.items()}
    about = {"step": 1, "updates": 1, "schedule_steps": 1, "world_size": 1, "stage": 0, "precision": "fp32"}
    manifest = Manifest(**about, metric=None, parameters=(), files=files, taken_at_s=0.0)
    signature = run_key.sign(folder, manifest.signed_text())
    (checkpoint / MANIFEST).write_text(json.dumps(manifest.sealed(signature)))
    (checkpoint / MANIFEST).chmod(0o600)
    return checkpoint


class Bomb:
    def __reduce__(self):
        return Path("went-off").touch, ()


def plant(checkpoint, *, known):
    """What somebody does who may write there: other files, and a manifest that fits them."""
    state = checkpoint / "engine" / "states.pt"
    state.write_bytes(pickle.dumps(Bomb()))
    if known:
        told = json.loads((checkpoint / MANIFEST).read_text())
        told["files"]["engine/states.pt"] = [state.stat().st_size, sha256(state)]
        (checkpoint / MANIFEST).write_text(json.dumps(told))


@pytest.fixture
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("CLINSCALE_RUN_KEYS", str(tmp_path / "account"))
    monkeypatch.chdir(tmp_path)


def test_in_a_folder_that_others_may_write_to_only_what_the_run_signed_is_loaded(tmp_path, own_home):
    folder = tmp_path / "checkpoints"
    checkpoint = a_checkpoint(folder)
    folder.chmod(0o777)
    assert newest_checkpoint(folder) == checkpoint
    plant(checkpoint, known=True)
    for load in (newest_checkpoint, lambda _: consolidated_state(checkpoint)):
        with pytest.raises(AccessError, match="not signed with this run's key"):
            load(folder)
    assert not (tmp_path / "went-off").exists()


def test_without_the_runs_key_a_shared_checkpoint_is_refused_and_a_private_one_is_not(tmp_path, own_home):
    folder = tmp_path / "checkpoints"
    checkpoint = a_checkpoint(folder)
    assert run_key.key_file(folder).stat().st_mode & 0o777 == 0o600
    run_key.key_file(folder).unlink()
    assert newest_checkpoint(folder) == checkpoint
    (checkpoint / "engine").chmod(0o770)
    with pytest.raises(AccessError, match="bring the key"):
        newest_checkpoint(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as a second account")
def test_what_another_account_put_into_a_checkpoint_is_refused(tmp_path, own_home):
    checkpoint = a_checkpoint(tmp_path / "checkpoints")
    plant(checkpoint, known=True)
    os.chown(checkpoint / "engine" / "states.pt", 54321, 54321)
    with pytest.raises(AccessError, match="others may write"):
        newest_checkpoint(tmp_path / "checkpoints")


@pytest.mark.parametrize(
    ("field", "value"), [("schedule_steps", 2), ("updates", 0), ("taken_at_s", 1.0), ("signature", "0" * 64)]
)
def test_a_manifest_with_another_value_than_was_written_is_damage(field, value, tmp_path, own_home, caplog):
    checkpoint = a_checkpoint(tmp_path / "checkpoints")
    told = json.loads((checkpoint / MANIFEST).read_text())
    (checkpoint / MANIFEST).write_text(json.dumps(told | {field: value}))
    run_key.key_file(tmp_path / "checkpoints").unlink()  # as on the machine that a private run was moved to
    assert newest_checkpoint(tmp_path / "checkpoints") is None
    assert "its manifest has other content than was written" in caplog.text


def test_an_older_checkpoint_under_the_name_of_a_newer_one_is_damage(tmp_path, own_home, caplog):
    checkpoint = a_checkpoint(tmp_path / "checkpoints")
    shutil.copytree(checkpoint, checkpoint.with_name("step-00000002"))
    assert newest_checkpoint(tmp_path / "checkpoints", set_aside=True) == checkpoint
    assert "step-00000002 is damaged (it is that of step 1)" in caplog.text


@pytest.mark.parametrize("how", ["unlisted", "link", "changed"])
def test_only_the_files_of_the_manifest_are_in_a_checkpoint(tmp_path, own_home, how):
    checkpoint = a_checkpoint(tmp_path / "checkpoints")
    state = checkpoint / "engine" / "states.pt"
    if how == "unlisted":
        shutil.copy(state, state.with_name("more.pt"))
        state.with_name("more.pt").chmod(0o600)
    elif how == "link":
        state.rename(tmp_path / "states.pt")
        state.symlink_to(tmp_path / "states.pt")
    else:
        plant(checkpoint, known=False)
    assert newest_checkpoint(tmp_path / "checkpoints") is None
    with pytest.raises(DataError, match="no complete checkpoint"):
        consolidated_state(checkpoint)


def test_a_checkpoint_of_an_earlier_clinscale_is_read(tmp_path, own_home):
    checkpoint = a_checkpoint(tmp_path / "checkpoints")
    told = json.loads((checkpoint / MANIFEST).read_text())
    told["digest"] = hashlib.sha256(read_manifest(checkpoint).signed_text()).hexdigest()  # the signature left out
    (checkpoint / MANIFEST).write_text(json.dumps(told))
    assert newest_checkpoint(tmp_path / "checkpoints") == checkpoint
    del told["signature"], told["digest"]
    (checkpoint / MANIFEST).write_text(json.dumps(told))
    for path in (checkpoint.parent, checkpoint, checkpoint / "engine"):
        path.chmod(0o755)
    assert newest_checkpoint(tmp_path / "checkpoints") == checkpoint
