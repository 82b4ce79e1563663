"""Seeded invented clinical data in the real public formats: what the demo runs on and the tests read.

Nothing here was taken from a patient or a corpus; every sentence is a template of this package filled by a
seeded generator, so the same seed writes the same bytes everywhere.

    from clinscale.synthetic import new_document, write_demo_data
"""

from clinscale.synthetic.demo import new_document, write_demo_data

__all__ = ["new_document", "write_demo_data"]
