"""A policy in other formats, each checked against the reference before it is written."""
