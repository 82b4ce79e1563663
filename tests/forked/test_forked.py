"""The forks are what they are taken for."""

import os
import sys

import pytest


@pytest.mark.ray
@pytest.mark.skipif(os.environ.get("CLINSCALE_TESTS_FORKED") == "no", reason="CLINSCALE_TESTS_FORKED=no is set")
def test_a_worker_of_ray_begins_with_what_a_training_imports(ray_cluster):
    import ray

    def imported():
        return {"deepspeed", "sklearn.metrics", "torch"} & set(sys.modules), os.environ["CLINSCALE_TESTS_FORKED"]

    seen, folder = ray.get(ray.remote(num_cpus=1)(imported).remote())
    assert seen == {"deepspeed", "sklearn.metrics", "torch"}
    assert folder == os.environ["CLINSCALE_TESTS_FORKED"]
