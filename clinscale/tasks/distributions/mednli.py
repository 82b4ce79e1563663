"""MedNLI 1.0.0: whether a statement follows from a sentence out of a patient's past medical history."""

from clinscale.cells import CellError, as_id, as_label, as_text
from clinscale.config import Config
from clinscale.errors import DataError
from clinscale.records import read_records
from clinscale.storage import exists, join
from clinscale.tasks.distributions.distribution import Distribution, NoOptions, Splits
from clinscale.tasks.example import Example
from clinscale.tasks.findings import Findings

_FOLDER = "mednli-a-natural-language-inference-dataset-for-the-clinical-domain-1.0.0"
"""Name of PhysioNet's zip and of the folder that it unpacks to."""

_FILES = {split: f"mli_{split}_v1.jsonl" for split in ("train", "dev", "test")}
_NUM_PAIRS = {"train": 11_232, "dev": 1_395, "test": 1_422}
_NUM_PAIRS_MEDIQA = 405
"""The test set of the shared task MEDIQA 2019: same columns, other pairs."""

_SENTENCES = ("sentence1", "sentence2")
_LABELS = ("contradiction", "entailment", "neutral")


def read_mednli(data: str, options: Config, findings: Findings) -> Splits:
    """The official split, premise first; an example's group is its premise. Finds `train pairs` and so on.

    Raises:
        DataError: a file is not there, or is that of MEDIQA 2019.
    """
    folders = (data, join(data, _FOLDER))
    there = [folder for folder in folders if any(exists(join(folder, name)) for name in _FILES.values())]
    if not there:
        packed = join(data, f"{_FOLDER}.zip")
        step = f"unpack {packed}" if exists(packed) else f"give the folder that {_FOLDER}.zip unpacks to"
        raise DataError(f"{data} holds none of {', '.join(_FILES.values())}, nor does {_FOLDER} in it; {step}")
    return {split: _pairs(join(there[0], name), split, findings) for split, name in _FILES.items()}


def _pairs(file: str, split: str, findings: Findings) -> list[Example]:
    what = f"{split} pairs"

    def skip(fault: str, place: str) -> None:
        findings.find(what)
        findings.reject("not a JSON object", place, "take the file from PhysioNet anew")

    examples = []
    for row in read_records(file, on_bad_row=skip):
        findings.find(what)
        try:
            pair, label = row.read(as_id, "pairID"), row.read(as_label, "gold_label")
            premise, hypothesis = ((row.read(as_text, column) or "").strip() for column in _SENTENCES)
        except CellError as error:
            findings.reject(error.reason, row.place, error.fix)
            continue
        if label not in _LABELS:
            findings.reject(f"gold_label is none of {', '.join(_LABELS)}", row.place, "correct the label")
        elif not (pair and premise and hypothesis):
            findings.reject("pairID, sentence1 or sentence2 is empty", row.place, "fill it")
        else:
            examples.append(Example(pair, premise, hypothesis, (label,), group=premise))
    if findings.found[what] == _NUM_PAIRS_MEDIQA:
        raise DataError(
            f"{file} holds {_NUM_PAIRS_MEDIQA} pairs, as MEDIQA 2019 does; take the file of MedNLI 1.0.0"
        )
    findings.expect(what, findings.found[what], _NUM_PAIRS[split], "MedNLI 1.0.0")
    return examples


MEDNLI = Distribution(read_mednli, NoOptions)
