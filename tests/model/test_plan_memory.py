"""``balcap plan`` against the memory of a real training run: 213 M random weights, CPU, a process of its own."""

from __future__ import annotations

from pathlib import Path

import plan_world
import pytest
import yaml

from balcap.params import check_params, read_params
from balcap.plan import plan

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_states_within_5_percent_and_peak_within_20(tmp_path: Path) -> None:
    raw = read_params(ROOT / "recipes/embedded.yaml")
    raw["warmstart"]["model"] |= {"hidden_size": 896, "intermediate_size": 2432, "layers": 12, "heads": 14}
    raw["warmstart"]["model"] |= {"image_size": 224, "patch_size": 32}
    raw["train"] |= {"steps": 1, "global_batch_size": 16, "group_size": 4, "updates_per_step": 2, "frozen": []}
    raw["train"] |= {"micro_batch_size": 4, "gradient_checkpointing": False, "alarms": {"window": 1, "when": {}}}
    raw["train"]["sampling"]["max_new_tokens"] = 48
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(raw))
    found, seen = plan(check_params(raw), tmp_path), plan_world.measured(file)
    assert 200e6 < found.shape.total == found.shape.trained < 220e6
    assert found.need.states == pytest.approx(seen["states"] - seen["baseline"], rel=0.05)
    assert found.need.peak == pytest.approx(seen["peak"] - seen["baseline"], rel=0.20)
    activations = seen["peak"] - seen["states"]
    assert found.need.activations == pytest.approx(activations, rel=0.35), "the part that is not a count of parameters"
