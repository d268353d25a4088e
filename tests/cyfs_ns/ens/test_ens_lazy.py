"""What is heavy comes when a chain name is asked for, and leaves the process as it was."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("web3", "ens", "eth_utils", "eth_abi", "eth_hash", "eth_typing", "requests", "Crypto", "aiohttp", "pydantic")


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def loaded(imports: str) -> str:
    return run(
        f"import sys\n{imports}\nprint(sorted({HEAVY} & sys.modules.keys()))".replace(str(HEAVY), str(set(HEAVY)))
    )


def test_nothing_heavy_is_imported_at_start() -> None:
    assert loaded("import cyfs_ns.io.cli, cyfs_gateway.io.cli") == "[]"


def test_a_provider_that_nobody_asks_imports_nothing_heavy() -> None:
    made = (
        "from cyfs_ns.io.trusted.enslookups import EnsConfig\n"
        "from cyfs_ns.io.trusted.ensprovider import EnsProvider\n"
        "from cyfs_ns.io.trusted.chain import ChainConfig\n"
        "EnsProvider(EnsConfig(nodes=ChainConfig(endpoints=('https://rpc.example',))))"
    )
    assert loaded(made) == "[]"


def test_web3_leaves_the_limit_of_recursion_alone() -> None:
    program = (
        "import sys\n"
        "from cyfs_ns.io.trusted.chain import ChainConfig, _provider\n"
        "before = sys.getrecursionlimit()\n"
        "_provider('https://rpc.example', ChainConfig(endpoints=()))\n"
        "assert 'web3' in sys.modules\n"
        "print(sys.getrecursionlimit() - before)"
    )
    assert run(program) == "0"
