"""Lists in every syntax: what they mean, what is left out, and that hostile bytes give a list or a counted fault."""

from __future__ import annotations

import gzip
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns import listcompile, listpiece, message
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.judgement import PASS, Action, Judgement
from cyfs_ns.listcompile import ListSource, compile_entries, compile_lists
from cyfs_ns.listlines import FORMATS, MAX_LINE, Format, Tally, detect, read_list, read_own
from cyfs_ns.listrule import Rewrite, Who
from cyfs_ns.lists import ListSet
from tests.cyfs_gateway.rules.mrs_writer import domain_mrs
from tests.freeport import free_port

A, CNAME, TXT, AAAA, HTTPS = 1, 5, 16, 28, 65
PLENTY = 1 << 24


def lists_of(text: str | bytes, format: Format = "adblock", *, allow: bool = False, rewrites: bool = True) -> ListSet:
    data = text.encode() if isinstance(text, str) else text
    return ListSet(compile_lists([(ListSource(name="l", format=format, allow=allow, rewrites=rewrites), data)]))


def blocked(lists: ListSet, *names: str, rtype: int = A) -> list[str]:
    return [name for name in names if lists.judge(name, rtype).action is Action.BLOCK]


# --- the plain syntaxes ----------------------------------------------------------------------------------------------

NAMES = ("a.example", "www.a.example", "b.example", "www.b.example", "xa.example", "example")


@pytest.mark.parametrize(
    ("format", "text", "hit"),
    [
        ("hosts", "0.0.0.0 a.example\n127.0.0.1\tb.example c.example # why\n:: d.example", ["a.example", "b.example"]),
        ("hosts", "127.0.0.1 localhost\n::1 ip6-localhost\n0.0.0.0 0.0.0.0\n0.0.0.0 a.example", ["a.example"]),
        ("hosts", "127.0.0.53%lo A.EXAMPLE\r\n\r\n# c\r\n0.0.0.0 b.example\r\n", ["b.example"]),
        ("domains", "# c\n a.example \nB.Example # why\n", ["a.example", "b.example"]),
        ("domains", "*.a.example\n.b.example\n", ["a.example", "www.a.example", "b.example", "www.b.example"]),
        ("domains", "0.0.0.0 a.example\n", ["a.example"]),
        ("dnsmasq", "address=/a.example/\n#x\nserver=/b.example/ # y\n", [*NAMES[:4]]),
        ("dnsmasq", "local=/a.example/b.example/\naddress=/zz.example/#\n", [*NAMES[:4]]),
        ("dnsmasq", "address=/*.a.example/0.0.0.0\naddress=/b.example/::\n", [*NAMES[1:4]]),
        ("dnsmasq", "address=/#/\nserver=/a.example/#", ["b.example", "www.b.example", "xa.example", "example"]),
        ("clash", "+.a.example\n// c\nb.example\n", [*NAMES[:3]]),
        ("clash", ".a.example\n*.b.example\n", ["www.a.example", "www.b.example"]),
        ("clash-yaml", "payload:\n  - '+.a.example'\n  - b.example\n", [*NAMES[:3]]),
        ("adblock", "||a.example^\n! c\nb.example\n0.0.0.0 example\n", [*NAMES[:3], "example"]),
    ],
)
def test_each_syntax_means_what_its_makers_mean(format: Format, text: str, hit: list[str]):
    assert blocked(lists_of(text, format), *NAMES) == hit


def test_mrs_is_read_as_the_rule_set_it_is():
    entries = ["+.a.example", "b.example", ".c.example", "*.d.example", "x.*.e.example"]
    lists = lists_of(domain_mrs(entries), "auto")
    assert lists.reports[0].format == "mrs"
    names = ["a.example", "z.y.a.example", "b.example", "x.b.example", "c.example", "x.c.example"]
    more = ["d.example", "x.d.example", "y.x.d.example", "x.y.e.example", "x.y.z.e.example", "y.e.example"]
    assert blocked(lists, *names) == ["a.example", "z.y.a.example", "b.example", "x.c.example"]
    assert blocked(lists, *more) == ["x.d.example", "x.y.e.example"]


@pytest.mark.parametrize(
    ("text", "format"),
    [
        ("# Title\n127.0.0.1 localhost\n0.0.0.0 a.example\n", "hosts"),
        ("# Title\n\na.example\nb.example\n", "domains"),
        ("*.a.example\n*.b.example\n", "domains"),
        ("# Title: x\naddress=/a.example/\n", "dnsmasq"),
        ("[Adblock Plus]\n! Title: x\n||a.example^\n", "adblock"),
        ("||a.example^\n", "adblock"),
        ("@@a.example\na.example\n|b.example^$important", "adblock"),
        ("payload:\n- a.example\n", "clash-yaml"),
        ("# c\n+.a.example\nb.example\n+.c.example", "clash"),
        ("", "domains"),
        (domain_mrs(["a.example"]), "mrs"),
    ],
)
def test_the_syntax_is_told_by_the_first_lines(text: str | bytes, format: str):
    assert detect(text.encode() if isinstance(text, str) else text) == format


def test_hosts_addresses_answer_when_the_list_is_trusted_with_it():
    text = "192.0.2.1 a.example\n2001:db8::1 a.example\n192.0.2.2 b.example\n0.0.0.0 b.example\n"
    judged = lists_of(text, "hosts").judge("a.example", A)
    assert judged.action is Action.REWRITE
    assert set(judged.rewrites) == {Rewrite(rtype=A, data="192.0.2.1"), Rewrite(rtype=AAAA, data="2001:db8::1")}
    assert judged.rule.endswith(" a.example")
    assert lists_of(text, "hosts").judge("b.example", A).action is Action.BLOCK
    wary = lists_of(text, "hosts", rewrites=False)
    assert wary.judge("a.example", A) is PASS
    assert wary.reports[0].faulty == 3 and "not trusted to rewrite" in wary.reports[0].faults[0]


def test_an_allow_list_spares_its_names_whatever_block_lists_say():
    block = ListSource(name="block", format="adblock")
    allow = ListSource(name="allow", format="domains", allow=True)
    lists = ListSet(compile_lists([(block, b"||example^$important\n"), (allow, b"a.example\n")]))
    assert lists.judge("a.example", A) == Judgement(Action.ALLOW, "allow", "@@a.example")
    assert lists.judge("www.a.example", A).action is Action.BLOCK


def test_only_the_chosen_lists_count_and_each_tells_its_own_rule():
    sources = [(ListSource(name=name, format="domains"), f"{name}.example\nall.example\n".encode()) for name in "abc"]
    lists = ListSet(compile_lists(sources))
    assert lists.judge("all.example", A, lists.bits(["b"])) == Judgement(Action.BLOCK, "b", "all.example", ede=15)
    assert lists.judge("a.example", A, lists.bits(["b", "c", "none"])) is PASS
    assert [match.list for match in lists.matches("all.example", A, lists.bits("ca"))] == ["a", "c"]
    assert lists.bits(["none"]) == 0 and len(lists) == 6


# --- AdBlock syntax as AdGuard Home reads it -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "hit", "missed"),
    [
        ("||a.example^", "a.example b.a.example c.b.a.example", "xa.example a.example.com example"),
        ("||a.example", "a.example b.a.example", "xa.example"),
        ("||A.Example^|", "a.example x.a.example", "xa.example"),
        ("a.example", "a.example", "b.a.example"),
        ("|a.example^", "a.example", "b.a.example"),
        ("|ads.", "ads.example ads.b.c", "b.ads.example"),
        ("://ads.", "ads.example", "b.ads.example"),
        ("ple.example^", "ample.example a.ple.example", "ple.example.com"),
        ("ple.example|", "ample.example", "ple.example.com"),
        ("||ad*.a.example^", "ad1.a.example x.ad.a.example", "bad.a.example ad1.b.example ad.a.example.com"),
        ("||*.a.example^", "x.a.example", "a.example"),
        ("*.a.example", "x.a.example x.a.example.com", "a.example"),
        ("-ad-", "x-ad-y.example", "xad.example"),
        ("||ads.", "ads.example x.ads.example", "bads.example"),
        ("/^ad[0-9]+\\./", "ad1.example", "x.ad1.example ad.example"),
        ("/AD[0-9]/$important", "xad1.example", "ad.example"),
        ("*$denyallow=com|a.net", "x.example", "com a.com a.net x.a.net"),
        ("||a.example^$denyallow=sub.a.example", "a.example x.a.example", "sub.a.example y.sub.a.example"),
        ("||ru^", "a.ru ru", "ru.example"),
        ("||1.2.3.4^", "1.2.3.4", "1.2.3.5"),
        ("0.0.0.0 a.example b.example", "a.example b.example", "x.a.example"),
        ("a.example # why", "a.example", "x.a.example"),
        ("||a.example^$third-party", "", "a.example"),
        ("||a.example^$script,important", "", "a.example"),
        ("a.example##.ad\na.example#@#.ad\na.example#$#x\n#a.example\n! a.example\n[x]", "", "a.example"),
        ("a.example/path\nhttps://a.example/x", "", "a.example"),
        ("||a.example^x", "", "a.example a.examplex"),
    ],
)
def test_patterns(rules: str, hit: str, missed: str):
    lists = lists_of(rules)
    assert blocked(lists, *hit.split(), *missed.split()) == hit.split()


@pytest.mark.parametrize(
    ("rules", "action"),
    [
        ("||a.example^\n@@||a.example^", Action.ALLOW),
        ("||a.example^$important\n@@||a.example^", Action.BLOCK),
        ("||a.example^$important\n@@||a.example^$important", Action.ALLOW),
        ("@@||example^\na.example", Action.ALLOW),
        ("||a.example^\n||a.example^$badfilter", Action.PASS),
        ("||a.example^$badfilter\n||a.example^", Action.PASS),
        ("||a.example^$important,dnstype=A\n||a.example^$dnstype=A,badfilter,important", Action.PASS),
        ("||a.example^\n@@||a.example^\n@@||a.example^$badfilter", Action.BLOCK),
        ("||a.example^\n||b.example^$badfilter", Action.BLOCK),
        ("||a.example^\n192.0.2.1 a.example", Action.BLOCK),
        ("@@||a.example^\n192.0.2.1 a.example", Action.ALLOW),
        ("@@||a.example^\n||a.example^$dnsrewrite=192.0.2.1", Action.REWRITE),
        ("||a.example^$dnsrewrite=192.0.2.1\n@@||a.example^$dnsrewrite", Action.PASS),
        ("@@||a.example^$dnsrewrite", Action.PASS),
    ],
)
def test_which_rule_wins(rules: str, action: Action):
    assert lists_of(rules).judge("a.example", A).action is action


def test_badfilter_reaches_across_lists():
    sources = [
        (ListSource(name="a"), b"||a.example^\n||b.example^\n"),
        (ListSource(name="b"), b"||a.example^$badfilter\n"),
    ]
    assert blocked(ListSet(compile_lists(sources)), "a.example", "b.example") == ["b.example"]


@pytest.mark.parametrize(
    ("modifier", "hit"),
    [
        ("dnstype=AAAA", {AAAA}),
        ("dnstype=aaaa|HTTPS", {AAAA, HTTPS}),
        ("dnstype=~A|~CNAME", {TXT, AAAA, HTTPS}),
        ("dnstype=~A|TXT", {TXT}),
        ("dnstype=TYPE65", {HTTPS}),
    ],
)
def test_rules_for_some_types(modifier: str, hit: set[int]):
    lists = lists_of(f"||a.example^${modifier}")
    types = (A, CNAME, TXT, AAAA, HTTPS)
    assert {rtype for rtype in types if lists.judge("a.example", rtype).action is Action.BLOCK} == hit


@pytest.mark.parametrize(
    ("value", "rewrite"),
    [
        ("192.0.2.1", Rewrite(rtype=A, data="192.0.2.1")),
        ("2001:db8::1", Rewrite(rtype=AAAA, data="2001:db8::1")),
        ("b.example", Rewrite(cname="b.example")),
        ("REFUSED", Rewrite(rcode=5)),
        ("NXDOMAIN;;", Rewrite(rcode=3)),
        ("NOERROR;;", Rewrite()),
        ("NOERROR", Rewrite()),
        ("NOERROR;A;192.0.2.1", Rewrite(rtype=A, data="192.0.2.1")),
        ("NOERROR;CNAME;b.example.", Rewrite(cname="b.example")),
        ("NOERROR;MX;32 mail.example", Rewrite(rtype=15, data="32 mail.example")),
        ("NOERROR;TXT;hello world", Rewrite(rtype=TXT, data="hello world")),
        ("NOERROR;HTTPS;32 example.com alpn=h3", Rewrite(rtype=HTTPS, data="32 example.com alpn=h3")),
        ("NOERROR;SRV;10 60 8080 example.com", Rewrite(rtype=33, data="10 60 8080 example.com")),
    ],
)
def test_what_can_be_rewritten_to(value: str, rewrite: Rewrite):
    judged = lists_of(f"||a.example^$dnsrewrite={value}").judge("x.a.example", A)
    assert (judged.action, judged.rewrites) == (Action.REWRITE, (rewrite,))


def test_rewrites_add_up_and_some_go_before_others():
    base = "||a.example^$dnsrewrite=192.0.2.1\n||a.example^$dnsrewrite=192.0.2.2\n"
    assert len(lists_of(base).judge("a.example", A).rewrites) == 2
    without = lists_of(base + "@@||a.example^$dnsrewrite=192.0.2.1").judge("a.example", A)
    assert without.rewrites == (Rewrite(rtype=A, data="192.0.2.2"),)
    coded = base + "||a.example^$dnsrewrite=NXDOMAIN;;\n"
    assert lists_of(coded).judge("a.example", A).rewrites == (Rewrite(rcode=3),)
    assert lists_of(coded + "||a.example^$dnsrewrite=b.example").judge("a.example", A).rewrites[0].cname == "b.example"


@pytest.mark.parametrize(
    ("value", "clients"),
    [
        ("192.0.2.1", ("192.0.2.1",)),
        ("~Mom|~Dad|Kids", ("~Mom", "~Dad", "Kids")),
        (r"'Frank\'s laptop'", ("Frank's laptop",)),
        (r"~'Mary\'s\, John\'s'|\"x\"", ("~Mary's, John's", '"x"')),
    ],
)
def test_rules_for_some_clients(value: str, clients: tuple[str, ...]):
    lists = lists_of(f"||a.example^$client={value},important")
    who = Who(clients=clients)
    assert lists.whos == {who}
    assert lists.judge("a.example", A) is PASS
    assert lists.judge("a.example", A, -1, [who]).action is Action.BLOCK


@pytest.mark.parametrize(
    "line",
    [
        "||a.example^$dnsrewrite=A:NOERROR:1.2.3.4",
        "||a.example^$dnsrewrite=WRONG;A;1.2.3.4",
        "||a.example^$dnsrewrite=NOERROR;SOA;x",
        "||a.example^$dnsrewrite=NOERROR;A;x",
        "||a.example^$dnstype=NOSUCH",
        "||a.example^$client=",
        "||a.example^$denyallow=a b",
        "/(?=a)/",
        "/(/",
        "*a*",
        "^",
        "*" + "a" * 2000,
        "a" * (MAX_LINE + 1),
    ],
)
def test_a_line_that_cannot_be_used_costs_itself_alone(line: str):
    lists = lists_of(f"||b.example^\n{line}\n||c.example^\n")
    report = lists.reports[0]
    assert (report.entries, report.faulty) == (2, 1)
    assert report.faults[0].startswith("line 2:")
    assert blocked(lists, "b.example", "c.example") == ["b.example", "c.example"]


def test_bounds_are_faults_of_the_list_that_passes_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(listcompile, "MAX_PATTERNS", 2)
    monkeypatch.setattr(listcompile, "MAX_RULES", 3)
    lists = lists_of("-aa-\n-bb-\n-cc-\n-dd-\n||a.example^\n")
    assert blocked(lists, "x-aa-", "x-bb-", "x-cc-", "x-dd-") == ["x-aa-", "x-bb-"]
    assert lists.reports[0].faulty == 3
    monkeypatch.setattr(listcompile, "MAX_NAMES", 2)
    lists = lists_of("a.example\nb.example\nc.example\n", "domains")
    assert "more than 2 names" in lists.reports[0].faults[0]


def test_what_is_no_list_at_all_is_told_and_harms_no_other():
    sources = [
        (ListSource(name="page", format="auto"), b"<!DOCTYPE html>\n<html><body>Not found</body></html>\n"),
        (ListSource(name="portal", format="adblock"), b"\xef\xbb\xbf\n<html>\nelse\nlogin.example.com\n</html>\n"),
        (ListSource(name="wide", format="domains"), b"a.example\n\0b.example\nc.example\n"),
        (ListSource(name="broken", format="mrs"), b"\x28\xb5\x2f\xfd\x00"),
        (ListSource(name="packed", format="auto"), gzip.compress(b"a.example")),
        (ListSource(name="good", format="auto"), b"a.example\n"),
    ]
    lists = ListSet(compile_lists(sources))
    assert [report.entries for report in lists.reports] == [0, 0, 0, 0, 0, 1]
    assert all(report.faults for report in lists.reports[:5])
    big = ListSet(compile_lists([(ListSource(name="big"), b"a.example\n" * 10)], max_bytes=50))
    assert "over the limit" in big.reports[0].faults[0]


def test_own_patterns_may_be_written_in_either_way():
    own = ["+.a.example", "*.b.example", "||c.example^$dnstype=A", "d.example", "/^e/"]
    entries = [entry for pattern in own for entry in read_own(pattern)]
    lists = ListSet(compile_entries([(ListSource(name="own"), entries)]))
    names = ["x.a.example", "x.b.example", "b.example", "x.c.example", "d.example", "x.d.example", "e.x"]
    assert blocked(lists, *names) == ["x.a.example", "x.b.example", "x.c.example", "d.example", "e.x"]
    for wrong in ("! comment", "a b", "a.example##x", ""):
        with pytest.raises(ConfigFault):
            read_own(wrong)


# --- against the plainest model --------------------------------------------------------------------------------------

LABELS = st.sampled_from(["a", "b", "ab", "x-1", "com"])
HOSTS = st.lists(LABELS, min_size=2, max_size=5).map(".".join)


def linear(rules: Sequence[tuple[str, str]], name: str) -> set[str]:
    """Texts of the rules that hold, found one by one."""
    return {text for shape, text in rules if name == text or (shape == "below" and name.endswith("." + text))}


@settings(max_examples=200, deadline=None)
@given(
    rules=st.lists(st.tuples(st.sampled_from(["here", "below"]), HOSTS), max_size=25),
    asked=st.lists(HOSTS, max_size=10),
)
def test_a_trie_finds_what_looking_one_by_one_finds(rules: list[tuple[str, str]], asked: list[str]):
    lines = [f"||{text}^" if shape == "below" else text for shape, text in rules]
    lists = lists_of("\n".join(lines))
    for name in asked:
        found = {match.text.strip("|^") for match in lists.matches(name, A, -1)}
        assert found == linear(rules, name)


@pytest.fixture(scope="module")
def dnsmasq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, int], message.Answer]]:
    """Asks a real dnsmasq that has RULES and, for the rest, an upstream nobody listens at."""
    program = shutil.which("dnsmasq") or "/usr/sbin/dnsmasq"
    if not Path(program).exists():
        pytest.skip("needs dnsmasq")
    config = tmp_path_factory.mktemp("dnsmasq") / "rules"
    config.write_text(DNSMASQ_RULES)
    port = free_port()
    options = [f"--port={port}", "--listen-address=127.0.0.1", "--bind-interfaces", "--no-resolv", "--no-hosts"]
    quiet = ["--keep-in-foreground", "--user=", "--group=", "--pid-file=", f"--conf-file={config}"]
    with subprocess.Popen([program, *options, *quiet], stderr=subprocess.DEVNULL) as process:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
            wire.connect(("127.0.0.1", port))
            wire.settimeout(0.2)

            def ask(name: str, rtype: int) -> message.Answer:
                asked = message.Question(name, rtype)
                for _ in range(50):
                    try:
                        wire.send(message.build_query(asked, 7))
                        return message.read_reply(wire.recv(4096), asked, 7)
                    except (OSError, BadWire):
                        time.sleep(0.02)
                raise AssertionError("dnsmasq does not answer")

            yield ask
        process.terminate()


DNSMASQ_RULES = """
address=/a.b/
address=/good.a.b/192.0.2.1
server=/free.a.b/#
local=/c.b/
address=/deep.good.a.b/
address=/x.d/b.d/192.0.2.2
address=/x.d/2001:db8::1
address=/n.d/#
address=/*.w.d/
server=/e.d/#
address=/bad.e.d/
"""


@pytest.mark.parametrize(
    "name",
    [
        *("a.b", "x.a.b", "xa.b", "good.a.b", "y.good.a.b", "deep.good.a.b", "y.deep.good.a.b", "free.a.b"),
        *("y.free.a.b", "c.b", "x.c.b", "x.d", "y.x.d", "b.d", "n.d", "y.n.d", "w.d", "x.w.d", "e.d", "y.e.d"),
        *("bad.e.d", "y.bad.e.d"),
    ],
)
def test_lists_of_dnsmasq_mean_what_they_mean_to_dnsmasq(name: str, dnsmasq: Callable[[str, int], message.Answer]):
    lists = lists_of(DNSMASQ_RULES, "dnsmasq")
    for rtype in (A, AAAA):
        judged, theirs = lists.judge(name, rtype), dnsmasq(name, rtype)
        if judged.action is Action.REWRITE:
            wanted = {made.data for made in judged.rewrites if made.rtype == rtype}
            # An address of one family is an answer for all types here; dnsmasq asks on for the others.
            assert not wanted or (theirs.rcode, {record.data for record in theirs.answer}) == (0, wanted)
        elif judged.action is Action.BLOCK:
            assert theirs.rcode == 3 or {record.data for record in theirs.answer} <= {"0.0.0.0", "::"} != set()
        else:
            assert theirs.rcode == 5  # it would have asked upstream, and has none


# --- hostile bytes ---------------------------------------------------------------------------------------------------

_PIECES = st.sampled_from(
    [
        *(
            b"||",
            b"@@",
            b"^",
            b"$",
            b"|",
            b"*",
            b"/",
            b"a.example",
            b"\n",
            b" ",
            b"\t",
            b"0.0.0.0 ",
            b"address=/",
            b"#",
        ),
        *(
            b"payload:\n",
            b"- ",
            b"+.",
            b"dnsrewrite=",
            b"client=",
            b"'",
            b"\\",
            b",",
            b"dnstype=",
            b"~",
            b"=",
            b";",
            b"A",
        ),
        *(
            b"badfilter",
            b"denyallow=",
            b"\xff",
            b"\x00",
            b"[",
            b"!",
            b"::1 ",
            b"%",
            b"\xef\xbb\xbf",
            b"\x28\xb5\x2f\xfd",
        ),
    ]
)
HOSTILE = st.one_of(st.binary(max_size=200), st.lists(_PIECES, max_size=40).map(b"".join))


@settings(max_examples=200, deadline=None)
@given(data=HOSTILE, format=st.sampled_from(FORMATS))
def test_any_bytes_are_a_list_or_a_counted_fault(data: bytes, format: Format):
    source = ListSource(name="l", format=format, rewrites=True)
    lists = ListSet(compile_lists([(source, data)], max_bytes=PLENTY))
    for name in ("a.example", "x.a.example", "", "1.2.3.4"):
        lists.judge(name, A)


@settings(max_examples=100, deadline=None)
@given(data=HOSTILE, format=st.sampled_from(FORMATS))
def test_reading_raises_nothing_but_its_one_error(data: bytes, format: Format):
    def taken() -> Iterable[bytes | None]:
        try:
            return [entry.name for entry in read_list(data, format, Tally(), PLENTY)]
        except BadWire:
            return []

    for name in taken():
        assert name is None or (name.isascii() and name == name.lower() and len(name) <= 253)


def test_a_damaged_piece_is_refused_wherever_it_is_hit():
    piece = compile_lists([(ListSource(name="l"), b"||a.example^\nb.example\n")])
    assert len(ListSet(memoryview(piece))) == 2
    for at in range(0, len(piece), 7):
        with pytest.raises(BadWire):
            ListSet(piece[:at] + bytes((piece[at] ^ 0x41,)) + piece[at + 1 :])
    for cut in (0, 10, len(piece) - 1):
        with pytest.raises(BadWire):
            ListSet(piece[:cut])
    with pytest.raises(BadWire):
        ListSet(piece + b"x")


def test_numbers_grow_with_the_count_of_meanings():
    texts = [(ListSource(name=str(at), rewrites=True), f"192.0.2.1 n{at}.example\n".encode() * 2) for at in range(300)]
    piece = compile_lists(texts)
    assert listpiece.unpack(piece).numbers.itemsize == 2
    lists = ListSet(piece)
    assert lists.judge("n299.example", A).list == "299"
    assert lists.judge("n0.example", A, lists.bits(["1"])) is PASS
