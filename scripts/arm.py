"""Run qrt's kernels and whole programs on emulated AArch64 CPUs; their bytes must be those of here.

    python scripts/arm.py [--folder FOLDER] [--quick]

Builds an AArch64 Python (`arm_root.py`) and cross-compiles here what runs there; under qemu nothing
needs numba. Programs are the model of our own and random graphs, with the outputs of this machine.
The tests of kernels run here and send their calls there (`arm_plugin.py`). CPUs: cortex-a72 has no
dot products, neoverse-n1 has them, max has i8mm too. Says so and ends with success when the
packages cannot be had, unless QRT_ARM=required.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

CPUS = {"cortex-a72": "neon", "neoverse-n1": "dotprod", "max": "i8mm"}  # with the level each has
TESTS = ("test_gemm_tiles", "test_gemm_extremes", "test_gemm_float", "test_gemm_limits",
         "test_gemm_pack_kernel", "test_gemm_run_time_columns", "test_depthwise_tiles",
         "test_conv_geometry", "test_winograd", "test_found_ranges", "test_nbits_kernels",
         "test_ops_*")  # fmt: skip
GRAPHS = 40  # random graphs of each spelling

Array = np.ndarray[Any, Any]
Model = tuple[bytes, dict[str, tuple[int, ...]]]  # with the shapes of its inputs


def main() -> int:
    """Prepare here, run there; 0 when all bytes agree."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "arm")
    parser.add_argument("--quick", action="store_true", help="programs only, no kernel tests")
    parser.add_argument("--there", nargs=2, metavar=("CASES", "LEVEL"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.there:
        return run_cases(Path(arguments.there[0]), arguments.there[1])
    from arm_root import Unavailable, build_root, command

    from qrt.jit.target import host_arch

    folder = arguments.folder.resolve()
    root = folder / "root"
    start = time.perf_counter()
    try:
        build_root(root)
    except Unavailable as reason:
        print(f"skipped, no AArch64 Python: {reason}")
        return 1 if os.environ.get("QRT_ARM") == "required" else 0
    say(start, "AArch64 Python is there")
    os.environ.setdefault("QRT_CACHE_DIR", str(folder / "kernels"))
    os.environ["QRT_PROGRESS"] = "0"
    # at once, rather than model by model
    say(start, f"{compile_kernels('portable', host_arch(), [])} kernels compiled for this machine")
    cases = folder / "cases.npz"
    models = write_cases(cases)
    say(start, f"{len(models)} models written")
    for level in CPUS.values():
        say(start, f"{compile_kernels(level, 'aarch64', models)} kernels compiled for {level}")
    env = environment(root)
    jobs = [
        (f"programs on {cpu}", command(root, cpu, __file__, "--there", str(cases), level), env)
        for cpu, level in CPUS.items()
    ]
    if not arguments.quick:
        files = sorted(str(p) for name in TESTS for p in (ROOT / "tests").glob(f"{name}.py"))
        # -qq: no closing line, which in a whole run of tox is that of the suite
        pytest = [sys.executable, "-m", "pytest", "-qq", "-p", "no:cacheprovider"]
        pytest += ["-p", "arm_plugin", *files]
        places = [str(ROOT), str(ROOT / "scripts"), str(ROOT / "tests")]
        here = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
        jobs += [
            (f"kernels on {cpu}", pytest,
             {**here, "QRT_ARM_CPU": cpu, "QRT_ARM_ROOT": str(root)})
            for cpu in CPUS
        ]  # fmt: skip
    failures = 0
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for name, result in pool.map(lambda job: (job[0], run(*job[1:])), jobs):
            words = result.stdout + result.stderr
            say(start, f"{name}: {'failed' if result.returncode else 'passed'}\n{words.rstrip()}")
            failures += result.returncode != 0
    say(start, f"{failures} of {len(jobs)} runs failed" if failures else "all runs agree")
    return 1 if failures else 0


def run(arguments: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(arguments, cwd=ROOT, env=env, capture_output=True, text=True)


def environment(root: Path) -> dict[str, str]:
    """What AArch64 Python in `root` needs to find its packages, and qrt."""
    from arm_root import site_packages

    env = {name: v for name, v in os.environ.items() if not name.startswith("PYTHON")}
    env["PYTHONPATH"] = os.pathsep.join([str(site_packages(root)), str(ROOT)])
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    return env


def say(start: float, what: str) -> None:
    """Tell how far we are."""
    print(f"[{time.perf_counter() - start:5.0f} s] {what}", flush=True)


def write_cases(path: Path) -> list[Model]:
    """Models, inputs and this machine's outputs to `path`; returns models and input shapes."""
    import qrt
    from qrt.errors import QrtError
    from tests.graphs import SPELLINGS, random_graph

    with np.load(ROOT / "qrt/data/digits_test.npz") as data:
        images = data["x"][:16, None].astype(np.float32) / np.float32(16)
    digits = (ROOT / "qrt/data/digits_int8.onnx").read_bytes()
    found: list[tuple[bytes, dict[str, Array]]] = [(digits, {"image": images})]
    for spelling in SPELLINGS:
        for seed in range(GRAPHS):
            model, inputs = random_graph(np.random.default_rng((seed, 11)), spelling)
            found.append((model.SerializeToString(), dict(inputs)))
    arrays: dict[str, Array] = {}
    refused: Counter[str] = Counter()
    kept: list[Model] = []
    for model, inputs in found:
        try:
            outputs = qrt.load(model, features="portable").run(None, inputs)
        except QrtError as error:
            refused[str(error)] += 1
            continue
        key = f"case{len(kept):03}"
        kept.append((model, {n: array.shape for n, array in inputs.items()}))
        arrays[f"{key}/model"] = np.frombuffer(model, np.uint8)
        arrays |= {f"{key}/in/{n}": array for n, array in inputs.items()}
        arrays |= {f"{key}/out/{i}": array for i, array in enumerate(outputs)}
    print(f"{refused.total()} of {len(found)} models are refused here:")
    for reason, count in refused.items():
        print(f"    {count} x {reason}")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return kept


def compile_kernels(level: str, arch: str, models: list[Model]) -> int:
    """Compile for `arch` what is tested on `level`, and what `models` need there; how many."""
    from qrt.api.recipe import ModelRecipe
    from qrt.jit.build import build_objects
    from qrt.jit.declare import KERNELS
    from qrt.jit.target import target_for
    from qrt.loader import load_graph
    from qrt.program import build_program
    from qrt.simd.features import LEVELS
    from qrt.vm import native  # noqa: F401  (declares the interpreter)

    features = frozenset(LEVELS[arch][level])
    names = set(tested_kernels(level))
    for model, shapes in models:
        graph = ModelRecipe(load_graph(model), features).specialize(shapes, {})
        names |= set(build_program(graph, features, 2).kernels)
    kernels = [k for k in KERNELS.values() if k.name in names or k.family == "vm"]
    build_objects(kernels, target_for(features, arch))
    return len(kernels)


def tested_kernels(level: str) -> list[str]:
    """Names of the kernels that tests run on the CPU of `level`: those that are new there, and
    those that need no feature. Whole programs run the interpreter, and the rows that guide it."""
    import qrt.gemm.limits
    import qrt.ops  # noqa: F401  (declares kernels)
    from qrt.jit.declare import KERNELS

    wanted = (k for k in KERNELS.values() if k.family not in ("vm", "jumps", "host"))
    return [k.name for k in wanted if oldest_level(k.features) in ("portable", level)]


def oldest_level(features: Collection[str]) -> str | None:
    """The oldest level of AArch64 that has `features`; None when none has."""
    from qrt.simd.features import ARM_LEVELS

    return next((name for name, has in ARM_LEVELS.items() if set(features) <= set(has)), None)


def run_cases(path: Path, level: str) -> int:
    """On the emulated CPU: every case, compared with the bytes it brought."""
    import qrt
    from qrt.simd.features import detected_features

    wrong: list[str] = []
    runs = [("", 1), ("", 2)]  # features and threads
    if level == next(iter(CPUS.values())):
        runs.append(("portable", 1))  # the same objects on every CPU
    with np.load(path) as arrays:
        keys = sorted({name.split("/")[0] for name in arrays.files})
        for key in keys:
            inputs = _part(arrays, f"{key}/in/")
            expected = _part(arrays, f"{key}/out/")
            model = arrays[f"{key}/model"].tobytes()
            for features, threads in runs:
                outputs = qrt.load(model, features=features, threads=threads).run(None, inputs)
                for i, got in enumerate(outputs):
                    want = expected[str(i)]
                    if not same(got, want):
                        wrong.append(f"{key} output {i}, features {features!r}, threads {threads}")
    print(f"{sorted(detected_features())}: {len(keys)} models, {len(runs)} runs each,"
          f" {len(wrong)} outputs differ; numba imported: {'numba' in sys.modules}")  # fmt: skip
    for line in wrong[:20]:
        print(line)
    return 1 if wrong else 0


def same(got: Array, want: Array) -> bool:
    """Equal bytes; a NaN is equal to a NaN, whatever its sign and payload (docs/machine.md)."""
    if got.dtype != want.dtype or got.shape != want.shape:
        return False
    if got.dtype.kind == "f":
        nan = np.isnan(want)
        return bool((np.isnan(got) == nan).all()) and got[~nan].tobytes() == want[~nan].tobytes()
    return got.tobytes() == want.tobytes()


def _part(arrays: Any, prefix: str) -> dict[str, Array]:
    return {n[len(prefix) :]: arrays[n] for n in arrays.files if n.startswith(prefix)}


if __name__ == "__main__":
    sys.exit(main())
