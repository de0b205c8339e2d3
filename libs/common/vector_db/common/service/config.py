"""The configuration of every process: one YAML file, `VECTOR_DB_*` variables above it.

Owns the invariant that no setting is accepted and ignored: an unknown key or variable, and a
setting whose subsystem does not exist yet, refuse to start the process with one line that names
them. The environment is read only by `Config.load`; a `Config()` made elsewhere holds the
defaults.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from vector_db.common.model.errors import StartupError
from vector_db.common.model.limits import Limits
from vector_db.common.model.urls import MASK, mask_url, split_urls

ENV_PREFIX = "VECTOR_DB_"
CONFIG_VARIABLE = "VECTOR_DB_CONFIG"
DEFAULT_CONFIG_FILE = "config.yaml"

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1)]
Size = Annotated[ByteSize, Field(gt=0)]
"""Bytes, or text such as ``64MB`` (10^6) and ``64MiB`` (2^20)."""

_LIMITS = Limits()

# What Kubernetes puts into the environment of a pod for a service whose name starts with
# "vector-db": FOO_SERVICE_HOST, FOO_SERVICE_PORT[_NAME], FOO_PORT[_80_TCP[_PROTO|_PORT|_ADDR]].
_SERVICE_LINK = re.compile(
    r"VECTOR_DB_(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR))"
)
_SERVICE_LINK_URL = re.compile(r"(tcp|udp|sctp)://.*")
_SERVICE_LINK_URL_NAME = re.compile(r"VECTOR_DB_(.+_)?PORT(_\d+_(TCP|UDP|SCTP))?")


def _cpu_count() -> int:
    """Cores that this process may use (a container's cpuset counts, not the machine's cores)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _nats_urls(value: str) -> str:
    """The URLs without spaces between them.

    :raises ValueError: one is no URL of a NATS server.
    """
    urls = split_urls(value)
    if not all(re.fullmatch(r"(nats|tls)://\S*[^\s,]", url) for url in urls):
        raise ValueError("needs nats://host:port (or tls://), several separated by commas")
    return ",".join(urls)


def _one_or_three(value: int) -> int:
    if value not in (1, 3):
        raise ValueError("is 1 or 3")
    return value


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerConfig(_Group):
    """Where the process listens, the broker, and how it starts and ends."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    http_port: Port = 8080
    grpc_port: Port = 9090
    admin_port: Port = 0
    """Health and metrics of the services without an HTTP edge; 0: a free one, printed."""
    nats_url: Annotated[str, AfterValidator(_nats_urls)] | None = None
    """One server, or several of one cluster, comma-separated."""
    stream_replicas: Annotated[int, AfterValidator(_one_or_three)] = 1
    """Copies that a cluster of NATS servers keeps of each log; 3 needs three servers."""
    api_key: Annotated[SecretStr, Field(min_length=1)] | None = None
    auth_enabled: bool | None = None
    """None: exactly when there is an `api_key`."""
    connect_timeout_s: Seconds = 10.0
    """How long a starting process waits for the broker."""
    start_timeout_s: Seconds = 300.0
    """How long one service may take until it is ready, recovery included."""
    drain_timeout_s: Seconds = 20.0
    """How long SIGTERM waits for what is under way, all services together."""

    @property
    def auth_required(self) -> bool:
        """Whether REST and gRPC ask for the API key."""
        return self.api_key is not None if self.auth_enabled is None else self.auth_enabled

    @property
    def loopback_only(self) -> bool:
        """Whether `host` is reachable from this machine alone."""
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"


class StorageConfig(_Group):
    """What is kept on disk, and how much of it."""

    data_dir: Path = Path("data")
    hot_tier_size: Size = ByteSize(10_000_000_000)
    """Bytes of memory for rows and indexes; past it indexes are served from mapped files."""
    cold_tier_endpoint: str | None = None
    compression_enabled: bool = False
    checkpoint_wal_bytes: Size = ByteSize(256_000_000)
    """WAL bytes after which a checkpoint is written."""


class TransactionsConfig(_Group):
    """Open transactions, the past that can be read, and remembered writes."""

    retention_s: Annotated[float, Field(ge=1, le=7 * 86400)] = 3600.0
    """How far back reads may go (`as_of`, scroll cursors, open transactions)."""
    txn_timeout_s: Seconds = 60.0
    """How long a transaction may stay open unless it asks for another time."""
    idempotency_ttl_s: Annotated[float, Field(ge=1)] = 86400.0
    """How long the answer to a write with an idempotency key is remembered."""
    token_secret: Annotated[SecretStr, Field(min_length=16)] | None = None
    """Signs transaction tokens; the same for all gateways. None: derived from the cluster's id."""


class ShardingConfig(_Group):
    """How rows spread; `shard_count` bounds the shards that new collections may use."""

    shard_count: Annotated[int, Field(ge=1, le=4096)] = 16
    replication_factor: Annotated[int, Field(ge=1, le=15)] = 1
    zone: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]*$")] = ""
    """Failure domain of this worker; replicas of one shard prefer different zones."""
    failover_grace_s: Annotated[float, Field(ge=3, le=7 * 86400)] = 60.0
    """A worker that is not heard for so long loses its replicas to others."""
    copies_max: Annotated[int, Field(ge=1, le=64)] = 2
    """Replicas that are copied at one time, in the whole cluster."""
    copy_bytes_per_s_max: Annotated[ByteSize, Field(ge=0)] = ByteSize(0)
    """At most so many bytes a second does a worker copy; 0: as fast as it goes."""


class SecurityConfig(_Group):
    """Encryption of rows."""

    encryption_enabled: bool = False
    encryption_algorithm: str | None = None


class PerformanceConfig(_Group):
    """Batches, threads and devices."""

    batch_size: Count = 1000
    """Rows that the gateway reads at a time when it walks a collection (delete by filter)."""
    worker_threads: Count = Field(default_factory=_cpu_count)
    simd_enabled: bool = True
    """False: FAISS and compiled loops do without vector instructions, to compare; see `simd.py`."""
    gpu_enabled: bool = False


class ObservabilityConfig(_Group):
    """Logs, always to stderr."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] = "console"


class LimitsConfig(_Group):
    """The fields of `model.limits.Limits`; sizes also as text (``64MB``)."""

    body_bytes_max: Size = ByteSize(_LIMITS.body_bytes_max)
    rows_per_batch_max: Count = _LIMITS.rows_per_batch_max
    k_max: Count = _LIMITS.k_max
    queries_per_batch_max: Count = _LIMITS.queries_per_batch_max
    dimension_max: Count = _LIMITS.dimension_max
    filter_depth_max: Count = _LIMITS.filter_depth_max
    filter_terms_max: Count = _LIMITS.filter_terms_max
    metadata_bytes_max: Size = ByteSize(_LIMITS.metadata_bytes_max)
    scroll_limit_max: Count = _LIMITS.scroll_limit_max


class Config(BaseSettings):
    """The configuration of one process, checked; frozen."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    server: ServerConfig = Field(default_factory=ServerConfig)
    storage: StorageConfig = Field(default_factory=StorageConfig)
    transactions: TransactionsConfig = Field(default_factory=TransactionsConfig)
    sharding: ShardingConfig = Field(default_factory=ShardingConfig)
    security: SecurityConfig = Field(default_factory=SecurityConfig)
    performance: PerformanceConfig = Field(default_factory=PerformanceConfig)
    observability: ObservabilityConfig = Field(default_factory=ObservabilityConfig)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what the caller passes: `load` composes the file and the environment itself."""
        return (init_settings,)

    @classmethod
    def load(cls, path: Path | None, environ: Mapping[str, str]) -> Config:
        """Read the file and the variables and check the whole.

        :param path: the file of ``--config``; None: the one that `VECTOR_DB_CONFIG` names, else
            ``config.yaml`` of the working directory if there is one.
        :raises StartupError: an unreadable file, an unknown name, a bad value, a setting whose
            subsystem does not exist yet, or an open address without an API key.
        """
        file = _config_file(path, environ)
        values: dict[str, Any] = _read_yaml(file) if file is not None else {}
        variables = EnvironmentSource(cls, environ)
        for group, fields in variables().items():
            values.setdefault(group, {}).update(fields)
        try:
            config = cls(**values)
        except ValidationError as error:
            raise StartupError(_explain(error, variables.names, file)) from None
        _refuse_unbuilt(config)
        _refuse_open_door(config)
        return config

    def limits_value(self) -> Limits:
        """The request limits as the plain value that the services take."""
        return Limits(**{name: int(value) for name, value in self.limits})


def variable_name(group: str, field: str) -> str:
    """The environment variable of one setting."""
    return f"{ENV_PREFIX}{'LIMITS_' if group == 'limits' else ''}{field.upper()}"


def settings() -> Iterator[tuple[str, str]]:
    """Every setting as (group, field)."""
    for group, info in Config.model_fields.items():
        model = info.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            for field in model.model_fields:
                yield group, field


class EnvironmentSource(PydanticBaseSettingsSource):
    """Flat `VECTOR_DB_*` variables as a nested mapping; an empty variable counts as unset.

    `names` tells which variable gave a (group, field).
    """

    def __init__(self, settings_cls: type[BaseSettings], environ: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        known = {variable_name(*setting): setting for setting in settings()}
        self.names: dict[tuple[str, str], str] = {}
        self._values: dict[str, dict[str, Any]] = {}
        for name, value in environ.items():
            if not name.startswith(ENV_PREFIX) or name == CONFIG_VARIABLE:
                continue
            if _is_service_link(name, value):
                continue
            if name not in known:
                # Compared without the prefix, which alone would make any two names alike.
                tails = [other.removeprefix(ENV_PREFIX) for other in (*known, CONFIG_VARIABLE)]
                tail = name.removeprefix(ENV_PREFIX)
                hint = _suggestion(tail, tails, lambda match: ENV_PREFIX + match)
                raise StartupError(f"unknown variable {name}{hint}")
            if value != "":
                group, field = known[name]
                self.names[group, field] = name
                self._values.setdefault(group, {})[field] = value

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The variables of one group."""
        return self._values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return {group: dict(fields) for group, fields in self._values.items()}


def effective_yaml(config: Config) -> str:
    """The configuration in force as YAML, secrets masked; sizes in bytes."""
    values = config.model_dump(mode="json")
    server = values["server"]
    if server["api_key"] is not None:
        server["api_key"] = MASK
    if server["nats_url"] is not None:
        server["nats_url"] = mask_url(server["nats_url"])
    if values["transactions"]["token_secret"] is not None:
        values["transactions"]["token_secret"] = MASK
    return str(yaml.safe_dump(values, sort_keys=False))


def _is_service_link(name: str, value: str) -> bool:
    """Whether Kubernetes made this variable for a service of the namespace.

    A service called ``vector-db-http`` yields ``VECTOR_DB_HTTP_PORT=tcp://…``, the name of a real
    setting: the value tells them apart.
    """
    if _SERVICE_LINK.fullmatch(name):
        return True
    return bool(_SERVICE_LINK_URL_NAME.fullmatch(name) and _SERVICE_LINK_URL.fullmatch(value))


def _config_file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    named = path or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else None)
    if named is not None:
        return named
    default = Path(DEFAULT_CONFIG_FILE)
    return default if default.exists() else None


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that is given twice; YAML would keep the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key!r} is given twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


def _read_yaml(file: Path) -> dict[str, dict[str, Any]]:
    """The groups of the file, each key known.

    :raises StartupError: unreadable, not YAML, or a key that no setting has.
    """
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise StartupError(f"cannot read the configuration {file}: {reason}") from None
    except yaml.YAMLError as error:
        raise StartupError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise StartupError(f"{file}: expected groups such as 'server:', found {content!r:.40}")
    known: dict[str, list[str]] = {}
    for group, field in settings():
        known.setdefault(group, []).append(field)
    values: dict[str, dict[str, Any]] = {}
    for group, fields in content.items():
        if group not in known:
            raise StartupError(f"{file}: unknown key '{group}'{_key_suggestion(str(group), known)}")
        if fields is None:
            continue
        if not isinstance(fields, dict):
            raise StartupError(f"{file}: '{group}' must hold settings, found {fields!r:.40}")
        for field in fields:
            if field not in known[group]:
                hint = _suggestion(str(field), known[group], lambda f, g=group: f"{g}.{f}")
                hint = hint or _key_suggestion(str(field), known)
                raise StartupError(f"{file}: unknown key '{group}.{field}'{hint}")
        values[group] = dict(fields)
    return values


def _key_suggestion(name: str, known: Mapping[str, list[str]]) -> str:
    """A hint for a key that is no group's: another group, or a setting of some group."""
    homes = {field: f"{group}.{field}" for group, fields in known.items() for field in fields}
    return _suggestion(name, [*known, *homes], lambda match: homes.get(match, match))


def _suggestion(name: str, known: list[str], show: Any = str) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return f"; did you mean {show(close[0])}?" if close else ""


def _explain(
    error: ValidationError, names: Mapping[tuple[str, str], str], file: Path | None
) -> str:
    """One line for all bad values, each by the name the operator wrote; values are not repeated
    (one may be a secret)."""
    lines = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        group, field = (*map(str, problem["loc"]), "", "")[:2]
        name = names.get((group, field)) or (
            f"{file}: {group}.{field}" if file is not None else f"{group}.{field}"
        )
        message = problem["msg"]
        lines.append(f"{name}: {message[:1].lower()}{message[1:]}")
    return "; ".join(dict.fromkeys(lines))


def _refuse_unbuilt(config: Config) -> None:
    """A setting whose subsystem does not exist must not look as if it worked."""
    switched_on = {
        ("security", "encryption_enabled"): config.security.encryption_enabled,
        ("security", "encryption_algorithm"): config.security.encryption_algorithm is not None,
        ("storage", "cold_tier_endpoint"): config.storage.cold_tier_endpoint is not None,
        ("storage", "compression_enabled"): config.storage.compression_enabled,
        ("performance", "gpu_enabled"): config.performance.gpu_enabled,
    }
    for (group, field), on in switched_on.items():
        if on:
            raise StartupError(
                f"{group}.{field} ({variable_name(group, field)}) is switched on, but this version"
                " does not support it yet; remove the setting"
            )


def _refuse_open_door(config: Config) -> None:
    server = config.server
    if server.auth_enabled and server.api_key is None:
        raise StartupError("VECTOR_DB_AUTH_ENABLED=true needs VECTOR_DB_API_KEY")
    if not server.loopback_only and server.api_key is None and server.auth_enabled is None:
        raise StartupError(
            f"listening on {server.host} needs VECTOR_DB_API_KEY, or VECTOR_DB_AUTH_ENABLED=false"
            " to serve everybody who can reach it"
        )
