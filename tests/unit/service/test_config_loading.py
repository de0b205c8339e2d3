"""Configuration: file and variables, their order, and everything that must refuse to start."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from vector_db.common.model.errors import StartupError
from vector_db.common.model.limits import Limits
from vector_db.common.model.urls import MASK
from vector_db.common.service.config import (
    Config,
    LimitsConfig,
    effective_yaml,
    settings,
    variable_name,
)


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(environ: Mapping[str, str] | None = None, text: str | None = None) -> Config:
    if text is None:
        return Config.load(None, environ or {})
    Path("settings.yaml").write_text(text)
    return Config.load(Path("settings.yaml"), environ or {})


def refusal(environ: Mapping[str, str] | None = None, text: str | None = None) -> str:
    with pytest.raises(StartupError) as caught:
        load(environ, text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_need_no_file_and_no_variable() -> None:
    config = load()
    assert (config.server.host, config.server.http_port, config.server.grpc_port) == (
        "127.0.0.1",
        8080,
        9090,
    )
    assert config.storage.hot_tier_size == 10_000_000_000
    assert config.storage.data_dir == Path("data")
    assert (config.sharding.shard_count, config.performance.batch_size) == (16, 1000)
    assert config.performance.worker_threads >= 1
    assert not config.server.auth_required


def test_the_variable_wins_over_the_file() -> None:
    text = "server:\n  http_port: 1000\n  grpc_port: 1001\n"
    config = load({"VECTOR_DB_HTTP_PORT": "2000"}, text)
    assert (config.server.http_port, config.server.grpc_port) == (2000, 1001)


def test_an_empty_variable_counts_as_unset() -> None:
    config = load({"VECTOR_DB_API_KEY": "", "VECTOR_DB_ZONE": ""}, "sharding: {zone: a}")
    assert config.server.api_key is None
    assert config.sharding.zone == "a"


def test_the_process_environment_is_not_read_behind_the_callers_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VECTOR_DB_SHARD_COUNT", "3")
    monkeypatch.setenv("SHARDING", '{"shard_count": 4}')
    assert load().sharding.shard_count == 16


@pytest.mark.parametrize(
    ("name", "group", "field"),
    [
        ("VECTOR_DB_HOST", "server", "host"),
        ("VECTOR_DB_GRPC_PORT", "server", "grpc_port"),
        ("VECTOR_DB_HTTP_PORT", "server", "http_port"),
        ("VECTOR_DB_ADMIN_PORT", "server", "admin_port"),
        ("VECTOR_DB_NATS_URL", "server", "nats_url"),
        ("VECTOR_DB_STREAM_REPLICAS", "server", "stream_replicas"),
        ("VECTOR_DB_API_KEY", "server", "api_key"),
        ("VECTOR_DB_AUTH_ENABLED", "server", "auth_enabled"),
        ("VECTOR_DB_DATA_DIR", "storage", "data_dir"),
        ("VECTOR_DB_HOT_TIER_SIZE", "storage", "hot_tier_size"),
        ("VECTOR_DB_COLD_TIER_ENDPOINT", "storage", "cold_tier_endpoint"),
        ("VECTOR_DB_COMPRESSION_ENABLED", "storage", "compression_enabled"),
        ("VECTOR_DB_SHARD_COUNT", "sharding", "shard_count"),
        ("VECTOR_DB_REPLICATION_FACTOR", "sharding", "replication_factor"),
        ("VECTOR_DB_ENCRYPTION_ENABLED", "security", "encryption_enabled"),
        ("VECTOR_DB_ENCRYPTION_ALGORITHM", "security", "encryption_algorithm"),
        ("VECTOR_DB_BATCH_SIZE", "performance", "batch_size"),
        ("VECTOR_DB_WORKER_THREADS", "performance", "worker_threads"),
        ("VECTOR_DB_SIMD_ENABLED", "performance", "simd_enabled"),
        ("VECTOR_DB_GPU_ENABLED", "performance", "gpu_enabled"),
        ("VECTOR_DB_LOG_LEVEL", "observability", "log_level"),
        ("VECTOR_DB_LIMITS_BODY_BYTES_MAX", "limits", "body_bytes_max"),
    ],
)
def test_public_variable_names_stay(name: str, group: str, field: str) -> None:
    assert variable_name(group, field) == name
    assert (group, field) in set(settings())


def test_no_two_settings_share_a_variable() -> None:
    names = [variable_name(*setting) for setting in settings()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("text", "size"),
    [("10GB", 10**10), ("64MiB", 64 * 2**20), ("1.5 kb", 1500), ("77", 77)],
)
def test_sizes_are_read_as_bytes(text: str, size: int) -> None:
    assert load({"VECTOR_DB_HOT_TIER_SIZE": text}).storage.hot_tier_size == size


def test_limits_of_the_file_become_the_plain_limits() -> None:
    limits = load(text="limits: {body_bytes_max: 1MB, k_max: 5}").limits_value()
    assert limits == Limits(body_bytes_max=1_000_000, k_max=5)
    assert type(limits.body_bytes_max) is int


def test_every_limit_can_be_configured_and_has_the_same_default() -> None:
    assert set(LimitsConfig.model_fields) == {field.name for field in dataclasses.fields(Limits)}
    assert load().limits_value() == Limits()


def test_an_unknown_variable_is_named_with_the_likely_one() -> None:
    message = refusal({"VECTOR_DB_HTPP_PORT": "1"})
    assert "VECTOR_DB_HTPP_PORT" in message
    assert "did you mean VECTOR_DB_HTTP_PORT?" in message


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("server: {htttp_port: 1}", "server.htttp_port", "server.http_port"),
        ("servr: {http_port: 1}", "servr", "server"),
        ("shard_count: 4", "shard_count", "sharding.shard_count"),
        ("server: {shard_count: 4}", "server.shard_count", "sharding.shard_count"),
    ],
)
def test_an_unknown_key_is_named_with_the_likely_one(text: str, key: str, hint: str) -> None:
    message = refusal(text=text)
    assert f"unknown key '{key}'" in message
    assert f"did you mean {hint}?" in message


def test_an_unlikely_name_gets_no_guess() -> None:
    assert "did you mean" not in refusal({"VECTOR_DB_QUUX": "1"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VECTOR_DB_SERVICE_HOST", "10.0.0.1"),
        ("VECTOR_DB_SERVICE_PORT", "8080"),
        ("VECTOR_DB_GATEWAY_SERVICE_HOST", "10.0.0.1"),
        ("VECTOR_DB_GATEWAY_SERVICE_PORT_HTTP", "8080"),
        ("VECTOR_DB_PORT", "tcp://10.0.0.1:8080"),
        ("VECTOR_DB_GATEWAY_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("VECTOR_DB_GATEWAY_PORT_8080_TCP_PROTO", "tcp"),
        ("VECTOR_DB_GATEWAY_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("VECTOR_DB_GATEWAY_PORT_8080_TCP_PORT", "8080"),
        ("VECTOR_DB_HTTP_PORT", "tcp://10.0.0.1:8080"),
    ],
)
def test_kubernetes_service_links_are_left_alone(name: str, value: str) -> None:
    assert load({name: value}) == load()


def test_what_only_resembles_a_service_link_is_an_error() -> None:
    assert "VECTOR_DB_GATEWAY_PORT" in refusal({"VECTOR_DB_GATEWAY_PORT": "8080"})


@pytest.mark.parametrize(
    ("name", "value", "setting"),
    [
        ("VECTOR_DB_ENCRYPTION_ENABLED", "true", "security.encryption_enabled"),
        ("VECTOR_DB_ENCRYPTION_ALGORITHM", "aes-256-gcm", "security.encryption_algorithm"),
        ("VECTOR_DB_COLD_TIER_ENDPOINT", "http://s3", "storage.cold_tier_endpoint"),
        ("VECTOR_DB_COMPRESSION_ENABLED", "1", "storage.compression_enabled"),
        ("VECTOR_DB_GPU_ENABLED", "yes", "performance.gpu_enabled"),
    ],
)
def test_a_setting_without_its_subsystem_refuses_to_start(
    name: str, value: str, setting: str
) -> None:
    message = refusal({name: value})
    assert setting in message
    assert name in message


def test_settings_without_their_subsystem_may_be_switched_off() -> None:
    environ = {
        "VECTOR_DB_ENCRYPTION_ENABLED": "false",
        "VECTOR_DB_GPU_ENABLED": "0",
    }
    assert load(environ) == load()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "db.example.org"])
def test_an_open_address_needs_a_key_or_an_explicit_no(host: str) -> None:
    assert "VECTOR_DB_API_KEY" in refusal({"VECTOR_DB_HOST": host})
    assert load({"VECTOR_DB_HOST": host, "VECTOR_DB_API_KEY": "k"}).server.auth_required
    opened = load({"VECTOR_DB_HOST": host, "VECTOR_DB_AUTH_ENABLED": "false"})
    assert not opened.server.auth_required


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_a_loopback_address_needs_no_key(host: str) -> None:
    assert not load({"VECTOR_DB_HOST": host}).server.auth_required


def test_authentication_without_a_key_is_refused() -> None:
    assert "VECTOR_DB_API_KEY" in refusal({"VECTOR_DB_AUTH_ENABLED": "true"})


def test_bad_values_are_told_together_by_the_names_that_were_written() -> None:
    message = refusal({"VECTOR_DB_HTTP_PORT": "x"}, "sharding: {shard_count: 0}")
    assert "VECTOR_DB_HTTP_PORT: input should be a valid integer" in message
    assert "settings.yaml: sharding.shard_count: input should be greater" in message


def test_a_bad_value_is_not_repeated_since_it_may_be_a_secret() -> None:
    assert "hunter2" not in refusal(text="server: {api_key: [hunter2]}")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("server: [", "not valid YAML"),
        ("server:\n  http_port: 1\n  http_port: 2\n", "given twice"),
        ("just a sentence", "expected groups"),
        ("server: 8080", "'server' must hold settings"),
        ("server: {http_port: }", "server.http_port"),
    ],
)
def test_a_malformed_file_is_one_line(text: str, reason: str) -> None:
    assert reason in refusal(text=text)


def test_a_file_that_is_named_must_exist() -> None:
    assert "absent.yaml" in refusal({"VECTOR_DB_CONFIG": "absent.yaml"})


def test_the_file_of_the_working_directory_is_found() -> None:
    Path("config.yaml").write_text("sharding: {shard_count: 5}")
    assert load().sharding.shard_count == 5


def test_the_named_file_is_taken_instead_of_the_found_one() -> None:
    Path("config.yaml").write_text("sharding: {shard_count: 5}")
    Path("other.yaml").write_text("sharding: {shard_count: 6}")
    assert load({"VECTOR_DB_CONFIG": "other.yaml"}).sharding.shard_count == 6
    assert load({"VECTOR_DB_CONFIG": "other.yaml"}, "").sharding.shard_count == 16


def test_an_empty_file_or_group_means_the_defaults() -> None:
    assert load(text="") == load()
    assert load(text="server:\nlimits:\n") == load()


def test_the_printed_configuration_hides_secrets() -> None:
    environ = {
        "VECTOR_DB_API_KEY": "hunter2",
        "VECTOR_DB_NATS_URL": "nats://joe:hunter2@one:4222,nats://hunter2@two:4222",
    }
    text = effective_yaml(load(environ))
    assert "hunter2" not in text
    assert "joe" not in text
    assert f"{MASK}@one:4222" in text
    assert f"{MASK}@two:4222" in text


def test_a_comma_in_a_password_separates_no_servers() -> None:
    text = effective_yaml(load({"VECTOR_DB_NATS_URL": "nats://joe:hun,ter2@one:4222"}))
    assert f"nats_url: nats://{MASK}@one:4222\n" in text


def test_several_brokers_are_one_setting_without_spaces() -> None:
    config = load({"VECTOR_DB_NATS_URL": " nats://one:4222 , tls://two:4222"})
    assert config.server.nats_url == "nats://one:4222,tls://two:4222"


@pytest.mark.parametrize(
    "url", ["one:4222", "http://one:4222", "nats://one:4222,", "nats://one,http://two", "nats://"]
)
def test_an_address_of_a_broker_that_cannot_be_one_is_refused(url: str) -> None:
    assert "VECTOR_DB_NATS_URL: " in refusal({"VECTOR_DB_NATS_URL": url})


@pytest.mark.parametrize("replicas", ["0", "2", "5", "x"])
def test_a_log_has_one_copy_or_three(replicas: str) -> None:
    assert load({"VECTOR_DB_STREAM_REPLICAS": "3"}).server.stream_replicas == 3
    assert "VECTOR_DB_STREAM_REPLICAS: " in refusal({"VECTOR_DB_STREAM_REPLICAS": replicas})


def test_the_printed_configuration_can_be_loaded_again() -> None:
    config = load({"VECTOR_DB_HTTP_PORT": "1234", "VECTOR_DB_HOT_TIER_SIZE": "1GiB"})
    text = effective_yaml(config)
    assert load(text=text) == config
    assert yaml.safe_load(text)["storage"]["hot_tier_size"] == 2**30
