// See scripts/contracts-verify-deployment. Usage: node verify-deployment.mjs RPC_URL DEPLOYMENT CAST
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const [rpc, file, castPath] = process.argv.slice(2);
const deployment = JSON.parse(readFileSync(file, "utf8"));
const snapshots = join(dirname(fileURLToPath(import.meta.url)), "..", "snapshots", "bytecode");

function cast(...args) {
  return execFileSync(castPath, args, { encoding: "utf8", maxBuffer: 1 << 24, stdio: ["ignore", "pipe", "pipe"] }).trim();
}

const address = (contract) => deployment.contracts[contract].address;
// A contract that has no such view is another contract: the answer then differs from any in the file.
function view(contract, signature) {
  try {
    return cast("call", "--rpc-url", rpc, address(contract), signature).split("\n");
  } catch (error) {
    return [`no answer (${String(error.stderr).trim()})`];
  }
}
// cast prints "1000000 [1e6]" for large numbers.
const plain = (value) => String(value).replace(/ \[.*\]$/, "").toLowerCase();

let differences = 0;
function expect(what, expected, actual) {
  if (plain(expected) === plain(actual)) return;
  differences += 1;
  console.error(`DIFFERS  ${what}\n  file:  ${expected}\n  chain: ${actual}`);
}

/// The code with zeros where the constructor wrote immutables: their values are checked through the views below.
function masked(code, immutables) {
  const bytes = Buffer.from(code.slice(2), "hex");
  for (const [start, length] of immutables) bytes.fill(0, start, start + length);
  return bytes.toString("hex");
}

function checkCode(contract) {
  const { runtime, immutables } = JSON.parse(readFileSync(join(snapshots, `${contract}.json`), "utf8"));
  const code = cast("code", "--rpc-url", rpc, address(contract));
  expect(`${contract}: hash of the code`, deployment.contracts[contract].codeHash, cast("keccak", code));
  if (code.length !== runtime.length || masked(code, immutables) !== masked(runtime, immutables)) {
    differences += 1;
    console.error(`DIFFERS  ${contract}: the code at ${address(contract)} is not what this source compiles to`);
  }
}

expect("chain id", deployment.chainId, cast("chain-id", "--rpc-url", rpc));
const ours = ["Guardian", "ModelRegistry", "JobMarket", "ProviderRegistry", "Ledger"];
// A token that was there before the deployment is not ours to compare.
if (deployment.tokenDeployed) ours.push("QuernToken");
ours.forEach(checkCode);

const wiring = [
  ["Ledger", "TOKEN", "QuernToken"],
  ["Ledger", "JOB_MARKET", "JobMarket"],
  ["Ledger", "PROVIDER_REGISTRY", "ProviderRegistry"],
  ["JobMarket", "LEDGER", "Ledger"],
  ["JobMarket", "PROVIDER_REGISTRY", "ProviderRegistry"],
  ["JobMarket", "MODEL_REGISTRY", "ModelRegistry"],
  ["JobMarket", "GUARDIAN", "Guardian"],
  ["ModelRegistry", "GUARDIAN", "Guardian"],
  ["ProviderRegistry", "LEDGER", "Ledger"],
  ["ProviderRegistry", "GUARDIAN", "Guardian"],
];
for (const [contract, name, other] of wiring) {
  expect(`${contract}.${name}`, address(other), view(contract, `${name}()(address)`)[0]);
}
expect("Ledger.DISPUTE_GAME", deployment.disputeGame, view("Ledger", "DISPUTE_GAME()(address)")[0]);
expect("JobMarket.DISPUTE_GAME", deployment.disputeGame, view("JobMarket", "DISPUTE_GAME()(address)")[0]);
expect("Guardian.GUARDIAN", deployment.guardian, view("Guardian", "GUARDIAN()(address)")[0]);
expect("Guardian.EXPIRES_AT_BLOCK", deployment.guardianExpiresAtBlock, view("Guardian", "EXPIRES_AT_BLOCK()(uint256)")[0]);
expect("ProviderRegistry.UNBONDING_SECS", deployment.unbondingSecs, view("ProviderRegistry", "UNBONDING_SECS()(uint40)")[0]);
if (deployment.tokenDeployed) {
  expect("QuernToken.bridge", deployment.bridge, view("QuernToken", "bridge()(address)")[0]);
  expect("QuernToken.remoteToken", deployment.remoteToken, view("QuernToken", "remoteToken()(address)")[0]);
}

const names = ["challengeWindowSecs", "extensionSecs", "maxGameSecs", "minLock", "lockFactorBps", "penaltyBps"];
names.push("challengerShareBps", "clientShareBps");
const types = "(uint32,uint32,uint32,uint96,uint32,uint16,uint16,uint16)";
const tuple = view("JobMarket", `parameters()(${types})`).join(" ").replace(/^\(|\)$/g, "").split(", ");
names.forEach((name, i) => expect(`parameter ${name}`, deployment.parameters[name], tuple[i]));

// The domain that jobs and receipts are signed in, computed here: it is an immutable of the market without a view of its parts.
const domain = cast(
  "abi-encode",
  "f(bytes32,bytes32,bytes32,uint256,address)",
  cast("keccak", "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
  cast("keccak", "Quern"),
  cast("keccak", "1"),
  String(deployment.chainId),
  address("JobMarket"),
);
expect("JobMarket.domainSeparator", cast("keccak", domain), view("JobMarket", "domainSeparator()(bytes32)")[0]);

if (differences > 0) {
  console.error(`${differences} differences between ${file} and the chain`);
  process.exit(1);
}
console.log(`${file}: ${ours.length} contracts and all that they fixed are as the file says`);
