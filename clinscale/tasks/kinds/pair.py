"""Kind pair: the label of two texts, such as premise and hypothesis; a sequence with a second text."""

from typing import ClassVar

from clinscale.tasks.example import Example
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

    def _pair(self, example: Example) -> str | None:
        return self.second_text(example)
