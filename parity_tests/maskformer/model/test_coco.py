"""COCO's categories."""

from maskformer.coco import CLASS_ID_OF, PANOPTIC_CATEGORIES, THING_IDS


def test_categories_are_80_things_then_53_stuff() -> None:
    assert [c.is_thing for c in PANOPTIC_CATEGORIES] == [True] * 80 + [False] * 53
    assert tuple(range(80)) == THING_IDS


def test_categories_have_unique_ascending_dataset_ids_names_and_colours() -> None:
    ids = [c.dataset_id for c in PANOPTIC_CATEGORIES]
    assert ids == sorted(set(ids))
    assert ids[0] == 1
    assert ids[79:81] == [90, 92]
    assert ids[-1] == 200
    assert len({c.name for c in PANOPTIC_CATEGORIES}) == 133
    assert len({c.colour for c in PANOPTIC_CATEGORIES}) == 133
    assert all(0 <= level <= 255 for c in PANOPTIC_CATEGORIES for level in c.colour)


def test_class_ids_invert_the_order_of_the_categories() -> None:
    assert [CLASS_ID_OF[c.dataset_id] for c in PANOPTIC_CATEGORIES] == list(range(133))
