"""Windows are made once for all fine-tunings on the same data."""

from clinscale.finetune import windows


def test_windows_that_are_used_again_outlast_those_that_are_not():
    made = []
    for key in ("trained on", *range(windows._CACHED_SPLITS - 1), "trained on", "another part", "trained on"):
        assert windows._once(key, lambda key=key: made.append(key) or key) == key
    assert made.count("trained on") == 1
