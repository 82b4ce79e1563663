"""Users of our MLflow server and what each of three roles may do there.

MLflow grants by kind of thing and by one id or all (`*`). A grant on all covers what is made later, so that only the
experiments need their ids, and nothing has to be granted again when a model is registered.
"""

from typing import Any

from clinscale.errors import ConfigError
from clinscale.registry.admission import UserRole
from clinscale.registry.ownership import WORKSPACE
from clinscale.registry.server import MIN_PASSWORD_CHARACTERS
from clinscale.registry.tags import Experiment
from clinscale.registry.tracking import Tracking

_READ_MODELS = ("registered_model", "*", "READ")
_MAY_CREATE = ("workspace", "*", "USE")
_GRANTS: dict[UserRole, list[tuple[str, str, str]]] = {
    "reader": [_READ_MODELS, ("experiment", Experiment.RELEASES, "READ")],
    # who creates an experiment or a registered model owns it, as MLflow grants MANAGE on it; who may create also finds
    # every run by a search, which MLflow does not part
    "trainer": [
        _MAY_CREATE,
        _READ_MODELS,
        ("experiment", Experiment.RELEASES, "READ"),
        *(("experiment", name, "EDIT") for name in Experiment.TRAINING),
    ],
    # MANAGE, because only it takes an alias away
    "promoter": [
        _MAY_CREATE,
        ("registered_model", "*", "MANAGE"),
        ("experiment", "*", "READ"),
        ("experiment", Experiment.RELEASES, "EDIT"),
    ],
}
"""Grants by role: the kind of thing, its name or `*`, and MLflow's permission."""


def set_user(tracking: Tracking, name: str, role: UserRole, password: str | None = None) -> bool:
    """Create user `name` with the rights of `role`, or change role and password; return whether the user is new.

    Args:
        tracking: the server, logged in as its administrator.
        name: of the user.
        role: replaces the role that the user had; a reader also loses what he owned.
        password: None leaves it.

    Raises:
        ConfigError: the password is missing or too short.
        RegistryError: the server has no logins. AccessError: this account may not manage them.
    """
    if password is not None and len(password) < MIN_PASSWORD_CHARACTERS:
        raise ConfigError(
            f"the password of {name} must have at least {MIN_PASSWORD_CHARACTERS} characters, as MLflow wants, got "
            f"{len(password)}; choose a longer one"
        )
    from mlflow.server import get_app_client

    client = get_app_client("basic-auth", tracking_uri=tracking.uri)
    with tracking.faults("set up the roles of its users"):
        roles = _set_roles(client, tracking)
    is_new = not _has_user(tracking, client, name)
    if is_new and password is None:
        raise ConfigError(
            f"user {name} is new and needs a password of {MIN_PASSWORD_CHARACTERS} characters or more, got none; give "
            "one"
        )
    with tracking.faults(f"set user {name}"):
        if is_new:
            client.create_user(name, password)
        elif password is not None:
            client.update_user_password(name, password)
        for held in client.list_user_roles(name):
            if held.id in roles.values() and held.id != roles[role]:
                client.unassign_role(name, held.id)
            elif role == "reader" and held.name.startswith("__user_"):  # what MLflow granted for what he created
                for owned in client.list_role_permissions(held.id):
                    client.remove_role_permission(owned.id)
        if roles[role] not in [held.id for held in client.list_user_roles(name)]:
            client.assign_role(name, roles[role])
    return is_new


def _set_roles(client: Any, tracking: Tracking) -> dict[UserRole, int]:
    """The ids of the roles, which have exactly their grants when this returns; the experiments are made on the way."""
    known = {role.name: role.id for role in client.list_roles(WORKSPACE)}
    experiments = {name: tracking.experiment_id(name) for name in (*Experiment.TRAINING, Experiment.RELEASES)}
    ids: dict[UserRole, int] = {}
    for role, grants in _GRANTS.items():
        name = f"clinscale-{role}"
        ids[role] = known[name] if name in known else client.create_role(WORKSPACE, name).id
        wanted = {(kind, experiments.get(thing, thing), permission) for kind, thing, permission in grants}
        held = {
            (grant.resource_type, grant.resource_pattern, grant.permission): grant.id
            for grant in client.list_role_permissions(ids[role])
        }
        for grant in held.keys() - wanted:
            client.remove_role_permission(held[grant])
        for grant in wanted - held.keys():
            client.add_role_permission(ids[role], *grant)
    return ids


def _has_user(tracking: Tracking, client: Any, name: str) -> bool:
    from mlflow.exceptions import MlflowException

    with tracking.faults(f"read user {name}"):
        try:
            client.get_user(name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
    return True
