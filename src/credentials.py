"""Keeps passwords and tokens, such as those in a store's address, out of all records and output (`hidden`).

The secrets of an MLflow server move to MLflow's environment variables. Connecting to a database needs the password in
its address, so the whole address moves to the environment variable TUNEOFF_DATABASE_URIS, and records have *** in place
of the password. Child processes inherit both.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

import yaml

DATABASES = "TUNEOFF_DATABASE_URIS"  # complete addresses, one per line
USERNAME, PASSWORD, TOKEN = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"
MASK = "***"
SECTIONS = ("tracking", "sweep", "hydra.sweeper")  # sections with keys whose values may contain an address

SCHEME = r"[a-zA-Z][\w+.-]*://"
# A password may contain any character, even one that a URI must encode as %XX; digits up to a slash are a port.
USER_INFO = re.compile(rf"^({SCHEME})([^:/?#@]*)(?::(?!\d+[/?#])(.*?))?@([^@/?#]+(?:[/?#].*)?)$", re.DOTALL)
QUERY_SECRET = re.compile(r"([?&])([^=&]*(?:pass|pwd|token|secret|key|signature)[^=&]*)=([^&#]*)", re.IGNORECASE)
EMBEDDED = re.compile(SCHEME + r"[^\s'\",{}\[\]]+")  # in a list or dictionary of Hydra's
ALONE = re.compile(r"^((?:\w+\+)?https?://)[^:/?#@]+@", re.IGNORECASE)
SECRET_NAME = r"(?:TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIALS|(?:API|ACCESS|PRIVATE|ACCOUNT)_?KEY)S?"  # a pattern  # nosec B105
ASSIGNED = re.compile(rf"(\b[A-Z0-9_]*{SECRET_NAME}\s*[=:]\s*['\"]?)[^\s'\",}}\]]+")
SHORTEST = 12  # characters of a variable's value, below which it does not count as a secret
_warned: set[str] = set()


def without_secrets(uri: str) -> str:
    """Move the secrets of an address to environment variables, and return it without them; warns once."""
    if uri.lower().startswith(("http://", "https://")):
        return _server_without_secrets(uri)
    clean = _masked(uri)
    if clean != uri and MASK not in uri:
        if (match := USER_INFO.match(uri)) and match[3]:  # otherwise a client would end the password at @ or /
            uri = f"{match[1]}{match[2]}:{match[3].replace('@', '%40').replace('/', '%2F')}@{match[4]}"
        known = os.environ.get(DATABASES, "").splitlines()
        os.environ[DATABASES] = "\n".join(dict.fromkeys([*known, uri]))
        _warn(f"put the whole address into {DATABASES}, and write {MASK} for the password on the command line")
    return clean


def _server_without_secrets(uri: str) -> str:
    variables: dict[str, str] = {}
    if match := USER_INFO.match(uri):
        scheme, user, password, rest = match.groups()
        uri = scheme + rest
        variables[USERNAME] = unquote(user)
        if password is not None:
            variables[PASSWORD] = unquote(password)
    for _, key, value in QUERY_SECRET.findall(uri):
        variables[PASSWORD if "pass" in key.lower() or "pwd" in key.lower() else TOKEN] = unquote(value)
    if QUERY_SECRET.search(uri):
        uri = QUERY_SECRET.sub(r"\1", uri).replace("?&", "?").rstrip("?&")
    if variables:
        os.environ.update(variables)
        _warn(f"set {USERNAME} and {PASSWORD} (or {TOKEN}), and leave it out of the address")
    return uri


def _masked(uri: str) -> str:
    if (match := USER_INFO.match(uri)) and match[3] is not None:
        uri = f"{match[1]}{match[2]}:{MASK}@{match[4]}"
    return QUERY_SECRET.sub(rf"\1\2={MASK}", uri)


def _warn(advice: str) -> None:
    if advice not in _warned:
        _warned.add(advice)
        print(
            f"Warning: the password in the store's address is kept out of all records; {advice}, so that the history "
            "of the shell does not contain it either.",
            file=sys.stderr,
        )


def with_secrets(uri: str) -> str | None:
    """The address with its secrets for one that `without_secrets` returned; None if it is not known."""
    for known in os.environ.get(DATABASES, "").splitlines():
        if _masked(known) == uri:
            return known
    return None if MASK in uri else uri


def without_secrets_in_arguments(arguments: Iterable[str]) -> list[str]:
    """The arguments KEY=VALUE of a command line, with addresses of stores without secrets."""
    return [_clean_argument(argument) for argument in arguments]


def _clean_argument(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if "://" not in value or not key.lstrip("+").startswith(SECTIONS):
        return argument
    quote = value[0] if value[0] in "'\"" and value[0] == value[-1] else ""
    address = value[len(quote) : len(value) - len(quote)]
    if re.match(SCHEME, address):
        return key + equals + quote + without_secrets(address) + quote
    return key + equals + EMBEDDED.sub(lambda match: without_secrets(match[0]), value)


def without_secrets_in_yaml(text: str) -> str:
    """A configuration in YAML, with addresses of stores without secrets; unchanged if it contains none."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(inside) for key, inside in value.items()}
        if isinstance(value, list):
            return [clean(inside) for inside in value]
        return without_secrets(value) if isinstance(value, str) and re.match(SCHEME, value) else value

    values = yaml.safe_load(text)
    return text if clean(values) == values else yaml.safe_dump(clean(values), sort_keys=False, allow_unicode=True)


def hidden(text: str) -> str:
    """The text without secrets: neither those in the environment of this process nor those in any address."""
    addresses = os.environ.get(DATABASES, "").splitlines()
    secrets = [value for name, value in os.environ.items() if _is_secret(name, value)]
    for address in addresses:
        if (match := USER_INFO.match(address)) and match[3]:
            secrets += [match[3], unquote(match[3])]
        secrets += [form for _, _, value in QUERY_SECRET.findall(address) for form in (value, unquote(value))]
    for secret in sorted({*addresses, *secrets} - {""}, key=len, reverse=True):
        text = text.replace(secret, _masked(secret) if secret in addresses else MASK)
    return EMBEDDED.sub(_masked_address, ASSIGNED.sub(rf"\1{MASK}", text))


def _is_secret(name: str, value: str) -> bool:
    """Whether an environment variable is a secret, by its name; a short value may be an ordinary word."""
    return name in (PASSWORD, TOKEN) or (
        re.search(f"{SECRET_NAME}$", name, re.IGNORECASE) is not None and len(value) >= SHORTEST
    )


def _masked_address(match: re.Match[str]) -> str:
    """Mask the secrets of an address in a text, including a token alone, as addresses of repositories have."""
    return ALONE.sub(rf"\1{MASK}@", _masked(match[0]))


def without_secrets_in_values(value: Any) -> Any:
    """A nested value without secrets in any of its texts."""
    if isinstance(value, dict):
        return {key: without_secrets_in_values(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets_in_values(inside) for inside in value]
    return hidden(value) if isinstance(value, str) else value
