"""The SDK's settings: every name once, told from the storage's, and a wrong one refused in one sentence.

A client takes keyword arguments in Python's spelling (`linger_ms=5`) or a mapping in Kafka's (`{"linger.ms": 5}`). What
is no setting of the client itself is one of `redbroker.config.Settings` (`key_prefix`, `storage_timeout_ms`, …); what
is neither is refused with the nearest right name.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from redbroker.config import Settings, SettingsError

C = TypeVar("C", bound="ClientConfig")

NOT_OURS = {
    "bootstrap_servers": "the SDK talks to Redis itself: give storage_url, as in Producer('redis://localhost:6379')",
}
"""Settings of Kafka clients that mean nothing here, and what to do instead."""


class ClientConfig(BaseModel):
    """What all clients share."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    kafka_names: ClassVar[Mapping[str, str]] = {}
    """Kafka's names of settings that have another one here, in Python's spelling."""

    client_id: str = Field("redbroker", max_length=200, description="Name of this client in groups and logs.")


def configure(
    model: type[C], storage_url: str | None, mapping: Mapping[str, Any] | None, keywords: Mapping[str, Any], *,
    shared: bool = False, beside: Collection[str] = (),
) -> tuple[C, Settings]:  # fmt: skip
    """The client's settings and the storage's; `SettingsError` names the first wrong one.

    With `shared`, the storage's are those of a connection, and none may be given here. `beside` are names that the
    caller takes itself, to be recognised where they are misspelt.
    """
    own, storage = {}, {}
    for name, value in {**(mapping or {}), **keywords}.items():
        bare = name.replace(".", "_").replace("-", "_")
        bare = model.kafka_names.get(bare, bare)
        if bare in model.model_fields:
            own[bare] = value
        elif bare in Settings.model_fields and not shared:
            storage[bare] = value
        elif bare in Settings.model_fields:
            raise SettingsError(f"{name} is a setting of the connection that a {role(model)} shares: give it to that.")
        else:
            article = "an" if role(model)[0] in "aeiou" else "a"
            raise SettingsError(f"{name} is not a setting of {article} {role(model)}{_meant(bare, model, beside)}")
    if storage_url is not None:
        storage["storage_url"] = storage_url
    try:
        config = model(**own)
    except ValidationError as wrong:
        first = wrong.errors()[0]
        place = str(first["loc"][0]) if first["loc"] else role(model)
        raise SettingsError(f"{place} = {first.get('input')!r} is wrong: {first['msg']}.") from None
    return config, Settings.load(**storage)


def role(model: type[ClientConfig]) -> str:
    """`producer` for ProducerConfig."""
    return model.__name__.removesuffix("Config").lower()


def _meant(bare: str, model: type[ClientConfig], beside: Collection[str]) -> str:
    if bare in NOT_OURS:
        return f": {NOT_OURS[bare]}."
    close = difflib.get_close_matches(bare, [*beside, *model.model_fields, *Settings.model_fields], n=1)
    return f"; did you mean {close[0]}?" if close else "."
