from types import SimpleNamespace

from torch import nn

from dense.adaptation.comparison import TuningComparison


def test_only_trained_parameters_count():
    model = nn.Sequential(nn.Linear(2, 3).requires_grad_(False), nn.Linear(3, 4))
    runner = SimpleNamespace(model=model, cfg={"test_cfg": {}}, test=lambda: {"top1": 50.0})
    assert TuningComparison().evaluate(runner, "") == {"top1": 50.0, "trained": 16}
