# As risurconv-s_kicad.py, but every training shape is rotated about the vertical axis.
_base_ = [
    "_base_/risurconv-s.py",
    "../_base_/datasets/kicad_z.py",
    "../_base_/schedules/adamw_30e.py",
    "../_base_/runtimes/default.py",
]
