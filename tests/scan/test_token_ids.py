"""Token ids in binary are found in files that hold them, whatever their width and place; weights are passed over."""

import contextlib
import gzip
import io
import json
import pickle
import sqlite3
import struct
import zipfile

import numpy as np
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest
import torch
from safetensors.numpy import save as save_safetensors
from tokenizers import Tokenizer, models, pre_tokenizers

from clinscale.scan.opened import looks_packed
from clinscale.scan.readings import readings
from clinscale.scan.strings import read_pieces
from clinscale.scan.token_ids import TOKEN_IDS, decoded, runs_of_ids

WORDS = ["[PAD]", *(f"w{number}x" for number in range(1, 3_000))]
IDS = np.random.default_rng(0).integers(1, len(WORDS), 40)
TEXT = " ".join(WORDS[number] for number in IDS[3:-3])
WEIGHTS = np.random.default_rng(1).normal(0, 0.02, 2**15).astype("f4")


def word_level(words):
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


TOKENIZER = word_level(WORDS)


def texts_of(path, tokenizer):
    for piece in read_pieces(path, tokenizer.get_vocab_size()):
        yield from (
            decoded(piece.raw, piece.encoding, [tokenizer])
            if piece.encoding in TOKEN_IDS
            else readings(piece.text, [tokenizer])
        )


def written(save, *args, **options):
    file = io.BytesIO()
    save(file, *args, **options)
    return file.getvalue()


def in_npz(file):
    np.savez_compressed(file, loss=WEIGHTS, input_ids=IDS)


def in_parquet(file):
    pyarrow.parquet.write_table(pyarrow.table({"input_ids": [IDS.tolist()]}), file)


def in_arrow(file):
    table = pyarrow.table({"input_ids": [IDS.astype("u2").tolist()]})
    with pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def table(**columns):
    return pyarrow.table({"note": ["a"] * len(IDS), "position": range(len(IDS)), **columns})


def parquet(of):
    return written(lambda file: pyarrow.parquet.write_table(of, file))


def arrow(of):
    return written(lambda file: pyarrow.feather.write_feather(of, file))


def msgpack(ids):
    return b"".join(b"\xcd" + int(one).to_bytes(2, "big") if one > 127 else bytes([one]) for one in ids)


def cbor(ids):
    return b"".join(b"\x19" + int(one).to_bytes(2, "big") if one > 255 else b"\x18" + bytes([one]) for one in ids)


def sqlite(kind):
    """A SQLite file with one id to a row."""
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE tokens (note TEXT, position INTEGER, id)")
        ids = [kind(one) if kind else one for one in IDS.tolist()]
        database.executemany("INSERT INTO tokens VALUES ('a', ?, ?)", list(enumerate(ids)))
        database.commit()
        return database.serialize()


def zipped(raw):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", raw)
    return file.getvalue()


NUMBERS = IDS.tolist()
ROWS = list(enumerate(NUMBERS))
SPELLINGS = {
    "csv": "id\n" + "\n".join(map(str, NUMBERS)),
    "csv of columns": "\n".join(f"a,{at},{one},1" for at, one in ROWS),
    "csv of floats": "\n".join(f"{at}\t{one}.0" for at, one in ROWS),
    "quoted csv": "\n".join(f'"{at}";"{one}"' for at, one in ROWS),
    "json lines": "\n".join(json.dumps({"note": "a", "p": 0.5, "id": one}) for one in NUMBERS),
    "json of objects": json.dumps([{"at": at, "id": one} for at, one in ROWS], indent=4),
    "json of lists": json.dumps({"a": [[[one] for one in NUMBERS]]}, indent=4),
    "json of pairs": json.dumps(ROWS),
    "json by position": json.dumps(dict(ROWS)),
    "json of strings": json.dumps([str(one) for one in NUMBERS]),
    "yaml": "".join(f"- {one}\n" for one in NUMBERS),
    "html": "".join(f"<tr><td>{at}</td><td>{one}</td></tr>\n" for at, one in ROWS),
    "log": "".join(f"10:00 token={one}\n" for one in NUMBERS),
    "numpy's text": written(np.savetxt, IDS).decode(),
    "hexadecimal": " ".join(map(hex, NUMBERS)),
}
FILES = {
    **{width: IDS.astype(width).tobytes() for width in ("<u2", "<i2", "<u4", "<i4", "<i8", "<f4", "<f8")},
    **{width: b"\xff" + IDS.astype(width).tobytes() for width in (">u2", ">i4", ">i8")},
    **{name: text.encode() for name, text in SPELLINGS.items()},
    **{f"pickle {number}": pickle.dumps(NUMBERS, number) for number in range(6)},
    "pickled lists": pickle.dumps({"input_ids": [NUMBERS[:4], NUMBERS[4:]]}),
    "pickled pairs": pickle.dumps(ROWS),
    "pickled positions": pickle.dumps(dict(ROWS)),
    "pickled scalars": pickle.dumps(list(IDS)),
    "pickled after more than one batch": pickle.dumps([5] * 3_000 + NUMBERS),
    **{f"pickled floats {number}": pickle.dumps([float(one) for one in NUMBERS], number) for number in range(6)},
    **{f"pickled scalars {width}": pickle.dumps(list(IDS.astype(width))) for width in ("f4", "f8")},
    "pickled pairs with shares": pickle.dumps([(one, 0.5 + one / 7) for one in NUMBERS]),
    "msgpack": msgpack(NUMBERS),
    "msgpack of floats": b"".join(b"\xcb" + struct.pack(">d", one) for one in NUMBERS),
    "msgpack of short floats": b"".join(b"\xca" + struct.pack(">f", one) for one in NUMBERS),
    "cbor of floats": b"".join(b"\xfb" + struct.pack(">d", one) for one in NUMBERS),
    "sqlite": sqlite(None),
    "sqlite of floats": sqlite(float),
    "sqlite of digits": sqlite(str),
    "sqlite in zip": zipped(sqlite(None)),
    "cbor": cbor(NUMBERS),
    "npy of pairs": written(np.save, np.array(ROWS)),
    "npy of three columns": written(np.save, np.array([(one, 1, 0) for one in NUMBERS], "<i4")),
    "parquet of rows": parquet(table(id=NUMBERS)),
    "parquet of floats": parquet(table(id=IDS.astype(float))),
    "parquet of nested lists": parquet(pyarrow.table({"id": [[[[one] for one in NUMBERS]]]})),
    "parquet of objects": parquet(pyarrow.table({"a": [[{"at": at, "id": one} for at, one in ROWS]]})),
    "parquet of bytes": parquet(pyarrow.table({"id": [IDS.astype("<i4").tobytes()]})),
    "arrow of rows": arrow(table(id=NUMBERS)),
    "arrow of packed bytes": arrow(pyarrow.table({"id": [gzip.compress(IDS.astype(">i4").tobytes())]})),
    "from an odd byte": b"\xff" * 7 + IDS.astype("<u2").tobytes(),
    "beside weights": WEIGHTS.tobytes() + IDS.astype("<u2").tobytes() + WEIGHTS.astype("f2").tobytes(),
    "across blocks": bytes(2**20 - 41) + IDS.astype("<i8").tobytes(),
    "after padding": np.concatenate([np.zeros(70_000), IDS]).astype("<i4").tobytes(),
    "npy": written(np.save, IDS.astype("<i4")),
    "npy of columns": written(np.save, np.asfortranarray(np.tile(IDS, (1, 1)))),
    "npz": written(in_npz),
    "gzip": gzip.compress(IDS.astype("<u2").tobytes()),
    "pickled array": pickle.dumps({"a": IDS}),
    "safetensors": save_safetensors({"a": WEIGHTS, "input_ids": IDS.reshape(2, -1), "z": WEIGHTS}),
    "pt": written(lambda file: torch.save({"w": torch.from_numpy(WEIGHTS), "ids": torch.from_numpy(IDS)}, file)),
    "parquet": written(in_parquet),
    "arrow": written(in_arrow),
}


@pytest.mark.parametrize("name", FILES)
def test_ids_are_found_in_any_file(tmp_path, name):
    (tmp_path / "file").write_bytes(FILES[name])
    assert any(TEXT in text for text in texts_of(tmp_path / "file", TOKENIZER))


@pytest.mark.parametrize("kind", ["<u2", ">u2", "<u4", "<i8", "<f4"])
def test_short_runs_of_digits_are_looked_into_at_once_and_found_where_they_are(kind, tmp_path):
    few, names = IDS[:12].astype(kind).tobytes().hex(), [f"{number:032x}" for number in range(50)]
    path = tmp_path / "log"
    path.write_text("".join(f"<{name}>" for name in [*names, few, *names]))
    wanted = " ".join(WORDS[number] for number in IDS[1:11])
    found = [
        piece
        for piece in read_pieces(path, len(WORDS))
        if piece.encoding in TOKEN_IDS
        and any(wanted in text for text in decoded(piece.raw, piece.encoding, [TOKENIZER]))
    ]
    assert {piece.offset for piece in found} == {34 * len(names) + 1}
    assert {piece.inside for piece in found} == {"encoded"}


@pytest.mark.parametrize("width", ["<u4", "<i8"])
def test_ids_of_a_vocabulary_beyond_16_bits_are_found(width, tmp_path):
    large = word_level(["[PAD]", *(f"w{number}x" for number in range(1, 70_000))])
    ids = np.random.default_rng(0).integers(60_000, 70_000, 40)
    (tmp_path / "file").write_bytes(b"\xff" * 6 + ids.astype(width).tobytes())
    wanted = " ".join(f"w{number}x" for number in ids[3:-3])
    assert any(wanted in text for text in texts_of(tmp_path / "file", large))


@pytest.mark.parametrize("vocabulary_tokens", [0, 2_000, 30_522, 50_265])
def test_weights_are_next_to_never_taken_for_ids(vocabulary_tokens):
    as_bf16 = (WEIGHTS.view("u4") >> 16).astype("<u2")
    for weights in (WEIGHTS, WEIGHTS.astype("f2"), as_bf16, np.zeros(2**15, "f4")):
        raw = weights.tobytes()
        assert not looks_packed(raw)
        taken = sum(stop - start for start, stop, _ in runs_of_ids(raw, vocabulary_tokens))
        assert taken < len(raw) / 20
