"""Texts to windows of tokens with clean character offsets."""

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from clinscale.errors import ConfigError
from clinscale.tasks.kinds.cutting import cut_at_words
from clinscale.tasks.kinds.kind import LongDocuments, Window
from clinscale.tasks.kinds.words import words_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Offset = tuple[int, int] | None


def fitted(
    tokenizer: "PreTrainedTokenizerBase",
    text: str,
    text_pair: str | None,
    *,
    max_tokens: int,
    stride_tokens: int,
    long_documents: LongDocuments,
) -> list[Window]:
    """A text, or a pair, as one window; `pool` may need several. The global mask marks the classification token.

    A pair that is too long keeps its shorter side, up to half of the room; `truncate` cuts the longer side at its end.
    """
    room = room_for_text(tokenizer, max_tokens, pair=text_pair is not None)
    cut = {"truncation": "longest_first", "max_length": max_tokens} if long_documents == "truncate" else {}
    is_pair = text_pair is not None
    encoding = tokenizer(
        text, text_pair, return_offsets_mapping=True, return_token_type_ids=is_pair, verbose=False, **cut
    )
    types = list(encoding["token_type_ids"]) if is_pair else []
    ids, sides = list(encoding["input_ids"]), encoding.sequence_ids(0)
    offsets = _clean(encoding["offset_mapping"], sides, text, side=0)
    marks = classification_mask(tokenizer, ids)
    return [
        Window(
            [ids[p] for p in kept],
            [offsets[p] for p in kept],
            [marks[p] for p in kept],
            token_types=[types[p] for p in kept if is_pair],
        )
        for kept in _fitting(sides, room, stride_tokens, long_documents)
    ]


def _fitting(
    sides: Sequence[int | None], room: int, stride_tokens: int, long_documents: LongDocuments
) -> Iterator[list[int]]:
    """Positions that each window keeps; special tokens are in all of them."""
    short, long = sorted(([p for p, side in enumerate(sides) if side == of] for of in (0, 1)), key=len)
    if len(short) + len(long) <= room:
        yield list(range(len(sides)))
        return
    special = [position for position, side in enumerate(sides) if side is None]
    always = [*special, *short[: room // 2]]
    room -= min(len(short), room // 2)
    if long_documents == "head_tail":
        head = room // 4
        yield sorted([*always, *long[:head], *long[head - room :]])
        return
    step = room - min(stride_tokens, room // 2)
    for start in range(0, len(long) - room + step, step):
        yield sorted([*always, *long[start : start + room]])


def overlapping(
    tokenizer: "PreTrainedTokenizerBase",
    text: str,
    *,
    question: str | None,
    max_tokens: int,
    stride_tokens: int,
    cuts: Collection[int] = (),
) -> list[Window]:
    """Windows that cover the whole of `text`, each after the whole question if there is one.

    No token reaches over the end of a word (`cut_at_words`), words being those of the text, cut at `cuts` too. The
    global mask marks the classification token and the question (transformers' Longformer for question answering), and
    nothing without a question (its token classification).
    """
    room = room_for_text(tokenizer, max_tokens, pair=question is not None)
    texts = [text] if question is None else [question, text]
    is_pair = question is not None
    encoding = tokenizer(*texts, return_offsets_mapping=True, return_token_type_ids=is_pair, verbose=False)
    ids, sides = list(encoding["input_ids"]), encoding.sequence_ids(0)
    types = list(encoding["token_type_ids"]) if is_pair else []
    asked = 0 if question is None else sides.count(0)
    room -= asked
    if room < 2:
        raise ConfigError(
            f"a question of {max_tokens - room} tokens leaves no room for text in windows of {max_tokens}; "
            "ask a shorter question or raise max_tokens"
        )
    side = len(texts) - 1
    first = sides.index(side) if side in sides else len(sides)
    behind = first + sides.count(side)
    head, tail = ids[:first], ids[behind:]
    raw = _clean(encoding["offset_mapping"], sides, text, side=side)[first:behind]
    here = [offset for offset in raw if offset is not None]
    inner, offsets = cut_at_words(tokenizer, text, ids[first:behind], here, words_of(text, cuts), cuts)
    mask = [0] * len(head)
    if question is not None:
        mask = [int(s == 0) | c for s, c in zip(sides, classification_mask(tokenizer, head), strict=False)]
    step = room - min(stride_tokens, room // 2)
    return [
        Window(
            [*head, *inner[start : start + room], *tail],
            [*[None] * len(head), *offsets[start : start + room], *[None] * len(tail)],
            [*mask, *[0] * (len(inner[start : start + room]) + len(tail))],
            first_token=start,
            token_types=[
                *types[:first],
                *types[first : first + 1] * len(inner[start : start + room]),
                *types[behind:],
            ],
        )
        for start in range(0, max(1, len(inner) - room + step), step)
    ]


def room_for_text(tokenizer: "PreTrainedTokenizerBase", max_tokens: int, *, pair: bool) -> int:
    """Tokens left for text beside the special ones; at least two."""
    if not tokenizer.is_fast or tokenizer.truncation_side != "right":
        raise ConfigError(
            "windows need a fast tokenizer that truncates on the right, as character offsets come from it, got "
            f"{type(tokenizer).__name__}, truncation side {tokenizer.truncation_side}; load one that does"
        )
    room = max_tokens - int(tokenizer.num_special_tokens_to_add(pair=pair))
    if room < 2:
        raise ConfigError(f"max_tokens of {max_tokens} leaves no room for text; raise it")
    return room


def _clean(raw: list[tuple[int, int]], sides: list[int | None], text: str, *, side: int) -> list[Offset]:
    """Offsets of the tokens of `side`, trimmed of white space; None for the others.

    Byte-level tokenizers count the blank before a word to it or not, as their `trim_offsets` says, and
    SentencePiece always counts it: after trimming all agree.
    """
    offsets: list[Offset] = []
    for (start, end), of in zip(raw, sides, strict=True):
        if of != side:
            offsets.append(None)
            continue
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        offsets.append((start, end))
    return offsets


def classification_mask(tokenizer: "PreTrainedTokenizerBase", input_ids: list[int]) -> list[int]:
    """1 at the classification token (the first token of tokenizers that name none), 0 elsewhere."""
    at = input_ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in input_ids else 0
    return [int(position == at) for position in range(len(input_ids))]
