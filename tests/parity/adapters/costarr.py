"""Open-set recognition: COSTARR's fit and score, the sibling's normalised logits, and the metrics."""

import torch
from torch import Tensor

from dense.classification.open_set import COSTARR, GHOST
from dense.classification.open_set_metrics import (
    auoscr,
    auroc,
    best_threshold,
    ccr_at_fpr,
    closed_set_accuracy,
    fpr_at_tpr,
    oosa,
    open_set_curve,
)

from ..adapt import Case, Pack


def adapt(pack: Pack) -> Case:
    facts = pack.facts
    if "score" in pack.inputs:
        return Case(run=lambda inputs: metrics(inputs, facts))
    return Case(run=costarr if "weight" in pack.inputs else ghost)


def costarr(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    model = COSTARR(inputs["weight"], inputs.get("bias"))
    train, labels = inputs["train_features"], inputs["train_labels"]
    model.fit(zip(train.split(50), labels.split(50), strict=True))
    x = inputs["test_features"]
    score, predicted = model(x)
    highest = (x @ model.weight.T + model.bias).amax(1)
    return {
        "mean": model.mean,
        "logit_range": model.logit_range,
        "count": model.count.float(),
        "predicted": predicted.float(),
        "similarity": model.similarity(x, predicted),
        "normalised_logit": model.normalise_logit(highest),
        "score": score,
    }


def ghost(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    logits, features = inputs["train_logits"], inputs["train_features"]
    model = GHOST(torch.zeros(logits.shape[1], features.shape[1]))
    model.update(features, logits.argmax(1), logits)
    model.finish()
    given = inputs["test_features"], inputs["test_logits"]
    moments = {f"mean{k}": row for k, row in enumerate(model.mean)}
    moments |= {f"std{k}": row for k, row in enumerate(model.std)}
    return {"normalised": model.normalise(*given), "score": model(*given)[0], **moments}


def metrics(inputs: dict[str, Tensor], facts: dict) -> dict[str, Tensor]:
    names = ("labels", "predicted", "score")
    test = open_set_curve(*(inputs[name].numpy() for name in names))
    threshold, best = best_threshold(test)
    found = {
        "auoscr": auoscr(test),
        "auroc": auroc(test),
        "fpr95": fpr_at_tpr(test),
        "accuracy": closed_set_accuracy(test),
        "best_osa": best,
        "best_threshold": threshold,
    }
    start = "ccr_at_fpr_"
    fprs = [name.removeprefix(start) for name in facts if name.startswith(start)]
    found |= {f"{start}{fpr}": ccr_at_fpr(test, float(fpr)) for fpr in fprs}
    if "val_score" in inputs:
        validation = open_set_curve(*(inputs[f"val_{name}"].numpy() for name in names))
        found["oosa"], found["oosa_threshold"] = oosa(test, validation)
    return {name: torch.tensor([value]) for name, value in found.items()}
