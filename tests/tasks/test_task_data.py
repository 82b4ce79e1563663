"""Reading a task: honest splits, settled labels, counts and fingerprints."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinscale.errors import DataError
from clinscale.tasks import Example, read_task
from clinscale.tasks.split import split_by_group

RATIOS = (0.7, 0.1, 0.2)


def write(folder, **splits):
    for split, rows in splits.items():
        lines = ["text,label", *(f"{text},{label}" for text, label in rows)]
        (folder / f"{split}.csv").write_text("\n".join(lines))
    return {"splits": {split: f"{split}.csv" for split in splits}}


ROWS = [("one", "a"), ("two", "b")]


def test_labels_are_those_found_sorted_or_those_of_the_task_in_their_order(task_of, tmp_path):
    files = write(tmp_path, train=ROWS, dev=ROWS, test=[("three", "c")])
    assert read_task(task_of("sequence", **files), str(tmp_path)).labels == ("a", "b", "c")
    own = task_of("sequence", **files, labels=("c", "b", "a"))
    assert read_task(own, str(tmp_path)).labels == ("c", "b", "a")


def test_a_label_that_the_task_does_not_know_is_refused(task_of, tmp_path):
    files = write(tmp_path, train=ROWS, dev=ROWS, test=[("three", "c")])
    with pytest.raises(DataError, match="1 labels in the files are not among a, b"):
        read_task(task_of("sequence", **files, labels=("a", "b")), str(tmp_path))


def test_texts_in_the_label_column_are_not_printed(task_of, tmp_path):
    files = write(tmp_path, train=[("a", "secret " * 30)], dev=ROWS, test=ROWS)
    with pytest.raises(DataError, match=r"check columns\.label") as error:
        read_task(task_of("sequence", **files), str(tmp_path))
    assert "secret" not in str(error.value)


def test_one_label_is_no_task(task_of, tmp_path):
    files = write(tmp_path, train=[("one", "a")], dev=[("two", "a")], test=[("three", "a")])
    with pytest.raises(DataError, match="at least two labels"):
        read_task(task_of("sequence", **files), str(tmp_path))


def test_a_missing_file_is_named(task_of, tmp_path):
    files = write(tmp_path, train=ROWS, dev=ROWS, test=ROWS)
    (tmp_path / "dev.csv").unlink()
    with pytest.raises(DataError, match=r"dev\.csv does not exist"):
        read_task(task_of("sequence", **files), str(tmp_path))


def test_a_split_that_gets_no_example_is_refused(task_of, tmp_path):
    write(tmp_path, only=ROWS)
    task = task_of("sequence", splits={"all": "only.csv"}, split_ratios=RATIOS)
    with pytest.raises(DataError, match="has no example"):
        read_task(task, str(tmp_path))


def test_repeats_within_and_across_splits_are_counted(task_of, tmp_path):
    files = write(tmp_path, train=[*ROWS, ("one", "b")], dev=[("one", "a")], test=[("four", "a")])
    counts = read_task(task_of("sequence", **files), str(tmp_path)).counts
    assert counts == {"duplicates": 1, "shared_across_splits": 1}


def test_the_fingerprint_changes_with_any_gold_and_not_with_the_place(task_of, tmp_path):
    prints = []
    for name, label in (("x", "a"), ("y", "a"), ("z", "b")):
        (tmp_path / name).mkdir()
        files = write(tmp_path / name, train=ROWS, dev=ROWS, test=[("three", label)])
        prints.append(read_task(task_of("sequence", **files), str(tmp_path / name)).fingerprint)
    assert prints[0] == prints[1] != prints[2]


@given(
    rows=st.lists(st.tuples(st.integers(0, 30), st.none() | st.integers(0, 20)), min_size=1, max_size=120),
    seed=st.integers(0, 5),
)
def test_no_text_and_no_group_is_on_two_sides(rows, seed):
    examples = [
        Example(str(number), f"text {text}", group=None if group is None else f"group {group}")
        for number, (text, group) in enumerate(rows)
    ]
    splits = split_by_group(examples, RATIOS, seed)
    assert sorted(e.id for side in splits.values() for e in side) == sorted(e.id for e in examples)
    for key in (lambda e: e.text, lambda e: e.group):
        sides = [{key(e) for e in side} - {None} for side in splits.values()]
        assert sum(map(len, sides)) == len(set().union(*sides))
    again = split_by_group(examples[::-1], RATIOS, seed)
    assert {name: {e.id for e in side} for name, side in again.items()} == {
        name: {e.id for e in side} for name, side in splits.items()
    }


def test_the_shares_are_met_and_the_seed_chooses():
    examples = [Example(str(number), f"text {number}") for number in range(1000)]
    one, other = (split_by_group(examples, RATIOS, seed) for seed in (0, 1))
    assert [len(side) for side in one.values()] == [700, 100, 200]
    assert one["test"] != other["test"]
