"""The notes of the first hours of each stay of the cohort, joined in the order of time.

NOTEEVENTS goes through Python's CSV reader, 4 GB in half a minute and in constant memory; DuckDB reads line breaks in
quotes either by guessing where rows begin, which fails, or by holding the whole file.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter

from clinscale.records import read_records
from clinscale.storage import join
from clinscale.tasks.distributions.mimic_aki.cohort import Stay
from clinscale.tasks.distributions.mimic_aki.folder import RELEASE, TABLES, Folder, read_head
from clinscale.tasks.distributions.mimic_aki.options import MimicAkiOptions
from clinscale.tasks.findings import Findings, NoExamplesError

_PLACEHOLDER = re.compile(r"\[\*\*.*?\*\*\]", re.DOTALL)


@dataclass(frozen=True)
class _Note:
    time: datetime
    category: str
    is_error: bool
    text: str


def locate_notes(folder: Folder, options: MimicAkiOptions) -> str:
    """The file of the notes, with the columns of NOTEEVENTS."""
    if options.notes is None:
        uri = folder.uri("NOTEEVENTS")
    elif options.notes.startswith("/") or "://" in options.notes:
        uri = options.notes
    else:
        uri = join(folder.data, options.notes)
    read_head(uri, "NOTEEVENTS")
    return uri


def read_texts(uri: str, stays: Sequence[Stay], options: MimicAkiOptions, findings: Findings) -> dict[int, str]:
    """Stay -> its notes as one text; a stay without a note is not among them.

    Raises:
        NoExamplesError: the file holds no notes at all, as in the public demo.
    """
    if not read_head(uri, "NOTEEVENTS").has_rows:
        raise NoExamplesError(
            f"{uri} has a header and no notes, as in the public demo of MIMIC-III, which has none; get NOTEEVENTS of "
            f"{RELEASE}, or name a file of notes by options.notes"
        )
    window = timedelta(hours=options.note_window_hours)
    of_subject: defaultdict[str, list[Stay]] = defaultdict(list)
    for stay in stays:
        of_subject[str(stay.subject)].append(stay)
    notes: defaultdict[int, list[_Note]] = defaultdict(list)
    for subject, note in _timed_notes(uri, of_subject.keys(), options, findings):
        for stay in of_subject[subject]:
            if stay.intime <= note.time < stay.intime + window:
                notes[stay.id].append(note)
    texts = {stay.id: "\n\n".join(_kept(stay, notes.pop(stay.id, []), options, findings)) for stay in stays}
    return {stay: text for stay, text in texts.items() if text}


def _timed_notes(
    uri: str, subjects: Collection[str], options: MimicAkiOptions, findings: Findings
) -> Iterator[tuple[str, _Note]]:
    """(patient, note) for the notes of `subjects` that have a time and a wanted category, as the file has them."""
    names = read_head(uri, "NOTEEVENTS").columns
    wanted = {category.casefold() for category in options.note_categories}

    def on_bad_row(fault: str, place: str) -> None:
        findings.reject(f"row {fault.partition(';')[0]}", place, "quote its commas and complete it")

    rows = 0
    for record in read_records(uri, on_bad_row=on_bad_row):
        rows = record.number
        values = [record.fields[names[column]] for column in TABLES["NOTEEVENTS"].columns]
        subject, time, category, error, text = values
        subject = subject.strip().removesuffix(".0")  # as pandas has made of it where one was missing
        if subject in subjects and time and category.strip().casefold() in wanted:
            try:
                at = datetime.fromisoformat(time)
                if at.tzinfo:
                    raise ValueError
            except ValueError:
                findings.reject("CHARTTIME is no time", record.place, "write it as 2130-04-05 09:30:00")
                continue
            yield subject, _Note(at, category.strip(), error.startswith("1"), text)
    if options.notes is None:
        findings.expect("rows of NOTEEVENTS", rows, TABLES["NOTEEVENTS"].rows, RELEASE)


def _kept(stay: Stay, notes: list[_Note], options: MimicAkiOptions, findings: Findings) -> Iterator[str]:
    """The notes of one stay, in the order of time, that say something for the first time."""
    seen: set[str] = set()
    for note in sorted(notes, key=attrgetter("time")):
        findings.find("notes in the note window")
        text = (_PLACEHOLDER.sub("", note.text) if options.strip_placeholders else note.text).strip()
        if note.is_error:
            findings.find("notes marked as errors, ignored")
        elif not text:
            findings.find("notes without text, ignored")
        elif text in seen:
            findings.find("repeated notes, ignored")
        else:
            seen.add(text)
            hours = (note.time - stay.intime) / timedelta(hours=1)
            yield f"{note.category}, {hours:.1f} h after admission:\n{text}" if options.note_headers else text
