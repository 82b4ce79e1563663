"""A hub that does not answer is asked once, and what is in its cache is used."""

import huggingface_hub
import pytest

from clinscale import hub


@pytest.fixture(autouse=True)
def _asked_anew():
    hub.is_reachable.cache_clear()
    yield
    hub.is_reachable.cache_clear()


def test_a_hub_that_does_not_answer_is_asked_once_and_never_for_a_folder(monkeypatch, tmp_path):
    asked = []

    class Session:
        def head(self, url, timeout):
            asked.append(url)
            raise OSError("no such host")

    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    assert not hub.must_be_local(str(tmp_path))
    assert not asked
    assert hub.must_be_local("yikuan8/Clinical-Longformer")
    assert hub.must_be_local("bert-base-uncased")
    assert asked == [huggingface_hub.constants.ENDPOINT]


def test_a_hub_that_answers_is_left_to_its_own_client(monkeypatch):
    class Session:
        def head(self, url, timeout):
            return url, timeout

    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    assert not hub.must_be_local("yikuan8/Clinical-Longformer")
