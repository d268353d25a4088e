// SPDX-License-Identifier: BSD-3-Clause
// Contracts that the tests need and nobody publishes as a package: a universal resolver (ENSIP-23) that sends lookups on
// as batches (ENSIP-21), and resolvers that do, right or wrong, what the tests are about.
pragma solidity ^0.8.20;

interface Registry {
    function resolver(bytes32 node) external view returns (address);
}

error OffchainLookup(address sender, string[] urls, bytes callData, bytes4 callbackFunction, bytes extraData);
error ResolverNotFound(bytes name);
error UnsupportedResolverProfile(bytes4 selector);
error ResolverError(bytes errorData);
error HttpError(uint16 status, string message);

bytes4 constant RESOLVE = 0x9061b923;
bytes4 constant MULTICALL = 0xac9650d8;
bytes4 constant QUERY = 0xa780bab6;

library Names {
    function node(bytes memory name, uint256 at) internal pure returns (bytes32) {
        uint256 size = uint8(name[at]);
        if (size == 0) return bytes32(0);
        return keccak256(abi.encodePacked(node(name, at + 1 + size), keccak256(slice(name, at + 1, size))));
    }

    function slice(bytes memory from, uint256 at, uint256 size) internal pure returns (bytes memory out) {
        out = new bytes(size);
        for (uint256 i; i < size; i++) out[i] = from[at + i];
    }

    function rest(bytes memory from) internal pure returns (bytes memory) {
        return slice(from, 4, from.length - 4);
    }
}

contract Universal {
    struct Request {
        address sender;
        string[] urls;
        bytes data;
    }

    struct State {
        bytes4 asked;
        bool many;
        bool extended;
        address resolver;
        bytes[] calls;
        bool[] done;
        bool[] failed;
        bytes[] results;
        bytes4[] callbacks;
        bytes[] extras;
    }

    Registry immutable registry;

    constructor(Registry registry_) {
        registry = registry_;
    }

    function resolve(bytes memory name, bytes memory data) external view returns (bytes memory, address) {
        State memory state;
        uint256 at;
        while (true) {
            state.resolver = registry.resolver(Names.node(name, at));
            if (state.resolver != address(0)) break;
            at += 1 + uint8(name[at]);
            if (uint8(name[at]) == 0) revert ResolverNotFound(name);
        }
        state.extended = _extended(state.resolver);
        if (!state.extended && at != 0) revert ResolverNotFound(name);
        state.asked = bytes4(data);
        state.many = state.asked == MULTICALL;
        if (state.many) {
            state.calls = abi.decode(Names.rest(data), (bytes[]));
        } else {
            state.calls = new bytes[](1);
            state.calls[0] = data;
        }
        uint256 n = state.calls.length;
        for (uint256 i; state.extended && i < n; i++) {
            state.calls[i] = abi.encodeWithSelector(RESOLVE, name, state.calls[i]);
        }
        state.done = new bool[](n);
        state.failed = new bool[](n);
        state.results = new bytes[](n);
        state.callbacks = new bytes4[](n);
        state.extras = new bytes[](n);
        return _run(state);
    }

    function more(bytes memory response, bytes memory extra) external view returns (bytes memory, address) {
        State memory state = abi.decode(extra, (State));
        (bool[] memory failures, bytes[] memory responses) = abi.decode(response, (bool[], bytes[]));
        uint256 j;
        for (uint256 i; i < state.calls.length; i++) {
            if (state.done[i]) continue;
            if (failures[j]) {
                (state.done[i], state.failed[i], state.results[i]) = (true, true, responses[j]);
            } else {
                state.calls[i] = abi.encodeWithSelector(state.callbacks[i], responses[j], state.extras[i]);
            }
            j++;
        }
        return _run(state);
    }

    function _run(State memory state) internal view returns (bytes memory, address) {
        uint256 n = state.calls.length;
        Request[] memory requests = new Request[](n);
        uint256 pending;
        for (uint256 i; i < n; i++) {
            if (state.done[i]) continue;
            (bool ok, bytes memory said) = state.resolver.staticcall(state.calls[i]);
            if (!ok && bytes4(said) == OffchainLookup.selector) {
                Request memory request = requests[pending++];
                (request.sender, request.urls, request.data, state.callbacks[i], state.extras[i]) =
                    abi.decode(Names.rest(said), (address, string[], bytes, bytes4, bytes));
                continue;
            }
            state.done[i] = true;
            state.failed[i] = !ok;
            state.results[i] = ok && state.extended && said.length > 0 ? abi.decode(said, (bytes)) : said;
        }
        if (pending > 0) {
            assembly {
                mstore(requests, pending)
            }
            string[] memory urls = new string[](1);
            urls[0] = "x-batch-gateway:true";
            bytes memory query = abi.encodeWithSelector(QUERY, requests);
            revert OffchainLookup(address(this), urls, query, this.more.selector, abi.encode(state));
        }
        if (state.many) return (abi.encode(state.results), state.resolver);
        if (state.failed[0]) {
            bytes memory why = state.results[0];
            if (bytes4(why) == HttpError.selector) {
                assembly {
                    revert(add(why, 32), mload(why))
                }
            }
            if (why.length == 0 || bytes4(why) == UnsupportedResolverProfile.selector) {
                revert UnsupportedResolverProfile(state.asked);
            }
            revert ResolverError(why);
        }
        return (state.results[0], state.resolver);
    }

    function _extended(address resolver) internal view returns (bool) {
        (bool ok, bytes memory said) =
            resolver.staticcall(abi.encodeWithSelector(bytes4(0x01ffc9a7), RESOLVE));
        return ok && said.length >= 32 && abi.decode(said, (uint256)) == 1;
    }
}

/// Speaks for all names below its own, on the chain: their ether address is made from the name.
contract Wildcard {
    mapping(bytes32 => address) public owners;

    function set(bytes32 node, address owner) external {
        owners[node] = owner;
    }

    function supportsInterface(bytes4 id) external pure returns (bool) {
        return id == 0x01ffc9a7 || id == RESOLVE;
    }

    function resolve(bytes calldata name, bytes calldata data) external view returns (bytes memory) {
        if (bytes4(data) != 0x3b3b57de) revert UnsupportedResolverProfile(bytes4(data));
        bytes32 node = abi.decode(data[4:], (bytes32));
        require(node == Names.node(name, 0), "the node is not the name's");
        return abi.encode(owners[node]);
    }
}

/// Tells the universal resolver one thing and everybody else another.
contract TwoFaced {
    address immutable universal;

    constructor(address universal_) {
        universal = universal_;
    }

    function supportsInterface(bytes4 id) external view returns (bool) {
        return id == 0x01ffc9a7 || (id == RESOLVE && msg.sender == universal);
    }

    function addr(bytes32) external pure returns (address) {
        return 0x1111111111111111111111111111111111111111;
    }

    function name(bytes32) external pure returns (string memory) {
        return "v1-reverse.integration-tests.eth";
    }

    function resolve(bytes calldata, bytes calldata data) external pure returns (bytes memory) {
        if (bytes4(data) == 0x3b3b57de) return abi.encode(0x2222222222222222222222222222222222222222);
        if (bytes4(data) == 0x691f3431) return abi.encode("ur-reverse.integration-tests.eth");
        revert UnsupportedResolverProfile(bytes4(data));
    }
}

/// Names of addresses of another chain, for all names below its own; the last label but two is the address.
contract ReverseNames {
    mapping(bytes32 => string) public names;

    function set(bytes32 node, string calldata name) external {
        names[node] = name;
    }

    function supportsInterface(bytes4 id) external pure returns (bool) {
        return id == 0x01ffc9a7 || id == RESOLVE;
    }

    function resolve(bytes calldata name, bytes calldata data) external view returns (bytes memory) {
        if (bytes4(data) != 0x691f3431) revert UnsupportedResolverProfile(bytes4(data));
        return abi.encode(names[Names.node(name, 0)]);
    }
}

/// Bytes under keys (ENSIP-24) and nothing else.
contract Blobs {
    mapping(bytes32 => mapping(string => bytes)) blobs;

    function set(bytes32 node, string calldata key, bytes calldata value) external {
        blobs[node][key] = value;
    }

    function supportsInterface(bytes4 id) external pure returns (bool) {
        return id == 0x01ffc9a7 || id == 0xecbfada3;
    }

    function data(bytes32 node, string calldata key) external view returns (bytes memory) {
        return blobs[node][key];
    }
}

/// Sends whoever asks for an ether address to the gateways it was told, as often as it was told.
contract Sender {
    string[] urls;
    uint256 hops;
    address claimed;

    function set(string[] calldata urls_, uint256 hops_, address claimed_) external {
        urls = urls_;
        hops = hops_;
        claimed = claimed_;
    }

    function supportsInterface(bytes4 id) external pure returns (bool) {
        return id == 0x01ffc9a7;
    }

    function addr(bytes32 node) external view returns (address) {
        _send(abi.encodePacked(node), hops);
    }

    function back(bytes calldata response, bytes calldata extra) external view returns (address) {
        uint256 left = abi.decode(extra, (uint256));
        if (left > 0) _send(response, left);
        require(response.length == 32, "a gateway must say 32 octets");
        return abi.decode(response, (address));
    }

    function _send(bytes memory data, uint256 left) internal view {
        address sender = claimed == address(0) ? address(this) : claimed;
        revert OffchainLookup(sender, urls, data, this.back.selector, abi.encode(left - 1));
    }
}
