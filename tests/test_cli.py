from __future__ import annotations

import inspect
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import dump_svmlight_file, make_blobs
from typer.testing import CliRunner

import xplinear
from xplinear import LinearClassifier, LinearClassifierCV, cli, parity
from xplinear.estimator.problem import prepare
from xplinear.estimator.settings import Settings, given
from xplinear.losses import LOSSES, SoftmaxLoss

PNG = b"\x89PNG\r\n"


def run(*arguments, expect=0):
    """Return the output of ``xplinear *arguments``; stderr where it is expected to fail."""
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    assert result.exit_code == expect, result.output
    if expect != 0:
        assert "Traceback" not in result.output
    return result.stderr if expect == 2 else result.stdout


def refused(message, *arguments):
    """Check that bad input ends in one clear line on stderr and exit code 2."""
    stderr = run(*arguments, expect=2)
    assert re.fullmatch(r"error: .*\n", stderr), stderr
    assert message in stderr


def rows_of(table):
    """Return the rows of a two-column table as a dictionary."""
    cells = [re.split(" *│ *", line.strip("│ ")) for line in table.splitlines() if "│" in line]
    return {row[0].strip(): row[1].strip() for row in cells}


@pytest.fixture(scope="module")
def blobs():
    X, y = make_blobs(200, n_features=3, centers=3, random_state=0, cluster_std=0.5)
    return np.abs(X * 10).astype(np.uint8), y


@pytest.fixture(params=[".npz", ".npy", ".csv", ".parquet", ".svm"])
def file(request, tmp_path, blobs):
    X, y = blobs
    path = tmp_path / f"X{request.param}"
    match request.param:
        case ".npz":
            np.savez(path, X=X, y=y)
        case ".npy":
            np.save(path, X)
            np.save(tmp_path / "y.npy", y)
        case ".csv":
            np.savetxt(path, np.column_stack([X, y]), "%d", ",", header="a,b,c,kind", comments="")
        case ".parquet":
            columns = {name: X[:, j] for j, name in enumerate("abc")}
            pq.write_table(pa.table(columns | {"kind": y}), path)
        case _:
            dump_svmlight_file(X.astype(float), y, str(path))
    return path


class TestTrainAndPredict:
    def test_digits(self, tmp_path):
        model, picture = tmp_path / "m.safetensors", tmp_path / "m.png"
        rows = rows_of(run("train", "digits", "--out", model, "--plot", picture))
        assert rows["data"] == "digits: 1,347 rows, 64 features, 10 classes"
        assert rows["dtype"] == "float64, computed in float64"
        assert rows["backend, device"] == "numpy, cpu"
        assert rows["test accuracy"].endswith("(450 rows it was not trained on)")
        assert float(rows["test accuracy"].split()[0]) >= 0.95
        assert 0.05 < float(rows["baseline"].split()[0]) < 0.15
        assert float(rows["train accuracy"]) > 0.98
        assert float(rows["objective"].split()[0]) < 0.1
        assert re.fullmatch(r"\d+ iterations \(lbfgs\), \d+\.\d\d s", rows["training"])
        assert rows["model"] == str(model)
        assert picture.read_bytes().startswith(PNG)

        labels = tmp_path / "labels.csv"
        rows = rows_of(run("predict", model, "digits", "--out", labels))
        assert float(rows["accuracy"]) > 0.97
        header, *lines = labels.read_text().split()
        assert header == "label"
        assert len(lines) == 1797
        assert set(lines) == set("0123456789")

    def test_every_format(self, file, tmp_path, blobs):
        model, out = tmp_path / "m.safetensors", tmp_path / "out.csv"
        rows = rows_of(run("train", file, "--dtype", "float32", "--out", model))
        assert rows["data"] == f"{file.name}: 150 rows, 3 features, 3 classes"
        assert rows["dtype"].endswith("computed in float32")
        assert float(rows["test accuracy"].split()[0]) > 0.95
        if file.suffix in (".npz", ".npy", ".parquet"):
            assert rows["dtype"].startswith("uint8, ")
        rows = rows_of(run("predict", model, file, "--out", out))
        assert float(rows["accuracy"]) > 0.95
        labels = np.loadtxt(out, skiprows=1)
        assert np.mean(labels == blobs[1]) == pytest.approx(float(rows["accuracy"]), abs=1e-4)

    def test_accuracy_is_that_of_the_library(self, tmp_path, blobs):
        X, y = blobs
        np.savez(tmp_path / "a.npz", X=X[:100], y=y[:100], X_test=X[100:], y_test=y[100:])
        rows = rows_of(run("train", tmp_path / "a.npz", "--loss", "squared_hinge", "--seed", 3))
        clf = LinearClassifier("squared_hinge", random_state=3).fit(X[:100], y[:100])
        untrained = "(100 rows it was not trained on)"
        assert rows["test accuracy"] == f"{clf.score(X[100:], y[100:]):.4f}  {untrained}"
        assert rows["objective"] == f"{clf.objective_:.6g}  (squared_hinge + 0.01 · l2)"
        assert rows["training"].startswith(f"{clf.n_iter_:,} iterations ({clf.solver_}), ")
        always = np.bincount(y[:100]).argmax()
        share = np.mean(y[100:] == always)
        expected = f"{share:.4f}  (always answering {always}, the most frequent class)"
        assert rows["baseline"] == expected

    def test_strength_as_scikit_learn_has_it(self, tmp_path, blobs):
        X, y = blobs
        model = tmp_path / "m.safetensors"
        np.savez(tmp_path / "a.npz", X=X, y=y)
        arguments = ("train", tmp_path / "a.npz", "--test-fraction=0", "--C=0.5", "--out", model)
        assert rows_of(run(*arguments))["objective"].endswith("  (softmax + 0.01 · l2)")
        assert rows_of(run("info", model))["problem"] == "softmax + 0.01 · l2"
        for command in (arguments, ("info", model)):
            record = json.loads(run(*command, "--json"))
            assert (record["alpha"], record["C"]) == (0.01, 0.5)
        refused("--alpha=0.1 and --C=0.5 are two ways to say", *arguments, "--alpha=0.1")
        params = xplinear.Params(X[:3, None, :] / 1.0, X[:1] / 1.0)
        LinearClassifier.from_params(params, range(3)).save(model)
        assert rows_of(run("info", model))["problem"] == "softmax + 1 / (1 n) · l2"

    def test_certificate_of_a_fit_to_the_optimum(self, tmp_path, blobs):
        X, y = blobs
        np.savez(tmp_path / "a.npz", X=X, y=y)
        arguments = ("train", tmp_path / "a.npz", "--test-fraction=0", "--alpha=0.01")
        trained = rows_of(run(*arguments, "--solver=lbfgs", "--tol=0.1"))["trained"]
        best = LinearClassifier(solver="lbfgs", alpha=0.01, tol=1e-10).fit(X, y).objective_
        certificate = LinearClassifier(solver="lbfgs", alpha=0.01, tol=0.1).fit(X, y).certificate_
        words = re.fullmatch(
            r"to the end; at most (.*) % of what training can gain is left, proven", trained
        )
        left = (certificate.objective[0] - best) / (np.log(3) - best)  # of F at zero weights
        assert left <= float(words[1]) / 100 < 0.1
        for options, expected in (
            (["--solver=sgd"], "by sgd, which does not measure what is left to gain"),
            (["--solver=lbfgs", "--max-iter=1"], "not to the end: --max-iter stopped it; at most "),
            (["--solver=lbfgs", "--tol=1e-12"], "; less than a millionth of what training can "),
            (["--penalty=none"], "to the end by the solver's own estimate; nothing is proven"),
        ):
            assert expected in rows_of(run(*arguments, *options))["trained"]

    @pytest.mark.parametrize("loss", LOSSES)
    def test_what_training_can_gain_starts_at_zero_weights(self, loss, tmp_path, blobs):
        X, y = blobs
        for labels in (y, y % 2):
            np.savez(tmp_path / "a.npz", X=X, y=labels)
            clf = LinearClassifier(loss, alpha=0.01).fit(X, labels)
            F = prepare(given(Settings, clf), X, labels, owner=clf).objective
            bound = clf.certificate_.lower_bound[0]
            share = clf.certificate_.gap[0] / (F.loss_at_zero()[0] - bound)
            expected = f"; at most {100 * share:.2g} % of"
            options = ("--alpha=0.01", "--test-fraction=0", f"--loss={loss}")
            trained = rows_of(run("train", tmp_path / "a.npz", *options))["trained"]
            assert (expected if share >= 1e-6 else "less than a millionth") in trained

    def test_what_to_do_next(self, tmp_path, blobs):
        X, y = blobs
        kinds = np.asarray(["a b", "c"])[(y > 0).astype(int)]
        table, model = tmp_path / "two words.csv", tmp_path / "m.safetensors"
        rows = (f"{a},{b},{kind}\n" for (a, b, _), kind in zip(X, kinds, strict=True))
        table.write_text("a,b,my kind\n" + "".join(rows))
        arguments = ("train", table, "--target=my kind", "--loss=squared_hinge", "--impute")
        arguments += ("--C=0.5", "--no-standardize")
        lines = run(*arguments).partition("next: ")[2].splitlines()
        sweep, save = (shlex.split(line, comments=True)[1:] for line in lines)
        assert sweep[:2] == ["sweep", str(table)]
        assert {*sweep[2:], "--C=0.5"} == set(map(str, arguments[2:]))
        assert save[-2:] == ["--out", "model.safetensors"]
        assert set(save[:-2]) == set(map(str, arguments))
        sweep = [*sweep, "--alphas=1,0.1"]
        (keep,) = run(*sweep, "--cv=2").partition("next: ")[2].splitlines()
        assert set(shlex.split(keep, comments=True)) == {"xplinear", *sweep, "--cv=2", *save[-2:]}
        predict = run(*arguments, "--out", model).splitlines()[-1].split()
        assert predict[:3] == ["xplinear", "predict", str(model)]
        assert "sweep" not in run(*arguments, "--penalty=none")

    def test_options_reach_the_classifier(self, tmp_path, blobs):
        X, y = blobs
        np.savez(tmp_path / "a.npz", X=X, y=y)
        options = {
            "loss": "crammer_singer",
            "penalty": "elastic_net",
            "alpha": 0.01,
            "l1_ratio": 0.5,
            "solver": "sgd",
            "batch_size": 16,
            "learning_rate": 1e-4,
            "max_iter": 7,
            "tol": 1e-3,
            "backend": "numpy",
            "dtype": "float32",
        }
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        model = tmp_path / "m.safetensors"
        # Not formatted: a command line reads best as a line, not as a word per line.
        rows = rows_of(
            run("train", tmp_path / "a.npz", *arguments, "--no-accelerate", "--seed=5",
                "--test-fraction=0", "--early-stopping", "--standardize", "--out", model)
        )  # fmt: skip
        assert "test accuracy" not in rows
        clf = xplinear.load(model)
        expected = options | {"accelerate": False, "random_state": 5}
        expected |= {"early_stopping": True, "standardize": True}
        del expected["backend"]  # a model file lives anywhere
        assert {name: getattr(clf, name) for name in expected} == expected
        assert rows["data"] == "a.npz: 200 rows, 3 features, 3 classes"

    def test_options_are_listed_by_topic(self):
        train, sweep = (
            list(inspect.signature(command).parameters)[1:]
            for command in (cli.train.train, cli.sweep.sweep)
        )
        assert train[:7] == ["data", "format_", "loss", "penalty", "alpha", "C", "l1_ratio"]
        assert train[7:11] == ["standardize", "solver", "batch_size", "learning_rate"]
        assert train[11] == "multi_class"
        assert train[12:17] == ["max_iter", "tol", "early_stopping", "backend", "dtype"]
        assert train[17:21] == ["precision", "seed", "target", "impute"]
        assert train[21:24] == ["test_fraction", "accelerate", "checkpoint"]
        assert train[24:] == ["plot", "out", "as_json"]
        assert sweep[:6] == ["data", "format_", "alphas", "cv", "scoring", "one_se"]
        assert sweep[11] == "learning_rates"
        assert [name for name in sweep if name in train] == [
            name for name in train if name in sweep
        ]

    def test_defaults_are_those_of_the_classifier(self):
        own = inspect.signature(LinearClassifier).parameters
        options = inspect.signature(cli.train.train).parameters
        same = {
            name: option.default
            for name, option in options.items()
            if name in own and name != "learning_rate"
        }
        assert same.pop("standardize") is None  # it is for tables
        assert same == {name: own[name].default for name in same}
        assert len(same) == 16

    def test_unlabelled_table(self, tmp_path, blobs):
        X, y = blobs
        kinds = np.asarray(["red", "green", "dark blue"])[y]
        table = tmp_path / "train.csv"
        table.write_text(
            "a,b,c,kind\n"
            + "".join(f"{a},{b},{c},{k}\n" for (a, b, c), k in zip(X, kinds, strict=True))
        )
        model, out = tmp_path / "m.safetensors", tmp_path / "out.csv"
        run("train", table, "--target", "kind", "--out", model)
        new = tmp_path / "new.csv"
        new.write_text("a,b,c\n" + "".join(f"{a},{b},{c}\n" for a, b, c in X))
        output = run("predict", model, new, "--out", out)
        assert "accuracy" not in output
        assert np.mean(np.asarray(out.read_text().splitlines()[1:]) == kinds) > 0.95
        refused("new.csv has no labels to compare with; --out", "predict", model, new)

    def test_labels_that_look_like_numbers(self, tmp_path):
        table, some = tmp_path / "all.csv", tmp_path / "some.csv"
        table.write_text("a,kind\n" + "0,1\n5,2\n9,x\n" * 20)
        some.write_text("a,kind\n" + "0,1\n5,2\n" * 20)
        model = tmp_path / "m.safetensors"
        run("train", table, "--out", model)
        assert rows_of(run("predict", model, some))["accuracy"] == "1.0000"

    def test_a_class_named_label(self, tmp_path):
        table, model, out = (tmp_path / name for name in ("a.csv", "m.safetensors", "out.csv"))
        table.write_text("a,kind\n" + "0,label\n5,other\n" * 20)
        run("train", table, "--out", model)
        run("predict", model, table, "--proba", "--out", out)
        header, first, *_ = out.read_text().splitlines()
        assert header == "label,probability of label,other"
        label, *probabilities = first.split(",")
        assert (label, float(probabilities[0]) > 0.5) == ("label", True)

    def test_codes_with_leading_zeros(self, tmp_path):
        model, codes, numbers = (tmp_path / name for name in ("m.safetensors", "a.csv", "b.csv"))
        codes.write_text("a,kind\n" + "0,01\n5,02\n" * 20)
        numbers.write_text("a,kind\n" + "0,1\n5,2\n" * 20)
        run("train", codes, "--out", model)
        assert xplinear.load(model).classes_.tolist() == ["01", "02"]
        assert rows_of(run("predict", model, codes))["accuracy"] == "1.0000"
        refused("no label of b.csv is one of the model's (01, 02 ...)", "predict", model, numbers)
        run("train", numbers, "--out", model)
        assert xplinear.load(model).classes_.tolist() == [1, 2]
        assert rows_of(run("predict", model, codes))["accuracy"] == "1.0000"

    @pytest.mark.parametrize("command", ["train", "sweep"])
    def test_tables_are_standardized(self, command, tmp_path, blobs):
        X, y = blobs
        X = X * np.asarray([1e-3, 1.0, 1e3])
        names = ("a", "b", "c", "kind")
        table, matrix, model = (tmp_path / name for name in ("a.csv", "a.npz", "m.safetensors"))
        np.savetxt(table, np.column_stack([X, y]), "%r", ",", header=",".join(names), comments="")
        pq.write_table(
            pa.table(dict(zip(names, [*X.T, y], strict=True))), table.with_suffix(".parquet")
        )
        np.savez(matrix, X=X, y=y)
        few = ("--alphas=0.1", "--cv=2") if command == "sweep" else ()
        for data, options, expected in (
            (table, (), True),
            (table.with_suffix(".parquet"), (), True),
            (table, ("--no-standardize",), False),
            (matrix, (), False),
            (matrix, ("--standardize",), True),
        ):
            rows = rows_of(run(command, data, *few, *options, "--out", model))
            assert xplinear.load(model).standardize == expected
            assert ("features" in rows) == expected
            assert ("standardized features" in run("info", model)) == expected
        assert json.loads(run(command, table, *few, "--json"))["standardize"] is True

    def test_what_is_left_to_gain_for_a_loss_of_ones_own(self, blobs):
        clf = LinearClassifier(loss=xplinear.losses.SoftmaxLoss(), alpha=0.1).fit(*blobs)
        assert cli.fitting._how_far(clf).endswith("of what training can gain is left, proven")

    def test_a_model_without_a_penalty(self, blobs, tmp_path):
        X, y = blobs
        LinearClassifier(penalty=None, max_iter=2, solver="sgd").fit(X, y).save(tmp_path / "m")
        assert rows_of(run("info", tmp_path / "m"))["problem"] == "softmax, no penalty"

    def test_the_column_of_the_labels_is_told(self, tmp_path):
        (tmp_path / "a.csv").write_text("a,kind\n" + "0,1\n5,2\n" * 20)
        assert rows_of(run("train", tmp_path / "a.csv"))["labels"] == "column kind"
        assert "labels" not in rows_of(run("train", "digits", "--max-iter=5"))

    def test_warnings_are_one_line(self):
        result = CliRunner().invoke(cli.app, ["train", "digits", "--solver=gd", "--max-iter=2"])
        assert result.exit_code == 0
        assert re.fullmatch(r"warning: stopped after max_iter=2 .*\n", result.stderr)

    def test_progress_bar(self, monkeypatch):
        console = cli.terminal.Console
        monkeypatch.setattr(
            cli.terminal, "Console", lambda **o: console(**o, force_terminal=True, width=90)
        )
        result = CliRunner().invoke(
            cli.app, ["train", "digits", "--solver", "sgd", "--max-iter", "4"]
        )
        assert "training" in result.stderr
        assert re.search(r"4/4\S* loss 0\.\d+", result.stderr)

    def test_picture_of_a_fit(self, tmp_path):
        run("train", "digits", "--early-stopping", "--plot", tmp_path / "a.svg")
        picture = (tmp_path / "a.svg").read_text()
        for text in (
            "validation accuracy",
            "objective: loss + penalty",
            "epoch",
            "digits: softmax",
        ):
            assert text in picture

    def test_no_bar_without_a_terminal(self, monkeypatch):
        monkeypatch.setattr(cli.terminal, "_LINE_SECONDS", np.inf)
        assert CliRunner().invoke(cli.app, ["train", "digits"]).stderr == ""

    @pytest.mark.parametrize(
        ("arguments", "line"),
        [
            (
                ("train", "--solver=sgd", "--max-iter=2"),
                r"iteration 1/2  loss \d\.\d+ .* left up to 0",
            ),
            (("sweep", "--alphas=1,0.1", "--cv=2"), r"3/6 models  alpha 1\.00e-01 .* time left 0"),
        ],
    )
    def test_lines_without_a_terminal(self, arguments, line, monkeypatch):
        monkeypatch.setattr(cli.terminal, "_LINE_SECONDS", 0.0)
        command, *options = arguments
        result = CliRunner().invoke(cli.app, [command, "digits", *options])
        assert re.search(line, result.stderr)


class TestSweep:
    def test_digits(self, tmp_path):
        model, picture = tmp_path / "m.safetensors", tmp_path / "m.png"
        output = run("sweep", "digits", "--alphas=1,0.05,1e-4", "--cv=3", "--out", model,
                     "--plot", picture)  # fmt: skip
        rows = rows_of(output)
        assert rows["data"] == "digits: 1,347 rows, 64 features, 10 classes"
        assert rows["chosen"] == "alpha = 0.05  (softmax + alpha · l2)"
        assert re.search(r"^│ 5\.000e-02 │ .* │ chosen", output, re.MULTILINE)
        assert float(rows["test accuracy"].split()[0]) > 0.97
        assert rows["training"].startswith("12 models, ")
        assert rows["trained"].startswith("to the end; ")
        assert picture.read_bytes().startswith(PNG)
        clf = xplinear.load(model)
        assert (clf.alpha, clf.coef_.shape) == (0.05, (10, 64))

    def test_scores_are_those_of_the_library(self, tmp_path, blobs):
        X, y = blobs
        np.savez(tmp_path / "a.npz", X=X, y=y)
        output = run("sweep", tmp_path / "a.npz", "--alphas=4", "--scoring=log_loss", "--one-se",
                     "--penalty=l1", "--test-fraction=0")  # fmt: skip
        clf = xplinear.LinearClassifierCV(
            4, scoring="log_loss", penalty="l1", one_standard_error=True, random_state=0
        ).fit(X, y)
        assert "mean neg_log_loss" in output
        lines = [line for line in output.splitlines() if re.match(r"│ \d\.\d{3}e", line)]
        cells = [re.split(" *│ *", line.strip("│ ")) for line in lines]
        assert len(cells) == 4
        error = clf.cv_scores_.std(axis=1, ddof=1) / 5**0.5
        for row, alpha, scores, e in zip(cells, clf.alphas_, clf.cv_scores_, error, strict=False):
            assert row[:3] == [f"{alpha:.3e}", f"{scores.mean():.4f}", f"{e:.4f}"]
            assert ("chosen" in row) == (alpha == clf.alpha_)
        assert "test accuracy" not in output
        assert "mean neg_log_loss" in output  # they are negative

    def test_learning_rates(self, tmp_path, blobs):
        X, y = blobs
        np.savez(tmp_path / "a.npz", X=X, y=y)
        picture = tmp_path / "a.svg"
        output = run("sweep", tmp_path / "a.npz", "--alphas=0.1,0.01", "--solver=sgd", "--cv=2",
                     "--learning-rates=1e-4,1e-6", "--max-iter=3", "--plot", picture)  # fmt: skip
        assert re.search(r"1\.000e-01 │ 1e-06 +│ [01]\.\d{4}", output)
        assert output.count("chosen") == 2
        assert "accuracy of 2 folds" in picture.read_text()

    def test_defaults_are_those_of_the_classifier(self):
        own = inspect.signature(xplinear.LinearClassifierCV).parameters
        options = inspect.signature(cli.sweep.sweep).parameters
        same = {name: option.default for name, option in options.items() if name in own}
        assert same.pop("cv") == 5
        assert same.pop("standardize") is None  # it is for tables
        assert same == {name: own[name].default for name in same}
        assert len(same) == 17  # with Cs and checkpoint

    def test_progress_bar(self, monkeypatch):
        console = cli.terminal.Console
        monkeypatch.setattr(
            cli.terminal, "Console", lambda **o: console(**o, force_terminal=True, width=90)
        )
        result = CliRunner().invoke(cli.app, ["sweep", "digits", "--alphas=1,0.1", "--cv=2"])
        assert re.search(r"3/6\S* models, alpha 1.00e-01, loss 0\.\d{4}", result.stderr)

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ("--alphas=1,much", "--alphas: numbers with commas between are needed"),
            (
                "--alphas=0",
                "an integer of at least 2, got 0",
            ),
            ("--alphas=-1.0", "alphas must be a sequence of positive"),
            ("--scoring=auc", "unknown scoring 'auc'; choose from accuracy"),
            ("--learning-rates=0.1", "--learning-rates are for --solver='sgd'"),
            ("--penalty=none", "penalty='none' has no strength"),
            ("--plot=/absent/m.png", "--plot: no directory '/absent'"),
        ],
    )
    def test_bad_options(self, option, message):
        refused(message, "sweep", "digits", option)


class TestBadInput:
    def test_data(self, tmp_path):
        refused("unknown data set 'digit'", "train", "digit")
        refused("no file", "train", tmp_path / "absent.csv")
        (tmp_path / "a.csv").write_text("a,b,y\n1,2,0\n1,,1\n")
        refused("line 3: column 'b' has a missing value", "train", tmp_path / "a.csv")
        (tmp_path / "b.csv").write_text("a,y\n1,0\n2,0\n3,0\n4,0\n")
        refused("one class", "train", tmp_path / "b.csv")
        refused("has no column 'kind'", "train", tmp_path / "b.csv", "--target", "kind")
        for separator, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            (tmp_path / "d.csv").write_text("a,y\n1.5,0\n2.5,1\n".replace(",", separator))
            refused(f"has {name} between its columns, commas are", "train", tmp_path / "d.csv")
        (tmp_path / "e.csv").write_text("å,y\n1,0\n2,1\n", encoding="latin-1")
        refused("save it as one", "train", tmp_path / "e.csv")
        np.savez(tmp_path / "c.npz", X=np.full((8, 2), np.inf), y=np.arange(8) % 2)
        refused("infinity", "train", tmp_path / "c.npz")

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ("--loss=hinge", "loss must be one of softmax, multiclass_hinge"),
            ("--penalty=l3", "penalty must be one of none, l2"),
            ("--solver=adam", "solver must be 'auto', one of gd"),
            ("--backend=matlab", "unknown backend 'matlab'"),
            ("--backend=numpy:7", "NumPy has no device '7'"),
            ("--dtype=float8", "float8"),
            ("--precision=tf32", "precision='tf32' multiplies float32"),
            ("--alpha=-1", "alpha must be a finite number"),
            ("--batch-size=0", "--batch-size"),
            ("--learning-rate=fast", "'auto' or a number is needed, got 'fast'"),
            ("--max-iter=0", "--max-iter"),
            ("--test-fraction=2", "fraction must lie between 0 and 1"),
            ("--out=/absent/m.safetensors", "--out: no directory '/absent'"),
            ("--plot=/absent/m.png", "--plot: no directory '/absent'"),
            ("--out=/", "--out: '/' is a directory"),
        ],
    )
    def test_options(self, option, message):
        refused(message, "train", "digits", option)

    def test_model(self, tmp_path):
        refused("no model file", "predict", tmp_path / "absent.safetensors", "digits")
        bad = tmp_path / "bad.safetensors"
        bad.write_bytes(b"nothing of the kind")
        refused("damaged", "predict", bad, "digits")
        np.savez(tmp_path / "a.npz", X=np.eye(4), y=[0, 1, 0, 1])
        run("train", tmp_path / "a.npz", "--out", tmp_path / "m.safetensors", "--test-fraction=0.5")
        refused("64 features", "predict", tmp_path / "m.safetensors", "digits")

    def test_usage(self):
        assert "Missing argument 'DATA'" in run("train", expect=2)
        assert "No such option" in run("train", "digits", "--speed=9", expect=2)
        assert "Invalid value for '--alpha'" in run("train", "digits", "--alpha=much", expect=2)

    def test_plot_without_matplotlib(self, monkeypatch, tmp_path):
        monkeypatch.delitem(sys.modules, "xplinear.plot", raising=False)
        monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
        picture = tmp_path / "a.png"
        refused("pip install 'xplinear[plot]'", "train", "digits", "--plot", picture)


def test_backends():
    output = run("backends")
    assert f"numpy            │ {np.__version__}" in output
    for status in xplinear.available_backends():
        assert (status.version if status.available else "not available") in output
    assert re.search(r"^auto is (numpy|cupy)", output, re.MULTILINE)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_backends_are_warmed(monkeypatch, emulated):
    """The kernels of all losses, and what a fit needs besides."""
    own = emulated.select("")
    found = [xplinear.backends.BackendStatus(n, True, "0", (), "") for n in ("cupy", "numpy")]
    monkeypatch.setattr(cli.backends, "available_backends", lambda: found)
    get = xplinear.get_backend
    monkeypatch.setattr(cli.backends, "get_backend", lambda n: own if n == "cupy" else get(n))
    monkeypatch.setenv("CUPY_CACHE_DIR", "/kept")
    monkeypatch.setattr(emulated, "_LOSSES", [SoftmaxLoss])  # a compiler takes seconds for each
    monkeypatch.setattr(emulated, "_CHUNKS", (2,))
    monkeypatch.setattr(emulated, "_clusters", lambda: (1,))
    fits = cli.backends._fit_little
    monkeypatch.setattr(cli.backends, "_fit_little", lambda _: fits(get("numpy")))  # far quicker
    kernels = emulated.cupy.counts.kernels
    kernels.clear()
    assert re.search(r"cupy: compiled in [\d.]+ s, kept in /kept", run("backends", "--warm"))
    names = {kernel[0] for kernel in kernels}
    assert names >= {"fused", "loss", "sgd", "gather", "update"}
    (record,) = json.loads(run("backends", "--warm", "--json"))["warmed"]
    assert (record["backend"], record["folder"], record["ahead"]) == ("cupy", "/kept", True)
    before = set(kernels)
    X, y = np.random.default_rng(1).standard_normal((40, 3)), np.arange(40) % 3
    xplinear.LinearClassifier(solver="sgd", max_iter=1, random_state=0, backend=own).fit(X, y)
    assert {kernel for kernel in kernels - before if kernel[0] in names} == set()


def test_nothing_to_warm(monkeypatch):
    status = xplinear.backends.BackendStatus("numpy", True, "0", (), "")
    monkeypatch.setattr(cli.backends, "available_backends", lambda: [status])
    assert "nothing is compiled here" in run("backends", "--warm")
    assert json.loads(run("backends", "--warm", "--json"))["warmed"] == []


def test_backends_keep_the_brackets_of_extras(monkeypatch):
    status = xplinear.backends.BackendStatus("cupy", False, "", (), "use xplinear[cuda13]")
    monkeypatch.setattr(cli.backends, "available_backends", lambda: [status])
    assert "not available: use xplinear[cuda13]" in run("backends")


class TestParity:
    def test_passes(self):
        output = run("parity", "--backends=numpy,array_api_strict:device1", "--losses=softmax")
        assert "16 of 16 comparisons within tolerance" in output
        assert output.count("passed") == 4
        assert output.index("numpy ") < output.index("device1")

    @pytest.mark.parametrize("error", [1e-3, float("nan")])
    def test_broken_tolerance_exits_1(self, monkeypatch, error):
        rows = [
            parity.Comparison("numpy", "float64", "softmax", penalty, 0.0, error_here, 0.0)
            for penalty, error_here in (("l2", error), ("l1", 0.0))
        ]
        monkeypatch.setattr(cli.parity, "compare", lambda *_: rows)
        output = run("parity", expect=1)
        assert "BROKEN: l2 " in output
        assert f"{error:.1e}" in output
        assert "1 of 2 comparisons" in output

    def test_bad_options(self):
        refused("--losses: unknown 'hinge'", "parity", "--losses=softmax,hinge")
        refused("--dtypes: unknown 'float16'", "parity", "--dtypes=float16")
        refused("unknown backend 'matlab'", "parity", "--backends=numpy,matlab")


class WrongSoftmax(LOSSES["softmax"]):
    def value_and_grad(self, Z, y, *, xp=None):
        value, G = super().value_and_grad(Z, y, xp=xp)
        return value, 1.01 * G


class TestCheckGradient:
    def test_every_loss_and_penalty(self):
        output = run("check-gradient", "--backends=numpy")
        assert "24 of 24 gradients agree with differences" in output
        assert "3 of 15" in output  # L1 at a zero weight
        for loss in LOSSES:
            assert loss in output

    def test_chosen_ones(self):
        # Not formatted: a command line, as above.
        output = run("check-gradient", "--backends=array_api_strict:device1",
                     "--losses=softmax,absolute_error", "--penalties=l1", "--seed=1")  # fmt: skip
        assert "2 of 2 gradients agree" in output

    def test_wrong_gradient_exits_1(self, monkeypatch):
        monkeypatch.setitem(LOSSES, "softmax", WrongSoftmax)
        output = run(
            "check-gradient", "--backends=numpy", "--losses=softmax,squared_error", expect=1
        )
        assert output.count("WRONG") == 4
        assert "4 of 8 gradients agree" in output

    def test_bad_options(self):
        refused("--penalties: unknown 'l3'", "check-gradient", "--penalties=l3")


def test_the_program_starts():
    command = [sys.executable, "-m", "xplinear", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == f"xplinear {xplinear.__version__}\n"


@pytest.fixture
def classes(tmp_path):
    X, y = make_blobs(120, n_features=3, centers=3, random_state=0, cluster_std=3.0)
    path, table = tmp_path / "rows.csv", np.column_stack([X, y])
    np.savetxt(path, table, "%.18g", ",", header="a,b,c,kind", comments="")
    return X, y, path


def test_one_against_the_rest(tmp_path, classes):
    X, y, path = classes
    own = LinearClassifier(multi_class="one_vs_rest", standardize=True).fit(X, y)
    model = tmp_path / "m.safetensors"
    given = "train", path, "--multi-class=one_vs_rest", "--test-fraction=0", "--out", model
    record = json.loads(run(*given, "--json"))
    assert record["multi_class"] == "one_vs_rest"
    for name in ("objective", "alpha"):
        np.testing.assert_allclose(record[name], getattr(own, f"{name}_"))
    told = json.loads(run("info", model, "--json"))
    assert (told["multi_class"], told["multilabel"]) == ("one_vs_rest", False)
    mean = f"{np.mean(own.objective_):.6g} in the mean of all models"
    assert mean in run(*given)
    assert mean in run("info", model)
    accuracy = json.loads(run("predict", model, path, "--json"))["accuracy"]
    assert accuracy == pytest.approx(own.score(X, y))


def test_a_sweep_of_one_against_the_rest(classes):
    X, y, path = classes
    given = "sweep", path, "--multi-class=one_vs_rest", "--test-fraction=0", "--cv=3"
    given = *given, "--Cs=0.1,1,100", "--scoring=roc_auc"
    own = LinearClassifierCV(Cs=[0.1, 1, 100], cv=3, scoring="roc_auc", standardize=True)
    own.set_params(multi_class="one_vs_rest").fit(X, y)
    record = json.loads(run(*given, "--json"))
    np.testing.assert_allclose(record["scores"], own.cv_scores_)
    assert (record["models"], record["C"]) == (3 * (3 * 3 + 1), own.C_)
    own.set_params(alpha_per_label=True).fit(X, y)
    record = json.loads(run(*given, "--alpha-per-label", "--json"))
    np.testing.assert_allclose(record["scores"], own.cv_scores_)
    assert record["C"] == own.C_.tolist()
    printed = run(*given, "--alpha-per-label")
    assert sum(map(int, re.findall(r"chosen for (\d)", printed))) == 3
    refused("--alpha-per-label needs many labels", "sweep", "digits", "--alpha-per-label")


def test_help():
    for command in (
        "train",
        "sweep",
        "predict",
        "info",
        "backends",
        "parity",
        "check-gradient",
        "bench",
    ):
        assert command in run("--help")
        assert "Usage" in run(command, "--help")


def test_json_has_null_for_what_is_no_number(capsys):
    record = {"a": np.asarray([1.0, np.nan]), 2: (np.float32(0.5), np.inf, None, Path("x"), True)}
    cli.terminal.show(record, [], as_json=True)
    expected = {"a": [1.0, None], "2": [0.5, None, None, "x", True]}
    assert json.loads(capsys.readouterr().out) == expected
