"""`clinscale bench compare` and `tables` in the words of their verbs."""

import json
from pathlib import Path

import pytest

from clinscale.bench import load_record, with_tables
from clinscale.cli import guide
from clinscale.errors import ConfigError, DataError


def written(path, median):
    ratio = {"median": median, "min": median, "max": median}
    path.write_text(
        json.dumps({"what": "zero", "ratios": {"zero_0_workers_1": ratio}, "at_most": ["zero_0_workers_1"]})
    )
    return path


def test_a_slower_record_ends_with_1_and_an_alike_one_with_0(here, tmp_path):
    a, b, c = (written(tmp_path / f"{name}.json", value) for name, value in (("a", 1.0), ("b", 1.01), ("c", 1.2)))
    assert json.loads(here("bench", "compare", a, b, "--json").stdout)["slower"] == 0
    ran = here("bench", "compare", a, c)
    assert ran.returncode == 1
    assert "1 ratios compared, 1 slower or lost beyond noise" in ran.stdout
    assert here("bench", "compare", a, c, "--tolerance", "0.5").returncode == 0


def test_records_without_anything_in_common_are_refused(here, tmp_path):
    a, b = written(tmp_path / "a.json", 1.0), tmp_path / "b.json"
    b.write_text('{"benches": {}}')
    with pytest.raises(ConfigError, match="must have a bench in common"):
        here("bench", "compare", a, b)
    with pytest.raises(DataError, match="nowhere"):
        here("bench", "compare", a, tmp_path / "nowhere.json")


def test_a_page_is_written_between_its_marks(here, tmp_path):
    record, page = written(tmp_path / "a.json", 1.0), tmp_path / "page.md"
    page.write_text("no marks")
    with pytest.raises(ConfigError, match="table NAME"):
        here("bench", "tables", record, "--page", page)
    page.write_text(
        "<!-- table zero -->\n<!-- end of table -->\n<!-- table attention -->\nolder\n<!-- end of table -->\n"
    )
    said = json.loads(here("bench", "tables", record, "--page", page, "--json").stdout)
    assert (said["tables"], said["left"]) == (["zero"], ["attention"])
    assert "older" in page.read_text()
    assert "| 1 worker, fp32 | 1.00 | - | - | - |" in page.read_text()
    assert "1 worker, fp32" in here("bench", "tables", record).stdout


def test_the_tables_of_the_page_are_those_of_the_record():
    page = guide.page("figures")
    text = page.read_text()
    assert "<!-- table " in text
    assert with_tables(text, load_record(Path(page).with_name("figures.json"))) == text
