"""Fits that are killed at any moment and go on from their checkpoints: they end with the same bits.

``python tests/kill.py --moments 30`` kills each kind of run at so many random moments, those that
went on too; ``--steps`` kills it at every call that a write is made of. Every run is a fork of this
process, which has imported all there is to import; OMP_NUM_THREADS=1 lets it have one thread.
"""

from __future__ import annotations

import argparse
import os
import pickle
import random
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import xplinear as xl
from xplinear.estimator import journal

X, Y = (a[:900] for a in load_digits(return_X_y=True))
LABELS = (Y[:, None] == np.arange(4)).astype(int)
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # a disk takes its time to be sure
_WRITERS = "formats/checkpoint.py", "formats/writing.py"


def _fit(y: Any = Y, **settings: Any) -> Callable[[Any], Any]:
    return lambda checkpoint: xl.LinearClassifier(checkpoint=checkpoint, **settings).fit(X, y)


def _sweep(y: Any = Y, **settings: Any) -> Callable[[Any], Any]:
    return lambda checkpoint: xl.LinearClassifierCV(checkpoint=checkpoint, **settings).fit(X, y)


KINDS: Mapping[str, Callable[[Any], Any]] = {
    "sgd": _fit(solver="sgd", max_iter=30, random_state=0),
    "lbfgs": _fit(solver="lbfgs", tol=1e-6, alpha=1e-3),
    "sweep": _sweep(alphas=4, cv=2, held_out_scores=True, solver="lbfgs"),
    "labels": _sweep(LABELS, alphas=2, cv=2, alpha_per_label=True),
}


def found(clf: Any) -> Mapping[str, Any]:
    """Return all that a fit found, to the last bit; but not the clock."""
    own = {name: a for name, a in vars(clf).items() if name.endswith("_")}
    own = {name: a for name, a in own.items() if name not in ("backend_", "best_estimator_")}
    own["history_"] = {k: a for k, a in own.get("history_", {}).items() if k != "seconds"}
    return {name: repr(_plain(a)) for name, a in own.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {name: _plain(a) for name, a in value.items()}
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return [_plain(a) for a in value] if isinstance(value, (tuple, list)) else value


def run(kind: str, folder: Path, before: Callable[[], Any] = lambda: None) -> int:
    """Start a run in a process of its own, which does something before; return its number."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    try:
        before()
        clf = KINDS[kind](xl.Checkpoint(folder / "run.ckpt", every=0.0))
        sys.setprofile(None)
        (folder / "found").write_bytes(pickle.dumps(found(clf)))
        os._exit(0)
    except BaseException:  # noqa: BLE001 - a fork never returns
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def ended(process: int) -> bool:
    """Wait for a run; return whether it was not killed, but came to its end."""
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False
    if os.waitstatus_to_exitcode(status):
        raise SystemExit("a run failed")
    return True


def check(folder: Path, expected: Mapping[str, Any]) -> None:
    """Compare what was found with that of a run that nobody killed, and look what is left."""
    got = pickle.loads((folder / "found").read_bytes())
    wrong = [name for name in expected.keys() | got if expected.get(name) != got.get(name)]
    if wrong:
        raise SystemExit(f"other bits in {', '.join(sorted(wrong))}")
    left = {path.name for path in folder.iterdir()} - {"found"}
    if left:
        raise SystemExit(f"files left: {', '.join(sorted(left))}")


@cache
def uninterrupted(kind: str) -> tuple[Mapping[str, Any], float]:
    """Return what a run finds that nobody kills and that keeps nothing, and how long one takes."""
    expected = found(KINDS[kind](None))
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        start = time.perf_counter()
        assert ended(run(kind, Path(name)))
        seconds = time.perf_counter() - start
        check(Path(name), expected)
    return expected, seconds


def at_moments(kind: str, moments: int, seed: int) -> str:
    """Kill runs at random moments, again and again until the end."""
    expected, seconds = uninterrupted(kind)
    chance, kills = random.Random(seed), 0
    for _ in range(moments):
        with tempfile.TemporaryDirectory(dir=MEMORY) as name:
            first = True
            while True:
                process = run(kind, Path(name))
                time.sleep(chance.uniform(0.0, seconds if first else seconds / 3))
                first = False
                os.kill(process, signal.SIGKILL)
                if ended(process):
                    break
                kills += 1
            check(Path(name), expected)
    return f"{kind}: {moments} runs of {seconds:.2f} s, killed {kills} times: the same bits"


def _killed_at(call: int, writes: int = 2) -> Callable[[], None]:
    """Return what lets a process die before a call of the so manieth write."""

    def before() -> None:
        counts, last = [0, 0], [0]

        def profile(frame: Any, event: str, arg: Any) -> None:
            del arg
            at, depth = frame, 0
            while at is not None and not at.f_code.co_filename.endswith(_WRITERS):
                at, depth = at.f_back, depth + 1
            if at is None or event not in ("c_call", "c_return"):
                return
            while at.f_back is not None and at.f_back.f_code.co_filename.endswith(_WRITERS):
                at = at.f_back
            if id(at) != last[0]:  # another write
                last[0] = id(at)
                counts[0] += 1
            if counts[0] >= writes:
                counts[1] += 1
                if counts[1] == call:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(profile)

    return before


def at_steps(kind: str, most: int) -> str:
    """Kill runs at every step of a write, or at so many of them."""
    expected, _ = uninterrupted(kind)
    call, kills = 1, 0
    while True:
        with tempfile.TemporaryDirectory(dir=MEMORY) as name:
            killed = not ended(run(kind, Path(name), _killed_at(call)))
            if killed:
                assert ended(run(kind, Path(name)))
            check(Path(name), expected)
        if not killed or kills == most:
            return f"{kind}: killed at {kills} steps of writes: the same bits"
        kills, call = kills + 1, call + 1


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--moments", type=int, default=30)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rest", type=float, default=0.0, help="times what a write took")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    journal._REST = given.rest
    for kind in given.kinds:
        for line in (
            given.moments and at_moments(kind, given.moments, given.seed),
            given.steps and at_steps(kind, given.steps),
        ):
            if line:
                print(line, flush=True)  # noqa: T201 - what it is run for


if __name__ == "__main__":
    main()
