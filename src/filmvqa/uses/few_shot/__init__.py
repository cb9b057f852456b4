"""A new word from ten pictures: few-shot learning that adapts FiLM's γ and β."""
