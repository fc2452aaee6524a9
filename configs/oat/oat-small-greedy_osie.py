# The likeliest object at each step, with the weights of oat-small_osie.py: one path for each photograph.
_base_ = "oat-small_osie.py"

model = dict(num_paths=0)
