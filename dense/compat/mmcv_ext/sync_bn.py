"""The steps of batch norm over several processes; mmcv sums the statistics between them.

Inputs are (B, C, N); mean, var and std (C,) float32; norm (B, C, N) float32, the normed input.
"""


def sync_bn_forward_mean(input, mean):
    mean.copy_(input.float().mean((0, 2)))


def sync_bn_forward_var(input, mean, var):
    var.copy_((input.float() - mean[:, None]).square().mean((0, 2)))


def sync_bn_forward_output(
    input,
    mean,
    var,
    weight,
    bias,
    running_mean,
    running_var,
    norm,
    std,
    output,
    eps,
    momentum,
    group_size,
):
    std.copy_((var + eps).sqrt())
    norm.copy_((input.float() - mean[:, None]) / std[:, None])
    output.copy_(norm * weight[:, None] + bias[:, None])
    if running_mean is not None:
        count = input.shape[0] * input.shape[2] * group_size
        running_mean.copy_((1 - momentum) * running_mean + momentum * mean)
        running_var.copy_((1 - momentum) * running_var + momentum * var * (count / max(count - 1, 1)))


def sync_bn_backward_param(grad_output, norm, grad_weight, grad_bias):
    grad_weight.copy_((grad_output * norm).sum((0, 2)))
    grad_bias.copy_(grad_output.sum((0, 2)))


def sync_bn_backward_data(grad_output, weight, grad_weight, grad_bias, norm, std, grad_input):
    count = grad_output.shape[0] * grad_output.shape[2]
    centred = grad_output - (norm * grad_weight[:, None] + grad_bias[:, None]) / count
    grad_input.copy_(centred * (weight / std)[:, None])
