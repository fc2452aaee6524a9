"""Focal losses: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.

``target`` holds classes 0 to C - 1; C, or any other number, is background, which has no probability in the
softmax form. ``weight`` is (C,) by the target's class, or empty.
"""

import torch
from torch.nn import functional as F

from ._gradients import fill_gradients


def sigmoid_focal_loss_forward(input, target, weight, output, gamma, alpha):
    output.copy_(_sigmoid_focal_loss(input, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(input, target, weight, grad_input, gamma, alpha):
    def loss(x):
        return _sigmoid_focal_loss(x, target, weight, gamma, alpha)

    fill_gradients(loss, [input], torch.ones_like(input), [grad_input])


def _sigmoid_focal_loss(input, target, weight, gamma, alpha):
    """(N, C) logits to the loss of each."""
    positive = target[:, None] == torch.arange(input.shape[1], device=input.device)
    towards = torch.where(positive, input, -input)  # the logit of what is wanted
    balance = positive.to(input.dtype) * (2 * alpha - 1) + (1 - alpha)
    loss = -balance * (gamma * F.logsigmoid(-towards)).exp() * F.logsigmoid(towards)
    return loss * _weight_of(target, weight)[:, None] if len(weight) else loss


def softmax_focal_loss_forward(softmax, target, weight, output, gamma, alpha):
    wanted, known = _wanted(softmax, target)
    loss = -alpha * (1 - wanted).pow(gamma) * _log(wanted)
    loss = loss * _weight_of(target, weight) if len(weight) else loss
    output.copy_(torch.where(known, loss, 0))


def softmax_focal_loss_backward(softmax, target, weight, buff, grad_input, gamma, alpha):
    """``buff`` (N,) takes the derivative by the wanted logit over 1 - its probability."""
    wanted, known = _wanted(softmax, target)
    rest = 1 - wanted
    slope = alpha * (gamma * rest.pow(gamma - 1) * wanted * _log(wanted) - rest.pow(gamma))
    slope = slope * _weight_of(target, weight) if len(weight) else slope
    buff.copy_(torch.where(known, slope, 0))
    is_target = target[:, None] == torch.arange(softmax.shape[1], device=softmax.device)
    grad_input.copy_(buff[:, None] * (is_target.to(softmax.dtype) - softmax))


def _wanted(softmax, target):
    """The probability of each target, and whether it has one."""
    known = (target >= 0) & (target < softmax.shape[1])
    return softmax.gather(1, torch.where(known, target, 0)[:, None])[:, 0], known


def _log(probability):
    return probability.clamp(min=torch.finfo(torch.float32).tiny).log()


def _weight_of(target, weight):
    known = (target >= 0) & (target < len(weight))
    return torch.where(known, weight[torch.where(known, target, 0)], 1)
