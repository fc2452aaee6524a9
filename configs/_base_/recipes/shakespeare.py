# What small language models of characters share, which train in minutes on a CPU: 2,000 steps of 12 windows
# of 64 characters, nanoGPT's budget for CPUs. Networks that are compared have 0.80 million parameters.
_base_ = ["../datasets/shakespeare.py", "../schedules/adamw_2k_tokens.py", "../runtimes/sequence.py"]

model = dict(type="LanguageModeler", network=dict(vocab_size=65))
