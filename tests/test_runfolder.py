"""One name stands for one recipe."""

import pytest

from clinscale.errors import ConfigError
from clinscale.runfolder import claim_run_folder


def test_the_same_recipe_returns_the_same_folder(tmp_path):
    first = claim_run_folder(tmp_path, "sweep", "a", {"seed": 1, "model": {"size": "tiny"}})
    assert claim_run_folder(tmp_path, "sweep", "a", {"model": {"size": "tiny"}, "seed": 1}) == first
    assert first == tmp_path / "sweep" / "a"


def test_another_recipe_is_refused_naming_what_differs(tmp_path):
    claim_run_folder(tmp_path, "sweep", "a", {"seed": 1, "model": {"size": "tiny"}})
    with pytest.raises(
        ConfigError, match=r"differing: model\.size: tiny -> base; seed: 1 -> 2\. Use another name"
    ):
        claim_run_folder(tmp_path, "sweep", "a", {"seed": 2, "model": {"size": "base"}})
    claim_run_folder(tmp_path, "pretrain", "a", {"seed": 2})


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a b", "a@b", "a:b", "a+b", "ä", "-a", "a\n"])
def test_names_that_are_no_plain_words_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="plain word"):
        claim_run_folder(tmp_path / "home", "sweep", name, {})
    assert not (tmp_path / "home").exists()
