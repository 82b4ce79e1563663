"""Versions of registered models: register, promote, resolve, list."""

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clinscale import __version__
from clinscale.config import nearest
from clinscale.errors import ConfigError, RegistryError
from clinscale.registry.arrival import upload_whole
from clinscale.registry.card import CARD
from clinscale.registry.contents import Files
from clinscale.registry.folders import digest_of, hash_folder
from clinscale.registry.mlflow_model import HF_FOLDER, Pyfunc, saved_model
from clinscale.registry.tags import Tag
from clinscale.registry.tracking import Tracking
from clinscale.runfolder import PLAIN_NAME, check_plain_name

CHAMPION = "champion"

_MADE_CHAMPION = ("promote", "force", "rollback")  # beginnings of the tags that such decisions leave

_MAX_DESCRIPTION = 5000  # column width of MLflow's databases

_REFERENCE = re.compile(rf"(?P<name>{PLAIN_NAME})(?:@(?P<alias>{PLAIN_NAME})|/(?P<version>[0-9]+))?")


@dataclass(frozen=True)
class ModelVersion:
    """One immutable version of a registered model."""

    name: str
    version: int
    aliases: tuple[str, ...]
    run_id: str
    """The run that made it."""
    tags: dict[str, str]
    digest: str
    """Digest of its HF folder; empty for a version that clinscale did not register."""
    manifest: str
    """Digest of all its files, code and requirements too; empty for a version registered before it was kept."""
    model_id: str
    """Id of its LoggedModel, as MLflow's run pages link to; empty for a version that was made without one."""

    @property
    def label(self) -> str:
        """`NAME/VERSION`, the reference that never moves."""
        return f"{self.name}/{self.version}"

    def is_equal(self, other: "ModelVersion") -> bool:
        """Whether both are one version, or have the same HF folder."""
        return self.label == other.label or bool(self.digest and self.digest == other.digest)


def register(
    tracking: Tracking,
    run_id: str,
    folder: str | Path,
    *,
    name: str,
    tags: Mapping[str, str],
    pyfunc: Pyfunc | None = None,
    alias: str | None = None,
    experiment: str | None = None,
) -> ModelVersion:
    """Store an HF folder as the next version of `name`; a folder that is a version already returns that one.

    The folder's README.md, the model card, becomes the version's description.

    Args:
        tracking: where to.
        run_id: the run that made the folder.
        folder: HF folder with safetensors.
        name: of the registered model, made on first use.
        tags: of the version.
        pyfunc: how MLflow loads and serves it; None for a base model, which answers nothing yet.
        alias: set on the version; one that is there already takes it from no newer one, and from none that was made
            champion by a decision.
        experiment: whose artifacts the files are, e.g. `Experiment.RELEASES`; None is the run's. Where it is given,
            only a version in it counts as there already.

    Raises:
        AccessError: the account may not write there.
        ConfigError: the name is not plain, or is that of models of another kind.
        RegistryError: the folder holds what is not safe to hand on, or the server fails.
    """
    check_plain_name("model name", name)
    folder = Path(folder).absolute()
    files = hash_folder(folder, source=str(folder))
    digest = digest_of(files)
    experiment_id = tracking.experiment_id(experiment) if experiment else None
    known_versions = _versions_of(tracking, name)
    _refuse_other_kind(name, tags.get(Tag.KIND, ""), known_versions)
    if not known_versions:
        _refuse_twin(tracking, name)
    equal = [known for known in known_versions if known.digest == digest]
    version = next((known for known in equal if experiment_id in (None, experiment_of(tracking, known))), None)
    if version is None:
        with (
            tracking.faults(f"register a version of {name}"),
            saved_model(folder, files, pyfunc) as (saved, manifest),
        ):
            version = _upload(
                tracking,
                run_id,
                saved,
                name,
                tags={**tags, Tag.CODE_VERSION: __version__, Tag.DIGEST: digest, Tag.MANIFEST: manifest},
                description=_description(folder),
                experiment_id=experiment_id,
            )
    if not alias or _is_held_by_another(known_versions, version, alias):
        return version
    return set_alias(tracking, version, alias)


def check_kind(tracking: Tracking, name: str, kind: str) -> None:
    """Raise ConfigError where model `name` has versions of another kind than `kind`, which is `base` or `task`.

    Asked before anything is trained: who asks for the champion of the name would get the one or the other.
    """
    _refuse_other_kind(name, kind, _versions_of(tracking, name))


def set_alias(tracking: Tracking, version: ModelVersion, alias: str = CHAMPION) -> ModelVersion:
    """Point `alias` at `version`, or leave it there; the version as it then is."""
    if alias not in version.aliases:
        with tracking.faults(f"set alias {alias} of {version.label}"):
            tracking.client.set_registered_model_alias(version.name, alias, str(version.version))
    return resolve(tracking, version.label)


def remove_alias(tracking: Tracking, version: ModelVersion, alias: str) -> ModelVersion:
    """Take `alias` from `version`, if it has it; the version as it then is."""
    if alias in version.aliases:
        with tracking.faults(f"remove alias {alias} of {version.label}"):
            tracking.client.delete_registered_model_alias(version.name, alias)
    return resolve(tracking, version.label)


def set_version_tags(tracking: Tracking, version: ModelVersion, tags: Mapping[str, str]) -> None:
    """Set or replace tags of a version."""
    with tracking.faults(f"tag {version.label}"):
        for key, value in tags.items():
            tracking.client.set_model_version_tag(version.name, str(version.version), key, value)


def experiment_of(tracking: Tracking, version: ModelVersion) -> str:
    """Id of the experiment that holds the version's files; empty where the version has no LoggedModel."""
    if not version.model_id:
        return ""
    with tracking.faults(f"read the files' place of {version.label}"):
        return str(tracking.client.get_logged_model(version.model_id).experiment_id)


def resolve(tracking: Tracking, reference: str, *, hint: str = "") -> ModelVersion:
    """The version that `NAME`, `NAME@alias` or `NAME/3` means; NAME alone is the champion, else the latest.

    A name that is not there is an error, which ends with `hint`.

    Raises:
        RegistryError: there is no such name, alias or version; names the nearest known. NAME alone had a champion that
            is gone from MLflow: the latest may be one that was refused or rolled back.
    """
    version = find_version(tracking, reference)
    wanted = _parse(reference)
    name = str(wanted["name"])
    if version is not None:
        if not (wanted["alias"] or wanted["version"]) and CHAMPION not in version.aliases:
            _refuse_gone_champion(tracking, version.name)
        return version
    versions = _versions_of(tracking, name)
    if not versions:
        known = sorted({item.name for item in list_versions(tracking)})
        raise RegistryError(f"no model {name!r} in {tracking.place}; {nearest(name, known)}{hint}")
    has = ", ".join(f"{item.version}{''.join(f' @{alias}' for alias in item.aliases)}" for item in versions)
    fix = "name one of these"
    if reference.endswith(f"@{CHAMPION}"):
        fix += f", or make one champion: clinscale models promote {name}/{versions[-1].version}"
    raise RegistryError(f"model {name} has no {reference[len(name) :]}; its versions: {has}; {fix}")


def find_version(tracking: Tracking, reference: str) -> ModelVersion | None:
    """The version that `resolve` returns, but None when there is no such version."""
    wanted = _parse(reference)
    versions = _versions_of(tracking, str(wanted["name"]))
    if wanted["version"]:
        return next((item for item in versions if item.version == int(wanted["version"])), None)
    champion = next((item for item in versions if (wanted["alias"] or CHAMPION) in item.aliases), None)
    if champion is None and not wanted["alias"]:
        return versions[-1] if versions else None
    return champion


def list_versions(tracking: Tracking) -> list[ModelVersion]:
    """All versions of all models, by name and number."""
    found = tracking.every("list models", lambda token: tracking.client.search_registered_models(page_token=token))
    return [version for name in sorted(model.name for model in found) for version in _versions_of(tracking, name)]


def names_version(reference: str, name: str, version: int) -> bool:
    """Whether `reference` can mean version `version` of model `name`: an alias means any of its own model."""
    match = _REFERENCE.fullmatch(reference)
    return bool(match and match["name"] == name and int(match["version"] or version) == version)


def _parse(reference: str) -> dict[str, str | None]:
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise RegistryError(f"model reference {reference!r} must read NAME, NAME@alias or NAME/3; correct it")
    return match.groupdict()


def _is_held_by_another(known: list[ModelVersion], version: ModelVersion, alias: str) -> bool:
    """Whether a version that was there already would take an alias from a newer one, or from one decided on."""
    holder = next((one for one in known if alias in one.aliases), version)
    was_there = any(one.version == version.version for one in known)
    return (
        was_there
        and holder.version != version.version
        and (holder.version > version.version or Tag.DECISION in holder.tags)
    )


def _refuse_other_kind(name: str, kind: str, known: list[ModelVersion]) -> None:
    other = next((one for one in known if one.tags.get(Tag.KIND, kind) != kind), None)
    if kind and other:
        raise ConfigError(
            f"model {name} holds {other.tags[Tag.KIND]} models ({other.label}), and this is a {kind} model; give it "
            "another name: name of a pretraining, register_as of a study"
        )


def _refuse_gone_champion(tracking: Tracking, name: str) -> None:
    """RegistryError where a version of a model without a champion was one, as the record of decisions on it says."""
    were = [
        one.label
        for one in _versions_of(tracking, name)
        if one.tags.get(Tag.DECISION, "").partition(":")[0] in _MADE_CHAMPION
    ]
    if were:
        raise RegistryError(
            f"model {name} has no champion, though {' and '.join(were)} once was: somebody deleted the last one or its "
            f"alias in MLflow itself; name a version, or make one champion: clinscale models promote {were[-1]}"
        )


def _refuse_twin(tracking: Tracking, name: str) -> None:
    """No new name that a reader, a disk or a database takes for one that is there."""
    action, like = f"read models like {name}", f"name ILIKE '{name}'"  # a plain name has no quote
    found = tracking.every(action, lambda at: tracking.client.search_registered_models(like, page_token=at))
    taken = next((model.name for model in found if model.name.casefold() == name.casefold()), name)
    if taken != name:
        raise RegistryError(
            f"model names {name} and {taken} differ by case alone, and {taken} is registered; choose another name"
        )


def _versions_of(tracking: Tracking, name: str) -> list[ModelVersion]:
    """Versions by number; empty for a name that is unknown, or that this account may not see."""
    quoted = name.replace("'", "''")
    action, named = f"read model {name}", f"name = '{quoted}'"
    # a search, because a server with rights answers 403 to who asks for a model that is not there
    models = tracking.every(
        action, lambda token: tracking.client.search_registered_models(named, page_token=token)
    )
    model = next(models, None)
    if model is None:
        return []
    aliases: dict[str, str] = model.aliases
    versions = tracking.every(action, lambda token: tracking.client.search_model_versions(named, page_token=token))
    found = [
        ModelVersion(
            name=item.name,
            version=int(item.version),
            aliases=tuple(sorted(alias for alias, target in aliases.items() if int(target) == int(item.version))),
            run_id=item.run_id or "",
            tags=dict(item.tags),
            digest=item.tags.get(Tag.DIGEST, ""),
            manifest=item.tags.get(Tag.MANIFEST, ""),
            model_id=next(iter(re.findall(r"/models/(m-[0-9a-f]{32})/", f"{item.source}/")), ""),
        )
        for item in versions
    ]
    return sorted(found, key=lambda item: item.version)


def _description(folder: Path) -> str | None:
    """The model card without its head of metadata, as far as MLflow holds it."""
    card = folder / CARD
    if not card.is_file():
        return None
    text = re.sub(r"\A---\n.*?\n---\n", "", card.read_text(encoding="utf-8"), flags=re.DOTALL).strip()
    if len(text) <= _MAX_DESCRIPTION:
        return text
    rest = f"\n\nThe rest is in {HF_FOLDER}/{CARD}."
    whole_lines = text[: _MAX_DESCRIPTION - len(rest)].rpartition("\n")[0]
    return whole_lines + rest


def _upload(
    tracking: Tracking,
    run_id: str,
    saved: Path,
    name: str,
    *,
    tags: Mapping[str, str],
    description: str | None,
    experiment_id: str | None,
) -> ModelVersion:
    """The version comes last and with all its tags, so that a cut upload leaves no half version behind."""
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException

    client = tracking.client
    place = experiment_id or client.get_run(run_id).info.experiment_id
    # of the names that the registry takes, a LoggedModel takes none with a dot; nothing is found by it
    logged = client.create_logged_model(place, name=name.replace(".", "-"), source_run_id=run_id)
    sent = {path.relative_to(saved).as_posix(): path for path in saved.rglob("*") if path.is_file()}
    files = Files(f"logged model {logged.model_id}", logged.artifact_location)
    upload_whole(tracking, files, sent, lambda: client.log_model_artifacts(logged.model_id, str(saved)))
    client.finalize_logged_model(logged.model_id, "READY")
    if experiment_id is None:  # MLflow's run page names the models of its own experiment only
        client.log_outputs(run_id, models=[LoggedModelOutput(logged.model_id, 0)])
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise

    def find() -> list[int]:
        return [one.version for one in _versions_of(tracking, name) if one.model_id == logged.model_id]

    def discard(version: int) -> None:
        with contextlib.suppress(MlflowException):  # it has equal files, and this account may delete nothing
            client.delete_model_version(name, str(version))

    made = tracking.once(
        lambda plain: int(
            plain.create_model_version(
                name,
                logged.artifact_location,
                run_id=run_id,
                tags=dict(tags),
                description=description,
                model_id=logged.model_id,
            ).version
        ),
        find,
        discard,
    )
    return resolve(tracking, f"{name}/{made}")
