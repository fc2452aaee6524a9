"""Triton kernels of the point operators, one file an operator. Importing this package does not import Triton.

The functions take arguments that `pointsuite.ops` has checked and made contiguous. Products and sums are
rounded one by one, in the written order (`enable_fp_fusion=False`), so that a GPU makes the same discrete
choices as a CPU. Kernels are not specialised on sizes, so a new size does not wait for the compiler.
Gathering and interpolation have no kernel: PyTorch's indexing is already bound by memory.
"""
