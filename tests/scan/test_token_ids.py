"""Token ids in binary are found in files that hold them, whatever their width and place; weights are passed over."""

import gzip
import io
import pickle

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.numpy import save as save_safetensors
from tokenizers import Tokenizer, models, pre_tokenizers

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
            decoded(piece.raw, [tokenizer]) if piece.encoding == TOKEN_IDS else readings(piece.text, [tokenizer])
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


FILES = {
    **{width: IDS.astype(width).tobytes() for width in ("<u2", "<i2", "<u4", "<i4", "<i8")},
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
        taken = sum(stop - start for start, stop in runs_of_ids(raw, vocabulary_tokens))
        assert taken < len(raw) / 20
