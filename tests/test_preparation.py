"""Tables with text and missing values on the command line: train, save, predict elsewhere."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder
from typer.testing import CliRunner

import xplinear
from xplinear import LinearClassifier, cli
from xplinear.datasets import load, reader
from xplinear.persist import content_of

rng = np.random.default_rng(0)
N = 400
AGE = rng.integers(18, 80, N).astype(float)
HEIGHT = rng.normal(170, 10, N).round(1)
TOWN = rng.choice(["Århus", "Bonn", "Cork, west"], N)
PET = rng.choice(["cat", "dog"], N)
BUYS = np.where((AGE > 50) == (TOWN == "Bonn"), "yes", "no")
COLUMNS = {"age": AGE, "town": TOWN, "height": HEIGHT, "pet": PET, "buys": BUYS}


@pytest.fixture(params=["at once", "row by row"], autouse=True)
def parts(request, monkeypatch):
    """How many rows are predicted at a time."""
    if request.param == "row by row":
        monkeypatch.setattr(reader, "_PART_BYTES", 1)


def run(*arguments, expect=0):
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    assert result.exit_code == expect, result.output
    return json.loads(result.stdout) if "--json" in arguments else result.stderr


def write(path, columns):
    table = pa.table({name: pa.array(list(x)) for name, x in columns.items()})
    if path.suffix == ".parquet":
        pa.parquet.write_table(table, path)
    else:
        pa.csv.write_csv(table, path)
    return path


def without(column, *rows):
    """Return the columns, values of one of them missing."""
    values = COLUMNS[column].tolist()
    return COLUMNS | {column: [None if i in rows else x for i, x in enumerate(values)]}


def labels_in(path):
    with path.open(newline="", encoding="utf-8") as file:
        return [row[0] for row in csv.reader(file)][1:]


@pytest.fixture(params=[".csv", ".parquet"])
def table(request, tmp_path):
    return write(tmp_path / f"people{request.param}", COLUMNS)


@pytest.fixture
def model(table, tmp_path):
    run("train", table, "--target=buys", "--out", tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def encoded():
    encoder = OneHotEncoder(sparse_output=False)
    town, pet = (encoder.fit_transform(x[:, None]) for x in (TOWN, PET))
    return np.column_stack([AGE, town, HEIGHT, pet])


def test_the_model_is_that_of_one_hot_columns(table, tmp_path):
    path, labels = tmp_path / "m.safetensors", tmp_path / "labels.csv"
    record = run("train", table, "--target=buys", "--test-fraction=0", "--out", path, "--json")
    clf = LinearClassifier(standardize=True, random_state=0).fit(encoded(), BUYS)
    assert record["objective"] == pytest.approx(clf.objective_)
    assert (record["n"], record["p"], record["k"]) == (N, 7, 2)
    found = run("predict", path, table, "--out", labels, "--json")
    assert found["accuracy"] == record["train_accuracy"]
    assert labels_in(labels) == clf.predict(encoded()).tolist()


def test_columns_are_found_by_name(model, tmp_path):
    expected = run("predict", model, write(tmp_path / "a.csv", COLUMNS), "--json")
    assert expected["accuracy"] > 0.5
    others = {"id": list(range(N)), **dict(reversed(COLUMNS.items())), "note": ["x"] * N}
    assert (
        run("predict", model, write(tmp_path / "b.csv", others), "--json")["labels"]
        == (expected["labels"])
    )
    del others["buys"]
    found = run("predict", model, write(tmp_path / "c.parquet", others), "--json")
    assert found["labels"] == expected["labels"]
    assert found["accuracy"] is None


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_what_does_not_fit_the_model(model, tmp_path, suffix):
    def refused(columns, message):
        path = write(tmp_path / f"new{suffix}", columns)
        error = run("predict", model, path, expect=2)
        assert error.startswith("error: "), error
        assert message in error

    refused({"age": AGE, "town": TOWN}, "lacks columns the model was trained on: height, pet")
    refused(COLUMNS | {"pet": np.full(N, "cow")}, "column 'pet' has 'cow', which the model")
    refused(COLUMNS | {"age": np.full(N, "old")}, "the model was trained on numbers there; write")
    refused(without("town", 3, 7), "missing values: town")
    refused(without("age", 3), "fill or drop them, or train with --impute")
    if suffix == ".csv":
        path = tmp_path / "new.csv"
        write(path, {name: x for name, x in COLUMNS.items() if name != "town"})
        path.write_text(path.read_text().replace(",", ";"))
        error = run("predict", model, path, expect=2)
        assert "has semicolons between its columns, commas are expected" in error
    np.savez(tmp_path / "a.npz", X=encoded())
    error = run("predict", model, tmp_path / "a.npz", expect=2)
    assert "the model needs one with the columns age, town, height, pet" in error


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
class TestMissing:
    def test_refused_with_the_name_of_the_column(self, tmp_path, suffix):
        for column in ("age", "town"):
            path = write(tmp_path / f"a{suffix}", without(column, 5))
            error = run("train", path, expect=2)
            assert "missing value" in error
            assert "or use --impute" in error
            assert column in error
        path = write(tmp_path / f"a{suffix}", without("buys", 5))
        error = run("train", path, "--impute", expect=2)
        assert "missing values: buys; every row needs a label: drop the others" in error

    def test_imputed_as_in_training(self, tmp_path, suffix):
        holes = without("age", 0, 4, 9) | {"town": without("town", 1, 4)["town"]}
        path, model = write(tmp_path / f"a{suffix}", holes), tmp_path / "m.safetensors"
        run("train", path, "--impute", "--test-fraction=0", "--out", model)
        ages = np.asarray([np.nan if x is None else x for x in holes["age"]])[:, None]
        age = SimpleImputer(strategy="median").fit(ages).statistics_[0]
        names, counts = np.unique([x for x in holes["town"] if x], return_counts=True)
        columns = content_of(model)["preparation"]["columns"]
        assert [column["fill"] for column in columns[:2]] == [age, names[counts.argmax()]]
        # The values of training, whatever the new rows are.
        few = {name: list(x[:3]) for name, x in holes.items()}
        filled = few | {"age": [age, *few["age"][1:]]}
        filled["town"] = [few["town"][0], columns[1]["fill"], few["town"][2]]
        found, same = (
            run("predict", model, write(tmp_path / f"{name}{suffix}", rows), "--json")["labels"]
            for name, rows in (("few", few), ("filled", filled))
        )
        assert found == same

    def test_an_empty_column(self, tmp_path, suffix):
        empty = COLUMNS | {"age": pa.array([None] * N, pa.float64()).to_pylist()}
        table = pa.table(empty | {"age": pa.array([None] * N, pa.float64())})
        path = tmp_path / f"a{suffix}"
        (pa.parquet.write_table if suffix == ".parquet" else pa.csv.write_csv)(table, path)
        assert "column 'age' has no values to learn from" in run(
            "train", path, "--impute", expect=2
        )


def test_impute_is_for_tables():
    assert "--impute is for tables" in run("train", "digits", "--impute", expect=2)


def test_too_many_categories(tmp_path, monkeypatch):
    monkeypatch.setattr("xplinear.datasets.preparation.DENSE_BYTES", 3_000)
    path = write(tmp_path / "a.csv", {"name": [f"n{i}" for i in range(N)], "y": BUYS})
    assert "column 'name' has 400 categories" in run("train", path, expect=2)


@pytest.mark.parametrize("code", ["01", " 01 ", '"01"'])
def test_codes_with_leading_zeros_are_text(code, tmp_path):
    lines = [f"{zip_},{i % 7}.5,0.{i % 3},{i % 2}" for i, zip_ in enumerate([code, 20, 3] * 20)]
    path, model = tmp_path / "a.csv", tmp_path / "m.safetensors"
    path.write_text("\n".join(["zip,size,share,y", *lines]))
    run("train", path, "--out", model)
    columns = content_of(model)["preparation"]["columns"]
    assert [column["categories"] for column in columns] == [["01", "20", "3"], None, None]
    found = run("predict", model, path, "--json")["labels"]
    (tmp_path / "b.csv").write_text("\n".join(["zip,size,share", *(x[:-2] for x in lines)]))
    assert run("predict", model, tmp_path / "b.csv", "--json")["labels"] == found
    path.write_text("\n".join(["zip,size,share,y", *(x.replace(code, "1") for x in lines)]))
    run("train", path, "--out", model)
    columns = content_of(model)["preparation"]["columns"]
    assert [column["categories"] for column in columns] == [None] * 3


def test_codes_begin_where_a_cell_does(tmp_path):
    (tmp_path / "a.csv").write_text("a,b,y\n" + "0,1.01,a\n100,-0.02,b\n0.5,2001,a\n" * 9)
    data = load(tmp_path / "a.csv", mixed=True)
    assert (data.texts, data.X[2].tolist()) == ({}, [0.5, 2001.0])
    (tmp_path / "a.csv").write_text("a,b,y\n" + "0,1.01,a\n100,007,b\n" * 9)
    assert load(tmp_path / "a.csv", mixed=True).texts == {"b": ("1.01", "007")}
    assert load(tmp_path / "a.csv").X[1].tolist() == [100.0, 7.0]


def test_a_stray_text_among_numbers_is_told(tmp_path):
    lines = [f"{i},{i % 3},{'ab'[i % 2]}" for i in range(40)]
    (tmp_path / "a.csv").write_text("\n".join(["a,b,y", "1.000.5,7,b", *lines]))
    error = run("train", tmp_path / "a.csv")
    assert "column 'a' is taken as text, since 1 of its 41 different values are no" in error
    assert "such as '1.000.5'; correct them, or leave them empty and train with --impute\n" in error
    assert error.startswith("warning: ")
    assert run("train", write(tmp_path / "b.csv", COLUMNS)) == ""


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_infinity_is_named(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", COLUMNS | {"age": np.where(AGE > 70, np.inf, AGE)})
    assert "infinity in column age; drop" in run("train", path, expect=2)


def test_two_columns_of_one_name(tmp_path):
    (tmp_path / "a.csv").write_text("a,a,y\n1,x,0\n2,z,1\n")
    assert "has 2 columns 'a'; rename one of them" in run("train", tmp_path / "a.csv", expect=2)


def test_without_a_header(tmp_path):
    rows = [f"{a},{t.split(',')[0]},{b}\n" for a, t, b in zip(AGE, TOWN, BUYS, strict=True)]
    (tmp_path / "a.csv").write_text("".join(rows), encoding="utf-8")
    run("train", tmp_path / "a.csv", "--out", tmp_path / "m.safetensors")
    new = "".join(row.rpartition(",")[0] + "\n" for row in rows)
    (tmp_path / "b.csv").write_text(new, encoding="utf-8")
    found = [run("predict", tmp_path / "m.safetensors", tmp_path / f"{name}.csv", "--json")
             for name in "ab"]  # fmt: skip
    assert found[0]["labels"] == found[1]["labels"]
    assert [one["accuracy"] is None for one in found] == [False, True]


def test_sweep_keeps_the_preparation(table, tmp_path):
    path = tmp_path / "m.safetensors"
    record = run("sweep", table, "--alphas=1,0.01", "--cv=2", "--out", path, "--json")
    assert np.asarray(record["scores"]).shape == (2, 2)
    assert run("predict", path, table, "--json")["accuracy"] > 0.5


def test_info(model):
    record = run("info", model, "--json")
    assert (record["loss"], record["penalty"], record["alpha"]) == ("softmax", "l2", 1 / 300)
    assert record["classes"] == ["no", "yes"]
    assert record["shape"] == [1, 7]
    assert record["feature_names"][:2] == ["age", "town=Bonn"]
    assert record["certificate"]["lower_bound"] <= record["objective"]
    assert record["libraries"]["numpy"] == np.__version__
    assert record["preparation"]["target"] == "buys"
    text = CliRunner().invoke(cli.app, ["info", str(model)]).stdout
    for part in ("softmax + 0.00333333 · l2", "no, yes", "town=Bonn", "xplinear ", "column buys"):
        assert part in text


def test_json_of_the_checks():
    assert {"auto", "backends"} == set(run("backends", "--json"))
    rows = run("parity", "--backends=numpy", "--losses=softmax", "--json")
    assert all(row["passed"] for row in rows)
    rows = run("check-gradient", "--backends=numpy", "--losses=softmax", "--json")
    assert [row["passed"] for row in rows] == [True] * 4
    assert run("train", "digits", "--max-iter=5", "--json")["model"] is None


def test_a_loaded_model_refuses_what_is_not_prepared(model):
    clf, table = xplinear.load(model), pa.table(COLUMNS).drop_columns("buys")
    with pytest.raises(ValueError, match=r"yet now missing:\n- pet=cat\n- pet=dog\n- town=Bonn"):
        clf.predict(table)
    names = ["age", "town=Bonn", "town=Cork, west", "town=Århus", "height", "pet=cat", "pet=dog"]
    prepared = pa.table(dict(zip(names, encoded().T, strict=True)))
    labels = run("predict", model, write(model.with_name("a.csv"), COLUMNS), "--json")["labels"]
    assert clf.predict(prepared).tolist() == labels


def test_columns_without_names_stay_without(tmp_path):
    np.savetxt(tmp_path / "a.csv", np.column_stack([AGE, HEIGHT, AGE > 50]), "%g", ",")
    run("train", tmp_path / "a.csv", "--out", tmp_path / "m.safetensors")
    assert not hasattr(xplinear.load(tmp_path / "m.safetensors"), "feature_names_in_")


def test_a_model_fitted_to_a_table_finds_its_columns(tmp_path):
    numbers = {"age": AGE, "height": HEIGHT}
    clf = LinearClassifier(random_state=0).fit(pa.table(numbers), BUYS)
    clf.save(tmp_path / "m.safetensors")
    others = write(tmp_path / "a.csv", {"height": HEIGHT, "town": TOWN, "age": AGE, "buys": BUYS})
    found = run("predict", tmp_path / "m.safetensors", others, "--json")
    assert found["labels"] == clf.predict(pa.table(numbers)).tolist()
    assert found["accuracy"] == clf.score(pa.table(numbers), BUYS)
    fewer = write(tmp_path / "b.csv", {"age": AGE, "buys": BUYS})
    assert "lacks a column the model was trained on: height" in run(
        "predict", tmp_path / "m.safetensors", fewer, expect=2
    )


def test_shell_completion(monkeypatch):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    result = CliRunner().invoke(cli.app, ["--show-completion", "bash"])
    assert result.exit_code == 0, result.output
    assert "complete" in result.stdout


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("train dig", ["digits"]),
        ("train ", ["digits", "fashion-mnist", "a.csv", "sub/"]),
        ("train sub/", ["sub/b.parquet"]),
        ("train nowhere/", []),
        ("train digits --loss squared", ["squared_hinge", "squared_error"]),
        ("sweep digits --scoring acc", ["accuracy"]),
        ("train digits --backend torch", ["torch", "torch:cuda"]),
        ("predict m.safetensors a --format ts", ["tsv", "tsv.gz"]),
        ("parity --backends numpy,ja", ["numpy,jax", "numpy,jax:cuda"]),
        ("check-gradient --penalties l1,elas", ["l1,elastic_net"]),
        ("parity --dtypes float32,", ["float32,float64", "float32,float32"]),
        ("train digits --solver lb", ["lbfgs"]),
        ("train digits --dtype f", ["float32", "float64"]),
    ],
)
def test_completion(line, expected, tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    for name in ("a.csv", "a.txt", "sub/b.parquet"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    words = ("xplinear " + line).split(" ")
    asked = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    asked["_XPLINEAR_COMPLETE"] = "complete_bash"
    result = CliRunner().invoke(cli.app, [], env=asked, prog_name="xplinear")
    assert result.stdout.split() == expected


def test_a_new_process_predicts_the_same(model, table):
    here = run("predict", model, table, "--json")["labels"]
    code = "from xplinear.cli import main; main()"
    command = [sys.executable, "-c", code, "predict", str(model), str(table), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["labels"] == here
