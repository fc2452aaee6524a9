# What every run of dense networks shares that are not MMDetection's or MMSegmentation's.
_base_ = "default.py"

default_scope = "dense"
