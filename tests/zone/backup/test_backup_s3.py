"""Requests to buckets are signed as Amazon documents it, and what such servers answer is read."""

from __future__ import annotations

import pytest
from backuptargets import S3_KEY, s3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import get_current_datetime
from botocore.credentials import Credentials as Theirs

from cyfs_ns.errors import BadWire, ConfigFault, Refused
from cyfs_ns.io.dial import plain_dial
from cyfs_ns.io.http import Response
from zone.backup.signature import Credentials, encoded, query_text, signed
from zone.io.backup.s3 import Bucket, _page

DOCUMENTED = Credentials(S3_KEY, "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
HOST = {"host": "examplebucket.s3.amazonaws.com"}
WHEN = "20130524T000000Z"


@pytest.mark.parametrize(
    ("method", "path", "query", "headers", "body", "signature"),
    [
        (
            "GET",
            "/test.txt",
            {},
            {"range": "bytes=0-9"},
            b"",
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "PUT",
            "/test$file.text",
            {},
            {"date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
            b"Welcome to Amazon S3.",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        ("GET", "/", {"lifecycle": ""}, {}, b"", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        (
            "GET",
            "/",
            {"max-keys": "2", "prefix": "J"},
            {},
            b"",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
)
def test_the_examples_of_the_manual(
    method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes, signature: str
) -> None:
    told = signed(DOCUMENTED, method, path, query, HOST | headers, body, WHEN)
    assert told["authorization"].endswith(f"Signature={signature}")
    assert "wJalrXUtnFEMI" not in repr(DOCUMENTED)


@pytest.mark.parametrize("query", [{}, {"prefix": "of the zone/ü+~", "delimiter": "/", "continuation-token": "a=b&c"}])
def test_it_is_what_amazons_own_library_signs(query: dict[str, str]) -> None:
    path, host = "/bucket/of the zone/chunks/ab/+ü", "s3.example:9000"
    url = f"https://{host}{encoded(path, '/')}{'?' + query_text(query) if query else ''}"
    request = AWSRequest("PUT", url, data=b"bytes", headers={"host": host})
    S3SigV4Auth(Theirs(S3_KEY, "secret"), "s3", "eu-central-1").add_auth(request)
    when = request.context["timestamp"]
    told = signed(Credentials(S3_KEY, "secret", "eu-central-1"), "PUT", path, query, {"host": host}, b"bytes", when)
    assert told["authorization"].split("Signature=")[1] == request.headers["Authorization"].split("Signature=")[1]
    assert get_current_datetime().year >= int(when[:4])


@pytest.mark.parametrize(
    "url",
    [
        "s3+https://host",
        "s3+https:///bucket",
        "s3+ftp://host/bucket",
        "s3+https://host/bucket?zone=eu",
        "s3+https://host/bucket?region",
        "s3+https://host:port/bucket",
        "s3+https://key:word@host/bucket",
    ],
)
def test_places_that_are_no_bucket(url: str) -> None:
    with pytest.raises(ConfigFault) as told:
        Bucket(url, plain_dial(), "key:secret")
    assert "word@" not in str(told.value)


def test_a_bucket_wants_keys() -> None:
    with pytest.raises(ConfigFault, match="--access FILE"):
        Bucket("s3+https://host/bucket", plain_dial(), "")


async def test_a_bucket_that_is_not_there_is_no_empty_one() -> None:
    async with s3() as url:
        other = Bucket(url.replace("/bucket/", "/other/"), plain_dial(), "key:secret")
        with pytest.raises(Refused, match="NoSuchBucket"):
            await other.read("target", 10)
        with pytest.raises(Refused, match="NoSuchBucket"):
            await other.list("backups")


class Small(Bucket):
    """One whose listings have pages of two names."""

    async def _ask(
        self, method: str, path: str, *, query: dict[str, str] | None = None, body: bytes = b"", most: int = 1 << 20
    ) -> Response:
        query = None if query is None else query | {"max-keys": "2"}
        return await super()._ask(method, path, query=query, body=body, most=most)


async def test_more_than_a_page_is_listed() -> None:
    async with s3() as url:
        bucket = Small(url, plain_dial(), "key:secret")
        names = {f"a name {number} & more" for number in range(7)}
        for name in names:
            await bucket.write(f"chunks/ab/{name}", b"")
        await bucket.write("chunks/ab/deep/one", b"")
        assert await bucket.list("chunks/ab") == names | {"deep"}


@pytest.mark.parametrize("data", [b"", b"<", b"<a></b>", b"<!DOCTYPE a []><a/>", b"<a>" * 100])
def test_no_bytes_of_strangers_are_a_listing(data: bytes) -> None:
    with pytest.raises(BadWire):
        _page(data)
