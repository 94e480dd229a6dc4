"""Run qrt's kernels and whole programs on emulated AArch64 CPUs; their bytes must be those of here.

    python scripts/arm.py [--folder FOLDER] [--quick]

Builds an AArch64 Python (`arm_root.py`) and cross-compiles here every kernel that the cases need,
into a cache folder; under qemu nothing needs numba. Cases are the model of our own and random
graphs, with the outputs of this machine; the tests of product and depthwise kernels follow. CPUs:
cortex-a72 has no dot products, neoverse-n1 has them, max has i8mm too. Says so and ends with
success when the packages cannot be had, unless QRT_ARM=required.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

CPUS = {"cortex-a72": "neon", "neoverse-n1": "dotprod", "max": "i8mm"}  # with the level each has
TESTS = ("tests/test_gemm_tiles.py", "tests/test_gemm_float.py",
         "tests/test_gemm_extremes.py", "tests/test_depthwise_tiles.py")
FAMILIES = ("gemm", "gemm_sums", "gemm_pack", "depthwise", "conv_f32", "matmul_f32", "pad",
            "transpose", "vm")  # fmt: skip
GRAPHS = 100  # random graphs of each spelling
RUNS = (("", 1), ("", 2), ("portable", 1))  # features and threads of every case

Array = np.ndarray[Any, Any]


def main() -> int:
    """Prepare here, run there; 0 when all bytes agree."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "arm")
    parser.add_argument("--quick", action="store_true", help="programs only, no kernel tests")
    parser.add_argument("--there", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.there:
        return run_cases(arguments.there)
    from arm_root import Unavailable, build_root

    folder = arguments.folder.resolve()
    start = time.perf_counter()
    try:
        build_root(folder / "root")
    except Unavailable as reason:
        print(f"skipped, no AArch64 Python: {reason}")
        return 1 if os.environ.get("QRT_ARM") == "required" else 0
    say(start, "AArch64 Python is there")
    cases = folder / "cases.npz"
    models = write_cases(cases)
    say(start, f"{len(models)} cases written")
    os.environ["QRT_CACHE_DIR"] = str(folder / "kernels")
    for level in ("portable", *CPUS.values()):
        say(start, f"{compile_level(models, level)} kernels compiled for {level}")
    jobs = [(cpu, [__file__, "--there", str(cases)]) for cpu in CPUS]
    if not arguments.quick:
        pytest = ["-m", "pytest", "-p", "no:cacheprovider", "-q", *TESTS, "-k"]
        # every family on the first CPU that has it
        wanted = CPUS | {"cortex-a72": "neon or fmla", "max": "i8mm or portable"}
        jobs += [(cpu, [*pytest, wanted[cpu]]) for cpu in CPUS]
    failures = 0
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for cpu, result in pool.map(lambda job: (job[0], emulate(folder, *job)), jobs):
            print(f"--- {cpu}\n{result.stdout}{result.stderr}", end="", flush=True)
            failures += result.returncode != 0
    say(start, f"{failures} of {len(jobs)} runs failed" if failures else "all runs agree")
    return 1 if failures else 0


def say(start: float, what: str) -> None:
    """Tell how far we are."""
    print(f"[{time.perf_counter() - start:5.0f} s] {what}", flush=True)


def write_cases(path: Path) -> list[tuple[bytes, dict[str, tuple[int, ...]]]]:
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
    kept = []
    for model, inputs in found:
        try:
            session = qrt.load(model)
        except (QrtError, AssertionError):
            continue  # what this machine does not run is other tests' business
        outputs = session.run(None, inputs)
        key = f"case{len(kept):03}"
        arrays[f"{key}/model"] = np.frombuffer(model, np.uint8)
        arrays |= {f"{key}/in/{n}": array for n, array in inputs.items()}
        arrays |= {f"{key}/out/{i}": array for i, array in enumerate(outputs)}
        kept.append((model, {n: array.shape for n, array in inputs.items()}))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return kept


def compile_level(models: list[tuple[bytes, dict[str, tuple[int, ...]]]], level: str) -> int:
    """Cross-compile what the cases and the kernel tests need on `level`; how many kernels."""
    import qrt.ops  # noqa: F401  (declares kernels)
    from qrt.api.recipe import ModelRecipe
    from qrt.jit.build import build_objects
    from qrt.jit.declare import KERNELS
    from qrt.jit.target import target_for
    from qrt.loader import load_graph
    from qrt.program import build_program
    from qrt.simd.features import ARM_LEVELS
    from qrt.vm import native  # noqa: F401  (declares the interpreter)

    features = frozenset(ARM_LEVELS[level])
    names = {k.name for k in KERNELS.values() if k.family in FAMILIES and k.features <= features}
    for model, shapes in models:
        graph = ModelRecipe(load_graph(model), features).specialize(shapes, {})
        names |= set(build_program(graph, features, 2).kernels)
    build_objects([KERNELS[n] for n in sorted(names)], target_for(features, "aarch64"))
    return len(names)


def emulate(folder: Path, cpu: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run AArch64 Python on `cpu`."""
    from arm_root import command, site_packages

    env = {name: v for name, v in os.environ.items() if not name.startswith("PYTHON")}
    env["PYTHONPATH"] = os.pathsep.join([str(site_packages(folder / "root")), str(ROOT)])
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    return subprocess.run(
        command(folder / "root", cpu, *arguments), cwd=ROOT, env=env, capture_output=True, text=True
    )


def run_cases(path: Path) -> int:
    """On the emulated CPU: every case, compared with the bytes it brought."""
    import qrt
    from qrt.simd.features import detected_features

    wrong: list[str] = []
    with np.load(path) as arrays:
        keys = sorted({name.split("/")[0] for name in arrays.files})
        for key in keys:
            inputs = _part(arrays, f"{key}/in/")
            expected = _part(arrays, f"{key}/out/")
            model = arrays[f"{key}/model"].tobytes()
            for features, threads in RUNS:
                outputs = qrt.load(model, features=features, threads=threads).run(None, inputs)
                for i, got in enumerate(outputs):
                    want = expected[str(i)]
                    if got.dtype != want.dtype or got.tobytes() != want.tobytes():
                        wrong.append(f"{key} output {i}, features {features!r}, threads {threads}")
    print(f"{sorted(detected_features())}: {len(keys)} models, {len(RUNS)} runs each,"
          f" {len(wrong)} outputs differ; numba imported: {'numba' in sys.modules}")  # fmt: skip
    for line in wrong[:20]:
        print(line)
    return 1 if wrong else 0


def _part(arrays: Any, prefix: str) -> dict[str, Array]:
    return {n[len(prefix) :]: arrays[n] for n in arrays.files if n.startswith(prefix)}


if __name__ == "__main__":
    sys.exit(main())
