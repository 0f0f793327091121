"""Writes a page for each module with its functions and classes, from the docstrings; what pdoc warns of is an error.

Example:
  python docs/api.py build/api
"""

import sys
import warnings
from pathlib import Path

import pdoc

import pseudoseg_tf

# pdoc looks for public names among those that are there, and these are loaded at their first use.
vars(pseudoseg_tf).update({name: getattr(pseudoseg_tf, name) for name in pseudoseg_tf.__all__})
warnings.simplefilter("error", UserWarning)
pdoc.render.configure(docformat="google")
# The programs are left out: each defines its flags for the whole process, and --help shows them.
pdoc.pdoc("pseudoseg_tf", "!pseudoseg_tf.cli", output_directory=Path(sys.argv[1]))
