from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from xplinear import bench, cli
from xplinear.backends import get_backend
from xplinear.bench import CELLS, Ceilings, Cell, Measurement

CEILINGS = Ceilings(1e10, 1e11)
SMALL = [Cell(batch, 20, 3, m) for batch in (64, None) for m in (1, 4)]


def measured(batch=64, m=1, **changes):
    row = Measurement("numpy", "cpu", Cell(batch, 784, 10, m), CEILINGS, 640, 3, 1e-3)
    return replace(row, **changes)


@pytest.fixture
def quick(monkeypatch):
    """Small cells, and ceilings that are not measured."""
    monkeypatch.setattr(bench, "measure_ceilings", lambda _: CEILINGS)
    monkeypatch.setattr(cli.bench, "CELLS", SMALL)
    own = bench.measure
    monkeypatch.setattr(
        cli.bench, "measure", lambda backends, seconds: own(backends, seconds, SMALL)
    )


def run(*arguments):
    return CliRunner().invoke(cli.app, ["bench", *map(str, arguments)])


class TestCounting:
    def test_a_step_of_sgd(self):
        cell = Cell(batch=64, p=784, k=10, m=2)
        assert cell.flops(64) == 2 * (2 * 64 * 784 * 20)  # scores and gradient
        rows, weights = 64 * 784 + 64, 784 * 20 + 20
        assert cell.bytes(64) == 4 * (rows + 2 * 2 * weights)  # W, V read and written

    def test_an_evaluation(self):
        cell = Cell(batch=None, p=1024, k=1000, m=1)
        assert cell.bytes(7) == 4 * (7 * 1025 + 2 * 1025 * 1000)
        assert cell.flops(1_000_000) == 4_096_000_000_000

    def test_rates(self):
        row = measured(m=45)
        assert row.examples_per_second == 64_000
        assert row.flops_per_second == pytest.approx(64_000 * 4 * 784 * 450)
        assert row.flops_share == pytest.approx(row.flops_per_second / 1e11)
        assert row.bytes_share == pytest.approx(row.bytes_per_second / 1e10)
        assert measured(batch=None).examples_per_second == 640_000

    def test_record_and_back(self):
        for row in (measured(m=45), measured(batch=None), measured(reason="needs 9 GB")):
            text = {name: str(value) for name, value in row.record().items()}
            assert Measurement.from_record(text) == row

    def test_memory_counts_rows_weights_and_scores(self):
        assert Cell(64, 99, 5, 2).memory(10) == 4 * (10 * 100 + (16 * 100 + 4 * 64) * 10)

    def test_the_cells(self):
        assert len(CELLS) == len(set(CELLS)) == 18
        assert CELLS[0] == Cell(64, 784, 10, 1) or CELLS[0] == Cell(None, 784, 10, 1)
        assert CELLS[-1] == Cell(1024, 1024, 1000, 45)


class TestMeasure:
    def test_every_backend(self, backend, quick, monkeypatch):
        monkeypatch.setattr(bench, "_ENOUGH", 1000)
        rows = list(bench.measure([backend.backend], 100.0, SMALL))  # JAX compiles for seconds
        assert [row.cell for row in rows] == SMALL
        for row in rows:
            assert (row.reason, row.backend) == ("", backend.backend.name)
            assert 0.0 < row.seconds < 10.0
            assert row.n >= 256
            assert row.n % 64 == 0
            assert row.repeats >= 1

    def test_backends_alternate(self, quick):
        names = ["numpy", "array_api_strict"]
        rows = bench.measure([get_backend(name) for name in names], 0.1, SMALL[:2])
        assert [row.backend for row in rows] == names * 2

    def test_more_time_gives_more_rows(self):
        few, more = (bench._rows(SMALL[0], CEILINGS, seconds, 2**30) for seconds in (0.0, 0.1))
        assert few == 256
        assert few < more <= 64 * 4096
        assert bench._rows(SMALL[0], CEILINGS, 1e9, 84_000) == 960  # whole batches in 84 kB

    def test_an_epoch_visits_every_row_and_learns_something(self, backend):
        F = bench.random_problem(backend.backend, n=640, p=20, k=3, m=2)
        epoch = bench.epoch(F, 64)
        losses = [backend.to_numpy(epoch()[0]) for _ in range(5)]
        assert losses[0].shape == (2,)
        assert (losses[-1] < losses[0]).all()

    def test_rows_repeat_beyond_what_is_drawn(self, backend, monkeypatch):
        monkeypatch.setattr(bench, "_DRAWN", 4)
        X = backend.to_numpy(bench._random_rows(backend.backend, 10, 3))
        np.testing.assert_array_equal(X[8:], X[:2])

    def test_too_large_for_the_memory(self, quick):
        small = replace(get_backend("numpy"), free_memory=lambda: 100_000)
        (row,) = bench.measure([small], 1.0, [Cell(64, 784, 10, 45)])
        assert re.fullmatch(r"needs about 0.0\d+ GB of memory, 0.0001 are free", row.reason)
        assert math.isnan(row.seconds)
        assert not row.failed

    def test_too_slow_for_the_time(self, monkeypatch):
        monkeypatch.setattr(bench, "measure_ceilings", lambda _: Ceilings(1e10, 1e6))
        (row,) = bench.measure([get_backend("numpy")], 0.1, [Cell(1024, 784, 10, 45)])
        assert re.fullmatch(r"needs about .* s, 0.\d+ are left; give more --seconds", row.reason)

    @pytest.mark.parametrize("ready", [0.0, 0.1, 2.5])  # seconds before a cell, as JAX needs them
    @pytest.mark.parametrize("slower", [0.5, 1.0, 4.0])  # than is guessed
    def test_it_keeps_to_its_seconds(self, quick, monkeypatch, ready, slower):
        clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)

        def run(F, batch=None):
            rows = batch or F.n
            return slower * F.n // rows * bench._guess(Cell(batch, *F.shape), CEILINGS, rows)

        def took(backend, seconds, share):
            clock.now += ready + 2 * seconds
            return seconds, 1

        for name, fake in {
            "time": clock,
            "random_problem": lambda _, n, *shape: SimpleNamespace(n=n, shape=shape),
            "epoch": run,
            "evaluation": run,
            "median_seconds": took,
        }.items():
            monkeypatch.setattr(bench, name, fake)
        rows = list(bench.measure([get_backend("numpy")], 20.0))
        assert clock.now <= 24.0
        left_out = [row.reason for row in rows if row.reason]
        assert len(left_out) < len(rows)
        assert all(re.search(r"s, .* are left; give more --seconds", why) for why in left_out)

    def test_an_error_is_a_row(self, quick, monkeypatch):
        def broken(*_):
            msg = "out of memory\nat some length"
            raise RuntimeError(msg)

        monkeypatch.setattr(bench, "random_problem", broken)
        rows = list(bench.measure([get_backend("numpy")], 0.1, SMALL))
        assert [row.reason for row in rows] == ["failed: RuntimeError: out of memory"] * 4
        assert all(row.failed for row in rows)

    def test_ceilings(self, backend, monkeypatch):
        monkeypatch.setattr(bench, "_COPIED", 2**24)
        monkeypatch.setattr(bench, "_SMALLEST_PRODUCT", 64)
        monkeypatch.setattr(bench, "_LARGEST_PRODUCT", 128)
        monkeypatch.setattr(bench, "_CEILING_SECONDS", 0.01)
        copy, product = bench.measure_ceilings(backend.backend)
        assert copy > 1e7
        assert product > 1e6

    def test_usable_backends(self):
        names = [backend.name for backend in bench.usable_backends()]
        assert "numpy" in names
        assert not any(name.startswith("array_api_strict") for name in names)


class TestCommand:
    def test_table_files_and_picture(self, quick, tmp_path):
        out, picture = tmp_path / "b.csv", tmp_path / "b.svg"
        result = run("--backends=numpy", "--seconds=20", "--out", out, "--plot", picture)
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        assert "4 of 4 cells without an error" in result.stdout
        with out.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [(row["batch"], row["models"]) for row in rows] == [
            ("64", "1"), ("64", "4"), ("full", "1"), ("full", "4"),
        ]  # fmt: skip
        for row in rows:
            per_second = float(row["examples_per_second"])
            assert float(row["examples_models_per_second"]) == pytest.approx(
                int(row["models"]) * per_second, rel=1e-4
            )
            share = float(row["flops_per_second"]) / float(row["product_flops_per_second"])
            assert float(row["share_of_product"]) == pytest.approx(share, rel=1e-3)
        about = json.loads(out.with_suffix(".json").read_text())
        assert about["libraries"]["numpy"] == np.__version__
        assert {"cpu", "cores", "date", "os", "xplinear"} <= set(about)
        assert "models in the stack" in picture.read_text()

    def test_what_is_left_out_is_listed(self, quick, monkeypatch):
        monkeypatch.setattr(
            cli.bench, "measure", lambda *_: iter([measured(), measured(m=45, reason="needs 9 GB")])
        )
        result = run("--backends=numpy")
        assert result.exit_code == 0, result.output
        line = "not measured: numpy, batch 64, p = 784, k = 10, 45 models: needs 9 GB"
        assert line in result.stdout

    def test_an_error_exits_1(self, quick, monkeypatch, tmp_path):
        rows = [measured(), measured(m=45, reason="failed: ValueError: so")]
        monkeypatch.setattr(cli.bench, "measure", lambda *_: iter(rows))
        result = run("--backends=numpy", "--out", tmp_path / "b.csv")
        assert result.exit_code == 1
        assert "1 of 2 cells without an error" in result.stdout
        assert "failed: ValueError: so" in (tmp_path / "b.csv").read_text()

    def test_json(self, quick, monkeypatch):
        rows = [measured(), measured(m=45, reason="failed: ValueError: so")]
        monkeypatch.setattr(cli.bench, "measure", lambda *_: iter(rows))
        result = run("--backends=numpy", "--json")
        assert result.exit_code == 1
        record = json.loads(result.stdout)
        assert [row["models"] for row in record["measurements"]] == [1, 45]
        assert "numpy" in record["machine"]["libraries"]

    def test_interrupt_shows_what_is_done_and_saves_nothing(self, quick, monkeypatch, tmp_path):
        def until_ctrl_c(*_):
            yield measured()
            raise KeyboardInterrupt

        monkeypatch.setattr(cli.bench, "measure", until_ctrl_c)
        result = run("--backends=numpy", "--out", tmp_path / "b.csv")
        assert result.exit_code == 130
        assert result.stderr == "interrupted: nothing is saved\n"
        assert "ceilings" in result.stdout
        assert not list(tmp_path.iterdir())

    def test_progress_on_a_terminal(self, quick, monkeypatch):
        stderr = io.StringIO()
        monkeypatch.setattr(cli.bench, "measure", lambda *_: iter([measured()]))
        monkeypatch.setattr(
            cli.terminal, "Console", lambda **o: Console(file=stderr, force_terminal=True, width=90)
        )
        run("--backends=numpy")
        assert "1 of 4 done, last numpy: batch 64" in stderr.getvalue()

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ("--backends=matlab", "unknown backend 'matlab'"),
            ("--out=/absent/b.csv", "--out: no directory '/absent'"),
            ("--out=b.json", "--out: 'b.json' must end in .csv: the ending tells the format"),
            ("--plot=/", "--plot: '/' is a directory"),
        ],
    )
    def test_bad_options(self, option, message):
        result = run(option)
        assert result.exit_code == 2
        assert re.fullmatch(r"error: .*\n", result.stderr)
        assert message in result.stderr
