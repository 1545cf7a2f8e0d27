"""What `athanor.testing.check_model` is made of: systems, checks, and the report."""
