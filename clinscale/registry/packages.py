"""The packages that a model's `requirements.txt` may name: what answering needs, directly or not.

A list by name, because a hostile version would name a package of its author's, or one that is spelt almost like a
known one, and the person who prepares a machine for the model installs it.
"""

import re

_NAMES = """
annotated-doc annotated-types anyio asgiref cachetools certifi cffi charset-normalizer click clinscale
cloudpickle colorama cryptography databricks-sdk deprecated exceptiongroup fastapi filelock fsspec gitdb gitpython
google-auth h11 hf-xet httpcore httpcore2 httpx httpx2 huggingface-hub idna ijson importlib-metadata jinja2
markdown-it-py markupsafe mdurl mlflow mlflow-skinny mlflow-tracing mpmath networkx numpy opentelemetry-api
opentelemetry-proto opentelemetry-sdk opentelemetry-semantic-conventions packaging pandas protobuf pyasn1
pyasn1-modules pycparser pydantic pydantic-core pygments python-dateutil python-dotenv pytz pyyaml regex requests
rich rsa safetensors sentencepiece setuptools shellingham six smmap sniffio sqlparse starlette sympy tokenizers
torch tqdm transformers triton truststore typer typer-slim typing-extensions typing-inspection tzdata urllib3
uvicorn wrapt zipp
"""
KNOWN_PACKAGES = frozenset(_NAMES.split())
"""Known packages by their canonical names."""

_OF_TORCH = re.compile(r"(nvidia|cuda)-[a-z0-9-]+")


def is_known_package(name: str) -> bool:
    """Whether a model may ask for the package `name`, in whatever spelling PyPI takes."""
    canonical = re.sub(r"[-_.]+", "-", name).lower()
    return canonical in KNOWN_PACKAGES or bool(_OF_TORCH.fullmatch(canonical))
