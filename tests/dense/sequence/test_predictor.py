"""Text in, more of it out."""

import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import nn

from dense.sequence import Generator
from dense.sequence.networks.transformer import Transformer
from dense.sequence.networks.transnormer import TransNormer
from dense.sequence.sampling import choose, speak

ROOT = Path(__file__).parents[3]


def network(cls=TransNormer, vocab_size=4, **options):
    torch.manual_seed(0)
    arch = {**cls.archs["tiny"], "embed_dims": 16, "depth": 2, "num_heads": 2}
    if cls is TransNormer:
        arch |= {"hidden_dims": 16, "glu_dims": 16}
    return cls(arch, vocab_size, **options).eval()


def test_the_same_seed_writes_the_same():
    write = Generator(network(), vocabulary="abcd")
    first = write("ab", length=40, seed=1)
    assert len(first) == 40 and set(first) <= set("abcd")
    assert write("ab", length=40, seed=1) == first != write("ab", length=40, seed=2)
    assert write(["ab", "ba"], length=40, seed=1) == [first, write("ba", length=40, seed=1)]


def test_prompts_may_come_from_files(tmp_path):
    (tmp_path / "start.txt").write_text("ab")
    write = Generator(network(), vocabulary="abcd")
    assert write(tmp_path / "start.txt", length=9) == write("ab", length=9)


@torch.no_grad()
def test_without_chance_it_takes_the_most_probable():
    model = network()
    write = Generator(model, vocabulary="abcd")
    ids = [0, 1]
    for _ in range(6):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert write("ab", length=6, temperature=0) == "".join("abcd"[i] for i in ids[2:])


@torch.no_grad()
def test_positions_that_end_begin_anew():
    """After the last one, the later half is read again."""
    model = network(Transformer, max_length=8)
    found = list(islice(speak(model, torch.tensor([0, 1, 2]), temperature=0), 10))
    seen = [0, 1, 2, *found]
    for i in range(3, len(seen)):
        before = seen[:i] if i <= 8 else seen[max(0, 5 + (i - 9) // 4 * 4) : i]
        assert seen[i] == int(model(torch.tensor([before]))[0, -1].argmax())


def test_drawing():
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]]).expand(4000, -1)
    generator = torch.Generator().manual_seed(0)
    found = torch.bincount(choose(logits, generator=generator), minlength=4) / 4000
    torch.testing.assert_close(found, logits[0].softmax(0), rtol=0, atol=0.03)
    assert set(choose(logits, top_k=2, generator=generator).tolist()) == {2, 3}
    assert set(choose(logits, temperature=0.01, generator=generator).tolist()) == {3}
    assert choose(logits, temperature=0).unique().tolist() == [3]
    assert choose(logits[:2], top_k=9, generator=generator).shape == (2,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda write: write(""), "a prompt must have at least one token"),
        (lambda write: write("abe"), "found the character 'e'"),
        (lambda write: write("a", length=0), "length must be at least 1, found 0"),
        (lambda write: write("a", temperature=-1.0), "temperature must be finite, from 0, found -1"),
        (lambda write: write("a", temperature=float("nan")), "temperature must be finite"),
        (lambda write: write("a", top_k=0), "top_k must be at least 1, found 0"),
        (lambda write: write("abcdabcda"), "the prompt has 9 tokens, but positions reach only 8"),
    ],
)
def test_errors(call, message):
    write = Generator(network(Transformer, max_length=8), vocabulary="abcd")
    with pytest.raises(ValueError, match=message):
        call(write)


def test_logits_that_are_not_finite():
    with pytest.raises(ValueError, match="found logits that are NaN or infinite"):
        choose(torch.tensor([[0.0, torch.nan]]))


def test_vocabularies_that_do_not_fit():
    with pytest.raises(ValueError, match="the vocabulary has 3 tokens, but the network 4"):
        Generator(network(), vocabulary="abc")
    with pytest.raises(ValueError, match="it is not said what the 4 tokens are"):
        Generator(network())
    with pytest.raises(ValueError, match="found a Linear, wanted a network that predicts tokens"):
        Generator(nn.Linear(2, 2))
    assert len(Generator(network(vocab_size=256))("ab", length=5)) <= 5  # bytes


@pytest.mark.slow
def test_train_and_speak(tmp_path):
    """The commands of configs/transnormer/README.md, a few steps of them."""
    (tmp_path / "tinyshakespeare.txt").write_text("".join(map(chr, range(60, 125))) * 40)
    config, run = "configs/transnormer/tnl-tiny_shakespeare.py", [sys.executable]
    options = ["--cfg-options", f"data_root={tmp_path}"]
    train = [*run, "tools/train.py", config, "--work-dir", str(tmp_path / "run"), *options, "max_iters=4"]
    subprocess.run(train, cwd=ROOT, check=True, capture_output=True)
    speak = [*run, "tools/analysis/generate.py", config, str(tmp_path / "run"), "--prompt", "AB"]
    texts = [
        subprocess.run(
            [*speak, "--length", "20", "--seed", seed], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
        for seed in ("1", "1", "2")
    ]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("AB") and len(texts[0].rstrip("\n")) == 22
