"""NLI4CT (SemEval-2023 task 7): statements about one clinical trial or two, judged by the trials' records."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from clinscale.cells import CellError, as_id, as_label
from clinscale.config import Config
from clinscale.errors import DataError
from clinscale.records import Record, list_files, read_records
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
    trials = _trials(folder, findings)
    official = {split: _statements(data, split, trials, options, findings) for split in _NUM_STATEMENTS}
    train, dev = hold_out(official["train"], options.dev_share, options.dev_seed)
    return {"train": list(train), "dev": list(dev), "test": official["dev"]}


def _trials(folder: str, findings: Findings) -> dict[str, _Trial]:
    trials: dict[str, _Trial] = {}
    for file in list_files(folder, (".json",)):
        findings.find("documents")
        trial = read_json(file)
        if isinstance(trial, dict) and all(_is_lines(trial.get(section, [])) for section in _SECTIONS):
            trials[file.rsplit("/", 1)[-1].removesuffix(".json")] = trial
        else:
            findings.reject(
                "a trial's sections are no lists of lines", file, "take the file from the release anew"
            )
    return trials


def _is_lines(section: Any) -> bool:
    return isinstance(section, list) and all(isinstance(line, str) for line in section)


def _statements(
    data: str, split: str, trials: Mapping[str, _Trial], options: Nli4ctOptions, findings: Findings
) -> list[Example]:
    examples, number = [], 0
    for row in read_records(join(data, f"{split}.json"), ["Section_id", "Primary_id", "Statement", "Label"]):
        number += 1
        try:
            examples.append(_example(row, trials, options))
        except CellError as error:
            findings.reject(error.reason, row.place, error.fix)
        except KeyError:
            findings.reject("trial or section is not in `CT json`", row.place, "add the trial's file")
    findings.find(f"{split} statements", number)
    findings.expect(f"{split} statements", number, _NUM_STATEMENTS[split], "NLI4CT")
    return examples


def _example(row: Record, trials: Mapping[str, _Trial], options: Nli4ctOptions) -> Example:
    """The example of a statement; KeyError where the trials do not hold what it is about, CellError where it lacks."""
    first, second = row.need(as_id, "Primary_id", "id"), row.read(as_id, "Secondary_id")
    sections = _SECTIONS if options.premise == "record" else (row.text("Section_id"),)
    premise = _premise([trials[id] for id in (first, second) if id], sections)
    label = (row.need(as_label, "Label", "label"),)
    return Example(row.need(as_id, "id", "id"), premise, row.text("Statement").strip(), label, group=first)


def _premise(trials: Sequence[_Trial], sections: Sequence[str]) -> str:
    """The lines of one trial, or of two under headings: statements call them the primary and the secondary trial."""
    texts = ["\n".join(line for section in sections for line in trial[section]) for trial in trials]
    return texts[0] if len(texts) == 1 else "Primary trial:\n{}\n\nSecondary trial:\n{}".format(*texts)


NLI4CT = Distribution(read_nli4ct, Nli4ctOptions)
