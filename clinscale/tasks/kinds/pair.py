"""Kind pair: the label of two texts, such as premise and hypothesis; a sequence with a second text."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from clinscale.tasks.example import Example, text_key
from clinscale.tasks.findings import Findings
from clinscale.tasks.kinds.kind import column
from clinscale.tasks.kinds.sequence import SequenceKind


class PairKind(SequenceKind):
    """Two texts and their one label; of a pair that is too long the longer side is cut."""

    name = "pair"
    needs = "second text"
    second_text_column = "text_pair"
    takes_several_labels = False
    example_is_document = False
    input_columns = (column("text_pair", "string"),)
    input_example: ClassVar = {"text_pair": "The patient has no pain."}

    def measured_texts(self, example: Example) -> tuple[str, str | None]:
        """Both texts, which are read together."""
        return example.text, example.text_pair

    def report(self, splits: Mapping[str, Sequence[Example]], findings: Findings) -> None:
        """Remark on pairs of a text with itself, too, where most are."""
        super().report(splits, findings)
        pairs = [text_key(one.text) == text_key(one.text_pair or "") for some in splits.values() for one in some]
        if 2 * sum(pairs) > len(pairs):
            findings.remark(
                f"{sum(pairs):,} of {len(pairs):,} pairs are of a text with itself: do the two columns name two texts?"
            )

    def _pair(self, example: Example) -> str | None:
        return self.second_text(example)
