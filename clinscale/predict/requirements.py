"""What a registered model needs to be loaded elsewhere."""

import importlib.metadata
from pathlib import Path

PYFUNC_CODE = Path(__file__).with_name("pyfunc.py")
"""The code that MLflow runs to load a version: a model from code, so nothing is pickled."""


def pip_requirements() -> list[str]:
    """Exact versions of the packages that prediction imports; neither Ray nor DeepSpeed."""
    packages = ("clinscale", "torch", "transformers", "safetensors", "numpy", "mlflow")
    return [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in packages]
