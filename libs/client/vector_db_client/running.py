"""How commands that talk to a gateway are run: their options, their client, how they fail.

Owns the rule that what can be expected to go wrong is one line on standard error and exit code 1.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vector_db_client.aio import AsyncVectorDatabaseClient

UrlOption = Annotated[
    list[str] | None,
    typer.Option("--url", help="Gateways, separated by commas. [default: http://127.0.0.1:8080]"),
]
KeyOption = Annotated[
    str | None,
    typer.Option("--api-key", envvar="VECTOR_DB_API_KEY", help="API key, if one is set."),
]


def run(
    work: Callable[[AsyncVectorDatabaseClient], Awaitable[None]],
    url: list[str] | None,
    api_key: str | None,
    expected: type[Exception],
    interrupted: str,
    timeout_s: float = 120.0,
) -> None:
    """Run `work(client)`; expected failures become one line and exit code 1, Ctrl-C the line
    `interrupted` and exit code 130."""
    from vector_db_client.aio import DEFAULT_URL, AsyncVectorDatabaseClient
    from vector_db_client.errors import VectorDatabaseError

    async def main() -> None:
        async with AsyncVectorDatabaseClient(
            url or DEFAULT_URL, api_key, timeout_s=timeout_s
        ) as client:
            await work(client)

    try:
        asyncio.run(main())
    except (VectorDatabaseError, expected, OSError) as error:
        text = str(error)
        done = sum(len(rows) for rows in getattr(error, "committed", ()))
        if done:
            text += f" ({done:,} rows were written before)"
        fail(text)
    except ImportError as error:
        fail(f"{error}: install vector-db-python[cli]")
    except KeyboardInterrupt:
        print(f"vector-db: {interrupted}", file=sys.stderr)
        raise typer.Exit(130) from None


def fail(text: str) -> None:
    """:raises Exit: always, with code 1, after the text as one line."""
    print(f"vector-db: {' '.join(text.split())}", file=sys.stderr)
    raise typer.Exit(1) from None
