"""Kind pair: the label of two texts, such as premise and hypothesis; a sequence with a second text."""

from clinscale.tasks.example import Example
from clinscale.tasks.kinds.sequence import SequenceKind


class PairKind(SequenceKind):
    """Two texts and their one label; of a pair that is too long the longer side is cut."""

    name = "pair"

    def _pair(self, example: Example) -> str | None:
        return self.second_text(example)
