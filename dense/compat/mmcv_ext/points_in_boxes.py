"""Which points (M, 3) lie in which boxes (T, 7): x, y, z of the bottom's centre, sizes along x, y, z, angle.

Positive angles turn the x axis towards the y axis. The bottom and the top belong to a box, its sides do not.
"""


def points_in_boxes_cpu_forward(boxes, points, indices):
    """Fill ``indices`` (T, M) with 1 where a point is in a box, else 0."""
    for box, row in zip(boxes, indices, strict=True):
        row.copy_(_inside(box, points))


def points_in_boxes_all_forward(boxes, points, indices):
    """The same of a batch, by points: ``indices`` is (B, M, T)."""
    for one in zip(boxes, points, indices.transpose(1, 2), strict=True):
        points_in_boxes_cpu_forward(*one)


def points_in_boxes_part_forward(boxes, points, indices):
    """Fill ``indices`` (B, M) with the first box that each point is in; points in none are left."""
    for some, cloud, row in zip(boxes, points, indices, strict=True):
        for number in reversed(range(len(some))):
            row.masked_fill_(_inside(some[number], cloud), number)


def _inside(box, points):
    x, y, z = (points - box[:3]).unbind(1)
    half_x, half_y, height = box[3] / 2, box[4] / 2, box[5]
    cos, sin = box[6].cos(), box[6].sin()
    along, across = x * cos + y * sin, y * cos - x * sin
    level = (z - height / 2).abs() <= height / 2
    return level & (along.abs() < half_x) & (across.abs() < half_y)
