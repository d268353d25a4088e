"""Who may do what: every rule that a zone begins with, with three who may and three who may not."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zone.config.access import Act, Subject, Verdict, check_reading, check_transaction, judge, read_rule
from zone.config.baserules import BASE
from zone.config.faults import NEXT, Code, ConfigError
from zone.config.keys import At, Below, Each, Scope
from zone.config.model import AtRevision, Create, Delete, Set, Transaction

ALICE = {"user": "alice", "app": "photos", "device": "box", "service": "samba"}


def who(*roles: str, **names: str) -> Subject:
    return Subject(frozenset(roles), names or ALICE)


def scope_of(text: str) -> Scope:
    prefix, every, name = text.partition("/*/")
    if every:
        return Each(prefix, name)
    return Below(text.removesuffix("**").removesuffix("/")) if text.endswith("**") else At(text)


def said(rules, subject: Subject, wish: str) -> Verdict:
    act, _, where = wish.partition(" ")
    return judge(rules, subject, Act(act), scope_of(where))


# A rule; what it allows, or what is allowed beside it; what it does not allow, or what it denies.
TABLE = {
    "allow owner read+write **": (
        ["read **", "write security/verify-hub/key", "write boot/config"],
        [],  # everything
    ),
    "allow kernel read+write **": (
        ["read **", "write nodes/box/config", "read security/**"],
        [],
    ),
    "allow system read+write **": (
        ["read services/**", "write services/samba/settings", "write services/samba/info"],
        ["read **", "write security/verify-hub/key", "read users/**"],
    ),
    "deny system read+write security/**": (
        ["read system/**", "read securityx", "write services/security/settings"],
        ["read security/verify-hub/key", "write security/a", "read security/**"],
    ),
    "deny system read+write users/*/key": (
        ["read users/alice/profile", "read users/alice/apps/**", "write users/key/profile"],
        ["read users/alice/key", "write users/bob/key", "read users/alice/**"],
    ),
    "deny system read+write users/*/settings": (
        ["read users/alice/profile", "write users/alice/apps/photos/settings", "read users/settings"],
        ["read users/alice/settings", "write users/bob/settings", "read users/**"],
    ),
    "deny system write system/rbac/**": (
        ["read system/rbac/policy", "write system/rbac", "write system/scheduler/snapshot"],
        ["write system/rbac/policy", "write system/rbac/base", "write system/rbac/a/b"],
    ),
    "deny system write boot/**": (
        ["read boot/config", "write boot", "read boot/**"],
        ["write boot/config", "write boot/keys/current", "write boot/a"],
    ),
    "deny system write system/backup/**": (
        ["read system/backup/targets/usb", "write system/backup", "read system/backup/**"],
        ["write system/backup/targets/usb", "write system/backup/state/usb", "write system/backup/a"],
    ),
    "deny system write services/*/spec": (
        ["read services/samba/spec", "write services/samba/settings", "write services/spec"],
        ["write services/samba/spec", "write services/gateway/spec", "write services/a/spec"],
    ),
    "deny system write services/*/placement": (
        ["read services/samba/placement", "write services/samba/info", "write services/placement"],
        ["write services/samba/placement", "write services/gateway/placement", "write services/a/placement"],
    ),
    "deny system write nodes/**": (
        ["read nodes/box/config/samba", "write nodes", "read nodes/**"],
        ["write nodes/box/config/samba", "write nodes/box/intent", "write nodes/box/ops/upgrade"],
    ),
    "deny system write devices/**": (
        ["read devices/box/doc", "write devices", "read devices/**"],
        ["write devices/box/doc", "write devices/other/doc", "write devices/box/info"],
    ),
    "deny system write users/*/apps/*/spec": (
        ["read users/alice/apps/photos/spec", "write users/alice/apps/photos/settings", "write users/alice/apps/spec"],
        ["write users/alice/apps/photos/spec", "write users/bob/apps/a/spec", "write users/a/apps/b/spec"],
    ),
    "deny system write users/*/agents/*/spec": (
        ["read users/alice/agents/a/spec", "write users/alice/agents/a/settings", "write users/alice/agents/spec"],
        ["write users/alice/agents/a/spec", "write users/bob/agents/a/spec", "write users/a/agents/b/spec"],
    ),
    "allow frame read boot/**": (
        ["read boot/config", "read boot/**", "read boot/keys/current"],
        ["write boot/config", "read boot", "read bootx/config"],
    ),
    "allow frame read system/**": (
        ["read system/rbac/policy", "read system/**", "read system/scheduler/snapshot"],
        ["write system/rbac/policy", "read system", "read systems/a"],
    ),
    "allow frame read users/**": (
        ["read users/alice/profile", "read users/bob/apps/a/settings", "read users/bob/apps/**"],
        ["write users/alice/profile", "read users", "read user/alice"],
    ),
    "deny frame read users/*/key": (
        ["read users/alice/doc", "read users/alice/apps/key", "read users/key", "read users/*/doc"],
        ["read users/alice/key", "read users/**", "read users/bob/**", "read users/*/key"],
    ),
    "deny frame read users/*/settings": (
        ["read users/alice/doc", "read users/alice/apps/photos/settings", "read users/settings"],
        ["read users/alice/settings", "read users/**", "read users/bob/**"],
    ),
    "allow frame read services/{service}/**": (
        ["read services/samba/settings", "read services/samba/instances/box", "read services/samba/**"],
        [
            "read services/other/settings",
            "write services/samba",
            "read services/**",
            *(f"write services/samba/{what}" for what in ("spec", "info", "placement", "instances/box", "more")),
        ],
    ),
    "allow frame read+write services/{service}/settings": (
        ["read services/samba/settings", "write services/samba/settings"] * 2,
        ["read services/other/settings", "write services/samba/settings/a", "write services/other/settings"],
    ),
    "allow frame read+write data/{service}/**": (
        ["read data/samba/**", "write data/samba/a", "write data/samba/a/b"],
        ["write data/samba", "write data/other/a", "read data/other/**"],
    ),
    "allow frame read services/*/info": (
        ["read services/other/info", "read services/samba/info", "read services/*/info"],
        ["write services/other/info", "read services/other/info/more", "read services/info", "read services/*/spec"],
    ),
    "allow app read boot/**": (
        ["read boot/config", "read boot/**", "read boot/a/b"],
        ["write boot/config", "read boo/config", "read **"],
    ),
    "allow app read services/*/info": (
        ["read services/samba/info", "read services/gateway/info", "read services/*/info"],
        ["read services/samba/settings", "write services/samba/info", "read services/**", "read services/*/settings"],
    ),
    "allow app read users/{user}/apps/{app}/spec": (
        ["read users/alice/apps/photos/spec"] * 3,
        ["write users/alice/apps/photos/spec", "read users/bob/apps/photos/spec", "read users/alice/apps/mail/spec"],
    ),
    "allow app read+write users/{user}/apps/{app}/settings": (
        ["read users/alice/apps/photos/settings", "write users/alice/apps/photos/settings"] * 2,
        ["write users/alice/settings", "write users/bob/apps/photos/settings", "write users/alice/apps/mail/settings"],
    ),
    "allow app read+write users/{user}/apps/{app}/info": (
        ["read users/alice/apps/photos/info", "write users/alice/apps/photos/info"] * 2,
        ["write users/alice/info", "write users/bob/apps/photos/info", "read users/alice/apps/photos/**"],
    ),
    "allow admin read system/**": (
        ["read system/rbac/policy", "read system/**", "read system/a/b/c"],
        ["write system/rbac/policy", "read system", "read security/a"],
    ),
    "allow admin read services/**": (
        ["read services/samba/settings", "read services/**", "read services/samba/instances/box"],
        ["write services/samba/settings", "read nodes/box/config", "read servicesx/a"],
    ),
    "allow admin read data/**": (
        ["read data/samba/a", "read data/**", "read data/samba/**"],
        ["write data/samba/a", "read data", "read datax/a"],
    ),
    "allow su_admin read+write services/*/spec": (
        ["read services/samba/spec", "write services/samba/spec", "write services/a/spec"],
        ["write services/samba/settings", "write services/spec", "write services/samba/placement"],
    ),
    "allow su_admin read+write nodes/*/intent": (
        ["read nodes/box/intent", "write nodes/box/intent", "write nodes/a/intent"],
        ["write nodes/box/config/samba", "write nodes/intent", "write devices/box/doc"],
    ),
    "allow user read boot/**": (
        ["read boot/config", "read boot/**", "read boot/a"],
        ["write boot/config", "write boot/a", "read boot"],
    ),
    "allow user read services/*/info": (
        ["read services/samba/info", "read services/a/info", "read services/*/info"],
        [
            "read services/samba/settings",
            "write services/samba/info",
            "write services/samba/instances/box",
            "read services/*/settings",
        ],
    ),
    "allow user read users/{user}/settings": (
        ["read users/alice/settings"] * 3,
        ["write users/alice/settings", "read users/bob/settings", "read users/alice/key"],
    ),
    "allow user read+write users/{user}/profile": (
        ["read users/alice/profile", "write users/alice/profile"] * 2,
        ["read users/bob/profile", "write users/bob/profile", "read users/alice/**"],
    ),
    "allow user read+write users/{user}/apps/**": (
        ["read users/alice/apps/**", "write users/alice/apps/photos/spec", "read users/alice/apps/photos/info"],
        ["write users/alice/apps", "read users/bob/apps/photos/spec", "read users/**"],
    ),
    "allow user read+write users/{user}/agents/**": (
        ["read users/alice/agents/**", "write users/alice/agents/a/spec", "read users/alice/agents/a/**"],
        ["write users/bob/agents/a/spec", "read users/alice/agents", "write agents/a/key"],
    ),
    "allow limited read boot/**": (
        ["read boot/config", "read boot/**", "read boot/a"],
        ["write boot/config", "read boot", "read **"],
    ),
    "allow limited read services/*/info": (
        ["read services/samba/info", "read services/a/info", "read services/*/info"],
        ["write services/samba/info", "read services/samba/settings", "read services/**", "read services/*/spec"],
    ),
    "allow limited read users/{user}/settings": (
        ["read users/alice/settings"] * 3,
        ["write users/alice/settings", "read users/bob/settings", "read users/alice/key"],
    ),
    "allow limited read+write users/{user}/profile": (
        ["read users/alice/profile", "write users/alice/profile"] * 2,
        ["write users/bob/profile", "read users/bob/profile", "read users/alice/**"],
    ),
    "allow limited read users/{user}/apps/**": (
        ["read users/alice/apps/photos/spec", "read users/alice/apps/**", "read users/alice/apps/a/b"],
        ["write users/alice/apps/photos/spec", "read users/bob/apps/photos/spec", "write users/alice/agents/a/spec"],
    ),
    "allow limited read+write users/{user}/apps/*/settings": (
        ["write users/alice/apps/photos/settings", "read users/alice/apps/mail/settings"] * 2,
        ["write users/bob/apps/photos/settings", "write users/alice/apps/settings", "write users/alice/settings"],
    ),
    "allow limited read+write users/{user}/apps/*/info": (
        ["write users/alice/apps/photos/info", "read users/alice/apps/mail/info"] * 2,
        ["write users/bob/apps/photos/info", "write users/alice/apps/info", "write users/alice/info"],
    ),
    "allow guest read boot/**": (
        ["read boot/config", "read boot/**", "read boot/a"],
        ["write boot/config", "read boot", "read **"],
    ),
    "allow guest read services/*/info": (
        ["read services/samba/info", "read services/a/info", "read services/*/info"],
        ["write services/samba/info", "read services/samba/settings", "read services/**", "read services/*/spec"],
    ),
    "allow guest read users/{user}/settings": (
        ["read users/alice/settings"] * 3,
        ["write users/alice/settings", "read users/bob/settings", "read users/alice/profile"],
    ),
    "allow device read boot/**": (
        ["read boot/config", "read boot/**", "read boot/a/b"],
        ["write boot/config", "read boot", "read **"],
    ),
    "allow device read nodes/{device}/**": (
        ["read nodes/box/config", "read nodes/box/**", "read nodes/box/gateway_info"],
        ["write nodes/box/config", "read nodes/other/config", "read nodes/**"],
    ),
    "allow device read services/*/info": (
        ["read services/samba/info", "read services/a/info", "read services/*/info"],
        ["write services/samba/info", "read services/samba/settings", "read services/**", "read services/*/spec"],
    ),
    "allow device read+write devices/{device}/**": (
        ["write devices/box/info", "read devices/box/**", "write devices/box/doc"],
        ["write devices/other/info", "write devices/box", "read devices/**", "read devices/*/info"],
    ),
    "allow device read+write nodes/{device}/status/**": (
        ["write nodes/box/status/load", "read nodes/box/status/**", "write nodes/box/status/a/b"],
        ["write nodes/other/status/load", "write nodes/box/status", "write nodes/box/gateway_config"],
    ),
    "allow device read+write services/*/instances/{device}": (
        ["write services/samba/instances/box", "read services/samba/instances/box", "write services/a/instances/box"],
        [
            "write services/samba/instances/other",
            "write services/a/instances/box/x",
            "read services/samba/instances/**",
        ],
    ),
}


def test_the_table_has_every_rule():
    assert sorted(TABLE) == sorted(map(str, BASE))


@pytest.mark.parametrize("line", TABLE)
def test_a_rule_of_the_beginning(line):
    rule, (allowed, denied) = read_rule(line), TABLE[line]
    everybody = {"owner", "kernel"}
    assert len(allowed) >= 3 and (len(denied) >= 3 or rule.role in everybody)
    me = who(rule.role)
    for wish in allowed:
        assert said(BASE, me, wish).allowed, wish
        assert not rule.allow or said([rule], me, wish) == Verdict(True, rule), wish
        assert rule.allow or said([rule], me, wish).rule is None, wish
        assert rule.role in everybody or not said(BASE, who("stranger"), wish).allowed, wish
    for wish in denied:
        assert not said(BASE, me, wish).allowed, wish
        if not rule.allow:
            assert said([rule], me, wish).rule == rule, wish


@pytest.mark.parametrize("wish", ["read boot/config", "write a", "read **", "write users/alice/apps/photos/settings"])
def test_without_a_role_nothing_is_allowed(wish):
    for subject in (who(), who("stranger"), who("Owner"), who("")):
        assert said(BASE, subject, wish) == Verdict(False, None)


def test_a_subject_without_the_name_is_not_meant():
    for names in ({"user": "alice"}, {"app": "photos"}, {"device": "alice"}):
        assert not said(BASE, who("app", **names), "read users/alice/apps/photos/spec").allowed
    assert not said(BASE, who("device", user="box"), "write devices/box/info").allowed


@pytest.mark.parametrize("name", ["*", "**", "{user}", "", "a/../b"])
def test_nobody_is_called_like_a_pattern(name):
    with pytest.raises(ConfigError):
        who("user", user=name)


def test_a_name_of_two_segments_is_nobody():
    assert not said([read_rule("allow user read users/{user}/x")], who("user", user="a/b"), "read users/a/b/x").allowed


def test_deny_wins_in_any_order():
    rules = [read_rule("allow a read x/**"), read_rule("deny b read x/y"), read_rule("allow a read x/y")]
    for order in (rules, rules[::-1]):
        assert said(order, who("a"), "read x/y").allowed
        assert said(order, who("a", "b"), "read x/y") == Verdict(False, rules[1])
        assert said(order, who("a", "b"), "read x/z").allowed
        assert said(order, who("a", "b"), "read x/**") == Verdict(False, rules[1])


@pytest.mark.parametrize(
    "bad",
    [
        *["", "allow", "allow a read", "allow  a read x", "permit a read x", "allow a eat x", "allow a read+ x"],
        *[
            "allow a  x",
            "allow a read **/x",
            "allow a read x*",
            "allow a read /x",
            "allow a read x/",
            "allow a read {}",
        ],
        *["allow a read {*}", "allow a read x y", "allow  read x", "allow a read {a", "allow a read x/***"],
        *["allow a read {a}b", "allow a read "],
    ],
)
def test_no_rule(bad):
    with pytest.raises(ConfigError, match=NEXT[Code.INVALID]):
        read_rule(bad)


@given(st.text("allowdeny read+write*{}/ab ", max_size=40))
def test_a_rule_or_its_one_error(untrusted):
    try:
        rule = read_rule(untrusted)
    except ConfigError as fault:
        assert fault.code is Code.INVALID
    else:
        assert read_rule(str(rule)) == rule


SEGMENT = st.sampled_from("ab")
PATTERN = st.tuples(st.lists(SEGMENT | st.just("*") | st.just("{user}"), max_size=3), st.booleans()).map(
    lambda made: "/".join([*made[0], "**"] if made[1] or not made[0] else made[0])
)
KEYS = ["/".join(made) for count in (1, 2, 3, 4) for made in product("ab", repeat=count)]


EVERY = st.lists(SEGMENT, max_size=2).map("/".join)
SCOPES = st.builds(Below, EVERY) | st.builds(Each, EVERY.filter(bool), SEGMENT)


@given(st.lists(st.tuples(st.sampled_from(["allow", "deny"]), PATTERN), max_size=3), SCOPES)
def test_many_keys_are_judged_as_each_of_them_is(made, scope):
    """One rule that allows every key of it, and none that denies one; patterns have three segments, keys up to four."""
    rules = [read_rule(f"{effect} x read {pattern}") for effect, pattern in made]
    me = Subject(frozenset({"x"}), {"user": "b"})
    below = [At(key) for key in KEYS if key in scope]

    def every(rule):
        return all(judge([rule], me, Act.READ, key).allowed for key in below)

    denied = any(judge([rule], me, Act.READ, key).rule for rule in rules if not rule.allow for key in below)
    expected = not denied and any(rule.allow and every(rule) for rule in rules)
    verdict = judge(rules, me, Act.READ, scope)
    assert verdict.allowed == expected
    if expected:
        assert all(judge(rules, me, Act.READ, key).allowed for key in below)


# -- requests


def test_an_app_for_a_user_needs_both_rights():
    app, user = who("app"), who("user")
    mine = Transaction((Set("users/alice/apps/photos/settings", "1"),))
    check_transaction(BASE, [app, user], mine)
    other = Transaction((Set("users/alice/apps/mail/settings", "1"),))
    check_transaction(BASE, [user], other)
    for subjects in ([app, user], [user, app], [app], []):
        with pytest.raises(ConfigError, match=NEXT[Code.DENIED]):
            check_transaction(BASE, subjects, other)


def test_every_key_of_a_transaction_is_asked_for():
    device = [who("device")]
    report = Set("devices/box/info", "1")
    check_transaction(BASE, device, Transaction((report,), (AtRevision("boot/config", 3),)))
    for transaction in (
        Transaction((report, Delete("nodes/box/config"))),
        Transaction((report, Create("devices/other/info", "1"))),
        Transaction((report,), (AtRevision("devices/other/info", 3),)),
    ):
        with pytest.raises(ConfigError, match="device may not"):
            check_transaction(BASE, device, transaction)


def test_reading_says_which_rule():
    check_reading(BASE, [who("frame")], Below("users/alice/apps"))
    with pytest.raises(ConfigError, match=r"frame may not read users/\*\*: the rule is deny frame read users/\*/key"):
        check_reading(BASE, [who("frame")], Below("users"))
    with pytest.raises(ConfigError, match=r"guest may not read \*\*: no rule allows it"):
        check_reading(BASE, [who("guest")], Below())
    with pytest.raises(ConfigError, match="nobody may read"):
        check_reading(BASE, [], At("boot/config"))
