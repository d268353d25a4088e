"""verify_hub as it runs: two hubs on one store, a file or real etcd, and whoever tries to get in."""

from __future__ import annotations

import pytest
import trio
from configstores import Etcd, Kind, Sqlite
from hubs import KEYS, LOCK, OWNER, PASSWORD, START, ZONE, boot, signed, until, zone
from zones import sign

from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.identity.strictjson import write_json
from zone.config.access import check_transaction
from zone.config.baserules import BASE, LOCKED, read_policy
from zone.config.faults import ConfigError
from zone.config.keys import Below
from zone.config.model import Set, Transaction
from zone.hub.keyset import PERIOD
from zone.hub.ledger import MOST_SESSIONS
from zone.hub.throttle import Throttle
from zone.hub.tokens import LIFE, SKEW, Use, bootstrap
from zone.io.config.rules import RulesWatch
from zone.io.hub.trust import TrustWatch
from zone.krpc.caller import NOBODY
from zone.krpc.faults import Code, KrpcFault


@pytest.fixture(params=[Sqlite, Etcd], ids=lambda kind: kind.name, scope="module")
def running(request, tmp_path_factory):
    with request.param(tmp_path_factory.mktemp(request.param.name)) as kind:
        yield kind


@pytest.fixture
def place(running: Kind) -> Kind:
    running.fresh()
    return running


async def refusal(calling) -> KrpcFault:
    with pytest.raises(KrpcFault) as caught:
        await calling
    return caught.value


def may_write(who, key: str, rules=BASE) -> bool:
    try:
        check_transaction(rules, who.subjects, Transaction((Set(key, "1"),)))
    except ConfigError:
        return False
    return True


async def test_a_user_logs_in_is_believed_and_goes(place):
    async with zone(place) as home:
        await home.user("alice")
        told = await home.login()
        token = told["session_token"]
        who = home.trust.believe(token)
        assert (who.user, who.app, who.device) == ("alice", "", "") and told["user_type"] == "user"
        assert may_write(who, "users/alice/profile") and not may_write(who, "users/bob/profile")
        checked = await home.call("verify_token", hub=1, session_token=token)
        assert checked["sub"] == "alice" and checked["sudo"] is False
        assert (
            await refusal(home.call("verify_token", session_token=told["refresh_token"]))
        ).code == Code.UNAUTHENTICATED
        assert await home.call("logout", token, hub=1) == {}
        await home.until_refused(token)
        assert "ended" in (await refusal(home.call("verify_token", session_token=token))).message
        assert "ended" in (await refusal(home.call("refresh_token", refresh_token=told["refresh_token"]))).message


async def test_an_app_is_bound_to_what_it_logged_in_for(place):
    async with zone(place) as home:
        await home.user("alice")
        token = (await home.login(appid="photos"))["session_token"]
        who = home.trust.believe(token)
        assert may_write(who, "users/alice/apps/photos/settings") and not may_write(who, "users/alice/profile")
        for bad in ("a/b", "**", "..", "x" * 200):
            assert (await refusal(home.login(appid=bad))).code == Code.INVALID
        fault = await refusal(home.call("change_password", token, old=PASSWORD, new="another one"))
        assert fault.code == Code.DENIED


async def test_nobody_learns_who_is_a_user(place):
    async with zone(place) as home:
        await home.user("alice")
        await home.put(users__half__settings='{"type":"user","state":"active"}')
        await home.put(**{"users__broken__settings": "[]", "security__verify-hub__passwords__broken": LOCK})
        faults = [
            await refusal(home.call("login_by_password", username="alice", password="wrong")),
            await refusal(home.call("login_by_password", username="nobody", password=PASSWORD)),
            await refusal(home.call("login_by_password", username="half", password=PASSWORD)),
            await refusal(home.call("login_by_password", username="broken", password=PASSWORD)),
            await refusal(home.call("login_by_password", username="a/../b", password=PASSWORD)),
            await refusal(home.call("login_by_password", username="owner", password=PASSWORD)),
            await refusal(home.call("login_by_password", username="", password="")),
        ]
        assert {(fault.code, fault.message) for fault in faults} == {
            (Code.UNAUTHENTICATED, "user and password do not go together")
        }


@pytest.mark.parametrize("state", ["pending", "suspended:holiday", "deleted", "banned:spam"])
async def test_only_who_is_active_gets_in(place, state):
    async with zone(place) as home:
        await home.user("alice", state=state)
        fault = await refusal(home.login())
        assert fault.code == Code.DENIED and state in fault.message
        wrong = await refusal(home.call("login_by_password", username="alice", password="wrong"))
        assert state not in wrong.message


async def test_who_tries_too_often_waits_and_shuts_nobody_out(place):
    async with zone(place) as home:
        home.hubs[0]._by_both = Throttle(burst=3, seconds=1000)
        await home.user("alice")
        faults = [
            await refusal(home.call("login_by_password", source="192.0.2.1", username="alice", password="wrong"))
            for _ in range(5)
        ]
        assert [fault.code for fault in faults[:3]] == [Code.UNAUTHENTICATED] * 3
        assert faults[-1].code == Code.LIMITED and faults[-1].retryable and faults[-1].data["seconds"] > 0
        assert await home.call("login_by_password", source="192.0.2.2", username="alice", password=PASSWORD)


async def test_a_try_is_counted_once_and_who_has_to_wait_pays_nothing(place):
    async with zone(place) as home:
        hub = home.hubs[0]
        # Where a try took two, or one on its way to a no, a client that never rests would never get in.
        hub._by_source, hub._by_name = Throttle(burst=1, seconds=1000), Throttle(burst=1, seconds=1000)
        now = home.clock.now
        assert await home.call("login_by_jwt", source="192.0.2.1", jwt=bootstrap(ZONE, "", "", OWNER, "t1", now))
        hub._by_source = Throttle(burst=9, seconds=1000)
        hub._by_both = Throttle(burst=1, seconds=1000)
        for number in range(3):
            jwt = bootstrap(ZONE, "", "", OWNER, f"u{number}", now)
            assert (await refusal(home.call("login_by_jwt", source="192.0.2.2", jwt=jwt))).code == Code.LIMITED
        hub._by_name = Throttle(burst=1, seconds=1000)
        assert await home.call("login_by_jwt", source="192.0.2.2", jwt=bootstrap(ZONE, "", "", OWNER, "t2", now))


async def test_many_passwords_at_once_are_refused_and_not_piled_up(place):
    async with zone(place) as home:
        found = []

        async def guess(number: int) -> None:
            fault = await refusal(home.call("login_by_password", username=f"u{number}", password="wrong"))
            found.append(fault.code)

        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(guess, number)
        assert set(found) == {Code.UNAUTHENTICATED, Code.LIMITED}


# -- refreshing


async def test_a_session_is_refreshed_by_any_hub(place):
    async with zone(place) as home:
        await home.user("alice")
        told = await home.login(appid="photos")
        for number in range(4):
            home.clock.now += LIFE[Use.SESSION]
            told = await home.call("refresh_token", hub=number % 2, refresh_token=told["refresh_token"])
            assert home.trust.believe(told["session_token"]).app == "photos"
        home.clock.now += LIFE[Use.REFRESH] + SKEW
        assert (await refusal(home.call("refresh_token", refresh_token=told["refresh_token"]))).code == Code.EXPIRED


async def test_a_refresh_token_that_comes_again_ends_the_session(place):
    async with zone(place) as home:
        await home.user("alice")
        first, other = await home.login(), await home.login()
        second = await home.call("refresh_token", refresh_token=first["refresh_token"])
        fault = await refusal(home.call("refresh_token", hub=1, refresh_token=first["refresh_token"]))
        assert "used before" in fault.message
        await home.until_refused(second["session_token"])
        assert not home.believes(first["session_token"]) and home.believes(other["session_token"])
        assert (await refusal(home.call("refresh_token", refresh_token=second["refresh_token"]))).code == (
            Code.UNAUTHENTICATED
        )


async def test_thief_and_robbed_at_two_hubs_in_one_moment(place):
    """One of them gets a token, and with the other's try it is worth nothing; never do both go on."""
    async with zone(place) as home:
        await home.user("alice")
        told = await home.login()
        got = []

        async def refresh(hub: int) -> None:
            try:
                got.append(await home.call("refresh_token", hub=hub, refresh_token=told["refresh_token"]))
            except KrpcFault as fault:
                assert "used before" in fault.message

        async with trio.open_nursery() as nursery:
            for hub in (0, 1):
                nursery.start_soon(refresh, hub)
        assert len(got) == 1
        await home.until_refused(got[0]["session_token"])
        assert (await refusal(home.call("refresh_token", refresh_token=got[0]["refresh_token"]))).code == (
            Code.UNAUTHENTICATED
        )


async def test_logins_at_both_hubs_lose_no_session(place):
    async with zone(place) as home:
        await home.user("alice")
        tokens = []

        async def login(hub: int) -> None:
            tokens.append((await home.login(hub=hub))["refresh_token"])

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(login, number % 2)
        for token in tokens:
            assert await home.call("refresh_token", refresh_token=token)


# -- revocation


async def test_a_user_who_is_suspended_is_out_in_a_moment(place):
    async with zone(place) as home:
        await home.user("alice")
        await home.user("bob")
        mine, bobs = await home.login(), await home.login("bob")
        sudo = await home.call("sudo_by_password", mine["session_token"], password=PASSWORD)
        # Whoever writes it, and past every hub.
        await home.put(users__alice__settings='{"type":"user","state":"suspended:holiday"}')
        await home.until_refused(mine["session_token"])
        await home.until_refused(sudo["sudo_token"])
        assert home.believes(bobs["session_token"])
        fault = await refusal(home.call("refresh_token", refresh_token=mine["refresh_token"]))
        assert fault.code in (Code.UNAUTHENTICATED, Code.DENIED)


async def test_one_ledger_that_cannot_be_read_shields_nobody_else(place):
    async with zone(place) as home:
        for name in ("alice", "zoe"):
            await home.user(name)
        told = await home.login("zoe")
        out = '{"type":"user","state":"suspended:rent"}'
        await home.put(**{"security__verify-hub__sessions__user__alice": "[]"})
        await home.put(users__alice__settings=out, users__zoe__settings=out)
        await home.until_refused(told["session_token"])


async def test_another_type_is_another_session(place):
    async with zone(place) as home:
        await home.user("alice", "admin")
        mine = await home.login()
        await home.put(users__alice__settings='{"type":"limited","state":"active"}')
        await home.until_refused(mine["session_token"])
        assert (await home.login())["user_type"] == "limited"


async def test_a_machine_that_is_removed_or_replaced_is_out_with_its_services(place):
    async with zone(place) as home:
        await home.put(nodes__box__config__notes='{"target":"running"}')
        box, notes = await home.machine("box"), await home.machine("box", "notes")
        ood = await home.machine("ood1")
        await home.put(boot__config=boot(signed(1, box=SecretKey(b"\x55" * 32))))
        for told in (box, notes):
            await home.until_refused(told["session_token"])
            assert (await refusal(home.call("refresh_token", refresh_token=told["refresh_token"]))).code == (
                Code.UNAUTHENTICATED
            )
        assert "not signed with the key" in (await refusal(home.machine("box"))).message
        assert home.believes(ood["session_token"])
        await home.put(boot__config=boot(signed(2, nodes=())))
        assert "no machine of this zone" in (await refusal(home.machine("box"))).message


async def test_who_may_end_whose_sessions(place):
    async with zone(place) as home:
        for name, kind in (("alice", "user"), ("bob", "user"), ("carol", "admin"), ("rita", "root")):
            await home.user(name, kind)
        alice, bob, carol = [await home.login(name) for name in ("alice", "bob", "carol")]
        for who in (alice, carol):
            fault = await refusal(home.call("revoke", who["session_token"], user="bob"))
            assert fault.code == Code.DENIED
        sudo = await home.call("sudo_by_password", carol["session_token"], password=PASSWORD)
        assert await home.call("revoke", sudo["sudo_token"], user="bob") == {"ended": 1}
        await home.until_refused(bob["session_token"])
        for params in ({"user": "rita"}, {"device": "box"}):
            assert (await refusal(home.call("revoke", sudo["sudo_token"], **params))).code == Code.DENIED
        assert await home.call("revoke", alice["session_token"], user="alice") == {"ended": 1}
        await home.until_refused(alice["session_token"])
        for params in ({}, {"user": "a", "device": "b"}):
            assert (await refusal(home.call("revoke", sudo["sudo_token"], **params))).code == Code.INVALID
        assert (await refusal(home.call("revoke", NOBODY, user="bob"))).code == Code.DENIED


# -- users


async def test_the_owner_ends_sessions_of_the_owner(place):
    async with zone(place) as home:
        lost, mine = await home.machine(""), await home.machine("")
        assert await home.call("revoke", mine["sudo_token"], user="owner") == {"ended": 2}
        await home.until_refused(lost["sudo_token"])


async def test_sudo_lasts_a_moment_and_needs_the_password_and_the_session(place):
    async with zone(place) as home:
        await home.user("rita", "root")
        told = await home.login("rita")
        session = told["session_token"]
        assert not may_write(home.trust.believe(session), "services/notes/spec")
        assert (await refusal(home.call("sudo_by_password", session, password="wrong"))).code == Code.UNAUTHENTICATED
        assert (await refusal(home.call("sudo_by_password", password=PASSWORD))).code == Code.UNAUTHENTICATED
        sudo = (await home.call("sudo_by_password", session, hub=1, password=PASSWORD))["sudo_token"]
        assert may_write(home.trust.believe(sudo), "services/notes/spec")
        who = home.trust.believe(session)
        home.clock.now += LIFE[Use.SUDO] + SKEW
        assert not home.believes(sudo) and home.believes(session)
        await home.call("logout", session)
        assert (await refusal(home.call("sudo_by_password", who, password=PASSWORD))).code == Code.UNAUTHENTICATED


async def test_users_are_made_and_changed_by_those_who_may(place):
    async with zone(place) as home:
        await home.user("carol", "admin")
        carol = await home.login("carol")
        made = {"username": "dave", "type": "guest", "password": "a fine password"}
        assert (await refusal(home.call("set_user", carol["session_token"], **made))).code == Code.DENIED
        sudo = (await home.call("sudo_by_password", carol["session_token"], password=PASSWORD))["sudo_token"]
        assert await home.call("set_user", sudo, **made) == {}
        dave = await home.call("login_by_password", username="dave", password="a fine password")
        assert dave["user_type"] == "guest"
        for above in ({"type": "admin"}, {"type": "root"}, {"type": "user", "username": "carol"}):
            assert (await refusal(home.call("set_user", sudo, **{**made, **above}))).code == Code.DENIED
        for bad in ({"type": "kernel"}, {"type": None}, {"state": "x"}, {"password": "short"}, {"username": "a/b"}):
            assert (await refusal(home.call("set_user", sudo, **{**made, **bad}))).code == Code.INVALID
        await home.call("set_user", sudo, username="dave", type="guest", state="banned:spam")
        await home.until_refused(dave["session_token"])
        owner = await home.machine("")
        assert await home.call("set_user", owner["sudo_token"], username="erin", type="root", password="12345678") == {}
        settings = await home.stores[0].get("users/erin/settings")
        assert settings.text() == '{"state":"active","type":"root"}'
        assert (await refusal(home.call("set_user", owner["sudo_token"], username="owner", type="root"))).code == (
            Code.DENIED
        )


async def test_a_name_that_is_given_again_has_no_password_from_before(place):
    async with zone(place) as home:
        await home.user("bob")
        owner = (await home.machine(""))["sudo_token"]
        await home.put(users__bob__settings=None)
        await home.call("set_user", owner, username="bob", type="user")
        assert (await refusal(home.login("bob"))).code == Code.UNAUTHENTICATED
        await home.call("set_user", owner, username="bob", type="user", password=PASSWORD)
        await home.call("set_user", owner, username="bob", type="limited")
        assert (await home.login("bob"))["user_type"] == "limited"


async def test_another_password_ends_the_other_sessions(place):
    async with zone(place) as home:
        await home.user("alice")
        mine, lost = await home.login(), await home.login()
        token = mine["session_token"]
        assert (await refusal(home.call("change_password", token, old="wrong", new="another one"))).code == (
            Code.UNAUTHENTICATED
        )
        assert (await refusal(home.call("change_password", token, old=PASSWORD, new="short"))).code == Code.INVALID
        await home.call("change_password", token, old=PASSWORD, new="another one")
        await home.until_refused(lost["session_token"])
        assert home.believes(token)
        assert (await refusal(home.login())).code == Code.UNAUTHENTICATED
        assert await home.call("login_by_password", username="alice", password="another one")


async def test_sessions_have_a_limit(place):
    async with zone(place) as home:
        first = await home.machine("ood1", "scheduler")
        hub = home.hubs[0]
        hub._by_source = hub._by_both = hub._by_name = Throttle(burst=1000, seconds=1)
        home.clock.now += 1
        for _ in range(MOST_SESSIONS):
            await home.machine("ood1", "scheduler")
        await home.until_refused(first["session_token"])


# -- machines


async def test_a_service_logs_in_where_it_is_placed(place):
    async with zone(place) as home:
        assert (await refusal(home.machine("box", "notes"))).code == Code.DENIED
        await home.put(nodes__box__config__notes='{"target":"running"}')
        told = await home.machine("box", "notes", hub=1)
        who = home.trust.believe(told["session_token"])
        assert (who.device, who.app, who.user) == ("box", "notes", "")
        assert may_write(who, "services/notes/settings") and not may_write(who, "services/other/settings")
        assert (await refusal(home.machine("ood1", "notes"))).code == Code.DENIED
        await home.put(nodes__box__config__notes='{"target":"stopped"}')
        assert (await refusal(home.call("refresh_token", refresh_token=told["refresh_token"]))).code == Code.DENIED
        await home.put(nodes__box__config__notes="[]")
        assert (await refusal(home.machine("box", "notes"))).code == Code.DENIED


async def test_only_on_an_ood_is_a_part_of_the_program_the_kernel(place):
    async with zone(place) as home:
        kernel = home.trust.believe((await home.machine("ood2", "scheduler"))["session_token"])
        box = home.trust.believe((await home.machine("box", "scheduler"))["session_token"])
        alone = home.trust.believe((await home.machine("ood2"))["session_token"])
        assert may_write(kernel, "nodes/box/config/notes")
        assert not may_write(box, "nodes/box/config/notes") and may_write(box, "devices/box/info")
        assert not may_write(alone, "nodes/box/config/notes") and may_write(alone, "devices/ood2/info")


async def test_an_ood_that_is_one_no_more_is_the_kernel_no_more(place):
    async with zone(place) as home:
        kernel, other = await home.machine("ood2", "scheduler"), await home.machine("ood1", "scheduler")
        demoted = sign("ood1", nodes=["ood2", "box"], iat=int(START), exp=int(START) + 10**6, owner=OWNER, keys=KEYS)
        await home.put(boot__config=boot(demoted))
        await home.until_refused(kernel["session_token"])
        assert home.believes(other["session_token"])
        assert (await refusal(home.call("refresh_token", refresh_token=kernel["refresh_token"]))).code == (
            Code.UNAUTHENTICATED
        )
        assert (await home.machine("ood2", "scheduler"))["user_type"] == "device"


async def test_who_is_replaced_while_logging_in_is_out(place, monkeypatch):
    async with zone(place) as home:
        hub, proof = home.hubs[0], home.proof("box")
        decided = hub._decided

        async def replaced_first(keys, decide):
            await home.put(boot__config=boot(signed(1, box=SecretKey(b"\x55" * 32))))
            return await decided(keys, decide)

        monkeypatch.setattr(hub, "_decided", replaced_first)
        assert "until just now" in (await refusal(home.call("login_by_jwt", jwt=proof))).message


async def test_what_a_machine_shows_is_good_once_at_all_hubs(place):
    async with zone(place) as home:
        proof = home.proof("box", jti="once")
        results = []

        async def login(hub: int) -> None:
            try:
                results.append(await home.call("login_by_jwt", hub=hub, jwt=proof))
            except KrpcFault as fault:
                results.append(fault.message)

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(login, number % 2)
        assert sorted(type(result).__name__ for result in results) == ["dict"] + ["str"] * 5
        assert all("used before" in result for result in results if isinstance(result, str))
        # Another token under the same jti is no other.
        again = bootstrap(ZONE, "box", "cyfs-gateway", KEYS["box"], "once", home.clock.now)
        assert "used before" in (await refusal(home.call("login_by_jwt", jwt=again))).message


async def test_what_strangers_show(place):
    async with zone(place) as home:
        thief = SecretKey(b"\x66" * 32)
        # What a machine writes of itself, and even what is written for it, makes it nobody.
        evil = sign("ood1", nodes=["evil"], owner=thief, keys={**KEYS, "evil": thief}, exp=int(START) + 10**6)
        await home.put(devices__evil__doc=write_json(evil.devices["evil"]).decode(), nodes__evil__intent="{}")
        now = home.clock.now
        for jwt in (
            bootstrap(ZONE, "box", "", thief, "t1", now),
            bootstrap(ZONE, "evil", "", thief, "t2", now),
            bootstrap(ZONE, "ood1", "", KEYS["box"], "t3", now),
            bootstrap(ZONE, "nobody", "", KEYS["box"], "t6", now),
            bootstrap("other.example", "box", "", KEYS["box"], "t7", now),
            bootstrap(ZONE, "", "", thief, "t8", now),
            bootstrap(ZONE, "box", "", KEYS["box"], "t9", now - 10_000),
            "x" * 5000,
            "",
        ):
            assert (await refusal(home.call("login_by_jwt", jwt=jwt))).code in (Code.UNAUTHENTICATED, Code.EXPIRED)
        session = (await home.machine("box"))["session_token"]
        assert (await refusal(home.call("login_by_jwt", jwt=session))).code == Code.UNAUTHENTICATED
        # Nor does another's word about the zone: nobody gets in by it, and nobody is put out.
        await home.put(boot__config='{"jwt":' + write_json(evil.zone).decode() + "}")
        assert (await refusal(home.call("login_by_jwt", jwt=bootstrap(ZONE, "evil", "", thief, "t10", now)))).code == (
            Code.DAMAGED
        )
        assert home.believes(session)


async def test_the_owners_key_is_a_password_given_just_now(place):
    async with zone(place) as home:
        told = await home.machine("")
        assert "refresh_token" not in told
        who = home.trust.believe(told["sudo_token"])
        assert may_write(who, "security/x") and who.user == "owner"
        await home.call("logout", told["sudo_token"])
        await home.until_refused(told["sudo_token"])


# -- keys


async def test_both_hubs_begin_with_the_same_keys_and_nobody_reads_them(place):
    async with zone(place) as home:
        reading = await home.stores[0].read([Below("security")])
        assert [entry.key for entry in reading.entries] == ["security/verify-hub/keys"]
        inner = await home.stores[0]._backend._inner.read([Below("security")])
        assert "sealed" in inner.entries[0].value and "current" not in inner.entries[0].value


async def test_keys_rotate_and_sessions_go_on(place):
    async with zone(place) as home:
        await home.user("alice")
        home.clock.now += PERIOD - 1000
        told = await home.login()
        home.clock.now += 1000
        await home.hubs[1]._decided(["security/verify-hub/keys", "boot/verify-hub/keys"], home.hubs[1]._due)
        again = await home.call("refresh_token", refresh_token=told["refresh_token"])
        await until(lambda: home.believes(again["session_token"]))


async def test_after_a_theft_the_owner_replaces_the_keys(place):
    async with zone(place) as home:
        await home.user("alice")
        told, owner = await home.login(), await home.machine("")
        assert (await refusal(home.call("replace_keys", told["session_token"]))).code == Code.DENIED
        await home.call("replace_keys", owner["sudo_token"])
        await home.until_refused(told["session_token"])
        assert (await refusal(home.call("refresh_token", refresh_token=told["refresh_token"]))).code == (
            Code.UNAUTHENTICATED
        )
        fresh = await home.login()
        await until(lambda: home.believes(fresh["session_token"]))


async def test_without_keys_nobody_is_believed(place):
    async with zone(place) as home:
        await home.user("alice")
        told = await home.login()
        stranger = TrustWatch(home.stores[0], "other.example", home.clock)
        assert (await refusal_of(stranger, told["session_token"])).code == Code.UNAVAILABLE
        async with trio.open_nursery() as nursery:
            await nursery.start(stranger.run)
            assert (await refusal_of(stranger, told["session_token"])).code == Code.UNAVAILABLE
            nursery.cancel_scope.cancel()
        await home.put(**{"security__verify-hub__keys": None})
        await home.put(**{"boot__verify-hub__keys": "{}"})
        await home.until_refused(told["session_token"])
        assert (await refusal(home.login())).code == Code.UNAVAILABLE


async def refusal_of(trust: TrustWatch, token: str) -> KrpcFault:
    with pytest.raises(KrpcFault) as caught:
        trust.believe(token)
    return caught.value


# -- rules


async def test_the_zones_own_rules_follow_those_of_the_beginning(place):
    async with zone(place) as home:
        assert home.policy.rules == BASE
        policy = '["deny user write users/*/profile","allow guest read users/*/profile"]'
        await home.put(system__rbac__policy=policy)
        await until(lambda: home.policy.rules != BASE)
        assert home.policy.rules == read_policy(policy)
        await home.put(system__rbac__policy='["deny user wr"]')
        late = RulesWatch(home.stores[0])
        async with trio.open_nursery() as nursery:
            await nursery.start(late.run)
            # What it denied must not be allowed for that; who knew it before goes on.
            assert late.rules == LOCKED and home.policy.rules == read_policy(policy)
            nursery.cancel_scope.cancel()
        await home.put(system__rbac__policy=None)
        await until(lambda: home.policy.rules == BASE)


@pytest.mark.parametrize("bad", ["", "{}", "[1]", '["allow"]', "[" + ",".join(['"deny a read x"'] * 1001) + "]"])
def test_rules_that_are_none(bad):
    with pytest.raises(ConfigError):
        read_policy(bad)


async def test_no_such_method(place):
    async with zone(place) as home:
        for method in ("login", "__init__", "_login_by_password", "run"):
            assert (await refusal(home.call(method))).code == Code.UNKNOWN_METHOD
        assert (await refusal(home.call("login_by_password", username=7, password=[]))).code == Code.INVALID
        assert home.clock.now == START
