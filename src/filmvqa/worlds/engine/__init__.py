"""What worlds share: questions from templates, and the engine that answers them."""
