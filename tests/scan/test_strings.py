"""Text is found inside files of any kind, and reads the same however it was written there."""

import bz2
import gzip
import html
import json
import lzma
import zipfile

import numpy as np
import pytest
import yaml

from clinscale.scan.strings import plain, read_pieces

TEXT = "The patient's BP was <120/80> & stable;\nécg without changes, see C:\\new\treports “today” at 8 o'clock."


def words_of(text):
    return "".join(letter if letter.isalnum() else " " for letter in plain(text)).split()


def read(path):
    return [(piece.inside, piece.offset, piece.text) for piece in read_pieces(path)]


@pytest.mark.parametrize(
    "write",
    [
        json.dumps,
        lambda text: json.dumps(json.dumps(text)),
        lambda text: yaml.safe_dump({"a": text}).removeprefix("a:"),
        html.escape,
        lambda text: f"<p class='x'>{html.escape(text)}</p>".replace(" was ", " <b>was</b> "),
        lambda text: json.dumps(html.escape(text)),
        repr,
    ],
    ids=["json", "json twice", "yaml", "html", "html with tags", "html in json", "repr"],
)
def test_markup_and_escapes_change_no_word(write):
    assert words_of(write(TEXT)) == words_of(TEXT)


@pytest.mark.parametrize(
    "pack",
    [gzip.compress, bz2.compress, lzma.compress, lambda raw: gzip.compress(gzip.compress(raw))],
    ids=["gzip", "bzip2", "xz", "gzip twice"],
)
def test_compressed_files_are_opened(tmp_path, pack):
    (tmp_path / "packed").write_bytes(pack(TEXT.encode()))
    assert read(tmp_path / "packed") == [("decompressed", 0, TEXT)]


def test_archives_are_opened_entry_by_entry(tmp_path):
    with zipfile.ZipFile(tmp_path / "archive", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("one", b"\0" * 100)
        archive.writestr("two", gzip.compress(TEXT.encode()))
    assert read(tmp_path / "archive") == [("entry 2", 0, TEXT)]


def test_text_between_weights_is_found_where_it_stands(tmp_path):
    weights = np.random.default_rng(0).standard_normal(500_000).astype("f4").tobytes()
    (tmp_path / "weights").write_bytes(weights[:1_100_003] + b"\0" + TEXT.encode() + b"\0" + weights[1_100_003:])
    assert ("", 1_100_004, TEXT) in read(tmp_path / "weights")


def test_a_text_across_blocks_is_whole_in_one_of_them(tmp_path):
    filler = "filler " * ((2**20 - 40) // 7)
    (tmp_path / "long.txt").write_text(filler + TEXT + filler)
    found = [(offset, text) for _, offset, text in read(tmp_path / "long.txt") if TEXT in text]
    assert [offset + len(text[: text.index(TEXT)].encode()) for offset, text in found] == [len(filler)]


@pytest.mark.parametrize(
    "raw",
    [b"PAR1" + b"x" * 99, b"%PDF-1.7 text", gzip.compress(b"a" * 9999)[:-20]],
    ids=["parquet", "pdf", "gzip, cut short"],
)
def test_what_cannot_be_read_is_not_taken_for_clean(tmp_path, raw):
    (tmp_path / "sealed").write_bytes(raw)
    with pytest.raises((NotImplementedError, EOFError)):
        read(tmp_path / "sealed")
