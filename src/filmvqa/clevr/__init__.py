"""The CLEVR world: scenes, images and questions, without torch."""
