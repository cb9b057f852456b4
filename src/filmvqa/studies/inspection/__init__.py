"""What a trained network does with a question: its γ and β, its feature maps, and its errors."""
