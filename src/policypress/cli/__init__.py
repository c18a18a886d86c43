"""The command line: one subcommand a verb, each a single call into the API.

``terminal`` holds the application, its consoles and what becomes of errors; ``options`` makes options of the fields of
configs, ``texts`` reads what they hold, ``live`` shows progress. ``training``, ``compressing``, ``files``, ``watching``
and ``studying`` hold the verbs, whose libraries are imported when they run.
"""

from policypress.cli import compressing, files, studying, training, watching
from policypress.cli.terminal import app, main

__all__ = ["app", "compressing", "files", "main", "studying", "training", "watching"]
