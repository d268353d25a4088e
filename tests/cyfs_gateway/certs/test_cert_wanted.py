"""The section ``certificates:`` as it is meant, and everything that can be wrong with it at once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_gateway.certs.wanted import LETS_ENCRYPT, Settings, Wanted, read_settings
from cyfs_ns.errors import ConfigFault


def test_names_stand_alone_together_or_with_more_to_say() -> None:
    read = read_settings(
        {
            "agree": True,
            "contact": "me@me.example",
            "names": [
                "Photos.Me.Example.",
                ["me.example", "*.me.example", "me.example"],
                {"names": "xn--mller-kva.example", "challenge": "http-01"},
            ],
        }
    )
    assert read.directory == LETS_ENCRYPT
    assert read.contact == ("mailto:me@me.example",)
    assert read.wanted == (
        Wanted(names=("photos.me.example",), challenge="dns-01"),
        Wanted(names=("me.example", "*.me.example"), challenge="dns-01"),
        Wanted(names=("xn--mller-kva.example",), challenge="http-01"),
    )
    assert read.proves_by_dns == ("photos.me.example", "me.example")


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ([], "expected a mapping"),
        ({"nmaes": []}, "nmaes: is not known"),
        ({"names": ["me.example"]}, "agree: must be true"),
        ({"agree": 1, "names": ["me.example"]}, "agree: must be true"),
        ({"agree": True, "names": ["localhost"]}, "no public host name"),
        ({"agree": True, "names": ["192.0.2.1"]}, "not a host name"),
        ({"agree": True, "names": ["under_score.example"]}, "no public host name"),
        ({"agree": True, "names": ["a.*.example"]}, "not a host name"),
        ({"agree": True, "names": ["me.example", ["me.example"]]}, "names/1: is there twice"),
        ({"agree": True, "names": [[]]}, "names/0: names nothing"),
        ({"agree": True, "names": [{"names": "*.a.example", "challenge": "http-01"}]}, "proven by dns-01 only"),
        ({"agree": True, "names": [[f"x{i}.example" for i in range(101)]]}, "at most 100"),
        ({"directory": "http://ca.example/"}, "must be an https:// URL"),
        ({"challenge": "http01"}, "must be one of"),
        ({"contact": ["me"]}, "no mail address"),
        ({"eab": {"kid": "1", "hmac": "no base64!"}}, "no base64url"),
        ({"agree": True, "on-demand": {"most": 3}}, "everybody could order certificates here"),
        ({"agree": True, "on-demand": {"allow": "*.a.example", "most": 0}}, "number from 1"),
        ({"listen": {"http": "80"}}, "no address and port"),
        ({"listen": {"udp": ":80"}}, "listen/udp: is not known"),
        ({"serve-dns": "yes"}, "must be true or false"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(section: Any, said: str) -> None:
    with pytest.raises(ConfigFault) as fault:
        read_settings(section)
    assert said in str(fault.value)
    assert all(line.startswith("certificates") for line in str(fault.value).splitlines())


def test_all_faults_come_at_once() -> None:
    with pytest.raises(ConfigFault) as fault:
        read_settings({"names": ["localhost"], "contact": "me", "challenge": 7})
    assert len(str(fault.value).splitlines()) == 4


def test_labels_are_file_names_of_their_own() -> None:
    sets = [
        ("me.example",),
        ("*.me.example",),
        ("me.example", "*.me.example"),
        ("me.example", "photos.me.example"),
        (".".join(["a" * 60] * 4),),
        (".".join(["a" * 60] * 3 + ["b" * 60]),),
    ]
    labels = [Wanted(names=names, challenge="dns-01").label for names in sets]
    assert len(set(labels)) == len(sets)
    assert all(len(label) < 200 and "/" not in label and "*" not in label for label in labels)


def test_what_is_secret_is_not_shown() -> None:
    read = read_settings({"eab": {"kid": "k", "hmac": "c2VjcmV0"}})
    assert "c2VjcmV0" not in repr(read)


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.sampled_from(["a.example", "*.b.example"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_KEYS = st.sampled_from(
    ["agree", "challenge", "contact", "directory", "eab", "files", "listen", "names", "on-demand", "serve-dns", "trust"]
)


@settings(max_examples=200)
@given(_ANYTHING | st.dictionaries(_KEYS, _ANYTHING, max_size=5))
def test_anything_is_settings_or_a_fault(section: Any) -> None:
    try:
        assert isinstance(read_settings(section), Settings)
    except ConfigFault as fault:
        assert str(fault).startswith("certificates")
