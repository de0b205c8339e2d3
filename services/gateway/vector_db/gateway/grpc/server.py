"""The gRPC server: the public API, health and reflection on one port.

Owns the invariant that nothing but health is answered without the API key, where one is set.
"""

from __future__ import annotations

import hmac
import uuid
from collections.abc import Iterable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from vector_db.common.model.errors import StartupError, Unauthenticated
from vector_db.common.model.limits import Limits
from vector_db.gateway.api import DatabaseApi
from vector_db.gateway.grpc.errors import failure_of
from vector_db.gateway.grpc.servicer import SERVICE_NAME, Servicer
from vector_db.gateway.metrics import GatewayMetrics

CONCURRENT_CALLS_MAX = 4_096
"""Calls in progress; grpc answers RESOURCE_EXHAUSTED beyond them, so that no queue is unbounded."""

KEEPALIVE_S = 60

_HEALTH_STATUS = health_pb2.HealthCheckResponse


class GrpcServer:
    """One listening gRPC server.

    :param api: what answers.
    :param limits: `body_bytes_max` bounds a received message.
    :param api_key: the key that calls must carry; None or empty serves everyone.
    :param metrics: the gateway's, shared with the other edge.
    """

    def __init__(
        self,
        api: DatabaseApi,
        limits: Limits,
        api_key: str | None,
        metrics: GatewayMetrics,
    ) -> None:
        self._servicer = Servicer(api, limits, metrics)
        self._limits = limits
        self._api_key = api_key or ""
        self._health = health.aio.HealthServicer()
        self._server: Any = None

    async def start(self, host: str, port: int) -> int:
        """Listen and serve; the port, which is a free one when `port` is 0.

        :raises StartupError: the address cannot be listened on.
        """
        services = [SERVICE_NAME, reflection.SERVICE_NAME, health.SERVICE_NAME]
        guarded = [
            grpc.method_handlers_generic_handler(SERVICE_NAME, self._servicer.handlers()),
            _reflection_handler(services),
        ]
        handlers: list[Any] = [_health_handler(self._health)]
        handlers += [ApiKeyGuard(guarded, self._api_key)] if self._api_key else guarded
        server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", self._limits.body_bytes_max),
                ("grpc.max_send_message_length", -1),
                # Without this a second process shares the port silently.
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
            ),
            maximum_concurrent_rpcs=CONCURRENT_CALLS_MAX,
        )
        server.add_generic_rpc_handlers(handlers)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound: int = server.add_insecure_port(address)
        except RuntimeError:
            bound = 0
        if not bound:
            raise StartupError(
                f"gRPC cannot listen on {address}: the port is in use or the address is not ours"
            )
        await server.start()
        self._server = server
        await self.set_serving(True)
        return bound

    async def set_serving(self, serving: bool) -> None:
        """What the health service answers, for the whole server ("") and for the public API."""
        status = _HEALTH_STATUS.SERVING if serving else _HEALTH_STATUS.NOT_SERVING
        await self._health.set("", status)
        await self._health.set(SERVICE_NAME, status)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, let those in progress finish for `grace_s`, then cut. Idempotent."""
        if self._server is None:
            return
        server, self._server = self._server, None
        await self._health.enter_graceful_shutdown()
        await server.stop(grace_s)


class ApiKeyGuard:
    """Generic handlers that serve only calls with the API key (a `grpc.GenericRpcHandler`)."""

    def __init__(self, inner: Iterable[Any], api_key: str) -> None:
        self._inner = tuple(inner)
        self._accepted = (api_key.encode(), f"Bearer {api_key}".encode())

    def service(self, call_details: Any) -> Any:
        """The handler of a method, one that refuses, or None for a method that is not here."""
        for handlers in self._inner:
            handler = handlers.service(call_details)
            if handler is not None:
                if self._allows(call_details.invocation_metadata):
                    return handler
                return _refusal(call_details.method, handler)
        return None

    def _allows(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> bool:
        for key, value in metadata or ():
            if key == "x-api-key":
                accepted = self._accepted[0]
            elif key == "authorization":
                accepted = self._accepted[1]
            else:
                continue
            given = value.encode() if isinstance(value, str) else value
            if hmac.compare_digest(given, accepted):
                return True
        return False


def _refusal(method: str, handler: Any) -> Any:
    """A handler of the same kind as `handler` that answers UNAUTHENTICATED."""
    error = Unauthenticated("an API key is needed: authorization: Bearer <key>, or x-api-key")

    async def refuse_unary(_request: bytes, context: Any) -> bytes:
        failure = failure_of(error, method, uuid.uuid4().hex)
        await context.abort(failure.code, failure.message, failure.trailing)
        return b""

    async def refuse_stream(_requests: Any, context: Any) -> Any:
        yield await refuse_unary(b"", context)

    if handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(refuse_stream)
    return grpc.unary_unary_rpc_method_handler(refuse_unary)


def _health_handler(servicer: Any) -> Any:
    return grpc.method_handlers_generic_handler(
        health.SERVICE_NAME,
        {
            "Check": grpc.unary_unary_rpc_method_handler(
                servicer.Check,
                health_pb2.HealthCheckRequest.FromString,
                health_pb2.HealthCheckResponse.SerializeToString,
            ),
            "Watch": grpc.unary_stream_rpc_method_handler(
                servicer.Watch,
                health_pb2.HealthCheckRequest.FromString,
                health_pb2.HealthCheckResponse.SerializeToString,
            ),
        },
    )


def _reflection_handler(services: Iterable[str]) -> Any:
    servicer = reflection.aio.ReflectionServicer(services)
    return grpc.method_handlers_generic_handler(
        reflection.SERVICE_NAME,
        {
            "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
                servicer.ServerReflectionInfo,
                reflection_pb2.ServerReflectionRequest.FromString,
                reflection_pb2.ServerReflectionResponse.SerializeToString,
            )
        },
    )
