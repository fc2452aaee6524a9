"""Names of the published weights of RelationNet++, and ours."""

import re
from collections.abc import Mapping

from torch import Tensor

from pointsuite.engine.checkpoint import CheckpointError

EMBEDDING = r"relative_positional_encoding\.embedding_transform\.0\.conv\."


def convert(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' weights, of MMDetection 2.x, named as here; of a whole detector, or of its head alone.

    The encodings of the grid, 165 MB each, are dropped: they are computed. A location embedding that both
    branches share has the names of both, whichever of these the file has.

    Raises:
        CheckpointError: there is no bridge in them.
    """
    found = re.compile(r"(bbox_head\.)?(keypoint_head|(cls|reg)_transformer)\.")
    matches = [match for match in map(found.match, state_dict) if match]
    if not matches:
        raise CheckpointError(f"no keypoint_head among its {len(state_dict)} keys: not of RelationNet++")
    prefix = matches[0][1] or ""
    converted = {}
    for key, value in state_dict.items():
        if not key.startswith(prefix):  # backbone and neck
            converted[key] = value
            continue
        name = key.removeprefix(prefix)
        if name.startswith("bbox_head."):
            converted[prefix + name.removeprefix("bbox_head.")] = value
            continue
        converted.update({f"{prefix}bvr.{new}": part for new, part in _rename(name, value).items()})
    return converted


def _rename(name: str, value: Tensor) -> dict[str, Tensor]:
    if name.endswith("base_embedding"):
        return {}
    if match := re.fullmatch(r"(.*)in_proj_(weight|bias)", name):
        query, key_value = value.split((len(value) // 3, len(value) // 3 * 2))
        return {f"{match[1]}query.{match[2]}": query, f"{match[1]}key_value.{match[2]}": key_value}
    if match := re.fullmatch(rf"(.*){EMBEDDING}(weight|bias)", name):
        value = value.flatten(1) if value.ndim > 1 else value
        owners = [match[1]] if match[1] else ["cls_transformer.", "reg_transformer."]
        return {f"{owner}embedding.proj.{match[2]}": value for owner in owners}
    return {name: value}
