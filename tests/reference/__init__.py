"""Comparison with numbers of the authors' TensorFlow 1 code, kept in directories such as ../shared/reference/A.

`formula` makes the weights and inputs those numbers belong to, `flags` reads the reference's command line,
`network` and `views` compute the same quantities with this package, `tolerances` says how close they must be,
`compare` prints one row for each.
"""
