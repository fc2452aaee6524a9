# A small RISurConv for the bundled shapes. It trains without rotation: its features do not change under any,
# so training under z or SO(3) gives the same network up to rounding (README.md beside this file).
_base_ = [
    "_base_/risurconv-s.py",
    "../_base_/datasets/kicad.py",
    "../_base_/schedules/adamw_30e.py",
    "../_base_/runtimes/default.py",
]
