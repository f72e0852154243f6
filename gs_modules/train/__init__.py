"""The installed command ``gs-modules``: a categorical VAE on real data, in three frameworks."""
