"""Windows to padded tensors: nothing real is cut, nothing padded is seen."""

import torch

from clinscale.predict import collate, length_sorted_batches
from clinscale.tasks import Window


def window(tokens, **targets):
    return Window(
        input_ids=list(range(5, 5 + tokens)),
        offsets=[None] * tokens,
        global_mask=[1] + [0] * (tokens - 1),
        targets=targets,
    )


def test_batches_hold_every_window_once_and_are_sorted_by_length():
    windows = [window(tokens) for tokens in (3, 9, 4, 8, 2)]
    batches = list(length_sorted_batches(windows, 2))
    assert sorted(index for batch in batches for index in batch) == [0, 1, 2, 3, 4]
    assert [[len(windows[index].input_ids) for index in batch] for batch in batches] == [[9, 8], [4, 3], [2]]


def test_windows_of_unlike_block_counts_are_kept_apart():
    windows = [window(tokens) for tokens in (17, 16, 33, 15, 32, 3, 1)]
    batches = list(length_sorted_batches(windows, 2, block_size=16))
    assert [[len(windows[index].input_ids) for index in batch] for batch in batches] == [
        [33],
        [32, 17],
        [16, 15],
        [3, 1],
    ]


def test_padding_is_masked_and_global_attention_reaches_longformer_only():
    windows = [window(3), window(2)]
    batch = collate(windows, pad_token_id=1, family="longformer")
    assert batch["input_ids"].tolist() == [[5, 6, 7], [5, 6, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["global_attention_mask"].tolist() == [[1, 0, 0], [1, 0, 0]]
    assert "global_attention_mask" not in collate(windows, pad_token_id=1, family="bigbird")


def test_targets_take_the_shape_of_their_kind():
    def batch(*targets):
        return collate(
            [window(n, **t) for n, t in zip((3, 2), targets, strict=True)], pad_token_id=1, family="bert"
        )

    assert batch({"labels": 2}, {"labels": 0})["labels"].tolist() == [2, 0]
    several = batch({"labels": [1.0, 0.0]}, {"labels": [0.0, 1.0]})["labels"]
    assert several.dtype == torch.float32
    assert several.tolist() == [[1, 0], [0, 1]]
    assert batch({"labels": [0, 1, -100]}, {"labels": [3, 3]})["labels"].tolist() == [[0, 1, -100], [3, 3, -100]]
    spans = batch({"start_positions": 1, "end_positions": 2}, {"start_positions": 0, "end_positions": 0})
    assert spans["end_positions"].tolist() == [2, 0]
