"""Runs that are killed, stopped, starved of disk and fed NaN, compared with runs that were left alone."""
