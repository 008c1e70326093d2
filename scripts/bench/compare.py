"""Runs the engines in turns and prints the table: see scripts/bench-inference."""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PROMPT = 512
# Ids to decode: some seconds each.
DECODE = {"a": 256, "b": 96, "c": 48}
# Bars: least ratio of ours to the peer's, by shape, measure and peer.
BARS = {
    ("a", "decode_tps", "llama.cpp"): 1.9,
    ("a", "prefill_tps", "llama.cpp"): 3.0,
    ("c", "prefill_tps", "llama.cpp"): 2.6,
    ("c", "prefill_tps", "candle"): 1.9,
}
# Least share of the DRAM bandwidth that decoding must reach, by shape, with two threads.
DRAM_BARS = {"b": 0.80, "c": 0.85}


def busy() -> tuple[int, int]:
    """Processor time of the whole machine so far: used, total."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


def run(command: list[str], environment: dict[str, str]) -> tuple[dict, float]:
    """The JSON that a command prints last, and the share of the machine that others used meanwhile."""
    before, times = busy() if Path("/proc/stat").exists() else (0, 0), os.times()
    done = subprocess.run(command, stdout=subprocess.PIPE, env={**os.environ, **environment}, text=True)
    if done.returncode != 0:
        sys.exit(f"bench-inference: {' '.join(command)} ended with {done.returncode}")
    foreign = 0.0
    if Path("/proc/stat").exists():
        after, now = busy(), os.times()
        ours = (now.children_user + now.children_system - times.children_user - times.children_system) * os.sysconf("SC_CLK_TCK")
        foreign = max(0.0, (after[0] - before[0] - ours) / max(1, after[1] - before[1]))
    return json.loads(done.stdout.strip().splitlines()[-1]), foreign


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("quern", "work", "shapes", "peers"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("threads", "rounds"):
        parser.add_argument(f"--{name}", type=int, required=True)
    arguments = parser.parse_args()
    work, threads = Path(arguments.work), arguments.threads
    peers = [peer for peer in arguments.peers.split(",") if peer]
    report = []
    for shape in arguments.shapes.split(","):
        if shape not in DECODE:
            sys.exit(f"bench-inference: there is no shape {shape!r}; shapes are a, b, c")
        file = work / f"random-{shape}.gguf"
        if peers and not file.exists():
            part = file.with_suffix(".part")
            subprocess.run([sys.executable, HERE / "random_gguf.py", shape, part], check=True)
            part.rename(file)
        counts = [str(PROMPT), str(DECODE[shape])]
        commands = {"quern": ([arguments.quern, "model", "bench", "--shape", shape, "--threads", str(threads), "--json"], {})}
        if "candle" in peers:
            # candle's quantised Llama reads a tied head; its b lacks nothing either, since b has no bias here.
            binary = str(work / "candle/release/bench-candle")
            commands["candle"] = ([binary, str(file), *counts], {"RAYON_NUM_THREADS": str(threads), "CANDLE_NUM_THREADS": str(threads)})
        if "llama.cpp" in peers:
            script = [sys.executable, str(HERE / "llama_cpp_peer.py"), str(file), str(threads), *counts]
            commands["llama.cpp"] = (script, {"OMP_NUM_THREADS": str(threads)})
        results: dict[str, list[dict]] = {engine: [] for engine in commands}
        for _ in range(arguments.rounds):
            for engine, (command, environment) in commands.items():
                figures, foreign = run(command, environment)
                figures.setdefault("prefill_tps", figures.get("prefill512_tps"))
                results[engine].append({**figures, "foreign": foreign})
        report += summary(shape, threads, results)
    (work / "inference.json").write_text(json.dumps(report, indent=2) + "\n")
    table(report)
    sys.exit(3 if any(row["short"] for row in report) else 0)


def summary(shape: str, threads: int, results: dict[str, list[dict]]) -> list[dict]:
    """Medians, spreads, ratios and what is short of its bar."""
    middle = {engine: {key: statistics.median(run[key] for run in runs) for key in ("prefill_tps", "decode_tps", "foreign")} for engine, runs in results.items()}
    rows = []
    for engine, runs in results.items():
        row = {"shape": shape, "threads": threads, "engine": engine, **middle[engine], "short": []}
        row["spread"] = {key: [min(run[key] for run in runs), max(run[key] for run in runs)] for key in ("prefill_tps", "decode_tps")}
        if engine == "quern":
            extra = [key for key in runs[0] if key.endswith(("_tps", "_gbps", "_share", "_gops")) and key not in row]
            row |= {key: statistics.median(run[key] for run in runs) for key in extra}
            bar = DRAM_BARS.get(shape, 0.0) if threads == 2 else 0.0
            if row.get("dram_share", 1.0) < bar:
                row["short"].append(f"decode at {row['dram_share']:.0%} of DRAM bandwidth, bar {bar:.0%}")
        else:
            for key in ("prefill_tps", "decode_tps"):
                row[f"ratio_{key}"] = middle["quern"][key] / middle[engine][key]
                bar = BARS.get((shape, key, engine), 0.0) if threads == 2 else 0.0
                if row[f"ratio_{key}"] < bar:
                    row["short"].append(f"{key} {row[f'ratio_{key}']:.2f} x, bar {bar} x")
        rows.append(row)
    return rows


def table(report: list[dict]) -> None:
    """Markdown."""
    print("| shape | engine | prefill 512 t/s (least..most) | decode t/s (least..most) | ours is x prefill | x decode | foreign load |")
    print("|---|---|---|---|---|---|---|")
    for row in report:
        spans = [f"{row[key]:.1f} ({row['spread'][key][0]:.1f}..{row['spread'][key][1]:.1f})" for key in ("prefill_tps", "decode_tps")]
        ratios = [f"{row[key]:.2f}" if key in row else "" for key in ("ratio_prefill_tps", "ratio_decode_tps")]
        print(f"| {row['shape']} | {row['engine']} | {' | '.join(spans)} | {' | '.join(ratios)} | {row['foreign']:.0%} |")
    for row in report:
        for short in row["short"]:
            print(f"SHORT: shape {row['shape']}, {row['engine']}: {short}")
        if row["foreign"] > 0.05:
            print(f"NOISY: shape {row['shape']}, {row['engine']}: others used {row['foreign']:.0%} of the machine meanwhile")


main()
