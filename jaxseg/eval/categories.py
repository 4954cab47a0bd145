"""What categories are called, and which one each label of a model stands for."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from jaxseg.data.classes import Classes
from jaxseg.errors import UserError

CategoryIds = tuple[int | None, ...]


def name_of(category: Mapping) -> str:
    """The name of a COCO file's category, also where the file has none."""
    return str(category.get("name") or f"category {category['id']}")


def distinct_names(categories: Sequence[Mapping]) -> dict[int, str]:
    """Each category's name by its id; those of one name carry their ids: "cell (id 2)"."""
    counts = Counter(map(name_of, categories))
    return {
        category["id"]: f"{name_of(category)} (id {category['id']})"
        if counts[name_of(category)] > 1
        else name_of(category)
        for category in categories
    }


def match_categories(
    model_classes: Classes | None,
    num_classes: int,
    data_classes: Classes,
    annotated: Collection[int] | None = None,
) -> CategoryIds:
    """The data set's category id of each label of the model; None where it has no such class.

    Classes are matched by name (letter case does not matter), so a model of many classes can be
    judged on a data set of a few. A model without names is matched by order, or, with enough
    outputs, by raw category ids as DETR's published weights number them.

    Args:
      model_classes: as the weights name them, or None.
      num_classes: outputs of the model, without "no object".
      data_classes: of the data set, in any numbering.
      annotated: ids of the categories that have objects; others need not be known to the model.

    Raises:
      UserError: the model cannot name a class of the data set.
    """
    if model_classes is None:
        return _by_number(num_classes, data_classes)
    if len(model_classes) != num_classes:
        raise UserError(
            f"the weights predict {num_classes} classes but name {len(model_classes)}: their "
            "config.json is damaged"
        )
    if _names(model_classes) == _names(data_classes):  # by order, so equal names stay apart
        ids = iter([category for _, category in _named(data_classes)])
        return tuple(None if own is None else next(ids) for own in model_classes.category_ids)
    wanted = _ids_by_name(data_classes)
    known = {_key(name) for name in _names(model_classes)}
    missing = [
        name
        for name, category in _named(data_classes)
        if _key(name) not in known and (annotated is None or category in annotated)
    ]
    if missing:
        raise UserError(
            f"the weights do not know {len(missing)} of the data set's {len(wanted)} classes: "
            f"{_some(missing)}. They know {_some(list(_names(model_classes)))}: evaluate weights "
            "that were trained on these classes, or rename the categories to match"
        )
    return tuple(
        None if category is None else wanted.get(_key(name))
        for name, category in zip(model_classes.names, model_classes.category_ids, strict=True)
    )


def _by_number(num_classes: int, data_classes: Classes) -> CategoryIds:
    ids = sorted(category for _, category in _named(data_classes))
    if num_classes == len(ids):
        return tuple(ids)
    if num_classes == len(data_classes):
        return data_classes.category_ids
    if num_classes == ids[-1] + 1:
        return tuple(label if label in ids else None for label in range(num_classes))
    raise UserError(
        f"the weights predict {num_classes} classes without naming them, and the data set has "
        f"{len(ids)} (ids {ids[0]} to {ids[-1]}): evaluate weights that were trained on it"
    )


def _named(classes: Classes) -> list[tuple[str, int]]:
    pairs = zip(classes.names, classes.category_ids, strict=True)
    return [(name, category) for name, category in pairs if category is not None]


def _names(classes: Classes) -> list[str]:
    return [name for name, _ in _named(classes)]


def _ids_by_name(classes: Classes) -> dict[str, int]:
    ids: dict[str, int] = {}
    names: dict[str, str] = {}
    for name, category in _named(classes):
        key = _key(name)
        if key in ids:
            raise UserError(
                f"the data set's classes {names[key]!r} (id {ids[key]}) and {name!r} (id "
                f"{category}) have one name, letter case aside, and the weights number their "
                "classes otherwise: rename one of them"
            )
        ids[key], names[key] = category, name
    return ids


def _key(name: str) -> str:
    return name.strip().casefold()


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + more
