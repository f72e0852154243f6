"""`gs-modules compare`: gradient estimators against the true gradient."""
