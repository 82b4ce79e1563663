"""The notes of the first hours of each stay of the cohort, joined in the order of time."""

import itertools
import re
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any

from clinscale.errors import DataError
from clinscale.storage import join
from clinscale.tasks.distributions.mimic_aki.options import MimicAkiOptions
from clinscale.tasks.distributions.mimic_aki.tables import RELEASE, Tables
from clinscale.tasks.findings import Findings

_PLACEHOLDER = re.compile(r"\[\*\*.*?\*\*\]", re.DOTALL)


def locate_notes(tables: Tables, options: MimicAkiOptions) -> None:
    """Settle which file holds the notes; one without notes, as in the public demo, is refused with advice."""
    if options.notes is not None:
        absolute = options.notes.startswith("/") or "://" in options.notes
        tables.use("NOTEEVENTS", options.notes if absolute else join(tables.data, options.notes))
    if tables.is_empty("NOTEEVENTS"):
        raise DataError(
            f"{tables.uri('NOTEEVENTS')} has a header and no notes, as in the public demo of MIMIC-III, which has "
            f"none; get NOTEEVENTS of {RELEASE}, or name a file of notes by options.notes"
        )


def read_texts(tables: Tables, options: MimicAkiOptions) -> dict[int, str]:
    """Stay -> its notes as one text; a stay without a note is not among them."""
    categories = ", ".join(f"'{category.lower()}'" for category in options.note_categories)
    tables.load(
        "NOTEEVENTS",
        "SEMI JOIN cohort ON source.subject_id = cohort.subject_id AND source.charttime >= cohort.intime "
        f"AND source.charttime < cohort.horizon_start WHERE lower(trim(category)) IN ({categories})",
        count=options.notes is None,
    )
    notes = tables.stream(
        """
        SELECT icustay_id, epoch(charttime - intime) / 3600, trim(category), iserror, text
        FROM noteevents JOIN cohort USING (subject_id)
        WHERE charttime >= intime AND charttime < horizon_start
        ORDER BY icustay_id, charttime, row_id
        """
    )
    by_stay = itertools.groupby(notes, key=itemgetter(0))
    texts = {stay: "\n\n".join(_kept(notes, options, tables.findings)) for stay, notes in by_stay}
    return {stay: text for stay, text in texts.items() if text}


def _kept(notes: Iterable[tuple[Any, ...]], options: MimicAkiOptions, findings: Findings) -> Iterator[str]:
    """The notes of one stay that say something for the first time."""
    seen: set[str] = set()
    for _, hours, category, error, text in notes:
        findings.find("notes in the note window")
        if options.strip_placeholders:
            text = _PLACEHOLDER.sub("", text or "")
        text = (text or "").strip()
        if error == 1:
            findings.find("notes marked as errors, ignored")
        elif not text:
            findings.find("notes without text, ignored")
        elif text in seen:
            findings.find("repeated notes, ignored")
        else:
            seen.add(text)
            yield f"{category}, {hours:.1f} h after admission:\n{text}" if options.note_headers else text
