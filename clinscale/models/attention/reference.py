"""The slow, readable backend: dense attention straight from the patterns' definitions. Tests compare with it."""

import torch

from clinscale.models.attention.patterns import BigBirdPattern, LongformerPattern

# Shape letters: H heads, T tokens (all documents end to end), D head size; R rows of one document


def attend(
    query_THD: torch.Tensor,
    key_THD: torch.Tensor,
    value_THD: torch.Tensor,
    pattern: LongformerPattern | BigBirdPattern,
) -> torch.Tensor:
    """(T, H, D) attention of each document over the keys that `pattern` lets it see; zero where it sees none."""
    output_THD = torch.zeros_like(query_THD)
    for document in pattern.documents:
        rows = slice(document.start, document.start + document.rows)
        if isinstance(pattern, LongformerPattern):
            times_HRR = torch.from_numpy(pattern.sees(document)[None])
        else:
            times_HRR = torch.from_numpy(pattern.times(document).copy())
        weight_HRR = times_HRR.to(query_THD.device, torch.promote_types(query_THD.dtype, torch.float32))
        query_HRD, key_HRD, value_HRD = (
            x_THD[rows].transpose(0, 1).to(weight_HRR.dtype) for x_THD in (query_THD, key_THD, value_THD)
        )
        scores_HRR = query_HRD @ key_HRD.transpose(1, 2) * query_THD.shape[-1] ** -0.5
        # a key seen m times counts m times in the softmax: its score grows by log m
        scores_HRR = torch.where(weight_HRR > 0, scores_HRR + weight_HRR.clamp(min=1).log(), -torch.inf)
        sees_any_HR1 = (weight_HRR > 0).any(-1, keepdim=True)
        probs_HRR = torch.where(sees_any_HR1, scores_HRR, 0).softmax(-1) * sees_any_HR1
        rows_THD = (probs_HRR @ value_HRD).transpose(0, 1)
        output_THD = torch.cat([output_THD[: rows.start], rows_THD.to(output_THD.dtype), output_THD[rows.stop :]])
    return output_THD
