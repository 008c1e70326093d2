"""Imports a Hugging Face folder and opens the package, and prints time and memory of both: see scripts/bench-import.

Only the standard library, so that this process is small: the system counts a child's memory from what its parent had.
"""

import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

# Seconds that opening may take.
OPEN_BAR = 1.0


def largest_tensor(folder: Path) -> int:
    """Bytes of the largest tensor of a checkpoint."""
    with open(folder / "model.safetensors", "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return max(end - start for start, end in (tensor["data_offsets"] for name, tensor in header.items() if name != "__metadata__"))


def measured(command: list[str]) -> tuple[float, int]:
    """Seconds of a command, and the most bytes of memory that it had."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"bench-import: {' '.join(command)} ended with {child.returncode}")
    # Linux counts KiB, macOS bytes.
    return time.perf_counter() - start, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget(files: list[Path]) -> None:
    """Asks the system to drop what it has of files in memory."""
    for path in files:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def opened(quern: str, package: Path) -> float:
    """Seconds until a package is ready to compute."""
    command = [quern, "model", "bench", str(package), "--parts", "decode", "--runs", "1", "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)["open_seconds"]


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("quern", "folder", "package", "report"):
        parser.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args()
    folder, package = Path(arguments.folder), Path(arguments.package)
    largest = largest_tensor(folder)
    seconds, peak = measured([arguments.quern, "model", "import", str(folder), "--out", str(package), "--json"])
    weights, packed = package / "weights.bin", package.with_name(package.name + ".packed")
    bound = 2 * largest + weights.stat().st_size
    files = [path for path in (*package.iterdir(), packed) if path.is_file()]
    cold = []
    for _ in range(3):
        forget(files)
        cold.append(opened(arguments.quern, package))
    warm = [opened(arguments.quern, package) for _ in range(3)]
    report = {
        "checkpoint_bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "largest_tensor_bytes": largest,
        "package_bytes": weights.stat().st_size,
        "packed_bytes": packed.stat().st_size,
        "import_seconds": seconds,
        "import_peak_bytes": peak,
        "bound_bytes": bound,
        "open_cold_seconds": statistics.median(cold),
        "open_warm_seconds": statistics.median(warm),
    }
    Path(arguments.report).write_text(json.dumps(report, indent=2) + "\n")
    mib = lambda count: f"{count / 2**20:.0f} MiB"
    short = []
    print("| what | figure | bar |\n|---|---|---|")
    print(f"| import | {seconds:.1f} s for {mib(report['checkpoint_bytes'])} | |")
    print(f"| most memory | {mib(peak)} | under {mib(bound)}: twice the largest tensor ({mib(largest)}) and the package ({mib(report['package_bytes'])}) |")
    if peak >= bound:
        short.append(f"the import had {mib(peak)}, bar {mib(bound)}")
    for name, times in (("cold", cold), ("warm", warm)):
        print(f"| open, {name} | {statistics.median(times):.3f} s ({min(times):.3f}..{max(times):.3f}) | under {OPEN_BAR:.0f} s |")
        if statistics.median(times) >= OPEN_BAR:
            short.append(f"opening {name} took {statistics.median(times):.3f} s, bar {OPEN_BAR:.0f} s")
    for what in short:
        print(f"SHORT: {what}")
    sys.exit(3 if short else 0)


main()
