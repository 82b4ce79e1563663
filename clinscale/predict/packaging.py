"""What a registered model takes along, so that MLflow can load and serve it elsewhere."""

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clinscale import registry


def as_pyfunc(folder: str | Path) -> "registry.Pyfunc":
    """How MLflow loads and serves the fine-tuned HF folder."""
    from clinscale import registry

    return registry.Pyfunc(Path(__file__).with_name("pyfunc.py"), tuple(_pip_requirements()))


def _pip_requirements() -> list[str]:
    """Exact versions of the packages that prediction imports; neither Ray nor DeepSpeed."""
    packages = ("clinscale", "torch", "transformers", "safetensors", "numpy", "mlflow")
    return [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in packages]
