_base_ = [
    "../_base_/datasets/listops.py",
    "../_base_/schedules/adamw_2k_tokens.py",
    "../_base_/runtimes/sequence.py",
]

model = dict(
    type="LanguageModeler", network=dict(type="KernelizedRPE", arch="tiny", vocab_size=17, max_length=64)
)
