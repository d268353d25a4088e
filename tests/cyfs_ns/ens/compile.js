// Usage: node compile.js PLACE_OF_SOLC < SOURCE.sol > CONTRACTS.json      {name: bytecode}
"use strict";
const solc = require(process.argv[2] + "/soljson.js");
const compile = solc.cwrap("solidity_compile", "string", ["string", "number", "number"]);
const source = require("fs").readFileSync(0, "utf8");
const asked = {
  language: "Solidity",
  sources: { "Fixtures.sol": { content: source } },
  settings: {
    optimizer: { enabled: true, runs: 1 },
    viaIR: true,
    evmVersion: "paris",
    outputSelection: { "*": { "*": ["evm.bytecode.object"] } },
  },
};
const said = JSON.parse(compile(JSON.stringify(asked), 0, 0));
const errors = (said.errors || []).filter((each) => each.severity === "error");
if (errors.length) {
  console.error(errors.map((each) => each.formattedMessage).join("\n"));
  process.exit(1);
}
const found = {};
for (const [name, contract] of Object.entries(said.contracts["Fixtures.sol"])) found[name] = contract.evm.bytecode.object;
console.log(JSON.stringify(found));
