# What small models of images as bytes share, which train in minutes on a CPU: 500 steps of four images of
# 768 bytes, as many tokens as in shakespeare.py. Networks that are compared have 0.92 million parameters.
_base_ = ["../datasets/cifar10_bytes.py", "../schedules/adamw_2k_tokens.py", "../runtimes/sequence.py"]

max_iters = 500
model = dict(type="LanguageModeler", network=dict(vocab_size=257, max_length=768))
train_cfg = dict(max_iters=max_iters)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=100, end=max_iters, T_max=400, eta_min=1e-4),
]
