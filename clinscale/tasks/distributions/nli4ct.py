"""NLI4CT (SemEval-2023 task 7): statements about one clinical trial or two, judged by the trials' records."""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from clinscale.config import Config
from clinscale.errors import DataError
from clinscale.records import list_files, read_records
from clinscale.storage import exists, join, read_json
from clinscale.tasks.distributions.distribution import Distribution, Splits
from clinscale.tasks.example import Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.split import hold_out

_SECTIONS = ("Intervention", "Eligibility", "Results", "Adverse Events")
_NUM_STATEMENTS = {"train": 1_700, "dev": 200}

_Trial = Mapping[str, Sequence[str]]
"""Section -> its lines."""


class Nli4ctOptions(Config):
    """Choices that the release leaves open."""

    premise: Literal["section", "record"] = "section"
    """The part of a trial that is read: the section that the statement is about, which is the task as its authors
    define and score it; or the whole record, in which the section has yet to be found."""

    dev_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the official train that is held out as dev, by primary trial: the labels of the official test are not
    public, so the official dev is the test set."""

    dev_seed: int = 0
    """Seed of the trials held out for development; any number, kept fixed so that scores stay comparable."""


def read_nli4ct(data: str, options: Nli4ctOptions, findings: Findings) -> Splits:
    """Finds `documents` (trials), and `train statements` and `dev statements` by the official splits."""
    folder = join(data, "CT json")
    if not exists(folder):
        raise DataError(f"{folder} does not exist; give the folder that holds it, train.json and dev.json")
    files = list_files(folder, (".json",))
    trials = {file.rsplit("/", 1)[-1].removesuffix(".json"): read_json(file) for file in files}
    findings.find("documents", len(trials))
    official = {split: _statements(data, split, trials, options, findings) for split in _NUM_STATEMENTS}
    train, dev = hold_out(official["train"], options.dev_share, options.dev_seed)
    return {"train": list(train), "dev": list(dev), "test": official["dev"]}


def _statements(
    data: str, split: str, trials: Mapping[str, _Trial], options: Nli4ctOptions, findings: Findings
) -> list[Example]:
    examples, number = [], 0
    for row in read_records(join(data, f"{split}.json"), ["Section_id", "Primary_id", "Statement", "Label"]):
        number += 1
        ids = [trial for trial in (row.value("Primary_id"), row.value("Secondary_id")) if trial]
        sections = _SECTIONS if options.premise == "record" else (row.value("Section_id"),)
        try:
            premise = _premise([trials[trial] for trial in ids], sections)
        except KeyError:
            findings.reject("trial or section is not in `CT json`", row.place, "add the trial's file")
            continue
        statement, label = row.text("Statement").strip(), row.text("Label")
        examples.append(Example(str(row.value("id")), premise, statement, (label,), group=ids[0]))
    findings.find(f"{split} statements", number)
    findings.expect(f"{split} statements", number, _NUM_STATEMENTS[split], "NLI4CT")
    return examples


def _premise(trials: Sequence[_Trial], sections: Sequence[str]) -> str:
    """The lines of one trial, or of two under headings: statements call them the primary and the secondary trial."""
    texts = ["\n".join(line for section in sections for line in trial[section]) for trial in trials]
    return texts[0] if len(texts) == 1 else "Primary trial:\n{}\n\nSecondary trial:\n{}".format(*texts)


NLI4CT = Distribution(read_nli4ct, Nli4ctOptions)
