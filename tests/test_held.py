"""Work whose folder goes away for a while, as a shared one does, and comes back."""

import threading

import pytest

from clinscale import held, storage
from clinscale.errors import ClusterError
from clinscale.permissions import make_folder, open_private
from clinscale.storage import write_json


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A shared folder with a run's in it, which is looked at often."""
    monkeypatch.setattr(held, "_RETRY_S", 0.001)
    return make_folder(tmp_path / "shared" / "run").parent


def leave(place, *, empty):
    """Take it away, as `umount` does: under its name is an empty folder, or nothing."""
    place.rename(place.with_name("server"))
    if empty:
        place.mkdir()


def come_back(place):
    if place.exists():
        place.rmdir()  # fails where something was written in its place
    place.with_name("server").rename(place)


@pytest.mark.parametrize("held_folder", ["shared", "shared/run"])
@pytest.mark.parametrize("empty", [True, False])
@pytest.mark.parametrize("write", [write_json, lambda path, text: make_folder(path.parent / "made")])
def test_what_is_written_while_the_folder_is_away_waits_and_is_written_there(
    place, held_folder, empty, write, caplog
):
    with held.hold(place.parent / held_folder, "the run"):
        leave(place, empty=empty)
        assert held.is_away(place / "run" / "new" / "file")
        writer = threading.Thread(target=write, args=(place / "run" / "new" / "file", "text"))
        writer.start()
        while not caplog.messages:
            assert writer.is_alive(), "it did not wait"
        come_back(place)
        writer.join()
        assert not held.is_away(place)
    assert [*(place / "run" / "new").iterdir()]
    waited, back = caplog.messages
    assert waited.startswith("the run waits for its folder ")
    assert waited.endswith("which is away, for at most 300 s")
    assert back.endswith("is back; the run goes on")


def test_what_is_read_or_half_written_while_the_folder_goes_away_is_whole(place, caplog):
    """A listing of what is away is no empty one, and a file whose folder leaves goes where it was begun."""
    reads = []

    def read():
        if not reads:
            leave(place, empty=True)
            reads.append(1)
            return (place / "run" / "new").read_text()  # as a library does, which asks nobody
        return storage.files_in(place / "run")

    with held.hold(place / "run", "the run"):
        with storage.atomic_path(place / "run" / "new") as temporary:
            leave(place, empty=True)
            temporary.write_text("whole")
        come_back(place)
        assert [path.name for path in (place / "run").iterdir()] == ["new"]
        assert (place / "run" / "new").read_text() == "whole"
        found = []
        reader = threading.Thread(target=lambda: found.extend(held.again_if_away(place / "run", read)))
        reader.start()
        while not caplog.messages:
            assert reader.is_alive(), "it did not wait"
        come_back(place)
        reader.join()
    assert found == ["new"]


@pytest.mark.parametrize("write", [lambda path: open_private(path, "w"), lambda path: make_folder(path / "made")])
def test_what_is_away_for_too_long_ends_the_work_and_is_not_made_anew(place, write):
    with held.hold(place / "run", "the run", patience_s=0):
        leave(place, empty=True)
        with pytest.raises(
            ClusterError, match=r"the run ends, .* has been away for 0 s.*run the same command again"
        ):
            write(place / "run")
    come_back(place)
    with (
        pytest.raises(ClusterError, match="away for 0 s"),
        held.hold(place / "never made", "the run", patience_s=0),
    ):
        pass


@pytest.mark.parametrize("instead", [None, "another"])
def test_what_was_deleted_or_replaced_is_not_waited_for(place, instead):
    with held.hold(place / "run", "the run"):
        if instead:
            (place / "run").rename(place / "yesterday")
            (place / "run" / instead).mkdir(parents=True)
        else:
            (place / "run").rmdir()
        with pytest.raises(ClusterError, match=r"the run ends, as its folder .* was deleted or replaced"):
            make_folder(place / "run" / "checkpoints")
    assert not (place / "run" / "checkpoints").exists()


def test_a_library_does_not_make_anew_what_went_away(place):
    with held.pinned(place / "run") as pinned:
        leave(place, empty=True)
        pinned.mkdir(parents=True, exist_ok=True)
        (pinned / "weights").write_text("1")
    come_back(place)
    assert (place / "run" / "weights").read_text() == "1"


def test_a_folder_that_is_not_held_is_made_as_ever(place):
    with held.hold(place / "run", "the run"):
        leave(place, empty=False)
        assert make_folder(place.with_name("other")).is_dir()
        assert not held.is_away(place.with_name("other"))
        come_back(place)


def test_a_folder_that_was_waited_for_is_not_waited_for_again_by_who_asked(place, caplog):
    def read():
        leave(place, empty=True)
        return storage.files_in(place / "run")

    with held.hold(place / "run", "the run", patience_s=0.1):
        with pytest.raises(ClusterError, match=r"away for 0\.1 s"):
            held.again_if_away(place / "run", read)
    come_back(place)
    assert len(caplog.messages) == 1
