# The same network, with attention diversification (ADL) as a second loss.
_base_ = "rvt-tap_cifar10.py"

model = dict(attention_loss=dict(type="AttentionDiversificationLoss", threshold=2.0))
