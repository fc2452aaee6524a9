"""Convolution at some pixels alone: one image, (1, C, H, W), and the pixels' rows and columns, (n,) each."""

from torch.nn import functional as F


def masked_im2col_forward(im, mask_h_idx, mask_w_idx, col, kernel_h, kernel_w, pad_h, pad_w):
    """Fill ``col`` (C * kernel_h * kernel_w, n) with what the kernel covers around each pixel."""
    windows = F.pad(im[0], (pad_w, pad_w, pad_h, pad_h)).unfold(1, kernel_h, 1).unfold(2, kernel_w, 1)
    col.copy_(windows[:, mask_h_idx, mask_w_idx].permute(0, 2, 3, 1).reshape(col.shape))


def masked_col2im_forward(col, mask_h_idx, mask_w_idx, im, height, width, channels):
    """Put ``col`` (C, n) at the pixels of ``im``."""
    im[0, :, mask_h_idx, mask_w_idx] = col
