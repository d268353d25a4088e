"""Faults and callers: what a code means is said in one place, and nobody is allowed nothing."""

from __future__ import annotations

import pytest

from cyfs_ns.errors import Misuse
from zone.config import faults as config
from zone.config.access import check_reading
from zone.config.baserules import BASE
from zone.config.keys import At
from zone.krpc.caller import NOBODY
from zone.krpc.faults import MOST_MESSAGE, RETRYABLE, STATUS, Code, KrpcFault, is_code


def test_every_code_has_a_status_and_is_a_code():
    assert set(STATUS) == set(Code)
    assert all(map(is_code, Code))


@pytest.mark.parametrize("code", config.Code)
def test_errors_of_the_configuration_keep_code_and_meaning(code):
    fault = KrpcFault.of_config(config.ConfigError(code, "a key"))
    assert (fault.code, fault.retryable) == (code, code in config.RETRYABLE)
    assert (code in RETRYABLE) == (code in config.RETRYABLE)
    assert fault.message.endswith(config.NEXT[code])
    assert fault.status == STATUS[Code(code)]


def test_a_service_may_have_codes_of_its_own():
    fault = KrpcFault("too-cold", "bring a coat", data={"degrees": -20})
    assert (fault.status, fault.retryable, fault.data) == (422, False, {"degrees": -20})
    with pytest.raises(Misuse):
        KrpcFault("Too Cold", "")


def test_a_message_has_an_end():
    assert len(KrpcFault(Code.INVALID, "x" * 5000).message) == MOST_MESSAGE


def test_who_proved_nothing_is_allowed_nothing():
    with pytest.raises(config.ConfigError, match="nobody may"):
        check_reading(BASE, NOBODY.subjects, At("boot/config"))
