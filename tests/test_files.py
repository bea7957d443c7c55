"""A file of any format means to a model what it would have meant in training, or is refused."""

from __future__ import annotations

import csv
import gzip
import io
import json
import time
from datetime import date
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import dump_svmlight_file
from typer.testing import CliRunner

import xplinear
from xplinear import LinearClassifier, cli, datasets
from xplinear.persist import content_of

rng = np.random.default_rng(0)
N = 90
X = rng.normal(size=(N, 3)).round(2)
NEW = X[:, 1] > 0.3
Y = np.where(X[:, 0] > 0.5, 7, np.where(NEW, 100, 3))
NUMBERS = pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2], "new": NEW, "kind": Y})
TOWNS = rng.choice(["Bonn", "Cork", "Århus"], N)
WORDS = pd.DataFrame({"a": X[:, 0], "town": TOWNS, "new": NEW, "kind": np.where(NEW, "up", "down")})


def run(*arguments, expect=0, content=None):
    """Return what `--json` prints, else stdout; stderr where it is expected to fail."""
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments], input=content)
    assert result.exit_code == expect, result.output
    if expect:
        assert result.stderr.splitlines()[-1].startswith("error: "), result.stderr
        return result.stderr
    return json.loads(result.stdout) if "--json" in arguments else result.stdout


def warned(*arguments):
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.stderr


def write(path, table, target="kind"):
    """Write a table in the format of the path's ending; what has no names keeps the order."""
    match "".join(path.suffixes):
        case ".parquet":
            table.to_parquet(path)
        case ".npz" | ".svm":
            features = table.drop(columns=target, errors="ignore").to_numpy(dtype=float)
            labels = {"y": table[target].to_numpy()} if target in table else {}
            if path.suffix == ".npz":
                np.savez(path, X=features, **labels)
            else:
                dump_svmlight_file(features, labels.get("y", np.zeros(len(table))), str(path))
        case other:
            table.to_csv(path, index=False, sep="\t" if "tsv" in other else ",")
    return path


def model_of(path, *options):
    """Return a model trained on all rows of a file, beside it."""
    model = path.with_name(f"{path.name}.safetensors")
    run("train", path, "--test-fraction=0", "--standardize", *options, "--out", model)
    return model


FORMATS = ("csv", "tsv.gz", "parquet", "npz", "svm")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats")
    return {name: write(folder / f"a.{name}", NUMBERS) for name in FORMATS}


@pytest.fixture(scope="module")
def models(files):
    return {name: model_of(path) for name, path in files.items()}


class TestFormatsOfOneTable:
    @pytest.mark.parametrize("trained", FORMATS)
    @pytest.mark.parametrize("given", FORMATS)
    def test_each_predicts_the_same(self, models, files, trained, given):
        found = run("predict", models[trained], files[given], "--json")
        features = NUMBERS.drop(columns="kind").to_numpy(dtype=float)
        clf = LinearClassifier(standardize=True, random_state=0).fit(features, Y)
        assert found["labels"] == clf.predict(features).tolist()
        assert found["accuracy"] == clf.score(features, Y) > 0.8
        assert found["labelled"] == N

    @pytest.mark.parametrize("trained", ["csv", "tsv", "csv.gz", "parquet"])
    def test_text_and_truth_values(self, trained, tmp_path):
        names = ("csv", "tsv", "csv.gz", "parquet")
        files = {name: write(tmp_path / f"a.{name}", WORDS) for name in names}
        model = model_of(files[trained])
        found = [run("predict", model, path, "--json") for path in files.values()]
        assert all(one == {**found[0], "data": one["data"]} for one in found)
        assert found[0]["accuracy"] == 1.0
        names = list(xplinear.load(model).feature_names_in_)
        assert names == ["a", "town=Bonn", "town=Cork", "town=Århus", "new"]
        np.savez(tmp_path / "a.npz", X=X, y=Y)
        assert "the model needs one with the columns a, town, new" in run(
            "predict", model, tmp_path / "a.npz", expect=2
        )

    @pytest.mark.parametrize("given", FORMATS[:-1])  # in .svm every row has a label
    def test_rows_without_a_label_do_not_count(self, models, given, tmp_path):
        some = NUMBERS.assign(kind=NUMBERS["kind"].where(np.arange(N) % 3 > 0))
        path = write(tmp_path / f"a.{given}", some)
        found = run("predict", models["csv"], path, "--json")
        whole = run("predict", models["csv"], write(tmp_path / f"b.{given}", NUMBERS), "--json")
        assert found["labels"] == whole["labels"]
        true = np.asarray(found["labels"]) == Y
        assert found["accuracy"] == true[np.arange(N) % 3 > 0].mean()
        assert (found["rows"], found["labelled"]) == (N, 60)
        line = f"{found['accuracy']:.4f}  (60 of 90 rows have a label)"
        assert line in run("predict", models["csv"], path)
        assert "missing" in run("train", path, expect=2)


class TestLabels:
    @pytest.mark.parametrize(
        ("cells", "classes"),
        [
            (["1E2", "100", "7"], ["100", "1E2", "7"]),
            (["1", "1.0"], ["1", "1.0"]),
            (["1E400", "1"], ["1", "1E400"]),
            (["9223372036854775819", "9223372036854775808"], [2**63, 2**63 + 11]),
            (["-9223372036854775808", "9223372036854775808"], None),
            (["1180591620717411303424", "1180591620717411303425"], None),
            (["3", "9223372036854775819"], [3, 2**63 + 11]),
            (["9007199254740993.0", "9007199254740992.0"], None),
            (["9007199254740993.0", "5.0"], None),
            (["9007199254740993", "9007199254740992"], [2**53, 2**53 + 1]),
            (["+5", "5"], ["+5", "5"]),
            (["1.0", "2"], [1.0, 2.0]),
            (["true", "False"], [False, True]),
            (["True", "maybe"], ["True", "maybe"]),
            (["007", "7"], ["007", "7"]),
        ],
    )
    @pytest.mark.parametrize("ending", ["csv", "tsv"])
    def test_no_two_texts_become_one_class(self, cells, classes, ending, tmp_path):
        kinds = [cells[i % len(cells)] for i in range(N)]
        path = write(tmp_path / f"a.{ending}", pd.DataFrame({"a": np.arange(N), "kind": kinds}))
        model = path.with_name("m.safetensors")
        said = warned("train", path, "--out", model)
        found = xplinear.load(model).classes_
        assert found.tolist() == (sorted(cells) if classes is None else classes)
        told = found.dtype.kind == "U" and "maybe" not in cells and "007" not in cells
        assert ("warning: " in said and "are taken as texts, such as" in said) == told
        # A part of the labels, which alone would be read otherwise; and all as texts.
        part = write(tmp_path / "b.csv", pd.DataFrame({"a": [0, 5], "kind": [cells[0], cells[-1]]}))
        words = write(tmp_path / "c.parquet", pd.DataFrame({"a": range(N), "kind": kinds}))
        for other in (part, words):
            result = CliRunner().invoke(cli.app, ["predict", str(model), str(other), "--json"])
            assert "does not know" not in result.stderr
            assert result.exit_code == 0

    def test_numbers_for_a_model_of_texts_and_texts_for_one_of_numbers(self, tmp_path):
        columns = {"a": [0.0, 5.0, 9.0] * 20}
        words = write(tmp_path / "a.csv", pd.DataFrame({**columns, "kind": ["1", "2", "x"] * 20}))
        whole = write(
            tmp_path / "b.parquet", pd.DataFrame({**columns, "kind": [1.0, 2.0, 2.0] * 20})
        )
        found = run("predict", model_of(words), whole, "--json")
        assert found["labels"][:3] == ["1", "2", "x"]
        assert found["accuracy"] == pytest.approx(2 / 3)
        texts = write(
            tmp_path / "c.parquet", pd.DataFrame({**columns, "kind": ["1", "2", "2"] * 20})
        )
        assert run("predict", model_of(whole), texts, "--json")["accuracy"] == 1.0

    def test_labels_a_model_does_not_know_are_told(self, tmp_path):
        path = write(tmp_path / "a.csv", NUMBERS)
        model = model_of(path)
        other = NUMBERS.assign(kind=np.where(np.arange(N) < 5, 8, Y))
        said = warned("predict", model, write(tmp_path / "b.csv", other))
        assert "5 rows have labels the model does not know, such as 8; they count as err" in said
        assert "no label of c.csv is one of" in run(
            "predict", model, write(tmp_path / "c.csv", NUMBERS.assign(kind="x")), expect=2
        )

    @pytest.mark.parametrize("cell", ["", "NA", "nan", "null"])
    def test_missing_in_text_files(self, cell, tmp_path):
        some = WORDS.assign(kind=np.where(np.arange(N) % 2, WORDS["kind"], cell))
        error = run("train", write(tmp_path / "a.csv", some), expect=2)
        assert "missing values: kind; every row needs a label" in error

    @pytest.mark.parametrize(
        ("values", "classes"),
        [
            ([date(2020, 1, 1), date(2020, 1, 2)], ["2020-01-01", "2020-01-02"]),
            ([Decimal(3), Decimal(70)], [3, 70]),
            (pa.array(["u", "v"]).dictionary_encode(), ["u", "v"]),
            (pa.array([2**63, 2**63 + 11], pa.uint64()), [2**63, 2**63 + 11]),
        ],
    )
    def test_types_of_parquet(self, values, classes, tmp_path):
        kinds = pa.array(values).take(pa.array(np.arange(N) % 2))
        pq.write_table(pa.table({"a": np.arange(N) % 2, "kind": kinds}), tmp_path / "a.parquet")
        model = model_of(tmp_path / "a.parquet")
        assert xplinear.load(model).classes_.tolist() == classes
        assert run("predict", model, tmp_path / "a.parquet", "--json")["accuracy"] == 1.0

    def test_missing_ones_are_called_so(self):
        for y in ([None, "a"], [pd.NA, "a"], pd.Series([pd.NA, 1], dtype=object), [pd.NaT, 1]):
            with pytest.raises(ValueError, match="labels are missing"):
                LinearClassifier().fit(X[:2], y)

    @pytest.mark.parametrize("kind", [np.uint64, np.int64, np.uint8])
    def test_integers_of_any_size_in_exports(self, kind, tmp_path):
        onnxruntime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
        labels = np.asarray([3, np.iinfo(kind).max - 4], dtype=kind)
        clf = LinearClassifier().fit(X, labels[NEW.astype(int)])
        clf.save(tmp_path / "m.safetensors")
        assert xplinear.load(tmp_path / "m.safetensors").classes_.tolist() == labels.tolist()
        clf.to_onnx(tmp_path / "m.onnx")
        session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
        found = session.run(None, {"X": X.astype(np.float32)})[0]
        assert found.tolist() == clf.predict(X).tolist()


class TestColumns:
    def test_header_or_not(self, tmp_path):
        named = write(tmp_path / "a.csv", NUMBERS)
        nameless, bare = tmp_path / "b.csv", tmp_path / "c.csv"
        NUMBERS.to_csv(nameless, index=False, header=False)
        NUMBERS.drop(columns="kind").to_csv(bare, index=False, header=False)
        expected = run("predict", model_of(named), named, "--json")
        assert run("predict", model_of(named), bare, "--json")["labels"] == expected["labels"]
        for path in (named, write(tmp_path / "a.parquet", NUMBERS)):
            assert "the columns are taken in their order, a, b, c, new, kind: " in warned(
                "predict", model_of(nameless), path
            )
            found = run("predict", model_of(nameless), path, "--json")
            assert (found["labels"], found["accuracy"]) == (
                expected["labels"],
                expected["accuracy"],
            )
        error = run("predict", model_of(named), nameless, expect=2)
        assert "its columns are 0, 1, 2, 3, 4, its first line names none" in error

    @pytest.mark.parametrize("ending", ["csv", "parquet"])
    @pytest.mark.parametrize(
        "names",
        [
            list("abcde"),
            ["0", "1", "2", "3", "kind"],  # of pandas.DataFrame(X)
            ["2021", "2022", "2023", "2024", "kind"],
            ["2021", "2022", "2023", "2024", "2025"],
            ["0", "1", "2", "3", "4"],
        ],
    )
    def test_names_tell_the_columns_in_any_order(self, names, ending, tmp_path):
        table = NUMBERS.set_axis(names, axis="columns")
        trained = write(tmp_path / "trained.parquet", table)
        model = model_of(trained)
        expected = run("predict", model, trained, "--json")
        assert expected["accuracy"] > 0.9
        if names[-1].isdigit() and ending == "csv":
            return  # a line of numbers names nothing, in any order
        shuffled = [names[j] for j in (3, 1, 4, 0, 2)]
        found = run("predict", model, write(tmp_path / f"a.{ending}", table[shuffled]), "--json")
        assert (found["labels"], found["accuracy"]) == (expected["labels"], expected["accuracy"])
        shuffled.remove(names[-1])
        found = run("predict", model, write(tmp_path / f"b.{ending}", table[shuffled]), "--json")
        assert (found["labels"], found["accuracy"]) == (expected["labels"], None)

    def test_first_lines_that_may_be_rows(self, tmp_path):
        counted = write(tmp_path / "a.csv", NUMBERS.set_axis(range(5), axis="columns"))
        said = warned("train", counted, "--out", tmp_path / "m.safetensors")
        assert "a.csv': the first line, 0, 1, 2, 3, 4, is taken as names of the columns" in said
        found = run("predict", tmp_path / "m.safetensors", counted, "--json")
        assert (found["rows"], found["labelled"]) == (N, N)
        NUMBERS.to_csv(tmp_path / "d.csv", index=False, header=False)
        assert "the first line, 0, 1, 2, 3, 4, is" in warned(
            "predict", model_of(tmp_path / "d.csv"), counted
        )
        WORDS[["town", "kind"]].to_csv(tmp_path / "b.csv", index=False, header=False)
        assert "if it is a row, put a line of names before it" in warned(
            "train", tmp_path / "b.csv"
        )
        assert warned("train", write(tmp_path / "c.csv", WORDS[["town", "kind"]])) == ""

    @pytest.mark.parametrize("impute", [(), ("--impute",)])
    def test_texts_that_elsewhere_are_missing_values(self, impute, tmp_path):
        towns = np.where(TOWNS == "Cork", "NA", TOWNS)
        table = WORDS.assign(town=towns, kind=np.where(NEW, "null", "down"))
        trained = write(tmp_path / "a.parquet", table)
        model = model_of(trained, *impute)
        found = [
            run("predict", model, path, "--json")
            for path in (trained, write(tmp_path / "b.csv", table))
        ]
        assert found[0]["labels"] == found[1]["labels"]
        assert found[1]["labelled"] == N

    def test_the_index_of_pandas(self, tmp_path):
        path = tmp_path / "a.parquet"
        NUMBERS.set_index(pd.Index(rng.permutation(N), name="id")).to_parquet(path)
        model = tmp_path / "m.safetensors"
        said = warned("train", path, "--out", model)
        assert "a.parquet': the row index of pandas, id, is left out; reset_index()" in said
        assert list(xplinear.load(model).feature_names_in_) == ["a", "b", "c", "new"]
        assert warned("predict", model, path) == ""
        NUMBERS.set_index("kind").to_parquet(path)
        record = run("train", path, "--target=kind", "--json")
        assert (record["target"], record["p"], record["k"]) == ("kind", 4, 3)
        NUMBERS.set_index("b").to_parquet(path)  # a feature of the model
        assert run("predict", model, path, "--json")["labelled"] == N

    def test_a_row_index_among_the_features(self, tmp_path):
        indexed = NUMBERS.sample(frac=1.0, random_state=0).reset_index(drop=True).reset_index()
        said = warned("train", write(tmp_path / "a.csv", indexed))
        assert "a.csv: column 'index' counts the rows; if it is a row index" in said
        assert said.count("warning") == 1

    def test_dates_are_the_same_texts(self, tmp_path):
        days = pd.to_datetime(
            ["2020-01-01", "2020-01-02 10:30", "2021-12-31 23:59:59"] * 30,
            format="ISO8601",
        )
        for cells in (days, days.normalize()):
            table = pd.DataFrame({"day": cells, "a": X[:, 0], "kind": np.where(NEW, "y", "n")})
            model = model_of(write(tmp_path / "a.csv", table))
            given = write(tmp_path / "a.parquet", table)
            assert run("predict", model, given, "--json")["labelled"] == N
        assert "column 'day' is of type timestamp" in run("train", given, expect=2)

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({}, "is empty: it has no columns"),
            ({"a": [{"x": 1}] * 4, "kind": [0, 1] * 2}, "column 'a' is of type struct"),
            ({"a": [1.0] * 4, "kind": pa.array([0, 1] * 2, pa.duration("s"))}, "type duration"),
            ({"a": [1.0] * 4, "kind": [b"u", b"v"] * 2}, "'kind' is of type binary"),
            ({"a": pa.nulls(4), "kind": [0, 1] * 2}, "missing values: a"),
        ],
    )
    def test_what_parquet_may_hold_besides(self, columns, message, tmp_path):
        pq.write_table(pa.table(columns), tmp_path / "a.parquet")
        assert message in run("train", tmp_path / "a.parquet", expect=2)

    def test_names_that_come_twice_in_parquet(self, tmp_path):
        table = pa.table([X[:, 0], X[:, 1], Y], names=["a", "a", "kind"])
        pq.write_table(table, tmp_path / "a.parquet")
        assert "has 2 columns 'a'; rename one of them" in run(
            "train", tmp_path / "a.parquet", expect=2
        )

    def test_columns_of_a_matrix_that_are_not_finite(self, tmp_path):
        for value, what in ((np.nan, "missing values (NaN)"), (np.inf, "infinity")):
            some = NUMBERS.assign(b=np.where(np.arange(N) == 7, value, X[:, 1]))
            error = run("train", write(tmp_path / "a.npz", some), expect=2)
            assert f"a.npz: {what} in column 1; drop" in error
            (tmp_path / "a.svm").write_text(f"0 1:1 2:{value}\n1 1:2 2:3\n")
            error = run("train", tmp_path / "a.svm", expect=2)
            assert f"a.svm: {what} in column 1; drop" in error

    @pytest.mark.parametrize("base", [0, 1])
    def test_numbers_of_features_in_svm(self, base, tmp_path):
        positive, sparse = np.abs(X) + 1.0, np.abs(X) + 1.0
        sparse[:, 0] = sparse[:, 2] = 0.0
        files = {}
        for name, rows in (("whole", positive), ("sparse", sparse)):
            for first in (0, 1):
                path = files[name, first] = tmp_path / f"{name}{first}.svm"
                dump_svmlight_file(rows, Y, str(path), zero_based=first == 0)
        model = model_of(files["whole", base])
        assert content_of(model)["preparation"]["index_base"] == base
        assert f"counted from {base}, in .svm files" in run("info", model)
        clf = LinearClassifier(standardize=True, random_state=0).fit(positive, Y)
        found = run("predict", model, files["sparse", base], "--json")
        assert found["labels"] == clf.predict(sparse).tolist()
        error = run("predict", model, files["whole", 1 - base], expect=2)
        assert ("counts features from 0" if base else "has a feature 3, the model has 3") in error
        named = write(tmp_path / "a.csv", pd.DataFrame(positive, columns=list("abc")))
        assert run("predict", model, named, "--json")["labels"] == clf.predict(positive).tolist()
        matrix = model_of(write(tmp_path / "a.npz", pd.DataFrame(positive).assign(kind=Y)))
        for first in (0, 1):
            found = run("predict", matrix, files["whole", first], "--json")
            assert found["labels"] == clf.predict(positive).tolist()
        assert "are taken as counted from 1" in warned("predict", matrix, files["sparse", base])

    @pytest.mark.parametrize(
        "line", ["1:0.5 2:3", "a 1:1", "1 x:1", "1 -1:1", "1,2 1:3", "1 2:1 1:1", "1 5000000000:1"]
    )
    def test_lines_that_are_not_svmlight(self, line, tmp_path):
        (tmp_path / "a.svm").write_text(f"0 1:1\n{line}\n")
        error = run("train", tmp_path / "a.svm", expect=2)
        assert "a.svm' cannot be read as svmlight, whose lines are a label and index:value" in error

    def test_labels_that_svm_rounds(self, tmp_path):
        (tmp_path / "a.svm").write_text("9007199254740993 1:1\n5 1:2\n")
        assert "labels of 2**53 or more, which this format rounds" in run(
            "train", tmp_path / "a.svm", expect=2
        )

    @pytest.mark.parametrize(
        ("cells", "message"),
        [
            ([f"{i}%" for i in range(N)], "they look like numbers, such as '0%'; write them"),
            ([f"{1000 + i:,}" for i in range(N)], "they look like numbers, such as '1,000'"),
            ([f"${i}" for i in range(N)], "they look like numbers, such as '$0'"),
            ([f"{i},5 €" for i in range(N)], "they look like numbers, such as '0,5 €'"),
            ([f"2020-01-{1 + i % 28:02d}" for i in range(N)], "look like dates, such as '2020-01"),
            ([f"{1 + i % 28}.3.2021 12:30" for i in range(N)], "look like dates, such as '1.3.20"),
            ([f"n{i}" for i in range(N)], "text of 90 categories in 67 rows, such as 'n0'"),
            ([f"{i}" for i in range(N - 1)] + ["x"], "since 1 of its 90 different values are no"),
            ([f"'{i}'" for i in range(N)], "they look like numbers, such as \"'0'\""),
            (["0-9", "10-19", "20-29"] * 30, ""),
            ([f"n{i % 13}" for i in range(N)], ""),
        ],
    )
    @pytest.mark.parametrize("ending", ["csv", "parquet"])
    def test_texts_that_are_no_categories(self, cells, message, ending, tmp_path):
        table = pd.DataFrame({"a": X[:, 0], "odd": cells, "kind": np.where(NEW, "y", "n")})
        said = warned("train", write(tmp_path / f"a.{ending}", table))
        assert ("column 'odd' is taken as text" in said) == bool(message)
        assert message in said
        assert said.count("warning") == bool(message)


class TestStreams:
    @pytest.fixture
    def model(self, models):
        return models["csv"]

    def test_standard_input(self, model, tmp_path):
        expected = run("predict", model, write(tmp_path / "a.csv", NUMBERS), "--json")
        content = NUMBERS.to_csv(index=False)
        found = run("predict", model, "-", "--json", content=content)
        assert found == {**expected, "data": "standard input"}
        packed = gzip.compress(NUMBERS.to_csv(index=False, sep="\t").encode())
        found = run("predict", model, "-", "--format=tsv.gz", "--json", content=packed)
        assert found["labels"] == expected["labels"]
        found = run("train", "-", "--target=kind", "--json", content=content)
        assert (found["n"], found["data"]) == (67, "standard input")
        assert "'standard input', line 3: 1 columns where the first" in run(
            "predict", model, "-", content="a,b,c,new\n1,2,3,1\n5\n", expect=2
        )

    def test_formats_that_are_told_by_their_beginning(self, tmp_path):
        for ending, option, message in (
            ("parquet", "csv", "is a Parquet file; its format is parquet"),
            ("csv.gz", "csv", "is packed by gzip; its format is csv.gz"),
            ("csv", "npz", "cannot be read as .npz: it holds no array, or Python objects"),
        ):
            path = write(tmp_path / f"a.{ending}", NUMBERS)
            assert message in run("train", path, f"--format={option}", expect=2)
        error = run("train", "digits", "--format=csv", expect=2)
        assert "error: --format does not apply to digits, the name of a data set" in error

    def test_format_of_an_odd_name(self, model, tmp_path):
        path = write(tmp_path / "a.csv", NUMBERS).rename(tmp_path / "a.dat")
        assert "unknown data set" in run("predict", model, path, expect=2)
        assert run("predict", model, path, "--format=CSV", "--json")["labelled"] == N
        error = run("predict", model, path, "--format=xls", expect=2)
        assert "--format: unknown 'xls'; choose from npz, npy, csv" in error

    @pytest.mark.parametrize("name", ["p.csv", "p.tsv", "p.csv.gz", "p.TSV.gz", "-"])
    def test_probabilities(self, model, name, tmp_path):
        data = write(tmp_path / "a.csv", NUMBERS)
        out = name if name == "-" else tmp_path / name
        text = run("predict", model, data, "--proba", "--out", out)
        if name.endswith(".gz"):
            text = gzip.decompress(out.read_bytes()).decode()
        elif name != "-":
            text = out.read_text()
        header, *rows = csv.reader(
            io.StringIO(text), delimiter="\t" if "ts" in name.lower() else ","
        )
        assert header == ["label", "3", "7", "100"]
        values = np.asarray(rows, dtype=float)
        features = NUMBERS.drop(columns="kind").to_numpy(dtype=float)
        clf = LinearClassifier(standardize=True, random_state=0).fit(features, Y)
        np.testing.assert_allclose(values[:, 1:], clf.predict_proba(features), rtol=1e-9)
        assert values[:, 0].tolist() == clf.predict(features).tolist()
        record = run("predict", model, data, "--proba", "--json")
        np.testing.assert_allclose(record["probabilities"], values[:, 1:], rtol=1e-9)

    def test_what_probabilities_need(self, model, tmp_path):
        data = write(tmp_path / "a.csv", NUMBERS)
        assert "--proba: --out FILE.csv or --json" in run(
            "predict", model, data, "--proba", expect=2
        )
        hinge = model_of(data, "--loss=squared_hinge")
        assert "--proba: a model of loss 'squared_hinge' gives no probabilities" in run(
            "predict", hinge, data, "--proba", "--json", expect=2
        )
        assert "--out: 'a.csv' is DATA itself".replace("a.csv", str(data)) in run(
            "predict", model, data, "--out", data, expect=2
        )
        assert "--out: - and --json both" in run(
            "predict", model, data, "--out=-", "--json", expect=2
        )


TABLE = NUMBERS.drop(columns="new")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TABLE.to_csv(index=False, sep=";"), "has semicolons between its columns, commas are"),
        (TABLE.to_csv(index=False, sep=";", decimal=","), "has semicolons between its columns"),
        (TABLE.to_csv(index=False, header=False, sep=";", decimal=","), "has semicolons between"),
        (TABLE.to_csv(index=False, sep="\t"), "has tabs between its columns, commas are expected"),
        (TABLE.to_csv(index=False).encode("utf-16"), "is a text file in UTF-16; save it in"),
        ("å,kind\n1,0\n".encode("latin-1"), "is no text file in UTF-8"),
        (bytes(range(256)) * 9, "is no text file in UTF-8"),
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("a,b,kind\n", "is empty"),
        ("a,a,kind\n1,2,0\n3,4,1\n", "has 2 columns 'a'; rename one of them"),
        ("a,b,kind\n1,2,0\n3,4\n", "line 3: 2 columns where the first line has 3"),
        ("a,b,kind\n1,2,0\n3,4,1,9\n", "line 3: 4 columns where the first line has 3"),
        ("a,b,kind\n1,2,0\n", "cannot hold out 0.25 of the 1 rows"),
        ("a,kind\n" + "1,x\n2,y\n" * 9 + "3,z\n", "1 of the 3 classes have one row, 'z'; drop"),
        ("a,kind\n" + "".join(f"1,{i}\n" for i in range(9)), "is column 'kind' that of the lab"),
        ("a,kind\n" + "1,x\n" * 9, "one class only"),
        (TABLE.to_csv(), "column 1 has no name"),
    ],
)  # fmt: skip
def test_text_files_that_cannot_be_read(content, message, tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    error = run("train", path, expect=2)
    assert message in error
    assert "a.csv" in error or "one class" in error


@pytest.mark.parametrize(
    "content",
    [
        TABLE.to_csv(index=False),
        TABLE.to_csv(index=False, header=False),
        TABLE.to_csv(index=False).replace("\n", "\r\n"),
        TABLE.to_csv(index=False).replace("\n", "\r"),
        "\n\n" + TABLE.to_csv(index=False).replace("\n", "\n\n"),
        "\ufeff" + TABLE.to_csv(index=False),
        TABLE.to_csv(index=False, quoting=csv.QUOTE_ALL),
        TABLE.rename(columns={"a": "a\nb"}).to_csv(index=False),
        TABLE.to_csv(index=False).rstrip("\n"),
    ],
    ids=["plain", "no header", "CRLF", "CR", "blank", "BOM", "quoted", "two-line name", "no end"],
)
def test_text_files_of_one_table(content, tmp_path):
    (tmp_path / "a.csv").write_bytes(content.encode())
    data = datasets.load(tmp_path / "a.csv")
    assert np.array_equal(data.X, X)
    assert data.y.tolist() == Y.tolist()


@pytest.mark.parametrize("ending", ["csv", "tsv", "svm"])
def test_packed_files(ending, tmp_path):
    path = write(tmp_path / f"a.{ending}", TABLE)
    packed = tmp_path / f"b.{ending}.GZ"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    for one, same in zip(datasets.load(path)[:2], datasets.load(packed)[:2], strict=True):
        np.testing.assert_array_equal(one, same)
    packed.write_bytes(packed.read_bytes()[:-30])
    assert f"b.{ending}.GZ' cannot be read as" in run("train", packed, expect=2)


def test_commas_where_tabs_are_expected(tmp_path):
    (tmp_path / "a.tsv").write_text(TABLE.to_csv(index=False))
    error = run("train", tmp_path / "a.tsv", expect=2)
    assert "has commas between its columns, tabs are expected; save it with tabs" in error


def test_by_place_only_where_the_number_of_columns_suits(tmp_path):
    NUMBERS.to_csv(tmp_path / "a.csv", index=False, header=False)
    more = write(tmp_path / "b.csv", NUMBERS.assign(more=1.0))
    assert "lacks columns the model was trained on: 0, 1, 2, 3; its columns are a, b" in run(
        "predict", model_of(tmp_path / "a.csv"), more, expect=2
    )


def test_labels_of_test_parts(tmp_path):
    np.savez(tmp_path / "a.npz", X=X, y=Y, X_test=X[:9], y_test=np.where(NEW[:9], 8, Y[:9]))
    model, count = tmp_path / "m.safetensors", int(NEW[:9].sum())
    said = warned("train", tmp_path / "a.npz", "--out", model)
    assert f"a.npz: {count} test rows have labels that no row for training has, such as 8" in said
    np.savez(tmp_path / "b.npz", X=X, y=Y, X_test=X[:9])
    assert "has no array y_test" in run("train", tmp_path / "b.npz", expect=2)
    assert len(run("predict", model, tmp_path / "b.npz", "--json")["labels"]) == 9


def test_where_the_labels_of_standard_input_are(tmp_path):
    np.save(tmp_path / "X.npy", X)
    error = run("train", "-", "--format=npy", content=(tmp_path / "X.npy").read_bytes(), expect=2)
    assert "no file 'y.npy' with the labels of standard input; target can" in error.replace(
        "--", ""
    )
    np.save(tmp_path / "y.npy", Y)
    command = "train", "-", "--format=npy", "--target", tmp_path / "y.npy"
    assert "'standard input' cannot be read as .npy" in run(*command, content=b"no", expect=2)


def test_empty_labels_of_arrays(tmp_path):
    words = np.where(np.arange(N) % 2, WORDS["kind"].to_numpy(str), "")
    np.savez(tmp_path / "a.npz", X=X, y=words)
    assert "labels are missing (empty) in 45 rows" in run("train", tmp_path / "a.npz", expect=2)
    np.savez(tmp_path / "b.npz", X=X, y=WORDS["kind"].to_numpy(str))
    found = run("predict", model_of(tmp_path / "b.npz"), tmp_path / "a.npz", "--json")
    assert (found["labelled"], found["rows"]) == (45, N)


def test_a_table_of_many_columns_takes_time_by_their_number(tmp_path):
    wide = pd.DataFrame(np.ones((2, 20_000))).add_prefix("f").assign(kind=[0, 1])
    path = write(tmp_path / "a.csv", wide)
    columns = datasets.Columns(dict.fromkeys(wide.columns[:-1]), "kind")
    start = time.process_time()
    assert datasets.load(path, columns=columns, n_features=20_000).X.shape == (2, 20_000)
    assert time.process_time() - start < 2.5  # 8 s where each was looked for among all
