import subprocess
import sys

from clinscale import corpus


def test_importing_the_room_loads_no_heavy_library():
    """The command line imports it to print help; torch alone takes seconds."""
    heavy = "{'torch', 'transformers', 'tokenizers', 'datasets', 'ray', 'pyarrow'}"
    code = f"import sys, clinscale.corpus; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_public_name_is_there():
    assert all(hasattr(corpus, name) for name in corpus.__all__)
