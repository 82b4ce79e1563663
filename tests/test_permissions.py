"""What clinscale writes is for its owner, or for the group that a folder was opened to, under any umask."""

import os
import stat

import pytest

from clinscale import permissions, storage
from clinscale.errors import ConfigError, DataError

STRANGER = 54321
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as a second account")


@pytest.fixture(params=[0, 0o022, 0o077], ids="umask {:03o}".format)
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def as_stranger(act):
    """What `act` raises, by name, in a process of another account of no group of ours; None where it succeeds."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(STRANGER)
            os.setuid(STRANGER)
            act()
            said = b"done"
        except Exception as error:  # noqa: BLE001
            said = type(error).__name__.encode()
        os.write(write, said)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        said = stream.read()
    os.waitpid(child, 0)
    return None if said == "done" else said


def test_what_is_written_is_its_owners_alone(tmp_path, umask):
    storage.write_json(tmp_path / "home" / "run" / "recipe.json", {})
    with storage.create_binary(tmp_path / "home" / "shards" / "one.bin") as stream:
        stream.write(b"notes")
    with storage.atomic_path(tmp_path / "home" / "two") as temporary:
        temporary.write_bytes(b"")
    with permissions.open_private(tmp_path / "home" / "ledger", "a"):
        pass
    for where, folders, names in os.walk(tmp_path / "home"):
        assert {mode(tmp_path / where / name) for name in folders} <= {0o700}
        assert {mode(tmp_path / where / name) for name in names} <= {0o600}
    assert mode(tmp_path / "home") == 0o700


def test_a_file_of_an_open_age_is_closed_when_it_grows(tmp_path):
    (tmp_path / "ledger").write_text("old")
    (tmp_path / "ledger").chmod(0o644)
    with permissions.open_private(tmp_path / "ledger", "a") as stream:
        stream.write("new")
    assert (tmp_path / "ledger").read_text() == "oldnew"
    assert mode(tmp_path / "ledger") == 0o600


def test_what_another_library_wrote_is_closed(tmp_path, umask):
    (tmp_path / "model" / "inner").mkdir(parents=True)
    (tmp_path / "model" / "inner" / "weights").write_bytes(b"")
    permissions.adopt(tmp_path / "model")
    assert [mode(tmp_path / "model" / name) for name in (".", "inner", "inner/weights")] == [0o700, 0o700, 0o600]


def test_a_shared_folder_hands_its_rights_down(tmp_path, umask):
    group = permissions.grp.getgrgid(os.getgid()).gr_name
    storage.write_json(tmp_path / "home" / "old.json", {})
    permissions.share(tmp_path / "home", group)
    storage.write_json(tmp_path / "home" / "run" / "recipe.json", {})
    found = [mode(tmp_path / "home" / name) for name in (".", "old.json", "run", "run/recipe.json")]
    assert found == [0o2770, 0o660, 0o2770, 0o660]
    assert not list(permissions.open_paths(tmp_path / "home"))
    with pytest.raises(ConfigError, match="must name a group"):
        permissions.share(tmp_path / "home", "no-such-group")


def test_what_is_open_is_named_and_closed(tmp_path):
    home = tmp_path / "home"
    storage.write_json(home / "deep" / "a.json", {})
    assert not list(permissions.open_paths(home))
    home.chmod(0o755)
    assert list(permissions.open_paths(home)) == [home]
    for path in (home / "deep", home / "deep" / "a.json"):
        path.chmod(0o755)
    assert set(permissions.open_paths(home)) == {home, home / "deep", home / "deep" / "a.json"}
    assert permissions.close(home) == 3
    assert not list(permissions.open_paths(home))
    assert mode(home) == 0o700


def test_what_lies_below_a_closed_folder_of_an_open_home_is_not_open(tmp_path):
    home = tmp_path / "home"
    storage.write_json(home / "run" / "a.json", {})
    (home / "run" / "a.json").chmod(0o644)
    home.chmod(0o755)
    assert list(permissions.open_paths(home)) == [home]
    (home / "run").chmod(0o711)  # who knows a name gets in, though he cannot list them
    assert set(permissions.open_paths(home)) == {home, home / "run", home / "run" / "a.json"}


@pytest.mark.parametrize(("of_driver", "of_worker"), [(0o077, 0o077), (0o022, 0o077), (0, 0o077), (0o007, 0o007)])
def test_a_worker_of_a_cluster_writes_for_whom_its_driver_does_also_where_another_clinscale_is(
    of_driver, of_worker
):
    from ray import cloudpickle

    before = os.umask(of_driver)
    try:
        close_worker = cloudpickle.dumps(permissions.for_workers())
        assert os.umask(0o022) == of_driver  # as whoever started Ray on the node has it
        cloudpickle.loads(close_worker)()
        assert os.umask(before) == of_worker
    finally:
        os.umask(before)


@as_root
def test_another_account_reads_nothing(tmp_path):
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        if folder.stat().st_uid == os.getuid() and not mode(folder) & 0o001:
            folder.chmod(mode(folder) | 0o001)
    before = os.umask(0)
    try:
        storage.write_json(tmp_path / "home" / "shards.json", {})
        storage.write_json(tmp_path / "alone.json", {})
    finally:
        os.umask(before)
    assert as_stranger(tmp_path.stat) is None, "the stranger gets as far as the folder"
    assert as_stranger((tmp_path / "home" / "shards.json").read_bytes) == "PermissionError"
    assert as_stranger(lambda: list((tmp_path / "home").iterdir())) == "PermissionError"
    assert as_stranger((tmp_path / "alone.json").read_bytes) == "PermissionError"


@pytest.mark.parametrize("squatter", ["open", "link", "file", pytest.param("another's", marks=as_root)])
def test_a_temporary_folder_that_somebody_prepared_is_left_alone(tmp_path, monkeypatch, squatter):
    monkeypatch.setattr(permissions.tempfile, "tempdir", str(tmp_path))
    taken = tmp_path / f"clinscale-{os.getuid()}"
    if squatter == "link":
        (tmp_path / "elsewhere").mkdir()
        taken.symlink_to(tmp_path / "elsewhere")
    elif squatter == "file":
        taken.touch()
    else:
        taken.mkdir(mode=0o700)
        (taken / "planted").touch()
        taken.chmod(0o777 if squatter == "open" else 0o700)
        os.chown(taken, STRANGER if squatter == "another's" else -1, -1)
    found = permissions.own_temporary_folder("clinscale")
    assert (found.stat().st_uid, mode(found), list(found.iterdir())) == (os.geteuid(), 0o700, [])
    assert not found.is_symlink()
    assert permissions.own_temporary_folder("clinscale") == found, "the next process finds the same one"


def test_what_is_not_followed_is_refused(tmp_path):
    (tmp_path / "victim").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    with pytest.raises(ConfigError, match="is a link"):
        permissions.open_private(tmp_path / "link", "a", follow=False)
    with pytest.raises(ConfigError, match="is a link"):
        permissions.refuse_foreign(tmp_path / "link")
    assert (tmp_path / "victim").read_text() == "kept"


@as_root
def test_what_another_account_put_there_is_refused(tmp_path):
    (tmp_path / "lock").touch()
    os.chown(tmp_path / "lock", STRANGER, -1)
    for use in (
        lambda: permissions.open_private(tmp_path / "lock", "a", follow=False),
        lambda: permissions.refuse_foreign(tmp_path / "lock"),
        lambda: permissions.read_secret(tmp_path / "lock", "password"),
    ):
        with pytest.raises(ConfigError, match=f"user {STRANGER}"):
            use()


@pytest.mark.parametrize(("rights", "refused"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_a_secret_that_others_can_read_is_refused(tmp_path, rights, refused):
    (tmp_path / "password").write_text("correct horse")
    (tmp_path / "password").chmod(rights)
    if not refused:
        assert permissions.read_secret(tmp_path / "password", "password") == b"correct horse"
        return
    with pytest.raises(ConfigError, match="must be its owner's alone") as caught:
        permissions.read_secret(tmp_path / "password", "password")
    assert "horse" not in str(caught.value)


def test_a_cached_copy_that_is_a_link_is_refused(tmp_path):
    import fsspec

    with fsspec.filesystem("memory").open("/bucket/shard", "wb") as stream:
        stream.write(b"notes")
    first = storage.local_copy("memory://bucket", tmp_path)
    assert mode(first) == 0o700
    assert storage.local_copy("memory://bucket", tmp_path) == first
    first.rename(tmp_path / "other")
    first.symlink_to(tmp_path / "other")
    with pytest.raises((ConfigError, DataError), match="is a link"):
        storage.local_copy("memory://bucket", tmp_path)


def test_doctor_says_whether_this_installation_is_closed_and_closes_it(tmp_path, monkeypatch):
    from clinscale.cli.doctor import _closed
    from clinscale.errors import AccessError

    monkeypatch.setenv("HOME", str(tmp_path))
    home = permissions.make_folder(tmp_path / "home")
    assert _closed(home, close=False) == "closed to every other user"
    token = permissions.make_folder(tmp_path / ".ray") / "auth_token"
    token.write_text("old")
    token.chmod(0o644)
    home.chmod(0o755)
    with pytest.raises(
        AccessError, match=rf"open to other users: {token} .*{home}; close it: clinscale doctor --close"
    ):
        _closed(home, close=False)
    assert _closed(home, close=True).startswith("closed to every other user; took rights from 1")
    assert mode(token) == 0o600
    assert token.read_text() != "old"
