"""Windows to padded tensors."""

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from clinscale.models import family_named
from clinscale.tasks import Window

if TYPE_CHECKING:
    import torch

_PADDED_TARGETS = {"labels": -100}  # per-token labels; other targets are one value per window


def length_sorted_batches(
    windows: Sequence[Window], batch_size: int, *, block_size: int | None = None
) -> Iterator[list[int]]:
    """Indices of `windows` in batches of similar length, longest first, so that little is padded.

    With `block_size` (BigBird's; `Family.padding_block`), a batch holds only windows of equally many blocks: its
    attention treats the last block of the padded row as global, so that a longer neighbour would change an answer.
    """

    def blocks(index: int) -> int:
        return -(-len(windows[index].input_ids) // block_size) if block_size else 0

    order = sorted(range(len(windows)), key=lambda index: -len(windows[index].input_ids))
    for _, alike in itertools.groupby(order, key=blocks):
        group = list(alike)
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]


def collate(
    windows: Sequence[Window],
    *,
    pad_token_id: int,
    family: str,
    least_length: int = 0,
    token_types: bool = False,
) -> "dict[str, torch.Tensor]":
    """One batch as the HF model takes it, padded to its longest window and `least_length`.

    Returns:
        `input_ids`, `attention_mask` (B, L) and, where the family takes it, `global_attention_mask` and, where asked
        for, `token_type_ids` (B, L), all int64; the windows' targets where they have any: `labels` (B,), (B, labels)
        or (B, L), `start_positions` (B,), ...
    """
    import torch

    length = max(least_length, *(len(window.input_ids) for window in windows))

    def padded(values: Sequence[int], fill: int) -> list[int]:
        return [*values, *[fill] * (length - len(values))]

    batch = {
        "input_ids": torch.tensor([padded(window.input_ids, pad_token_id) for window in windows]),
        "attention_mask": torch.tensor([padded([1] * len(window.input_ids), 0) for window in windows]),
    }
    if family_named(family).uses_global_mask:
        batch["global_attention_mask"] = torch.tensor([padded(window.global_mask, 0) for window in windows])
    if token_types:
        batch["token_type_ids"] = torch.tensor([padded(window.token_types, 0) for window in windows])
    for name in windows[0].targets:
        targets: list[Any] = [window.targets[name] for window in windows]
        per_token = isinstance(targets[0], list) and isinstance(targets[0][0], int)
        if per_token:
            targets = [padded(target, _PADDED_TARGETS[name]) for target in targets]
        batch[name] = torch.tensor(targets)
    return batch
