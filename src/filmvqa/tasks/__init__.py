"""What an answer is, a file each: targets, loss, scores, report, record and words for people."""

from filmvqa.tasks import label_maps, masks, words

__all__ = ["label_maps", "masks", "words"]  # importing them registers them
