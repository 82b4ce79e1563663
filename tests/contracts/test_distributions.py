"""What every data set as shipped must keep; one that is added to `DISTRIBUTIONS` inherits it."""

import pytest

from clinscale.errors import ConfigError, DataError
from clinscale.tasks import load_task, read_task
from clinscale.tasks.catalog import catalog
from clinscale.tasks.distributions import DISTRIBUTIONS

TASKS = sorted(name for name, task in catalog().items() if task.format in DISTRIBUTIONS)
SECRET = "Xylol"


def test_every_distribution_has_a_task_of_the_catalog():
    assert {load_task(name).format for name in TASKS} == set(DISTRIBUTIONS)


@pytest.mark.parametrize("name", sorted(DISTRIBUTIONS))
def test_every_choice_has_a_default_and_says_what_it_does(name):
    for key, field in DISTRIBUTIONS[name].options.model_fields.items():
        assert field.description, f"{key} has no docstring"
        assert not field.is_required(), f"{key} has no default"


@pytest.mark.parametrize("task", TASKS)
def test_a_choice_that_is_not_there_is_refused(task):
    with pytest.raises(ConfigError, match="nothing_like_this"):
        load_task(task, {"options": {"nothing_like_this": 1}})


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("found", ["nothing", "empty", "other files"])
def test_a_folder_without_its_files_is_an_error_that_names_it(task, found, tmp_path):
    place = tmp_path / "release"
    if found != "nothing":
        place.mkdir()
    if found == "other files":
        (place / "notes.txt").write_text(f"{SECRET} was given.")
        (place / "table.csv").write_text(f"a,b\n{SECRET},2\n")
    with pytest.raises(DataError) as told:
        read_task(load_task(task), str(place))
    assert str(place) in str(told.value)
    assert SECRET not in str(told.value)
