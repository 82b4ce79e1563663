"""How long the chaos run is: short in the suite, ten kills with CLINSCALE_CHAOS_KILLS=10."""

import os

import pytest


@pytest.fixture
def chaos_kills():
    count = int(os.environ.get("CLINSCALE_CHAOS_KILLS", "2"))
    return ["driver" if number % 3 == 1 else "trial" for number in range(count)]
