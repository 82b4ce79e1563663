"""Evidence Inference: whole articles on trials, and prompts on what a treatment did to an outcome."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

from clinscale.config import Config
from clinscale.errors import DataError
from clinscale.records import list_files, read_records, read_text
from clinscale.storage import exists, join
from clinscale.tasks.distributions.distribution import Distribution, Splits
from clinscale.tasks.example import Example
from clinscale.tasks.findings import Findings

_LABELS = {"-1": "significantly decreased", "0": "no significant difference", "1": "significantly increased"}
"""Labels by `Label Code`: the column `Label` spells the third in two ways."""

_PROMPT = (
    "With respect to {Outcome}, characterize the reported difference between {Intervention} and those receiving "
    "{Comparator}."
)
"""The prompt as the release words it."""

_OFFICIAL_SPLITS = {"train": "train", "dev": "validation", "test": "test"}


class EvidenceInferenceOptions(Config):
    """Choices that the release leaves open."""

    judgements: Literal["majority", "each"] = "majority"
    """One example per prompt, with the label that most annotators gave, and none on a tie; or one per judgement, which
    scores the same article and prompt several times, now and then by labels that contradict each other."""

    refuted: bool = False
    """Whether judgements count whose label the release's verifier refuted (`Valid Label`)."""


class _Judgement(NamedTuple):
    """One annotator's label of a prompt; a set of them keeps one of those that are alike."""

    annotator: str
    label: str


def read_evidence_inference(data: str, options: EvidenceInferenceOptions, findings: Findings) -> Splits:
    """Pairs of article and prompt, grouped by article. Finds `documents` (articles), `prompts`, `judgements`.

    Split by the official lists of articles where they are in `splits`; otherwise `all`.
    """
    folder = data if exists(join(data, "txt_files")) else join(data, "annotations")
    if not exists(join(folder, "txt_files")):
        raise DataError(f"{data} has no folder txt_files; give the release's folder `annotations`, unpacked")
    articles = _articles(join(folder, "txt_files"))
    findings.find("documents", len(articles))
    judgements = _judgements(folder, options, findings)
    examples = []
    columns = ["PromptID", "PMCID", "Outcome", "Intervention", "Comparator"]
    for row in read_records(_table(folder, "prompts"), columns):
        findings.find("prompts")
        prompt, article = row.value("PromptID"), row.value("PMCID")
        if article not in articles:
            findings.reject("no article", row.place, "add it to txt_files")
            continue
        question = _PROMPT.format(**row.fields)
        for number, label in enumerate(_labels(judgements[prompt], options, findings), 1):
            id = prompt if options.judgements == "majority" else f"{prompt}:{number}"
            examples.append(Example(id, articles[article], question, (label,), group=article))
    return _split(examples, folder, findings)


def _judgements(
    folder: str, options: EvidenceInferenceOptions, findings: Findings
) -> defaultdict[str, list[_Judgement]]:
    """Judgements that count, by prompt."""
    by_prompt: defaultdict[str, list[_Judgement]] = defaultdict(list)
    for row in read_records(_table(folder, "annotations"), ["PromptID", "UserID", "Valid Label", "Label Code"]):
        findings.find("judgements")
        if row.value("Label Code") not in _LABELS:
            findings.leave_out("prompt judged invalid")
        elif row.value("Valid Label") not in ("True", "1") and not options.refuted:
            findings.leave_out("judgement refuted")
        else:
            judgement = _Judgement(row.value("UserID"), _LABELS[row.value("Label Code")])
            by_prompt[row.value("PromptID")].append(judgement)
    return by_prompt


def _labels(judgements: Sequence[_Judgement], options: EvidenceInferenceOptions, findings: Findings) -> list[str]:
    """The labels of a prompt's examples; an annotator who cites several passages has one vote for each label."""
    if options.judgements == "each":
        return [judgement.label for judgement in judgements]
    votes = Counter(judgement.label for judgement in set(judgements)).most_common(2)
    if not votes:
        findings.leave_out("prompt without a judgement")
    elif len(votes) == 2 and votes[0][1] == votes[1][1]:
        findings.leave_out("prompt with as many votes for two labels")
    else:
        return [votes[0][0]]
    return []


def _split(examples: list[Example], folder: str, findings: Findings) -> Splits:
    if not exists(join(folder, "splits")):
        findings.remark("the official lists splits/*_article_ids.txt are not there: split by article")
        return {"all": examples}
    splits = {}
    for split, name in _OFFICIAL_SPLITS.items():
        articles = set(read_text(join(folder, "splits", f"{name}_article_ids.txt")).split())
        splits[split] = [example for example in examples if example.group in articles]
    findings.leave_out("article in no official split", len(examples) - sum(map(len, splits.values())))
    return splits


def _articles(folder: str) -> dict[str, str]:
    """The number in its PMC id -> text."""
    files = list_files(folder, (".txt",))
    return {file.rsplit("/", 1)[-1].partition(".")[0].removeprefix("PMC"): read_text(file) for file in files}


def _table(folder: str, name: str) -> str:
    """The file in `folder`; the release calls it `NAME_merged.csv`."""
    places = [join(folder, f"{name}{suffix}.csv") for suffix in ("", "_merged")]
    for place in places:
        if exists(place):
            return place
    raise DataError(f"{places[0]} does not exist, nor {places[1]}; give the folder that holds one of them")


EVIDENCE_INFERENCE = Distribution(read_evidence_inference, EvidenceInferenceOptions)
