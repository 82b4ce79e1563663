import pytest


@pytest.fixture
def run(tracking):
    """A run to hang versions on."""
    from clinscale import registry

    return registry.start_run(
        tracking, experiment="clinscale-sweep", name="maker", tags={registry.Tag.KIND: "sweep"}, params={}
    )
