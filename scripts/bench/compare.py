"""Runs the engines in turns, prints the tables and what is short of its bar: see scripts/bench-inference."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PROMPT = 512
# Ids that the peers decode: some seconds each.
DECODE = {"a": 256, "b": 96, "c": 48}
# Sentences of the encoder's batch, and their tokens.
SENTENCES, TOKENS = 32, 20
# Engines by their names in the tables.
OURS, SINGLE, CANDLE, LLAMA, PLAIN = "quern", "quern, 1 thread", "candle", "llama.cpp", "llama.cpp, no AMX"
# More of the machine than this used by others, and a run counts only if no other is quieter.
NOISE = 0.05
# The columns of the table, and what else is compared.
FIGURES = {
    "prefill_tps": "prefill 512 t/s",
    "decode_tps": "decode t/s",
    "check_tps": "check t/s",
    "batch8_tps": "batch of 8 t/s",
    "sentences_per_second": "sentences/s",
}
OTHERS = ["dram_gbps", "dram_share", "int8_peak_gops", "int8_kernel_gops", "resident_bytes", "resident_ratio", "packed_bytes", "kv_bytes", "open_seconds"]


def bars(threads: int) -> list[tuple]:
    """What must hold with two threads: shape, (engine, figure), what it is divided by or None, least or most, bound."""
    if threads != 2:
        return []
    found = [
        ("a", (OURS, "decode_tps"), (LLAMA, "decode_tps"), "least", 1.9),
        ("a", (OURS, "prefill_tps"), (LLAMA, "prefill_tps"), "least", 3.0),
        ("b", (OURS, "dram_share"), None, "least", 0.80),
        ("c", (OURS, "dram_share"), None, "least", 0.85),
        ("c", (OURS, "prefill_tps"), (LLAMA, "prefill_tps"), "least", 2.6),
        ("c", (OURS, "prefill_tps"), (CANDLE, "prefill_tps"), "least", 1.9),
        ("c", (OURS, "check_tps"), (OURS, "decode_tps"), "least", 8.0),
        ("c", (OURS, "batch8_tps"), (OURS, "decode_tps"), "least", 5.0),
        ("minilm", (OURS, "sentences_per_second"), (CANDLE, "sentences_per_second"), "least", 2.0),
    ]
    for shape in "abc":
        found.append((shape, (OURS, "resident_ratio"), None, "most", 1.1))
        found += [(shape, (OURS, figure), (SINGLE, figure), "least", 1.9) for figure in ("decode_tps", "prefill_tps")]
    # The bars were set on a machine without AMX.
    found += [(shape, ours, (PLAIN, by[1]), kind, bound) for shape, ours, by, kind, bound in found if by and by[0] == LLAMA]
    return found


def busy() -> tuple[int, int]:
    """Processor time of the whole machine so far: used, total."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


class Crashed(Exception):
    """A program was ended by a signal."""


def run(command: list[str], environment: dict[str, str]) -> dict:
    """The JSON that a command prints last, with the share of the machine that others used meanwhile."""
    before, times = busy() if Path("/proc/stat").exists() else (0, 0), os.times()
    done = subprocess.run(command, stdout=subprocess.PIPE, env={**os.environ, **environment}, text=True)
    if done.returncode < 0:
        raise Crashed(f"{' '.join(command)} was ended by signal {-done.returncode}")
    if done.returncode != 0:
        sys.exit(f"bench-inference: {' '.join(command)} ended with {done.returncode}")
    foreign = 0.0
    if Path("/proc/stat").exists():
        after, now = busy(), os.times()
        ours = (now.children_user + now.children_system - times.children_user - times.children_system) * os.sysconf("SC_CLK_TCK")
        foreign = max(0.0, (after[0] - before[0] - ours) / max(1, after[1] - before[1]))
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    if "prefill512_tps" in figures:
        figures["prefill_tps"] = figures["prefill512_tps"]
    return {**figures, "foreign": foreign}


def cpu() -> dict:
    """Name and instructions of the processor, as far as the system says them."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in info.splitlines())}
    flags = [flag for flag in fields.get("flags", "").split() if flag.startswith(("avx2", "avx512_vnni", "avx512f", "amx"))]
    return {"cpu": fields.get("model name", platform.processor()), "cores": os.cpu_count(), "instructions": flags}


def commands(arguments: argparse.Namespace, shape: str, peers: list[str], amx: bool) -> dict[str, tuple]:
    """Command and environment of each engine for a shape."""
    work, threads = Path(arguments.work), arguments.threads
    ours = [arguments.quern, "model", "bench", "--shape", shape, "--json", "--runs", str(arguments.runs)]
    limit = {"RAYON_NUM_THREADS": str(threads), "CANDLE_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    candle = str(work / "candle/release/bench-candle")
    if shape == "minilm":
        found = {OURS: ([*ours, "--threads", str(threads), "--tokens", str(TOKENS)], {})}
        if "candle" in peers:
            found[CANDLE] = ([candle, "minilm", str(SENTENCES), str(TOKENS)], limit)
        return found
    ours += ["--dir", str(work)]
    # Ours writes its random weights once: not in a run that is measured.
    subprocess.run([*ours, "--parts", "decode"], check=True, stdout=subprocess.DEVNULL)
    file = work / f"random-{shape}.gguf"
    if peers and not file.exists():
        part = file.with_suffix(".part")
        subprocess.run([sys.executable, HERE / "random_gguf.py", shape, part], check=True)
        part.rename(file)
    counts = [str(PROMPT), str(DECODE[shape])]
    found = {OURS: ([*ours, "--threads", str(threads)], {})}
    if threads > 1:
        found[SINGLE] = ([*ours, "--threads", "1", "--parts", "decode,prefill"], {})
    if "candle" in peers:
        # candle's quantised Llama reads a tied head; its b lacks nothing either, since b has no bias here.
        found[CANDLE] = ([candle, "llama", str(file), *counts], limit)
    if "llama.cpp" in peers:
        script = [sys.executable, str(HERE / "llama_cpp_peer.py"), str(file), str(threads), *counts]
        found[LLAMA] = (script, limit)
        if amx:
            found[PLAIN] = ([*script, "plain"], limit)
    return found


def summary(shape: str, engine: str, runs: list[dict]) -> dict:
    """Medians and spreads over the quiet rounds, or over all where none was quiet."""
    quiet = [run for run in runs if run["foreign"] <= NOISE] or runs
    row = {"shape": shape, "engine": engine, "rounds": len(runs), "counted": len(quiet)}
    for key in [*FIGURES, *OTHERS, "foreign"]:
        figures = [run[key] for run in quiet if run.get(key) is not None]
        if figures:
            row[key] = statistics.median(figures)
            row[f"{key}_spread"] = [min(figures), max(figures)]
    return row | {key: runs[0][key] for key in ("isa", "threads", "system", "check_ids") if key in runs[0]}


def verdicts(rows: list[dict], threads: int) -> list[dict]:
    """Every bar whose figures are there."""
    figures = {(row["shape"], row["engine"], key): value for row in rows for key, value in row.items()}
    found = []
    for shape, (engine, key), by, kind, bound in sorted(bars(threads), key=lambda bar: bar[0]):
        above, below = figures.get((shape, engine, key)), figures.get((shape, *by)) if by else 1.0
        if above is None or below is None:
            continue
        over = "" if by is None else f" / {by[0]}" if by[1] == key else f" / {by[1]}"
        reached = above / below
        short = reached < bound if kind == "least" else reached > bound
        found.append({"shape": shape, "what": f"{key}{over}", "kind": kind, "bound": bound, "reached": reached, "short": short})
    return found


def table(rows: list[dict]) -> None:
    """Markdown: every engine, with ours divided by the peers'."""
    print(f"| shape | engine | {' | '.join(FIGURES.values())} | ours is x prefill | x decode | others' load |")
    print(f"|{'---|' * (len(FIGURES) + 5)}")
    ours = {row["shape"]: row for row in rows if row["engine"] == OURS}
    for row in rows:
        cells = []
        for key in FIGURES:
            least, most = row.get(f"{key}_spread", (0, 0))
            cells.append(f"{row[key]:.1f} ({least:.1f}..{most:.1f})" if key in row else "")
        for key in ("prefill_tps", "decode_tps"):
            mine = ours[row["shape"]].get(key)
            cells.append(f"{mine / row[key]:.2f}" if mine and key in row and row["engine"] != OURS else "")
        print(f"| {row['shape']} | {row['engine']} | {' | '.join(cells)} | {row['foreign']:.0%} |")
    print()
    for row in ours.values():
        if "dram_gbps" in row:
            print(
                f"{row['shape']}: memory {row['dram_gbps']:.1f} GB/s, of which decoding reads {row['dram_share']:.0%}; int8 {row['int8_peak_gops']:.0f} Gop/s in "
                f"registers, {row['int8_kernel_gops']:.0f} in the product kernel; opened in {row['open_seconds']:.3f} s"
            )


def why(arguments: argparse.Namespace, shape: str) -> list[dict]:
    """Where the time of a step goes."""
    command = [arguments.quern, "model", "bench", "--shape", shape, "--threads", str(arguments.threads), "--json", "--dir", arguments.work]
    profile = run([*command, "--parts", "decode", "--runs", "1", "--profile"], {})["profile"]
    print(f"\nWhere the time goes, shape {shape}\n\n| step | op | us | share | GB/s | Gop/s |\n|---|---|---|---|---|---|")
    for line in profile:
        rates = [f"{line[key]:.1f}" if line[key] else "" for key in ("gbps", "gops")]
        print(f"| {line['step']} | {line['op']} | {line['seconds'] * 1e6:.0f} | {line['share']:.1%} | {' | '.join(rates)} |")
    return profile


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("quern", "work", "shapes", "peers"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("threads", "rounds", "runs"):
        parser.add_argument(f"--{name}", type=int, required=True)
    arguments = parser.parse_args()
    peers = [peer for peer in arguments.peers.split(",") if peer]
    shapes = arguments.shapes.split(",")
    if unknown := [shape for shape in shapes if shape not in (*DECODE, "minilm")]:
        sys.exit(f"bench-inference: there is no shape {unknown[0]!r}; shapes are a, b, c, minilm")
    machine = cpu()
    rows, crashed = [], {}
    for shape in shapes:
        found = commands(arguments, shape, peers, "amx_int8" in machine["instructions"])
        results: dict[str, list[dict]] = {engine: [] for engine in found}
        for at in range(arguments.rounds):
            for engine, (command, environment) in found.items():
                print(f"shape {shape}, round {at + 1} of {arguments.rounds}: {engine}", file=sys.stderr)
                if (shape, engine) in crashed:
                    continue
                try:
                    results[engine].append(run(command, environment))
                except Crashed as crash:
                    if engine in (OURS, SINGLE):
                        sys.exit(f"bench-inference: {crash}")
                    # A peer's defect must not hide how it compares elsewhere, nor pass for a bar that holds.
                    crashed[shape, engine] = str(crash)
        rows += [summary(shape, engine, runs) for engine, runs in results.items() if runs]
    held = verdicts(rows, arguments.threads)
    table(rows)
    print("\n| shape | bar | reached | bound | |\n|---|---|---|---|---|")
    for bar in held:
        print(f"| {bar['shape']} | {bar['what']} | {bar['reached']:.2f} | at {bar['kind']} {bar['bound']} | {'SHORT' if bar['short'] else 'holds'} |")
    print()
    for bar in held:
        if bar["short"]:
            print(f"SHORT: shape {bar['shape']}: {bar['what']} is {bar['reached']:.2f}, bar at {bar['kind']} {bar['bound']}")
    for row in rows:
        if row["foreign"] > NOISE:
            print(f"NOISY: shape {row['shape']}, {row['engine']}: others used {row['foreign']:.0%} of the machine meanwhile, in every round")
    for (shape, engine), what in crashed.items():
        print(f"NOT COMPARED: shape {shape}, {engine}: {what}")
    short = {bar["shape"] for bar in held if bar["short"]}
    report = {"machine": machine, "threads": arguments.threads, "engines": rows, "bars": held}
    save = lambda: (Path(arguments.work) / "inference.json").write_text(json.dumps(report, indent=2) + "\n")
    save()
    report["profiles"] = {shape: why(arguments, shape) for shape in shapes if shape in short and shape in DECODE}
    save()
    sys.exit(3 if short or crashed else 0)


main()
