"""Text is found inside files of any kind, and reads the same however it was written there."""

import base64
import binascii
import bz2
import contextlib
import gzip
import html
import io
import json
import lzma
import pickle
import sqlite3
import string
import struct
import tarfile
import urllib.parse
import zipfile
import zlib

import numpy as np
import pytest
import yaml
from safetensors.numpy import save as save_safetensors

from clinscale.scan.strings import FAULTS, plain, read_pieces

TEXT = "The patient's BP was <120/80> & stable;\nécg without changes, see C:\\new\treports “today” at 8 o'clock."


def words_of(text):
    return "".join(letter if letter.isalnum() else " " for letter in plain(text)).split()


def read(path):
    return [(piece.inside, piece.offset, piece.text) for piece in read_pieces(path)]


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def chart(text=b"", *, software=b"Matplotlib version 3", behind=b""):
    """A PNG of one pixel, with a packed text."""
    packed = zlib.compress(text)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)), (b"tEXt", b"Software\0" + software)]
    chunks += [(b"zTXt", b"a\0\0" + packed), (b"IDAT", zlib.compress(b"\0\7")), (b"IEND", b"")]
    png = b"".join(
        struct.pack(">I", len(raw)) + kind + raw + struct.pack(">I", zlib.crc32(kind + raw))
        for kind, raw in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + png + behind


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


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_what_is_packed_within_a_tar_is_opened_and_its_names_are_read(tmp_path, pack):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name, entry in ((f"{'long ' * 40}{TEXT}", b"x"), ("zlib", zlib.compress(TEXT.encode()))):
            member = tarfile.TarInfo(name)
            member.size = len(entry)
            archive.addfile(member, io.BytesIO(entry))
    (tmp_path / "archive").write_bytes(pack(raw.getvalue()))
    found = read(tmp_path / "archive")
    assert [text for place, _, text in found if place.endswith("entry 2")] == [TEXT]
    assert any(place.endswith("names") and TEXT in text for place, _, text in found)

    (tmp_path / "cut").write_bytes(raw.getvalue()[:1500])
    with pytest.raises((tarfile.TarError, EOFError, OSError)):
        read(tmp_path / "cut")


def test_text_between_weights_is_found_where_it_stands(tmp_path):
    weights = np.random.default_rng(0).standard_normal(500_000).astype("f4").tobytes()
    (tmp_path / "weights").write_bytes(weights[:1_081_344] + TEXT.encode().ljust(256, b"\0") + weights[1_081_344:])
    assert ("", 1_081_344, TEXT) in read(tmp_path / "weights")


def test_a_text_across_blocks_is_whole_in_one_of_them(tmp_path):
    filler = "filler " * ((2**20 - 40) // 7)
    (tmp_path / "long.txt").write_text(filler + TEXT + filler)
    found = [(offset, text) for _, offset, text in read(tmp_path / "long.txt") if TEXT in text]
    assert [offset + len(text[: text.index(TEXT)].encode()) for offset, text in found] == [len(filler)]


def table_of(write):
    import pyarrow

    sink = pyarrow.BufferOutputStream()
    write(pyarrow.table({"n": [1], "text": [TEXT]}), sink)
    return sink.getvalue().to_pybytes()


def parquet(table, sink):
    import pyarrow.parquet

    pyarrow.parquet.write_table(table, sink, compression="zstd")


def arrow(table, sink, *, as_file, compression):
    import pyarrow

    options = pyarrow.ipc.IpcWriteOptions(compression=compression)
    make = pyarrow.ipc.new_file if as_file else pyarrow.ipc.new_stream
    with make(sink, table.schema, options=options) as writer:
        writer.write_table(table)


def by_arrow(codec):
    import pyarrow

    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, codec) as stream:
        stream.write(TEXT.encode())
    return sink.getvalue().to_pybytes()


def zipped(name, raw):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, raw)
    return file.getvalue()


def in_unknown_zip(method):
    """A zip whose entry says that it is packed by another method."""
    raw = zipped("a", RAW)
    central = raw.index(b"PK\x01\x02")
    code = method.to_bytes(2, "little")
    return raw[:8] + code + raw[10 : central + 10] + code + raw[central + 12 :]


def sqlite(rows):
    """A SQLite file with a table of `rows` of two columns."""
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.execute('CREATE TABLE "a ""b" (id INTEGER, value)')
        database.executemany('INSERT INTO "a ""b" VALUES (?, ?)', rows)
        database.commit()
        return database.serialize()


def sqlite_without(rows):
    """A SQLite file from which a table of `rows` was dropped, by a build that overwrites nothing."""
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.execute("PRAGMA secure_delete = 0")
        database.execute("CREATE TABLE kept (id)")
        database.execute("CREATE TABLE dropped (id)")
        database.executemany("INSERT INTO dropped VALUES (?)", rows)
        database.commit()
        database.execute("DROP TABLE dropped")
        database.commit()
        return database.serialize()


def varints(numbers):
    """Numbers as Protocol Buffers pack them."""
    return b"".join(bytes([number & 127 | 128, number >> 7]) for number in numbers)


def base91(raw):
    """Digits of base 91, https://base91.sourceforge.net/."""
    signs = string.ascii_letters + string.digits + '!#$%&()*+,./:;<=>?@[]^_`{|}~"'
    number, digits = int.from_bytes(raw, "little"), ""
    while number:
        number, pair = number >> 13, number & 8191
        digits += signs[pair % 91] + signs[pair // 91]
    return digits


def tensors(**arrays):
    return save_safetensors({**arrays, "weight": np.random.default_rng(2).normal(0, 0.02, 2**10).astype("f4")})


def base58(raw):
    number, digits = int.from_bytes(raw), ""
    signs = string.digits[1:] + "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    while number:
        number, digit = divmod(number, 58)
        digits += signs[digit]
    return digits


RAW = TEXT.encode()
ENGLISH = "the patient came back with chest pain after lunch and was seen by two doctors of the ward "
CYRILLIC = "больной поступил в отделение с жалобами на боль в груди после обеда и осмотрен двумя врачами ночью "
TO_Z85 = bytes.maketrans(
    b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~",
    b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#",
)
ENCODABLE = TEXT.replace("“", "'").replace("”", "'")
PLACES = {
    "zstd": lambda: by_arrow("zstd"),
    "lz4": lambda: by_arrow("lz4"),
    "zlib": lambda: zlib.compress(RAW),
    "lzma": lambda: lzma.compress(RAW, lzma.FORMAT_ALONE),
    "parquet": lambda: table_of(parquet),
    "arrow file": lambda: table_of(lambda *to: arrow(*to, as_file=True, compression="zstd")),
    "arrow stream": lambda: table_of(lambda *to: arrow(*to, as_file=False, compression="lz4")),
    "utf-16": lambda: TEXT.encode("utf-16"),
    "utf-16-be among weights": lambda: b"\xf1\x02\x03" * 5 + TEXT.encode("utf-16-be") + b"\xf1\x02\x03" * 5,
    "base64": lambda: base64.b64encode(RAW),
    "base64 without padding": lambda: base64.urlsafe_b64encode(RAW).rstrip(b"="),
    "base64 in lines": lambda: base64.encodebytes(RAW),
    "base64 in json": lambda: json.dumps({"a": base64.encodebytes(gzip.compress(RAW)).decode()}).encode(),
    "base64 cut": lambda: base64.b64encode(b"ab" + RAW)[3:],
    "an address": lambda: f"https://a?q={urllib.parse.quote(TEXT)}".encode(),
    "zip behind a program": lambda: b"#!/bin/sh\nexit\n" + zipped("a", RAW),
    "name of a zip's entry": lambda: zipped(TEXT, b"x"),
    "second zlib stream": lambda: zlib.compress(b"x") + zlib.compress(RAW),
    "zip in gzip": lambda: gzip.compress(zipped("a", zlib.compress(RAW))),
    "metadata of parquet": lambda: table_of(
        lambda table, sink: parquet(table.replace_schema_metadata({"a": TEXT}).select(["n"]), sink)
    ),
    "bytes in parquet": lambda: table_of(
        lambda table, sink: parquet(table.append_column("b", [[zlib.compress(RAW)]]).drop_columns("text"), sink)
    ),
    "plain in a pdf": lambda: b"%PDF-1.4\n" + RAW,
    "utf-32": lambda: TEXT.encode("utf-32"),
    "utf-32-be among weights": lambda: b"\xf1\x02\x03" * 5 + TEXT.encode("utf-32-be") + b"\xf1\x02\x03" * 5,
    "ebcdic": lambda: ENCODABLE.encode("cp037"),
    "ebcdic of other signs": lambda: ENCODABLE.encode("cp500"),
    "ebcdic among weights": lambda: b"\xf1\x02\x03" * 5 + ENCODABLE.encode("cp037") + b"\0\x02\x03" * 5,
    "windows": lambda: TEXT.encode("cp1252"),
    "base32": lambda: base64.b32encode(RAW),
    "base85": lambda: json.dumps({"a": base64.b85encode(RAW).decode(), "b": 1}).encode(),
    "base85 in html": lambda: f"<p>{html.escape(base64.b85encode(RAW).decode())}</p>".encode(),
    "base85 cut": lambda: base64.b85encode(b"abc" + RAW)[3:],
    "z85": lambda: b"data: " + base64.b85encode(RAW).translate(TO_Z85),
    "uuencode": lambda: (
        b"begin 644 n\n"
        + b"".join(binascii.b2a_uu(RAW[at : at + 45]) for at in range(0, len(RAW), 45))
        + b"`\nend\n"
    ),
    "ascii85": lambda: base64.a85encode(RAW),
    "ascii85 in lines": lambda: base64.a85encode(RAW, adobe=True, wrapcol=60),
    "ascii85 in json": lambda: json.dumps({"a": base64.a85encode(RAW).decode(), "b": "other"}).encode(),
    "base85 of zlib": lambda: base64.b85encode(zlib.compress(RAW)),
    "base64 in utf-16": lambda: base64.b64encode(RAW).decode().encode("utf-16-le"),
    "long text in sqlite": lambda: sqlite([(1, TEXT + " filler" * 9_000 + TEXT)]),
    "compressed in sqlite": lambda: sqlite([(1, zlib.compress(RAW))]),
    "bytes one by one": lambda: RAW.hex(" ").encode(),
    "bytes of a program": lambda: ", ".join(map(hex, RAW)).encode(),
    "text of a picture": lambda: chart(RAW),
    "letters of full width": lambda: "".join(
        chr(ord(sign) + 0xFEE0) if "!" <= sign <= "~" else sign for sign in TEXT
    ).encode(),
    "signs without width between": lambda: "\u200b".join(TEXT).encode(),
    "behind an array": lambda: npy(np.ones(9)) + gzip.compress(RAW),
    "packed in a tensor": lambda: tensors(numpy=np.frombuffer(gzip.compress(RAW), "u1")),
    "packed in a pickle": lambda: pickle.dumps({"a": gzip.compress(RAW)}),
    "hex": lambda: b"id=" + RAW.hex().encode(),
    "hex of zlib": lambda: zlib.compress(RAW).hex().encode(),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_text_is_found_however_it_is_packed(tmp_path, name):
    (tmp_path / "packed").write_bytes(PLACES[name]())
    found = []
    with contextlib.suppress(NotImplementedError):
        found.extend(words_of(piece.text)[2:-2] for piece in read_pieces(tmp_path / "packed"))
    wanted = words_of(TEXT)[3:-3]
    assert any(" ".join(wanted) in " ".join(words) for words in found)


RANDOM = np.random.default_rng(0).bytes(2**13)
IDS = np.random.default_rng(1).integers(200, 9_000, 400)
SEALED = {
    "varints": b"\x0a\xa0\x06" + varints(IDS.tolist()),
    "varints behind JSON": b'{"a": 1}' + varints(IDS.tolist()),
    "varints behind weights": tensors() + varints(IDS.tolist()),
    "varints in base64": base64.b64encode(varints(IDS.tolist())),
    "small bytes in a tensor": tensors(a=np.random.default_rng(3).integers(1, 3, 200).astype("u1")),
    "varints in a tensor": tensors(a=np.frombuffer(varints(IDS.tolist()), "u1")),
    "varints in a pickle": pickle.dumps({"a": varints(IDS.tolist())}),
    "varints behind a picture": chart(behind=varints(IDS.tolist())),
    "packed in a tensor of floats": tensors(a=np.frombuffer(zlib.compress(RANDOM)[2:2002], "<f4")),
    "differences of ids in a tensor": tensors(a=np.diff(IDS)),
    "differences of ids in JSON": json.dumps(np.diff(IDS).tolist()).encode(),
    "ids that were deleted from SQLite": sqlite_without([(number,) for number in IDS.tolist()]),
    "bytes without a form": np.random.default_rng(0).normal(0, 9, 2**14).astype("i1").tobytes(),
    "base91": base91(ENGLISH.encode() * 9).encode(),
    "base91 in JSON": json.dumps({"a": base91(ENGLISH.encode() * 9)}).encode(),
    "base58": base58(ENGLISH.encode() * 9).encode(),
    "a long number": str(int.from_bytes(ENGLISH.encode() * 9)).encode(),
    "zeros and ones": " ".join(f"{code:08b}" for code in ENGLISH.encode()).encode(),
    "letters one by one": " ".join(ENGLISH).encode(),
    "words without blanks": ENGLISH.replace(" ", "").encode() * 9,
    "a pickle of an impossible length": b"\x80\4\x8e" + (2**60).to_bytes(8, "little") + b"x" * 99,
    "an array of an impossible shape": npy(np.ones(9)).replace(b"(9,), ", b"(9**9,)"),
    "tensors of no offsets": (20).to_bytes(8, "little") + b'{"a":{"dtype":"U8"}}' + b"x" * 99,
    "tensors in a list": (9).to_bytes(8, "little") + b'{"a": []}' + b"x" * 99,
    "SQLite of pages of no size": sqlite([(1, TEXT)])[:16] + b"\0\0" + sqlite([(1, TEXT)])[18:],
    "a picture without an end": chart()[:-12],
    "a photograph": chart(software=b"Camera"),
    "parquet": b"PAR1" + b"x" * 99,
    "pdf": b"%PDF-1.7 text",
    "gzip, cut short": gzip.compress(b"a" * 9999)[:-20],
    "hdf5": b"\x89HDF\r\n\x1a\n" + zlib.compress(RAW),
    "avro": b"Obj\x01" + zlib.compress(RAW),
    "bson": bytes.fromhex("16000000 04 69647300 0c000000 10 3000 a81d0000 00 00"),
    "tfrecord": bytes.fromhex("100000000000000095fbfe18") + b"x" * 20,
    "write-ahead log of SQLite": bytes.fromhex("377f0682002de218") + RAW,
    "duckdb": b"\0" * 8 + b"DUCK" + b"\x43" * 99,
    "an alphabet of its own": bytes(code ^ 0xA5 for code in (ENGLISH * 9).encode()),
    "cyrillic of before Unicode": CYRILLIC.encode("koi8-r") * 9,
    "base85 of something encrypted": base64.b85encode(RANDOM),
    "base64 of something encrypted": json.dumps({"data": base64.b64encode(RANDOM).decode()}).encode(),
    "encrypted": b"no header " + RANDOM,
    "deflate without header": zlib.compress(RANDOM.hex().encode())[2:-4],
    "zip of zstd": in_unknown_zip(93),
    "zip of deflate64": in_unknown_zip(9),
    "bzip2 and text": bz2.compress(b"x") + RAW,
    "xz and gzip": lzma.compress(b"x") + gzip.compress(RAW),
    "base64 of a pdf": json.dumps({"data": base64.b64encode(b"%PDF-1.7 and what is in it").decode()}).encode(),
    "base64 of a damaged gzip": base64.b64encode(gzip.compress(RAW)[:-12]) + b" ",
}


@pytest.mark.parametrize("name", SEALED)
def test_what_cannot_be_read_is_not_taken_for_clean(tmp_path, name):
    (tmp_path / "sealed").write_bytes(SEALED[name])
    with pytest.raises(FAULTS):
        read(tmp_path / "sealed")


def test_a_chart_of_ours_is_looked_into(tmp_path):
    (tmp_path / "plot.png").write_bytes(chart(b"loss"))
    read(tmp_path / "plot.png")


@pytest.mark.parametrize(
    "raw",
    [
        np.random.default_rng(0).normal(0, 0.02, 2**13).astype("f4").tobytes(),
        npy(np.random.default_rng(0).normal(0, 0.02, 2**13).astype("f2")),
        npy(np.repeat(np.arange(99), 7)),
        tensors(position_ids=np.arange(512), seen=np.zeros(9, bool)),
        pickle.dumps({"a": list(range(999)), "b": b"short"}),
        ENGLISH.encode() * 9,
        b"SQLite for beginners is " + ENGLISH.encode(),
        json.dumps(
            {word: number for number, word in enumerate(ENGLISH.split() * 40)}, separators=(",", ":")
        ).encode(),
        json.dumps({"data": base64.b64encode(chart(RANDOM[:99].hex().encode())).decode()}).encode(),
        json.dumps({"sha256": RANDOM[:32].hex(), "signature": base64.b64encode(RANDOM[:64]).decode()}).encode(),
    ],
    ids=[
        "weights",
        "weights in 16 bits",
        "counts",
        "a model",
        "a pickle",
        "text",
        "about SQLite",
        "vocabulary",
        "picture",
        "digests",
    ],
)
def test_ordinary_content_is_looked_into(tmp_path, raw):
    (tmp_path / "file").write_bytes(raw)
    read(tmp_path / "file")


@pytest.mark.timeout(20)
def test_backslashes_in_a_row_take_no_time():
    assert len(plain("\\" * 400_000 + "q")) == 400_001
    assert plain("\\" * 400_000 + "n") == " "


def test_archives_in_archives_are_looked_into_and_too_many_are_told(tmp_path):
    raw = TEXT.encode()
    for depth in range(40):
        inner = io.BytesIO()
        with zipfile.ZipFile(inner, "w") as archive:
            archive.writestr(f"{depth}.zip", raw)
        raw = inner.getvalue()
        if depth == 3:
            (tmp_path / "four.zip").write_bytes(raw)
    (tmp_path / "forty.zip").write_bytes(raw)
    assert read(tmp_path / "four.zip")[0][2] == TEXT
    with pytest.raises(NotImplementedError):
        read(tmp_path / "forty.zip")


def test_one_damaged_entry_does_not_hide_the_others(tmp_path):
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr("bad", gzip.compress(RAW)[:-12])
        archive.writestr("good", RAW)
    pieces = read_pieces(tmp_path / "archive")
    assert next(pieces).text == TEXT
    with pytest.raises(EOFError):
        list(pieces)


@pytest.mark.parametrize(
    "raw", [b"x\x9c is no zlib stream of any kind", b"]\0\0 nor is this one LZMA, it is a text"]
)
def test_what_only_begins_like_a_compressed_file_is_read_as_it_is(tmp_path, raw):
    (tmp_path / "file").write_bytes(raw)
    assert any(raw[3:].decode() in text for _, _, text in read(tmp_path / "file"))
