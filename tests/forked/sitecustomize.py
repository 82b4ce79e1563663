"""Run by every Python that the tests start: its collector looks less often at what is imported and stays.

A seventh of the start of Ray's processes, and a third of that of MLflow's server; nothing else is other than for users.
"""

import gc

gc.set_threshold(10_000, 20, 50)
