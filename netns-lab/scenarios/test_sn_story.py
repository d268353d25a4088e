"""The whole story of an SN: a phone without any client, a laptop that finds the direct way, and SNs that die.

See ``sn_story`` for who is where.  Nobody opens a port, and after the first commands nobody helps.
"""

from __future__ import annotations

import contextlib
import time

import pytest
import trio
from devices import memory_of
from netnslab import need
from sn_story import BOX, BY_SOCKS, MARK, Film, Story

PAGE = f"http://{BOX}/"


@pytest.fixture
def story(lab, capsys):
    need("curl", "dig", "knotd", "unbound", "nginx", "pebble", "chromium")
    made = Story(lab)
    yield made
    with capsys.disabled():
        print("\n" + "\n".join(f"{what}: {took:.0f} ms" for what, took in made.told.items()))


async def test_the_whole_story(story):
    url = f"https://{story.sn.photos}/"
    async with story.lab.up(timeout=300), contextlib.AsyncExitStack() as stack:
        await story.prepared(story.sn)
        await story.certifies()

        # The SN speaks for its domain; the box joins it, and is found in the DNS.
        at_sn = await stack.enter_async_context(story.run(story.sn))
        await story.sn.host.wait_for_port(53, story.sn.host.ip)
        await story.knows(story.sn.domain, story.sn.host.ip)
        at_box = await stack.enter_async_context(story.gateway(story.box, story.at_home(story.sn)))
        await story.reaches(at_box, story.sn)
        with story.timed("joined"):
            await story.joins(at_box, story.sn)
        await story.knows(story.sn.photos, story.sn.host.ip)

        # A visitor without a client, by the certificate that nginx has.
        seen, story.told["first byte for the phone"] = await story.page(story.phone, url, *story.own)
        assert MARK in seen, f"the phone, by curl: {seen}"
        seen, _ = await story.page(story.phone, f"http://{story.sn.photos}/", "-L", *story.own)
        assert MARK in seen, f"the phone, that was led to https: {seen}"

        # Her laptop: through the SN at once, then directly.
        at_laptop = await stack.enter_async_context(story.gateway(story.laptop, story.away_from_home(story.sn)))
        everybody = (at_laptop, at_box, at_sn)
        await story.reaches(at_laptop, story.sn)
        await at_laptop.api("/cyfs/memberships", method="POST")
        await story.belongs(at_laptop, story.sn)
        with story.timed("direct after that"):
            seen, story.told["first byte for the laptop"] = await story.page(story.laptop, PAGE, *BY_SOCKS)
            assert MARK in seen, f"the laptop, through the SN: {seen}\n{at_laptop.process.text()[-3000:]}"
            explained = await story.goes("udp ", *everybody)
        assert explained["why"] == "direct", explained
        assert {one["state"] for one in explained["ways"]} >= {"in use", "ready"}, explained

        # A certificate by the SN's zone, for a key that is made at home.
        at_box.reload(story.at_home(story.sn, certificates=story.certificates))
        with story.timed("certified"):
            bundle = await story.certified(at_box, at_sn)
        story.nginx_takes(bundle)
        trusted = ("--cacert", str(story.trusted))
        await story.opens(story.phone, url, *trusted, gateways=(at_box, at_sn))
        with story.timed("in the browser"):
            shown = await story.browses(url)
        assert f"<h1>{MARK}</h1>" in shown, f"the browser: {shown}"
        shown = await story.browses(url, believes=False)
        assert MARK not in shown, "a browser that does not know the authority shows the page"
        assert story.visitors() == {story.phone_outside}, "nginx is told who comes"
        for secret in (*bundle.secrets, MARK.encode()):
            assert not memory_of(at_sn.process, secret), f"the SN has seen {secret!r}"
        assert memory_of(at_sn.process, story.sn.photos.encode()), "what it does know is found"

        # The SN dies in the middle of everything, and comes back.
        film = Film(story, "short")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(film.watch)
            await film.goes_on()
            await at_sn.kill()
            seen, _ = await story.page(story.phone, url, *trusted)
            assert MARK not in seen, "somebody else leads there"
            seen, _ = await story.page(story.laptop, PAGE, *BY_SOCKS)
            assert MARK in seen, f"the laptop, without the SN: {seen}"
            began = time.monotonic()
            at_sn = await stack.enter_async_context(story.run(story.sn))
            await story.opens(story.phone, url, *trusted, gateways=(at_box, at_sn))
            story.told["the phone again, with the start of the SN"] = (time.monotonic() - began) * 1e3
        await story.belongs(at_box, story.sn, leads=[story.sn.photos])
        await story.belongs(at_laptop, story.sn)
        assert f"<h1>{MARK}</h1>" in (shown := await story.browses(url)), f"the browser: {shown}"
        await story.goes("udp ", at_laptop, at_box, at_sn)


async def test_where_an_sn_dies_another_takes_over(story):
    async with story.lab.up(timeout=300), contextlib.AsyncExitStack() as stack:
        both = (story.sn, story.spare)
        await story.prepared(*both)
        at_sn, at_spare = [await stack.enter_async_context(story.run(sn)) for sn in both]
        for sn in both:
            await sn.host.wait_for_port(53, sn.host.ip)
            await story.knows(sn.domain, sn.host.ip)
        at_box = await stack.enter_async_context(story.gateway(story.box, story.at_home(*both)))
        await story.reaches(at_box, *both)
        for sn in both:
            await story.joins(at_box, sn)
        at_laptop = await stack.enter_async_context(story.gateway(story.laptop, story.away_from_home(*both)))
        await story.reaches(at_laptop, *both)
        await at_laptop.api("/cyfs/memberships", method="POST")
        await story.belongs(at_laptop, *both)
        everybody = (at_laptop, at_box, at_spare)
        film = Film(story, "long")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(film.watch)
            await film.goes_on()
            await story.goes("udp ", *everybody)
            await at_sn.kill()
            async with story.apart():
                film.stalled = 0.0
                relayed = await story.goes(
                    (f"SN {story.spare.domain}", f"relay udp {story.spare.host.ip}:"), *everybody
                )
                assert "stopped answering" in relayed["why"], relayed
                await film.goes_on()
                story.told["the film stalled, until the other SN carried it"] = film.stalled * 1e3
            with story.timed("directly again"):
                await story.goes("udp ", *everybody)
            await film.goes_on()
        seen, _ = await story.page(story.phone, f"https://{story.spare.photos}/", *story.own)
        assert MARK in seen, f"the phone, by the other SN: {seen}"

        # Who was off all the time finds the way, too.
        await at_laptop.kill()
        at_laptop = await stack.enter_async_context(story.gateway(story.laptop, story.away_from_home(*both)))
        await story.belongs(at_laptop, story.spare)
        seen, story.told["first byte by the other SN"] = await story.page(story.laptop, PAGE, *BY_SOCKS)
        assert MARK in seen, f"the laptop, by the other SN: {seen}\n{at_laptop.process.text()[-4000:]}"
