"""Measurements behind the README's figures: ``python -m benchmarks.<name>``.

Each writes ``benchmarks/results/<name>.csv`` and, beside it, a JSON file that says where and
with what it ran. Nothing is read but data sets; every figure is measured in the run itself.
``--quick`` shows in a minute that a script still works, and writes to ``results/quick/``.
"""
