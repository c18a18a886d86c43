"""Published points: read from either kind of table, and of the right task."""

from __future__ import annotations

from pathlib import Path

import pytest

from policypress.errors import ConfigError
from policypress.studies.report.paper import point_of, points_of, read_paper
from studies.report.whole import PAPER


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "paper.csv").write_text(PAPER)
    return tmp_path / "paper.csv"


def test_points_are_of_the_same_task_whatever_its_version(table: Path) -> None:
    points = read_paper(table)
    settings = {"env": "Hopper-v5", "algo": "sac", "sparsity": 0.9, "weight_bits": 8}
    assert [point.mean for point in points_of(points, settings)] == [110.0, 99.0]
    point = point_of(points, settings)
    assert point is not None
    assert (point.mean, point.std, point.nominal_bytes) == (99.0, 6.0, 45.0)
    assert point_of(points, {**settings, "sparsity": 0.5}) is None
    assert point_of(points, {**settings, "weight_bits": 32}) is None
    assert point_of(points, {**settings, "hidden": "24,24"}) is None
    assert points_of(points, {**settings, "env": "Hop-v5"}) == []


def test_algorithms_and_networks_are_told_apart_where_the_table_does(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text(
        "algorithm,env,network,sparsity,return_final_mean,return_final_std\n"
        "sac,Hopper-v4,mlp_2x256,0.9,1,0\ndqn,Boxing-v4,cnn,0.9,2,0\ndqn,Boxing-v4,resnet,0.9,3,0\n"
    )
    points = read_paper(path)

    def means(**settings: str) -> list[float]:
        return [point.mean for point in points_of(points, settings)]

    assert means(env="Hopper-v5", algo="sac") == [1.0]
    assert means(env="Hopper-v5", algo="td3") == []
    assert means(env="Boxing-v4", algo="dqn", network="nature") == [2.0]
    assert means(env="Boxing-v4", algo="dqn", network="resnet") == [3.0]
    assert points[0].nominal_bytes is None


@pytest.mark.parametrize(
    ("text", "sentence"), [("env,mean\nA-v1,2\n", "is no table with"), ("env,sparsity,mean,std\nA,x,1,1\n", "'x'")]
)
def test_other_tables_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        read_paper(tmp_path / "p.csv")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_paper(tmp_path / "missing.csv")
