"""What is counted, against counts by hand."""

import itertools
import os
import subprocess
import sys
import time

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from pointsuite.engine import profiling


def test_multiply_adds_by_hand():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1, groups=8), nn.Flatten(), nn.Linear(128, 10)
    )
    costs = profiling.count_costs(model, lambda: model(torch.zeros(2, 3, 8, 8)))
    wanted = {"0": 2 * 8 * 27 * 64, "1": 2 * 8 * 9 * 16, "2": 0, "3": 2 * 128 * 10}
    assert {name: cost.macs for name, cost in costs.items() if name} == wanted
    assert costs[""].macs == sum(wanted.values())


@pytest.mark.parametrize("widths", [(16, 16), (16, 24)])  # the second has no fused kernel
def test_multiply_adds_of_attention(widths):
    q, k = torch.zeros(2, 3, 5, widths[0]), torch.zeros(2, 3, 7, widths[0])
    v = torch.zeros(2, 3, 7, widths[1])
    macs = profiling.count_costs(nn.Module(), lambda: scaled_dot_product_attention(q, k, v))[""].macs
    assert macs == 2 * 3 * 5 * 7 * sum(widths)


class Listed(nn.Module):
    """Its list of parts is never called; the parts are, one of them twice."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.idle = nn.Linear(4, 4)

    def forward(self, x):
        return self.parts[1](self.parts[0](self.parts[0](x)))


def test_lists_cost_what_their_parts_cost():
    model = Listed()
    costs = profiling.count_costs(model, lambda: model(torch.zeros(1, 4)))
    assert {name: cost.macs for name, cost in costs.items()} == {
        "": 48,
        "parts": 48,
        "parts.0": 32,
        "parts.1": 16,
        "idle": 0,
    }


def test_memory_that_training_keeps():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2), nn.Dropout(0.5))
    x = torch.zeros(5, 8)
    costs = profiling.count_costs(model.eval(), lambda: model(x))
    images, hidden = 4 * 5 * 8, 4 * 5 * 16  # bytes; ReLU and the second Linear share the hidden numbers
    assert [costs[name].kept for name in ("0", "1", "2", "3", "")] == [
        images,
        hidden,
        0,
        0,
        images + hidden,
    ]


def test_peak_memory():
    x = torch.zeros(1000)

    def forward():
        y = x + 1  # 4000 bytes
        z = torch.cat([y, y])  # and 8000
        del y
        return z.view(20, 100).sum() + x[:1].add_(1)  # 8 more; x was there before

    assert profiling.peak_memory(forward, "cpu") == 12_000
    assert profiling.peak_memory(lambda: x.view(10, 100), "cpu") == 0
    chain = nn.Sequential(*[nn.Linear(100, 100) for _ in range(20)])
    assert profiling.peak_memory(lambda: chain(x.view(10, 100)), "cpu") == 8000  # two at a time


def test_peers_take_turns_and_short_calls_repeat():
    calls = []
    peers = {"slow": lambda: (calls.append("slow"), time.sleep(0.006)), "fast": lambda: calls.append("fast")}
    found = profiling.take_turns(peers, "cpu", 0)
    turns = [name for name, _ in itertools.groupby(calls)]
    assert turns == ["slow", "fast"] * 5  # compile, calibrate, 3 rounds
    assert calls.count("slow") == 5 and calls.count("fast") > 50
    assert found["slow"] >= 6 and 0 < found["fast"] < 1


def test_rounds_are_told_one_by_one():
    found = profiling.time_turns({"a": lambda: None, "b": lambda: time.sleep(0.001)}, "cpu", 0)
    assert {name: len(times) for name, times in found.items()} == {"a": 3, "b": 3}
    assert min(found["b"]) >= 1 > max(found["a"])


def test_load_is_that_of_others():
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        with profiling.watch_load() as found:
            time.sleep(0.5)
    finally:
        process.kill()
        process.wait()
    assert 0.02 < found["load"] <= os.cpu_count() + 0.1
    others = profiling._others_seconds()
    before, began = time.process_time(), time.perf_counter()
    while time.process_time() < before + 0.2:  # one's own does not count
        pass
    free = os.cpu_count() * (time.perf_counter() - began) - 0.2
    assert profiling._others_seconds() - others < free + 0.05
