"""Tokens that see the whole document: Longformer's global ones, and the first one of either family.

HF projects every token of the batch to global keys and values for the sake of a few queries. The projections can be
taken to the queries and the result instead (matrix products associate): `q (W x) = (q W) x` and
`sum p (W x) = W (sum p x)`. That is the same number, and for one global token an eighth of the time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from clinscale.models.attention.patterns import Document

if TYPE_CHECKING:
    from torch.nn import Linear
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    Projections = tuple[Linear, Linear, Linear]

# Shape letters: T tokens (all documents end to end), L tokens of a document, G its global tokens, E hidden size,
# H heads, D head size


@dataclass(frozen=True)
class GlobalTokens:
    """One document that has global tokens; on the device once per batch, so that no layer waits for it."""

    tokens: slice
    """The document up to its last token that is not padding."""
    global_G: torch.Tensor
    """Global tokens of the document, relative to its start."""
    unseen: torch.Tensor | None
    """Tokens that they do not see, (L,) masked ones or (G, L) in a causal pattern; None where they see all."""


def global_tokens_of(
    documents: Sequence[Document], device: torch.device, *, causal: bool = False
) -> list[GlobalTokens]:
    """Inputs of `with_global_rows` for the documents that have global tokens; `causal` ones look back only."""
    found = []
    for document in documents:
        if document.global_tokens:
            unseen = ~document.kept()[: document.length]
            if causal:
                unseen = unseen | (np.arange(document.length) > np.array(document.global_tokens)[:, None])
            found.append(
                GlobalTokens(
                    slice(document.start, document.start + document.length),
                    torch.tensor(document.global_tokens, device=device),
                    torch.from_numpy(unseen).to(device) if unseen.any() else None,
                )
            )
    return found


def with_global_rows(
    module: "LongformerSelfAttention",
    hidden_TE: torch.Tensor,
    local_TE: torch.Tensor,
    documents: Sequence[GlobalTokens],
    dropout: float,
) -> torch.Tensor:
    """`local_TE` (T, E), the output of local attention, with the rows of global tokens replaced by theirs."""
    rows_R = torch.cat([document.tokens.start + document.global_G for document in documents])
    projections = (module.query_global, module.key_global, module.value_global)
    answers_RE = torch.cat(
        [
            attend_whole(hidden_TE[document.tokens], document, projections, module.num_heads, dropout)
            for document in documents
        ]
    )
    return local_TE.index_copy(0, rows_R, answers_RE.to(local_TE.dtype))


def attend_whole(
    hidden_LE: torch.Tensor, document: GlobalTokens, projections: "Projections", heads: int, dropout: float = 0.0
) -> torch.Tensor:
    """The answers of one document's global tokens, (G, E), each over all its tokens.

    Args:
        hidden_LE: hidden states of the document.
        document: whose they are.
        projections: to queries, keys and values.
        heads: of attention.
        dropout: of attention probabilities.
    """
    to_query, to_key, to_value = projections
    num_global, head_dim = len(document.global_G), to_query.out_features // heads
    few = num_global < head_dim  # beyond that, projecting every token is the cheaper way
    query_HGD = to_query(hidden_LE[document.global_G]).view(num_global, heads, head_dim).transpose(0, 1)
    query_HGD = query_HGD * head_dim**-0.5
    if few:
        weight_HDE = to_key.weight.view(heads, head_dim, -1)
        bias_HD1 = to_key.bias.view(heads, head_dim, 1)
        scores_HGL = torch.matmul(torch.matmul(query_HGD, weight_HDE), hidden_LE.t())
        scores_HGL = scores_HGL + torch.matmul(query_HGD, bias_HD1)
    else:
        key_HDL = to_key(hidden_LE).view(-1, heads, head_dim).permute(1, 2, 0)
        scores_HGL = torch.matmul(query_HGD, key_HDL)
    if document.unseen is not None:
        scores_HGL = scores_HGL.masked_fill(document.unseen, torch.finfo(scores_HGL.dtype).min)
    probs_HGL = torch.softmax(scores_HGL, dim=-1, dtype=torch.promote_types(scores_HGL.dtype, torch.float32))
    probs_HGL = torch.nn.functional.dropout(probs_HGL.to(scores_HGL.dtype), p=dropout)
    if few:
        weight_HED = to_value.weight.view(heads, head_dim, -1).transpose(1, 2)
        bias_H1D = to_value.bias.view(heads, 1, head_dim)
        context_HGE = torch.matmul(probs_HGL, hidden_LE)
        output_HGD = torch.matmul(context_HGE, weight_HED) + probs_HGL.sum(-1, keepdim=True) * bias_H1D
    else:
        value_HLD = to_value(hidden_LE).view(-1, heads, head_dim).transpose(0, 1)
        output_HGD = torch.matmul(probs_HGL, value_HLD)
    answers_GE: torch.Tensor = output_HGD.transpose(0, 1).reshape(num_global, heads * head_dim)
    return answers_GE
