"""A language model speaks from the shell, of random weights."""

import pytest
import torch

from dense.sequence.networks.transnormer import TransNormer
from pointsuite.engine.checkpoint import save_checkpoint
from tests.tools.load import load_tool

main = load_tool("analysis/generate").main
CONFIG = "configs/transnormer/tnl-tiny_shakespeare.py"


@pytest.fixture
def checkpoint(tmp_path):
    """As a run leaves it, with the characters of its data."""
    torch.manual_seed(0)
    characters = list(map(chr, range(60, 125)))
    state = {f"network.{key}": value for key, value in TransNormer("tiny", 65).state_dict().items()}
    content = {"state_dict": state, "meta": {"dataset_meta": {"vocabulary": characters}}}
    save_checkpoint(content, tmp_path / "model.pth")
    return str(tmp_path / "model.pth")


def test_it_goes_on_where_the_prompt_ends(checkpoint, tmp_path, capsys):
    def said(*options):
        main([CONFIG, checkpoint, "--length", "20", *options])
        return capsys.readouterr().out.removesuffix("\n")

    text = said("--prompt", "HAM", "--seed", "1")
    assert text.startswith("HAM") and len(text) == 23
    (tmp_path / "start.txt").write_text("HAM")
    assert said("--prompt-file", str(tmp_path / "start.txt"), "--seed", "1") == text
    assert said("--prompt", "HAM", "--seed", "2") != text
    surest = said("--prompt", "HAM", "--temperature", "0", "--seed", "1")
    assert surest == said("--prompt", "HAM", "--top-k", "1", "--seed", "2")


def test_characters_that_it_does_not_know(checkpoint):
    with pytest.raises(ValueError, match="found the character '!', wanted those of the vocabulary"):
        main([CONFIG, checkpoint, "--prompt", "AB!"])
