"""The configuration that ``sn init`` writes: a working SN and what else there is to choose, in words; and the records
that its domain needs where it is delegated.
"""

from __future__ import annotations

from collections.abc import Sequence

from cyfs_ns.identity.did import Did

_TEXT = """\
# The SN of {domain}: cyfs-gateway run -c {file}
# Every key is explained in docs/sn.md; cyfs-gateway check -c {file} says what is wrong with it.

listeners: []                    # no proxy on this machine

dns:
  enable: true
  listen: ':53'
  # Strangers are answered for {domain} alone.  This machine itself asks:
  nameserver: [1.1.1.1, 9.9.9.9]

rtcp:
  listen: 2980                 # where devices keep their tunnels

rules: ['MATCH,REJECT']          # peers get no further than to the SN

sn:
  domain: {domain}
  addresses: [{addresses}]
  listen: 3478                   # UDP: STUN and the relay
{owners}
  # Who else may have an account: none, invited (cyfs-gateway sn invite), or anyone.
  open: none
  # What a stranger may use in a month, and how fast; slowed at the first mark, refused at the second.
  # quota: {{slow-bytes: 50 GiB, most-bytes: 100 GiB, rate: 12 MiB, slow-rate: 128 KiB}}
  # reserved: [ourname]          # names nobody gets, beside those that mislead
  # Visitors without a client: TLS by server name, HTTP by Host, and ports that devices lease.
  ingress:
    tls: [443]
    http: [80]
    # ports: 20000-20999
"""


def first_config(domain: str, addresses: Sequence[str], owners: Sequence[Did], file: str) -> str:
    """The text of the file ``file``."""
    if owners:
        told = f"  owners: [{', '.join(repr(str(owner)) for owner in owners)}]"
    else:
        told = "  # The owner of this machine is its owner (id trust); others by their DIDs:\n  # owners: ['did:dev:…']"
    return _TEXT.format(domain=domain, file=file, addresses=", ".join(f"'{one}'" for one in addresses), owners=told)


def delegation(domain: str, addresses: Sequence[str]) -> list[str]:
    """The records (RFC 1035 section 5.1) that whoever has the domain above ``domain`` has to set."""
    server = f"ns1.{domain}."
    glue = [f"{server} 3600 IN {'AAAA' if ':' in one else 'A'} {one}" for one in addresses]
    return [f"{domain}. 3600 IN NS {server}", *glue]
