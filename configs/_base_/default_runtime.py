_base_ = "runtimes/default.py"  # the name that configs of users inherit
