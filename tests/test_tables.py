"""Tables of pressed agents fit a terminal, whatever the numbers."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from policypress.export.verify import Agreement, Verification
from policypress.rl.curves import plot_frontier
from policypress.rl.search import Candidate, Knobs
from policypress.tables import _tail, candidate_line, compress_table, verification_table


def shown(table: Any) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def result(scale: float, kept: float, numerics: str = "integer") -> dict[str, Any]:
    returns = {"iqm": 6_662.34 * scale, "iqm_low": 6_512.1 * scale, "iqm_high": 6_720.9 * scale}
    return {
        "teacher": returns,
        "evaluation": {**returns, "episodes": 50, "env": "HalfCheetah-v5"},
        "kept": {"share": kept, "low": kept - 0.031, "high": kept + 0.012},
        "size": {"baseline_bytes": 287_768, "nonzeros": 1_243, "payload_bytes": 719, "payload_ratio": 400.2},
        "numerics": numerics,
        "wall_seconds": 1_234.5,
    }


@pytest.mark.parametrize(
    ("scale", "kept", "numerics"), [(1.0, 0.987, "integer"), (-3.0, -1.234, "float"), (0.001, 1.02, "weight-only")]
)
def test_the_table_of_a_pressed_agent(scale: float, kept: float, numerics: str) -> None:
    text = shown(compress_table(result(scale, kept, numerics)))
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    for part in (f"{6662.34 * scale:,.1f}", f"{kept:.1%}", "287,768 B", "719 B", "400.2x", "71,942", "1,243"):
        assert part in text
    whole = " ".join(text.split())
    assert "50 episodes of HalfCheetah-v5 from the same seeds" in whole
    assert "1,23" in whole


def test_intervals_of_negative_returns_stay_in_a_line() -> None:
    text = shown(compress_table(result(-0.28, 1.342)))
    assert "[-1,823.4, -1,881.9]" in text
    assert "[131.1%, 135.4%]" in text


def test_names_of_layers_stay_in_a_line() -> None:
    names = ["features_extractor.cnn.0", "features_extractor.linear.0", "q_net.0", "a_name_without_any_dots"]
    assert [_tail(name) for name in names] == ["…cnn.0", "…linear.0", "q_net.0", "a_name_without_any_dots"]


def test_notes_keep_their_brackets() -> None:
    row = Agreement("ONNX Runtime, qdq", None, None, None, "pip install 'policypress[export]'.")
    text = shown(verification_table(Verification(8, "integer", "steps", (row,))))
    assert "'policypress[export]'" in text


def test_a_student_of_a_search_takes_a_line() -> None:
    one = Candidate(Knobs(-2, 3), (256, 256, 64), 12_345, 23.3, 9_999, 0.9876, -1.0123, 1.234, 60.0)
    line = candidate_line(one, best=True)
    assert line.startswith("  256-256-64  rate 0.0113   12,345 B    23x  kept  98.8% [-101.2%, 123.4%]")
    assert line.endswith("  best")
    assert len(line) <= 88
    assert not candidate_line(one, best=False).endswith("best")


def test_a_frontier_is_drawn(tmp_path: Path) -> None:
    families = {"narrow": [(700, 0.96, 0.93, 0.99), (400, 0.9, 0.91, 0.89)], "ptq": [(5_000, 0.2, 0.1, 0.3)]}
    plot_frontier(families, tmp_path / "frontier.png", keep=0.95)
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 1
