"""What a trained network does with a question: its γ and β, its maps, and where it errs."""
