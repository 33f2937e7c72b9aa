"""What the setting `storage_url` names: where Redis is and how to get in.

    redis://[user[:password]@]host[:port][,host:port…][/db]      rediss:// the same through TLS
    unix://[user[:password]@]/path/of/socket[?db=n]
    redis+sentinel://[user[:password]@]host[:port],…/master-name[/db]     rediss+sentinel://

Several hosts are seeds: any one that answers is enough. Percent-encoding works in user and password. A Sentinel that
asks for credentials of its own gets them from `?sentinel_username=…&sentinel_password=…`.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import parse_qs, unquote

from redbroker.config import Settings
from redbroker.errors import ErrorCode, KafkaError

REDIS_PORT = 6379
SENTINEL_PORT = 26379
FORMS = "embedded:[DIR], redis://host:port, rediss://…, unix:///path or redis+sentinel://host:port/name"


class StorageError(KafkaError):
    """The storage cannot be opened; the message is one sentence that names the setting to change."""


class Address(NamedTuple):
    """A server's address: a host and its port, or the path of a unix socket and port 0."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.port else self.host


@dataclass(frozen=True, slots=True)
class Access:
    """How a connection gets in: TLS context, credentials, database number."""

    tls: ssl.SSLContext | None = None
    username: str = ""
    password: str = ""
    database: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed `storage_url`; `sentinel` is the master's name when the seeds are Sentinels."""

    seeds: tuple[Address, ...]
    access: Access
    sentinel: str = ""
    sentinel_access: Access = Access()


def parse_target(settings: Settings) -> Target:
    """The target that `storage_url` and the `storage_tls_*` settings describe; `StorageError` says what is wrong."""
    url = settings.storage_url
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel"):
        raise wrong(f"storage_url {redacted(url) or '(empty)'} is none of {FORMS}.")
    rest, _, query = rest.partition("?")
    options = {name: values[-1] for name, values in parse_qs(query).items()}
    credentials, _, place = rest.rpartition("@")
    username, _, password = credentials.partition(":")
    tls = _tls_context(settings) if scheme.startswith("rediss") else None
    if scheme == "unix":
        if not place.startswith("/"):
            raise wrong(f"storage_url {redacted(url)} must name an absolute path, as in unix:///run/redis.sock.")
        access = Access(None, unquote(username), unquote(password), _database(url, options.get("db", "")))
        return Target((Address(unquote(place), 0),), access)
    hosts, *path = place.rstrip("/").split("/")
    sentinel = path.pop(0) if scheme.endswith("sentinel") and path else ""
    if scheme.endswith("sentinel") and not sentinel:
        raise wrong(
            f"storage_url {redacted(url)} must end with the master's name, as in redis+sentinel://h:p/mymaster."
        )
    if len(path) > 1:
        raise wrong(f"storage_url {redacted(url)} has too many parts after the hosts.")
    access = Access(
        tls, unquote(username), unquote(password), _database(url, path[0] if path else options.get("db", ""))
    )
    own = Access(tls, options.get("sentinel_username", ""), options.get("sentinel_password", ""))
    port = SENTINEL_PORT if sentinel else REDIS_PORT
    return Target(tuple(_address(url, host, port) for host in hosts.split(",")), access, sentinel, own)


def redacted(url: str) -> str:
    """The URL without its password, for messages."""
    head, separator, rest = url.partition("://")
    credentials, at, place = rest.rpartition("@")
    place, mark, _ = place.partition("?sentinel_")
    if not at:
        return f"{head}{separator}{place}{mark and '?…'}"
    return f"{head}{separator}{credentials.partition(':')[0]}:…@{place}{mark and '?…'}"


def wrong(sentence: str) -> StorageError:
    """A `storage_url` that cannot mean anything."""
    return StorageError(ErrorCode.INVALID_CONFIG, sentence)


def _address(url: str, text: str, default_port: int) -> Address:
    """`host`, `host:port` or `[v6]:port`."""
    host, separator, port = text.rpartition(":")
    if not separator or text.endswith("]"):
        host, port = text, str(default_port)
    host = host.strip("[]")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise wrong(f"storage_url {redacted(url)} has no usable host and port in {text!r}.")
    return Address(host, int(port))


def _database(url: str, text: str) -> int:
    """The database number; nothing means 0."""
    if text and not text.isdigit():
        raise wrong(f"storage_url {redacted(url)} has the database {text!r}, which is not a number.")
    return int(text or 0)


def _tls_context(settings: Settings) -> ssl.SSLContext:
    """TLS as the `storage_tls_*` settings ask for it."""
    try:
        context = ssl.create_default_context(cafile=settings.storage_tls_ca_file)
        if settings.storage_tls_cert_file is not None:
            context.load_cert_chain(settings.storage_tls_cert_file, settings.storage_tls_key_file)
    except (OSError, ssl.SSLError) as error:
        raise wrong(
            f"storage_tls_ca_file, storage_tls_cert_file or storage_tls_key_file is unusable: {error}."
        ) from None
    if not settings.storage_tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
