// Writes what others build on, from forge's artefacts: per contract the ABI (crates/bindings), the storage layout (auditors) and the
// bytecode (test devnets deploy it, the deployment checker compares with it). Usage: node tools/snapshots.mjs ARTEFACTS TARGET
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const CONTRACTS = ["Guardian", "JobMarket", "Ledger", "ModelRegistry", "ProviderRegistry", "QuernToken"];
/// EIP-170.
const MAX_CODE_BYTES = 24_576;

const [artefacts, target] = process.argv.slice(2);
if (!artefacts || !target) throw new Error("usage: snapshots.mjs ARTEFACTS TARGET");

function write(kind, contract, value) {
  mkdirSync(join(target, kind), { recursive: true });
  writeFileSync(join(target, kind, `${contract}.json`), JSON.stringify(value, null, 2) + "\n");
}

// AST ids differ between compilations of the same source: they are dropped from the layout and from the names of its types.
function storage(layout) {
  const name = (type) => type.replace(/\)\d+(_storage)?/g, ")$1");
  const variable = ({ label, slot, offset, type }) => ({ label, slot: Number(slot), offset, type: name(type) });
  const types = {};
  for (const [id, { encoding, label, numberOfBytes, members }] of Object.entries(layout.types ?? {})) {
    types[name(id)] = { encoding, label, bytes: Number(numberOfBytes), ...(members && { members: members.map(variable) }) };
  }
  const sorted = Object.fromEntries(Object.entries(types).sort(([a], [b]) => (a < b ? -1 : 1)));
  return { variables: layout.storage.map(variable), types: sorted };
}

for (const contract of CONTRACTS) {
  const artefact = JSON.parse(readFileSync(join(artefacts, `${contract}.sol`, `${contract}.json`), "utf8"));
  const { bytecode, deployedBytecode } = artefact;
  const bytes = (deployedBytecode.object.length - 2) / 2;
  if (bytes > MAX_CODE_BYTES) throw new Error(`${contract}: ${bytes} bytes of code, EIP-170 allows ${MAX_CODE_BYTES}`);
  // Where the constructor writes immutables into the code: [offset, bytes] pairs.
  const immutables = Object.values(deployedBytecode.immutableReferences ?? {})
    .flat()
    .map(({ start, length }) => [start, length])
    .sort(([a], [b]) => a - b);

  write("abi", contract, artefact.abi);
  write("storage", contract, storage(artefact.storageLayout));
  write("bytecode", contract, { creation: bytecode.object, runtime: deployedBytecode.object, immutables });
}
