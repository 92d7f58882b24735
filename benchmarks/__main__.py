"""Run all benchmarks and write results/bench.json: {name: ratio}.

python -m benchmarks [NAME ...]
"""

import importlib
import json
import pkgutil
import sys
from pathlib import Path

import torch

import benchmarks
from denseclip.io import write_text

RESULT = Path(__file__).parent.parent / "results" / "bench.json"


def main(wanted: list[str]) -> None:
    """Run the modules bench_*, or those whose names are given, and merge their ratios into the file."""
    names = [
        module.name
        for module in pkgutil.iter_modules(benchmarks.__path__)
        if module.name.startswith("bench_")
    ]
    chosen = [name for name in names if not wanted or name.removeprefix("bench_") in wanted]
    if not chosen:
        sys.exit(f"no such benchmark; there are {', '.join(name.removeprefix('bench_') for name in names)}")
    print(
        f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
    )
    ratios = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in chosen:
        print(f"{name}:", flush=True)
        ratios |= importlib.import_module(f"benchmarks.{name}").run()
        write_text(RESULT, json.dumps(dict(sorted(ratios.items())), indent=1) + "\n")
    for name, ratio in sorted(ratios.items()):
        print(f"{name:32s} {ratio:10.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
