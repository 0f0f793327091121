"""The experiments of the paper as data: a file each, named after its table or figure where a source confirms the place.

A file defines ``EXPERIMENT``; ``pseudoseg-experiment`` finds, runs and reports it. Numbers are the paper's, each from a
source that its file names; None: no source at hand gives it.
"""
