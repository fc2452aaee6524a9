# As risurconv-s_kicad.py, but every training shape is rotated at random: the network of the row SO3/SO3.
_base_ = [
    "_base_/risurconv-s.py",
    "../_base_/datasets/kicad_so3.py",
    "../_base_/schedules/adamw_30e.py",
    "../_base_/runtimes/default.py",
]
