import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from PIL import Image

from dense.registry import MODELS
from dense.sequence import Answerer
from dense.sequence.answering import END, AnswerAccuracy, PictureAnswerer, WordVocabulary
from dense.sequence.mosaics import Mosaics, MosaicSample, Question
from dense.sequence.networks.vision_remember import IMAGE
from pointsuite.engine.randomness import seeded

from .networks.test_vision_remember import ARCH
from .toy import write_photos

PIPELINE = [{"type": "ComposeMosaic"}, {"type": "AskQuestions", "count": 6}, {"type": "PackMosaic"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos")
    write_photos(path)
    return path


@pytest.fixture(scope="module")
def batch(folder):
    data = Mosaics(folder, length=3, pipeline=PIPELINE)
    return pseudo_collate([data[i] for i in range(3)])


def make(**options):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("dense"):
        return MODELS.build(
            {"type": "PictureAnswerer", "network": dict(type="VisionRemember", arch=ARCH, **options)}
        )


def sample(*questions):
    found = MosaicSample()
    found.set_data({"questions": list(questions)})
    return found


def test_batches_end_together_and_answers_are_no_guide():
    model = make()
    samples = [
        sample(Question("place", "what is top ?", "cat"), Question("place", "what is top left ?", "dog")),
        sample(Question("count", "how many cats ?", "two")),
    ]
    found = model.make_batch(samples, 4, True, torch.device("cpu"))
    ids, guide, real = found["ids"], found["guide"], found["mask"]
    assert ids.shape == (3, 4 + 5 + 2) and found["images"] == [0, 0, 1]
    assert real.sum(1).tolist() == [10, 11, 10] and (ids[~real] == 0).all()
    assert (ids[:, -1] == END).all() and model.vocabulary.decode(ids[0, -2:]) == "cat"
    asked = [model.vocabulary.decode(row[own]) for row, own in zip(ids, guide, strict=True)]
    assert asked == ["what is top ?", "what is top left ?", "how many cats ?"]
    assert ((ids == IMAGE).sum(1) == 4).all() and not (guide & (ids == IMAGE)).any()
    bare = model.make_batch(samples, 4, False, torch.device("cpu"))
    assert torch.equal(bare["ids"], ids[:, :-2]) and torch.equal(bare["guide"], guide[:, :-2])


def test_the_loss_is_of_answers_alone(batch):
    model = make()
    data = model.data_preprocessor(batch)
    loss = model.loss(**data)["loss"]
    told = model.make_batch(data["data_samples"], 36, True, torch.device("cpu"))
    log_p = model.network(data["inputs"], **told).log_softmax(-1)
    wanted = [log_p[:, place - 1].gather(1, told["ids"][:, [place]]) for place in (-2, -1)]
    torch.testing.assert_close(loss, -torch.stack(wanted).mean())


def test_predictions_depend_on_their_own_question(batch):
    model = make().eval()
    data = model.data_preprocessor(batch)
    with seeded(0):
        torch.nn.init.normal_(model.network.language.embed_tokens.weight)
    together = [s.pred_answers for s in model.predict(data["inputs"], data["data_samples"])]
    for i, s in enumerate(data["data_samples"]):
        for question, found in zip(s.questions, together[i], strict=True):
            (alone,) = model.predict(data["inputs"][i : i + 1], [sample(question)])
            assert alone.pred_answers == [found]


def test_metric():
    metric = AnswerAccuracy()
    found = sample(
        Question("place", "a", "cat"), Question("count", "b", "two"), Question("place", "c", "dog")
    )
    found.set_data({"pred_answers": ["cat", "two two", "ship"]})
    metric.process(None, [found.to_dict()])
    assert metric.compute_metrics(metric.results) == {
        "all": pytest.approx(100 / 3),
        "count": 0,
        "place": 50,
    }
    with pytest.raises(ValueError, match="the test has no question"):
        metric.compute_metrics([])


def test_answerer(tmp_path):
    answer = Answerer(make())
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for i, path in enumerate(paths):
        Image.new("RGB", (96, 96), (200 * i, 90, 30)).save(path)
    many = answer(tmp_path, question="What is top left?")
    assert many == [answer(path, question="what is top left ?") for path in paths]
    assert all(isinstance(word, str) for word in many)
    with pytest.raises(ValueError, match="the word 'toop' is not in the vocabulary; did you mean top"):
        answer(paths[0], question="what is toop left?")
    with pytest.raises(ValueError, match="found no word in ' '"):
        answer(paths[0], question=" ")
    with pytest.raises(ValueError, match="found a Linear, wanted a PictureAnswerer"):
        Answerer(torch.nn.Linear(1, 1))


def test_bad_input(batch):
    with pytest.raises(ValueError, match="46 words and signs, but the network has vocab_size 9"):
        make(vocab_size=9)
    with pytest.raises(ValueError, match="has a word twice"):
        WordVocabulary(["a", "a"])
    model = make()
    with pytest.raises(ValueError, match="sample 0: has no question"):
        model.loss(torch.zeros(1, 3, 96, 96), [MosaicSample()])
    with pytest.raises(ValueError, match="found pictures without samples"):
        model(torch.zeros(1, 3, 96, 96))
    assert isinstance(model, PictureAnswerer)


@pytest.mark.slow
def test_answers_are_learnt(batch):
    """Those about a few mosaics, by heart."""
    model = make().train()
    data = model.data_preprocessor(batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(80):
        loss = model.loss(**data)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.8  # who knows what answers there are, but not which, is at 1.2
