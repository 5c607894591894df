"""The tri-mode operators, one folder each.

A folder's `__init__` is the operator's only entry: it checks shapes and dtypes and chooses the implementation by the
tensors. `reference.py` is the whole operator in plain torch and takes everything; `cpu.py` beside it has
`supports(...)`, which returns None or the reason why it refuses. `describe(...)` names the choice.
Imports nothing of the project's other folders.
"""
