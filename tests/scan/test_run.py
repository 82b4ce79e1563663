"""Planted notes are found wherever they are, told without a word of theirs, and nothing else is accused."""

import gzip
import io
import json
import os
import pathlib
import random
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from clinscale import registry
from clinscale.cli.main import app
from clinscale.corpus import CorpusConfig, SourceConfig, build_shards, train_tokenizer
from clinscale.errors import DataError
from clinscale.scan import run as module
from clinscale.scan import scan

WORDS = [f"{first}{second}" for first in "bcdfghklmnprst" for second in ("anor", "etil", "imus", "orel", "ubin")]

QUOTES = "a name that is text of notes"


def note(number, words=60):
    return " ".join(random.Random(number).choices(WORDS, k=words))


@pytest.fixture
def sources(tmp_path):
    """Ten notes, and one that is too short."""
    folder = tmp_path / "notes"
    folder.mkdir()
    texts = [note(0) + " 6. 7. 8. 9. 10. 11. 12. 13. 14.", *(note(number) for number in range(1, 10))]
    rows = [{"id": f"n{number}", "text": text} for number, text in enumerate(texts)] + [
        {"id": "s", "text": "No fever."}
    ]
    (folder / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [SourceConfig(uri=str(folder / "notes.jsonl"), id_column="id")]


@pytest.fixture
def home(tracking, tmp_path):
    """A home with innocent runs and files; the database of the `tracking` fixture lies in it."""
    with registry.start_run(tracking, experiment="e", name="r", tags={"a": "b"}, params={"c": note(77)}) as run:
        run.log({"loss": 1.0}, step=1)
        run.log_json("card.json", {"text": note(78)})
    (tmp_path / "vocabulary.json").write_text(
        json.dumps({letter: number for number, letter in enumerate("!#$%'()*+,-./:;")})
    )
    return tmp_path


def places_of(result):
    return {finding.place: finding.notes for finding in result.findings}


def test_a_clean_home_is_clean_and_its_notes_are_no_finding(home, tracking, sources):
    result = scan(sources, tracking=tracking, places=[home])
    assert result.findings == ()
    assert (result.notes, result.notes_too_short, result.unread) == (11, 1, ())
    assert result.files > 1
    assert result.texts > 5


def test_what_is_planted_is_found_and_never_quoted(home, tracking, sources, monkeypatch):
    run = registry.start_run(tracking, experiment="e", name=note(0)[:200], tags={"why": note(1)}, params={})
    tracking.client.set_tag(run.id, "_".join(note(2).split()[:8]), "a key")
    run.log({" ".join(note(3).split()[:9]): 1.0}, step=1)
    run.log_json("card.json", {"inner": [note(4).replace(" ", "\n")]})
    (home / "page.html").write_text(f"<p>{note(5).replace(' ', ' <b>&amp;</b> ')}</p>")
    run.log_file(home / "page.html")
    (home / "page.html").unlink()
    tracking.client.delete_run(run.id)
    tracking.client.create_registered_model("m", description=note(6)[:300])
    (home / "run.log").write_text(f"INFO fine\nERROR {note(7)[20:120].upper()}\n")
    (home / "old.gz").write_bytes(gzip.compress(note(8).encode()))
    shutil.copy(home / "old.gz", home / "copy.gz")
    (home / "weights.bin").write_bytes(random.Random(0).randbytes(5000) + b"\0" + note(9).encode() + b"\0")
    (home / f"{'_'.join(note(3).split()[20:28])}.txt").write_text("empty")
    (home / "seven.txt").write_text(" ".join(note(1).split()[:7]))
    monkeypatch.setattr(module, "_INDEX_PHRASES", 40)  # many batches

    result = scan(sources, tracking=tracking, places=[home])
    places = places_of(result)
    in_files = {f"{home}/run.log": "n7", f"{home}/old.gz decompressed": "n8", f"{home}/weights.bin": "n9"}
    in_files[f"{home}/copy.gz decompressed"] = "n8"
    in_mlflow = {
        f"run {run.id}: name": "n0",
        f"run {run.id}: tag why": "n1",
        "model m: description": "n6",
    }
    assert {**in_files, **in_mlflow}.items() <= {place: notes[0] for place, notes in places.items()}.items()
    keys = [finding.notes[0] for finding in result.findings if finding.place == f"run {run.id}: {QUOTES}"]
    assert sorted(keys) == ["n2", "n3"]
    assert places[f"{home}: {QUOTES}"] == ("n3",)
    assert {"n4", "n5"} <= {notes[0] for place, notes in places.items() if "mlartifacts" in place}
    assert set(places[f"{home}/mlflow.db"]) & {"n0", "n1", "n2", "n3", "n6"}
    assert f"{home}/seven.txt" not in places
    at = {finding.place: finding.position for finding in result.findings}
    assert at[f"{home}/weights.bin"] == 5001
    told = repr(result)
    assert not any(" ".join(note(number).split()[:3]) in told for number in range(10))
    assert not any("_".join(note(number).split()[:3]) in told for number in range(10))

    clean = scan(
        sources, tracking=tracking, places=[home / "old.gz"], skip=[home / "mlartifacts", home / "old.gz"]
    )
    assert {place.split(":")[0] for place in places_of(clean)} == {f"run {run.id}", "model m"}


def test_what_cannot_be_looked_into_is_said(home, tracking, sources, monkeypatch):
    (home / "table.parquet").write_bytes(b"PAR1" + b"0" * 99)
    (home / "cut.gz").write_bytes(gzip.compress(note(40).encode())[:-20])
    result = scan(sources, tracking=tracking, places=[home])
    assert result.unread == (f"{home}/cut.gz (EOFError)", f"{home}/table.parquet (of a format that is not opened)")
    command = ["models", "scan", sources[0].uri, "--id-column", "id", "--home", str(home)]
    command += ["--tracking-uri", tracking.uri]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 3, "nothing found, and not all was looked into"
    for name in ("table.parquet", "cut.gz"):
        (home / name).unlink()
    assert CliRunner().invoke(app, command).exit_code == 0
    (home / "run.log").write_text(note(7)[20:120])
    shown = io.StringIO()
    monkeypatch.setattr("clinscale.cli.output._stdout", shown)
    assert CliRunner().invoke(app, command).exit_code == 1
    assert "run.log" in shown.getvalue()
    assert note(7).split()[9] not in shown.getvalue()


def test_token_ids_that_no_tokenizer_reads_are_not_looked_into(home, tracking, sources):
    drawn = np.random.default_rng(0)
    shares = 1 / np.arange(5, 3_005)
    ids = drawn.permutation(3_000)[drawn.choice(3_000, 400, p=shares / shares.sum())].tolist()
    (home / "ids.json").write_text(json.dumps(ids))
    run = registry.start_run(tracking, experiment="e", name="r", tags={"ids": str(ids)}, params={})
    result = scan(sources, tracking=tracking, places=[home / "ids.json"], skip=[home / "mlartifacts"])
    why = "(token ids, and no tokenizer was met that reads them)"
    assert result.unread == (f"{home}/ids.json {why}", f"run {run.id}: tag ids {why}")


def test_links_and_closed_folders_are_said_and_places_that_are_gone_refused(home, tracking, sources, monkeypatch):
    (home / "inside.txt").symlink_to(home / "vocabulary.json")
    (home / "loop").symlink_to(home)
    (home / "outside").symlink_to(home.parent)
    (home / "closed").mkdir()
    listed = os.scandir

    def scandir(path):
        if os.fspath(path).endswith("/closed"):  # root may list every folder
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    result = scan(sources, tracking=tracking, places=[home])
    assert set(result.unread) == {
        f"{home}/outside (a link to another place)",
        f"{home}/closed (PermissionError)",
    }
    with pytest.raises(DataError, match=r"gone does not exist"):
        scan(sources, tracking=tracking, places=[home / "gone"])


def test_token_ids_are_read_by_the_tokenizer_beside_them(home, tracking, sources):
    tokenizer = train_tokenizer([note(number) for number in range(9)], 400)
    tokenizer.save_pretrained(home / "model")
    (home / "a.json").write_text(json.dumps({"input_ids": [tokenizer(note(4))["input_ids"]]}))
    assert places_of(scan(sources, tracking=tracking, places=[home])) == {f"{home}/a.json": ("n4",)}


def test_token_ids_in_binary_are_read_and_shards_are_named_instead(home, tracking, sources):
    tokenizer = train_tokenizer([note(number) for number in range(9)], 400)
    tokenizer.save_pretrained(home / "model")
    np.array(tokenizer(note(4))["input_ids"], "<u2").tofile(home / "ids.bin")
    words = " ".join(map(str, range(11_000, 11_060)))
    np.array(tokenizer(words)["input_ids"], "<u2").tofile(home / "of-no-note.bin")
    corpus = CorpusConfig(sources=sources, tokenizer=str(home / "model"))
    build_shards(corpus, str(home / "shards"))
    shards = list((home / "shards").glob("*.tokens"))
    shard = max(shards, key=lambda file: file.stat().st_size)
    shutil.copy(shard, home / "copy.bin")

    result = scan(sources, tracking=tracking, places=[home])
    assert set(places_of(result)) == {f"{home}/ids.bin", f"{home}/copy.bin"}
    assert places_of(result)[f"{home}/ids.bin"] == ("n4",)
    assert set(result.shards) == set(map(str, shards))

    np.array(tokenizer(note(5))["input_ids"], "<u2").tofile(shard)  # no longer what the manifest states
    result = scan(sources, tracking=tracking, places=[home / "shards"])
    assert places_of(result) == {str(shard): ("n5",)}
    assert str(shard) not in result.shards


def test_sources_without_a_note_are_refused(home, tracking):
    (home / "blank.txt").write_text(" \n")
    with pytest.raises(DataError, match=r"blank\.txt holds no note"):
        scan([SourceConfig(uri=str(home / "blank.txt"))], tracking=tracking, places=[home])


def test_links_in_a_circle_pipes_and_closed_files_are_said_and_end_no_scan(home, tracking, sources, monkeypatch):
    (home / "a").symlink_to(home / "b")
    (home / "b").symlink_to(home / "a")
    os.mkfifo(home / "pipe")
    (home / "closed.txt").write_text(note(1))
    found = os.lstat

    def lstat(self):
        if self.name == "closed.txt":  # in a folder that may be listed and not entered
            raise PermissionError(13, "Permission denied", str(self))
        return found(self)

    monkeypatch.setattr(pathlib.Path, "lstat", lstat)
    result = scan(sources, tracking=tracking, places=[home])
    assert set(result.unread) == {
        f"{home}/pipe (a pipe, socket or device)",
        f"{home}/closed.txt (PermissionError)",
    }
    assert result.findings == ()


def test_a_copy_of_what_cannot_be_looked_into_is_said_too(home, tracking, sources):
    for name in ("one.gz", "two.gz"):
        (home / name).write_bytes(gzip.compress(note(40).encode())[:-20])
    result = scan(sources, tracking=tracking, places=[home])
    assert result.unread == (f"{home}/one.gz (EOFError)", f"{home}/two.gz (EOFError)")


def test_a_file_that_is_written_to_while_it_is_read_is_said(home, tracking, sources, monkeypatch):
    log = home / "run.log"
    log.write_text(f"INFO {note(1)}\n")
    read = module.read_pieces

    def reading(path, vocabulary_tokens):
        yield from read(path, vocabulary_tokens)
        if path == log:
            with log.open("a") as stream:
                stream.write(f"INFO {note(2)}\n")

    monkeypatch.setattr(module, "read_pieces", reading)
    result = scan(sources, tracking=tracking, places=[log])
    assert result.unread == (f"{log} (changed while it was read)",)
    assert places_of(result) == {str(log): ("n1",)}


@pytest.mark.timeout(60)
def test_of_a_file_with_long_holes_what_it_holds_is_read(home, tracking, sources):
    sparse, at = home / "core.1", 2**42
    with sparse.open("wb") as stream:
        stream.write(note(1).encode())
        stream.seek(at)
        stream.write(note(2).encode())
        stream.truncate(2**43)
    if sparse.stat().st_blocks * 512 > 2**30:
        pytest.skip("this file system has no holes")
    result = scan(sources, tracking=tracking, places=[sparse])
    [found] = result.findings
    assert set(found.notes) == {"n1", "n2"}
    assert result.bytes < 2**20, "holes are not counted as looked through"
    with sparse.open("r+b") as stream:
        stream.write(b"-" * 1000)
    [found] = scan(sources, tracking=tracking, places=[sparse]).findings
    assert (found.position, found.notes) == (at, ("n2",))
