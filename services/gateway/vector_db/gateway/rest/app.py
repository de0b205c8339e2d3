"""The REST application: wires routes, decoder, errors and authentication once.

Owns the list of routes, which is what is served, what OpenAPI describes and what the docs show.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry

from vector_db.common.model.errors import VectorDBError
from vector_db.common.model.limits import Limits
from vector_db.gateway.api import DatabaseApi
from vector_db.gateway.metrics import GatewayMetrics
from vector_db.gateway.rest.body import check_length
from vector_db.gateway.rest.decode import Decoder
from vector_db.gateway.rest.edge import Edge, Route
from vector_db.gateway.rest.errors import Handler, RequestIds, edge_middleware, error_response
from vector_db.gateway.rest.headers import check_refused
from vector_db.gateway.rest.routes.catalog import Catalog
from vector_db.gateway.rest.routes.cluster import Cluster
from vector_db.gateway.rest.routes.operations import Operations
from vector_db.gateway.rest.routes.reads import Reads
from vector_db.gateway.rest.routes.transactions import Transactions
from vector_db.gateway.rest.routes.writes import Writes


def build_app(
    api: DatabaseApi,
    limits: Limits,
    *,
    api_key: str | None,
    health: Callable[[], dict[str, Any]],
    metrics: Callable[[], tuple[bytes, str]],
    meters: GatewayMetrics | None = None,
) -> web.Application:
    """The application, ready for `RestServer`.

    :param api_key: asked of every request but those of probes; None asks nothing.
    :param health: facts for `/health` with ``ready``.
    :param metrics: the exposition of all metrics and its content type.
    :param meters: what the edge itself counts into; None counts into nowhere.
    """
    edge = Edge(
        api=api,
        limits=limits,
        decoder=Decoder(limits),
        meters=GatewayMetrics(CollectorRegistry()) if meters is None else meters,
        health=health,
        metrics=metrics,
    )
    request_ids = RequestIds()
    # Bodies are bounded by `read_body`; this is for whatever would read them another way.
    app = web.Application(
        middlewares=[edge_middleware(api_key, request_ids)], client_max_size=limits.body_bytes_max
    )
    expect = _expect_handler(limits, request_ids)
    writes, reads, transactions, catalog, cluster = (
        topic(edge).routes() for topic in (Writes, Reads, Transactions, Catalog, Cluster)
    )
    catalog += cluster
    operations = Operations(edge, [*writes, *reads, *transactions, *catalog]).routes()
    # The router tries the routes below one prefix in this order: queries first.
    for route in [*reads, *writes, *transactions, *catalog, *operations]:
        # An id may hold slashes, and line breaks that a 400 is to name.
        path = route.path.replace("/vectors/{id}", r"/vectors/{id:[\s\S]+}")
        for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
            app.router.add_route(method, path, _guarded(route), expect_handler=expect)
    return app


def _guarded(route: Route) -> Handler:
    """The handler of `route`, behind the headers that it refuses."""
    if not route.refuses:
        return route.handler

    async def guarded(request: web.Request) -> web.StreamResponse:
        check_refused(request, route.refuses)
        return await route.handler(request)

    return guarded


def _expect_handler(
    limits: Limits, request_ids: RequestIds
) -> Callable[[web.Request], Awaitable[web.StreamResponse | None]]:
    """Answers ``Expect: 100-continue``: a body over the limit is refused before it is sent."""

    async def expect(request: web.Request) -> web.StreamResponse | None:
        try:
            check_length(request, limits)
        except VectorDBError as error:
            return error_response(error, request_ids.of(request))
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # The interim answer is none: errors may still be answered after it.
            request.writer.output_size = 0
        return None

    return expect
