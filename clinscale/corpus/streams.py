"""Independent random streams drawn from one seed; a number here is part of what every recorded seed means."""

import numpy as np

ORDER, TRAINING_MASKS, EVALUATION_MASKS, CANARIES, CANARY_ROWS, CANARY_ALTERNATIVES = range(6)


def generator(seed: int, *stream: int) -> np.random.Generator:
    """The generator of one stream, and of what is counted within it: an epoch, a row."""
    return np.random.default_rng((seed & (2**64 - 1), *stream))
