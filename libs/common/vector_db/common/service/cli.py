"""The command `vector-db`.

It must answer quickly, so only the command that was asked for is imported: the services, their
libraries and the commands of other distributions (entry point group ``vector_db.commands``) load
when they run. Owns the rule that an expected failure is one line on stderr and exit code 1; a
usage error exits with 2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer

from vector_db.common.model.errors import NewerFormat, StartupError, StorageCorrupt

COMMAND_GROUP = "vector_db.commands"


class Target(StrEnum):
    """What `vector-db run` can run."""

    GATEWAY = "gateway"
    COORDINATOR = "coordinator"
    SHARD = "shard"
    ALL = "all"


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="YAML file; default: $VECTOR_DB_CONFIG, else ./config.yaml if there is one.",
        dir_okay=False,
    ),
]


def run_command(
    target: Annotated[Target, typer.Argument(help="One service, or all of them in one process.")],
    config: ConfigOption = None,
) -> None:
    """Serve until SIGTERM or SIGINT."""
    # Before NumPy loads: searches run in a pool of their own, and threads of BLAS on top of it make
    # small matrix products slower, not faster.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from vector_db.common.service.config import Config

    settings = Config.load(config, os.environ)
    from vector_db.common.service.runner import run

    raise typer.Exit(run(target.value, settings))


def config_command(config: ConfigOption = None) -> None:
    """Print the effective configuration as YAML, secrets masked."""
    from vector_db.common.service.config import Config, effective_yaml

    print(effective_yaml(Config.load(config, os.environ)), end="")


def version_command() -> None:
    """Print the version."""
    import platform

    from vector_db.common.service.telemetry import product_version

    print(f"vector-db {product_version()} (Python {platform.python_version()})")


BUILT_IN: dict[str, Callable[..., Any]] = {
    "run": run_command,
    "config": config_command,
    "version": version_command,
}


def build_app(arguments: Sequence[str]) -> typer.Typer:
    """The application for these arguments: the built-in commands, and of the others the one that
    is asked for, or all when the arguments name none (help, a misspelt name)."""
    app = typer.Typer(
        name="vector-db",
        help="A transactional, sharded vector database.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    asked = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, function in BUILT_IN.items():
        app.command(name)(function)
    if asked not in BUILT_IN:
        entries = {entry.name: entry for entry in entry_points(group=COMMAND_GROUP)}
        for name in [asked] if asked in entries else sorted(entries):
            try:
                function = entries[name].load()
            except ImportError as error:
                function = _unavailable(name, error)
            if isinstance(function, typer.Typer):
                app.add_typer(function, name=name)
            else:
                app.command(name)(function)
    return app


def _unavailable(name: str, error: ImportError) -> Callable[[], None]:
    """A command whose libraries are not installed: listed, and says what it lacks."""

    def command() -> None:
        raise StartupError(f"'{name}' is not available: {error}")

    command.__doc__ = f"(Not available: {error}.)"
    return command


def main() -> None:
    """Entry point of the script `vector-db`."""
    try:
        build_app(sys.argv[1:])(prog_name="vector-db")
    except (StartupError, StorageCorrupt, NewerFormat) as error:
        print(f"vector-db: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
