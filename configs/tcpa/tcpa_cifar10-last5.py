# Coordinated Fourier prompts: of ten in each block, five for the class token and five for the patches, each
# token has three. As many prompts as vfpt_cifar10-last5.py, and as many keys.
_base_ = "linear-probe_cifar10-last5.py"

model = dict(
    type="TCPAClassifier",
    backbone=dict(
        _delete_=True,
        type="TCPA",
        arch=dict(trunk={{_base_.deit_xs}}),
        pool_sizes=(5, 5),
        topk=(3, 3),
        random_epochs=1,
        pretrained={{_base_.pretrained}},
    ),
)
custom_hooks = [dict(type="TellEpoch")]
