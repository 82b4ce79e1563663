import pytest

from clinscale.errors import DataError
from clinscale.filters import RowFilter
from clinscale.records import Record


def rows(*values):
    return [Record("n.jsonl", number, {"kind": value}) for number, value in enumerate(values, 1)]


@pytest.mark.parametrize("error", [1, 1.0, "1", "1.0", " 1 "])
def test_a_number_is_met_however_its_file_types_it(error):
    filter = RowFilter({}, {"kind": ["1"]})
    assert [filter.keeps(row) for row in rows(error, 0, None, float("nan"), "", "01", 11)] == [False, *[True] * 6]
    assert filter.unmet() == []


def test_what_is_kept_can_be_a_blank_and_a_column_path():
    filter = RowFilter({"meta.kind": ["", "Nursing"]}, {})
    values = [None, "Nursing ", "Physician", ""]
    kept = [filter.keeps(Record("n.jsonl", 1, {"meta": {"kind": value}})) for value in values]
    assert kept == [True, True, False, True]
    assert filter.columns == ["meta.kind"]


def test_values_that_no_row_holds_are_known():
    filter, other = (RowFilter({"kind": ["a", "b"]}, {"kind": ["1", "a"]}) for _ in range(2))
    assert [filter.keeps(row) for row in rows("a", "c", 1.5 * 2)] == [False, False, False]
    assert filter.unmet() == [("keep_rows", "kind", "b"), ("drop_rows", "kind", "1")]
    assert other.keeps(rows("b")[0])
    assert filter.unmet(other.met) == [("drop_rows", "kind", "1")]


def test_a_list_in_the_column_is_named_by_its_row():
    with pytest.raises(DataError, match="row 1: column 'kind' must hold a label, got a value of type list"):
        RowFilter({}, {"kind": ["a"]}).keeps(rows(["a"])[0])
