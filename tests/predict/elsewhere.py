"""Asks registered versions where only their requirements are installed; a script, not a test.

Reads on stdin `versions` (each what MLflow loads as `model`, its HF `folder`, and the `rows` to ask about; with a
`reference`, the folder is pulled first) and the folder that holds the `clinscale` package; writes what was answered to
the file given.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import mlflow.pyfunc
import pandas

HEAVY = ("ray", "deepspeed", "datasets", "duckdb", "optuna", "rensa", "sklearn", "sqlalchemy", "matplotlib")


def forget_clinscale():
    """As in a fresh process: no clinscale is imported, and none that a version carries is in the way."""
    for name in [name for name in sys.modules if name.split(".")[0] == "clinscale"]:
        del sys.modules[name]
    sys.path[:] = [place for place in sys.path if "code" not in Path(place).parts[-2:]]


def served(version):
    return mlflow.pyfunc.load_model(version["model"]).predict(pandas.DataFrame(version["rows"]))


asked = json.load(sys.stdin)
versions, checkout = asked["versions"], asked["checkout"]
answers = {"importable": [name for name in (*HEAVY, "clinscale") if find_spec(name)]}
answers["pyfunc"] = [served(version) for version in versions]

forget_clinscale()
sys.path.append(checkout)
served(versions[0])
import clinscale  # noqa: E402
from clinscale.registry import Tag  # noqa: E402, F401 -- no version carries this room

answers["wins"] = str(Path(clinscale.__file__).parent)

forget_clinscale()
from clinscale.cli import main  # noqa: E402
from clinscale.predict import load_predictor  # noqa: E402
from clinscale.tasks import Example  # noqa: E402


def verb(*arguments):
    sys.argv = ["clinscale", *arguments]
    try:
        main()
    except SystemExit as ended:
        return ended.code


answers["package"] = []
for version in versions:
    if "reference" in version:
        assert verb("pull", version["reference"], "--out", version["folder"]) == 0
    examples = [Example(str(number), **row) for number, row in enumerate(version["rows"])]
    answers["package"].append(load_predictor(version["folder"]).predict(examples))

table, out = Path(asked["out"]).with_suffix(".csv"), Path(asked["out"]).with_suffix(".jsonl")
pandas.DataFrame(versions[0]["rows"]).to_csv(table, index=False)
answers["predict"] = verb("predict", versions[0]["folder"], str(table), "--out", str(out))
answers["predicted"] = [json.loads(line) for line in out.read_text().splitlines()]
answers["pull"] = verb("pull", "x", "--out", str(out.parent / "x"), "--tracking-uri", "sqlite:///x.db")
Path(asked["out"]).write_text(json.dumps(answers))
