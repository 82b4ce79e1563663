"""Reach of the Hugging Face hub: asked once, so that nobody waits a minute for its client's retries."""

import functools
import os

_PATIENCE_S = 10.0


def must_be_local(name_or_folder: str) -> bool:
    """Whether a hub name can come from the hub's cache here alone, as the hub does not answer; False for a folder.

    Goes into `local_files_only` of `from_pretrained`, which then fails at once for what is not in the cache.
    """
    return not os.path.exists(name_or_folder) and not is_reachable()  # noqa: PTH110  pathlib raises for long names


@functools.cache
def is_reachable() -> bool:
    """Whether the hub, or the mirror in HF_ENDPOINT, answers this process; asked once, without a retry."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE_S)
    except Exception:  # noqa: BLE001  proxies, names, certificates: whatever is in the way, there is no answer
        return False
    return True


def is_hub_name(name: str) -> bool:
    """Whether the hub could have a model of that name (`ORG/NAME`, or `NAME` of an old one); it is not asked."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        try_to_load_from_cache(name, "config.json")  # the public function that checks names
    except HFValidationError:
        return False
    return True
