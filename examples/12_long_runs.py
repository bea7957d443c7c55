"""A fit that is killed again and again, goes on from its checkpoint, and ends with the same bits.

Every attempt is a process of its own, which is ended by ``kill -9`` after half a second more than
the last one had: nothing in it can tell that its end is near.
"""

import multiprocessing
import tempfile
from pathlib import Path

import numpy as np

import xplinear as xl
from xplinear.datasets import load
from xplinear.formats.checkpoint import Summary

SETTINGS = {"solver": "sgd", "max_iter": 2000, "alpha": 1e-3, "random_state": 0}


def fit(folder: Path | None = None) -> np.ndarray:
    digits = load("digits")
    clf = xl.LinearClassifier(**SETTINGS)
    if folder is not None:
        clf.checkpoint = xl.Checkpoint(folder / "run.ckpt", every=0.2, keep=True)
    clf.fit(digits.X / 16.0, digits.y)
    if folder is not None:
        clf.save(folder / "model.safetensors")
        (folder / "run.ckpt").unlink()  # not before the model is safe
    return clf.coef_


if __name__ == "__main__":
    whole = fit()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds, context = 3.0, multiprocessing.get_context("spawn")
        while True:
            attempt = context.Process(target=fit, args=(folder,))
            attempt.start()
            attempt.join(seconds)
            if not attempt.is_alive():
                break
            attempt.kill()  # SIGKILL
            attempt.join()
            kept = (folder / "run.ckpt").exists()
            print(f"killed: {Summary.of(folder / 'run.ckpt') if kept else 'nothing was written'}")
            seconds += 0.5
        same = np.array_equal(xl.load(folder / "model.safetensors").coef_, whole)
        left = sorted(path.name for path in folder.iterdir())
    print(f"done; the same bits as of a fit that nobody killed: {same}; files left: {left}")
