"""``cyfs-ns``: a name server, and names, from the command line.

Exit codes: 0 done, 1 it failed (or the name is not there), 2 wrong usage, 3 no name server is running, 9 no server
answered.  Every command lives in a module that is imported when it is called, and imports what it needs itself: asking
for a name must not wait for what a server needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

import click


class _Place(NamedTuple):
    module: str
    attribute: str
    help: str


_COMMANDS = {
    "serve": _Place("server", "serve", "Run the name server until it is told to stop."),
    "check": _Place("server", "check", "Say everything that is wrong with a configuration."),
    "import": _Place("server", "import_", "Turn a dnsmasq configuration into one of ours."),
    "status": _Place("running", "status", "Show what the running server does."),
    "explain": _Place("running", "explain", "Tell the whole way of an answer."),
    "log": _Place("running", "log", "Show the questions clients asked."),
    "stats": _Place("running", "stats", "Show what is asked most, by whom, and what was blocked."),
    "upstreams": _Place("running", "upstreams", "Show the health of the servers behind."),
    "lists": _Place("running", "lists", "Show the block, allow and rewrite lists."),
    "flush": _Place("running", "flush", "Forget cached answers."),
    "reload": _Place("running", "reload", "Read the configuration again."),
    "resolve": _Place("asking", "resolve", "Ask name servers for records."),
    "bench": _Place("benching", "bench", "Measure name servers against each other."),
    "version": _Place("running", "version", "Print the version."),
}


class _Commands(click.Group):
    """Commands that are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = _COMMANDS.get(cmd_name)
        if place is None:
            return None
        found = getattr(import_module(f"{__name__}.{place.module}"), place.attribute)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.help) for name, place in _COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """A name server for the house, and names from the command line."""
