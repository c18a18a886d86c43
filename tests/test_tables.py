"""Tables of pressed agents fit a terminal, whatever the numbers."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from policypress.export.verify import Agreement, Verification
from policypress.measure.size import size
from policypress.rl.curves import plot_frontier
from policypress.rl.lines import LINEAR, Candidate, Line, Shape
from policypress.rl.search import Standing
from policypress.tables import (
    byte_table,
    candidate_line,
    compress_table,
    layer_names,
    layer_table,
    missed,
    result_table,
    standing_line,
    verification_table,
)
from policypress.testing import make_policy


def shown(table: Any) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


CHANCE = {"actions": "random actions", "mean": -280.5, "low": -301.2, "high": -250.0, "worst_tenth": -370.0,
          "ended_early": 0.0}  # fmt: skip


def result(scale: float, share: float | None, numerics: str = "integer") -> dict[str, Any]:
    returns = {"mean": 6_662.34 * scale, "low": 6_512.1 * scale, "high": 6_720.9 * scale}
    returns |= {"worst_tenth": 6_123.4 * scale, "ended_early": 0.04}
    shares = (None, None, None) if share is None else (share, share - 0.031, share + 0.012)
    return {
        "teacher": {**returns, "chance": CHANCE},
        "evaluation": {**returns, "ended_early": 0.16, "episodes": 50, "env": "HalfCheetah-v5"},
        "kept": {
            **dict(zip(("share", "low", "high"), shares, strict=True)),
            **{"difference": 12.34, "difference_low": -101.0, "difference_high": 150.0},
        },
        "notes": [],
        "size": {
            **{"baseline_bytes": 287_768, "nonzeros": 1_243, "payload_bytes": 719, "payload_ratio": 400.2},
            **{"disk_bytes": 10_522, "flash_bytes": 1_825},
        },
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
    for part in (
        "worst tenth",
        f"{6123.4 * scale:,.1f}",
        "4.0%",
        "16.0%",
        "random actions",
        "-280.5",
        "10,522 B",
        "1,825",
    ):
        assert part in text
    assert "difference" not in text
    whole = " ".join(text.split())
    assert "50 episodes of HalfCheetah-v5" in whole
    assert "all from the same seeds" in whole
    assert "1,23" in whole


def test_no_percentage_where_a_share_says_nothing() -> None:
    one = result(0.001, None)
    one["notes"] = ["the agent does no better than random actions [a]: there is nothing learned."]
    text = shown(compress_table(one))
    assert "kept" not in text
    assert "+12.3" in text
    assert "[-101.0, +150.0]" in text
    assert "the agent does no better than random actions [a]" in " ".join(text.split())


def test_intervals_of_negative_returns_stay_in_a_line() -> None:
    text = shown(compress_table(result(-0.28, 1.342)))
    assert "[-1,823.4, -1,881.9]" in text
    assert "[131.1%, 135.4%]" in text


def test_results_of_before_are_shown_by_their_mean() -> None:
    """An interquartile mean hid that this student falls: it kept 100 %."""
    agent, student = [100.0] * 40, [100.0] * 30 + [10.0] * 10
    old = result(1.0, 1.0)
    for name, returns in (("teacher", agent), ("evaluation", student)):
        old[name] = {
            **{
                "iqm": 100.0,
                "iqm_low": 100.0,
                "iqm_high": 100.0,
                "mean": float(np.mean(returns)),
                "low": 1.0,
                "high": 2.0,
            },
            **{"returns": returns, "episodes": 40, "env": "Walker2d-v5"},
        }
    old["kept"] = {"share": 1.0, "low": 1.0, "high": 1.0}
    del old["notes"], old["size"]["disk_bytes"], old["size"]["flash_bytes"]
    text = shown(compress_table(old))
    assert "77.5%" in text
    assert "100.0%" not in text
    assert "worst tenth" not in text


def trained(scale: float) -> dict[str, Any]:
    found = result(scale, 1.0)
    return {
        "evaluation": found["evaluation"],
        "size": found["size"]
        | {"layers": [{"bits": 8}], "nominal_bytes": 1_243.0, "nominal_ratio": 229.9, "payload_to_bound": 0.956},
    }


def test_runs_stand_side_by_side() -> None:
    text = shown(result_table({"dense": trained(1.0), "pressed": trained(-2.0)}))
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    for part in ("6,662.3", "-13,324.7", "worst tenth", "16.0%", "719 B", "file on disk", "10,522 B", "0.96", "229.9x"):
        assert part in text


@pytest.mark.parametrize(
    ("kind", "names"),
    [("vector", ["hidden 1 (", "output ("]), ("image", ["conv 1 (", "output ("])],
)
def test_layers_have_names_that_people_know(kind: Any, names: list[str]) -> None:
    policy = make_policy("integer", kind)
    report = size(policy)
    found = layer_names(report)
    assert found[0].startswith(names[0])
    assert found[-1].startswith(names[1])
    assert len(set(found)) == len(found) == len(policy.layers)
    for table in (layer_table(report), byte_table(report, 2_000, 1_000)):
        text = shown(table)
        assert all(name in text for name in found)
        assert not any("." in layer.name and layer.name in text for layer in policy.layers)
    assert [layer["name"] for layer in report.as_dict()["layers"]] == [layer.name for layer in policy.layers]


def candidate(line: Line, payload_bytes: int = 1_512, **changes: Any) -> Candidate:
    figures = {
        "ratio": 300.0, "nonzeros": 999, "share": 0.985, "low": 0.971, "high": 1.013, "worst_tenth": 5_000.0,
        "worst_share": 0.93, "ended_early": 0.0, "episodes": 100, "confirmed": True, "finished": True, "steps": 0,
        "seconds": 60.0, **changes,
    }  # fmt: skip
    return Candidate(line, 0, payload_bytes, **figures)


def test_the_standing_of_a_search_is_one_line() -> None:
    lines = Line("up", "evolve", LINEAR), Line("down", "distill", Shape((22, 22)))
    best = candidate(lines[1])
    assert standing_line(Standing("measuring the agent", 0.0, 600.0)) == "0:00 of 10:00 · measuring the agent"
    line = standing_line(Standing("pressing", 83.9, 600.0, lines, 3, best))
    assert line == ("1:23 of 10:00 · pressing linear (evolve), 22-22 (distill) · 3 measured · best 1,512 B, kept 98.5%")


def test_what_a_search_missed_is_said() -> None:
    asked = {"keep": 0.95, "keep_worst": 0.9}
    assert missed({"config": asked | {"bytes": 0}}) == (
        "no policy keeps 95 % of the mean return, by the lower end of its interval, and 90 % of the worst tenth"
    )
    assert missed({"config": asked | {"bytes": 1_280}}).endswith("of the worst tenth in 1,280 bytes")
    assert missed({"config": {"keep": 0.0, "bytes": 9}}) == "no policy fits in 9 bytes"


def test_what_is_kept_of_the_worst_tenth_is_shown() -> None:
    one = result(1.0, 1.0)
    assert "kept of the worst" not in shown(compress_table(one))
    kept = {**one["kept"], "worst_share": 0.913}
    assert "91.3%" in shown(compress_table(one | {"kept": kept}))


def test_a_student_that_stopped_early_is_said_to_have() -> None:
    one = result(1.0, 1.0) | {"batches": 8_288, "config": {"student": {"batches": 100_000}}}
    assert "8,288 batches of at most 100,000: no more to learn" in " ".join(shown(compress_table(one)).split())
    one["batches"] = 100_000
    assert "no more" not in shown(compress_table(one))


def test_notes_keep_their_brackets() -> None:
    row = Agreement("ONNX Runtime, qdq", None, None, None, "pip install 'policypress[export]'.")
    text = shown(verification_table(Verification(8, "integer", "steps", (row,))))
    assert "'policypress[export]'" in text


def test_a_candidate_of_a_search_takes_a_line() -> None:
    wide = Line("down", "finetune", Shape((256, 256)))
    one = candidate(wide, 12_345, share=0.9876, low=-1.0123, high=1.234, worst_share=-1.5)
    line = candidate_line(one, best=True)
    assert line == "finetune   256-256  12,345 B  kept 98.8% [-101.2%, 123.4%] worst -150%  best"
    assert len(line) <= 80
    assert not candidate_line(one, best=False).endswith("best")


def test_a_frontier_is_drawn(tmp_path: Path) -> None:
    families = {"narrow": [(700, 0.96, 0.93, 0.99), (400, 0.9, 0.91, 0.89)], "ptq": [(5_000, 0.2, 0.1, 0.3)]}
    plot_frontier(families, tmp_path / "frontier.png", keep=0.95)
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 1
