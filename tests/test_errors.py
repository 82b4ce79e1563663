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


def test_an_error_of_ours_comes_out_of_rays_wrapping_with_its_own_text():
    from ray.exceptions import RayTaskError

    wrapped = RayTaskError(
        "train", "Traceback: line 1", errors.DataError("row 3 has no text")
    ).as_instanceof_cause()
    assert isinstance(wrapped, errors.DataError)
    found = errors.own_cause(wrapped)
    assert type(found) is errors.DataError
    assert str(found) == "row 3 has no text"
