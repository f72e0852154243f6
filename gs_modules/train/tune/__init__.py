"""The command `gs-modules tune`: Optuna over the keys of a config, by several processes."""
