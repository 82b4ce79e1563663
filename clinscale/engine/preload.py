"""Everything that a rank imports when it begins to train, imported at once.

Named to `runtime.fork_session`, so that ranks find it all in the process of which they are forks.
"""

import transformers.models.big_bird.modeling_big_bird
import transformers.models.longformer.modeling_longformer  # noqa: F401

from clinscale.engine.zero import import_deepspeed

import_deepspeed()
