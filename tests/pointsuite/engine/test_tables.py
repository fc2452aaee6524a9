from pointsuite.engine.tables import align_columns


def test_by_hand():
    rows = [("name", "n", "m"), ("a", "10"), ("long name", "1", "2.5")]
    assert align_columns(rows).splitlines() == [
        "name        n    m",
        "a          10",
        "long name   1  2.5",
    ]
    left = align_columns(rows, left=None).splitlines()
    assert left == [
        "name       n   m",
        "a          10",
        "long name  1   2.5",
    ]
    assert align_columns(rows, left=0).splitlines()[0] == "     name   n    m"
    assert align_columns([]) == ""
