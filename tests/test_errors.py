import inspect
import pickle

import pytest

from clinscale import errors

CLASSES = [error for _, error in inspect.getmembers(errors, inspect.isclass)]


@pytest.mark.parametrize("error", CLASSES)
def test_error_survives_pickling_with_its_message(error):
    """Ray sends errors from workers to the driver by pickle; one that cannot be rebuilt hides the cause."""
    back = pickle.loads(pickle.dumps(error("notes.csv row 3: column 'text' has no text")))
    assert type(back) is error
    assert str(back) == "notes.csv row 3: column 'text' has no text"
    assert isinstance(back, errors.ClinscaleError)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError, 2),
        (errors.DataError, 2),
        (errors.RegistryError, 2),
        (errors.CapacityError, 1),
        (errors.ClusterError, 1),
    ],
)
def test_exit_code_tells_a_wrong_request_from_failed_work(error, code):
    assert error.exit_code == code
