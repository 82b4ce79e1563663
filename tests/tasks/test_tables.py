"""How a table is written reaches its reader from the task."""

import openpyxl
import pytest

from clinscale.errors import ConfigError
from clinscale.tasks import Findings, TaskConfig, read_task

TASK = {"name": "t", "kind": "sequence", "format": "records", "split_ratios": [0.4, 0.3, 0.3]}
ROWS = [(f'"note {number} of a visit', "ab"[number % 2]) for number in range(12)]


def texts_of(tmp_path, name, **more):
    task = TaskConfig.parse({**TASK, "splits": {"all": name}, **more}, source="t.yaml")
    data = read_task(task, str(tmp_path), findings=Findings("raise"))
    return sorted(example.text for examples in data.splits.values() for example in examples)


def test_delimiter_quoting_and_encoding_are_options_of_a_task(tmp_path):
    lines = "text:label\n" + "".join(f"{text} ü:{label}\n" for text, label in ROWS)
    (tmp_path / "n.csv").write_text(lines, encoding="cp1252")
    found = texts_of(tmp_path, "n.csv", delimiter=":", quoting="none", encoding="cp1252")
    assert found == sorted(f"{text} ü" for text, _ in ROWS)


def test_a_sheet_is_an_option_of_a_task(tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["about this book"])
    page = book.create_sheet("notes")
    for row in [("text", "label"), *ROWS]:
        page.append(row)
    book.save(tmp_path / "n.xlsx")
    assert texts_of(tmp_path, "n.xlsx", sheet="notes") == sorted(text for text, _ in ROWS)


@pytest.mark.parametrize("more", [{"delimiter": "::"}, {"encoding": "punycode"}, {"quoting": "some"}])
def test_what_no_table_has_is_refused_with_the_task(more):
    with pytest.raises(ConfigError, match=next(iter(more))):
        TaskConfig.parse({**TASK, "splits": {"all": "n.csv"}, **more}, source="t.yaml")
