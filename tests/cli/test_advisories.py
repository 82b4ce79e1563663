import json
import os
import zipfile

import pytest

from clinscale.cli.advisories import installed, touching
from clinscale.errors import DataError


def entry(name="Py_Thing", **affected):
    return {"id": "PYSEC-1", "affected": [{"package": {"ecosystem": "PyPI", "name": name}, **affected}]}


def events(*pairs):
    return {"ranges": [{"type": "ECOSYSTEM", "events": [{kind: at} for kind, at in pairs]}]}


@pytest.mark.parametrize(
    ("affected", "is_touched"),
    [
        (events(("introduced", "0"), ("fixed", "1.10")), True),
        (events(("introduced", "0"), ("fixed", "1.9.0")), False),
        (events(("introduced", "0"), ("last_affected", "1.9")), True),
        (events(("introduced", "0"), ("last_affected", "1.8")), False),
        (events(("introduced", "2")), False),
        (events(("introduced", "1"), ("fixed", "1.2"), ("introduced", "1.5"), ("fixed", "2")), True),
        ({"versions": ["1.9.0"]}, True),
        ({"versions": ["1.90"], "ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}]}, False),
    ],
)
def test_an_advisory_touches_the_versions_it_names(tmp_path, affected, is_touched):
    (tmp_path / "osv.json").write_text(json.dumps(entry(**affected)))
    count, found = touching(tmp_path / "osv.json", {"py-thing": "1.9"})
    assert (count, bool(found)) == (1, is_touched)


def test_archives_and_lines_are_read_and_withdrawn_ones_left_out(tmp_path):
    entries = [entry(**events(("introduced", "0"))), {**entry(versions=["1"]), "withdrawn": "2026"}]
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for number, one in enumerate(entries):
            archive.writestr(f"{number}.json", json.dumps(one))
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, entries)))
    for name in ("all.zip", "all.jsonl"):
        count, found = touching(tmp_path / name, {"py-thing": "1"})
        assert (count, [one.id for one in found], found[0].fixed_in) == (1, ["PYSEC-1"], ())


@pytest.mark.parametrize("text", ["", "[]", "{", "[1]", '{"a": 1}'])
def test_a_file_without_advisories_is_refused(tmp_path, text):
    (tmp_path / "osv.json").write_text(text)
    with pytest.raises(DataError, match=r"osv\.json must"):
        touching(tmp_path / "osv.json", installed())


def test_a_pipe_and_a_bomb_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("clinscale.storage._UNPACKED_FREELY_BYTES", 2**10)
    os.mkfifo(tmp_path / "osv.json")
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", " " * 2**20)
    for name, told in (("osv.json", "must be a regular file"), ("all.zip", "must unpack to at most 100 times")):
        with pytest.raises(DataError, match=told):
            touching(tmp_path / name, installed())
