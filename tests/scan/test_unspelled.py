"""Token ids that no tokenizer was met for are told apart from all other numbers that ordinary files hold."""

import json
import pickle

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from clinscale.scan import run
from clinscale.scan.strings import read_pieces
from clinscale.scan.unspelled import NO_TOKENIZER, are_unspelled

RNG = np.random.default_rng(0)
SHARES = 1 / np.arange(5, 3_004)
IDS = RNG.permutation(np.arange(1, 3_000))[RNG.choice(2_999, 400, p=SHARES / SHARES.sum())]
"""Few words are frequent and most are rare, as in any text."""


def tokenizer(words):
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, words[0]))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


OWN = tokenizer([f"w{number}x" for number in range(3_000)])
SMALLER = tokenizer([f"w{number}x" for number in range(2_000)])
OTHER = tokenizer([f"w{number}" + "-" * (number % 3) for number in range(4_000)])


def is_told(path, tokenizers=()):
    largest = max((one.get_vocab_size() for one in tokenizers), default=0)
    told = []
    for piece in read_pieces(path, largest):
        try:
            list(run._texts_of(piece, list(tokenizers)))
        except NotImplementedError as error:
            told.append(str(error))
    return NO_TOKENIZER in told


def parquet(numbers, path):
    pyarrow.parquet.write_table(pyarrow.table({"input_ids": [numbers.tolist()]}), path)


def rows(numbers, path):
    path.write_text(
        "".join(json.dumps({"note": at // 90, "id": int(one)}) + "\n" for at, one in enumerate(numbers))
    )


FORMS = {
    "json": lambda numbers, path: path.write_text(json.dumps({"input_ids": [numbers.tolist()]})),
    "text": lambda numbers, path: path.write_text(" ".join(map(str, numbers))),
    "csv": lambda numbers, path: path.write_text("\n".join(f"{at};a;{one}" for at, one in enumerate(numbers))),
    "json lines": rows,
    "npy": lambda numbers, path: np.save(path.open("wb"), numbers.reshape(2, -1)),
    "npz": lambda numbers, path: np.savez_compressed(path.open("wb"), ids=numbers.astype("<i4")),
    "floats": lambda numbers, path: np.save(path.open("wb"), numbers.astype("<f4")),
    "parquet": parquet,
    "safetensors": lambda numbers, path: save_file({"w": np.zeros(9, "f4"), "ids": numbers}, path),
    "torch": lambda numbers, path: torch.save({"ids": torch.from_numpy(numbers)}, path),
    "pickle": lambda numbers, path: path.write_bytes(pickle.dumps(numbers.tolist())),
}


@pytest.mark.parametrize("form", FORMS)
def test_ids_without_their_tokenizer_are_told_whatever_file_holds_them(tmp_path, form):
    path = tmp_path / "file"
    FORMS[form](IDS, path)
    assert is_told(path)
    assert is_told(path, [SMALLER])
    assert not is_told(path, [SMALLER, OWN])


def test_a_tokenizer_that_cannot_have_made_them_does_not_read_them():
    assert are_unspelled(IDS, [OTHER])
    assert not are_unspelled(IDS, [OTHER, OWN])
    padded = np.concatenate([np.stack([np.append(IDS[:190], [0] * 60), np.ones(250, int)], 1).ravel(), [-100] * 9])
    assert are_unspelled(padded, [])
    cutting = tokenizer([f"w{number}x" for number in range(3_000)])
    cutting.enable_truncation(max_length=128)  # as the tokenizer.json of sentence-transformers' MiniLM says
    assert not are_unspelled(IDS, [cutting])


ORDINARY = {
    "positions": np.tile(np.arange(514), 3),
    "a permutation": RNG.permutation(5_000),
    "drawn rows": RNG.integers(0, 700, 2_000),
    "lengths": RNG.lognormal(6, 1, 2_000).astype(int),
    "lengths in steps": RNG.integers(1, 40, 500) * 128,
    "labels": RNG.integers(0, 14, 900),
    "steps of several metrics": np.repeat(np.arange(1, 400), 4),
    "steps by metric": np.tile(np.arange(1, 400), 4),
    "numbers in prose": np.append(RNG.integers(1, 30, 90), RNG.integers(1990, 2026, 60)),
    "counts": RNG.poisson(900, 500),
    "a dictionary's": np.arange(3_000),
    "milliseconds": RNG.gamma(2, 400, 3_000).astype(int),
    "few ids": IDS[:40],
}


@pytest.mark.parametrize("what", ORDINARY)
def test_other_numbers_are_not_told(what):
    assert not are_unspelled(ORDINARY[what], [])


def test_a_models_and_an_optimizers_files_are_not_told(tmp_path):
    model = torch.nn.Sequential(torch.nn.Embedding(500, 16), torch.nn.LayerNorm(16))
    model.register_buffer("position_ids", torch.arange(514))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.arange(9)).sum().backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state")
    save_file({name: value.numpy() for name, value in model.state_dict().items()}, tmp_path / "weights")
    assert not is_told(tmp_path / "state")
    assert not is_told(tmp_path / "weights")
