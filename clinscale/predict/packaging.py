"""Files of a registered model with which MLflow can load and serve it where clinscale is not installed."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import clinscale
from clinscale.predict.card import TaskCard
from clinscale.predict.requirements import read_requirements
from clinscale.tasks import column, kind_of

if TYPE_CHECKING:
    from clinscale import registry

_ROOMS = (
    *("cells", "config", "encodings", "errors", "filters", "held", "hub", "models", "patience", "permissions"),
    *("predict", "records", "storage", "stores", "strict_yaml", "tasks", "telemetry", "tokenizers"),
)
"""The rooms and files of clinscale that prediction imports."""

_OF_CLUSTERS = {"predict/workers.py"}
"""Modules that prediction imports only with a cluster, which a served version never has."""

_EXAMPLE = "The patient was admitted with chest pain. Metoprolol 25 mg was given twice daily."

_PARAMS: list[dict[str, Any]] = [
    {"name": "batch_size", "type": "long", "default": 8, "shape": None},
    {"name": "on_error", "type": "string", "default": "", "shape": None},
]
"""Windows of one forward pass at most, on which no answer depends; and what becomes of a row without text, `raise` or
`skip`, by default as the task says."""


def as_pyfunc(folder: str | Path) -> "registry.Pyfunc":
    """The pyfunc by which MLflow loads and serves a fine-tuned HF folder; clinscale's own code goes along.

    Raises:
        DataError: `folder` is not a fine-tuned clinscale model.
    """
    from clinscale import registry

    kind = kind_of(TaskCard.read(folder).task)
    return registry.Pyfunc(
        code=Path(__file__).with_name("pyfunc.py"),
        pip_requirements=read_requirements(folder),
        code_files=_own_code(),
        signature={
            "inputs": [column("text", "string"), *kind.input_columns],
            "outputs": list(kind.output_columns),
            "params": _PARAMS,
        },
        input_example=[{"text": _EXAMPLE, **kind.input_example}],
    )


def _own_code() -> dict[str, Path]:
    package = Path(clinscale.__file__).parent
    files = [package / "__init__.py"]
    for room in _ROOMS:
        files += [package / f"{room}.py"] if (package / f"{room}.py").exists() else (package / room).rglob("*.py")
    places = {file.relative_to(package).as_posix(): file for file in files}
    return {f"{package.name}/{place}": file for place, file in places.items() if place not in _OF_CLUSTERS}
