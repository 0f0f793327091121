"""The network. Nothing here knows of configurations, data sets or strategies."""
