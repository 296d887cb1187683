"""Addresses of cameras: without their passwords for logs, with them for the device."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from edge_ad.errors import ConfigError
from edge_ad.runtime.settings import SourceSettings


def redact(address: str) -> str:
    """The address without user, password and query (where cameras also take passwords)."""
    if "://" not in address:
        return re.sub(r"(user-(?:id|pw)|password|passwd|pwd|token)=\S+", r"\1=***", address)
    if " ! " in address:  # a pipeline with a URL inside
        return " ".join(redact(part) if "://" in part and " " not in part else part for part in _words(address))
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _words(pipeline: str) -> list[str]:
    words = []
    for word in pipeline.split():
        key, sign, value = word.partition("=")
        if sign and "://" in value:
            word = f"{key}={redact(value.strip(chr(34)))}"
        elif sign and key in ("user-id", "user-pw", "password"):
            word = f"{key}=***"
        words.append(word)
    return words


def credentials(settings: SourceSettings) -> tuple[str, str]:
    """User and password: from the settings and the password file, else from the address; empty when none."""
    parts = urlsplit(settings.address) if "://" in settings.address and " ! " not in settings.address else None
    user = settings.username or (parts.username or "" if parts else "")
    password = parts.password or "" if parts else ""
    if settings.password_file:
        try:
            password = Path(settings.password_file).read_text(encoding="utf-8").strip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"can't read the password file {settings.password_file}: {error}", "check its path and rights"
            ) from error
    return user, password


def address_with_credentials(settings: SourceSettings) -> str:
    """The address that the device is opened with; never log it."""
    user, password = credentials(settings)
    if not user:
        return settings.address
    parts = urlsplit(settings.address)
    host = parts.netloc.rpartition("@")[2]
    login = quote(user, safe="") + (":" + quote(password, safe="") if password else "")
    return urlunsplit((parts.scheme, f"{login}@{host}", parts.path, parts.query, parts.fragment))
