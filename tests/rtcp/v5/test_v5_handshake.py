"""A call and its answer: what each side checks, in which order, and that strangers hear nothing."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import Misuse
from rtcp.v5.answering import KNOCK_WAIT, PROOF_WAIT, VERDICT_WAIT, AnswerFailed, CallerProven, Guard, Met
from rtcp.v5.calling import ANSWER_WAIT, CallFailed, ResponderProven
from rtcp.v5.carrier import Kind, Record
from rtcp.v5.closing import Close, CloseCode, read_close
from rtcp.v5.cookies import LIFETIME, CookieJar
from rtcp.v5.messages import mac1_key, write_first
from rtcp.v5.noise import Initiator
from rtcp.v5.opening import native_prologue
from rtcp.v5.payloads import Introduction, Parameters
from rtcp.v5.schedule import Cipher
from tests.rtcp.pair import ALICE, BOB, MALLORY, bytewise, whole
from tests.rtcp.v5.people import (
    ALICE_SAYS,
    ALICES_EPHEMERAL,
    ALICES_KEY,
    BOBS_KEY,
    BOOT,
    CALLEDS,
    CALLERS,
    MALLORYS_KEY,
    OPENINGS,
    Meeting,
    answering,
    asked,
    met,
    native,
    told,
)

openings = pytest.mark.parametrize("opening", OPENINGS)
HERE = ("198.51.100.7", 40000)


def silently_closed(meeting: Meeting) -> bool:
    """Whether the called side gave up without a byte, and its rules heard of nobody."""
    events = told(meeting.answer)
    return (
        isinstance(events[-1], AnswerFailed)
        and not any(isinstance(event, CallerProven) for event in events)
        and meeting.answer.data_to_send() == b""
        and meeting.answer.next_deadline() is None
    )


@openings
@pytest.mark.parametrize("split", [whole, bytewise])
def test_two_devices_meet(opening, split):
    meeting = Meeting(OPENINGS[opening](), split=split).knock()
    assert told(meeting.answer) == [Met()]
    meeting.reply()
    assert told(meeting.call) == [ResponderProven(CALLEDS, 0)]
    hers = meeting.prove()
    assert told(meeting.answer) == [CallerProven(ALICE_SAYS)]
    his, waiting = meeting.answer.accept()
    assert (hers.peer, his.peer) == (BOB.public, ALICE.public)
    assert (hers.parameters, his.parameters) == (CALLEDS, CALLERS)
    assert hers.tunnel == his.tunnel and not hers.called and his.called and waiting == b""
    assert list(hers.carrier.receive(his.carrier.seal(Kind.LOOSE, (b"welcome",), 0), 0)) == [(Kind.LOOSE, b"welcome")]
    assert list(his.carrier.receive(hers.carrier.seal(Kind.LOOSE, (b"hello",), 0), 0)) == [(Kind.LOOSE, b"hello")]


def test_no_two_handshakes_are_alike():
    tunnels = {met(call=native(entropy=bytes((n,)) * 32))[0].tunnel for n in range(1, 9)}
    assert len(tunnels) == 8


@openings
def test_message_2_is_not_longer_than_what_it_answers(opening):
    meeting = Meeting(OPENINGS[opening]()).knock().reply()
    assert len(meeting.second) <= len(meeting.first)


@openings
def test_who_calls_is_not_in_what_goes_over_the_wire(opening):
    meeting = Meeting(OPENINGS[opening]()).knock().reply()
    meeting.prove()
    for own in (ALICE.public.raw, ALICES_KEY.x25519, ALICE.public.x.encode()):
        shown = own in meeting.first + meeting.second + meeting.third
        assert shown == (opening == "marked" and own == ALICE.public.x.encode())


@pytest.mark.parametrize(("hers", "his", "cipher"), [(3, 3, 1), (2, 3, 2), (3, 2, 2), (2, 2, 2)])
def test_the_cipher_is_the_best_that_both_have(hers, his, cipher):
    said = dataclasses.replace(ALICE_SAYS, parameters=Parameters(ciphers=Cipher(hers)))
    meeting = Meeting(native(), answering())
    meeting.answer._parameters = dataclasses.replace(CALLEDS, ciphers=Cipher(his))
    meeting.knock().reply()
    ends = (meeting.prove(said), meeting.answer.accept()[0])
    assert {end.carrier._sending._cipher for end in ends} == {Cipher(cipher)}


def test_records_may_follow_message_3_and_are_not_looked_at_before_the_verdict():
    meeting = Meeting().knock().reply()
    hers = meeting.call.go_on(ALICE_SAYS)
    early = hers.carrier.seal(Kind.NUMBERED, (b"GET /",), 0)
    meeting.answer.receive_data(meeting.call.data_to_send() + early[:10], 0)
    meeting.answer.receive_data(bytes(early[10:]), 0)
    assert told(meeting.answer)[-1] == CallerProven(ALICE_SAYS)
    his, waiting = meeting.answer.accept()
    assert list(his.carrier.receive(waiting, 0)) == [Record(Kind.NUMBERED, b"GET /")]


def test_a_shell_that_reads_on_before_the_verdict_does_not_fill_the_house():
    meeting = Meeting().knock().reply()
    meeting.prove()
    for _ in range(5):
        meeting.answer.receive_data(bytes(65536), 0)
    assert isinstance(told(meeting.answer)[-1], AnswerFailed)
    assert meeting.answer.accept() is None


# What each side checks


def test_every_byte_of_message_1_counts():
    good = native().data_to_send()
    for at in range(len(good) - 16):  # mac2 is not looked at where the carrier proves its source
        meeting = Meeting()
        wrong = bytearray(good)
        wrong[at] ^= 1
        meeting.answer.receive_data(bytes(wrong), 0)
        if at == 0:  # one that is 256 bytes longer than it is: the rest does not come
            assert told(meeting.answer) == [] and meeting.answer.data_to_send() == b""
            meeting.answer.receive_data(bytes(256), 0)
        if at == 1:
            meeting.answer.receive_data(bytes(1), 0)
        assert silently_closed(meeting), at


def test_every_byte_of_message_2_counts():
    good = Meeting().knock().answer.data_to_send()
    for at in range(len(good)):
        meeting = Meeting().knock()
        wrong = bytearray(good)
        wrong[at] ^= 1
        meeting.call.receive_data(bytes(wrong) + bytes(256 if at == 0 else at == 1), 0)
        (event,) = told(meeting.call)
        assert isinstance(event, CallFailed), at
        assert meeting.call.data_to_send() == b"" and meeting.call.go_on(ALICE_SAYS) is None


def test_every_byte_of_message_3_counts():
    first = Meeting().knock().reply()
    first.prove()
    for at in range(len(first.third)):
        meeting = Meeting().knock().reply()
        meeting.answer.next_event()
        wrong = bytearray(first.third)
        wrong[at] ^= 1
        meeting.answer.receive_data(bytes(wrong) + bytes(256 if at == 0 else at == 1), 0)
        assert silently_closed(meeting), at


def test_a_message_1_for_another_key_is_dropped_before_any_agreement(monkeypatch):
    monkeypatch.setattr("rtcp.v5.answering.Responder", None)
    meeting = Meeting(native(MALLORY)).knock()
    assert silently_closed(meeting)


def test_one_of_several_keys_is_meant():
    for peer in (BOB, MALLORY):
        answer = answering()
        answer._keys = (BOBS_KEY, MALLORYS_KEY)
        meeting = Meeting(native(peer), answer).knock().reply()
        assert told(meeting.call) == [ResponderProven(CALLEDS, 0)]
        assert meeting.prove().peer == peer.public


@pytest.mark.parametrize("payload", [b"", bytes(1024), b"\xff" * 7])
def test_payload_1_is_not_looked_at(payload):
    noise = Initiator(native_prologue(BOB.public), ALICES_KEY.secret, ALICES_EPHEMERAL, BOBS_KEY.x25519)
    answer = answering()
    answer.receive_data(write_first(noise.first(payload), mac1_key(BOB.public)), 0)
    assert told(answer) == [Met()]
    noise.second(answer.data_to_send()[4:])


@pytest.mark.parametrize("size", [1025, 4000])
def test_a_message_1_that_is_too_large_is_not_waited_for(size):
    noise = Initiator(native_prologue(BOB.public), ALICES_KEY.secret, ALICES_EPHEMERAL, BOBS_KEY.x25519)
    answer = answering()
    answer.receive_data(write_first(noise.first(bytes(size)), mac1_key(BOB.public))[:4], 0)
    assert isinstance(told(answer)[0], AnswerFailed)


@pytest.mark.parametrize("head", ["40010503", "001005 03".replace(" ", ""), "00b10503"])
def test_a_message_3_of_an_impossible_size_is_not_waited_for(head):
    meeting = Meeting().knock().reply()
    meeting.answer.receive_data(bytes.fromhex(head), 0)
    assert silently_closed(meeting)


@pytest.mark.parametrize(
    "head", ["00540501", "00540503", "00300504", "00540802", "045d0502", "00530502", "00540402", "ffff"]
)
def test_what_is_no_message_2_ends_the_call(head):
    call = asked(native())
    call.receive_data(bytes.fromhex(head) + bytes(100), 0)
    assert isinstance(told(call)[0], CallFailed)


def proof(payload: bytes) -> Meeting:
    """Alice proves her key, and says ``payload``."""
    meeting = Meeting().knock().reply()
    meeting.answer.next_event()
    third, _ = meeting.call._noise.third(payload)
    meeting.answer.receive_data((4 + len(third)).to_bytes(2, "big") + b"\x05\x03" + third, 0)
    return meeting


SAID = ALICE_SAYS.write()


WRONG = {
    "cut off": SAID[:-1],
    "a name of 513 bytes": SAID[:104] + b"\x02\x01" + bytes(600),
    "a name in no UTF-8": SAID[:104] + b"\x00\x01\xff\x00\x00\x00\x00",
    "a document of 12,289 bytes": SAID[:104] + bytes(4) + b"\x30\x01" + bytes(13000),
    "another key than was proven": MALLORY.public.raw + SAID[32:],
    "a key that is on no curve": b"\x02" + bytes(31) + SAID[32:],
    "a key past the prime": b"\xff" * 32 + SAID[32:],
    "a key of small order": b"\x01" + bytes(31) + SAID[32:],
    "without the cipher of all": SAID[:32] + b"\x01" + SAID[33:],
    "names for a tunnel that stands": SAID[:64] + b"\x01" + SAID[65:],
}


@pytest.mark.parametrize("payload", WRONG.values(), ids=WRONG.keys())
def test_an_introduction_that_is_wrong_is_answered_by_silence(payload):
    assert silently_closed(proof(payload))


def test_what_stands_behind_the_last_field_is_not_looked_at():
    assert told(proof(SAID + b"later versions say more").answer) == [CallerProven(ALICE_SAYS)]


def verdict_on(meeting: Meeting, hers) -> Close:
    """What the called said, as the caller reads it."""
    (record,) = hers.carrier.receive(meeting.answer.data_to_send(), 0)
    assert record.kind is Kind.LOOSE and record.plain[0] == 0x14
    return read_close(record.plain[8:])


def test_a_device_that_calls_itself_is_told_so():
    answer = answering()
    answer._keys = (BOBS_KEY, ALICES_KEY)
    meeting = Meeting(native(), answer).knock().reply()
    assert verdict_on(meeting, meeting.prove()).code is CloseCode.SELF
    assert not any(isinstance(event, CallerProven) for event in told(answer))


@pytest.mark.parametrize("field", ["channel", "move", "expect"])
def test_a_new_tunnel_begins_with_nothing(field):
    meeting = Meeting().knock().reply()
    hers = meeting.prove(dataclasses.replace(ALICE_SAYS, **{field: 1}))
    assert verdict_on(meeting, hers).code is CloseCode.FAULT
    assert not any(isinstance(event, CallerProven) for event in told(meeting.answer))


def test_a_caller_for_a_standing_tunnel_says_which_channel():
    told_of = Introduction(
        key=ALICE.public, parameters=CALLERS, boot=BOOT, tunnel=b"t" * 16, channel=3, move=2, expect=9
    )
    meeting = Meeting().knock().reply()
    hers = meeting.prove(told_of)
    assert told(meeting.answer)[-1] == CallerProven(told_of)
    his, _ = meeting.answer.accept()
    assert list(his.carrier.receive(hers.carrier.seal(Kind.RAW, (b"leg",), 0), 0)) == [Record(Kind.RAW, b"leg")]


def test_a_refusal_is_told_to_who_proved_itself():
    meeting = Meeting().knock().reply()
    hers = meeting.prove()
    meeting.answer.refuse(Close(CloseCode.REFUSED, 60, "not today"), 0)
    assert verdict_on(meeting, hers) == Close(CloseCode.REFUSED, 60, "not today")
    assert told(meeting.answer)[-1] == AnswerFailed("not today")
    assert meeting.answer.accept() is None


def test_nobody_decides_before_there_is_anything_to_decide():
    meeting = Meeting().knock()
    with pytest.raises(Misuse):
        meeting.answer.accept()
    with pytest.raises(Misuse):
        meeting.answer.refuse(Close(CloseCode.BUSY), 0)
    with pytest.raises(Misuse):
        meeting.call.go_on(ALICE_SAYS)


def test_nobody_is_introduced_as_somebody_else():
    meeting = Meeting().knock().reply()
    with pytest.raises(Misuse):
        meeting.call.go_on(dataclasses.replace(ALICE_SAYS, key=MALLORY.public))


# Who speaks out of turn


@openings
def test_more_behind_message_1_closes(opening):
    meeting = Meeting(OPENINGS[opening]())
    meeting.answer.receive_data(meeting.call.data_to_send() + b"\0", 0)
    assert silently_closed(meeting)


def test_who_answers_what_was_not_said_yet_is_not_heard():
    call, answer = native(), answering()
    answer.receive_data(native().data_to_send(), 0)
    call.receive_data(answer._out, 0)
    assert isinstance(told(call)[0], CallFailed) and call.data_to_send() == b""
    answer.receive_data(b"\0", 0)
    assert isinstance(told(answer)[-1], AnswerFailed) and answer.data_to_send() == b""


def test_more_behind_message_2_ends_the_call():
    meeting = Meeting().knock()
    meeting.call.receive_data(meeting.answer.data_to_send() + b"\0", 0)
    assert [type(event) for event in told(meeting.call)] == [ResponderProven, CallFailed]
    assert meeting.call.go_on(ALICE_SAYS) is None
    meeting = Meeting().knock().reply()
    meeting.call.receive_data(b"\0", 0)
    assert isinstance(told(meeting.call)[-1], CallFailed)
    assert meeting.call.go_on(ALICE_SAYS) is None


# Time


@pytest.mark.parametrize("sent", [0, 3, 60])
def test_who_is_slow_to_knock_is_closed(sent):
    meeting = Meeting()
    meeting.answer.receive_data(meeting.call.data_to_send()[:sent], 4)
    assert meeting.answer.next_deadline() == KNOCK_WAIT
    meeting.answer.handle_timeout(KNOCK_WAIT - 0.1)
    assert told(meeting.answer) == []
    meeting.answer.handle_timeout(KNOCK_WAIT)
    assert silently_closed(meeting)


def test_who_is_slow_to_prove_itself_is_closed():
    meeting = Meeting().knock().reply()
    assert meeting.answer.next_deadline() == PROOF_WAIT
    meeting.answer.handle_timeout(PROOF_WAIT)
    assert silently_closed(meeting)


def test_a_verdict_that_does_not_come_is_busy():
    meeting = Meeting().knock().reply()
    hers = meeting.prove()
    assert meeting.answer.next_deadline() == VERDICT_WAIT
    meeting.answer.handle_timeout(VERDICT_WAIT)
    assert verdict_on(meeting, hers).code is CloseCode.BUSY
    assert meeting.answer.accept() is None


def test_a_responder_that_is_slow_is_given_up():
    call = native()
    assert call.next_deadline() == ANSWER_WAIT
    call.handle_timeout(ANSWER_WAIT)
    assert told(call) == [CallFailed("no answer in time")]


def test_the_round_trip_is_measured():
    meeting = Meeting().knock()
    meeting.call.receive_data(meeting.answer.data_to_send(), 0.25)
    assert told(meeting.call) == [ResponderProven(CALLEDS, 0.25)]
    assert meeting.call.next_deadline() is None  # how long a race takes is the racer's to say


def test_an_end_is_an_end():
    meeting = Meeting().knock()
    meeting.answer.receive_eof()
    meeting.call.receive_eof()
    assert isinstance(told(meeting.answer)[-1], AnswerFailed) and isinstance(told(meeting.call)[-1], CallFailed)
    meeting.reply()
    assert told(meeting.call) == [] and told(meeting.answer) == []


# Carriers that do not prove where they come from


def guarded(jar: CookieJar, **more: object) -> Meeting:
    return Meeting(native(retries=True, **more), answering(guard=Guard(jar, *HERE, nonce=b"n" * 12)))


def test_a_busy_door_has_the_caller_show_where_it_is():
    meeting = guarded(CookieJar(b"secret", 0)).knock()
    assert told(meeting.answer) == [] and len(meeting.answer._out) == 48
    meeting.reply().knock()
    assert told(meeting.answer) == [Met()]
    meeting.reply()
    assert told(meeting.call) == [ResponderProven(CALLEDS, 0)]
    assert meeting.prove().tunnel == meeting.answer.accept()[0].tunnel


def test_a_cookie_is_worth_nothing_elsewhere_or_later():
    jar = CookieJar(b"secret", 0)
    first = guarded(jar).knock().reply()
    again = first.call.data_to_send()
    elsewhere = answering(guard=Guard(jar, "198.51.100.8", 40000, b"n" * 12))
    elsewhere.receive_data(again, 0)
    assert told(elsewhere) == [] and len(elsewhere.data_to_send()) == 48

    assert jar.next_deadline() == LIFETIME
    jar.renew(b"second", LIFETIME)
    one_later = answering(guard=Guard(jar, *HERE, b"n" * 12))
    one_later.receive_data(again, 0)
    assert told(one_later) == [Met()]
    jar.renew(b"third", 2 * LIFETIME)
    two_later = answering(guard=Guard(jar, *HERE, b"n" * 12))
    two_later.receive_data(again, 0)
    assert told(two_later) == []


def test_nobody_is_sent_back_twice():
    meeting = guarded(CookieJar(b"secret", 0)).knock()
    meeting.answer.data_to_send()
    meeting.answer.receive_data(meeting.first, 0)
    assert silently_closed(meeting)


def test_a_caller_goes_back_once_and_only_for_its_own_responder():
    meeting = guarded(CookieJar(b"secret", 0)).knock().reply()
    meeting.call.data_to_send()
    meeting.call.receive_data(meeting.second, 0)
    assert isinstance(told(meeting.call)[0], CallFailed)

    meeting = guarded(CookieJar(b"secret", 0)).knock().reply()
    for at in range(4, 48):
        wrong = bytearray(meeting.second)
        wrong[at] ^= 1
        call = native(retries=True)
        call.data_to_send()
        call.receive_data(bytes(wrong), 0)
        assert isinstance(told(call)[0], CallFailed)


def test_where_the_connection_proves_its_source_nobody_is_sent_back():
    second = guarded(CookieJar(b"secret", 0)).knock().answer.data_to_send()
    call = asked(native())
    call.receive_data(second, 0)
    assert isinstance(told(call)[0], CallFailed)


# Whatever comes


@settings(max_examples=200, deadline=None)
@given(
    data=st.binary(max_size=300),
    real=st.integers(0, 2),
    keep=st.integers(0, 300) | st.just(10_000),
    cuts=st.lists(st.integers(0, 600), max_size=5),
    opening=st.sampled_from(sorted(OPENINGS)),
)
def test_the_called_meets_anybody_however_the_bytes_are_cut(data, real, keep, cuts, opening):
    results = []
    for pieces in range(2):
        meeting = Meeting(OPENINGS[opening]()).knock().reply()
        meeting.prove()
        answer = answering()
        if real == 2:
            answer.receive_data(meeting.first, 0)
            answer.data_to_send()
        wire = ((meeting.first, meeting.third)[real - 1][:keep] if real else b"") + data
        feed(answer, wire, cuts if pieces else [])
        events = told(answer)
        assert not any(isinstance(event, CallerProven) for event in events) or keep >= len(meeting.third)
        results.append(([type(event) for event in events], answer.data_to_send(), answer.next_deadline()))
    assert results[0] == results[1]


@settings(max_examples=200, deadline=None)
@given(
    data=st.binary(max_size=300),
    keep=st.integers(0, 90),
    cuts=st.lists(st.integers(0, 400), max_size=5),
    opening=st.sampled_from(sorted(OPENINGS)),
)
def test_the_caller_takes_any_answer_however_the_bytes_are_cut(data, keep, cuts, opening):
    results = []
    for pieces in range(2):
        meeting = Meeting(OPENINGS[opening]()).knock()
        wire = meeting.answer.data_to_send()[:keep] + data
        feed(meeting.call, wire, cuts if pieces else [])
        results.append(([type(event) for event in told(meeting.call)], meeting.call.data_to_send()))
    assert results[0] == results[1]


def feed(machine, data, cuts):
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for a, b in itertools.pairwise(edges):
        machine.receive_data(data[a:b], 0)


@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_handshake_has_no_copy(copier):
    for machine in (native(), answering()):
        with pytest.raises(Misuse):
            copier(machine)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_handshake_takes_its_measure_of_entropy(size):
    with pytest.raises(Misuse):
        native(entropy=bytes(size))
    with pytest.raises(Misuse):
        answering(entropy=bytes(size))
