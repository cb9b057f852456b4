"""CLEVR scenes, images, questions and programs. This package does not import torch."""
