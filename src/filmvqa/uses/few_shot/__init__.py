"""A new word from ten pictures: FiLM's γ and β as what few-shot learning adapts."""
