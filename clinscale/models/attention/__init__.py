"""Exact self-attention for HF's Longformer and BigBird, several times faster than HF's own.

One definition of each pattern (`patterns`), one slow readable backend (`reference`), a fast one for CPUs (`tiles`)
and one for GPUs (`flex`). `exact` holds what the families' forward passes share, and `swap` puts them into a model.
"""

from clinscale.models.attention.swap import (
    backend_here,
    leaves_padding_out,
    use_exact_attention,
    use_hf_attention,
)

__all__ = ["backend_here", "leaves_padding_out", "use_exact_attention", "use_hf_attention"]
