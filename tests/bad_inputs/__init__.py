"""Bad and odd inputs of every kind that the product reads, made by rule, and what it does with them.

`kinds.KINDS` lists them; `tests/test_bad_inputs.py` tries a few of each that needs no server,
`python -m tests.benchmarks.bad_inputs` ten thousand of all.
"""
