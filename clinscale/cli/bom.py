"""Bills of materials as CycloneDX 1.6: of what is installed here, and of a registered version with its files.

They hold names, versions, hashes, licences and fingerprints: neither text of notes nor names of hosts and users. Equal
contents give equal bytes, so they hold neither the time nor a random number.
"""

import importlib.metadata
import json
import re
import uuid
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

    from clinscale.registry import FileFacts, ModelVersion

_MAX_LICENCE = 100
"""Longer ones are a licence's text, not its name."""


def installation_bom() -> dict[str, Any]:
    """The bill of all installed packages, and of what each needs of the others, its extras included."""
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component

    read = [one.metadata for one in importlib.metadata.distributions()]  # each access parses the file anew
    found: dict[str, Any] = {canonicalize_name(one["Name"]): one for one in read if one["Name"]}
    components: dict[str, Component] = {
        name: _package(name, one["Version"], _licences(one)) for name, one in found.items()
    }
    root = components.pop("clinscale")
    bom = Bom(components=components.values())
    bom.metadata.component = root
    for name, one in found.items():
        needed = {needed for needed in _needs(one) if needed in components and needed != name}
        bom.register_dependency(components.get(name, root), [components[needed] for needed in sorted(needed)])
    return _plain(bom)


def version_bom(
    version: "ModelVersion", files: Mapping[str, "FileFacts"], requirements: Iterable[str]
) -> dict[str, Any]:
    """The bill of a registered version: its files, the packages it answers with, its base and its fingerprints.

    Args:
        version: what it is.
        files: facts of its files by their path.
        requirements: `name==version` of the packages.
    """
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType, Pedigree

    from clinscale.registry import Tag

    tags = version.tags
    stated = (Tag.KIND, Tag.DIGEST, Tag.MANIFEST, Tag.SIGNED_BY, Tag.PRECISION, Tag.CODE_VERSION, Tag.MAX_TOKENS)
    base = PurePath(tags.get(Tag.BASE, "")).name if tags.get(Tag.BASE, "").startswith("/") else tags.get(Tag.BASE)
    ancestors = [
        Component(
            type=ComponentType.MACHINE_LEARNING_MODEL,
            name=base,
            bom_ref="base",
            properties=[Property(name=Tag.BASE_DIGEST, value=tags.get(Tag.BASE_DIGEST, "not known"))],
        )
        for base in filter(None, [base])
    ]
    model = Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=version.name,
        version=str(version.version),
        bom_ref=version.label,
        properties=[Property(name=key, value=tags[key]) for key in stated if key in tags],
        pedigree=Pedigree(ancestors=ancestors) if ancestors else None,
    )
    held = [
        Component(
            type=ComponentType.FILE,
            name=path,
            bom_ref=f"file:{path}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=facts["sha256"])],
        )
        for path, facts in files.items()
    ]
    packages = [_package(canonicalize_name(name), number) for name, number in _pinned(requirements)]
    bom = Bom(components=[*held, *packages])
    bom.metadata.component = model
    bom.register_dependency(model, [*held, *packages])
    plain = _plain(bom)
    plain["metadata"]["component"]["modelCard"] = _model_card(tags)  # of which the library has no class yet
    return plain


def _model_card(tags: Mapping[str, str]) -> dict[str, Any]:
    from clinscale.registry import Tag

    parameters: dict[str, Any] = {
        key: tags[tag] for key, tag in (("task", Tag.TASK_KIND), ("architectureFamily", Tag.FAMILY)) if tag in tags
    }
    parameters["datasets"] = [
        {
            "type": "dataset",
            "name": tags.get(Tag.TASK, name) if tag == Tag.DATA else name,
            "contents": {"properties": [{"name": tag, "value": tags[tag]}]},
            "classification": "clinical notes",
        }
        for name, tag in (("task", Tag.DATA), ("shards", Tag.SHARDS), ("note files", Tag.NOTES))
        if tag in tags
    ]
    metrics = [
        {"type": tags[Tag.METRIC], "value": tags[tag], "slice": f"test split, {who}"}
        for who, tag in (("model", Tag.VALUE), ("trivial baseline", Tag.TRIVIAL))
        if Tag.METRIC in tags and tag in tags
    ]
    return {"modelParameters": parameters, "quantitativeAnalysis": {"performanceMetrics": metrics}}


def _package(name: str, version: str, licences: Iterable[Any] = ()) -> "Component":
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    purl = PackageURL("pypi", name=name, version=version)
    kind = ComponentType.APPLICATION if name == "clinscale" else ComponentType.LIBRARY
    return Component(type=kind, name=name, version=version, purl=purl, bom_ref=str(purl), licenses=list(licences))


def _licences(metadata: Any) -> list[Any]:
    """Licences as SPDX's expression, else as PyPI's classifiers name them; none where only a text is there."""
    from cyclonedx.contrib.license.factories import LicenseFactory

    named = [metadata.get("License-Expression") or ""]
    if not named[0]:
        classifiers = [
            line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier") or [] if "License" in line
        ]
        named = classifiers or [metadata.get("License") or ""]
    usable = {name for name in named if 0 < len(name) <= _MAX_LICENCE and name.isprintable() and name != "UNKNOWN"}
    return [LicenseFactory().make_from_string(name) for name in sorted(usable)]


def _needs(metadata: Any) -> set[str]:
    extras = ["", *(metadata.get_all("Provides-Extra") or [])]
    return {
        canonicalize_name(one.name)
        for one in map(Requirement, metadata.get_all("Requires-Dist") or [])
        if one.marker is None
        or any(one.marker.evaluate({"extra": extra}) for extra in (extras if "extra" in str(one.marker) else [""]))
    }


def _pinned(requirements: Iterable[str]) -> Iterable[tuple[str, str]]:
    for line in requirements:
        if match := re.match(r"([\w.-]+)==([\w.!+]+)", line):
            yield match[1], match[2]


def _plain(bom: Any) -> dict[str, Any]:
    """The bill as JSON's values, without the time, and with a number that follows from its contents."""
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion

    plain: dict[str, Any] = json.loads(
        make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string()
    )
    del plain["serialNumber"], plain["metadata"]["timestamp"]
    content = json.dumps(plain, sort_keys=True)
    return {**plain, "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, content).urn}
