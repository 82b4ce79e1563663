"""One problem of a launch file."""

import dataclasses


@dataclasses.dataclass(frozen=True, order=True)
class Problem:
    """One finding of `check`: which rule of which file is broken, by what, and how to fix it."""

    file: str
    rule: str
    """A short name of the rule, the same for all kinds of files."""
    found: str
    """The value in the file; never a secret."""
    mend: str
