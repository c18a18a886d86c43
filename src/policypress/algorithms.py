"""Names of the algorithms, for the help, which must not import torch: read from the text of ``rl.adapters``, the one
place that knows them."""

from __future__ import annotations

import re
from pathlib import Path

_CLASSES = (Path(__file__).parent / "rl" / "adapters.py").read_text(encoding="utf-8").split("\nclass ")
_NAMED = {found[1]: text for text in _CLASSES if (found := re.search(r'^    name\b[^=\n]*= "(\w+)"', text, re.M))}

ALGORITHMS = tuple(_NAMED)
"""Algorithms whose agents are frozen, and pressed after training."""
TRAINED = tuple(name for name, text in _NAMED.items() if "\n    while_learning = False\n" not in text)
"""Algorithms that ``policypress train`` trains."""
