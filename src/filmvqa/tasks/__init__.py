"""The tasks, one file each: targets, loss, scores, report, records, and answers in words."""

from filmvqa.tasks import label_maps, masks, words

__all__ = ["label_maps", "masks", "words"]  # each registers its task when it is imported
