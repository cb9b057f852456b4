"""A world of sounds, after CLEAR (Abdelnour et al., 2018): scenes, synthesis, recordings."""
