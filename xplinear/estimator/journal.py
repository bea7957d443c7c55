"""What a fit has found so far, in a file that the same fit goes on from.

A fit is a series of runs of `minimize`, each decided by the settings, the data, and what the runs
before it found. So its journal is a list: of each run that is done where it ended, of the one under
way how far it came. A fit that goes on asks for all of them again, and is answered at once.
"""

from __future__ import annotations

import glob
import logging
import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

from xplinear.arguments import warn
from xplinear.backends import backend_of
from xplinear.checks.certificate import Certificate
from xplinear.estimator.fingerprint import digest, in_words, told_of_data
from xplinear.estimator.problem import Problem, drawn_seed
from xplinear.estimator.settings import Settings
from xplinear.formats.checkpoint import (
    Bare,
    Checkpoint,
    Packed,
    kinds_of,
    packed,
    read,
    unpacked,
    write,
)
from xplinear.formats.fitted import Fitted
from xplinear.formats.writing import check_writable
from xplinear.minimize import Loop, Result, result_of, subject_of
from xplinear.namespace import HostArray
from xplinear.objective import Objective
from xplinear.version import VERSION

__all__ = ["Journal", "Runs"]

_LOG = logging.getLogger("xplinear")
_REST = 24  # times what writing took, until it is done again
_LONG = 300  # letters of a message
_START = "the model to start from"
_REMEDY = "fit as then, name another file, or delete this one to begin anew"


class Runs(NamedTuple):
    """How the runs of a fit are made, and where they are kept."""

    precision: str
    journal: Journal


class _Entry(NamedTuple):
    """A run, or a certificate, as the file holds it."""

    about: dict[str, Any]
    part: Packed


class _Run(NamedTuple):
    """A run of `minimize`: what it is, how far it came, and how it ended, if it has."""

    about: dict[str, Any]
    solver: Any
    objective: Objective
    whole: bool
    loop: Loop | None = None
    end: str = ""

    def entry(self, *, bare: bool = False) -> _Entry:
        """Return the run for the file; if ``bare``, without what only the next run goes on from."""
        loop = self.loop
        assert loop is not None
        loop = loop._replace(history=loop.history[: loop.iteration])
        if bare and not self.whole:
            loop = loop._replace(state=Bare(loop.state.params, loop.state.report))
        part = packed(loop, kinds_of(self.solver), self.objective.data.backend)
        came = {"end": self.end, "iteration": loop.iteration, "seconds": loop.last.seconds}
        return _Entry(self.about | came, part)

    def recalled(self, entry: _Entry) -> _Run:
        """Return the run as it is in the file."""
        loop = unpacked(entry.part, kinds_of(self.solver), self.objective.data.backend)
        return self._replace(loop=loop, end=entry.about["end"])


class Journal:
    """The runs of a fit in a file; without a ``checkpoint``, nothing is kept.

    Parameters
    ----------
    checkpoint : Checkpoint, optional
    say : callable
        Returns what the fit is told besides the data: see `told`.

    Raises
    ------
    ValueError
        If the file is damaged, or of another version or fit.
    OSError
        If no file of that name can be written.
    """

    def __init__(
        self, checkpoint: Checkpoint | None, say: Callable[[], dict[str, str]] = dict[str, str]
    ) -> None:
        self._checkpoint, self._told = checkpoint, say() if checkpoint else {}
        self._then: Mapping[str, str] | None = None  # what the fit in the file was told
        self._complete = False  # so is the fit in the file
        self._drawn: dict[str, list[Any]] = {}
        self._asked: defaultdict[str, int] = defaultdict(int)
        self.passed = 0.0  # seconds that recalled runs took
        self.answered = False  # the last run asked for was done before
        self._coming: deque[_Entry] = deque()  # of the file, not asked for yet
        self._done: list[_Entry] = []
        self._last: _Run | None = None  # ended: the next one may go on from its state
        self._now: _Run | None = None
        self._refused: list[dict[str, Any]] = []  # by memory, since the last run
        self._open = checkpoint is not None  # for more
        self._begun = self._cut = self._changed = False
        self._said = ""  # of what went wrong last
        self._written = self._took = 0.0
        self._file = Path()  # wherever the process goes, and whatever links are made
        self._stamp: tuple[int, int] | None = None  # of the file as it is known
        self._libraries: dict[str, str] = {}
        if checkpoint is not None:
            from xplinear.backends.machine import libraries  # with subprocess and joblib

            self._libraries = libraries()
            check_writable(checkpoint.path)
            self._file = Path(os.path.realpath(checkpoint.path))
            self._read(self._file)

    def _read(self, file: Path) -> None:
        ours = f".{glob.escape(file.stem)}.{'[0-9a-f]' * 8}.unfinished{glob.escape(file.suffix)}"
        for rest in file.parent.glob(ours):  # of a process that was killed
            rest.unlink(missing_ok=True)
        if not file.exists():
            return
        self._stamp = _stamp(file)
        content, parts = read(str(file))
        if content["xplinear"] != VERSION:
            msg = (
                f"{self._name} was begun by xplinear {content['xplinear']}, and this is {VERSION}: "
                "go on with that one, name another file, or delete this one to begin anew"
            )
            raise ValueError(msg)
        self._then, self._drawn = content["told"], content["drawn"]
        self._complete = content["complete"]
        self._coming.extend(map(_Entry, content["entries"], parts))
        self._compare(self._told)
        done = sum(bool(entry.about.get("end")) for entry in self._coming)
        _LOG.info("going on from %s: %d runs done", file, done)
        libraries = content["libraries"]
        other = [name for name, its in libraries.items() if self._libraries.get(name) != its]
        if other:
            then = ", ".join(f"{name} {libraries[name]}" for name in other)
            warn(f"{self._name} was begun with {then}: results will be as good, in other bits")

    def _compare(self, told: Mapping[str, str]) -> None:
        """Raise ValueError where the fit is told otherwise than the one in the file."""
        if self._then is None:
            return
        for name, value in told.items():
            then = self._then.get(name, "not told")
            if then != value:
                both = _short(then), _short(value)
                what = "{} was {}, and is {}".format(name, *both)
                if both[0].partition(" crc")[0] == both[1].partition(" crc")[0]:
                    what = f"{name} holds other values"
                msg = f"{self._name} is of another fit: {what}; {_REMEDY}"
                raise ValueError(msg)

    @property
    def _name(self) -> str:
        return f"checkpoint={self._checkpoint and str(self._checkpoint.path)!r}"

    @property
    def _is_of_another(self) -> bool:
        """Whether another fit has written the file since this one did."""
        return _stamp(self._file) not in (None, self._stamp)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write what is new where the fit was cut short; else the file goes, unless it is kept."""
        if self._checkpoint is None or not self._begun:
            return
        something = self._then is not None or self._done or self._runs()
        through = kind is None and not self._cut
        if something and (self._checkpoint.keep or not through):
            if self._changed or (through and not self._complete):
                self._complete = through
                self._write()
            return
        if self._is_of_another:
            self._leave()
            return
        try:
            self._file.unlink(missing_ok=True)
        except OSError as error:
            warn(f"{self._name} is of no more use, and cannot be deleted: {error}")

    def drawn(self, name: str, draw: Callable[[], Any]) -> Any:
        """Return what came of it when the fit came here first, a value for JSON; else draw it now.

        What must be the same again may depend on chance, on free memory, or on a user's function.
        """
        if not self._open:
            return draw()
        drawn, at = self._drawn.setdefault(name, []), self._asked[name]
        self._asked[name] += 1
        if at == len(drawn):
            drawn.append(draw())
            self._changed = True
        return drawn[at]

    def seeded(self, settings: Settings) -> Settings:
        """Return the settings with a number for ``random_state``, drawn if it is none."""
        state = settings.random_state
        if self._checkpoint is None or isinstance(state, int):
            return settings
        seed = drawn_seed(state)  # in any case: who draws from it next finds it as ever
        return replace(settings, random_state=self.drawn("seed", lambda: seed))

    def as_wide(self, problem: Problem) -> Problem:
        """Return the problem of as many models at once as when the fit began: what memory held."""
        width = self.drawn("models at once", lambda: problem.objective.m)
        if width == problem.objective.m:
            return problem
        return replace(problem.of(slice(0, width)), others=problem.others)

    @property
    def rest(self) -> str:
        """What is left of a fit that Ctrl-C cut short with no result."""
        if self._checkpoint is None:
            return "nothing new is kept"
        return f"what is done is in {self._name}, and the same fit goes on from there"

    def begin(
        self,
        problem: Problem,
        warm: Fitted | None = None,
        folds: Sequence[tuple[HostArray, HostArray]] = (),
    ) -> None:
        """Compare the data with those of the file; where there is none yet, write it.

        Raises
        ------
        ValueError
            If the data are others.
        OSError
            If the file cannot be written.
        """
        if self._checkpoint is None:
            return
        data = told_of_data(problem)
        data["the folds of cv"] = ", ".join(digest(rows) for fold in folds for rows in fold)
        start = {_START: ", ".join(map(digest, warm.params)) if warm else "None"}
        # What is under way has left it behind; but labels that follow start from it too.
        left = not self._complete and problem.objective.m == problem.sample.targets.models
        self._compare(data if left else data | start)
        self._told |= data | start | dict(self._then or {})
        if self._then is None:
            if self._is_of_another:
                msg = f"{self._name}: another fit began there just now; name another file"
                raise ValueError(msg)
            self._save([])
        self._begun, self._written = True, time.monotonic()

    def recalled(
        self, objective: Objective, solver: Any, *, best: bool, whole: bool = False
    ) -> Result | Loop | None:
        """Return the result of the next run, or the loop to go on from; None where it is new.

        Its state is kept for the run after it, and ``whole`` for more than that; its result is
        the ``best`` of its loop, or the last.

        Raises
        ------
        MemoryError
            If memory did not hold it.
        """
        self.answered = False
        if not self._open:
            return None
        about: dict[str, Any] = {
            "subject": subject_of(objective),
            "solver": in_words(solver),
            "alpha": digest(objective.alpha),
            "best": best,
        }
        refused = self._coming[0].about.get("refused", []) if self._coming else []
        if about in refused[len(self._refused) :][:1]:
            self._refused.append(about)
            msg = "memory did not hold this stack when the fit began"
            raise MemoryError(msg)
        self._now = now = _Run({**about, "refused": self._refused}, solver, objective, whole)
        self._refused = []
        entry = self._next(about)
        if entry is None:
            return None
        try:
            self._now = now = now.recalled(entry)
        except (LookupError, TypeError, ValueError) as error:  # a user's solver was changed, say
            msg = f"{self._name} holds a state that is not of this solver ({error!r}); {_REMEDY}"
            raise ValueError(msg) from error
        self.passed += now.loop.last.seconds if now.loop else 0.0
        if now.loop is None or not now.end:
            return now.loop
        self._last, self._now, self.answered = now, None, True
        return result_of(objective, now.loop, now.end, best=best)

    def refused(self) -> None:
        """Keep in mind that memory did not hold the run under way."""
        if self._open and self._now is not None:
            about = {name: a for name, a in self._now.about.items() if name != "refused"}
            self._refused, self._now = [*self._now.about["refused"], about], None

    def keep(self, loop: Loop) -> None:
        """Take note of how far the run under way has come."""
        now = self._now
        if not self._open or now is None:
            return
        self._now, self._changed = now._replace(loop=loop), True
        self._settle()
        every = 0.0 if self._checkpoint is None else self._checkpoint.every
        if time.monotonic() - self._written >= max(every, _REST * self._took):
            self._write()

    def found(self, result: Result) -> None:
        """Take note of the end of the run under way."""
        now = self._now
        if not self._open or now is None:
            return
        if result.reason in ("callback", "interrupted"):  # to go on there another time
            self._open, self._cut = False, True
            return
        self._last, self._now = now._replace(loop=result.loop, end=result.reason), None
        self._changed = True
        if time.monotonic() - self._written >= _REST * self._took:
            self._write()

    def certified(self, certify: Callable[[], Certificate | None]) -> Certificate | None:
        """Return the certificate of the last run, which no state is needed for afterwards."""
        if not self._open:
            return certify()
        entry = self._next({"certificate": True})
        if entry is not None:
            known = unpacked(entry.part, {}, backend_of(None))
            self._done.append(entry)
            return known and Certificate(**known)
        certificate = certify()
        self._settle()
        part = packed(certificate and vars(certificate), {}, backend_of(None))
        self._done.append(_Entry({"certificate": True}, part))
        self._changed = True
        return certificate

    def _next(self, about: Mapping[str, Any]) -> _Entry | None:
        """Return what the file holds next; None where it is at its end, or decides no more."""
        if not self._coming:
            return None
        if any(self._coming[0].about.get(name) != a for name, a in about.items()):
            # The stacks of a sweep, say, are as large as memory allows.
            warn(
                f"{self._name} went on otherwise, perhaps with other memory: what it holds from "
                "there on is found anew"
            )
            self._coming.clear()
            self._complete = False
            for name, drawn in self._drawn.items():
                del drawn[self._asked[name] :]
            return None
        self._settle()
        return self._coming.popleft()

    def _settle(self) -> None:
        """Take leave of the state of the last run: the next one, or a certificate, has begun."""
        last, self._last = self._last, None
        if last is not None:
            try:
                self._done.append(last.entry(bare=True))
            except TypeError as error:
                self._give_up(error)

    def _runs(self) -> list[_Run]:
        """Return the last run and the one under way, as far as there is something of them."""
        runs = self._last, self._now
        return [run for run in runs if run is not None and run.loop is not None]

    def _content(self, entries: Sequence[_Entry]) -> tuple[dict[str, Any], list[Packed]]:
        content = {
            "xplinear": VERSION,
            "libraries": self._libraries,
            "told": self._told,
            "drawn": self._drawn,
            "complete": self._complete,
            "entries": [entry.about for entry in entries],
        }
        return content, [entry.part for entry in entries]

    def _save(self, entries: Sequence[_Entry]) -> None:
        write(str(self._file), *self._content(entries))
        self._stamp = _stamp(self._file)

    def _write(self) -> None:
        """Write the file; where that fails, say so, and leave the one that is there."""
        if self._is_of_another:
            self._leave()
            return
        start = time.monotonic()
        try:
            entries = [*self._done, *(run.entry() for run in self._runs()), *self._coming]
            self._save(entries)
            self._changed, self._said = False, ""
        except TypeError as error:
            self._give_up(error)
        except (OSError, MemoryError) as error:
            self._say(f"was not written ({error}): it stays as it was")
        self._written = time.monotonic()
        self._took = self._written - start

    def _give_up(self, error: TypeError) -> None:
        self._open = self._changed = False
        self._say(f"cannot hold this solver's state, in which there is {error}: it ends here")

    def _leave(self) -> None:
        self._open = self._changed = False
        self._say("was written by another fit meanwhile, and is left to it: name one for each")

    def _say(self, what: str) -> None:
        if what != self._said:
            warn(f"{self._name} {what}, and the fit goes on", RuntimeWarning)
        self._said = what


def _short(text: str) -> str:
    return text if len(text) < _LONG else f"{text[:_LONG]}…"


def _stamp(file: Path) -> tuple[int, int] | None:
    """Return when a file was written, and how large it is; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
