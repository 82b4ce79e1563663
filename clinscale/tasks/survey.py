"""Contents of a task's files, in numbers: for people before they spend GPU hours on it. No text."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from clinscale.tasks.example import TaskData
from clinscale.tasks.findings import Findings
from clinscale.tasks.kinds import kind_of

CUTS = (512, 4096)
"""Windows of short and long models; `over_512` counts the documents that are longer."""


def survey(data: TaskData, count_tokens: Callable[[str], int] | None = None) -> dict[str, Any]:
    """JSON-ready: documents, examples by split, labels, lengths, and what was rejected and repaired.

    Lengths are of distinct documents (of both texts of a pair): tokens by `count_tokens`, else words between blanks.
    """
    examples = [example for members in data.splits.values() for example in members]
    kind = kind_of(data.task)
    texts = {kind.measured_texts(example) for example in examples}
    labels = Counter(label for example in examples for label in kind.labels_of(example))
    return {
        "task": data.task.name,
        "kind": data.task.kind,
        "documents": data.findings.found.get("documents", len({example.text for example in examples})),
        "examples": {split: len(members) for split, members in data.splits.items()},
        "labels": {label: labels[label] for label in data.labels},
        "lengths": _lengths([" ".join(filter(None, pair)) for pair in texts], count_tokens),
        **counts_of(data.findings),
        "duplicates": data.duplicates,
        "duplicates_across_splits": data.duplicates_across_splits,
        "data": data.fingerprint,
    }


def counts_of(findings: Findings) -> dict[str, Any]:
    """`found`, `rejected`, `repaired` and `remarks`, also of a reading that did not come to its end."""
    return {
        "found": dict(findings.found),
        "rejected": dict(findings.rejected),
        "repaired": dict(findings.repaired),
        "remarks": list(findings.remarks),
    }


def _lengths(texts: list[str], count_tokens: Callable[[str], int] | None) -> dict[str, Any]:
    lengths = np.array([count_tokens(text) if count_tokens else len(text.split()) for text in texts])
    median, p95 = np.quantile(lengths, [0.5, 0.95]).round().tolist()
    over = {limit: int((lengths > limit).sum()) for limit in CUTS}
    return {
        "unit": "tokens" if count_tokens else "words",
        "median": int(median),
        "p95": int(p95),
        "max": int(lengths.max()),
        **{f"over_{limit}": number for limit, number in over.items()},
        **{f"share_over_{limit}": round(number / len(lengths), 4) for limit, number in over.items()},
    }
