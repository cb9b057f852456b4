"""Files to tensors: vocabulary, preprocessing, features, batches. Knows nothing of models."""
