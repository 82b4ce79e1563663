"""The injector is honest: a try that loses something is told as lost, and a seed repeats it. The faults themselves."""

import contextlib
import random
import shutil
import signal

import pytest

from clinscale import held
from clinscale.bench import faults
from clinscale.bench.faults import disks, run
from clinscale.bench.faults.loss import LossError
from clinscale.errors import ConfigError, DataError


def tried(monkeypatch, attempt, *, why_not=lambda: None, **options):
    monkeypatch.setattr(run, "all_faults", lambda: [faults.Fault("one", "nothing is lost", attempt, why_not)])
    return faults.bench_faults(times=3, seed=5, **options)


def losses(record):
    """Sentence of each fault that was not survived, which pytest would cut out of the rows."""
    return "\n".join(f"seed {record.seed}, {row['fault']}: {row['said']}" for row in record.rows() if row["said"])


def test_a_try_that_loses_something_is_no_survivor_and_its_reason_quotes_no_text(monkeypatch):
    def attempt(scene):
        number = next(numbers)
        if number == 0:
            raise faults.LossError("a metric is missing")
        if number == 1:
            raise KeyError("Mrs Smith")
        return faults.Outcome(lost_steps=2)

    numbers = iter(range(3))
    record = tried(monkeypatch, attempt)
    assert not record.all_survived
    [row] = record.rows()
    assert (row["tried"], row["survived"]) == (3, 1)
    assert row["work lost at most"] == "2 steps"
    assert "a metric is missing" in row["said"]
    assert "KeyError at test_faults.py" in row["said"]
    assert "Smith" not in str(record.plain())


def test_work_that_was_over_before_the_fault_is_tried_again_and_never_counts_as_survived(monkeypatch):
    def attempt(scene):
        drawn.append(scene.rng.random())
        if len(drawn) != 3:  # the first try is struck at its third moment, the others never
            raise faults.NotStruckError("the command was over")
        return faults.Outcome()

    drawn = []
    record = tried(monkeypatch, attempt)
    [row] = record.rows()
    assert (row["tried"], row["survived"], row["said"]) == (3, 1, "not struck 2 times: the command was over")
    assert len(drawn) == len({*drawn}) == 9
    assert not record.all_survived
    assert record.plain()["faults"][0]["not_struck"] == ("the command was over",) * 2


def test_the_seed_decides_the_moments(monkeypatch):
    def moments():
        seen = []
        tried(monkeypatch, lambda scene: seen.append(scene.rng.random()) or faults.Outcome())
        return seen

    assert moments() == moments()
    assert len({*moments()}) == 3


def test_what_cannot_be_done_here_is_said_and_not_counted(monkeypatch):
    record = tried(monkeypatch, lambda scene: faults.Outcome(), why_not=lambda: "this needs root")
    [row] = record.rows()
    assert (row["tried"], row["survived"], row["said"]) == (0, 0, "this needs root")
    assert record.all_survived


def test_a_try_beyond_its_limit_is_cut_off_and_told(monkeypatch):
    def attempt(scene):
        if next(numbers):
            try:
                signal.pause()
            except KeyboardInterrupt:
                raise DataError("what a library makes of it") from None
        return faults.Outcome()

    numbers = iter(range(3))
    record = tried(monkeypatch, attempt, limit_s=0.05)
    [row] = record.rows()
    assert (row["tried"], row["survived"], row["said"]) == (2, 1, "no result: cut off after 0.05 s")
    assert not record.all_survived
    assert not record.interrupted


def test_an_interrupted_bench_has_the_results_until_then(monkeypatch):
    def interrupted(scene):
        raise KeyboardInterrupt

    known = [("one", lambda scene: faults.Outcome()), ("two", interrupted), ("three", interrupted)]
    monkeypatch.setattr(run, "all_faults", lambda: [faults.Fault(name, "", attempt) for name, attempt in known])
    told = []
    record = faults.bench_faults(times=1, on_result=told.append)
    assert record.interrupted
    assert not record.all_survived
    assert [(row["fault"], row["said"]) for row in record.rows()] == [
        ("one", ""),
        ("two", "no result: cut off by an interruption"),
    ]
    assert told == [*record.results]


def test_a_fault_that_nobody_knows_is_refused_with_its_neighbour():
    with pytest.raises(ConfigError, match="did you mean checkpoint truncated"):
        faults.bench_faults(only=["checkpoint truncate_"])


@pytest.mark.skipif(disks.why_no_disk() is not None, reason=str(disks.why_no_disk()))
def test_a_small_disk_is_full_and_read_only_for_root_too(tmp_path, monkeypatch):
    with disks.disk(tmp_path / "disk", size_bytes=2**20) as place:
        (place.path / "before").write_text("before")
        room = shutil.disk_usage(place.path)
        (place.path / "meanwhile").write_bytes(bytes(room.free))
        with monkeypatch.context() as another_was_first:
            another_was_first.setattr(shutil, "disk_usage", lambda path: room)
            place.fill(leave_bytes=room.free - 4096)
        with pytest.raises(OSError, match="No space"):
            (place.path / "more").write_bytes(bytes(8192))
        place.empty()
        (place.path / "meanwhile").unlink()
        (place.path / "more").write_bytes(bytes(8192))
        place.close()
        with pytest.raises(OSError, match="Read-only"):
            (place.path / "other").touch()
        place.open()
        assert (place.path / "before").read_text() == "before"
    assert not (tmp_path / "disk" / "before").exists()


@pytest.mark.skipif(disks.why_no_slow_disk() is not None, reason=str(disks.why_no_slow_disk()))
def test_a_slow_disk_is_its_own_and_slow_until_it_is_given_back(tmp_path):
    speeds = disks._SPEEDS
    before = speeds.read_text()
    with disks.slow_disk(tmp_path / "disk", size_bytes=16 * 2**20) as place:
        assert str(disks.SLOW_BYTES_PER_S) in speeds.read_text()
        (place / "x").write_text("x")
        assert place.is_mount()
    assert speeds.read_text() == before
    assert not [*(tmp_path / "disk").iterdir()]


@pytest.mark.skipif(disks.why_no_disk() is not None, reason=str(disks.why_no_disk()))
def test_a_shared_folder_comes_back_as_it_was_and_what_is_written_in_its_place_is_damage(tmp_path):
    with contextlib.ExitStack() as mounted:
        place = mounted.enter_context(disks.shared_folder(tmp_path / "shared"))
        run = place.path / "run"
        run.mkdir()
        with held.hold(run, "the run"):
            place.leave()
            assert held.is_away(run / "file")
            place.come_back()
            assert not held.is_away(run / "file")
        (run / "before").write_text("before")
        place.leave()
        run.mkdir()
        (run / "file").write_text("file")
        place.come_back()
        assert [path.name for path in run.iterdir()] == ["before"]
        with pytest.raises(LossError, match=r"this was written in its place: run/file$"):
            mounted.close()


@pytest.mark.skipif(disks.why_no_disk() is not None, reason=str(disks.why_no_disk()))
def test_a_ledger_on_a_disk_that_comes_back_has_lost_nothing():
    record = faults.bench_faults(
        times=1, seed=random.randrange(1000), only=["full while a ledger", "read-only while a ledger"]
    )
    assert record.all_survived, losses(record)
    assert len(record.rows()) == 2


REDUCED = ["full while metrics", "read-only while shards", "two promotions", "stopped for ever"]


@pytest.mark.chaos
def test_nothing_is_lost_at_one_try_of_the_faults_that_no_other_test_does():
    """One call, so that the undisturbed work is done once."""
    only = [fault.name for fault in faults.all_faults() if any(word in fault.name for word in REDUCED)]
    assert len(only) == len(REDUCED)
    record = faults.bench_faults(times=1, seed=random.randrange(1000), only=only)
    assert record.all_survived, losses(record)


def test_damage_of_other_kinds_than_these_is_no_success(tmp_path):
    """A fault whose work fails with an error of ours is broken, too."""

    def attempt(scene):
        raise DataError(f"{scene.folder}/x is gone")

    with pytest.MonkeyPatch.context() as patch:
        [result] = tried(patch, attempt).results
    assert [*result.broken] == ["DataError: /x is gone"] * 3
