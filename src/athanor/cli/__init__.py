"""The command line. Nothing heavy is imported before a command runs: ``athanor --help`` does not load torch."""
