"""What is asked of a running server, over its control socket."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from cyfs_ns.io.cli.common import (
    ask,
    config_option,
    facts,
    follow,
    home_option,
    json_option,
    print_json,
    run_to_end,
    table,
)
from cyfs_ns.printable import printable

_BAR = 40


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Print the version."""
    from cyfs_ns.io.process import installed_version

    if as_json:
        print_json({"version": installed_version()})
    else:
        click.echo(f"cyfs-ns {installed_version() or '(run from its sources)'}")


@click.command()
@home_option
@json_option
def status(home: Path, as_json: bool) -> None:
    """Show what the running server does.

    \b
    Example:
      cyfs-ns status
    """
    from cyfs_ns.io.tables import bytes_text, seconds_text

    said = ask(home, "GET", "status")
    if as_json:
        print_json(said)
        return
    cache, log, fakes = said["cache"], said["query-log"], {}
    if fake := said.get("fake-ip"):
        fakes["fake addresses"] = f"{fake['names']} names" + (fake["fault"] and f"; no new ones: {fake['fault']}")
    facts(
        {
            "version": said["version"],
            "up": seconds_text(said["uptime"]),
            "home": said["home"],
            "doors": " ".join(said["doors"]),
            "answers": said["answers"],
            "cache": f"{cache['entries']} answers, {bytes_text(cache['bytes'])} of {bytes_text(cache['max-bytes'])}",
            "lists": f"{said['lists']} rules",
            **fakes,
            "query log": log["privacy"] + (f", {log['unlogged']} questions without room" if log["unlogged"] else ""),
            "memory": bytes_text(said["memory"]),
        }
    )


@click.command()
@click.argument("name")
@click.argument("rtype", metavar="[TYPE]", default="")
@click.option("--client", default="", metavar="IP", help="Who asks. [default: this machine]")
@config_option("Explain by this file, without a running server.")
@home_option
@json_option
def explain(name: str, rtype: str, client: str, config: Path | None, home: Path, as_json: bool) -> None:
    """Tell the whole way of an answer: who asks, names of the house, rule and list, cache, upstreams, with times.

    The question is really asked.  Statistics and query log do not hear of it.

    \b
    Examples:
      cyfs-ns explain ads.example.com
      cyfs-ns explain www.example.com AAAA --client 192.168.1.20
    """
    if config is not None:
        said = _explained_alone(config, name, rtype, client)
    else:
        said = ask(home, "GET", "explain", query={"name": name, "type": rtype, "client": client})
    if as_json:
        print_json(said)
    else:
        show_explanation(said)


def show_explanation(said: Any) -> None:
    """Print what ``explain`` of the API tells."""
    table(("MS", "STOP", "WHAT WAS SAID"), [(f"{s['milliseconds']:.2f}", s["stop"], s["said"]) for s in said["steps"]])
    click.echo()
    why = f" ({said['why']})" if said["why"] else ""
    click.echo(printable(f"{said['rcode']} from {said['source']}{why} after {said['milliseconds']:.2f} ms"))
    for one in said["ede"]:
        text = f": {one['text']}" if one["text"] else ""
        click.echo(printable(f"EDE {one['code']} ({one['meaning']}){text}"))
    for record in said["answer"]:
        cells = (record["name"], record["ttl"], "IN", record["type"], record["data"])
        click.echo("\t".join(printable(str(cell)) for cell in cells))


def _explained_alone(config: Path, name: str, rtype: str, client: str) -> Any:
    from cyfs_ns import names
    from cyfs_ns.errors import BadWire, CyfsError
    from cyfs_ns.io.configfile import read_dns_file
    from cyfs_ns.io.explain import explain_alone, question_of
    from cyfs_ns.io.views import explained_json

    try:
        question = question_of(name, rtype)
        asker = names.ip(client) if client else "127.0.0.1"
    except BadWire as fault:
        raise click.UsageError(str(fault)) from None
    loaded = read_dns_file(config)
    for wrong in loaded.faults:
        if wrong.severity == "error":
            raise click.ClickException(f"{config}:{wrong.line}:{wrong.column}: {printable(wrong.message)}")
    try:
        return explained_json(run_to_end(explain_alone, loaded, question, asker))
    except CyfsError as fault:
        raise click.ClickException(printable(str(fault))) from None


@click.command()
@click.option("-f", "--follow", "following", is_flag=True, help="Show questions as they are answered.")
@click.option("-n", "--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="How many at most.")
@click.option("--client", default="", metavar="IP", help="Only those of this client.")
@click.option("--name", default="", metavar="NAME", help="Only this name and what is below it.")
@click.option("--blocked", is_flag=True, help="Only what was blocked.")
@click.option("--forget", is_flag=True, help="Delete the log.")
@home_option
@json_option
def log(
    following: bool, limit: int, client: str, name: str, blocked: bool, forget: bool, home: Path, as_json: bool
) -> None:
    """Show the questions clients asked, the newest last.

    How much is kept says the key query-log of the configuration.  With --json one object a line.

    \b
    Examples:
      cyfs-ns log -f --client 192.168.1.20
      cyfs-ns log --blocked -n 200
    """
    if forget:
        ask(home, "DELETE", "log")
        return
    query: dict[str, str | int] = {"client": client, "name": name, "blocked": int(blocked)}
    entries: Iterable[Any]
    if following:
        entries = follow(home, "log", "follow", query=query)
    else:
        entries = ask(home, "GET", "log", query={**query, "limit": limit})["entries"]
    for entry in entries:
        if as_json:
            print_json(entry, one_line=True)
        else:
            click.echo(_log_line(entry))
        sys.stdout.flush()


def _log_line(entry: Mapping[str, Any]) -> str:
    import time

    when = time.strftime("%m-%d %H:%M:%S", time.localtime(entry["at"]))
    times = f" x{entry['times']}" if entry["times"] > 1 else ""
    took = f" {entry['milliseconds']:g} ms" if entry["milliseconds"] else ""
    why = f" ({entry['why']})" if entry["why"] else ""
    answers = " " + " ".join(entry["answers"]) if entry["answers"] else ""
    line = f"{when} {entry['client'] or '-'} {entry['name'] or '.'} {entry['rtype']}{times} {entry['source']}{why}"
    return printable(f"{line} {entry['rcode']}{answers}{took}")


@click.command()
@click.option("--top", default=10, show_default=True, type=click.IntRange(1, 1000), help="How many of each kind.")
@click.option("--forget", is_flag=True, help="Begin to count anew.")
@home_option
@json_option
def stats(top: int, forget: bool, home: Path, as_json: bool) -> None:
    """Show totals, the last 24 hours, and what stands out: names, clients, blocked names, upstreams.

    \b
    Example:
      cyfs-ns stats --top 20
    """
    if forget:
        ask(home, "DELETE", "stats")
        return
    said = ask(home, "GET", "stats", query={"top": top})
    if as_json:
        print_json(said)
        return
    _show_totals(said)
    for title, key in (("NAME", "names"), ("BLOCKED NAME", "blocked"), ("CLIENT", "clients")):
        if said[key]:
            click.echo()
            table((title, "QUESTIONS"), [(one["name"] or ".", one["count"]) for one in said[key]])
    if said["upstreams"]:
        click.echo()
        rows = [(one["server"], one["answers"], f"{one['milliseconds']:g} ms") for one in said["upstreams"]]
        table(("UPSTREAM", "ANSWERS", "MEAN"), rows)


def _show_totals(said: Mapping[str, Any]) -> None:
    import time

    total = sum(said["total"].values())
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(said["since"])) if said["since"] else "now"
    click.echo(f"{total} answers since {since}")
    rows = [(source, n, f"{n / total:.1%}") for source, n in said["total"].items() if n]
    if rows:
        click.echo()
        table(("FROM", "ANSWERS", "SHARE"), rows)
    if said["hours"]:
        click.echo()
        most = max(sum(hour["answers"].values()) for hour in said["hours"]) or 1
        hours = [_hour(hour["hour"], hour["answers"], most) for hour in said["hours"]]
        table(("HOUR", "ANSWERS", "BLOCKED", ""), hours)


def _hour(begin: float, answers: Mapping[str, int], most: int) -> tuple[object, ...]:
    import time

    count = sum(answers.values())
    bar = "█" * max(1, round(count / most * _BAR)) if count else ""
    return time.strftime("%m-%d %H:00", time.localtime(begin)), count, answers.get("blocked", 0), bar


@click.command()
@home_option
@json_option
def upstreams(home: Path, as_json: bool) -> None:
    """Show the health of the servers behind: those asked so far, and those not needed yet.

    "set back" is a server that failed and is asked only after the others, until it answers again.

    \b
    Example:
      cyfs-ns upstreams
    """
    said = ask(home, "GET", "upstreams")
    if as_json:
        print_json(said)
        return
    rows = []
    for one in said["upstreams"]:
        speed = f"{one['milliseconds']:g} ms" if one.get("milliseconds") else ""
        counts = [one.get(key, "") for key in ("answers", "failures", "connections")]
        rows.append((one["server"], " ".join(one["groups"]), one["state"], speed, *counts, one.get("fault", "")))
    table(("SERVER", "GROUPS", "STATE", "SPEED", "ANSWERS", "FAILURES", "OPEN", "LAST FAULT"), rows)


@click.command()
@click.option("--refresh", is_flag=True, help="Look for all of them now.")
@home_option
@json_option
def lists(refresh: bool, home: Path, as_json: bool) -> None:
    """Show the block, allow and rewrite lists: what is in them, and when they were looked for.

    \b
    Example:
      cyfs-ns lists --refresh
    """
    said = ask(home, "POST", "lists", "refresh") if refresh else ask(home, "GET", "lists")
    if as_json:
        print_json(said)
        return
    rows = []
    for one in said["lists"]:
        ages = (_ago(one["checked"]), _ago(one["changed"]))
        rows.append((one["name"], one["action"], one["format"], one["entries"], one["faulty"], *ages, one["fault"]))
    table(("LIST", "DOES", "FORMAT", "RULES", "FAULTY", "CHECKED", "CHANGED", "FAULT"), rows)


def _ago(when: float) -> str:
    import time

    from cyfs_ns.io.tables import seconds_text

    return f"{seconds_text(max(0.0, time.time() - when))} ago" if when else "never"


@click.command()
@click.argument("name", default="")
@click.option("--below", is_flag=True, help="What is below NAME, too.")
@home_option
@json_option
def flush(name: str, below: bool, home: Path, as_json: bool) -> None:
    """Forget cached answers for NAME, or all of them.

    \b
    Example:
      cyfs-ns flush example.com --below
    """
    if below and not name:
        raise click.UsageError("below which name?")
    said = ask(home, "POST", "flush", query={"name": name, "below": int(below)})
    if as_json:
        print_json(said)
    else:
        click.echo(f"{said['flushed']} answers forgotten")


@click.command()
@home_option
@json_option
def reload(home: Path, as_json: bool) -> None:
    """Read the configuration again.

    All of the new one serves afterwards, or all of the old; no question is lost.

    \b
    Example:
      cyfs-ns reload
    """
    said = ask(home, "POST", "reload")
    if as_json:
        print_json(said)
    else:
        for warning in said["warnings"]:
            click.echo(printable(warning), err=True)
