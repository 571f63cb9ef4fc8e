"""What the commands do, callable from Python.

A command on runs has the module that is named after it: `training`, `evaluation`, `extraction`, `generation`, ... It
checks what it is given, and only then imports what is large: what is done with one kind of run, in `images`,
`fine_tuning` and `language_models`. The commands on formulas are in `formulas`.
"""
