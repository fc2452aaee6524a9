"""How alike scanpaths are, and how alike the habits of those who looked.

A path is of objects: integers, in the order in which they were fixated. MultiMatch compares points.
"""

from collections.abc import Sequence
from math import isnan, nan

import numpy as np
from mmengine.evaluator import BaseMetric
from numpy.typing import ArrayLike
from torch import Tensor

from ..registry import METRICS

BEHAVIOUR = ("target_hit", "length", "first_visits", "refixations", "revisits")
MULTIMATCH = ("shape", "direction", "length", "position", "duration")
EMPTY = (-1, -2)  # what shorter paths are filled with: equal to no object, nor to each other


def sequence_score(found: ArrayLike, wanted: ArrayLike) -> float:
    """Similarity of two paths of objects, 0 to 1.

    Needleman and Wunsch's alignment (1970) with 1 for a match, 0 for a mismatch and a gap: the length of the
    longest common subsequence, by the length of the longer path.

    Raises:
        ValueError: a path is empty or has several axes.
    """
    return sequence_scores([found], [wanted])[0, 0].item()


def sequence_scores(found: Sequence[ArrayLike], wanted: Sequence[ArrayLike]) -> np.ndarray:
    """:func:`sequence_score` of each of n paths with each of m: float64 (n, m)."""
    (a, long_a), (b, long_b) = (
        _fill(paths, value) for paths, value in zip((found, wanted), EMPTY, strict=True)
    )
    best = np.zeros((len(a), len(b), b.shape[1] + 1), np.int64)  # of all that comes before a column
    for objects in a.T:
        diagonal = best[..., :-1] + (objects[:, None, None] == b)
        best[..., 1:] = np.maximum(best[..., 1:], diagonal)
        best = np.maximum.accumulate(best, -1)
    return best[..., -1] / np.maximum(long_a[:, None], long_b)


def _fill(paths: Sequence[ArrayLike], value: int) -> tuple[np.ndarray, np.ndarray]:
    """Paths as one array, shorter ones filled, and their lengths."""
    arrays = [np.asarray(path) for path in paths]
    for array in arrays:
        if array.ndim != 1 or not len(array) or array.dtype.kind not in "iu":
            raise ValueError(f"a path must be (n,) integers, n at least 1, found {array.shape} {array.dtype}")
    lengths = np.array([len(array) for array in arrays])
    filled = np.full((len(arrays), lengths.max()), value)
    for row, array in zip(filled, arrays, strict=True):
        row[: len(array)] = array
    return filled, lengths


def behaviour(path: ArrayLike, target: int | None = None) -> np.ndarray:
    """How somebody looked: float64 (5,), as :data:`BEHAVIOUR` names it.

    1 if the last fixation is on the target, else 0 (NaN without a target); the number of fixations; and of
    these the shares that are the first on their object, that stay on the object of the one before, and that
    come back to an object later. The shares add up to 1.
    """
    objects = _fill([path], 0)[0][0]
    stays = np.concatenate(([False], objects[1:] == objects[:-1]))
    first = np.zeros(len(objects), bool)
    first[np.unique(objects, return_index=True)[1]] = True
    hit = nan if target is None else float(objects[-1] == target)
    back = ~stays & ~first
    return np.array([hit, len(objects), first.mean(), stays.mean(), back.mean()])


def behaviour_gaps(found: ArrayLike, wanted: ArrayLike) -> np.ndarray:
    """|found - wanted| / wanted of mean behaviours (5,); 0 where both are 0, infinite where only that wanted
    is, NaN where either is (see :func:`behaviour`)."""
    found, wanted = np.asarray(found, float), np.asarray(wanted, float)
    gaps = np.abs(found - wanted)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(gaps == 0, 0.0, gaps / wanted)


def similarity(logits: Tensor, path: Tensor, sim_over_time: bool = False) -> Tensor:
    """Overlap of predicted chances with what was looked at, in the mean over steps: scalar, 0 to 1.

    At each step sum_i min(p_i, q_i) of p, the softmax of the logits over objects, and q, 1 for the object
    that was fixated.

    Args:
        logits: (T, N), given the true path up to each step.
        path: (T,) integer, what follows.
        sim_over_time: take the softmax over the steps, not the objects, as the published validation does.

    Raises:
        ValueError: other shapes, or an object that has no logit.
    """
    if logits.ndim != 2 or path.shape != logits.shape[:1] or not len(path):
        raise ValueError(
            f"logits must be (T, N) and a path (T,), found {tuple(logits.shape)} and {tuple(path.shape)}"
        )
    if path.min() < 0 or path.max() >= logits.shape[1]:
        raise ValueError(f"a path must be of 0 to {logits.shape[1] - 1}, found {path.tolist()}")
    chances = logits.float().softmax(0 if sim_over_time else 1)
    return chances.gather(1, path[:, None]).mean()


# ------------------------------------------------------------------------------------------------ MultiMatch


def multimatch(
    found: ArrayLike,
    wanted: ArrayLike,
    size: Sequence[float],
    found_durations: ArrayLike | None = None,
    wanted_durations: ArrayLike | None = None,
    *,
    amplitude: float | None = None,
    angle: float = 45.0,
    duration: float = 300.0,
) -> np.ndarray:
    """Five similarities of two scanpaths, 0 to 1, as :data:`MULTIMATCH` names them: float64 (5,).

    Saccades u of one path and v of the other are aligned: of all ways from the first pair to the last, a step
    in one path, in the other or in both, the one with the least sum of |u - v|. Each similarity is 1 less the
    median over the aligned pairs of

    - shape: |u - v|, by twice the picture's diagonal;
    - direction: the angle between u and v, by 180 degrees;
    - length: ||u| - |v||, by the diagonal;
    - position: the distance of the fixations that they start from, by the diagonal;
    - duration: the difference of these fixations' durations, by the longer one.

    Args:
        found, wanted: (n, 2), (m, 2), x, y in pixels.
        size: width and height of the picture in pixels.
        found_durations, wanted_durations: (n,), (m,), in ms; without both, duration is NaN.
        amplitude: simplify the paths first: fixations between saccades shorter than this, in pixels, and
            between saccades that turn by less than ``angle`` degrees, become one saccade, unless they last
            for ``duration`` ms. None, as it is usual, leaves the paths as they are.

    Returns:
        NaN in all five where a path has fewer than two fixations.

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite.

    Source: Jarodzka, Holmqvist, Nystrom, "A Vector-based, Multidimensional Scanpath Similarity Measure",
    ETRA 2010; Dewhurst et al., "It depends on how you look at it", Behavior Research Methods 2012. They leave
    open which of equally short ways counts: here the one that takes most steps in both.
    """
    paths = [_as_fixations(*each) for each in ((found, found_durations), (wanted, wanted_durations))]
    diagonal = float(np.hypot(*size))
    if amplitude is not None:
        paths = [simplify(*path, amplitude, angle, duration) for path in paths]
    (a, a_times), (b, b_times) = paths
    if min(len(a), len(b)) < 2:
        return np.full(5, nan)
    u, v = np.diff(a, axis=0), np.diff(b, axis=0)
    apart = np.linalg.norm(u[:, None] - v, axis=-1)
    i, j = align(apart)
    long_u, long_v = np.linalg.norm(u, axis=1)[i], np.linalg.norm(v, axis=1)[j]
    turn = np.arctan2(u[:, 1], u[:, 0])[i] - np.arctan2(v[:, 1], v[:, 0])[j]
    turn = np.abs((turn + np.pi) % (2 * np.pi) - np.pi)
    differences = [
        apart[i, j] / (2 * diagonal),
        turn / np.pi,
        np.abs(long_u - long_v) / diagonal,
        np.linalg.norm(a[i] - b[j], axis=1) / diagonal,
    ]
    if a_times is None or b_times is None:
        differences.append(np.array([nan]))
    else:
        longer = np.maximum(a_times[i], b_times[j])
        differences.append(np.abs(a_times[i] - b_times[j]) / np.maximum(longer, 1e-9))
    return 1 - np.array([np.median(difference) for difference in differences])


def align(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest way from the first to the last entry of costs (n, m), a step down, right or both.

    Returns:
        Rows and columns of its entries, in order.
    """
    rows, columns = cost.shape
    cost = cost.tolist()  # single entries of lists are faster than those of arrays
    total = [[0.0] * columns for _ in range(rows)]
    came = {}
    for i in range(rows):
        for j in range(columns):
            before = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
            before = [(p, q) for p, q in before if p >= 0 and q >= 0]
            if before:
                came[i, j] = p, q = min(before, key=lambda place: total[place[0]][place[1]])
                total[i][j] = total[p][q]
            total[i][j] += cost[i][j]
    way = [(rows - 1, columns - 1)]
    while way[-1] in came:
        way.append(came[way[-1]])
    found_rows, found_columns = np.array(way[::-1]).T
    return found_rows, found_columns


def simplify(
    points: np.ndarray, durations: np.ndarray | None, amplitude: float, angle: float, duration: float
) -> tuple[np.ndarray, np.ndarray | None]:
    """Drop fixations between short saccades, and between those of nearly one direction, until none is left.

    See :func:`multimatch`. The durations of what is dropped are added to the fixation before it.
    """
    points = points.copy()
    durations = None if durations is None else durations.copy()
    place = 1
    while place < len(points) - 1:
        before, after = points[place] - points[place - 1], points[place + 1] - points[place]
        lengths = np.linalg.norm(before), np.linalg.norm(after)
        turn = abs(np.arctan2(before[0] * after[1] - before[1] * after[0], before @ after))
        merges = max(lengths) < amplitude or turn < np.radians(angle)
        if merges and (durations is None or durations[place] < duration):
            points = np.delete(points, place, 0)
            if durations is not None:
                durations[place - 1] += durations[place]
                durations = np.delete(durations, place)
            place = max(place - 1, 1)  # the saccade before this one has changed
        else:
            place += 1
    return points, durations


def _as_fixations(points: ArrayLike, durations: ArrayLike | None) -> tuple[np.ndarray, np.ndarray | None]:
    points = np.asarray(points, float)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError(f"fixations must be finite (n, 2), x and y, found {points.shape}")
    if durations is None:
        return points, None
    durations = np.asarray(durations, float)
    if durations.shape != points.shape[:1] or not np.isfinite(durations).all() or (durations < 0).any():
        raise ValueError(f"durations must be ({len(points)},) finite ms from 0, found {durations.shape}")
    return points, durations


@METRICS.register_module()
class ScanpathSimilarity(BaseMetric):
    """Predicted paths beside those of people who saw the same: each with each, then the mean over pictures.

    - ``scanpath/sequence_score``: :func:`sequence_score`, in the mean over pairs.
    - ``scanpath/multimatch_shape``, ...: :func:`multimatch`; left out if no sample has ``gt_points``, and the
      duration if the predictions have none. Paths of fewer than two fixations count in none of them.
    - ``scanpath/sim``: :func:`similarity` given people's paths; of networks.
    - ``scanpath/length``, ...: the mean :func:`behaviour` of predictions; ``scanpath/length_gap``, ...: how
      far it is, as a share, from that of people; ``scanpath/delta``: the mean of the gaps, of which 0 is
      best. Without a target there is none of the target's.

    A prediction that is one person's path (``pred_person``) is not compared with itself.

    Args:
        **kwargs: of MMEngine's ``BaseMetric``.
    """

    default_prefix = "scanpath"

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            found, wanted = (
                [path.cpu().numpy() for path in sample[key]] for key in ("pred_paths", "gt_paths")
            )
            persons = sample.get("pred_person", [None] * len(found))
            pairs = np.array([[person != j for j in range(len(wanted))] for person in persons])
            target = sample.get("target")
            result = {
                "sequence_score": sequence_scores(found, wanted)[pairs].mean() if pairs.any() else nan,
                "sim": sample.get("sim", nan),
                "found": np.mean([behaviour(path, target) for path in found], 0),
                "wanted": np.mean([behaviour(path, target) for path in wanted], 0),
            }
            if "gt_points" in sample and "pred_points" in sample:
                result |= zip(
                    (f"multimatch_{name}" for name in MULTIMATCH),
                    self._multimatch(sample, pairs),
                    strict=True,
                )
            self.results.append(result)

    def _multimatch(self, sample: dict, pairs: np.ndarray) -> np.ndarray:
        sides = []
        for side in ("pred", "gt"):
            points = [each.cpu().numpy() for each in sample[f"{side}_points"]]
            times = sample.get(f"{side}_durations") or [None] * len(points)
            sides.append(
                [(p, None if t is None else t.cpu().numpy()) for p, t in zip(points, times, strict=True)]
            )
        scores = [
            multimatch(sides[0][i][0], sides[1][j][0], sample["size"], sides[0][i][1], sides[1][j][1])
            for i, j in np.argwhere(pairs)
        ]
        return _mean_of_numbers(np.array(scores).reshape(-1, 5))

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        names = ["sequence_score", "sim", *(f"multimatch_{name}" for name in MULTIMATCH)]
        found = {
            name: float(_mean_of_numbers(np.array([result.get(name, nan) for result in results])))
            for name in names
        }
        means = {side: np.mean([result[side] for result in results], 0) for side in ("found", "wanted")}
        gaps = behaviour_gaps(means["found"], means["wanted"])
        found |= zip(BEHAVIOUR, means["found"].tolist(), strict=True)
        found |= zip((f"{name}_gap" for name in BEHAVIOUR), gaps.tolist(), strict=True)
        found["delta"] = float(_mean_of_numbers(gaps))
        return {name: value for name, value in found.items() if not isnan(value)}


def _mean_of_numbers(values: np.ndarray) -> np.ndarray:
    """The mean over the first axis of what is not NaN; NaN where all is."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(0) / known.sum(0)
