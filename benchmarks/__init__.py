"""What the software costs and what it gains, measured; results in RESULTS.md."""
