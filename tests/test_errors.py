import errno
import inspect
import pickle

import pytest

from clinscale import errors

CLASSES = [one for _, one in inspect.getmembers(errors, inspect.isclass) if one.__module__ == errors.__name__]


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


def test_what_python_torch_and_the_system_say_without_memory_is_told_from_other_errors():
    import torch

    with pytest.raises(MemoryError) as python:
        bytearray(2**60)
    with pytest.raises(RuntimeError) as on_host:
        torch.empty(2**50)
    one_dnn = RuntimeError("could not create a primitive")  # seen where a process may map no more memory
    for error in (python.value, on_host.value, one_dnn, OSError(errno.ENOMEM, "Cannot allocate memory")):
        assert errors.exhausted_memory(error) == "host"
    assert (
        errors.exhausted_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")) == "GPU"
    )
    assert errors.exhausted_memory(RuntimeError("Connection closed by peer")) is None
    assert errors.exhausted_memory(OSError(errno.ENOSPC, "No space left on device")) is None


def test_a_full_or_read_only_disk_is_known_behind_the_errors_of_libraries():
    import io

    import torch

    class Full(io.RawIOBase):
        def writable(self):
            return True

        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises((RuntimeError, OSError)) as of_torch:
        torch.save({"weights": torch.zeros(1000)}, Full())
    for error in (of_torch.value, OSError(errno.ENOSPC, ""), RuntimeError("I/O error: x (os error 28)")):
        assert errors.exhausted_disk(error) == "No space left on device"
    assert errors.exhausted_disk(OSError(errno.EROFS, "")) == "Read-only file system"
    for error in (OSError(errno.ENOENT, ""), RuntimeError("(os error 2)"), ValueError("28")):
        assert errors.exhausted_disk(error) is None


def test_cleaning_up_that_fails_does_not_hide_a_ctrl_c():
    def stop(cause):
        try:
            try:
                raise cause
            finally:
                raise errors.RegistryError("the run cannot be closed")
        except errors.ClinscaleError as error:
            return errors.was_interrupted(error)

    assert stop(KeyboardInterrupt())
    assert not stop(ValueError())


def test_errors_that_come_from_one_another_are_each_looked_at_once():
    """A sweep that failed never ended: libraries of async code leave such chains."""
    first, second = ValueError(), OSError(errno.ENOSPC, "")
    first.__context__, second.__context__ = second, first
    assert list(errors.with_causes(first)) == [first, second]
    assert not errors.was_interrupted(first)
    assert errors.exhausted_disk(first) == "No space left on device"
    first.__cause__, second.__cause__ = second, first
    assert errors.own_cause(first) is None
